"""A text and edits of it -> the edited text, and the difference as a patch."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from pv.diagnostics.model import TextEdit


class EditError(ValueError):
    """The edits do not fit the text or each other; nothing was applied."""


def apply(text: str, edits: Sequence[TextEdit]) -> str:
    """`text` with all `edits` made at once: each one's offsets count in `text` itself.

    Insertions at the same place come out in the order in which they are given. Raises EditError where an edit lies
    outside the text or two of them overlap.
    """
    ordered = sorted(edits, key=lambda edit: (edit.start, edit.end))  # stable, so equal insertions keep their order
    previous_end = 0
    for edit in ordered:
        if not 0 <= edit.start <= edit.end <= len(text):
            raise EditError(f"expected an edit within 0 to {len(text)}, got {edit.start} to {edit.end}")
        if edit.start < previous_end:
            raise EditError(f"two edits overlap before offset {previous_end}: one of them starts at {edit.start}")
        previous_end = edit.end
    for edit in reversed(ordered):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def unified_diff(path: str, old: str, new: str) -> str:
    """The change as a patch that `patch -p1` and `git apply` take; empty where nothing changed.

    Lines end at LF alone, so the CR of a CRLF stands in the patch as it does in the file.
    """
    lines = difflib.unified_diff(list(_lines(old)), list(_lines(new)), f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> Iterator[str]:
    """Lines with their LF. (`splitlines` would also cut at CR, NEL and others.)"""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end
