"""A record -> the same check in the same cell with the same seed, run again, and every figure beside its old self.

Nothing is written. A figure that differs is not a verdict: the claim may still survive. It says that the run is not the
same run, and the record's environment beside today's says what may be why.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from pv.contract.claims import Claim, Contract
from pv.contract.load import load_all
from pv.contract.project import Project
from pv.contract.vocabulary import Verdict
from pv.evidence.digests import claim_digest
from pv.evidence.ledger import Ledger, open_contracts
from pv.evidence.record import ControlRecord, Environment, FileDigest, MeasurementRecord, Number, Record
from pv.evidence.statement import plain
from pv.falsify.attempt import Attempt
from pv.falsify.discovery import find_checks
from pv.falsify.judge import as_number
from pv.falsify.planning import Task
from pv.falsify.request import Asked
from pv.falsify.trial import TrialError, Trials

RELATIVE = 1e-9  # how close two figures must be where the threshold says nothing of repeats


class ReplayError(Exception):
    """The record cannot be replayed at all: its claim or its check is gone, or it never ran."""


class Agreement(StrEnum):
    """How two figures agree, the worst last."""

    BITS = "bit-identical"
    TOLERANCE = "within tolerance"
    DIFFERS = "differs"
    MISSING = "not measured in both"


class Figure(NamedTuple):
    """One measurement then and now; `control` is "" in the healthy run. `allowed` says how close would have done."""

    control: str
    name: str
    then: Number | None
    now: Number | None
    agreement: Agreement
    allowed: str

    def __str__(self) -> str:
        return f"{self.name} under {self.control!r}" if self.control else self.name


@dataclass(frozen=True, slots=True)
class Replay:
    """`stale`: why the record does not speak of today's code ("" when it does). `environment`: field -> (then, now).

    `inputs` are bound files whose digests differ.
    """

    record: Record
    attempt: Attempt
    figures: tuple[Figure, ...]
    stale: str
    environment: Mapping[str, tuple[str, str]]
    inputs: tuple[str, ...]

    @property
    def ran(self) -> bool:
        """Whether there is a run to compare: not BLOCKED here, and its preconditions hold."""
        return self.attempt.answer is not None and self.attempt.verdict is not Verdict.BLOCKED

    @property
    def agreement(self) -> Agreement:
        """The worst over the figures; DIFFERS where the verdict moved."""
        order = list(Agreement)
        worst = max((figure.agreement for figure in self.figures), key=order.index, default=Agreement.BITS)
        moved = self.attempt.verdict is not self.record.verdict
        return max(worst, Agreement.DIFFERS, key=order.index) if moved else worst


def replay(project: Project, record: Record) -> Replay:
    """Run the record's check again in its cell, with its seed. Raises ReplayError, naming what is gone."""
    contract = _contract(project, record)
    claim = _claim(contract, record)
    trials = _trials(project, record, claim)
    task = _task(trials, contract, claim, record)
    ledger = Ledger.open(project, find_checks(project))
    views = ledger.views(contract, claim)
    stale = next((view.stale for view in views if view.digest == record.digest), "")
    attempt = trials.attempt(task)
    ledger.sources.save()
    return Replay(
        record,
        attempt,
        tuple(compare(record, attempt)) if attempt.answer else (),
        stale,
        _differences(record.environment, attempt.answer.environment) if attempt.answer else {},
        _changed_inputs(record.bound, attempt.answer.bound) if attempt.answer else (),
    )


def compare(record: Record, attempt: Attempt) -> Iterator[Figure]:
    """Every figure of the record and of the attempt: those of the healthy run, then those under each planted defect."""
    now = {m.name: as_number(m.value) for m in attempt.answer.measurements} if attempt.answer else {}
    yield from _figures("", record.measurements, now)
    then, today = _by_name(record.controls), _by_name(attempt.controls)
    for name in dict.fromkeys([*then, *today]):
        yield from _figures(name, then.get(name, ()), {m.name: m.value for m in today.get(name, ())})
    if record.exhausted is not None:
        exhausted = attempt.answer.exhausted if attempt.answer else None
        cases = exhausted.cases if exhausted else None
        same = Agreement.BITS if cases == record.exhausted.cases else Agreement.DIFFERS
        yield Figure("", "cases of the bound", record.exhausted.cases, cases, same, "equal")


