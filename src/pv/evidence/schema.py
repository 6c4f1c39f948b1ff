"""The JSON shape of an evidence record: an in-toto Statement v1 with pv's predicate, as pydantic models.

`pv.evidence.statement` converts a `Record` to and from these; `json_schema()` is what `schemas/evidence.schema.json`
holds. The shape is frozen: a field may be added in a new minor `schemaVersion`, none may change its meaning.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
# RFC 4151: an identifier that needs no domain to be owned and no server to answer.
PREDICATE_TYPE = "tag:provable-contracts,2026:falsification/v1"
SCHEMA_VERSION = "1.0.0"

HEX = r"^[0-9a-f]{64}$"
Hex = Annotated[str, Field(pattern=HEX)]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]
Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$")]
# Canonical JSON has no NaN and no infinity; they are these words, and fail every threshold.
Figure = float | int | Literal["NaN", "Infinity", "-Infinity"]


class Model(BaseModel):
    """camelCase outside, snake_case inside; unknown fields of a later minor version are left alone."""

    model_config = ConfigDict(frozen=True, strict=True, alias_generator=to_camel, extra="ignore")


class Digest(Model):
    """An in-toto DigestSet with the one algorithm pv uses."""

    sha256: Hex


class SubjectDigest(Model):
    """The digest of a subject: a sha256, or a git commit."""

    sha256: Hex | None = None
    git_commit: Commit | None = None


class Subject(Model):
    """What the statement is about: the claim, the source closure, a bound file, the commit."""

    name: str
    digest: SubjectDigest


class File(Model):
    """A file and the sha256 of its bytes, or of its meaning for Python source."""

    name: Annotated[str, Field(min_length=1)]
    digest: Digest


class Threshold(Model):
    """The bound that judged a measurement."""

    op: Literal["<", "<=", ">", ">=", "==", "!=", "within"]
    value: Figure | Annotated[list[Figure], Field(min_length=2, max_length=2)]
    unit: str
    source: str
    repeat: Figure | None = None


class Measurement(Model):
    """One number that was observed, and how it stands to its bound."""

    name: Annotated[str, Field(min_length=1)]
    value: Figure
    unit: str
    n: Annotated[int, Field(ge=1)]
    threshold: Threshold | None = None
    margin: Figure | None = None
    passed: bool


class Control(Model):
    """A planted defect and whether the named measurement broke under it."""

    name: str
    breaks: str
    caught: bool
    observed: str
    measurements: list[Measurement]


class Oracle(Model):
    """What independent code said of the same input."""

    name: str
    version: str
    agreed: bool


class Exhausted(Model):
    """A bounded proof."""

    bound: Annotated[int, Field(ge=0)]
    cases: Annotated[int, Field(ge=0)]
    complete: bool


class Environment(Model):
    """Facts about the machine; an allow-list."""

    python: str
    platform: str
    host: str
    cpu: str
    threads: int
    torch: str
    numpy: str
    device: str
    driver: str
    flags: dict[str, str]


class Log(Model):
    """The log of the run: its digest, its size in bytes, and where it stands if it was kept."""

    digest: Digest
    size: Annotated[int, Field(ge=0)]
    stored: str


class Claim(Model):
    """Which claim was tried. Identity is `id` and `digest`; the rest helps people find it."""

    id: Annotated[str, Field(min_length=1)]
    digest: Digest
    contract_id: str
    contract_path: str
    contract_version: str


class Cell(Model):
    """Where it was tried."""

    device: Literal["cpu", "cuda", "vulkan", "vulkan-sw", "metal"]
    subject: Annotated[str, Field(min_length=1)]


class Check(Model):
    """The code that tried it."""

    entry_point: str
    attacks: list[str]
    closure_digest: Digest
    closure: list[File]


class Tool(Model):
    """The pv that ran it."""

    name: Literal["pv"]
    version: str
    digest: Digest | None = None


class Vcs(Model):
    """git facts, where there is git; nothing depends on them."""

    commit: Commit
    dirty: bool


class Predicate(Model):
    """What happened."""

    schema_version: Annotated[str, Field(pattern=r"^1\.\d+\.\d+$")]
    run_id: str
    started_on: Moment
    duration_seconds: Annotated[float | int, Field(ge=0)]
    verdict: Literal["SURVIVED", "BLOCKED", "INCONCLUSIVE", "ERROR", "VACUOUS", "FALSIFIED"]
    reason: str
    predicted: str
    observed: Literal["prediction", "if_fails", ""]
    claim: Claim
    cell: Cell
    level: Literal["algorithm", "live"]
    check: Check
    bound_files: list[File]
    measurements: list[Measurement]
    negative_controls: list[Control]
    oracle: Oracle | None = None
    exhausted: Exhausted | None = None
    environment: Environment
    # a text when it is beyond the integers that JSON carries exactly
    seed: int | Annotated[str, Field(pattern=r"^-?\d+$")] | None = None
    command: str
    tool: Tool
    notes: list[str]
    missing: list[str]
    log: Log | None = None
    vcs: Vcs | None = None
    previous_record: Digest | None = None
    invalidates: Digest | None = None


class Statement(Model):
    """An in-toto Statement v1. The digest of a record is the sha256 of the RFC 8785 bytes of this object."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[Subject], Field(min_length=1)]
    predicate_type: Literal["tag:provable-contracts,2026:falsification/v1"]
    predicate: Predicate


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12 keywords that draft-07 readers know too) of a record's file."""
    schema = Statement.model_json_schema(by_alias=True)
    schema["title"] = "pv evidence record"
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
