"""A project, its contracts and its ledger -> everything that a report tells, as values. Runs and imports no check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

from pv.contract.claims import Claim, Contract
from pv.contract.load import Loaded
from pv.contract.project import Project
from pv.contract.vocabulary import Status, Verdict
from pv.evidence import statement
from pv.evidence.index import Summary
from pv.evidence.ledger import Ledger, retractions, view
from pv.evidence.record import MeasurementRecord, Record
from pv.evidence.standing import ClaimStanding, ContractStanding, ProjectStanding, standing
from pv.ladder.entitlement import CellState, entitle
from pv.report.matrix import Matrix, matrix, matrix_of
from pv.report.notes import guilty
from pv.report.trend import Series, series_of

RED = frozenset({Verdict.FALSIFIED, Verdict.VACUOUS, Verdict.ERROR})
MOST_EVENTS = 50  # of one claim's history; the newest ones


class Check(Protocol):
    """What a report tells of a check that was found in source (`pv.falsify.discovery.FoundCheck`)."""

    @property
    def place(self) -> str: ...
    @property
    def attacks(self) -> tuple[str, ...]: ...


class Checks(Protocol):
    """Every check of a project (`pv.falsify.discovery.Checks`)."""

    def of(self, contract_id: str, claim_id: str) -> Check | None:
        """The check of a claim, or None."""


class Event(NamedTuple):
    """One record of a claim, and the status that the records up to it supported, for the claim as it stands today."""

    summary: Summary
    status: Status
    retracted: str  # the reason, where it no longer counts; ""

    @property
    def short(self) -> str:
        """Twelve digits of the record's digest."""
        return short(self.summary.digest)


@dataclass(frozen=True, slots=True)
class CellStory:
    """One cell and the record to look at: the one that decides it, else the latest; None where it never ran."""

    state: CellState
    record: Record | None

    @property
    def broken(self) -> tuple[MeasurementRecord, ...]:
        """The measurements that failed their thresholds."""
        return tuple(m for m in self.record.measurements if not m.passed) if self.record else ()

    @property
    def trouble(self) -> str:
        """What is wrong in words: the run's own reason, else the cell's."""
        return (self.record.reason if self.record else "") or self.state.reason

    @property
    def red(self) -> bool:
        """Whether something is wrong here: the claim broke, the check proves nothing, or it crashed."""
        return self.state.verdict in RED

    @property
    def guilty(self) -> tuple[str, ...]:
        """The stages of the forward that the record's notes accuse; nobody is accused where nothing is wrong."""
        return guilty(self.record.notes) if self.record and self.red else ()


@dataclass(frozen=True)
class ClaimStory:
    """One claim: where it stands, its cells, its history, its measurements over time."""

    contract_id: str
    standing: ClaimStanding
    check: Check | None
    cells: tuple[CellStory, ...]
    events: tuple[Event, ...]
    older: int  # events that are not told
    series: tuple[Series, ...]

    @property
    def claim(self) -> Claim:
        """The claim itself."""
        return self.standing.claim

    @property
    def status(self) -> Status:
        """What the records support."""
        return self.standing.status

    @cached_property
    def red(self) -> tuple[CellStory, ...]:
        """The cells where something is wrong."""
        return tuple(cell for cell in self.cells if cell.red)

    @property
    def first_look(self) -> tuple[CellStory, ...]:
        """The cells to show unfolded: the red ones, else the first with a record, else the first."""
        told = [cell for cell in self.cells if cell.record]
        return self.red or tuple((told or self.cells)[:1])

    @property
    def blockers(self) -> dict[str, list[str]]:
        """What is absent -> the cells that wait for it."""
        found: dict[str, list[str]] = {name: [] for name in self.claim.blocked_on}
        for cell in self.cells:
            if cell.state.verdict is Verdict.BLOCKED:
                reason = cell.state.reason.removeprefix(f"{Verdict.BLOCKED.value}: ")
                found.setdefault(reason, []).append(str(cell.state.cell))
        return found

    @property
    def drifts(self) -> tuple[Series, ...]:
        """Measurements whose newest point moved suddenly while still passing."""
        return tuple(one for one in self.series if one.points[-1].drift)


@dataclass(frozen=True, slots=True)
class ContractStory:
    """One contract, its claims in file order, and where its path is from the project root."""

    standing: ContractStanding
    claims: tuple[ClaimStory, ...]
    path: str

    @property
    def contract(self) -> Contract:
        """The contract itself."""
        return self.standing.contract

    @property
    def matrix(self) -> Matrix:
        """Its claims over the cells."""
        return matrix_of([self.standing], claims=True)


@dataclass(frozen=True)
class Story:
    """All of it. `damaged` are files in the evidence folder that are no sound record: (name, what is wrong)."""

    version: str
    standing: ProjectStanding
    contracts: tuple[ContractStory, ...]
    damaged: tuple[tuple[str, str], ...]

    @cached_property
    def claims(self) -> tuple[ClaimStory, ...]:
        """Every claim."""
        return tuple(claim for one in self.contracts for claim in one.claims)

    @cached_property
    def broken(self) -> list[ClaimStory]:
        """Claims with a red cell that nobody has owned up to."""
        return [one for one in self.claims if one.red and not one.claim.known_failing]

    @cached_property
    def known_failing(self) -> list[ClaimStory]:
        """Honest reds."""
        return [one for one in self.claims if one.claim.known_failing]

    @cached_property
    def drifting(self) -> list[ClaimStory]:
        """Claims of which a measurement moved suddenly while still passing."""
        return [one for one in self.claims if one.drifts]

    @cached_property
    def stale(self) -> list[ClaimStory]:
        """Claims whose evidence is about an earlier state of something."""
        return [one for one in self.claims if one.standing.entitlement.stale]

    @cached_property
    def blocked(self) -> list[ClaimStory]:
        """Claims with a cell that could not be run, or that say themselves what they wait for."""
        return [one for one in self.claims if one.blockers]

    @cached_property
    def unchecked(self) -> list[ClaimStory]:
        """Claims that no code attacks."""
        return [one for one in self.claims if one.check is None and not one.claim.blocked_on]

    @cached_property
    def misstated(self) -> list[ClaimStory]:
        """Claims whose written status is not the earned one."""
        return [one for one in self.claims if one.standing.written]

    @cached_property
    def matrix(self) -> Matrix:
        """Contracts over cells."""
        return matrix(self.standing)


