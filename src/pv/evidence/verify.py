"""Everything in the evidence folder, and every pointer to it -> diagnostics. No check is run, no network, no git.

Integrity only: a record that was forged together with its name and every pointer to it passes here. Git's history, and
signatures, are what tells those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pv.contract.claims import Claim, Contract
from pv.contract.load import Loaded
from pv.contract.project import Project
from pv.diagnostics.model import Diagnostic, Severity, Span
from pv.evidence import statement
from pv.evidence.digests import claim_digest
from pv.evidence.judged import Judged, Judgements
from pv.evidence.ledger import Ledger, open_contracts, retractions
from pv.evidence.rejudge import foreign_bounds
from pv.evidence.statement import StatementError
from pv.evidence.store import LOG_NAME, LOGS, Store


class Explanation(NamedTuple):
    """What `pv explain CODE` tells of a code of this module."""

    severity: Severity
    title: str
    why: str
    fix: str


UNREADABLE, MISNAMED, CONTRADICTION = "PV450", "PV451", "PV452"
FOREIGN_BOUND, BROKEN_CHAIN, NO_RECORD = "PV453", "PV454", "PV455"
WRONG_RECORD, RETRACTED_POINTER, LOST_LOG = "PV456", "PV457", "PV458"
ORPHAN, RETRACTED, LEFTOVER = "PV459", "PV460", "PV461"

_RESTORE = "restore the file from history; records are never edited, a correction is a new record (`pv retract`)"
CODES: Mapping[str, Explanation] = {
    UNREADABLE: Explanation(
        Severity.ERROR, "not a record", "A file in the evidence folder is no evidence record of this kind.", _RESTORE
    ),
    MISNAMED: Explanation(
        Severity.ERROR,
        "a record whose bytes are not what its name says",
        "A record's name carries the digest of its bytes. When they differ, somebody edited one of them.",
        _RESTORE,
    ),
    CONTRADICTION: Explanation(
        Severity.ERROR,
        "a record that contradicts its own figures",
        "Every stored value is compared again with its stored threshold, every control with what it measured.",
        "retract the record and run the check again",
    ),
    FOREIGN_BOUND: Explanation(
        Severity.ERROR,
        "a record judged by bounds that are not the claim's",
        "Its claim digest says that it judged this very claim, but the thresholds in it are other ones.",
        "retract the record and run the check again",
    ),
    BROKEN_CHAIN: Explanation(
        Severity.ERROR,
        "a record that another one names is gone",
        "Records of a cell form a chain, and a retraction names its target; a gap means that a record was deleted.",
        _RESTORE,
    ),
    NO_RECORD: Explanation(
        Severity.ERROR,
        "a contract points to a record that is not there",
        "A status rests on the records that its `evidence` names.",
        "restore the record, import it (`pv evidence import`), or run `pv settle` to write what the others support",
    ),
    WRONG_RECORD: Explanation(
        Severity.ERROR,
        "a contract points to a record of another claim",
        "Evidence of one claim says nothing of another.",
        "run `pv settle` to write the records that belong to the claim",
    ),
    RETRACTED_POINTER: Explanation(
        Severity.ERROR,
        "a contract points to a record that was retracted",
        "A retracted record supports nothing.",
        "run `pv settle` to write what the other records support",
    ),
    LOST_LOG: Explanation(
        Severity.ERROR, "a log that is gone or changed", "A record names its log by digest.", _RESTORE
    ),
    ORPHAN: Explanation(
        Severity.WARNING,
        "a record of no claim",
        "No contract of the project has a claim of this id, so the record supports nothing.",
        "`pv evidence prune` removes it",
    ),
    RETRACTED: Explanation(
        Severity.INFO, "a retracted record", "It stays on disk, with the reason, and supports nothing.", ""
    ),
    LEFTOVER: Explanation(
        Severity.INFO,
        "a leftover of a write that was killed, or a log of no record",
        "It is harmless; the write it belongs to never happened.",
        "`pv evidence prune` removes it",
    ),
}


class Verified(NamedTuple):
    """The findings, and how many records and pointers were looked at."""

    diagnostics: list[Diagnostic]
    records: int
    pointers: int


def verify(project: Project, loaded: Sequence[Loaded], ledger: Ledger | None = None) -> Verified:
    """Re-judge every record on disk and follow every pointer of the loaded contracts.

    With a `ledger`, bytes that were judged before by this very pv are not taken apart again, and the claims' digests
    are the ledger's. The records are those on disk in any case.
    """
    store = Store(project.evidence)
    digest_of = ledger.claim_digest if ledger else claim_digest
    found: list[Diagnostic] = []
    records = _read_all(project, store, ledger.store.cache if ledger else None, found)
    by_digest = {record.digest: (path, record) for path, record in records}
    claims = _claims(loaded)
    for path, record in records:
        known_as = claims.get(record.claim_id, [])
        found += _one_record(project, store, path, record, known_as, digest_of)
        found += _chain(project, path, record, by_digest, {name for _, claim in known_as for name in claim.ids})
    found += _leftovers(project, store, [record for _, record in records])
    undone = retractions(record for _, record in records)
    for digest, retraction in undone.items():
        if digest in by_digest:
            reason = f"{_short(digest)} was retracted by {_short(retraction.digest)}: {retraction.reason}"
            found.append(_diagnostic(project, RETRACTED, by_digest[digest][0], reason))
    pointers = 0
    for one in loaded:
        pointers += sum(len(claim.evidence) for claim in one.contract.claims) if one.contract else 0
        found += _pointers(one, by_digest, undone)
    return Verified(found, len(records), pointers)


def _read_all(project: Project, store: Store, cache: Path | None, found: list[Diagnostic]) -> list[tuple[Path, Judged]]:
    records = []
    judgements = Judgements(store.root, cache)
    for path in store.record_files():
        try:
            record = judgements.of(path)
        except (StatementError, OSError) as error:
            found.append(_diagnostic(project, UNREADABLE, path, str(error)))
            continue
        if f"{path.parent.name}/{path.name}" == record.name:
            records.append((path, record))
        else:
            bytes_say = f"expected the name {Path(record.name)}, which is what the bytes say"
            found.append(_diagnostic(project, MISNAMED, path, f"{bytes_say}; the record or its name was edited"))
    judgements.save()
    return records


def _claims(loaded: Sequence[Loaded]) -> dict[str, list[tuple[Contract, Claim]]]:
    """Every claim by each id that it has or had."""
    claims: dict[str, list[tuple[Contract, Claim]]] = {}
    for contract in open_contracts(loaded):
        for claim in contract.claims:
            for name in claim.ids:
                claims.setdefault(name, []).append((contract, claim))
    return claims


def _one_record(
    project: Project,
    store: Store,
    path: Path,
    record: Judged,
    claims: Sequence[tuple[Contract, Claim]],
    digest_of: Callable[[Contract, Claim], str],
) -> Iterator[Diagnostic]:
    for sentence in record.contradictions:
        yield _diagnostic(project, CONTRADICTION, path, sentence)
    for contract, claim in claims:
        if digest_of(contract, claim) == record.claim_digest:
            for sentence in foreign_bounds(record.bounds, claim):
                yield _diagnostic(project, FOREIGN_BOUND, path, sentence)
    if not claims:
        yield _diagnostic(project, ORPHAN, path, f"no contract has a claim {record.claim_id}")
    try:
        store.log_text(record)
    except FileNotFoundError:
        yield _diagnostic(project, LOST_LOG, path, f"its log {record.log.stored if record.log else ''} is not there")
    except (StatementError, OSError) as error:
        yield _diagnostic(project, LOST_LOG, path, str(error))


def _chain(
    project: Project, path: Path, record: Judged, by_digest: Mapping[str, tuple[Path, Judged]], names: set[str]
) -> Iterator[Diagnostic]:
    """`names` are all ids of the record's claim: a chain goes on through a rename."""
    for word, digest in (("follows", record.previous), ("retracts", record.invalidates)):
        if not digest:
            continue
        if digest not in by_digest:
            yield _diagnostic(project, BROKEN_CHAIN, path, f"it {word} {_short(digest)}, which is not on disk")
            continue
        earlier = by_digest[digest][1]
        if earlier.claim_id not in {record.claim_id, *names}:
            yield _diagnostic(
                project, BROKEN_CHAIN, path, f"it {word} {_short(digest)}, a record of {earlier.claim_id}"
            )
        elif word == "follows" and earlier.cell != record.cell and not record.invalidates:
            yield _diagnostic(project, BROKEN_CHAIN, path, f"it follows {_short(digest)}, a record of {earlier.cell}")


