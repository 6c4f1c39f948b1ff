"""A project's records, claims and checks -> what each claim is entitled to, and which new records are worth keeping.

A snapshot: open a new one after records were written. Imports no check and runs none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

from pv.contract.claims import Claim, Contract
from pv.contract.load import Loaded
from pv.contract.project import Project, module_name
from pv.contract.vocabulary import Cell, Verdict
from pv.evidence import statement
from pv.evidence.closure import CheckSource, Closure, Sources, by_path
from pv.evidence.digests import claim_digest
from pv.evidence.index import Summary, in_time
from pv.evidence.record import Record
from pv.evidence.staleness import CurrentDigests, in_words, stale_reason
from pv.evidence.statement import plain
from pv.evidence.store import Problem, Store, summarise
from pv.ladder.entitlement import DECISIVE, Entitlement, Figure, RecordView, entitle, entitle_all

Key = tuple[str, str]  # (contract stem, claim id)


class FoundCheck(Protocol):
    """What the ledger needs of a check that was found in source (`pv.falsify.discovery.FoundCheck`)."""

    @property
    def path(self) -> Path: ...
    @property
    def attacks(self) -> tuple[str, ...]: ...
    @property
    def data(self) -> tuple[str, ...]: ...


class FoundChecks(Protocol):
    """Every check of a project (`pv.falsify.discovery.Checks`)."""

    def of(self, contract_id: str, claim_id: str) -> FoundCheck | None:
        """The check of a claim, or None."""


class _Retracting(Protocol):
    """What may retract a record, and be retracted."""

    @property
    def digest(self) -> str: ...
    @property
    def invalidates(self) -> str: ...


Retracting = TypeVar("Retracting", bound=_Retracting)


@dataclass(frozen=True)
class Ledger:
    """`checks` is None where nobody looked for checks: then closures are not compared."""

    project: Project
    store: Store
    checks: FoundChecks | None
    sources: Sources = field(repr=False)
    summaries: tuple[Summary, ...] = field(repr=False)
    closures: Mapping[str, Mapping[str, str]] = field(repr=False)
    problems: tuple[Problem, ...] = ()
    also: Mapping[str, Record] = field(default_factory=dict, repr=False)
    _entitled: dict[int, tuple[Contract, dict[str, Entitlement]]] = field(default_factory=dict, repr=False)
    _digests: dict[int, tuple[Claim, str]] = field(default_factory=dict, repr=False)

    @staticmethod
    def open(project: Project, checks: FoundChecks | None, also: Iterable[Record] = ()) -> Ledger:
        """The ledger of a project as its evidence folder stands now, as if it also held the records `also`.

        Raises StatementError for one of those that could not be written.
        """
        own = project.evidence.is_relative_to(project.root)
        store = Store(project.evidence, project.cache if own else None)  # the index is of one folder only
        index = store.index()
        problems = tuple(Problem(store.root / name, message) for name, message in index.problems)
        named = [replace(record, digest=statement.digest(statement.to_bytes(record))) for record in also]
        known = {summary.digest for summary in index.summaries}
        new = [summarise(record, "") for record in named if record.digest not in known]
        summaries = sorted([*index.summaries, *new], key=in_time) if new else index.summaries
        closures = {**index.closures, **{record.closure_digest: by_path(record.closure) for record in named}}
        sources = Sources(project.root, project.cache)
        extra = {record.digest: record for record in named}
        return Ledger(project, store, checks, sources, tuple(summaries), closures, problems, extra)

    def record(self, digest: str) -> Record:
        """The record with this digest, which must be one of `by_digest`."""
        return self.also[digest] if digest in self.also else self.store.read(self.by_digest[digest])

    @cached_property
    def by_digest(self) -> Mapping[str, Summary]:
        """Every record on disk by its digest."""
        return {summary.digest: summary for summary in self.summaries}

    @cached_property
    def retractions(self) -> Mapping[str, Summary]:
        """Digest of a record that no longer counts -> the record that retracts it."""
        return retractions(self.summaries)

    @cached_property
    def _by_claim(self) -> Mapping[str, list[Summary]]:
        grouped: defaultdict[str, list[Summary]] = defaultdict(list)
        for summary in self.summaries:
            grouped[summary.claim_id].append(summary)
        return grouped

    def entitlements(self, contract: Contract) -> dict[str, Entitlement]:
        """What the records entitle each claim of a contract to, by id; worked out once for each contract object."""
        if id(contract) not in self._entitled:  # which is kept, so that its id stays its own
            views = {claim.id: self.views(contract, claim) for claim in contract.claims}
            self._entitled[id(contract)] = contract, entitle_all(contract.claims, views)
        return self._entitled[id(contract)][1]

    def records_of(self, contract: Contract, claim: Claim) -> list[Summary]:
        """The records of a claim, oldest first, retracted ones and retractions too.

        A record belongs to a claim that has its id, or had it (`formerly`), if it was made for this contract under any
        name that it had, or if it claims the very same thing (so a renamed file keeps its evidence).
        """
        named = self._named(claim)
        if all(s.contract_id == contract.id for s in named):
            return named
        own = self.claim_digest(contract, claim)
        return [s for s in named if s.contract_id in contract.stems or s.claim_digest == own]

    def _named(self, claim: Claim) -> list[Summary]:
        """Every record that was made under an id which the claim has or had, oldest first."""
        if not claim.formerly:
            return list(self._by_claim.get(claim.id, ()))
        return sorted((s for name in claim.ids for s in self._by_claim.get(name, ())), key=in_time)

    def views(self, contract: Contract, claim: Claim) -> list[RecordView]:
        """The records of a claim as the ladder reads them."""
        records = [s for s in self.records_of(contract, claim) if not s.invalidates]
        if not records:
            return []
        now = self.current(contract, claim)
        return [self._view(summary, now) for summary in records]

    def current(self, contract: Contract, claim: Claim) -> CurrentDigests:
        """What a record of this claim must have been made from to speak of the present state."""
        closure = self.closure(contract, claim)
        bound = {path for s in self._named(claim) for path in s.bound}
        return CurrentDigests(
            claim_digest=self.claim_digest(contract, claim),
            closure_digest=closure.digest if closure else None,
            files=by_path(closure.files) if closure else {},
            bound={path: digest for path in bound if (digest := self.sources.data_digest(path))},
            thresholds={name: in_words(threshold) for name, threshold in claim.thresholds.items()},
            today=closure.today if closure else {},
        )

    def claim_digest(self, contract: Contract, claim: Claim) -> str:
        """The digest of what a claim says; worked out once for each claim object."""
        if id(claim) not in self._digests:  # which is kept, so that its id stays its own
            self._digests[id(claim)] = claim, claim_digest(contract, claim)
        return self._digests[id(claim)][1]

    def closure(self, contract: Contract, claim: Claim) -> Closure | None:
        """The source closure of the claim's check, or None where no check is registered."""
        found = self.checks.of(contract.id, claim.id) if self.checks else None
        if found is None:
            return None
        return self.sources.closure(source_of(contract, found))

    def has_check(self, contract: Contract, claim: Claim) -> bool | None:
        """Whether a check is registered for the claim; None where nobody looked."""
        return None if self.checks is None else self.checks.of(contract.id, claim.id) is not None

    def previous(self, contract: Contract, claim: Claim, cell: Cell) -> str:
        """Digest of the latest record in a cell, which a new one follows; "" where it is the first."""
        digests = [s.digest for s in self.records_of(contract, claim) if s.cell == cell]
        return digests[-1] if digests else ""

    def worth_keeping(self, contract: Contract, claim: Claim, record: Record, also: Iterable[Record] = ()) -> bool:
        """Whether a run's record should be added to the store; `also` are records already chosen in this run."""
        now = self.current(contract, claim)
        held = self.views(contract, claim)
        held += [self.view_of(one, now) for one in also if one.claim_id in claim.ids]
        return worth_keeping(claim, self.view_of(record, now), held)

    def view_of(self, record: Record, now: CurrentDigests) -> RecordView:
        """A record that is not in the store, as the ladder reads it."""
        return view(summarise(record, ""), by_path(record.closure), now if self.checks else None)

    def _view(self, summary: Summary, now: CurrentDigests) -> RecordView:
        if self.checks is None:  # nobody looked for checks, so the closure cannot be compared
            now = replace(now, closure_digest=summary.closure_digest)
        retraction = self.retractions.get(summary.digest)
        made = view(summary, self.closures.get(summary.closure_digest, {}), now)
        return replace(made, retracted=retraction.reason or "retracted") if retraction else made


