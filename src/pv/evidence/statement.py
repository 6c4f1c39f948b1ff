"""Record <-> canonical bytes: an in-toto Statement v1 in RFC 8785 form, named by the sha256 of those very bytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, TypeVar

import rfc8785
from pydantic import ValidationError

from pv.contract.vocabulary import Cell, DeviceClass, Level, Verdict
from pv.evidence import canonical, schema
from pv.evidence.record import (
    ControlRecord,
    Environment,
    ExhaustedRecord,
    FileDigest,
    LogRecord,
    MeasurementRecord,
    Number,
    OracleRecord,
    Record,
    ThresholdRecord,
)

PREFIX = "sha256:"
MAX_BYTES = 8 * 1024 * 1024  # a record is text about one run; its log stands elsewhere
MAX_EXACT = 2**53 - 1  # the largest integer that every JSON reader keeps
ENVIRONMENT = tuple(field.name for field in fields(Environment))
T = TypeVar("T")


class StatementError(ValueError):
    """A record that cannot be written, or bytes that are no record. The sentence says what was expected and found."""


def to_bytes(record: Record) -> bytes:
    """The RFC 8785 bytes of the record's statement, without a final newline. `record.digest` is not part of them.

    Raises StatementError where a value cannot be carried (a digest that is none, an integer beyond 2**53).
    """
    try:
        statement = schema.Statement.model_validate(_statement(record))
        return canonical.dumps(statement.model_dump(by_alias=True, exclude_none=True))
    except ValidationError as error:
        raise StatementError(f"record of {record.claim_id}: {_first(error)}") from error
    except rfc8785.CanonicalizationError as error:
        raise StatementError(f"record of {record.claim_id}: expected values that JSON can carry: {error}") from error


def from_bytes(content: bytes, *, canonical: bool = True) -> Record:
    """The record in these bytes (with or without a final newline), with its digest filled in.

    Raises StatementError: not JSON, not our statement, a schemaVersion whose major is not 1, a value of the wrong type,
    or bytes that are not in canonical form (which `canonical=False` leaves unchecked: five times faster).
    """
    body = content.removesuffix(b"\n")
    statement = _parse(body)
    record = _record(statement["predicate"], digest(body))
    if canonical and _known(statement["predicate"]["schemaVersion"]) and to_bytes(record) != body:
        raise StatementError(
            "expected canonical JSON (RFC 8785) with the fields of schemaVersion "
            f"{schema.SCHEMA_VERSION} only, found bytes that change when written again"
        )
    return record


def from_known_bytes(content: bytes, known: str) -> Record | None:
    """The record in bytes that `from_bytes` has taken before, which their digest shows; None for any others.

    They are not held to the schema again: a third of the time.
    """
    body = content.removesuffix(b"\n")
    if digest(body) != known:
        return None
    return _record(json.loads(body, parse_int=_integer)["predicate"], known)


def digest(content: bytes) -> str:
    """`sha256:…` of canonical bytes; one final newline is not part of them."""
    return PREFIX + hashlib.sha256(content.removesuffix(b"\n")).hexdigest()


def number(value: float | int) -> Number:
    """The value as a record carries it: NaN and the infinities become their words, a huge integer a float."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if abs(value) <= MAX_EXACT else float(value)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def plain(value: Number) -> float | int:
    """The number behind a recorded value: the words become NaN and the infinities."""
    return float(value) if isinstance(value, str) else value


