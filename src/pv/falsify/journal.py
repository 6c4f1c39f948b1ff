"""What each run came to, line by line in the cache folder -> the last verdicts, and a run that can be taken up again.

Disposable, and no evidence: it only knows what `--failed` and `--resume` ask. A killed run leaves a journal without an
end, which is how it is recognised.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pv.contract.vocabulary import Cell, DeviceClass, Verdict
from pv.document.cachedir import make_cache_folder
from pv.falsify.attempt import Attempt
from pv.falsify.planning import Key, Task

FOLDER = "runs"
KEPT = 20  # journals; older ones are removed when a run begins


class JournalError(ValueError):
    """No run of that name, or none that was left unfinished."""


class Entry(NamedTuple):
    """One attempt of an earlier run. `closure` and `claim` are the digests of what it was made from."""

    key: Key
    cell: Cell
    verdict: Verdict
    claim: str
    closure: str


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run as its journal tells it; `wanted` are the cells it was to run."""

    run_id: str
    wanted: tuple[tuple[Key, Cell], ...]
    entries: tuple[Entry, ...]
    ended: bool


class Journal:
    """The journal of a run that goes on, on disk line by line. A run that `resumes` another one takes it over."""

    def __init__(self, cache: Path, run_id: str, tasks: Sequence[Task], resumes: str = "") -> None:
        folder = cache / FOLDER
        make_cache_folder(cache)
        folder.mkdir(exist_ok=True)
        for old in _journals(cache)[: 1 - KEPT]:
            old.unlink(missing_ok=True)
        number = 1 + max((int(path.name.partition("-")[0]) for path in _journals(cache)), default=0)
        self.path = folder / f"{number:08d}-{run_id}.jsonl"
        self._write({"run": run_id, "wanted": [[task.key, _written(task.cell)] for task in tasks]})
        for old in folder.glob(f"*-{resumes}.jsonl") if resumes else ():
            _append(old, {"ended": True, "resumed_by": run_id})

    def add(self, attempt: Attempt, *, claim: str, closure: str) -> None:
        """One attempt is finished."""
        task = attempt.task
        self._write(
            {
                "key": task.key,
                "cell": _written(task.cell),
                "verdict": attempt.verdict.value,
                "claim": claim,
                "closure": closure,
            }
        )

    def end(self) -> None:
        """The run came to its end."""
        self._write({"ended": True})

    def _write(self, line: dict[str, Any]) -> None:
        _append(self.path, line)


def last_verdicts(cache: Path) -> dict[Key, Verdict]:
    """The worst verdict over cells of each claim's last run here."""
    last: dict[Key, Verdict] = {}
    for past in _past_runs(cache):
        seen: dict[Key, Verdict] = {}
        for entry in past.entries:
            seen[entry.key] = max(seen.get(entry.key, entry.verdict), entry.verdict, key=lambda v: v.badness)
        last.update(seen)
    return last


def unfinished(cache: Path, run_id: str = "") -> PastRun:
    """The run of this id (or a unique beginning of it), or the last one that never ended. Raises JournalError."""
    runs = list(_past_runs(cache))
    if run_id:
        named = [past for past in runs if past.run_id.startswith(run_id)]
        if len(named) != 1:
            known = ", ".join(past.run_id[:8] for past in runs[-5:]) or "none"
            found = "no run" if not named else f"{len(named)} runs"
            raise JournalError(f"expected the id of one run, found {found} with {run_id!r}; the latest: {known}")
        return named[0]
    open_ = [past for past in runs if not past.ended]
    if not open_:
        raise JournalError("no run was left unfinished; `pv falsify --all` starts a new one")
    return open_[-1]


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(line) + "\n")
        journal.flush()
        os.fsync(journal.fileno())


def _written(cell: Cell) -> list[str]:
    return [cell.device.value, cell.subject]


def _past_runs(cache: Path) -> Iterator[PastRun]:
    """Every readable journal, oldest first."""
    for path in _journals(cache):
        lines = list(_lines(path))
        if lines and "run" in lines[0]:
            yield _past_run(lines)


def _past_run(lines: Sequence[dict[str, Any]]) -> PastRun:
    return PastRun(
        run_id=str(lines[0]["run"]),
        wanted=tuple(
            ((stem, claim), Cell(DeviceClass(device), subject))
            for (stem, claim), (device, subject) in lines[0].get("wanted", ())
        ),
        entries=tuple(_entries(lines[1:])),
        ended=any(line.get("ended") for line in lines),
    )


def _entries(lines: Iterable[dict[str, Any]]) -> Iterator[Entry]:
    for line in lines:
        try:
            (stem, claim), (device, subject) = line["key"], line["cell"]
            cell = Cell(DeviceClass(device), subject)
            yield Entry((stem, claim), cell, Verdict(line["verdict"]), line["claim"], line["closure"])
        except (KeyError, TypeError, ValueError):  # the end line, or one of another version
            continue


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a journal; a line that a kill cut off is none."""
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            data = json.loads(line)
        except ValueError:
            continue
        if isinstance(data, dict):
            yield data


def _journals(cache: Path) -> list[Path]:
    folder = cache / FOLDER
    return sorted(path for path in folder.glob("*-*.jsonl") if path.name.partition("-")[0].isdigit())
