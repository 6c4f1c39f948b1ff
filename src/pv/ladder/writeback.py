"""Flips of claims and a loaded contract -> the few text edits that write them, proven, and put on disk atomically.

pv owns these places and no others: status, `last_verified`, `evidence`, the three evidence blocks of entries it flips,
`metadata.version`, one changelog entry. Everything else keeps its bytes. A place that cannot be edited safely is
refused, with the lines that a person would write there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pv.contract.claims import Claim, Contract
from pv.contract.load import Loaded, of_document
from pv.contract.meaning import ChangeKind, compare, demanded
from pv.contract.project import Profile
from pv.contract.vocabulary import Bump, Status
from pv.document import files, prove, reader
from pv.document.edits import EditError, unified_diff
from pv.document.files import Changed, NotWritten
from pv.document.limits import Unreadable
from pv.document.prove import NotProven
from pv.document.reader import Document
from pv.ladder.changelog import Entry, add_entry
from pv.ladder.draft import Block, Draft, Loc, Unsafe, render
from pv.ladder.versions import VersionError, at_least, next_version

# Our own lines of functional_evidence and discharge_evidence: a cell, a date, what was seen, how to run it again.
OURS = re.compile(r"(?:cpu|cuda|vulkan|vulkan-sw|metal) · [^·]+ · \d{4}-\d\d-\d\d · .*pv falsify --id \S+")
VERSION: Loc = ("metadata", "version")


@dataclass(frozen=True, slots=True)
class AlgorithmEvidence:
    """What the check is: the functions under attack and the check itself, as (file, name), and the bounds it holds."""

    functions: tuple[tuple[str, str], ...] = ()
    invariants: tuple[str, ...] = ()
    notes: str = ""

    @property
    def lists(self) -> dict[str, list[str]]:
        """The three lists of the block, by key; a list with nothing in it is left out."""
        found = {
            "file_paths": list(dict.fromkeys(path for path, _ in self.functions)),
            "function_names": list(dict.fromkeys(name for _, name in self.functions)),
            "invariants_enforced": list(self.invariants),
        }
        return {key: items for key, items in found.items() if items}

    @property
    def citations(self) -> list[str]:
        """The block in the shape of a list: `path::function`, then the bounds; the notes where there is neither."""
        cited = [f"{path}::{name}" for path, name in self.functions]
        return [*cited, *self.invariants] or [note for note in (self.notes,) if note]


@dataclass(frozen=True, slots=True)
class Flip:
    """What a claim's entry must say. `before`: the algorithm evidence that pv wrote there last, if it is known."""

    claim_id: str
    status: Status
    evidence: tuple[str, ...] = ()
    last_verified: str = ""  # YYYY-MM-DD; "" where nothing was run
    algorithm: AlgorithmEvidence = AlgorithmEvidence()
    functional: tuple[str, ...] = ()
    discharge: tuple[str, ...] = ()
    before: AlgorithmEvidence = AlgorithmEvidence()


