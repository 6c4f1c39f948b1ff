"""A contract with conflict markers -> the same without, where the two sides differ only in what pv writes.

Which side is taken matters little (`pv settle` then writes what the records of both say), but it must not depend on
which branch was merged into which: the longer one is, and of changelogs every line. Where people wrote on both sides
the markers stay, for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import Enum
from typing import Any, NamedTuple

from pv.document.limits import Unreadable
from pv.document.reader import Document, parse
from pv.ladder.changelog import PLACES, entries, in_order
from pv.ladder.draft import Loc
from pv.ladder.writeback import OURS, VERSION

SECTIONS = ("falsification_tests", "kani_harnesses")
LISTS = ("file_paths", "function_names", "invariants_enforced")
_BLOCKER = re.compile(r"(blocked|missing) on .*", re.DOTALL)
_BEGIN, _BASE, _MIDDLE, _END = "<<<<<<<", "|||||||", "=======", ">>>>>>>"


class Kind(Enum):
    """What a line of pv's is: one of which none may be lost, or one that is written anew."""

    LOG = "a line of the changelog"
    FORMER = "what it was called before"
    WRITTEN = "what the records say"


@dataclass(frozen=True, slots=True)
class Resolved:
    """`text` without the conflicts that were resolved; `left` are the lines where one begins that was not, as given.

    `claims` are the ids of entries in which something was resolved.
    """

    text: str
    resolved: int
    left: tuple[int, ...] = ()
    claims: frozenset[str] = frozenset()


class _Hunk(NamedTuple):
    """One conflict: its lines as they stand, and those of the two sides."""

    lines: list[str]
    ours: list[str]
    theirs: list[str]


_Part = list[str] | _Hunk


def has_conflicts(text: str) -> bool:
    """Whether a merge left its marks in the text."""
    return any(isinstance(part, _Hunk) for part in _parts(text))


def resolve(text: str, display: str) -> Resolved:
    """Resolve every conflict whose sides differ in nothing but what pv writes. A text without conflicts comes back."""
    parts = list(_parts(text))
    hunks = [part for part in parts if isinstance(part, _Hunk)]
    ours, theirs = (_side(parts, side, display) for side in ("ours", "theirs"))
    lines: list[str] = []
    left: list[int] = []
    beginnings = list(_beginnings(parts))
    place = 0
    for part in parts:
        if not isinstance(part, _Hunk):
            lines += part
            continue
        decided = None if ours is None or theirs is None else _decided(part, ours.of[place], theirs.of[place], ours)
        if decided is None:
            left.append(beginnings[place])
        lines += part.lines if decided is None else decided
        place += 1
    if not left and hunks and not _readable("".join(lines), display):
        return Resolved(text, 0, tuple(beginnings))
    claims = (ours.claims if ours else frozenset()) | (theirs.claims if theirs else frozenset())
    return Resolved("".join(lines), len(hunks) - len(left), tuple(left), claims)


# --- the two sides ---------------------------------------------------------------------------------------------------


class _Side(NamedTuple):
    """The file as one side has it: its changelog, and for each conflict what each of its lines is (None: people's)."""

    log: tuple[str, ...]
    of: list[list[Kind | None]]
    claims: frozenset[str]  # in whose entries a conflict lies


def _parts(text: str) -> Iterator[_Part]:
    """The text as runs of lines and conflicts. Marks that make no whole conflict are lines like others."""
    lines = text.splitlines(keepends=True) if "\n" in text or "\r" in text else [text]
    run: list[str] = []
    number = 0
    while number < len(lines):
        hunk = _hunk(lines, number) if lines[number].startswith(_BEGIN) else None
        if hunk is None:
            run.append(lines[number])
            number += 1
            continue
        yield run
        yield hunk
        run = []
        number += len(hunk.lines)
    yield run


