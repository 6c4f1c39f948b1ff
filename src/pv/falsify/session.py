"""A plan -> records on disk, statuses that they earn, and what changed: all of `pv falsify` but its words.

Evidence first: a record is kept as soon as its attempt is judged, so that a run that dies loses nothing that it earned;
statuses are written once, at the end, by `pv.evidence.settle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pv.contract.load import Loaded, load
from pv.contract.project import Project
from pv.contract.vocabulary import Cell, Status, Verdict
from pv.document.files import NotWritten
from pv.evidence.closure import Closure
from pv.evidence.ledger import Ledger
from pv.evidence.record import Record
from pv.evidence.settle import settle
from pv.evidence.store import with_log
from pv.falsify.attempt import Attempt
from pv.falsify.devices import Devices
from pv.falsify.discovery import Checks
from pv.falsify.journal import Journal
from pv.falsify.judge import worst
from pv.falsify.places import Place
from pv.falsify.planning import Key, Plan, Task
from pv.falsify.records import RunFacts, record_of, run_facts, unwritable, without_figures
from pv.falsify.runner import Listener, Standing, run

if TYPE_CHECKING:
    from pv.ladder.entitlement import RecordView
    from pv.ladder.writeback import WritePlan


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. `write` False keeps everything in memory; `drift_only` then counts only what contradicts the tree.

    `adopt` lets statuses overwrite words that are not pv's. `resumes` is the id of the interrupted run taken up.
    """

    jobs: int = 1
    seed: int = 0
    write: bool = True
    drift_only: bool = False
    adopt: bool = False
    resumes: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One attempt and its record. `kept`: the record was added to the evidence, or would be."""

    attempt: Attempt
    record: Record
    kept: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `before` and `after` are statuses as written and as earned.

    `settled` is what was (or would be) written into contracts, and what could not be; `not_written` says why a file
    could not be replaced at all.
    """

    run_id: str
    plan: Plan
    results: tuple[Result, ...]
    before: dict[Key, Status]
    after: dict[Key, Status]
    settled: tuple[WritePlan, ...]
    interrupted: bool = False
    not_written: str = ""

    @property
    def changes(self) -> bool:
        """Whether anything was or would be written."""
        return any(plan.changes for plan in self.settled) or any(result.kept for result in self.results)

    @property
    def refused(self) -> bool:
        """Whether a status could not be written into its contract; its record is kept all the same."""
        return bool(self.not_written) or any(plan.refused for plan in self.settled)

    @property
    def findings(self) -> tuple[Result, ...]:
        """Results that somebody has to look at: broken claims that are not known to fail, checks that prove nothing,
        measurements in doubt, and claims that are known to fail and do not."""
        return tuple(result for result in self.results if self._is_finding(result.attempt))

    def _is_finding(self, attempt: Attempt) -> bool:
        claim = attempt.task.claim
        if attempt.verdict is Verdict.FALSIFIED:
            return claim.known_failing is None
        if attempt.verdict is Verdict.INCONCLUSIVE:
            return not attempt.waits_for  # else the precondition is the finding
        return attempt.verdict is Verdict.VACUOUS or bool(self.unexpected(attempt.task))

    def unexpected(self, task: Task) -> str:
        """Why a claim that is known to fail needs a look: it survives. "" otherwise."""
        if task.claim.known_failing is None or self.verdict(task.key) is not Verdict.SURVIVED:
            return ""
        return f"{task.claim.id} is known_failing in {task.contract.path} but survives now; remove the entry"

    def verdict(self, key: Key) -> Verdict | None:
        """The worst verdict of a claim over the cells of this run."""
        return worst(result.attempt.verdict for result in self.results if result.attempt.task.key == key)


def falsify(
    project: Project,
    loaded: Sequence[Loaded],
    checks: Checks,
    plan: Plan,
    devices: Devices,
    listener: Listener,
    options: Options,
    place: Place | None = None,
    ledger: Ledger | None = None,
) -> Outcome:
    """Run a plan, keep the records worth keeping, and write what they earn (or find out what would be written).

    `place` is where its checks run, None for this machine; only this process keeps records. After Ctrl-C the finished
    attempts count: their records are kept and settled, and `interrupted` is set. `ledger` is for a caller who has just
    opened it.
    """
    ledger = ledger or Ledger.open(project, checks)
    facts = run_facts(project, options.seed)
    keeper = _Keeper(project, ledger, plan, devices, facts, listener, options)
    finished = run(
        plan.tasks,
        checks.found,
        devices,
        project,
        keeper,
        standing=standing_on_record(ledger, plan.tasks),
        jobs=options.jobs,
        seed=options.seed,
        place=place,
        closures=keeper.closures,
    )
    if keeper.journal and not finished.interrupted:
        keeper.journal.end()
    concerned = _reloaded(loaded, plan.tasks, project)
    if concerned:  # as it all stands now, with the records that are not written
        also = () if options.write else [with_log(record, log or None) for record, log in keeper.kept]
        ledger = Ledger.open(project, checks, also)
    plans, not_written = _settle(project, concerned, checks, plan, options, ledger)
    after = _earned(concerned, ledger)
    ledger.sources.save()
    order = {task: index for index, task in enumerate(plan.tasks)}
    return Outcome(
        facts.run_id,
        plan,
        tuple(sorted(keeper.results, key=lambda result: order[result.attempt.task])),
        {task.key: task.claim.status or Status.UNBOUND for task in plan.tasks},
        after,
        tuple(plan for plan in plans if plan.changes or plan.refused),
        finished.interrupted,
        not_written,
    )


