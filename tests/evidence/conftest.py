"""Records to test with: one whole example, and a way to vary it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pv.contract.vocabulary import Cell, DeviceClass, Level, Verdict
from pv.evidence.digests import closure_digest
from pv.evidence.record import (
    ControlRecord,
    Environment,
    ExhaustedRecord,
    FileDigest,
    LogRecord,
    MeasurementRecord,
    OracleRecord,
    Record,
    ThresholdRecord,
)


def hexes(letter: str) -> str:
    return letter * 64


def measurement(name="bits_equal", value=1, *, op="==", bound=1, passed=True, margin=0, repeat=None):
    return MeasurementRecord(name, value, "1", 4096, ThresholdRecord(op, bound, "1", "here", repeat), margin, passed)


CLOSURE = (FileDigest("falsifiers/example_v1.py", hexes("c")), FileDigest("src/engine/files.py", hexes("d")))
RECORD = Record(
    claim_id="FALSIFY-EXAMPLE-001",
    contract_id="example-v1",
    contract_path="contracts/example-v1.yaml",
    contract_version="1.2.0",
    cell=Cell(DeviceClass.CPU, "code"),
    level=Level.LIVE,
    verdict=Verdict.SURVIVED,
    reason="",
    predicted="every bit of a NaN is kept",
    observed="prediction",
    measurements=(
        measurement(),
        measurement("cosine", 0.9999998, op=">=", bound=0.99, margin=0.0099998, repeat=1e-06),
        measurement("ratio", 1.2, op="within", bound=(0.5, 2.0), margin=0.7),
    ),
    controls=(
        ControlRecord(
            "drops NaN bits",
            "bits_equal",
            True,
            "FALSIFIED",
            (measurement(value=0, passed=False, margin=-1), measurement("spread", "NaN", passed=False, margin="NaN")),
        ),
    ),
    attacks=("engine.files.write", "engine.files.read"),
    claim_digest="sha256:" + hexes("a"),
    closure_digest=closure_digest(CLOSURE),
    closure=CLOSURE,
    bound=(FileDigest("fixtures/tiny.bin", hexes("e")),),
    tool_version="0.1.0",
    tool_digest="sha256:" + hexes("f"),
    environment=Environment(
        python="3.11.7",
        platform="Linux-x86_64",
        host="0123456789abcdef",
        cpu="a CPU, née 486",
        threads=2,
        torch="2.13.0",
        numpy="2.4.6",
        flags={"tf32": "off"},
    ),
    seed=20261120,
    started_at="2026-11-20T10:00:00Z",
    duration_seconds=12.5,
    command="pv falsify --id FALSIFY-EXAMPLE-001",
    run_id="5f0c1f5e-6d43-4d4c-9f5e-2f1c8f0f9a11",
    entry_point="falsifiers/example_v1.py:nan_bits_are_kept",
    oracle=OracleRecord("hf", "4.57.0", True),
    exhausted=ExhaustedRecord(280, 280, True),
    notes=("28 layers × 10 slots",),
    log=LogRecord(hexes("9"), 120, "logs/" + hexes("9") + ".log.gz"),
    git_commit="1" * 40,
    git_dirty=True,
)


@pytest.fixture
def make_record():
    """The example with fields replaced: `make_record(verdict=Verdict.ERROR)`."""
    return lambda **changes: replace(RECORD, **changes)