class ForeignStatus(Unsafe):
    """The status written there is not one of pv's words."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A flip that was not written: why, where, and the lines that a person would write."""

    claim_id: str
    reason: str
    line: int
    patch: str
    foreign_status: bool = False


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What would be written to one file. `after` equals `before` where nothing changes."""

    path: Path
    display: str
    before: bytes
    after: bytes
    written: tuple[Flip, ...] = ()
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    version_before: str = ""
    version_after: str = ""
    moves: tuple[tuple[str, str, str], ...] = ()  # claim id, status before ("" for none), status after

    @property
    def changes(self) -> bool:
        """Whether writing would change the file."""
        return self.before != self.after

    @property
    def diff(self) -> str:
        """The change as a patch."""
        old, new = self.before.decode("utf-8-sig"), self.after.decode("utf-8-sig")
        return unified_diff(self.display, old, new)


Replan = Callable[[], WritePlan]


def plan(
    loaded: Loaded,
    flips: Sequence[Flip],
    today: str,
    base: Contract | None = None,
    *,
    adopt: bool = False,
    joins: Sequence[Contract] = (),
    again: Collection[str] = (),
) -> WritePlan:
    """The plan for one file. Flips that the file says already change nothing.

    `base` is the contract that the version is compared with: the last committed one where there is git, else the one
    at the start of the run (None: this very file). `today` dates a changelog entry of flips that have no date of
    their own. `adopt` overwrites status words that are not pv's. `joins` are the versions that a merge joined: the
    version must move on from each of them. `again` are claims that are written even where they seem to be. Raises
    ValueError for a file whose shape is unsound.
    """
    document, contract = _sound(loaded)
    task = _Task(document, contract, base or contract, today, adopt, tuple(joins))
    wanted = [flip for flip in flips if flip.claim_id in again or not is_written(contract, flip)]
    try:
        done = _write_all(task, wanted)
    except (Unsafe, NotProven, EditError, Unreadable):
        done = _write_each(task, wanted)
    return WritePlan(
        path=loaded.path,
        display=loaded.display,
        before=document.content,
        after=done.after,
        written=done.written,
        refused=done.refused,
        notes=done.notes,
        version_before=contract.metadata.version,
        version_after=_version(done.after, contract),
        moves=_moves(contract, done.written),
    )


def write(plan: WritePlan, replan: Replan | None = None) -> WritePlan:
    """Put a plan on disk: under the file's lock, if the file is still what was planned from. Returns what was written.

    Where somebody else wrote in between, `replan` is asked once for a plan from the fresh bytes, inside the lock, so
    that nobody can come between again. Raises NotWritten (Changed, where there is no `replan`); the old file stands.
    """
    if not plan.changes:
        return plan
    with files.locked(plan.path):
        if _digest(plan.path) != hashlib.sha256(plan.before).hexdigest():
            if replan is None:
                raise Changed(plan.path, "it changed since it was read", "run the command again")
            plan = replan()
        if plan.changes:
            files.compare_and_swap(plan.path, hashlib.sha256(plan.before).hexdigest(), plan.after)
    return plan


class Edited(NamedTuple):
    """A file's bytes after an edit, and what was left as it was, in words."""

    content: bytes
    notes: tuple[str, ...] = ()


def edit(
    loaded: Loaded,
    change: Callable[[Draft], None],
    today: str,
    base: Contract | None = None,
    *,
    now: Contract | None = None,
) -> Edited:
    """The file after a change that pv makes for somebody (a rename), with the version and changelog entry it demands.

    Proven like any other write, and not written yet. `now` is the contract as it will be called. Raises Unsafe,
    EditError or NotProven where the change cannot be made safely, ValueError for a file whose shape is unsound.
    """
    document, contract = _sound(loaded)
    draft = Draft(document)
    change(draft)
    if not draft.edits:
        return Edited(document.content)
    notes = _bump(_Task(document, now or contract, base or contract, today, adopt=False), draft, ())
    return Edited(_proven(draft), tuple(notes))


def is_written(contract: Contract, flip: Flip) -> bool:
    """Whether the file says already what the flip says: status, heads, date, and the blocks that the rung needs."""
    claim = contract.claim(flip.claim_id)
    if claim is None:
        return False
    heads = tuple(head for head in claim.evidence if head.startswith("sha256:"))
    if flip.status is Status.UNBOUND and not flip.evidence and not heads and claim.status_text in (None, ""):
        return True  # nothing was ever earned, and nothing is claimed
    return (
        claim.status is flip.status
        and heads == flip.evidence
        and (not flip.last_verified or claim.last_verified == flip.last_verified)
        and all(_says_something(getattr(claim, name)) for name, _ in _blocks(flip))
    )


# --- several flips ---------------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """One file to be written, and what its version is compared with."""

    document: Document
    contract: Contract
    base: Contract
    today: str
    adopt: bool
    joins: tuple[Contract, ...] = ()


class _Done(NamedTuple):
    """What became of some flips of one file."""

    after: bytes
    written: tuple[Flip, ...] = ()
    refused: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()


def _write_all(task: _Task, flips: Sequence[Flip]) -> _Done:
    """All flips that can be drafted, in one edit with one bump. Raises where the edit as a whole is not proven."""
    draft = Draft(task.document)
    written: list[Flip] = []
    refused: list[Refusal] = []
    notes: list[str] = []
    for flip in flips:
        attempt = draft.fork()
        try:
            claim = _claim_to_write(task, draft, flip)
            notes += [f"{flip.claim_id}: {note}" for note in _write_entry(attempt, claim, flip)]
        except Unsafe as why:
            refused.append(_refusal(flip, why))
            continue
        draft.adopt(attempt)
        written.append(flip)
    if not draft.edits and not task.joins:
        return _Done(task.document.content, (), tuple(refused), tuple(notes))
    notes += _bump(task, draft, written)
    if not draft.edits:
        return _Done(task.document.content, (), tuple(refused), tuple(notes))
    return _Done(_proven(draft), tuple(written), tuple(refused), tuple(notes))