def _parse(body: bytes) -> dict[str, Any]:
    """The statement in these bytes, as plain data that the schema has passed."""
    if len(body) > MAX_BYTES:
        raise StatementError(f"expected a record of at most {MAX_BYTES} bytes, found {len(body)}")
    try:
        data: dict[str, Any] = json.loads(
            body.decode("utf-8"), parse_constant=_refuse_constant, parse_int=_integer, object_pairs_hook=_unique
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise StatementError(f"expected JSON in UTF-8: {error}") from error
    _check_head(data)
    try:
        schema.Statement.model_validate(data)
    except ValidationError as error:
        raise StatementError(_first(error)) from error
    _check_moment(data["predicate"]["startedOn"])
    return data


def _check_head(data: Any) -> None:
    """Say first what is most wrong: another kind of statement, or one from a later pv."""
    if not isinstance(data, dict):
        raise StatementError(f"expected a JSON object, found {type(data).__name__}")
    for key, expected in (("_type", schema.STATEMENT_TYPE), ("predicateType", schema.PREDICATE_TYPE)):
        if data.get(key) != expected:
            raise StatementError(f"expected {key} {expected!r}, found {data.get(key)!r}")
    predicate = data.get("predicate")
    version = predicate.get("schemaVersion") if isinstance(predicate, dict) else None
    if not isinstance(version, str) or version.partition(".")[0] != schema.SCHEMA_VERSION.partition(".")[0]:
        raise StatementError(
            f"expected schemaVersion {schema.SCHEMA_VERSION.partition('.')[0]}.x, found {version!r}; "
            "a later pv may have written it"
        )


def _check_moment(text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise StatementError(f"predicate.startedOn: expected an existing moment, found {text!r}") from error


def _known(version: str) -> bool:
    """Whether this pv knows every field of that schema version."""
    return tuple(map(int, version.split("."))) <= tuple(map(int, schema.SCHEMA_VERSION.split(".")))


def _refuse_constant(word: str) -> None:
    raise StatementError(f'expected a JSON number, found {word}; a record writes "NaN" and "Infinity" as text')


def _integer(text: str) -> int | float:
    """RFC 8785 writes the float 1e20 with 21 digits; beyond 2**53 a JSON number is a float again."""
    return int(text) if len(text) <= 17 and abs(int(text)) <= MAX_EXACT else float(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [name for name, _ in pairs]
        raise StatementError(f"key {next(n for n in names if names.count(n) > 1)!r} stands twice in one object")
    return data


def _first(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False)
    problem = next((p for p in problems if p["loc"][:1] == ("predicate",)), problems[0])  # subjects only repeat it
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}, found {str(problem.get('input'))[:80]!r}"


# --- Record -> statement ---------------------------------------------------------------------------------------------


def _statement(record: Record) -> dict[str, Any]:
    claim, closure = _digest_set(record.claim_digest), _digest_set(record.closure_digest)
    subject: list[dict[str, Any]] = [
        {"name": f"claim:{record.claim_id}", "digest": claim},
        {"name": f"closure:{record.claim_id}", "digest": closure},
        *map(_file, record.bound),
    ]
    if record.git_commit:
        subject.append({"name": "git", "digest": {"gitCommit": record.git_commit}})
    return {
        "_type": schema.STATEMENT_TYPE,
        "subject": subject,
        "predicateType": schema.PREDICATE_TYPE,
        "predicate": _predicate(record, claim, closure),
    }


def _predicate(record: Record, claim: dict[str, str], closure: dict[str, str]) -> dict[str, Any]:
    return {
        "schemaVersion": schema.SCHEMA_VERSION,
        "runId": record.run_id,
        "startedOn": record.started_at,
        "durationSeconds": record.duration_seconds,
        "verdict": record.verdict.value,
        "reason": record.reason,
        "predicted": record.predicted,
        "observed": record.observed,
        "claim": {
            "id": record.claim_id,
            "digest": claim,
            "contractId": record.contract_id,
            "contractPath": record.contract_path,
            "contractVersion": record.contract_version,
        },
        "cell": {"device": record.cell.device.value, "subject": record.cell.subject},
        "level": record.level.value,
        "check": {
            "entryPoint": record.entry_point,
            "attacks": list(record.attacks),
            "closureDigest": closure,
            "closure": [_file(file) for file in record.closure],
        },
        "boundFiles": [_file(file) for file in record.bound],
        "measurements": [_measurement(m) for m in record.measurements],
        "negativeControls": [_control(control) for control in record.controls],
        "oracle": _optional(record.oracle, lambda o: {"name": o.name, "version": o.version, "agreed": o.agreed}),
        "exhausted": _optional(
            record.exhausted, lambda e: {"bound": e.bound, "cases": e.cases, "complete": e.complete}
        ),
        "environment": _environment(record.environment),
        "seed": _seed(record.seed),
        "command": record.command,
        "tool": {
            "name": "pv",
            "version": record.tool_version,
            "digest": _digest_set(record.tool_digest) if record.tool_digest else None,
        },
        "notes": list(record.notes),
        "missing": list(record.missing),
        "log": _optional(
            record.log, lambda log: {"digest": {"sha256": log.sha256}, "size": log.size, "stored": log.stored}
        ),
        "vcs": {"commit": record.git_commit, "dirty": record.git_dirty} if record.git_commit else None,
        "previousRecord": _digest_set(record.previous) if record.previous else None,
        "invalidates": _digest_set(record.invalidates) if record.invalidates else None,
    }


def _optional(value: T | None, write: Any) -> Any:
    return None if value is None else write(value)


def _digest_set(text: str) -> dict[str, str]:
    """`sha256:…` -> the DigestSet; the models refuse what is no digest."""
    return {"sha256": text.removeprefix(PREFIX) if text.startswith(PREFIX) else f"(no {PREFIX} prefix) {text}"}


def _file(file: FileDigest) -> dict[str, Any]:
    return {"name": file.path, "digest": {"sha256": file.sha256}}


def _threshold(threshold: ThresholdRecord) -> dict[str, Any]:
    value = threshold.value
    return {
        "op": threshold.op,
        "value": [_figure(v) for v in value] if isinstance(value, tuple) else _figure(value),
        "unit": threshold.unit,
        "source": threshold.source,
        "repeat": _optional(threshold.repeat, _figure),
    }


def _measurement(measurement: MeasurementRecord) -> dict[str, Any]:
    return {
        "name": measurement.name,
        "value": _figure(measurement.value),
        "unit": measurement.unit,
        "n": measurement.n,
        "threshold": _optional(measurement.threshold, _threshold),
        "margin": _optional(measurement.margin, _figure),
        "passed": measurement.passed,
    }


def _figure(value: Number) -> Number:
    return value if isinstance(value, str) else number(value)


def _control(control: ControlRecord) -> dict[str, Any]:
    return {
        "name": control.name,
        "breaks": control.breaks,
        "caught": control.caught,
        "observed": control.observed,
        "measurements": [_measurement(m) for m in control.measurements],
    }


def _environment(environment: Environment) -> dict[str, Any]:
    return {
        "python": environment.python,
        "platform": environment.platform,
        "host": environment.host,
        "cpu": environment.cpu,
        "threads": environment.threads,
        "torch": environment.torch,
        "numpy": environment.numpy,
        "device": environment.device,
        "driver": environment.driver,
        "flags": dict(environment.flags),
    }


def _seed(seed: int | None) -> int | str | None:
    return seed if seed is None or abs(seed) <= MAX_EXACT else str(seed)


# --- statement -> Record ---------------------------------------------------------------------------------------------


def _record(p: Mapping[str, Any], own_digest: str) -> Record:
    """The record that a predicate tells, which the schema has passed: what must be there is there, as it must be."""
    claim, cell, check, tool, vcs = p["claim"], p["cell"], p["check"], p["tool"], p.get("vcs")
    seed = p.get("seed")
    return Record(
        claim_id=claim["id"],
        contract_id=claim["contractId"],
        contract_path=claim["contractPath"],
        contract_version=claim["contractVersion"],
        cell=Cell(DeviceClass(cell["device"]), cell["subject"]),
        level=Level(p["level"]),
        verdict=Verdict(p["verdict"]),
        reason=p["reason"],
        predicted=p["predicted"],
        observed=p["observed"],
        measurements=_measurements(p["measurements"]),
        controls=tuple(_read_control(control) for control in p["negativeControls"]),
        attacks=tuple(check["attacks"]),
        claim_digest=PREFIX + claim["digest"]["sha256"],
        closure_digest=PREFIX + check["closureDigest"]["sha256"],
        closure=_files(check["closure"]),
        bound=_files(p["boundFiles"]),
        tool_version=tool["version"],
        tool_digest=_prefixed(tool.get("digest")),
        environment=Environment(**{name: p["environment"][name] for name in ENVIRONMENT}),
        seed=None if seed is None else int(seed),
        started_at=p["startedOn"],
        duration_seconds=p["durationSeconds"],
        command=p["command"],
        run_id=p["runId"],
        entry_point=check["entryPoint"],
        oracle=_optional(p.get("oracle"), lambda o: OracleRecord(o["name"], o["version"], o["agreed"])),
        exhausted=_optional(p.get("exhausted"), lambda e: ExhaustedRecord(e["bound"], e["cases"], e["complete"])),
        notes=tuple(p["notes"]),
        missing=tuple(p["missing"]),
        log=_optional(p.get("log"), lambda log: LogRecord(log["digest"]["sha256"], log["size"], log["stored"])),
        git_commit=vcs["commit"] if vcs else "",
        git_dirty=vcs["dirty"] if vcs else False,
        previous=_prefixed(p.get("previousRecord")),
        invalidates=_prefixed(p.get("invalidates")),
        digest=own_digest,
    )


def _prefixed(value: Mapping[str, str] | None) -> str:
    return PREFIX + value["sha256"] if value else ""


def _files(files: Sequence[Mapping[str, Any]]) -> tuple[FileDigest, ...]:
    return tuple(FileDigest(file["name"], file["digest"]["sha256"]) for file in files)


def _measurements(items: Sequence[Mapping[str, Any]]) -> tuple[MeasurementRecord, ...]:
    return tuple(
        MeasurementRecord(
            m["name"],
            m["value"],
            m["unit"],
            m["n"],
            _optional(m.get("threshold"), _read_threshold),
            m.get("margin"),
            m["passed"],
        )
        for m in items
    )


def _read_threshold(t: Mapping[str, Any]) -> ThresholdRecord:
    value = tuple(t["value"]) if isinstance(t["value"], list) else t["value"]
    return ThresholdRecord(t["op"], value, t["unit"], t["source"], t.get("repeat"))


def _read_control(c: Mapping[str, Any]) -> ControlRecord:
    return ControlRecord(c["name"], c["breaks"], c["caught"], c["observed"], _measurements(c["measurements"]))