def agree(then: Number, now: Number, repeat: Number | None) -> tuple[Agreement, str]:
    """How two figures agree, and how close would have done: within `repeat`, or relatively within 1e-9."""
    a, b = float(plain(then)), float(plain(now))
    allowed = f"repeat {repeat}" if repeat is not None else f"relative {RELATIVE:g}"
    if struct.pack("<d", a + 0.0) == struct.pack("<d", b + 0.0):  # canonical JSON has no negative zero
        return Agreement.BITS, allowed
    near = abs(a - b) <= float(plain(repeat)) if repeat is not None else math.isclose(a, b, rel_tol=RELATIVE)
    return (Agreement.TOLERANCE if near else Agreement.DIFFERS), allowed


# --- what to run ------------------------------------------------------------------------------------------------------


def _contract(project: Project, record: Record) -> Contract:
    """The record's contract: by a name that it has or had, else the one that makes the very same claim."""
    if record.invalidates:
        raise ReplayError(f"it retracts {record.invalidates[:19]} and holds no run")
    known = [one for one in open_contracts(load_all((), project)) if one.claim_known_as(record.claim_id)]
    named = [one for one in known if record.contract_id in one.stems]
    same = [one for one in known if claim_digest(one, _claim(one, record)) == record.claim_digest]
    if not named and not same:
        raise ReplayError(f"no contract of this project claims {record.claim_id} any more")
    return (named or same)[0]


def _claim(contract: Contract, record: Record) -> Claim:
    """The record's claim, under whatever id it has today."""
    claim = contract.claim_known_as(record.claim_id)
    assert claim is not None, "a contract was chosen for having it"
    return claim


def _trials(project: Project, record: Record, claim: Claim) -> Trials:
    asked = Asked(
        ids=(claim.id,),
        devices=frozenset({record.cell.device}),
        subjects=frozenset({record.cell.subject}),
    )
    try:
        return Trials.of(project, asked, record.seed or 0)
    except TrialError as wrong:
        raise ReplayError(str(wrong)) from None


def _task(trials: Trials, contract: Contract, claim: Claim, record: Record) -> Task:
    for task in trials.tasks:
        if task.contract.id == contract.id and task.claim.id == claim.id and task.cell == record.cell:
            return task
    if any(row.contract.id == contract.id for row in trials.prepared.plan.unchecked):
        raise ReplayError(f"no check of {record.claim_id} is registered any more; it was {record.entry_point}")
    raise ReplayError(
        f"{record.claim_id} is not tried on {record.cell} any more, nor can anything stand in for it here"
    )


# --- what to compare --------------------------------------------------------------------------------------------------


def _figures(control: str, then: Sequence[MeasurementRecord], now: Mapping[str, Number]) -> Iterator[Figure]:
    recorded = {measured.name: measured for measured in then}
    for name in dict.fromkeys([*recorded, *now]):
        old, new = recorded.get(name), now.get(name)
        if old is None or new is None:
            yield Figure(control, name, old.value if old else None, new, Agreement.MISSING, "")
            continue
        agreement, allowed = agree(old.value, new, old.threshold.repeat if old.threshold else None)
        yield Figure(control, name, old.value, new, agreement, allowed)


def _by_name(controls: Sequence[ControlRecord]) -> dict[str, tuple[MeasurementRecord, ...]]:
    return {control.name: control.measurements for control in controls}


def _differences(then: Environment, now: Environment) -> dict[str, tuple[str, str]]:
    before, today = _flat(then), _flat(now)
    return {
        name: (before.get(name, ""), today.get(name, ""))
        for name in dict.fromkeys([*before, *today])
        if before.get(name, "") != today.get(name, "")
    }


def _flat(environment: Environment) -> dict[str, str]:
    fields: dict[str, Any] = asdict(environment)
    flags = fields.pop("flags")
    return {**{name: str(value) for name, value in fields.items()}, **{f"flag {k}": str(v) for k, v in flags.items()}}


def _changed_inputs(then: Sequence[FileDigest], now: Sequence[FileDigest]) -> tuple[str, ...]:
    today = {file.path: file.sha256 for file in now}
    return tuple(file.path for file in then if today.get(file.path, file.sha256) != file.sha256)