def _write_each(task: _Task, flips: Sequence[Flip]) -> _Done:
    """One flip in the way must not stop the others: find those that can be proven together, and refuse the rest."""
    good: list[Flip] = []
    refused: list[Refusal] = []
    done = _Done(task.document.content)
    for flip in flips:
        try:
            attempt = _write_all(task, [*good, flip])
        except (Unsafe, NotProven, EditError, Unreadable) as why:
            refused.append(_refusal(flip, why if isinstance(why, Unsafe) else Unsafe(str(why))))
            continue
        refused += attempt.refused
        if flip in attempt.written:
            good.append(flip)
            done = attempt
    return done._replace(refused=tuple(refused))


def _claim_to_write(task: _Task, draft: Draft, flip: Flip) -> Claim:
    claim = task.contract.claim(flip.claim_id)
    if claim is None:
        raise Unsafe("the contract has no such claim any more")
    if claim.status is None and claim.status_text and not task.adopt:
        line = draft.line_of(claim.status_loc or claim.loc)
        raise ForeignStatus(
            f"its status {claim.status_text[:60]!r} is no word of the ladder; --adopt replaces it", line
        )
    return claim


# --- one entry -------------------------------------------------------------------------------------------------------


def _write_entry(draft: Draft, claim: Claim, flip: Flip) -> list[str]:
    """Write one flip into a draft. New keys go after the status line, or with a new status after the id."""
    document = draft.document
    here = (*claim.loc, "status")
    inside = (*claim.loc, "algorithm_evidence", "status")
    places = [loc for loc in (here, inside) if document.get(loc) is not None]
    for place in places:
        draft.replace(place, flip.status.value)
    status_new: list[tuple[str, Block]] = [] if places else [("status", flip.status.value)]
    beside = places[0] if places else (*claim.loc, "id")
    date_new = _write_date(draft, claim, flip)
    heads_new = _write_heads(draft, claim, flip)
    blocks_new, notes = _write_blocks(draft, claim, flip)
    if status_new and document.get(here, "absent") is None:
        raise Unsafe("its status is empty", draft.line_of(here))
    if places and beside == inside:
        draft.insert_after(inside, date_new)
        draft.insert_after((*claim.loc, "id"), [*heads_new, *blocks_new])
    else:
        draft.insert_after(beside, [*status_new, *date_new, *heads_new, *blocks_new])
    return notes


def _write_date(draft: Draft, claim: Claim, flip: Flip) -> list[tuple[str, Block]]:
    """`last_verified` where it stands; else it is to be inserted beside the status."""
    if not flip.last_verified:
        return []
    candidates = [(*claim.loc, "last_verified"), (*claim.loc, "algorithm_evidence", "last_verified")]
    places = [loc for loc in candidates if draft.document.get(loc) is not None]
    for place in places:
        draft.replace(place, flip.last_verified)
    return [] if places else [("last_verified", flip.last_verified)]


def _write_heads(draft: Draft, claim: Claim, flip: Flip) -> list[tuple[str, Block]]:
    """`evidence`: our heads after whatever else stands there."""
    loc = (*claim.loc, "evidence")
    written = draft.document.get(loc)
    if written is None:
        return [("evidence", list(flip.evidence))] if flip.evidence else []
    if isinstance(written, dict):
        raise Unsafe("its `evidence` is a mapping, where a list of records is expected", draft.line_of(loc))
    items = _texts(draft, loc, written)
    foreign = [item for item in items if not item.startswith("sha256:")]
    draft.set_list(loc, [*foreign, *flip.evidence])
    return []


def _write_blocks(draft: Draft, claim: Claim, flip: Flip) -> tuple[list[tuple[str, Block]], list[str]]:
    """The evidence blocks that the rung needs: those to insert, and notes on those that were left as they are."""
    new: list[tuple[str, Block]] = []
    notes: list[str] = []
    for name, value in _blocks(flip):
        loc = (*claim.loc, name)
        if draft.document.get(loc) is None:
            if name in (claim.data or {}):
                raise Unsafe(f"its `{name}` is empty", draft.line_of(loc))
            new.append((name, value))
            continue
        attempt = draft.fork()
        try:
            _extend_block(attempt, loc, value, flip)
        except Unsafe as why:
            if not _says_something(draft.document.get(loc)):
                raise
            notes.append(f"`{name}` was left as it is: {why.reason}")  # the rung has its block; only ours is not in it
        else:
            draft.adopt(attempt)
    return new, notes


