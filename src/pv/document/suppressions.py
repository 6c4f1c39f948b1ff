"""Comments `# pv: ignore[PV203] reason` -> suppressions, each with the line that it governs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from pv.diagnostics.model import Span

MARKER = "pv: ignore"

_COMMENT = re.compile(r"#[ \t]*pv: ignore(?P<rest>[^\r\n]*)")
_REST = re.compile(r"\[(?P<codes>[^\]]*)\][ \t]*(?P<reason>.*?)[ \t]*\Z")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_CODE = re.compile(r"PV[0-9]{3}\Z")


class Suppression(NamedTuple):
    """One comment. `line` is the line it silences: its own where it follows a value, else the next one with a value."""

    codes: tuple[str, ...]
    reason: str
    line: int
    span: Span


class Malformed(NamedTuple):
    """A comment that means to suppress and does not, and why not."""

    why: str
    span: Span


def find_suppressions(
    text: str, span: Callable[[int, int], Span], in_scalar: Callable[[int], bool]
) -> tuple[tuple[Suppression, ...], tuple[Malformed, ...]]:
    """The suppressions of `text`, and the comments that fail to be one. Text inside a scalar is no comment."""
    found: list[Suppression] = []
    failed: list[Malformed] = []
    lines = _LINE_BREAK.split(text)
    following = _following_values(lines)
    for match in _COMMENT.finditer(text):
        if in_scalar(match.start()):
            continue
        place = span(match.start(), match.end())
        rest = _REST.match(match["rest"])
        codes = tuple(code.strip() for code in rest["codes"].split(",")) if rest else ()
        wrong = next((code for code in codes if not _CODE.match(code)), None)
        if rest is None:
            failed.append(Malformed("it names no code: write `# pv: ignore[PV203] reason`", place))
        elif wrong is not None:
            failed.append(Malformed(f"{wrong!r} is no code like PV203", place))
        elif not rest["reason"]:
            failed.append(Malformed("it gives no reason after the bracket", place))
        else:
            behind_a_value = lines[place.line - 1][: place.column - 1].strip()
            governed = place.line if behind_a_value else following[place.line]
            found.append(Suppression(codes, rest["reason"], governed or place.line, place))
    return tuple(found), tuple(failed)


def _following_values(lines: list[str]) -> list[int]:
    """After so many lines, the number of the first that holds more than a comment; 0 where there is none."""
    following = [0] * (len(lines) + 1)
    for number in range(len(lines), 0, -1):
        words = lines[number - 1].strip()
        following[number - 1] = number if words and not words.startswith("#") else following[number]
    return following
