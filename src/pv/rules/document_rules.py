"""PV118, PV119: scalars that readers of YAML understand differently, and values cut off by a comment."""

from __future__ import annotations

from collections.abc import Iterator

from pv.diagnostics.model import TextEdit
from pv.document.ambiguity import KINDS, judge
from pv.rules.finding import Finding, Loc
from pv.rules.view import View

# Text that often looks like a number. Elsewhere 0.90 and 0.9 are one number; here 1.10 is not 1.1.
_TEXT_FIELDS = (("metadata", "version"), ("metadata", "id"), ("metadata", "contract_id"), ("version",))


def read_apart(view: View) -> Iterator[Finding]:
    """Scalars whose value depends on the version of YAML that a reader follows, and versions that lose a digit."""
    for each in view.ambiguities:
        if each.kind != "cut":
            edits = (TextEdit(each.span.start, each.span.end, each.fix),) if each.fix else ()
            yield _apart(each.loc, each.text, each.kind, each.fix, edits, key=each.is_key)
    for loc in _TEXT_FIELDS:
        if isinstance(view.document.get(loc), float):
            scalar = view.document.scalar(loc)
            verdict = judge(scalar.text) if scalar is not None else None
            if scalar is not None and verdict is not None and verdict[0] == "number as text":
                edits = (TextEdit(scalar.span.start, scalar.span.end, verdict[1]),)
                yield _apart(loc, scalar.text, verdict[0], verdict[1], edits)


def _apart(loc: Loc, text: str, kind: str, fix: str, edits: tuple[TextEdit, ...], *, key: bool = False) -> Finding:
    return Finding(
        loc,
        f"`{text}` is {KINDS[kind]}",
        expected=f"`{fix}`" if fix else "a spelling that all readers agree on",
        found=f"`{text}`",
        help=f"write it as `{fix}`" if fix else "quote it, or write the number another way",
        key=key,
        edits=edits,
    )


def cut_off(view: View) -> Iterator[Finding]:
    """Plain scalars that end at ` #` though the author went on."""
    for each in view.ambiguities:
        if each.kind == "cut":
            value = each.text[: each.span.end - each.span.start]
            yield Finding(
                each.loc,
                f"the value ends before ` #`: `{each.text[len(value) :].strip()[:60]}` is read as a comment",
                expected="the whole text in quotes",
                found=f"`{value[:60]}`",
                help="quote the whole value, or put the comment on a line of its own",
            )