def _hunk(lines: Sequence[str], start: int) -> _Hunk | None:
    sides: dict[str, list[str]] = {_BEGIN: [], _BASE: [], _MIDDLE: []}
    at = _BEGIN
    for number in range(start + 1, len(lines)):
        mark = lines[number][:7]
        follows = lines[number][7:8] in ("", " ", "\r", "\n")
        if follows and mark == _BEGIN:
            return None
        if follows and mark == _END and at == _MIDDLE:
            return _Hunk(list(lines[start : number + 1]), sides[_BEGIN], sides[_MIDDLE])
        if follows and mark in (_BASE, _MIDDLE) and at != _MIDDLE:
            at = mark
        else:
            sides[at].append(lines[number])
    return None


def _side(parts: Sequence[_Part], side: str, display: str) -> _Side | None:
    """None where the file of that side is not YAML."""
    lines: list[str] = []
    places: list[range] = []
    for part in parts:
        own = getattr(part, side) if isinstance(part, _Hunk) else part
        if isinstance(part, _Hunk):
            places.append(range(len(lines) + 1, len(lines) + len(own) + 1))
        lines += own
    document = _readable("".join(lines), display)
    if document is None:
        return None
    kinds = dict(_owned(document))
    log = next((entries(written) for loc in PLACES if (written := document.get(loc))), ())
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()}
    of = [[Kind.WRITTEN if line in blank else kinds.get(line) for line in place] for place in places]
    return _Side(log, of, frozenset(_claims(document, places)))


def _claims(document: Document, places: Sequence[range]) -> Iterator[str]:
    """The ids of the entries that a conflict lies in."""
    for section in SECTIONS:
        entries = document.get((section,))
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            span = document.span((section, index))
            if (
                span
                and isinstance(entry, Mapping)
                and any(span.line < p.stop and p.start <= span.end_line for p in places)
            ):
                yield str(entry.get("id"))


def _readable(text: str, display: str) -> Document | None:
    try:
        document = parse(text.encode(), display)
    except Unreadable:
        return None
    return None if any(problem.severity == "error" for problem in document.problems) else document


def _beginnings(parts: Sequence[_Part]) -> Iterator[int]:
    line = 1
    for part in parts:
        if isinstance(part, _Hunk):
            yield line
        line += len(part.lines if isinstance(part, _Hunk) else part)


# --- one conflict ----------------------------------------------------------------------------------------------------


def _decided(hunk: _Hunk, ours: Sequence[Kind | None], theirs: Sequence[Kind | None], side: _Side) -> list[str] | None:
    """The lines to keep; None where a line that differs is not pv's."""
    first, second = sorted(
        zip((hunk.ours, hunk.theirs), (ours, theirs), strict=True),
        key=lambda one: (Kind.FORMER in one[1], Kind.LOG in one[1], len(one[0]), one[0]),
        reverse=True,
    )
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, first[0], second[0], autojunk=False).get_opcodes():
        if tag != "equal" and None in (*first[1][i1:i2], *second[1][j1:j2]):
            return None
    kept, kinds = first
    if any(kind is Kind.FORMER and line not in kept for line, kind in zip(*second, strict=True)):
        return None
    logs = [line for line, kind in zip(kept, kinds, strict=True) if kind is Kind.LOG]
    more = [line for line, kind in zip(*second, strict=True) if kind is Kind.LOG and line not in logs]
    if not more:
        return list(kept)
    if not logs:
        return None  # where in this side would they stand?
    at = list(kinds).index(Kind.LOG)
    rest = [line for line, kind in zip(kept, kinds, strict=True) if kind is not Kind.LOG]
    return [*rest[:at], *in_order([*logs, *more], side.log), *rest[at:]]


# --- what pv writes --------------------------------------------------------------------------------------------------


