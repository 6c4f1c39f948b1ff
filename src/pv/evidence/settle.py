"""Records on disk -> the statuses that they support, written into the contracts. Runs no check.

Needs no git. Where there is git, the version is compared with the committed one, so that any number of runs before a
commit makes one bump; else with the one at the start of the run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pv.contract.claims import Claim, Contract, texts_of
from pv.contract.load import Loaded, load, load_at
from pv.contract.project import Project, module_name
from pv.contract.revisions import RevisionError
from pv.contract.vocabulary import Status, Verdict
from pv.evidence.ledger import FoundChecks, Ledger
from pv.evidence.record import MeasurementRecord, Record
from pv.evidence.statement import plain
from pv.ladder.entitlement import CellState, Entitlement
from pv.ladder.writeback import AlgorithmEvidence, Flip, WritePlan, is_written, plan, write

MOST_FIGURES = 4  # in a line of evidence


def settle(
    project: Project,
    loaded: Sequence[Loaded],
    checks: FoundChecks | None,
    *,
    write: bool,
    adopt: bool = False,
    today: str | None = None,
    starts: Mapping[Path, Contract] | None = None,
    against: str = "HEAD",
    also: Sequence[Record] = (),
    merged: Merged | None = None,
    ledger: Ledger | None = None,
) -> list[WritePlan]:
    """One plan for each sound contract; with `write`, put on disk (a file that changed meanwhile is planned anew once).

    `adopt` overwrites status words that are not pv's. `starts` are the contracts as they stood when the run began, for
    the version where there is no git; without it, they are as loaded. `against` is the git revision since which there
    is one bump. `also` are records that are not on disk (of a run that writes nothing): what would they earn? Raises
    NotWritten where a file could not be replaced, ValueError for `also` together with `write`. `merged` says what a
    merge joined: there is one bump since all of it. `ledger` is for a caller who has just opened it, with `also`.
    """
    if write and also:
        raise ValueError("expected every record on disk before a status is written, found records that are not")
    task = _Task(project, checks, today or f"{datetime.now(UTC):%Y-%m-%d}", adopt, against, merged or Merged())
    ledger = ledger or Ledger.open(project, checks, also)
    plans = []
    for one in loaded:
        if one.contract is None:
            continue
        start = (starts or {}).get(one.path, one.contract)
        planned = _plan(task, ledger, one, start)
        plans.append(_write(task, planned, start) if write else planned)
    ledger.sources.save()
    return plans


class Merged(NamedTuple):
    """What a merge joined: the commits, what they had in common, and the files in which they differ.

    `claims`: by file, the ids of those in which a conflict was resolved.
    """

    commits: tuple[str, ...] = ()
    base: str | None = None
    files: frozenset[Path] = frozenset()
    claims: Mapping[Path, frozenset[str]] = {}


def flips(ledger: Ledger, contract: Contract, again: Collection[str] = ()) -> list[Flip]:
    """What every entry of a contract must say, by the records on disk, where that is not what it says already.

    `again` are claims that are told in any case.
    """
    entitlements = ledger.entitlements(contract)
    claims = {claim.id: claim for claim in reversed(contract.claims)}  # of an id that stands twice, the first
    wanted = [
        flip_of(ledger, contract, claim, entitlements[claim.id])
        for claim in reversed(claims.values())
        if claim.id in again or not _says_so(contract, claim, entitlements[claim.id])
    ]
    return [flip for flip in wanted if flip and (flip.claim_id in again or not is_written(contract, flip))]


def _says_so(contract: Contract, claim: Claim, entitlement: Entitlement) -> bool:
    """Whether the entry says already what is earned, told without opening a record: of most claims it does."""
    status = entitlement.status
    live = status in (Status.FUNCTIONAL, Status.DISCHARGED)
    anything = Flip(
        claim.id,
        status,
        entitlement.heads,
        entitlement.verified_at[:10],
        AlgorithmEvidence(notes="a block"),
        ("a block",) if live else (),
        ("a block",) if status is Status.DISCHARGED else (),
    )
    return is_written(contract, anything)


def flip_of(ledger: Ledger, contract: Contract, claim: Claim, entitlement: Entitlement) -> Flip | None:
    """What one entry must say. None where nothing was ever recorded and the status is somebody else's word."""
    if claim.status is None and claim.status_text and not entitlement.heads:
        return None
    heads = [ledger.record(digest) for digest in entitlement.heads]
    pointed = [ledger.record(digest) for digest in claim.evidence if digest in ledger.by_digest]
    status = entitlement.status
    functional = status in (Status.FUNCTIONAL, Status.DISCHARGED)
    return Flip(
        claim_id=claim.id,
        status=status,
        evidence=entitlement.heads,
        last_verified=entitlement.verified_at[:10],
        algorithm=_algorithm(ledger, contract, claim, heads, entitlement),
        functional=_functional(claim, entitlement, heads) if functional else (),
        discharge=_discharge(claim, entitlement) if status is Status.DISCHARGED else (),
        before=_algorithm(ledger, contract, claim, pointed, entitlement, former=True),
    )


def committed(contract: Contract, project: Project, revision: str = "HEAD") -> Contract | None:
    """The contract as a commit has it; None without git, or where the commit has no such (sound) contract."""
    try:
        return load_at(revision, contract, project)
    except RevisionError:
        return None


