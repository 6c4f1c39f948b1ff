"""A derived, disposable table of what the ladder reads of every record, so that status need not parse thousands.

Keyed by file name, size and times. One JSON file; lists that many records share (closures, bound files) stand once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pv.contract.vocabulary import Cell, DeviceClass, Level, Verdict
from pv.document.cachedir import identity_of, keep, recall

FILE = "evidence-index.json"
Stat = tuple[str, list[int]]  # relative path, version of the file


class Summary(NamedTuple):
    """One record in brief. `figures`: name -> (value, repeat); `thresholds`: name -> the bound in words."""

    path: str
    digest: str
    claim_id: str
    contract_id: str
    claim_digest: str
    closure_digest: str
    bound: Mapping[str, str]
    cell: Cell
    level: Level
    verdict: Verdict
    reason: str
    missing: tuple[str, ...]
    controls_caught: bool
    figures: Mapping[str, tuple[float | int | str, float | int | str | None]]
    thresholds: Mapping[str, str]
    host: str
    driver: str
    setting: str
    seed: int | None
    oracle: str
    oracle_agreed: bool
    exhausted: int | None
    started_at: str
    previous: str
    invalidates: str
    entry_point: str


Reader = Callable[[Path, str], "tuple[Summary, Mapping[str, str]]"]  # file, relative path -> summary, closure


@dataclass(frozen=True, slots=True)
class Index:
    """Summaries of every sound record, oldest first, the closures they name, and the files that are no record."""

    summaries: tuple[Summary, ...] = ()
    closures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    problems: tuple[tuple[str, str], ...] = ()


def current(root: Path, cache: Path | None, stats: Sequence[Stat], read: Reader) -> Index:
    """The index of the files in `stats`; only new and changed ones are read. The cache is refreshed if that was needed.

    `read` raises ValueError or OSError for a file that is no record; that becomes a problem, and is tried again.
    """
    table = _load(cache, root)
    rows: dict[str, list[Any]] = {}
    closures: dict[str, Mapping[str, str]] = {}
    problems: list[tuple[str, str]] = []
    fresh = 0
    for name, version in stats:
        known = table.rows.get(name)
        if known is not None and known[0] == version:
            rows[name] = known
            closures[known[1][5]] = table.closures[known[1][5]]
            continue
        fresh += 1
        try:
            summary, closure = read(root / name, name)
        except (ValueError, OSError) as error:
            problems.append((name, str(error)))
            continue
        rows[name] = [version, _row(summary)]
        closures[summary.closure_digest] = closure
    if cache is not None and (fresh > len(problems) or len(rows) != len(table.rows)):
        _save(cache, root, rows, closures)
    summaries = sorted((_summary(row[1]) for row in rows.values()), key=in_time)
    return Index(tuple(summaries), closures, tuple(problems))


class _Table(NamedTuple):
    rows: Mapping[str, list[Any]]
    closures: Mapping[str, Mapping[str, str]]


def in_time(summary: Summary) -> tuple[str, str]:
    """Sort key: when a record was made, then its digest. Without the Z, a moment sorts before one with a fraction."""
    return summary.started_at.removesuffix("Z"), summary.digest


def _load(cache: Path | None, root: Path) -> _Table:
    """The table on disk, or an empty one: a missing, foreign or damaged cache is no error."""
    data = None if cache is None else recall(cache / FILE, _identity(root))
    return _Table({}, {}) if data is None else _Table(*data)


def _save(cache: Path, root: Path, rows: Mapping[str, Any], closures: Mapping[str, Any]) -> None:
    keep(cache / FILE, _identity(root), [rows, closures])


def _identity(root: Path) -> str:
    return identity_of(Path(__file__).parent.parent, ("contract", "evidence"), str(root.resolve()))


def _row(summary: Summary) -> list[Any]:
    row: list[Any] = list(summary)
    row[7] = list(summary.cell)
    return row


def _summary(row: Sequence[Any]) -> Summary:
    summary = Summary(*row)
    return summary._replace(
        cell=Cell(DeviceClass(summary.cell[0]), summary.cell[1]),
        level=Level(summary.level),
        verdict=Verdict(summary.verdict),
        missing=tuple(summary.missing),
        figures={name: (value, repeat) for name, (value, repeat) in summary.figures.items()},
    )