def _owned(document: Document) -> Iterator[tuple[int, Kind]]:
    """(line, kind) of every line that pv writes and nobody else. See `pv.ladder.writeback` for the places."""
    yield from _whole(document, VERSION)
    yield from _former(document, ("metadata", "formerly"))
    for loc in PLACES:
        items = document.get(loc)
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            for index in range(len(items)):
                yield from ((line, Kind.LOG) for line in _single_line(document, (*loc, index)))
        elif isinstance(items, str):
            yield from ((line, Kind.LOG) for line in _literal_lines(document, loc))
    for section in SECTIONS:
        entries = document.get((section,))
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, Mapping):
                yield from _of_entry(document, (section, index), entry)


def _of_entry(document: Document, loc: Loc, entry: Mapping[str, Any]) -> Iterator[tuple[int, Kind]]:
    for key in ("status", "last_verified"):
        yield from _whole(document, (*loc, key))
        yield from _whole(document, (*loc, "algorithm_evidence", key))
    yield from _former(document, (*loc, "formerly"))
    yield from _of_list(document, (*loc, "evidence"), re.compile(r"sha256:[0-9a-f]{64}"))
    for key in ("functional_evidence", "discharge_evidence"):
        runs = (*loc, key, "runs") if isinstance(entry.get(key), Mapping) else (*loc, key)
        yield from _of_list(document, runs, OURS)
    block = entry.get("algorithm_evidence")
    if not isinstance(block, Mapping):
        return
    own = [key for key in block if key in (*LISTS, "status", "last_verified") or _is_blocker(key, block[key])]
    for key in own:
        yield from _whole(document, (*loc, "algorithm_evidence", key))
    if len(own) == len(block):
        yield from _whole(document, (*loc, "algorithm_evidence"))


def _is_blocker(key: str, value: Any) -> bool:
    return key == "notes" and isinstance(value, str) and _BLOCKER.fullmatch(value) is not None


def _of_list(document: Document, loc: Loc, ours: re.Pattern[str]) -> Iterator[tuple[int, Kind]]:
    """The key and all items where all are ours, else the lines of those that are."""
    written = document.get(loc)
    items = written if isinstance(written, list) else [] if written is None else [written]
    mine = [isinstance(item, str) and ours.fullmatch(item) is not None for item in items]
    if written is not None and all(mine):
        yield from _whole(document, loc)
    elif isinstance(written, list):
        for index, is_mine in enumerate(mine):
            if is_mine:
                yield from ((line, Kind.WRITTEN) for line in _single_line(document, (*loc, index)))


def _whole(document: Document, loc: Loc) -> Iterator[tuple[int, Kind]]:
    """The lines of a key and its value, where they begin a line of their own."""
    if document.get(loc) is None:
        return
    key, value = document.span(loc, key=True), document.span(loc)
    if key is None or value is None or not _begins_line(document, key.start):
        return
    text, end = document.text, value.end
    while end > key.start and text[end - 1].isspace():
        end -= 1
    for line in range(key.line, key.line + text.count("\n", key.start, end) + 1):
        yield line, Kind.WRITTEN


def _former(document: Document, loc: Loc) -> Iterator[tuple[int, Kind]]:
    yield from ((line, Kind.FORMER) for line, _ in _whole(document, loc))


def _single_line(document: Document, loc: Loc) -> Iterator[int]:
    span = document.span(loc)
    if span is not None and span.line == span.end_line and _begins_line(document, span.start):
        yield span.line


def _literal_lines(document: Document, loc: Loc) -> Iterator[int]:
    """The lines of a literal block that begin an entry; what goes on over several lines is somebody else's."""
    scalar = document.scalar(loc)
    if scalar is None or scalar.style != "literal":
        return
    lines = document.text[scalar.span.start : scalar.span.end].split("\n")
    for offset, line in enumerate(lines[1:], 1):
        if entries(line.strip()):
            yield scalar.span.line + offset


def _begins_line(document: Document, start: int) -> bool:
    before = document.text[document.text.rfind("\n", 0, start) + 1 : start]
    return not before.strip(" -")
