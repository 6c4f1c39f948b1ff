"""What a run found -> one value that every renderer reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pv.diagnostics.model import Diagnostic, Severity


class CodeHelp(NamedTuple):
    """What a code means in general; a diagnostic says what it means here."""

    title: str
    why: str = ""
    fix: str = ""


class Summary(NamedTuple):
    """The last words of a run: `text` states the denominator, `counts` is the same for programs."""

    text: str = ""
    counts: Mapping[str, object] = {}


NOTHING_TO_SAY = Summary()


@dataclass(frozen=True, slots=True)
class Report:
    """Diagnostics in the order in which they are shown, the texts they point into, the files that were looked at."""

    diagnostics: tuple[Diagnostic, ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    summary: Summary = NOTHING_TO_SAY
    files: tuple[str, ...] = ()
    codes: Mapping[str, CodeHelp] = field(default_factory=dict)
    version: str = ""

    def count(self, severity: Severity) -> int:
        """How many diagnostics weigh this much."""
        return sum(each.severity == severity for each in self.diagnostics)

    def by_file(self) -> dict[str, list[Diagnostic]]:
        """Diagnostics by path; every file that was looked at has an entry."""
        found: dict[str, list[Diagnostic]] = {name: [] for name in self.files}
        for each in self.diagnostics:
            found.setdefault(each.path, []).append(each)
        return found


def details(each: Diagnostic) -> list[str]:
    """What a diagnostic says beside its message, a line each, for formats without a layout of their own."""
    named = (("expected", each.expected), ("found", each.found), ("in", each.where), ("fix:", each.help))
    return [f"{name} {words}" for name, words in named if words]


def in_reading_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sorted by file, place and code; findings about a whole file come first. Equal ones are shown once."""

    def place(each: Diagnostic) -> tuple[str, int, int, str, str]:
        start, end = (each.span.start, each.span.end) if each.span else (-1, -1)
        return each.path, start, end, each.code, each.message

    return tuple(sorted(dict.fromkeys(diagnostics), key=place))


def ordinals(diagnostics: Iterable[Diagnostic]) -> list[int]:
    """For each diagnostic, how many before it have the same code, file and `where`."""
    seen: Counter[tuple[str, str, str]] = Counter()
    numbers = []
    for each in diagnostics:
        key = (each.code, each.path, each.where)
        numbers.append(seen[key])
        seen[key] += 1
    return numbers
