"""Claims and what their records support -> one in-toto Test Result statement; and a statement -> does it hold here.

The statement is derived: a policy engine reads it, pv never does, except to compare it with a tree. Its subjects are
files as `sha256sum` sees them: contracts, the records that decide, the sources that their checks rest on, and the
models and fixtures that the records name.

Source: in-toto attestation framework, Statement v1 and predicate test-result v0.1.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import rfc8785

from pv import __version__
from pv.contract.claims import Claim, Contract
from pv.contract.project import Project
from pv.contract.vocabulary import Status, Verdict
from pv.evidence import statement
from pv.evidence.ledger import Ledger
from pv.evidence.rejudge import contradictions
from pv.evidence.schema import PREDICATE_TYPE, STATEMENT_TYPE
from pv.evidence.statement import StatementError
from pv.ladder.entitlement import Entitlement

TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
MAX_BYTES = 64 * 1024 * 1024
LISTS = ("passedTests", "warnedTests", "failedTests")


class Kind(StrEnum):
    """What a subject is; a model need not be on every machine, everything else must."""

    CONTRACT = "contract"
    RECORD = "record"
    SOURCE = "source"
    BOUND = "bound file"


class AttestationError(ValueError):
    """The bytes are no statement that pv can compare with a tree."""


class Compared(NamedTuple):
    """What a statement and a tree come to: findings in words, how many subjects were compared, and which could not be.

    `told` of the tree's `claims` are in the statement: one that leaves the red ones out is true, and says little.
    """

    findings: tuple[str, ...]
    compared: int
    absent: tuple[str, ...] = ()
    told: int = 0
    claims: int = 0


# --- the tree -> a statement -----------------------------------------------------------------------------------------


def as_statement(project: Project, contracts: Sequence[Contract], ledger: Ledger, ids: Collection[str] = ()) -> bytes:
    """The canonical bytes of the statement, with a final newline. `ids` are the claims to tell of; () is all of them.

    Passed: the claim survived in every required cell, live, and its evidence is fresh. Failed: it was falsified, its
    check is vacuous, or it crashed. Warned: everything else, a claim that nobody ever tried among them.
    """
    chosen = [
        (contract, claim, entitlements[claim.id])
        for contract in contracts
        for entitlements in [ledger.entitlements(contract)]
        for claim in contract.claims
        if not ids or not set(ids).isdisjoint(claim.ids)
    ]
    subjects = _subjects(project, chosen, ledger)
    content: bytes = rfc8785.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": TEST_RESULT,
            "predicate": {
                "result": _result(lists := _lists(chosen)),
                "configuration": _configuration(project, chosen),
                **lists,
            },
        }
    )
    return content + b"\n"


Chosen = tuple[Contract, Claim, Entitlement]


def _lists(chosen: Iterable[Chosen]) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {name: [] for name in LISTS}
    for contract, claim, entitlement in chosen:
        lists[_list_of(entitlement)].append(f"{contract.id}::{claim.id}")
    return {name: sorted(names) for name, names in lists.items()}


def _list_of(entitlement: Entitlement) -> str:
    if entitlement.verdict in (Verdict.FALSIFIED, Verdict.VACUOUS, Verdict.ERROR):
        return "failedTests"
    live = entitlement.status in (Status.FUNCTIONAL, Status.DISCHARGED)
    passed = entitlement.verdict is Verdict.SURVIVED and live and not entitlement.stale
    return "passedTests" if passed else "warnedTests"


def _result(lists: Mapping[str, Sequence[str]]) -> str:
    """PASSED only where something passed: zero tests are not success."""
    if lists["failedTests"]:
        return "FAILED"
    return "WARNED" if lists["warnedTests"] or not lists["passedTests"] else "PASSED"


def _subjects(project: Project, chosen: Sequence[Chosen], ledger: Ledger) -> list[dict[str, Any]]:
    found: dict[str, tuple[Kind, str]] = {}
    for contract, claim, entitlement in chosen:
        found[_name(project, contract.path)] = Kind.CONTRACT, _file_digest(contract.path)
        heads = [ledger.by_digest[digest] for digest in entitlement.heads]
        for record in sorted(heads, key=lambda each: each.started_at):
            path = ledger.store.root / record.path
            found[_name(project, path)] = Kind.RECORD, _file_digest(path)
            found.update({name: (Kind.BOUND, sha256) for name, sha256 in record.bound.items()})
        if heads and not entitlement.stale:
            found.update(_sources(project, ledger, contract, claim))
    return [
        {"name": name, "digest": {"sha256": sha256}, "annotations": {"kind": kind.value}}
        for name, (kind, sha256) in sorted(found.items())
    ]


def _sources(
    project: Project, ledger: Ledger, contract: Contract, claim: Claim
) -> Iterator[tuple[str, tuple[Kind, str]]]:
    """The files of the closure, by their bytes: digests of closures are of meanings, which nobody else can compute."""
    closure = ledger.closure(contract, claim)
    for file in closure.files if closure else ():
        path = project.root / closure.today.get(file.path, file.path) if closure else project.root
        if path.is_file():
            yield _name(project, path), (Kind.SOURCE, _file_digest(path))


def _configuration(project: Project, chosen: Sequence[Chosen]) -> list[dict[str, Any]]:
    """What the tests were: the contracts, at which commit, judged by which pv."""
    paths = sorted({contract.path for contract, _, _ in chosen})
    told: list[dict[str, Any]] = [
        {"name": _name(project, path), "digest": {"sha256": _file_digest(path)}} for path in paths
    ]
    commit = _git(project.root, "rev-parse", "HEAD")
    if commit:
        dirty = bool(_git(project.root, "status", "--porcelain", "--untracked-files=no"))
        told.append({"name": "git", "digest": {"gitCommit": commit}, "annotations": {"dirty": dirty}})
    return [*told, {"name": "pv", "annotations": {"version": __version__}}]


def _name(project: Project, path: Path) -> str:
    path = path.resolve()
    return path.relative_to(project.root).as_posix() if path.is_relative_to(project.root) else path.name


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def in_words(content: bytes) -> str:
    """`WARNED: 3 passed, 1 warned, 0 failed; 12 subjects`."""
    data = parsed(content)
    told = ", ".join(f"{len(data['predicate'][name])} {name.removesuffix('Tests')}" for name in LISTS)
    return f"{data['predicate']['result']}: {told}; {len(data['subject'])} subjects"


# --- a statement -> the tree -----------------------------------------------------------------------------------------


def compare(content: bytes, project: Project, contracts: Sequence[Contract], ledger: Ledger) -> Compared:
    """Whether a statement of ours holds of this tree. Raises AttestationError for bytes that are none."""
    data = parsed(content)
    if data.get("predicateType") == PREDICATE_TYPE:
        return _compare_record(content, ledger)
    if data.get("predicateType") != TEST_RESULT:
        raise AttestationError(
            f"expected predicateType {TEST_RESULT} or {PREDICATE_TYPE}, found {data.get('predicateType')!r}"
        )
    predicate, subjects = data.get("predicate"), data.get("subject")
    if not isinstance(predicate, dict) or not isinstance(subjects, list) or not subjects:
        raise AttestationError("expected a predicate and at least one subject")
    absent, findings = [], []
    for name, sha256, kind in map(_subject, subjects):
        path = project.root / name
        found = _file_digest(path) if path.is_file() and path.resolve().is_relative_to(project.root) else ""
        if not found and kind == Kind.BOUND:
            absent.append(name)
        elif found != sha256:
            findings.append(f"{name}: expected sha256 {sha256[:12]}, found {found[:12] or 'no such file'}")
    findings += _compare_results(predicate, contracts, ledger)
    told = sum(len(_names(predicate.get(name, []))) for name in LISTS)
    claims = sum(len(contract.claims) for contract in contracts)
    return Compared(tuple(findings), len(subjects) - len(absent), tuple(absent), told, claims)


def _compare_results(predicate: Mapping[str, Any], contracts: Sequence[Contract], ledger: Ledger) -> Iterator[str]:
    now = {
        f"{contract.id}::{claim_id}": _list_of(entitlement)
        for contract in contracts
        for claim_id, entitlement in ledger.entitlements(contract).items()
    }
    told = {name: _names(predicate.get(name, [])) for name in LISTS}
    if predicate.get("result") != (expected := _result(told)):
        yield f"result: its tests make it {expected}, found {predicate.get('result')!r}"
    for name, tests in told.items():
        for test in tests:
            if now.get(test) != name:
                yield f"{test}: in {name}, here {'in ' + now[test] if test in now else 'no such claim'}"


def _compare_record(content: bytes, ledger: Ledger) -> Compared:
    try:
        record = statement.from_bytes(content)
    except StatementError as wrong:
        raise AttestationError(str(wrong)) from None
    findings = [] if record.invalidates else list(contradictions(record))
    if record.digest not in ledger.by_digest:
        findings.append(
            f"{record.claim_id}: expected the record {record.digest[:19]} in {ledger.store.root}, found none"
        )
    elif record.digest in ledger.retractions:
        findings.append(f"{record.claim_id}: {record.digest[:19]} was retracted")
    return Compared(tuple(findings), 1)


def parsed(content: bytes) -> dict[str, Any]:
    """The statement in these bytes. Raises AttestationError."""
    if len(content) > MAX_BYTES:
        raise AttestationError(f"expected at most {MAX_BYTES} bytes, found {len(content)}")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as wrong:
        raise AttestationError(
            f"expected JSON, as `pv evidence export --format in-toto` or `sign` writes it, found none: {wrong}"
        ) from None
    if not isinstance(data, dict) or data.get("_type") != STATEMENT_TYPE:
        raise AttestationError(f"expected an in-toto statement (_type {STATEMENT_TYPE})")
    return data


def _subject(data: Any) -> tuple[str, str, str]:
    try:
        name, sha256 = data["name"], data["digest"]["sha256"]
        kind = data.get("annotations", {}).get("kind", "")
    except (TypeError, KeyError, AttributeError):
        raise AttestationError(f"expected a subject with a name and a sha256, found {str(data)[:80]}") from None
    if not isinstance(name, str) or not isinstance(sha256, str):
        raise AttestationError(f"expected a name and a sha256 as texts, found {str(data)[:80]}")
    return name, sha256, kind


def _names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise AttestationError(f"expected a list of names of tests, found {str(value)[:80]}")
    return value
