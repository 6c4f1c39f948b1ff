"""What was asked for -> a plan that can be run, or everything that is wrong with it, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pv.contract.load import Loaded, load_all
from pv.contract.project import Project
from pv.contract.vocabulary import Cost, DeviceClass, Verdict
from pv.diagnostics.model import Diagnostic
from pv.evidence.digests import claim_digest
from pv.evidence.ledger import Ledger
from pv.falsify.devices import Devices, present
from pv.falsify.discovery import Checks, find_checks, module_name
from pv.falsify.fit import misfits
from pv.falsify.journal import PastRun, unfinished
from pv.falsify.planning import Plan, devices_needed, plan
from pv.falsify.rows import rows_of
from pv.falsify.selection import FAILED, Row, SelectionError, by_ids, by_terms, by_words

Probe = Callable[[Iterable[DeviceClass]], Devices]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line or the gate asks for. `ids` run whatever they cost, all else what is quick or in `costs`.

    `resume` is the id of a run to take up ("" for the last unfinished one), None for a new run.
    """

    paths: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    every: bool = False
    words: str = ""
    terms: tuple[str, ...] = ()
    costs: frozenset[Cost] = frozenset()
    failed: bool = False
    stale: bool = False
    resume: str | None = None
    devices: frozenset[DeviceClass] = frozenset()
    subjects: frozenset[str] = frozenset()

    @property
    def nothing(self) -> bool:
        """Whether nothing says which claims are meant."""
        said = (self.paths, self.ids, self.every, self.words, self.terms, self.failed, self.stale)
        return not any(said) and self.resume is None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Ready to run unless `refused`: problems of the chosen checks. `warned`: of others. `unsound`: no contracts."""

    loaded: tuple[Loaded, ...]
    checks: Checks
    plan: Plan
    devices: Devices
    refused: tuple[Diagnostic, ...] = ()
    warned: tuple[Diagnostic, ...] = ()
    unsound: tuple[Loaded, ...] = ()
    resumes: str = ""  # id of the run that this one takes up


def prepare(
    project: Project,
    asked: Asked,
    probe: Probe | None = None,
    *,
    loaded: Sequence[Loaded] | None = None,
    checks: Checks | None = None,
    ledger: Ledger | None = None,
) -> Prepared:
    """Choose the claims, see that their checks fit, probe the devices, plan the cells. Runs and imports no check.

    `loaded` (the contracts of `asked.paths`), `checks` and `ledger` are for callers who have read them already.

    `probe` tells what is there; None asks this machine. Raises SelectionError for ids and selections that
    mean nothing, JournalError for a run that cannot be taken up.
    """
    loaded = load_all(asked.paths, project) if loaded is None else loaded
    checks = find_checks(project) if checks is None else checks
    ledger = Ledger.open(project, checks) if ledger is None else ledger
    past = None if asked.resume is None else unfinished(project.cache, asked.resume)
    chosen = choose(rows_of(project, loaded, checks, ledger), asked, past)
    whole = [*loaded, *load_all((), project)] if asked.paths else loaded
    refused, warned = _problems(whole, checks, chosen, every=asked.every)
    devices = (probe or present)(devices_needed(chosen))
    made = plan(
        chosen,
        checks,
        devices,
        project,
        costs=frozenset(Cost) if asked.ids or past else asked.costs | {Cost.QUICK},
        only_devices=asked.devices,
        only_subjects=asked.subjects,
    )
    unsound = tuple(one for one in loaded if one.contract is None)
    if past is not None:
        made = _rest_of(past, made, ledger)
    ledger.sources.save()
    resumes = past.run_id if past else ""
    return Prepared(tuple(loaded), checks, made, devices, refused, warned, unsound, resumes)


def choose(rows: Sequence[Row], asked: Asked, past: PastRun | None = None) -> list[Row]:
    """The rows that are meant: everything said narrows the choice, several ids widen it. Raises SelectionError."""
    chosen = list(rows)
    if past is not None:
        wanted = {key for key, _ in past.wanted}
        chosen = [row for row in chosen if (row.contract.id, row.claim.id) in wanted]
    if asked.ids:
        chosen = by_ids(chosen, asked.ids)
    if asked.words:
        chosen = by_words(chosen, asked.words)
    if asked.terms:
        chosen = by_terms(chosen, asked.terms)
    if asked.failed:
        chosen = [row for row in chosen if row.last in FAILED]
    if asked.stale:
        chosen = [row for row in chosen if row.stale]
    return chosen


def _problems(
    whole: Sequence[Loaded], checks: Checks, chosen: Sequence[Row], *, every: bool
) -> tuple[tuple[Diagnostic, ...], tuple[Diagnostic, ...]]:
    """Problems of the chosen claims, which refuse the run, and all others. `whole`: all contracts that there are."""
    everything = {one.path.resolve(): one for one in whole}
    problems = misfits(checks, list(everything.values()), whole=True)
    places = {checks.modules.get(module_name(row.contract.id)) for row in chosen}
    ours = [problem for problem in problems if every or problem.path in places]
    return tuple(ours), tuple(problem for problem in problems if problem not in ours)


def _rest_of(past: PastRun, made: Plan, ledger: Ledger) -> Plan:
    """The cells of an interrupted run that it did not finish, or finished on code that is not today's."""
    finished = {
        (entry.key, entry.cell, entry.claim, entry.closure)
        for entry in past.entries
        if entry.verdict is not Verdict.ERROR
    }
    wanted = set(past.wanted)
    tasks = []
    for task in made.tasks:
        closure = ledger.closure(task.contract, task.claim)
        made_from = (claim_digest(task.contract, task.claim), closure.digest if closure else "")
        if (task.key, task.cell) in wanted and (task.key, task.cell, *made_from) not in finished:
            tasks.append(task)
    return replace(made, tasks=tuple(tasks), left_out=(), unchecked=())


__all__ = ["Asked", "Prepared", "SelectionError", "choose", "prepare"]