def _blocks(flip: Flip) -> list[tuple[str, Block]]:
    """The blocks that a rung comes with."""
    algorithm: dict[str, Any] = {**flip.algorithm.lists}
    if flip.algorithm.notes:
        algorithm["notes"] = flip.algorithm.notes
    blocks: list[tuple[str, Block]] = []
    if flip.status.rung >= Status.BLOCKER_FIXTURE_ABSENT.rung:
        blocks.append(("algorithm_evidence", algorithm))
    if flip.status.rung >= Status.FUNCTIONAL.rung:
        blocks.append(("functional_evidence", list(flip.functional)))
    if flip.status is Status.DISCHARGED:
        blocks.append(("discharge_evidence", list(flip.discharge)))
    return [(name, value) for name, value in blocks if value]


def _extend_block(draft: Draft, loc: Loc, value: Block, flip: Flip) -> None:
    """Add ours to a block that is there: foreign text stays, ours of an earlier run is replaced."""
    written = draft.document.get(loc)
    if isinstance(value, dict) and isinstance(written, dict):
        _extend_mapping(draft, loc, written, value, flip)
    elif isinstance(value, dict) and isinstance(written, list):
        items = _texts(draft, loc, written)
        ours = flip.algorithm.citations
        gone = set(flip.before.citations) - set(ours)
        draft.set_list(loc, _joined([item for item in items if item not in gone], ours))
    elif isinstance(value, list) and isinstance(written, list | str):
        items = _texts(draft, loc, written)
        draft.set_list(loc, [*(item for item in items if not OURS.fullmatch(item)), *value])
    elif isinstance(value, list) and isinstance(written, dict):
        if "runs" in written:
            _extend_block(draft, (*loc, "runs"), value, flip)
        else:
            draft.insert_below(loc, [("runs", value)])
    else:
        raise Unsafe("it is one text, which is not ours", draft.line_of(loc))


def _extend_mapping(draft: Draft, loc: Loc, written: dict[str, Any], value: dict[str, Any], flip: Flip) -> None:
    missing: list[tuple[str, Block]] = []
    for key, ours in value.items():
        if key not in written or written[key] is None:
            if key != "notes":  # notes say why, and people say why better
                missing.append((key, ours))
        elif isinstance(ours, list):
            items = _texts(draft, (*loc, key), written[key])
            gone = set(flip.before.lists.get(key, ())) - set(ours)
            draft.set_list((*loc, key), _joined([item for item in items if item not in gone], ours))
    missing = [(key, ours) for key, ours in missing if key not in written]
    if missing and "status" in written:
        draft.insert_after((*loc, "status"), missing)
    elif missing:
        draft.insert_below(loc, missing)


def _joined(kept: Sequence[str], ours: Sequence[str]) -> list[str]:
    return [*kept, *(item for item in ours if item not in kept)]


def _texts(draft: Draft, loc: Loc, written: Any) -> list[str]:
    items = written if isinstance(written, list) else [written]
    if not all(isinstance(item, str) for item in items):
        raise Unsafe("it holds something else than texts", draft.line_of(loc))
    return list(items)


def _says_something(block: Any) -> bool:
    """Whether a block holds more than a status and a date (the rule that validation holds it to)."""
    if isinstance(block, dict):
        said = {key: value for key, value in block.items() if key not in ("status", "last_verified")}
        return any(value not in (None, "", [], {}) for value in said.values())
    return block not in (None, "", [])


# --- the document ----------------------------------------------------------------------------------------------------


def _bump(task: _Task, draft: Draft, written: Sequence[Flip]) -> list[str]:
    """One bump against the base, and its changelog entry. Returns notes on what was left alone."""
    now = _reread(task, draft)
    current, committed = task.contract.metadata.version, task.base.metadata.version
    try:
        version = next_version(current, committed, demanded(compare(task.base, now), task.base.metadata.status))
        for joined in task.joins:
            least = at_least(version, joined.metadata.version)
            bump = demanded(compare(joined, now), joined.metadata.status)
            prose = bump is Bump.PATCH  # people's, and so is its version
            version = next_version(least, joined.metadata.version, Bump.NONE if prose else bump)
    except VersionError as error:
        return [f"metadata.version was left as it is: {error}"]
    if version == current and not draft.edits:
        return []
    if version != current:
        draft.replace(VERSION, version)
    date = max((flip.last_verified for flip in written if flip.last_verified), default=task.today)
    attempt = draft.fork()
    try:
        add_entry(attempt, Entry(version, date, _sentence(task.base, now)))
    except Unsafe as why:
        return [f"the changelog was left as it is: {why.reason}"]
    draft.adopt(attempt)
    return []