def gather(project: Project, loaded: Sequence[Loaded], ledger: Ledger, checks: Checks, version: str) -> Story:
    """The story of a project. Of each claim the records that decide are read whole, and all where there are several."""
    found = standing(project, loaded, ledger)
    paths = {one.contract.id: _from_root(project, one) for one in loaded if one.contract}
    contracts = tuple(
        ContractStory(
            one,
            tuple(_claim(ledger, checks, one.contract, claim) for claim in one.claims),
            paths.get(one.contract.id, one.contract.path.name),
        )
        for one in found.contracts
    )
    damaged = tuple(
        (problem.path.relative_to(ledger.store.root).as_posix(), problem.message) for problem in ledger.problems
    )
    return Story(version, found, contracts, damaged)


def short(digest: str) -> str:
    """Twelve digits of a digest."""
    return digest.removeprefix(statement.PREFIX)[:12]


def relative_margin(measured: MeasurementRecord) -> float | None:
    """The margin as a share of the bound (of half the range for `within`); None where there is none to take.

    A share of the value where the bound is 0.
    """
    if measured.margin is None or measured.threshold is None:
        return None
    margin, bound = float(statement.plain(measured.margin)), measured.threshold.value
    if isinstance(bound, tuple):
        low, high = (float(statement.plain(end)) for end in bound)
        whole = (high - low) / 2
    else:
        whole = abs(float(statement.plain(bound))) or abs(float(statement.plain(measured.value)))
    return margin / whole if whole else 0.0


def _from_root(project: Project, one: Loaded) -> str:
    """The same for every clone, wherever the user stands."""
    path = one.path.absolute()
    return path.relative_to(project.root).as_posix() if path.is_relative_to(project.root) else one.display


def _claim(ledger: Ledger, checks: Checks, contract: Contract, one: ClaimStanding) -> ClaimStory:
    summaries = ledger.records_of(contract, one.claim)
    undone = ledger.retractions
    counting = [s for s in summaries if not s.invalidates and s.digest not in undone]
    read = Reader(ledger)
    several = len({s.cell for s in counting}) < len(counting)
    return ClaimStory(
        contract_id=contract.id,
        standing=one,
        check=checks.of(contract.id, one.claim.id),
        cells=tuple(CellStory(state, read(_shown(state, counting))) for state in one.entitlement.cells),
        events=tuple(history(one.claim, summaries, one.status))[-MOST_EVENTS:],
        older=max(0, len(summaries) - MOST_EVENTS),
        series=series_of(record for s in counting if (record := read(s))) if several else (),
    )


def history(claim: Claim, summaries: Sequence[Summary], today: Status) -> Iterator[Event]:
    """What the records supported after each of them, oldest first; only the newest `MOST_EVENTS` are worked out.

    Each moment is judged as it was then: of what was on record, nothing had gone stale. `today` is what they support
    now, which of one record alone is what it always did: to be stale takes no rung away.
    """
    if len(summaries) == 1:
        yield Event(summaries[0], today, "")
        return
    undone = retractions(summaries)
    for count in range(max(1, len(summaries) - MOST_EVENTS + 1), len(summaries) + 1):
        past = summaries[:count]
        then = retractions(past)
        views = [
            replace(view(s, {}, None), retracted="retracted" if s.digest in then else "")
            for s in past
            if not s.invalidates
        ]
        last = past[-1]
        reason = undone[last.digest].reason or "no reason given" if last.digest in undone else ""
        yield Event(last, entitle(claim, views).status, reason)


def _shown(state: CellState, counting: Sequence[Summary]) -> Summary | None:
    """The record that decides a cell; where none does, the latest that says anything."""
    here = [s for s in counting if s.cell == state.cell]
    return next((s for s in here if s.digest == state.head), here[-1] if here else None)


class Reader:
    """Reads each record once. One that vanished or was changed since the index was made counts as absent."""

    def __init__(self, ledger: Ledger) -> None:
        self._root = ledger.store.root
        self._read: dict[str, Record | None] = {}

    def __call__(self, summary: Summary | None) -> Record | None:
        if summary is None:
            return None
        if summary.digest not in self._read:
            try:
                content = (self._root / summary.path).read_bytes()
            except OSError:
                content = b""
            self._read[summary.digest] = statement.from_known_bytes(content, summary.digest)
        return self._read[summary.digest]


def by_target(contract: Contract, claims: Sequence[ClaimStory]) -> Mapping[str, list[ClaimStory]]:
    """Equation or obligation id -> the claims that bind to it, in file order."""
    found: dict[str, list[ClaimStory]] = {name: [] for name in sorted(contract.targets)}
    for one in claims:
        for name in dict.fromkeys(one.claim.binds_to):
            if name in found:
                found[name].append(one)
    return found
