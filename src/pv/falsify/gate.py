"""A project and a git reference -> may this be merged: contracts, records, versions, checks; debt and unknowns by name.

Sections stand in the order of cost, and all of them run, so that one look tells everything. A section that could not
be judged says so and never passes for one that was: `unknown` is told, and a release refuses it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pv.contract.claims import Claim, Contract
from pv.contract.load import Loaded, discover, load_all, load_bytes
from pv.contract.project import Profile, Project
from pv.contract.revisions import RevisionError, content_at
from pv.contract.vocabulary import Cost, Status, Verdict
from pv.diagnostics.model import Diagnostic, Severity
from pv.evidence.facts import facts_for
from pv.evidence.ledger import Ledger
from pv.evidence.verify import Explanation
from pv.evidence.verify import verify as verify_records
from pv.falsify.discovery import Checks, find_checks
from pv.falsify.fit import misfits
from pv.falsify.planning import Plan
from pv.falsify.request import Asked, Prepared, SelectionError, prepare
from pv.falsify.runner import Listener
from pv.falsify.session import Options, Outcome
from pv.falsify.session import falsify as run_checks
from pv.rules.cache import Cache
from pv.rules.facts import FactsByClaim
from pv.rules.table import check_history
from pv.rules.validation import validate

BROKEN, CRASHED, CONTRADICTED, REFUSED_STATUS = "PV470", "PV471", "PV472", "PV473"
UNEXPECTED_PASS, STALE, REMOVED, UNCOMPARED = "PV474", "PV475", "PV476", "PV477"
GROWN = "PV478"


def _error(title: str, why: str, fix: str) -> Explanation:
    return Explanation(Severity.ERROR, title, why, fix)


CODES: Mapping[str, Explanation] = {
    BROKEN: _error(
        "a check broke its claim, or proves nothing",
        "The claim was falsified here and now, or a planted defect of its check was not caught.",
        "run the command that the finding names, and mend the code or the claim",
    ),
    CRASHED: _error(
        "a check that crashed",
        "What crashed has judged nothing.",
        "run it by its id and read its log",
    ),
    CONTRADICTED: _error(
        "a status that a run here contradicts",
        "The check was run and supports another status than the one written.",
        "`pv falsify` writes what was earned",
    ),
    REFUSED_STATUS: _error(
        "a falsified claim",
        "The contract says itself that a claim does not hold, and nobody has owned up to it.",
        "mend it, or say who owns it in `known_failing`",
    ),
    UNEXPECTED_PASS: _error(
        "a claim that is known to fail and survives",
        "An honest red that turns green by itself hides the next red.",
        "remove `known_failing`",
    ),
    STALE: Explanation(
        Severity.WARNING,
        "evidence that is older than what it is about",
        "The claim, its check or the code under attack has changed since. The status is kept and told as debt.",
        "`pv falsify --stale` where the device is; then commit the records",
    ),
    REMOVED: _error(
        "a claim that the reference has and this tree has not",
        "A contract file was removed, and its claims stand in no other one: a promise vanished without a version.",
        "keep the contract and say in it what became of the promise, or move its claims",
    ),
    UNCOMPARED: Explanation(
        Severity.WARNING,
        "versions were not compared",
        "The reference is not in this clone, so nobody could say whether the meaning moved without its version.",
        "fetch it (`git fetch --depth=1 origin REF`), or clone with history",
    ),
    GROWN: Explanation(
        Severity.WARNING,
        "a complete contract that was extended",
        "All its claims were discharged; a new one makes it incomplete again for everybody who relies on it.",
        "a sibling contract that depends on this one may serve better",
    ),
}


class Standing(StrEnum):
    """What a section came to. `debt` and `unknown` pass, except for a release."""

    PASSED = "passed"
    DEBT = "debt"
    UNKNOWN = "unknown"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the gate: a line that states its denominator, and what was found."""

    name: str
    standing: Standing
    summary: str
    diagnostics: tuple[Diagnostic, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GateReport:
    """All sections. `blocked`: cells that were asked for and cannot run here."""

    sections: tuple[Section, ...]
    blocked: tuple[str, ...] = ()
    release: bool = False
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether anything forbids the merge (or, for a release, anything is owed or unknown)."""
        refused = {Standing.FAILED, Standing.DEBT, Standing.UNKNOWN} if self.release else {Standing.FAILED}
        return any(section.standing in refused for section in self.sections)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        return tuple(diagnostic for section in self.sections for diagnostic in section.diagnostics)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the gate is asked. `against`: a git reference, or "" to compare nothing. `run`: whether checks are run.

    `changed`: of the quick checks, only those that this branch gives a reason to run.
    """

    against: str = ""
    release: bool = False
    run: bool = True
    jobs: int = 1
    changed: bool = False


def gate(project: Project, wanted: Wanted, listener: Listener) -> GateReport:
    """Judge the whole project. Writes nothing. Raises RevisionError for a reference that git cannot know."""
    from dataclasses import replace

    strict = replace(project, profile=Profile.STRICT)
    loaded = load_all((), strict)
    checks = find_checks(strict)
    ledger = Ledger.open(strict, checks)
    facts = facts_for(strict, loaded, checks, ledger=ledger)
    versions = _versions(strict, loaded, wanted.against)  # first: a reference that nobody knows ends it before any run
    outcome, refused = _run(strict, loaded, ledger, checks, facts, wanted, listener) if wanted.run else (None, "")
    sections = [
        _contracts(strict, loaded, checks, facts),
        _records(strict, loaded, None if wanted.release else ledger),
        versions,
        _statuses(loaded),
        _checks(strict, outcome, refused, changed=wanted.changed),
        _debt(loaded, facts, outcome),
    ]
    blocked = _blocked(outcome) if outcome else ()
    texts = {one.display: one.document.text for one in loaded if one.document is not None}
    return GateReport(tuple(sections), blocked, wanted.release, texts)


# ------------------------------------------------------------------------------------------ contracts and records


def _contracts(project: Project, loaded: Sequence[Loaded], checks: Checks, known: FactsByClaim) -> Section:
    wrong: list[Diagnostic] = []

    def facts(project: Project, loaded: Sequence[Loaded]) -> FactsByClaim:
        wrong.extend(misfits(checks, loaded, whole=True))
        return known

    found = validate(discover((), project), project, facts, Cache.open(project), whole=True, loaded=loaded)
    errors, warnings = found.count(Severity.ERROR) + len(wrong), found.count(Severity.WARNING)
    claims = sum(len(outline.claims) for outline in found.outlines)
    summary = f"{_count(found.contracts, 'contract')}, {_count(claims, 'claim')}: {errors} errors, {warnings} warnings"
    if not found.contracts:
        return Section("contracts", Standing.FAILED, "no contract was found: zero files is not success")
    serious = tuple(d for d in (*found.diagnostics, *wrong) if d.severity is not Severity.INFO)
    return Section("contracts", Standing.FAILED if errors else Standing.PASSED, summary, serious)


def _records(project: Project, loaded: Sequence[Loaded], ledger: Ledger | None) -> Section:
    """Without a ledger, which a release does not trust, every record is taken apart, whatever was judged before."""
    found = verify_records(project, loaded, ledger)
    errors = sum(d.severity is Severity.ERROR for d in found.diagnostics)
    summary = (
        f"{_count(found.records, 'record')} re-judged, {_count(found.pointers, 'pointer')} followed: {errors} errors"
    )
    serious = tuple(d for d in found.diagnostics if d.severity is not Severity.INFO)
    return Section("records", Standing.FAILED if errors else Standing.PASSED, summary, serious)


def _statuses(loaded: Sequence[Loaded]) -> Section:
    """Falsified claims that nobody owns fail; those with an owner are listed."""
    diagnostics, notes, claims = [], [], 0
    for one, claim in _claims(loaded):
        claims += 1
        if claim.known_failing is not None:
            known = claim.known_failing
            notes.append(f"known failing: {claim.id}, {known.owner} since {known.since}: {known.reason}")
        elif claim.status is Status.FALSIFIED:
            diagnostics.append(
                _finding(one, claim, REFUSED_STATUS, f"{claim.id} is FALSIFIED", claim.status_loc or claim.loc)
            )
    summary = f"{_count(claims, 'status', 'statuses')}: {len(diagnostics)} falsified, {len(notes)} known to fail"
    return Section(
        "statuses", Standing.FAILED if diagnostics else Standing.PASSED, summary, tuple(diagnostics), tuple(notes)
    )


# ------------------------------------------------------------------------------------------ versions


def _versions(project: Project, loaded: Sequence[Loaded], reference: str) -> Section:
    """Every contract against the reference: did the version move as the meaning did, and is any promise gone."""
    if not reference:
        return Section("versions", Standing.UNKNOWN, "not compared: no reference was named (--against REF)")
    try:
        paths = _paths_at(project, reference)
        before = dict(_contracts_at(project, reference, paths))
    except RevisionError as why:
        if not _shallow(project.root):
            raise
        finding = Diagnostic(UNCOMPARED, Severity.WARNING, ".", str(why), help=CODES[UNCOMPARED].fix)
        return Section("versions", Standing.UNKNOWN, f"not compared: this shallow clone has no {reference}", (finding,))
    diagnostics = []
    for one in loaded:
        old = _before(before, one)
        if old is not None:
            diagnostics += [*check_history(old, one, project), *_grown(old, one)]
    diagnostics += _vanished(before, loaded)
    errors = sum(d.severity is Severity.ERROR for d in diagnostics)
    there = {project.display(path) for path in paths}
    new = sum(one.display not in there and _before(before, one) is None for one in loaded)
    summary = f"{_count(len(paths), 'contract')} at {reference} compared, {new} new: {errors} errors"
    return Section("versions", Standing.FAILED if errors else Standing.PASSED, summary, tuple(diagnostics))


def _contracts_at(project: Project, reference: str, paths: Sequence[Path]) -> Iterator[tuple[str, Contract]]:
    """Path as shown -> contract as the reference has it, of each of the files that stands otherwise (or no more) here.

    The others need no reading: they are the same. Raises RevisionError.
    """
    differing = _differing(project, reference)
    for path in paths:
        if differing is not None and project.display(path) not in differing:
            continue
        content = content_at(reference, path)
        if content is None:
            continue
        contract = load_bytes(content, path, project).contract
        if contract is not None:
            yield project.display(path), contract


def _before(before: Mapping[str, Contract], one: Loaded) -> Contract | None:
    """The contract of the reference under the path that the file has, else under a name that it says it had."""
    stems = one.contract.metadata.formerly if one.contract is not None else ()
    renamed = (contract for contract in before.values() if contract.id in stems)
    return before.get(one.display) or next(renamed, None)


def _paths_at(project: Project, reference: str) -> list[Path]:
    """The contract files of the reference, by the globs of today's settings."""
    done = subprocess.run(
        ["git", "-C", str(project.root), "ls-tree", "-r", "-z", "--name-only", "--end-of-options", reference],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RevisionError(f"git cannot read {reference!r}: {said[-1] if said else 'no reason given'}")
    names = [Path(name.decode("utf-8", "surrogateescape")) for name in done.stdout.split(b"\0") if name]
    return [project.root / name for name in names if project.covers(project.root / name)]


def _grown(old: Contract, new: Loaded) -> Iterator[Diagnostic]:
    """A word of advice: a contract whose claims were all discharged has a new one."""
    if new.contract is None or not old.claims or any(c.status is not Status.DISCHARGED for c in old.claims):
        return
    added = [claim for claim in new.contract.claims if {c.id for c in old.claims}.isdisjoint(claim.ids)]
    if added:
        names = ", ".join(claim.id for claim in added)
        yield _finding(new, added[0], GROWN, f"{old.id} was complete; {names} makes it incomplete again", added[0].loc)


def _vanished(before: Mapping[str, Contract], loaded: Sequence[Loaded]) -> Iterator[Diagnostic]:
    """Claims of removed files that stand nowhere any more."""
    here = {one.display for one in loaded}
    ids = {name for _, claim in _claims(loaded) for name in claim.ids}
    for display, contract in before.items():
        gone = [claim.id for claim in contract.claims if claim.id not in ids]
        if display not in here and gone:
            message = f"{display} was removed, and with it {', '.join(gone[:5])}{' and more' if len(gone) > 5 else ''}"
            yield Diagnostic(REMOVED, Severity.ERROR, display, message, help=CODES[REMOVED].fix)


def _shallow(root: Path) -> bool:
    """Whether this clone was made without its history."""
    told = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--is-shallow-repository"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() == "true"


# ------------------------------------------------------------------------------------------ checks


def _run(
    project: Project,
    loaded: Sequence[Loaded],
    ledger: Ledger,
    checks: Checks,
    facts: FactsByClaim,
    wanted: Wanted,
    listener: Listener,
) -> tuple[Outcome | None, str]:
    """Every quick check (or those that the branch concerns), and stale claims of any cost but the operator's; nothing
    is written.
    """
    try:
        quick = prepare(project, Asked(every=True), loaded=loaded, checks=checks, ledger=ledger)
        stale = _stale_ids(loaded, facts)
        rerun = (
            prepare(project, Asked(ids=tuple(stale)), loaded=loaded, checks=checks, ledger=ledger) if stale else None
        )
    except SelectionError as why:
        return None, str(why)
    plan = _joined(quick, rerun)
    if wanted.changed:
        plan = _concerned(plan, project, wanted.against, stale)
    options = Options(jobs=wanted.jobs, write=False, drift_only=True)
    return run_checks(project, quick.loaded, quick.checks, plan, quick.devices, listener, options, ledger=ledger), ""


def _stale_ids(loaded: Sequence[Loaded], facts: FactsByClaim) -> list[str]:
    stale = []
    for one, claim in _claims(loaded):
        known = facts.get((one.contract.id, claim.id)) if one.contract else None
        if known is not None and known.stale and claim.cost is not Cost.OPERATOR:
            stale.append(claim.id)
    return stale


def _joined(quick: Prepared, rerun: Prepared | None) -> Plan:
    from dataclasses import replace

    if rerun is None:
        return quick.plan
    # A device that is absent says so once; that is debt, told by its own section, and not a blocked wish.
    there = [task for task in rerun.plan.tasks if task not in quick.plan.tasks and _present(rerun, task)]
    return replace(quick.plan, tasks=(*quick.plan.tasks, *there))


def _concerned(plan: Plan, project: Project, reference: str, stale: Sequence[str]) -> Plan:
    """The tasks with a reason to be run: their contract differs from the reference, their evidence is stale or none is
    written, or they are known to fail, which must not change unseen. All, where git does not know the reference.
    """
    from dataclasses import replace

    differing = _differing(project, reference)
    if differing is None:
        return plan
    tasks = tuple(
        task
        for task in plan.tasks
        if project.display(task.contract.path) in differing
        or task.claim.id in stale
        or task.claim.known_failing is not None
        or not task.claim.evidence
    )
    return replace(plan, tasks=tasks, unchecked=())


def _differing(project: Project, reference: str) -> frozenset[str] | None:
    """The files of the project, as shown, that the tree has otherwise than a git reference; None where git cannot say.

    A file that git does not know yet is in no reference.
    """
    names: set[bytes] = set()
    for command in (
        ["diff", "--name-only", "--relative", "--no-renames", "-z", "--end-of-options", reference, "--"],
        ["ls-files", "--others", "--exclude-standard", "-z"],
    ):
        done = subprocess.run(["git", "-C", str(project.root), *command], capture_output=True, check=False)
        if not reference or done.returncode != 0:
            return None
        names.update(done.stdout.split(b"\0"))
    paths = (project.root / name.decode("utf-8", "surrogateescape") for name in names if name)
    return frozenset(project.display(path) for path in paths)


def _present(prepared: Prepared, task: Any) -> bool:
    report = prepared.devices.get(task.cell.device)
    return report is not None and report.present


def _checks(project: Project, outcome: Outcome | None, refused: str, *, changed: bool) -> Section:
    if outcome is None:
        return Section(
            "checks", Standing.UNKNOWN if not refused else Standing.FAILED, refused or "not run: --no-run was asked"
        )
    from pv.falsify.present import summary

    diagnostics = [*_results(project, outcome), *_moves(project, outcome)]
    if not outcome.results and changed:
        return Section("checks", Standing.PASSED, "nothing to run again: no contract changed, all evidence is fresh")
    if not outcome.results:
        return Section("checks", Standing.FAILED, "no check was run: zero checks is not success")
    standing = Standing.FAILED if diagnostics or outcome.interrupted else Standing.PASSED
    return Section("checks", standing, summary(outcome, write=False), tuple(diagnostics))


def _results(project: Project, outcome: Outcome) -> Iterator[Diagnostic]:
    for result in outcome.results:
        attempt, task = result.attempt, result.attempt.task
        text = f"{task}: {attempt.verdict.value}: {attempt.judged.reason}".rstrip(": ")
        if outcome.unexpected(task):
            yield _plain(project, task.contract, UNEXPECTED_PASS, outcome.unexpected(task))
        elif result in outcome.findings:
            yield _plain(project, task.contract, BROKEN, f"{text}; again: {result.record.command}")
        elif attempt.verdict is Verdict.ERROR:
            yield _plain(project, task.contract, CRASHED, f"{text}; again: {result.record.command}")


def _moves(project: Project, outcome: Outcome) -> Iterator[Diagnostic]:
    """Statuses that this run would write otherwise. Evidence that is only renewed is debt, not a contradiction."""
    by_key = {task.key: task for task in outcome.plan.tasks}
    for key, before in outcome.before.items():
        after = outcome.after.get(key, before)
        if after is not before and key in by_key:
            message = f"{key[1]}: written {before.value}, a run here supports {after.value}"
            yield _plain(project, by_key[key].contract, CONTRADICTED, message)


def _blocked(outcome: Outcome) -> tuple[str, ...]:
    cells = (r for r in outcome.results if r.attempt.verdict in (Verdict.BLOCKED, Verdict.INCONCLUSIVE))
    return tuple(f"{result.attempt.task}: {result.attempt.judged.reason}" for result in cells)


def _debt(loaded: Sequence[Loaded], facts: FactsByClaim, outcome: Outcome | None) -> Section:
    """Stale claims: rerun here and surviving, or waiting for a device that this machine has not."""
    survived = {
        result.attempt.task.key
        for result in (outcome.results if outcome else ())
        if result.attempt.verdict is Verdict.SURVIVED and result.attempt.task.required
    }
    diagnostics, with_evidence = [], 0
    for one, claim in _claims(loaded):
        key = (one.contract.id, claim.id) if one.contract else None
        known = facts.get(key) if key else None
        with_evidence += bool(claim.evidence)
        if known is None or not known.stale:
            continue
        rerun = "rerun here and survived" if key in survived else "not rerun here"
        text = f"{claim.id}: {known.stale} ({rerun})"
        diagnostics.append(_finding(one, claim, STALE, text, claim.status_loc or claim.loc))
    summary = f"{_count(with_evidence, 'claim')} with evidence: {len(diagnostics)} stale"
    return Section("evidence", Standing.DEBT if diagnostics else Standing.PASSED, summary, tuple(diagnostics))


# ------------------------------------------------------------------------------------------ words


def _claims(loaded: Sequence[Loaded]) -> Iterator[tuple[Loaded, Claim]]:
    for one in loaded:
        for claim in one.contract.claims if one.contract is not None else ():
            yield one, claim


def _finding(one: Loaded, claim: Claim, code: str, message: str, loc: tuple[str | int, ...]) -> Diagnostic:
    span = one.document.span(loc) if one.document is not None else None
    where = f"{claim.loc[0]}[{claim.loc[1]}] ({claim.id})"
    return Diagnostic(code, CODES[code].severity, one.display, message, span, where=where, help=CODES[code].fix)


def _plain(project: Project, contract: Contract, code: str, message: str) -> Diagnostic:
    return Diagnostic(code, CODES[code].severity, project.display(contract.path), message, help=CODES[code].fix)


def _count(number: int, word: str, plural: str = "") -> str:
    return f"{number} {word if number == 1 else plural or word + 's'}"
