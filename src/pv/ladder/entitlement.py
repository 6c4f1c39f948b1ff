"""Views of records -> the highest rung they support, cell by cell, with the reasons and with what is missing.

The rules are a function of the set of records: their order on disk, the clock and the number of runs do not matter.

* Records of one cell fall into generations: same claim, same source closure, same bound files. The latest generation
  of this very code decides; where it holds nothing decisive, the latest of all does, and the cell is stale.
* Within a generation nothing has changed between runs, so FALSIFIED stands beside any number of survivals: running
  again until it passes earns nothing. It yields to a change (another generation), to a later survival on the same host
  under another driver, device or library, and to `pv retract`. VACUOUS likewise.
* BLOCKED, ERROR and INCONCLUSIVE decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from pv.contract.claims import Claim
from pv.contract.vocabulary import Cell, Level, Status, Verdict

DECISIVE = frozenset({Verdict.SURVIVED, Verdict.FALSIFIED, Verdict.VACUOUS})
CLIMB = (Status.PARTIAL_ALGORITHM_LEVEL, Status.FUNCTIONAL, Status.DISCHARGED)


class Figure(NamedTuple):
    """A measured value and how near a second one must come to agree (None: equal)."""

    value: float
    repeat: float | None = None


@dataclass(frozen=True, slots=True)
class RecordView:
    """What the ladder reads of one record.

    `generation` is equal for two records of the same claim, closure and bound files; `stale` says why the generation is
    not the current one ("" when it is). `controls_caught`: there is a control and every one was caught. `setting` is
    what may change on a host between runs: device, driver, libraries. `exhausted` is the bound that was run whole.
    """

    digest: str
    started_at: str
    cell: Cell
    level: Level
    verdict: Verdict
    generation: str = ""
    stale: str = ""
    controls_caught: bool = True
    figures: Mapping[str, Figure] = field(default_factory=dict)
    host: str = ""
    driver: str = ""
    setting: str = ""
    seed: int | None = None
    oracle: str = ""
    oracle_agreed: bool = False
    exhausted: int | None = None
    reason: str = ""
    missing: tuple[str, ...] = ()
    retracted: str = ""  # the reason of the retraction; "" while the record counts

    @property
    def effective(self) -> Verdict:
        """The verdict, where a survival whose controls were not all caught is what it is: VACUOUS."""
        vacuous = self.verdict is Verdict.SURVIVED and not self.controls_caught
        return Verdict.VACUOUS if vacuous else self.verdict


@dataclass(frozen=True, slots=True)
class CellState:
    """Where one cell stands. `head` is the record that decides it ("" when none does), `settled_by` what discharged it.

    `missing` says, for each rung that the cell has not reached, what it lacks.
    """

    cell: Cell
    required: bool
    rung: Status
    verdict: Verdict | None = None
    head: str = ""
    verified_at: str = ""
    stale: str = ""
    settled_by: str = ""
    reason: str = ""
    missing: Mapping[Status, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entitlement:
    """What the records of a claim support: its status, its verdict, every cell, and the reasons in words."""

    claim_id: str
    status: Status
    verdict: Verdict | None
    cells: tuple[CellState, ...]
    reasons: tuple[str, ...] = ()
    missing: Mapping[Status, tuple[str, ...]] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[str, ...]:
        """One record per cell that has one, required cells first: what `evidence:` names."""
        return tuple(state.head for state in self.cells if state.head)

    @property
    def verified_at(self) -> str:
        """When the newest of the heads was made; "" without heads."""
        return max((state.verified_at for state in self.cells if state.head), default="")

    @property
    def stale(self) -> str:
        """Why the evidence under the status is stale, cell by cell; "" when it is fresh."""
        told = [(state.cell, state.stale) for state in self.cells if state.head and state.stale]
        reasons = dict.fromkeys(reason for _, reason in told)
        if len(reasons) <= 1:
            return "".join(reasons)
        return "; ".join(f"{cell}: {reason}" for cell, reason in told)


def entitle(claim: Claim, views: Iterable[RecordView], *, unmet: Sequence[str] = ()) -> Entitlement:
    """The entitlement of one claim. `unmet` names its preconditions that do not survive.

    An unmet precondition makes the verdict INCONCLUSIVE (unless something worse stands) and moves no rung.
    """
    counting = sorted((v for v in views if not v.retracted), key=_age)
    required = tuple(dict.fromkeys(claim.required_cells))
    others = tuple(sorted({v.cell for v in counting} - set(required)))
    states = tuple(_cell_state(claim, cell, cell in required, counting) for cell in (*required, *others))
    status = _status(claim, states)
    return Entitlement(
        claim_id=claim.id,
        status=status,
        verdict=_verdict(states, unmet),
        cells=states,
        reasons=_reasons(claim, states, unmet),
        missing=_missing(claim, states, status),
    )


def entitle_all(claims: Sequence[Claim], views: Mapping[str, Sequence[RecordView]]) -> dict[str, Entitlement]:
    """The entitlements of the claims of one contract, by id: a precondition is judged before what names it.

    A precondition that no claim of the contract carries, and a circle of them, is unmet.
    """
    by_id = {claim.id: claim for claim in claims}
    done: dict[str, Entitlement] = {}
    pending: list[tuple[str, bool]] = [(claim.id, False) for claim in reversed(claims)]
    open_: set[str] = set()
    while pending:
        claim_id, ready = pending.pop()
        claim = by_id[claim_id]
        if ready:
            open_.discard(claim_id)
            unmet = [p for p in claim.precondition if p not in done or done[p].verdict is not Verdict.SURVIVED]
            done[claim_id] = entitle(claim, views.get(claim_id, ()), unmet=unmet)
        elif claim_id not in done and claim_id not in open_:
            open_.add(claim_id)
            pending.append((claim_id, True))
            pending += [(p, False) for p in claim.precondition if p in by_id and p not in open_ and p not in done]
    return {claim.id: done[claim.id] for claim in claims}


def _age(view: RecordView) -> tuple[str, str]:
    """Sorts by time, then digest. Without the Z, a moment sorts before the same moment with a fraction."""
    return view.started_at.removesuffix("Z"), view.digest


# --- one cell --------------------------------------------------------------------------------------------------------


def _cell_state(claim: Claim, cell: Cell, required: bool, counting: Sequence[RecordView]) -> CellState:
    views = [v for v in counting if v.cell == cell]
    generation = _generation([v for v in views if v.effective in DECISIVE])
    if not generation:
        return _undecided(cell, required, views[-1] if views else None)
    standing = [v for v in generation if not _superseded(v, generation)]
    for verdict in (Verdict.FALSIFIED, Verdict.VACUOUS):
        broken = [v for v in standing if v.effective is verdict]
        if broken:
            return _broken(cell, required, verdict, broken[-1])
    return _surviving(claim, cell, required, standing)


def _generation(decisive: Sequence[RecordView]) -> list[RecordView]:
    """The decisive records that count: of one generation, a fresh one where there is one, the latest of those."""
    candidates = [v for v in decisive if not v.stale] or decisive
    return [v for v in candidates if v.generation == candidates[-1].generation]


def _superseded(view: RecordView, generation: Sequence[RecordView]) -> bool:
    """A break yields to a later survival on its own host under another device, driver or library."""
    return view.effective is not Verdict.SURVIVED and any(
        later.effective is Verdict.SURVIVED
        and later.host == view.host
        and (later.driver, later.setting) != (view.driver, view.setting)
        and _age(later) > _age(view)
        for later in generation
    )


def _undecided(cell: Cell, required: bool, last: RecordView | None) -> CellState:
    if last is None:
        never = f"a run on {cell} (none yet)"
        return CellState(cell, required, Status.UNBOUND, missing=dict.fromkeys(CLIMB, never))
    blocked = last.effective is Verdict.BLOCKED
    why = ", ".join(last.missing) or last.reason or "no reason given"
    lacks = f"on {cell}: {'missing ' if blocked and last.missing else ''}{why} (last run {last.effective.value})"
    return CellState(
        cell,
        required,
        Status.BLOCKER_FIXTURE_ABSENT if blocked else Status.UNBOUND,
        verdict=last.effective,
        head=last.digest if blocked else "",
        verified_at=last.started_at,
        reason=f"{last.effective.value}: {why}",
        missing=dict.fromkeys(CLIMB, lacks),
    )


def _broken(cell: Cell, required: bool, verdict: Verdict, head: RecordView) -> CellState:
    falsified = verdict is Verdict.FALSIFIED
    what = "the claim broke" if falsified else "a negative control was not caught, so the check proves nothing"
    lacks = f"on {cell}: {what} ({_short(head.digest)}); mend it and run again, or `pv retract` the record"
    return CellState(
        cell,
        required,
        Status.FALSIFIED if falsified else Status.UNBOUND,
        verdict=verdict,
        head=head.digest,
        verified_at=head.started_at,
        stale=head.stale,
        reason=f"{verdict.value}: {what}",
        missing=dict.fromkeys(CLIMB, lacks),
    )


def _surviving(claim: Claim, cell: Cell, required: bool, standing: Sequence[RecordView]) -> CellState:
    survivors = [v for v in standing if v.effective is Verdict.SURVIVED]
    live = [v for v in survivors if v.level is Level.LIVE]
    settled = _settled_by(claim, live)
    head = (live or survivors)[-1]
    missing: dict[Status, str] = {}
    if not live:
        missing[Status.FUNCTIONAL] = f"a live run on {cell} (so far at algorithm level)"
    if not settled:
        missing[Status.DISCHARGED] = _lacks_discharge(claim, cell, live)
    rung = Status.DISCHARGED if settled else Status.FUNCTIONAL if live else Status.PARTIAL_ALGORITHM_LEVEL
    return CellState(
        cell,
        required,
        rung,
        verdict=Verdict.SURVIVED,
        head=head.digest,
        verified_at=head.started_at,
        stale=head.stale,
        settled_by=settled,
        missing=missing,
    )


def _settled_by(claim: Claim, live: Sequence[RecordView]) -> str:
    """What discharges the cell, in words; "" when nothing does. A named oracle that disagrees refuses every way."""
    if claim.oracle and any(v.oracle == claim.oracle and not v.oracle_agreed for v in live):
        return ""
    for view in live:
        if claim.oracle and view.oracle == claim.oracle:
            return f"oracle {claim.oracle} agreed"
        if view.exhausted is not None and view.exhausted >= (claim.bound or 0):
            return f"bound {view.exhausted} exhausted"
    for one, other in combinations(live, 2):
        difference = _independent(one, other)
        if difference and _agree(one, other):
            return f"repeated on another {difference}"
    return ""


def _independent(one: RecordView, other: RecordView) -> str:
    """What makes the second record more than the first one again; "" when nothing does."""
    if one.host != other.host:
        return "host"
    if one.driver != other.driver:
        return "driver"
    if one.seed is not None and other.seed is not None and one.seed != other.seed:
        return "seed"
    return ""


def _agree(one: RecordView, other: RecordView) -> bool:
    """The same measurements, each within its `repeat` bound; where none is stated, equal."""
    return (
        bool(one.figures)
        and one.figures.keys() == other.figures.keys()
        and all(_near(figure, other.figures[name]) for name, figure in one.figures.items())
    )


def _near(one: Figure, other: Figure) -> bool:
    bounds = [f.repeat for f in (one, other) if f.repeat is not None]
    distance = abs(one.value - other.value)
    return math.isfinite(distance) and distance <= (min(bounds) if bounds else 0.0)


def _lacks_discharge(claim: Claim, cell: Cell, live: Sequence[RecordView]) -> str:
    if claim.oracle and any(v.oracle == claim.oracle and not v.oracle_agreed for v in live):
        return f"on {cell}: the oracle {claim.oracle} disagreed"
    oracle = f"the oracle {claim.oracle} agreeing in the same record, or " if claim.oracle else ""
    seedless = bool(live) and all(v.seed is None for v in live)
    elsewhere = "another host or driver" if seedless else "another host, driver or seed"
    again = "; the check asks for no seed, so a second run on this machine does not count" if seedless else ""
    bound = ", or its bound exhausted" if claim.bound is not None else ""
    return f"on {cell}: {oracle}a second live record from {elsewhere} that agrees{bound}{again}"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


# --- the claim -------------------------------------------------------------------------------------------------------


def _status(claim: Claim, states: Sequence[CellState]) -> Status:
    required = [state for state in states if state.required]
    if any(state.verdict is Verdict.FALSIFIED for state in required):
        return Status.FALSIFIED
    if any(state.verdict is Verdict.VACUOUS for state in required):
        return Status.UNBOUND
    lowest = min((state.rung for state in required), key=lambda rung: rung.rung, default=Status.UNBOUND)
    if lowest.rung >= Status.FUNCTIONAL.rung:
        return lowest
    if any(state.verdict is Verdict.SURVIVED for state in states):
        return Status.PARTIAL_ALGORITHM_LEVEL
    if claim.blocked_on or any(state.verdict is Verdict.BLOCKED for state in states):
        return Status.BLOCKER_FIXTURE_ABSENT
    return Status.UNBOUND


def _verdict(states: Sequence[CellState], unmet: Sequence[str]) -> Verdict | None:
    """The worst over cells. A required cell that never ran makes no verdict better or worse."""
    verdicts = [state.verdict for state in states if state.verdict is not None]
    if unmet:
        verdicts.append(Verdict.INCONCLUSIVE)
    return max(verdicts, key=lambda verdict: verdict.badness, default=None)


def _reasons(claim: Claim, states: Sequence[CellState], unmet: Sequence[str]) -> tuple[str, ...]:
    told = [f"{state.cell}: {state.reason}" for state in states if state.reason]
    told += [f"{state.cell}: {state.settled_by}" for state in states if state.settled_by]
    told += [f"{state.cell}: stale: {state.stale}" for state in states if state.stale]
    if claim.blocked_on:
        told.append(f"blocked on {', '.join(claim.blocked_on)}")
    told += [f"INCONCLUSIVE: precondition {name} does not survive" for name in unmet]
    return tuple(told)


def _missing(claim: Claim, states: Sequence[CellState], status: Status) -> dict[Status, tuple[str, ...]]:
    """For each rung above the status: what every required cell lacks. PARTIAL needs any one cell."""
    blockers = [f"blocked on {', '.join(claim.blocked_on)}"] if claim.blocked_on else []
    lacking: dict[Status, tuple[str, ...]] = {}
    for rung in CLIMB:
        if rung.rung > status.rung:
            lacks = [state for state in states if state.required and rung in state.missing]
            broken = [state for state in lacks if state.verdict in (Verdict.FALSIFIED, Verdict.VACUOUS)]
            if rung is Status.PARTIAL_ALGORITHM_LEVEL and len(lacks) > 1 and not broken:
                said = [f"any one of: {' | '.join(state.missing[rung] for state in lacks)}"]
            elif rung is Status.PARTIAL_ALGORITHM_LEVEL and broken:
                said = [state.missing[rung] for state in broken]
            else:
                said = [state.missing[rung] for state in lacks]
            lacking[rung] = (*blockers, *said)
    return lacking
