"""PV401 to PV419: what is written of a claim's standing, against its evidence and against itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pv.contract.claims import status_of, text_of, written_status
from pv.contract.codes import OWN_SHAPE
from pv.contract.near import nearest
from pv.contract.vocabulary import Status
from pv.rules.facts import Facts
from pv.rules.finding import Finding, Loc
from pv.rules.view import Entry, View

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NEEDS_ALGORITHM = (Status.BLOCKER_FIXTURE_ABSENT, Status.PARTIAL_ALGORITHM_LEVEL)
_NEEDS_FUNCTIONAL = (Status.FUNCTIONAL, Status.DISCHARGED)
_RUNGS = ", ".join(status.value for status in Status)
_NOT_EVIDENCE = frozenset({"status", "last_verified"})
# What a document says of itself -> the rung that each of its falsifiers must stand on.
_DOCUMENT_RUNGS = {
    "BOUND": Status.BLOCKER_FIXTURE_ABSENT,
    "PARTIAL_ALGORITHM_LEVEL": Status.PARTIAL_ALGORITHM_LEVEL,
    "ACTIVE_ALGORITHM_LEVEL": Status.PARTIAL_ALGORITHM_LEVEL,
    "FUNCTIONAL": Status.FUNCTIONAL,
    "ACTIVE_FUNCTIONAL": Status.FUNCTIONAL,
    "ACTIVE_RUNTIME": Status.FUNCTIONAL,
    "DISCHARGED": Status.DISCHARGED,
    "COMPLETE": Status.DISCHARGED,
}


def inflated(view: View) -> Iterator[Finding]:
    """A status above what the records on disk entitle to."""
    for judged in _judged(view):
        written, facts = judged.written, judged.facts
        if written is not None and written.rung > facts.entitled.rung:
            because = f": {facts.reason}" if facts.reason else ""
            yield Finding(
                judged.place,
                f"status inflation: {written} is written, the evidence on disk entitles to {facts.entitled}{because}",
                expected=f"at most {facts.entitled}",
                found=written.value,
                help=f"statuses are earned: run `pv falsify --id {judged.claim_id}`; `pv settle` writes what is earned",
            )


def deflated(view: View) -> Iterator[Finding]:
    """A status below what the records on disk entitle to."""
    for judged in _judged(view):
        entitled = judged.facts.entitled
        if (judged.written or Status.UNBOUND).rung < entitled.rung and judged.known_word:
            found = judged.written.value if judged.written else "nothing"
            yield Finding(
                judged.place,
                f"{found} is written, the evidence on disk entitles to {entitled}",
                expected=entitled.value,
                found=found,
                help="`pv settle` writes it",
            )


def stale(view: View) -> Iterator[Finding]:
    """Evidence that no longer speaks of this code. The status is kept, and shown as what it is."""
    for judged in _judged(view):
        written, facts = judged.written, judged.facts
        if facts.stale and written is not None and written.rung > Status.UNBOUND.rung:
            yield Finding(
                judged.place,
                f"{written} is stale: {facts.stale}",
                expected="evidence of the code as it is",
                found="evidence of an earlier state",
                help=f"`pv falsify --id {judged.claim_id}` runs it again",
            )


def missing_records(view: View) -> Iterator[Finding]:
    """Records that the contract points to and the store does not hold."""
    for judged in _judged(view):
        for digest in judged.facts.records_missing:
            if not digest.startswith("sha256:"):
                continue  # other people's evidence in words
            yield Finding(
                _place_of(judged.entry, judged.loc, digest),
                f"the evidence record {digest[:19]}… is not in the store",
                expected=f"a record of that digest below {view.project.evidence.name}/",
                found="nothing",
                help="`pv evidence import` brings it in; `pv settle` writes what the records at hand support",
            )


def unchecked(view: View) -> Iterator[Finding]:
    """A claim that no code attacks, and nobody says why."""
    for judged in _judged(view):
        if judged.facts.has_check is False and not judged.entry.get("blocked_on"):
            yield Finding(
                (*judged.loc, "id"),
                f"{judged.claim_id} has neither a check nor a blocker",
                expected=f"a check registered below {view.project.falsifiers.name}/, or `blocked_on:`",
                found="neither",
                help="register a check (`@falsifier`), or name in `blocked_on` what it waits for",
            )


class _Judged(NamedTuple):
    claim_id: str
    entry: Entry
    loc: Loc
    place: Loc  # of the status, or of the id where none is written
    written: Status | None
    known_word: bool  # False for a status that is none of our words: it is not overwritten without being asked
    facts: Facts


def _judged(view: View) -> Iterator[_Judged]:
    """The claims that the rooms above know something of."""
    if not view.facts:
        return
    stem = view.loaded.stem
    for loc, entry in view.claims:
        claim_id = text_of(entry.get("id"))
        facts = view.facts.get((stem, claim_id))
        if facts is not None:
            word, place = written_status(entry, loc)
            written = status_of(word)
            known = word is None or written is not None
            yield _Judged(claim_id, entry, loc, place or (*loc, "id"), written, known, facts)


def _place_of(entry: Entry, loc: Loc, digest: str) -> Loc:
    heads = entry.get("evidence")
    if isinstance(heads, list) and digest in heads:
        return (*loc, "evidence", heads.index(digest))
    return (*loc, "evidence")


# ------------------------------------------------------------------------------------ the text against itself


def without_evidence(view: View) -> Iterator[Finding]:
    """No rung without its block."""
    for loc, entry in view.own:
        word, place = written_status(entry, loc)
        status = status_of(word)
        if status is None or place is None:
            continue
        needed = [("algorithm_evidence", status in _NEEDS_ALGORITHM or status in _NEEDS_FUNCTIONAL)]
        needed.append(("functional_evidence", status in _NEEDS_FUNCTIONAL))
        lacking = [name for name, wanted in needed if wanted and not _says_something(entry.get(name))]
        if lacking:
            yield Finding(
                place,
                f"{status} is claimed with no {' and no '.join(f'`{name}`' for name in lacking)}",
                expected=" and ".join(f"`{name}:`" for name in lacking),
                found="nothing",
                help="a rung comes with its evidence: `pv falsify` writes both",
            )


def _says_something(block: Any) -> bool:
    """Whether a block holds more than a status and a date."""
    if isinstance(block, dict):
        return any(value not in (None, "", [], {}) for key, value in block.items() if key not in _NOT_EVIDENCE)
    return block not in (None, "", [])


def said_twice(view: View) -> Iterator[Finding]:
    """The entry and its evidence block name different statuses."""
    for loc, entry in view.own:
        block = entry.get("algorithm_evidence")
        inner = block.get("status") if isinstance(block, dict) else None
        outer = entry.get("status")
        if inner is not None and outer is not None and inner != outer:
            yield Finding(
                (*loc, "algorithm_evidence", "status"),
                f"two statuses: `{outer}` at the entry and `{inner}` in its evidence",
                expected=f"`{outer}`, or no status here",
                found=f"`{inner}`",
                help="keep one of them",
            )


def unknown_words(view: View) -> Iterator[Finding]:
    """A status that is none of ours: it is kept as it is, and never overwritten without being asked."""
    for loc, entry in view.own:
        word, place = written_status(entry, loc)
        if word is None or place is None or status_of(word) is not None:
            continue
        near = nearest(word.upper(), [status.value for status in Status])
        yield Finding(
            place,
            f"`{word[:60]}` is no status of the ladder",
            expected=f"one of: {_RUNGS}",
            found=f"`{word[:60]}`",
            help=f"did you mean `{near}`?" if near else "pv leaves it alone; `pv falsify --adopt` replaces it",
        )


def no_status(view: View) -> Iterator[Finding]:
    """Every claim says where it stands."""
    for loc, entry in view.claims:
        if written_status(entry, loc)[0] is None and not view.misspelt(loc, "status"):
            yield Finding(
                (*loc, "id"),
                f"{text_of(entry.get('id'))} has no status",
                expected="`status: UNBOUND` until something is earned",
                found="nothing",
                help="add `status: UNBOUND`; `pv falsify` raises it",
            )


def boasting_documents(view: View) -> Iterator[Finding]:
    """The document says more of itself than its falsifiers earned."""
    word = text_of(view.metadata.get("status")).upper()
    wanted = _DOCUMENT_RUNGS.get(word)
    if wanted is None:
        return
    short = []
    for loc, entry in view.falsifiers:
        facts = view.facts.get((view.loaded.stem, text_of(entry.get("id"))))
        status = facts.entitled if facts is not None else status_of(written_status(entry, loc)[0]) or Status.UNBOUND
        if status.rung < wanted.rung:
            short.append(f"{text_of(entry.get('id'))} ({status})")
    if short:
        yield Finding(
            ("metadata", "status"),
            f"metadata.status says {word}, {len(short)} of {len(view.falsifiers)} falsifiers do not: "
            + ", ".join(short[:3])
            + (", …" if len(short) > 3 else ""),
            expected=f"{wanted} or better of every falsifier",
            found=short[0],
            help="say what they earned; PROPOSED and ACTIVE promise no rung",
        )


def unreadable_claims(view: View) -> Iterator[Finding]:
    """A rung on a claim whose own fields pv cannot read: nothing on disk can ever support it."""
    if view.loaded.sound or not any(d.code == OWN_SHAPE for d in view.loaded.diagnostics):
        return
    for loc, entry in view.own:
        word, place = written_status(entry, loc)
        status = status_of(word)
        if status is not None and place is not None and status.rung >= Status.PARTIAL_ALGORITHM_LEVEL.rung:
            yield Finding(
                place,
                f"{status} is claimed in a file whose claims pv cannot read (see {OWN_SHAPE})",
                expected="claims in pv's form, or no status of the ladder",
                found=status.value,
                help=f"mend what {OWN_SHAPE} points at",
            )


def malformed_heads(view: View) -> Iterator[Finding]:
    """A pointer to a record that can point to none."""
    for loc, entry in view.own:
        heads = entry.get("evidence")
        for index, head in enumerate(heads if isinstance(heads, list) else [heads]):
            if isinstance(head, str) and head.startswith("sha256:") and not _DIGEST.fullmatch(head):
                yield Finding(
                    (*loc, "evidence", index) if isinstance(heads, list) else (*loc, "evidence"),
                    "expected sha256: and 64 hexadecimal digits",
                    expected="sha256:<64 hexadecimal digits>",
                    found=f"`{head[:80]}`",
                    help="`pv settle` writes the heads",
                )