def _leftovers(project: Project, store: Store, records: Sequence[Judged]) -> Iterator[Diagnostic]:
    named = {record.log.stored for record in records if record.log}
    for path in store.leftovers():
        yield _diagnostic(project, LEFTOVER, path, "a write was killed here")
    for path in store.log_files():
        if f"{LOGS}/{path.name}" not in named:
            what = "a log that no record names" if LOG_NAME.fullmatch(path.name) else "not a log"
            yield _diagnostic(project, LEFTOVER, path, what)


def _pointers(
    one: Loaded, by_digest: Mapping[str, tuple[Path, Judged]], undone: Mapping[str, Judged]
) -> Iterator[Diagnostic]:
    for claim in one.contract.claims if one.contract else ():
        for index, digest in enumerate(claim.evidence):
            code, message = _pointer(claim, digest, by_digest, undone)
            if code:
                yield Diagnostic(
                    code,
                    CODES[code].severity,
                    one.display,
                    message,
                    span=_span(one, claim, index),
                    where=f"{claim.loc[0]}[{claim.loc[1]}] ({claim.id})",
                    help=CODES[code].fix,
                )


def _pointer(
    claim: Claim, digest: str, by_digest: Mapping[str, tuple[Path, Judged]], undone: Mapping[str, Judged]
) -> tuple[str, str]:
    if digest not in by_digest:
        return NO_RECORD, f"{claim.id} points to {digest}, which no record on disk has"
    record = by_digest[digest][1]
    if record.claim_id not in claim.ids:
        return WRONG_RECORD, f"{claim.id} points to {_short(digest)}, a record of {record.claim_id}"
    if digest in undone:
        return RETRACTED_POINTER, f"{claim.id} points to {_short(digest)}, retracted: {undone[digest].reason}"
    return "", ""


def _span(one: Loaded, claim: Claim, index: int) -> Span | None:
    if one.document is None:
        return None
    place = (*claim.loc, "evidence")
    listed = isinstance(one.document.get(place), list)
    return one.document.span((*place, index) if listed else place)


def _diagnostic(project: Project, code: str, path: Path, message: str) -> Diagnostic:
    explanation = CODES[code]
    return Diagnostic(code, explanation.severity, project.display(path), message, help=explanation.fix)


def _short(digest: str) -> str:
    return digest.removeprefix(statement.PREFIX)[:12]