@dataclass
class _Keeper:
    """Turns each finished attempt into a record and keeps it if it says something new. A `Listener` itself."""

    project: Project
    ledger: Ledger
    plan: Plan
    devices: Devices
    facts: RunFacts
    listener: Listener
    options: Options
    results: list[Result] = field(default_factory=list)
    kept: list[tuple[Record, bytes]] = field(default_factory=list)
    journal: Journal | None = None
    closures: dict[Key, Closure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for task in self.plan.tasks:  # before anything runs: what is edited meanwhile was not what ran
            if task.key not in self.closures:
                closure = self.ledger.closure(task.contract, task.claim)
                assert closure is not None, "a task has a check"
                self.closures[task.key] = closure
        if self.options.write:
            self.journal = Journal(self.project.cache, self.facts.run_id, self.plan.tasks, self.options.resumes)

    def started(self, task: Task) -> None:
        self.listener.started(task)

    def progress(self, task: Task, control: str, done: int, total: int, what: str) -> None:
        self.listener.progress(task, control, done, total, what)

    def finished(self, attempt: Attempt) -> None:
        task = attempt.task
        record = self._record(attempt)
        if wrong := unwritable(record):
            attempt = without_figures(attempt, wrong)
            record = self._record(attempt)
        keep = self._worth_keeping(task, record)
        if keep and self.options.write:
            record = self.ledger.store.add(record, attempt.log or None)
        if keep:
            self.kept.append((record, attempt.log))
        if self.journal:
            self.journal.add(attempt, claim=record.claim_digest, closure=record.closure_digest)
        self.results.append(Result(attempt, record, keep))
        self.listener.finished(attempt)

    def _record(self, attempt: Attempt) -> Record:
        task = attempt.task
        return record_of(
            attempt,
            self.facts,
            self.closures[task.key],
            self.project,
            device=self.devices.get(task.cell.device),
            previous=self.ledger.previous(task.contract, task.claim, task.cell),
        )

    def _worth_keeping(self, task: Task, record: Record) -> bool:
        also = [kept for kept, _ in self.kept]
        if not self.ledger.worth_keeping(task.contract, task.claim, record, also):
            return False
        return not self.options.drift_only or self._drifts(task, record)

    def _drifts(self, task: Task, record: Record) -> bool:
        """Whether a record contradicts or renews what the tree says, rather than adding weight from another machine.

        A check of the tree (CI, another person's machine) must not turn red because a second host confirms a claim, has
        a device that the first one lacked, or has a stand-in that nobody needed.
        """
        if record.verdict is not Verdict.SURVIVED:
            return True
        held = [view for view in self.ledger.views(task.contract, task.claim) if view.cell == task.cell]
        if _only_from_elsewhere(held, record.environment.host):
            return False
        return task.required or bool(held)


def _only_from_elsewhere(held: Sequence[RecordView], host: str) -> bool:
    """Whether a cell has evidence of the present code, none of it made on this host."""
    fresh = [view for view in held if not view.stale and not view.retracted]
    return bool(fresh) and all(view.host != host for view in fresh)


def standing_on_record(ledger: Ledger, tasks: Sequence[Task]) -> Standing:
    """What the records on disk say of preconditions that are not in this run; read before the threads start."""
    reasons: dict[tuple[Key, Cell], str] = {}
    planned = {task.key for task in tasks}
    for task in tasks:
        missing = [name for name in task.claim.precondition if (task.contract.id, name) not in planned]
        entitlements = ledger.entitlements(task.contract) if missing else {}
        for name in missing:
            entitlement = entitlements.get(name)
            if entitlement is None:
                why = "no claim of the contract has this id"
            elif entitlement.verdict is not Verdict.SURVIVED:
                why = f"on record it is {entitlement.verdict.value if entitlement.verdict else 'never run'}"
            else:
                why = f"its evidence is stale: {entitlement.stale}" if entitlement.stale else ""
            reasons[(task.contract.id, name), task.cell] = why
    return lambda key, cell: reasons[key, cell]


def _reloaded(loaded: Sequence[Loaded], tasks: Sequence[Task], project: Project) -> list[Loaded]:
    """The contracts of this run as they stand now: somebody may have edited them while it ran."""
    concerned = {task.contract.path for task in tasks}
    return [load(one.path, project) for one in loaded if one.contract is not None and one.contract.path in concerned]


def _settle(
    project: Project, loaded: Sequence[Loaded], checks: Checks, plan: Plan, options: Options, ledger: Ledger
) -> tuple[list[WritePlan], str]:
    """The plans of all contracts of the run, written if asked; and why a file could not be replaced, or ""."""
    starts = {task.contract.path: task.contract for task in plan.tasks}
    try:
        return settle(
            project, loaded, checks, write=options.write, adopt=options.adopt, starts=starts, ledger=ledger
        ), ""
    except NotWritten as why:
        return [], f"{why}; the records are kept, `pv settle` writes what they earned"


def _earned(loaded: Sequence[Loaded], ledger: Ledger) -> dict[Key, Status]:
    return {
        (one.contract.id, claim_id): entitlement.status
        for one in loaded
        if one.contract is not None
        for claim_id, entitlement in ledger.entitlements(one.contract).items()
    }