class _Task(NamedTuple):
    """What all files of one settling share."""

    project: Project
    checks: FoundChecks | None
    today: str
    adopt: bool
    against: str
    merged: Merged


def _plan(task: _Task, ledger: Ledger, one: Loaded, start: Contract) -> WritePlan:
    """The plan for one file. git is asked only where something would change, or a merge brought it together."""
    again = set(task.merged.claims.get(one.path, ()))
    again |= set(_citing_a_former_module(ledger, one.contract)) if one.contract else set()
    wanted = flips(ledger, one.contract, again) if one.contract else []
    commits = task.merged.commits if one.path.resolve() in task.merged.files else ()
    joins = [its for commit in commits if (its := committed(start, task.project, commit))]
    since = task.merged.base if joins and task.merged.base else task.against
    base = (committed(start, task.project, since) or start) if wanted or joins else start
    return plan(one, wanted, task.today, base, adopt=task.adopt, joins=joins, again=again)


def _write(task: _Task, planned: WritePlan, start: Contract) -> WritePlan:
    def again() -> WritePlan:
        """From the fresh bytes and the fresh records, under the file's lock."""
        return _plan(task, Ledger.open(task.project, task.checks), load(planned.path, task.project), start)

    return write(planned, again)


# --- evidence blocks -------------------------------------------------------------------------------------------------


def _algorithm(
    ledger: Ledger,
    contract: Contract,
    claim: Claim,
    heads: Sequence[Record],
    entitlement: Entitlement,
    *,
    former: bool = False,
) -> AlgorithmEvidence:
    """The functions under attack and the check, each with its file; the bounds; for a blocker, what is missing.

    `former`: with the names that the check's module had when it ran, which is what stands written.
    """
    functions: dict[tuple[str, str], None] = {}
    for record in heads:
        for dotted in record.attacks:
            found = ledger.sources.function(dotted)
            if found is not None:
                functions[found] = None
        path, _, name = _entry_point(contract, record).rpartition(":")
        if path and name and (ledger.project.root / path).is_file():
            functions[path, name] = None
        if former and _entry_point(contract, record) != record.entry_point:
            functions[record.entry_point.rpartition(":")[0], name] = None
    bounds = tuple(f"{name} {threshold}" for name, threshold in claim.thresholds.items()) if functions else ()
    return AlgorithmEvidence(tuple(functions), bounds, _blocker(claim, entitlement))


def _citing_a_former_module(ledger: Ledger, contract: Contract) -> Iterator[str]:
    """Claims whose evidence names the check's module as it was called before: another branch wrote it there."""
    folder = ledger.project.falsifiers
    if not contract.metadata.formerly or not folder.is_relative_to(ledger.project.root):
        return
    place = PurePosixPath(folder.relative_to(ledger.project.root).as_posix())
    former = {str(place / f"{module_name(stem)}.py") for stem in contract.stems} - {
        str(place / f"{module_name(contract.id)}.py")
    }
    for claim in contract.claims:
        block = claim.algorithm_evidence
        paths = texts_of(block.get("file_paths")) if isinstance(block, Mapping) else texts_of(block)
        if any(path.partition("::")[0] in former for path in paths):
            yield claim.id


def _entry_point(contract: Contract, record: Record) -> str:
    """Where the record's check stands, under the name that its module has today."""
    path, _, name = record.entry_point.rpartition(":")
    module = PurePosixPath(path)
    former = {module_name(stem) for stem in contract.metadata.formerly}
    return f"{module.with_stem(module_name(contract.id))}:{name}" if module.stem in former else record.entry_point


def _blocker(claim: Claim, entitlement: Entitlement) -> str:
    if entitlement.status is not Status.BLOCKER_FIXTURE_ABSENT:
        return ""
    if claim.blocked_on:
        return f"blocked on {', '.join(claim.blocked_on)}"
    told = [f"{s.cell}: {s.reason.partition(': ')[2]}" for s in entitlement.cells if s.verdict is Verdict.BLOCKED]
    return f"missing on {'; '.join(told)}"


def _functional(claim: Claim, entitlement: Entitlement, heads: Sequence[Record]) -> tuple[str, ...]:
    by_digest = {record.digest: record for record in heads}
    return tuple(
        _line(claim, state, figures(by_digest[state.head].measurements))
        for state in entitlement.cells
        if state.required
    )


def _discharge(claim: Claim, entitlement: Entitlement) -> tuple[str, ...]:
    return tuple(_line(claim, state, state.settled_by) for state in entitlement.cells if state.required)


def _line(claim: Claim, state: CellState, seen: str) -> str:
    return f"{state.cell} · {state.verified_at[:10]} · {seen} · pv falsify --id {claim.id}"


def figures(measurements: Sequence[MeasurementRecord]) -> str:
    """`cosine 0.9999998, bits_equal 1`: a few figures, at most seven digits each."""
    told = [f"{m.name} {_number(plain(m.value))}" for m in measurements[:MOST_FIGURES]]
    more = len(measurements) - MOST_FIGURES
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


def _number(value: float) -> str:
    return f"{value:.7g}"
