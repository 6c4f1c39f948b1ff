"""PV501 to PV509: versions against what changed since another version of the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pv.contract.claims import Contract, text_of
from pv.contract.vocabulary import Bump
from pv.diagnostics.model import TextEdit
from pv.rules.finding import WARNING, Finding
from pv.rules.view import View

if TYPE_CHECKING:
    from pv.contract.meaning import Change

# The meaning of a change is imported where it is used: most calls compare with no other version.

_VERSION = ("metadata", "version")


def too_small_a_bump(view: View, old: Contract) -> Iterator[Finding]:
    """The version says less than the change of meaning demands."""
    from pv.contract.meaning import compare, demanded, least_version, numbers_of

    new = view.loaded.contract
    before = numbers_of(old.metadata.version)
    after = numbers_of(new.metadata.version) if new is not None else None
    if new is None or before is None or after is None:
        return
    changes = compare(old, new)
    bump = demanded(changes, old.metadata.status)
    least = least_version(before, bump)
    if after >= least or after < before:
        return  # going back is the rule below
    weighty = [change for change in changes if change.bump(old.metadata.status) is bump]
    yield Finding(
        _VERSION,
        f"the version moved {_step(before, after)}, the changes since {before} demand a {bump.name.lower()} bump",
        expected=f"{least} or later",
        found=new.metadata.version,
        help=_named(weighty) + f"; write {least}",
        edits=_rewritten(view, str(least)),
        severity=WARNING if bump is Bump.PATCH else None,
    )


def backwards(view: View, old: Contract) -> Iterator[Finding]:
    """A version below the one before it."""
    from pv.contract.meaning import numbers_of

    new = view.loaded.contract
    before = numbers_of(old.metadata.version)
    after = numbers_of(new.metadata.version) if new is not None else None
    if before is not None and after is not None and after < before:
        yield Finding(
            _VERSION,
            f"the version went back from {before} to {after}",
            expected=f"{before} or later",
            found=str(after),
            help="a version that was seen names one text for ever",
        )


def two_versions(view: View) -> Iterator[Finding]:
    """`version` at the top and `metadata.version` disagree."""
    outer = view.document.source_text(("version",)) if "version" in view.data else None
    inner = text_of(view.metadata.get("version"))
    if outer and inner and outer != inner:
        yield Finding(
            ("version",),
            f"two versions: `{outer}` at the top and `{inner}` in metadata",
            expected=f"`{inner}`, or no version here",
            found=f"`{outer}`",
            help="`metadata.version` is the one that counts: remove the other",
        )


def _step(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    return "not at all" if before == after else f"only from {before} to {after}"


def _named(changes: list[Change]) -> str:
    shown = "; ".join(str(change)[:120] for change in changes[:3])
    return shown + (f"; and {len(changes) - 3} more" if len(changes) > 3 else "")


def _rewritten(view: View, version: str) -> tuple[TextEdit, ...]:
    scalar = view.document.scalar(_VERSION)
    if scalar is None or scalar.anchor or scalar.alias or scalar.tag:
        return ()
    quote = {"single": "'", "double": '"', "plain": ""}.get(scalar.style)
    return () if quote is None else (TextEdit(scalar.span.start, scalar.span.end, f"{quote}{version}{quote}"),)
