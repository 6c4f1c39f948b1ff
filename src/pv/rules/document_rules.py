"""PV118, PV119: scalars that readers of YAML understand differently, and values cut off by a comment."""

from __future__ import annotations

from collections.abc import Iterator

from pv.diagnostics.model import TextEdit
from pv.document.ambiguity import KINDS, Ambiguity
from pv.rules.finding import Finding
from pv.rules.view import View

# Where a number stands for text and its spelling matters; elsewhere 0.90 and 0.9 are one number.
_TEXT_FIELDS = frozenset({"version", "id", "contract_id"})


def read_apart(view: View) -> Iterator[Finding]:
    """Scalars whose value depends on the version of YAML that a reader follows."""
    for each in view.ambiguities:
        if each.kind == "cut" or (each.kind == "number as text" and each.loc[-1:] and each.loc[-1] not in _TEXT_FIELDS):
            continue
        yield Finding(
            each.loc,
            f"`{each.text}` is {KINDS[each.kind]}",
            expected=f"`{each.fix}`" if each.fix else "a spelling that all readers agree on",
            found=f"`{each.text}`",
            help=f"write it as `{each.fix}`" if each.fix else "quote it, or write the number another way",
            key=each.is_key,
            edits=_respelt(each),
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


def _respelt(each: Ambiguity) -> tuple[TextEdit, ...]:
    return (TextEdit(each.span.start, each.span.end, each.fix),) if each.fix else ()
