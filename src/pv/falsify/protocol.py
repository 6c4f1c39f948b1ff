"""What passes between the runner and its workers: one JSON object per line. Both sides read and write it here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pv.contract.vocabulary import Cell, DeviceClass
from pv.evidence.record import Environment, ExhaustedRecord, FileDigest, OracleRecord
from pv.falsify.api import Measurement
from pv.falsify.loader import Stated
from pv.falsify.reading import FoundCheck


class ProtocolError(ValueError):
    """A line that is no message of this protocol."""


class Outcome(StrEnum):
    """How one run ended, before anybody judges it."""

    MEASURED = "measured"
    BLOCKED = "blocked"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Request:
    """One run: which check of which module, in which cell, healthy (`control` "") or with that control planted.

    `stated` are all registrations that source shows in the module, as (function, what it says).
    """

    module: Path
    function: str
    claim: str
    stated: tuple[tuple[str, Stated], ...]
    cell: Cell
    project: Path
    scratch: Path
    log: Path
    control: str = ""
    seed: int = 0
    subjects: Mapping[str, Path] = field(default_factory=dict)
    device: str = ""
    driver: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a run. `reason` of what is not MEASURED; `missing` of BLOCKED."""

    outcome: Outcome
    measurements: tuple[Measurement, ...] = ()
    reason: str = ""
    missing: tuple[str, ...] = ()
    seeded: bool = False
    notes: tuple[str, ...] = ()
    bound: tuple[FileDigest, ...] = ()
    oracle: OracleRecord | None = None
    exhausted: ExhaustedRecord | None = None
    environment: Environment = field(default_factory=Environment)
    seconds: float = 0.0


def stated_in(checks: Sequence[FoundCheck]) -> tuple[tuple[str, Stated], ...]:
    """What source says of the registrations of one module, in the form that the loader compares."""
    return tuple((check.function, _stated(check)) for check in checks)


def _stated(check: FoundCheck) -> Stated:
    return Stated(
        check.id,
        check.level.value,
        check.cost.value if check.cost else None,
        check.bound,
        check.timeout,
        tuple((control.name, control.breaks, control.cells) for control in check.controls),
        check.attacks,
        check.data,
    )


def request_line(request: Request) -> bytes:
    """One line for the worker."""
    return _line({**asdict(request), "cell": [request.cell.device.value, request.cell.subject]})


def read_request(line: bytes) -> Request:
    """The request in a line. Raises ProtocolError."""
    data = _object(line)
    try:
        return Request(
            module=Path(data["module"]),
            function=data["function"],
            claim=data["claim"],
            stated=tuple((function, _read_stated(said)) for function, said in data["stated"]),
            cell=Cell(DeviceClass(data["cell"][0]), data["cell"][1]),
            project=Path(data["project"]),
            scratch=Path(data["scratch"]),
            log=Path(data["log"]),
            control=data["control"],
            seed=data["seed"],
            subjects={name: Path(path) for name, path in data["subjects"].items()},
            device=data["device"],
            driver=data["driver"],
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ProtocolError(f"expected a request, found {line[:200]!r}: {error}") from error


def answer_line(answer: Answer) -> bytes:
    """One line for the runner. NaN and the infinities travel as text, which JSON can carry."""
    data = asdict(answer)
    data["measurements"] = [[m.name, _word(m.value), m.unit, m.n] for m in answer.measurements]
    return _line({"event": "answer", **data})


def progress_line(done: int, total: int, what: str) -> bytes:
    """One line for the runner while a check goes on."""
    return _line({"event": "progress", "done": done, "total": total, "what": what})


def read_event(line: bytes) -> Answer | tuple[int, int, str]:
    """What a worker said: an answer, or progress (done, total, what). Raises ProtocolError."""
    data = _object(line)
    try:
        if data["event"] == "progress":
            return int(data["done"]), int(data["total"]), str(data["what"])
        return _read_answer(data)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"expected an answer, found {line[:200]!r}: {error}") from error


def _read_answer(data: Mapping[str, Any]) -> Answer:
    return Answer(
        outcome=Outcome(data["outcome"]),
        measurements=tuple(Measurement(name, float(value), unit, n) for name, value, unit, n in data["measurements"]),
        reason=data["reason"],
        missing=tuple(data["missing"]),
        seeded=bool(data["seeded"]),
        notes=tuple(data["notes"]),
        bound=tuple(FileDigest(**item) for item in data["bound"]),
        oracle=OracleRecord(**data["oracle"]) if data["oracle"] else None,
        exhausted=ExhaustedRecord(**data["exhausted"]) if data["exhausted"] else None,
        environment=Environment(**data["environment"]),
        seconds=float(data["seconds"]),
    )


def _read_stated(said: Sequence[Any]) -> Stated:
    id_, level, cost, bound, timeout, controls, attacks, data = said
    return Stated(
        id_,
        level,
        cost,
        bound,
        timeout,
        tuple((name, breaks, tuple(cells)) for name, breaks, cells in controls),
        tuple(attacks),
        tuple(data),
    )


def _line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, default=str, allow_nan=False).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"expected JSON, found {line[:200]!r}") from error
    if not isinstance(data, dict):
        raise ProtocolError(f"expected an object, found {line[:200]!r}")
    return data


def _word(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)  # float("nan"), float("-inf") read it back