def source_of(contract: Contract, found: FoundCheck) -> CheckSource:
    """What the closure of a contract's check is made from, under the names that contract and claims had first."""
    module = module_name(contract.first_id) if contract.metadata.formerly else ""
    ids = tuple((one.id, one.first_id) for one in contract.claims if one.first_id != one.id)
    return CheckSource(found.path, found.attacks, found.data, module, ids)


def open_contracts(loaded: Sequence[Loaded]) -> list[Contract]:
    """The contracts among loaded files whose shape is sound."""
    return [one.contract for one in loaded if one.contract is not None]


def retractions(records: Iterable[Retracting]) -> dict[str, Retracting]:
    """Digest of a record that no longer counts -> the record that retracts it. A retraction can be retracted too."""
    by_target: defaultdict[str, list[Retracting]] = defaultdict(list)
    for record in records:
        if record.invalidates:
            by_target[record.invalidates].append(record)

    def effective(retraction: Retracting) -> bool:  # ends: a record can only name older ones, by their digest
        return not any(effective(later) for later in by_target.get(retraction.digest, ()))

    return {
        target: standing[-1]
        for target, candidates in by_target.items()
        if (standing := [one for one in candidates if effective(one)])
    }


def view(summary: Summary, closure: Mapping[str, str], now: CurrentDigests | None) -> RecordView:
    """A record as the ladder reads it; `closure` are its closure's files, `now` the present state (None: as it was)."""
    bound = ",".join(f"{path}={sha256}" for path, sha256 in sorted(summary.bound.items()))
    return RecordView(
        digest=summary.digest,
        started_at=summary.started_at,
        cell=summary.cell,
        level=summary.level,
        verdict=summary.verdict,
        generation=f"{summary.claim_digest} {summary.closure_digest} {bound}",
        stale=stale_reason(summary, closure, now) if now else "",
        controls_caught=summary.controls_caught,
        figures={
            name: Figure(float(plain(value)), None if repeat is None else float(plain(repeat)))
            for name, (value, repeat) in summary.figures.items()
        },
        host=summary.host,
        driver=summary.driver,
        setting=summary.setting,
        seed=summary.seed,
        oracle=summary.oracle,
        oracle_agreed=summary.oracle_agreed,
        exhausted=summary.exhausted,
        reason=summary.reason,
        missing=summary.missing,
    )


def worth_keeping(claim: Claim, new: RecordView, held: Sequence[RecordView]) -> bool:
    """Whether a record says something that the held ones do not.

    It does when it changes what the claim or its cell is entitled to, when it is the first of its cell or replaces a
    stale one there, or when it is a break that is not on record for this code on this host. A run that only confirms
    leaves the tree as it was.
    """
    counting = [v for v in held if not v.retracted]
    before, after = entitle(claim, counting), entitle(claim, [*counting, new])
    was = next((state for state in before.cells if state.cell == new.cell), None)
    now = next(state for state in after.cells if state.cell == new.cell)
    if was is None or before.status is not after.status or (was.rung, was.verdict) != (now.rung, now.verdict):
        return True
    if not any(v.cell == new.cell for v in counting):
        return True
    if new.effective not in DECISIVE:
        return False
    if was.stale and not new.stale:
        return True
    return new.effective is not Verdict.SURVIVED and not any(_same_break(new, v) for v in counting)


def _same_break(one: RecordView, other: RecordView) -> bool:
    def identity(v: RecordView) -> tuple[object, ...]:
        return v.cell, v.effective, v.level, v.generation, v.host, v.driver, v.setting

    return identity(one) == identity(other)