def _sentence(base: Contract, now: Contract) -> str:
    """What moved since the base, claims of one move together: `UNBOUND -> FUNCTIONAL: FALSIFY-X-001, FALSIFY-X-002`."""
    moves: dict[str, list[str]] = {}
    renewed: list[str] = []
    renamed: list[str] = []
    added: list[str] = []
    for change in compare(base, now):
        if change.kind is ChangeKind.STATUS and change.what == "status" and change.subject != "metadata":
            moves.setdefault(f"{change.before or 'no status'} -> {change.after or 'no status'}", []).append(
                change.subject
            )
        elif change.kind is ChangeKind.EVIDENCE and change.what == "evidence":
            renewed.append(change.subject)
        elif change.kind is ChangeKind.ADDED and change.what in ("falsifier", "harness"):
            added.append(change.subject)
        elif change.kind is ChangeKind.RENAMED:
            renamed.append(f"{change.before} is {change.after} now")
        elif change.what == "depends_on" and change.subject == "metadata":
            renamed.append(f"depends on {change.after}")
    told = [
        *renamed,
        *([f"new: {_ids(added)}"] if added else []),
        *(f"{move}: {_ids(claims)}" for move, claims in moves.items()),
    ]
    moved = {claim for claims in moves.values() for claim in claims}
    only_renewed = [claim for claim in renewed if claim not in moved]
    if only_renewed:
        told.append(f"evidence renewed: {_ids(only_renewed)}")
    return "; ".join(told) or "evidence blocks corrected"


def _ids(claims: Sequence[str]) -> str:
    """`FALSIFY-X-001, -002, FALSIFY-Y-001`: where only the last part differs from the id before, only that is told."""
    heads = [claim.rpartition("-")[0] for claim in claims]
    return ", ".join(
        claim.removeprefix(head) if index and head and head == heads[index - 1] else claim
        for index, (claim, head) in enumerate(zip(claims, heads, strict=True))
    )


def _reread(task: _Task, draft: Draft) -> Contract:
    """The contract in the edited text."""
    document = reader.parse(draft.document.encode(draft.text()), draft.document.path)
    again = of_document(document, task.contract.path, draft.document.path, Profile.COMPAT)
    if again.contract is None:
        said = "; ".join(diagnostic.message for diagnostic in again.diagnostics)
        raise NotProven(f"the edited file would be no sound contract: {said}")
    return again.contract


def _proven(draft: Draft) -> bytes:
    document = draft.document
    after = document.encode(draft.text())
    prove.proves(document.content, after, draft.data, frozenset(draft.lines))
    return after


def _moves(contract: Contract, written: Sequence[Flip]) -> tuple[tuple[str, str, str], ...]:
    def before(claim_id: str) -> str:
        claim = contract.claim(claim_id)
        return (claim.status_text or "") if claim else ""

    return tuple((flip.claim_id, before(flip.claim_id), flip.status.value) for flip in written)


def _version(content: bytes, contract: Contract) -> str:
    written = reader.parse(content, str(contract.path)).source_text(VERSION)
    return contract.metadata.version if written is None else written


def _refusal(flip: Flip, why: Unsafe) -> Refusal:
    return Refusal(flip.claim_id, why.reason, why.line, _by_hand(flip), isinstance(why, ForeignStatus))


def _by_hand(flip: Flip) -> str:
    """The keys that a person would write into the entry."""
    entries: list[tuple[str, Block]] = [("status", flip.status.value)]
    entries += [("last_verified", flip.last_verified)] if flip.last_verified else []
    entries += [("evidence", list(flip.evidence))] if flip.evidence else []
    lines = [line for key, value in [*entries, *_blocks(flip)] for line in render(key, value, "    ")]
    return "\n".join(f"+{line}" for line in lines) + "\n"


def _sound(loaded: Loaded) -> tuple[Document, Contract]:
    if loaded.document is None or loaded.contract is None:
        raise ValueError(f"expected a contract whose shape is sound, found problems in {loaded.display}")
    return loaded.document, loaded.contract


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise NotWritten(path, f"it cannot be read again: {error.strerror or error}") from error
