"""A report -> text for people: a sentence, an excerpt with a caret, where, what to do, and how to learn why."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Final, NamedTuple, TextIO

from pv.diagnostics.model import Diagnostic, Severity, Span
from pv.diagnostics.render import Look
from pv.diagnostics.report import Report
from pv.diagnostics.words import one_line, put, safe

CONTEXT: Final = 2  # lines shown above the one with the caret
TAB: Final = "    "  # a tab in an excerpt; the column in the first line still counts characters

_Paint = Callable[[str, str], str]  # (text, code of a colour) -> what is written

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_BOLD, _FAINT, _RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_PAINT: Final[dict[Severity, str]] = {
    Severity.ERROR: "\x1b[1;31m",
    Severity.WARNING: "\x1b[1;33m",
    Severity.INFO: "\x1b[1;34m",
    Severity.OFF: "",
}


def render(report: Report, stream: TextIO, look: Look, environ: Mapping[str, str]) -> None:
    """Each diagnostic as a paragraph, then the summary."""
    excerpts = _Excerpts(report.sources, look)
    paint = _painter(look)
    paragraphs = ("\n".join(_paragraph(diagnostic, excerpts, paint)) + "\n\n" for diagnostic in report.diagnostics)
    put(stream, "".join(paragraphs))
    if report.summary.text:
        put(stream, safe(report.summary.text) + "\n")


def _paragraph(diagnostic: Diagnostic, excerpts: _Excerpts, paint: _Paint) -> list[str]:
    place = one_line(diagnostic.path)
    if diagnostic.span is not None:
        place += f":{diagnostic.span.line}:{diagnostic.span.column}"
    colour = _PAINT[diagnostic.severity]
    head = f"{paint(place, _BOLD)}  {paint(f'{diagnostic.code} {diagnostic.severity}', colour)}"
    lines = [f"{head}  {one_line(diagnostic.message)}"]
    label = _label(diagnostic)
    excerpt = excerpts.of(diagnostic.path, diagnostic.span, label, colour) if diagnostic.span is not None else []
    lines += excerpt
    if label and not excerpt:
        lines.append(f"   = {label}")
    if diagnostic.where:
        lines.append(f"   = in   {one_line(diagnostic.where)}")
    why = f"= why  pv explain {diagnostic.code}"
    fix = one_line(diagnostic.help)
    if fix and diagnostic.edits:
        fix += " (`pv validate --fix`)"
    lines.append(f"   = fix  {fix}      {why}" if fix else f"   {why}")
    return lines


def _label(diagnostic: Diagnostic) -> str:
    halves = [("expected", diagnostic.expected), ("found", diagnostic.found)]
    return ", ".join(f"{word} {one_line(half)}" for word, half in halves if half)


class _Excerpts:
    """Lines of the sources around a span. A text is cut into lines once."""

    def __init__(self, sources: Mapping[str, str], look: Look) -> None:
        self._sources = sources
        self._look = look
        self._paint = _painter(look)
        self._path = ""
        self._lines: list[str] = []

    def of(self, path: str, span: Span, label: str, colour: str) -> list[str]:
        """The context, the line, the caret; empty where the text is not at hand."""
        lines = self._lines_of(path)
        if not 1 <= span.line <= len(lines):
            return []
        paint = self._paint
        gutter = len(str(span.line)) + 3
        room = max(self._look.width - gutter - 3, 20)
        above = range(max(1, span.line - CONTEXT), span.line)
        shown = [(number, _clip(lines[number - 1], 0, 0, room).text) for number in above]
        shown = shown if any(text.strip() for _, text in shown) else []
        line = lines[span.line - 1]
        last = span.end_column if span.end_line == span.line else len(line) + 1
        view = _clip(line, span.column - 1, max(last - 1, span.column), room)
        shown.append((span.line, view.text))
        excerpt = [paint(f"{number:>{gutter}} |", _FAINT) + f" {text}".rstrip() for number, text in shown]
        caret = " " * view.before + paint("^" * view.under, colour)
        tail = f" {label}" if label else ""
        return [*excerpt, paint(f"{'':>{gutter}} |", _FAINT) + f" {caret}{tail}"]

    def _lines_of(self, path: str) -> list[str]:
        if path not in self._sources:
            return []
        if path != self._path:
            text = self._sources[path]
            self._path, self._lines = path, _LINE_BREAK.split(text) if "\r" in text else text.split("\n")
        return self._lines


class _Row:
    """A source line as it is shown, and the cells of a terminal that a part of it takes."""

    def __init__(self, line: str) -> None:
        self.size = len(line)
        self._shown: Sequence[str] = line
        self._sums: list[int] | None = None  # cells before each character; a plain line needs no table
        if not (line.isascii() and line.isprintable()):
            pieces = [_piece(character) for character in line]
            self._shown = [shown for shown, _ in pieces]
            self._sums = list(accumulate((cells for _, cells in pieces), initial=0))

    def cells(self, first: int, last: int) -> int:
        """How wide the characters from `first` up to `last` are."""
        return last - first if self._sums is None else self._sums[last] - self._sums[first]

    def text(self, first: int, last: int) -> str:
        """How they are shown."""
        return "".join(self._shown[first:last])

    def reach(self, first: int, room: int) -> int:
        """The last end for which the characters from `first` fit into `room` cells."""
        if self._sums is None:
            return min(first + room, self.size)
        return bisect_right(self._sums, self._sums[first] + room) - 1


class _View(NamedTuple):
    text: str
    before: int  # cells to the left of the caret
    under: int  # cells that the caret underlines


def _clip(line: str, start: int, end: int, room: int) -> _View:
    """The part of a line around characters `start` to `end` that fits into `room` cells."""
    size = len(line)
    # Most lines have room enough, and a cell for each character.
    if size < room and ((line.isascii() and line.isprintable()) or all(map(_is_narrow, set(line)))):
        start = min(start, size)
        return _View(line, start, max(min(end, size) - start, 1))
    return _clipped(_Row(line), start, end, room)


def _clipped(row: _Row, start: int, end: int, room: int) -> _View:
    """Likewise, of a line that may be long, or take another number of cells than it has characters."""
    start = min(start, row.size)
    end = min(max(end, start), row.size)
    first, last = 0, row.size
    if row.cells(0, row.size) >= room:  # a caret may stand behind the last character
        inner = room - 2  # an ellipsis at each end
        if row.cells(0, end) > inner:  # else the line is shown from its beginning
            first = start
            while first > 0 and row.cells(first - 1, start) <= room // 3:
                first -= 1
        last = row.reach(first, inner)
    head, tail = ("…" if first else ""), ("…" if last < row.size else "")
    before = len(head) + row.cells(first, start)
    return _View(head + row.text(first, last) + tail, before, max(row.cells(start, min(end, last)), 1))


@lru_cache(maxsize=4096)  # a text has few different characters
def _piece(character: str) -> tuple[str, int]:
    """A character as it is shown, and its cells."""
    if character == "\t":
        return TAB, len(TAB)
    shown = safe(character)
    if shown != character:
        return shown, len(shown)
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return character, 0
    return character, 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


@lru_cache(maxsize=4096)
def _is_narrow(character: str) -> bool:
    """Whether a character is shown as itself, in one cell."""
    return _piece(character) == (character, 1)


def _painted(text: str, code: str) -> str:
    return f"{code}{text}{_RESET}" if code else text


def _bare(text: str, code: str) -> str:
    return text


def _painter(look: Look) -> _Paint:
    return _painted if look.colour else _bare
