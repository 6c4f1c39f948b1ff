"""One run of one check in one cell, as a value; `pv.evidence.statement` turns it into canonical bytes and back.

These types are the frozen vocabulary between the runner (which fills them), the store (which writes them) and the
ladder (which reads them). They import neither pydantic nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pv.contract.vocabulary import Cell, Level, Verdict

Number = float | int | str  # a str only for "NaN", "Infinity" and "-Infinity", which canonical JSON cannot carry


@dataclass(frozen=True, slots=True)
class ThresholdRecord:
    """The bound that judged a measurement, as the contract stated it at the time."""

    op: str  # one of < <= > >= == != within
    value: Number | tuple[Number, Number]
    unit: str = "1"
    source: str = ""
    repeat: Number | None = None  # a second record agrees when it is within this distance; None: must be equal


@dataclass(frozen=True, slots=True)
class MeasurementRecord:
    """One number a check observed. Booleans are 0 or 1. `margin` >= 0 iff passed, in units of the threshold."""

    name: str
    value: Number
    unit: str
    n: int  # how many observations the value stands for
    threshold: ThresholdRecord | None
    margin: Number | None
    passed: bool


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """A planted defect, the threshold it should break, and what was observed. `caught` only if that very one failed."""

    name: str
    breaks: str
    caught: bool
    observed: str  # "FALSIFIED", "SURVIVED" or "ERROR: …"
    measurements: tuple[MeasurementRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class OracleRecord:
    """What independent code said of the same input (`hf`, `llama.cpp`): a version and whether it agreed."""

    name: str
    version: str
    agreed: bool


@dataclass(frozen=True, slots=True)
class ExhaustedRecord:
    """A bounded proof: the bound asked for and the number of cases really run."""

    bound: int
    cases: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Environment:
    """Facts about the machine that a second run is compared with. Only this list; never the whole environment."""

    python: str = ""
    platform: str = ""
    host: str = ""  # sha256 prefix of the machine id, never its name
    cpu: str = ""
    threads: int = 0
    torch: str = ""
    numpy: str = ""
    device: str = ""  # the adapter's own name, "" on the CPU
    driver: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)  # deterministic flags, TF32, allow-listed variables


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file the result depends on: path relative to the project root (posix), sha256 of its bytes or its meaning."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class LogRecord:
    """The whole log of the run. Small ones stand compressed beside the record; of larger ones only the digest."""

    sha256: str
    size: int
    stored: str = ""  # path relative to the evidence folder, "" when only the digest was kept


@dataclass(frozen=True, slots=True)
class Record:
    """One immutable evidence record. `digest` is "" until the store has written it."""

    claim_id: str
    contract_id: str  # the contract file's stem
    contract_path: str  # relative to the project root, posix; a hint only, identity is claim_id + claim_digest
    contract_version: str
    cell: Cell
    level: Level
    verdict: Verdict
    reason: str  # why BLOCKED, ERROR, INCONCLUSIVE; "" otherwise
    predicted: str  # the claim's `prediction`
    observed: str  # "prediction" or "if_fails": the branch that came true; "" when neither could be told
    measurements: tuple[MeasurementRecord, ...]
    controls: tuple[ControlRecord, ...]
    attacks: tuple[str, ...]  # dotted names of the functions under attack
    claim_digest: str
    closure_digest: str
    closure: tuple[FileDigest, ...]  # what the closure digest was made from, so that staleness can name the file
    bound: tuple[FileDigest, ...]  # subject files: model weights, fixtures; named, with their own digests
    tool_version: str
    tool_digest: str
    environment: Environment
    seed: int | None  # None: the check never asked for a seed
    started_at: str  # RFC 3339, UTC, "Z"
    duration_seconds: float
    command: str  # verbatim command that reproduces the run
    run_id: str
    entry_point: str = ""  # "falsifiers/apr_cli_trace_save_tensor_v1.py:nan_bits_are_kept"
    oracle: OracleRecord | None = None
    exhausted: ExhaustedRecord | None = None
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # for BLOCKED: what is absent
    log: LogRecord | None = None
    git_commit: str = ""
    git_dirty: bool = False
    previous: str = ""  # digest of the record this one follows in its cell
    invalidates: str = ""  # for `pv retract`: the digest of the record that no longer counts
    digest: str = ""
