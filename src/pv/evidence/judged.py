"""A record file -> what its bytes alone tell: do they contradict themselves, and what must the rest of the tree fit.

The bytes of a record never change, so what was found in them may be remembered: for a file of the same name, size and
times, whose bytes have the same sha256, by this very pv. Whatever differs in one of these is judged again. The
bytes are read every time; what is spared is taking them apart.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from pv.contract.vocabulary import Cell, DeviceClass
from pv.document.cachedir import identity_of, keep, recall, version_of
from pv.evidence import statement
from pv.evidence.record import LogRecord
from pv.evidence.rejudge import contradictions
from pv.evidence.staleness import in_words
from pv.evidence.store import relative_name

FILE = "judged.json"


class Judged(NamedTuple):
    """One record. `name` is the file that its bytes belong in, `bounds` are (measurement, the bound that judged it)."""

    name: str
    digest: str
    claim_id: str
    claim_digest: str
    previous: str
    invalidates: str
    reason: str
    cell: Cell
    bounds: tuple[tuple[str, str], ...]
    log: LogRecord | None
    contradictions: tuple[str, ...]


def judged(content: bytes) -> Judged:
    """What the bytes of one record tell. Raises StatementError for bytes that are none."""
    record = statement.from_bytes(content)
    return Judged(
        relative_name(record),
        record.digest,
        record.claim_id,
        record.claim_digest,
        record.previous,
        record.invalidates,
        record.reason,
        record.cell,
        tuple((one.name, in_words(one.threshold)) for one in record.measurements if one.threshold),
        record.log,
        () if record.invalidates else tuple(contradictions(record)),
    )


class Judgements:
    """Those of one evidence folder. With a `cache` they are remembered; nothing is written until `save`."""

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self._file = cache / FILE if cache is not None else None
        self._identity = identity_of(Path(__file__).parent.parent, ("contract", "evidence"), str(root.resolve()))
        found = recall(self._file, self._identity) if self._file is not None else None
        self._old: dict[str, list[Any]] = found or {}
        self._new: dict[str, list[Any]] = {}

    def of(self, path: Path) -> Judged:
        """What a file tells, as it stands now. Raises StatementError for one that is no record, and OSError."""
        with open(path, "rb") as file:
            facts, content = os.fstat(file.fileno()), file.read()
        version = [*version_of(facts), statement.digest(content)]
        key = f"{path.parent.name}/{path.name}"
        known = self._old.get(key)
        if known is not None and known[0] == version:
            self._new[key] = known
            return _read(known[1])
        found = judged(content)
        self._new[key] = [version, _written(found)]
        return found

    def save(self) -> None:
        """Remember what was found in this call, if that is not what was known."""
        if self._file is not None and self._new != self._old:
            keep(self._file, self._identity, self._new)


def _written(found: Judged) -> list[Any]:
    *plain, log, sentences = found
    return [*plain, (log.sha256, log.size, log.stored) if log else None, sentences]


def _read(row: list[Any]) -> Judged:
    *texts, cell, bounds, log, sentences = row
    return Judged._make(
        (
            *texts,
            Cell(DeviceClass(cell[0]), cell[1]),
            tuple((name, bound) for name, bound in bounds),
            LogRecord(*log) if log else None,
            tuple(sentences),
        )
    )
