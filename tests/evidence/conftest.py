"""Records to test with: one whole example, and a way to vary it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from pv.contract.load import load
from pv.contract.project import Project
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


TOY = """\
metadata:
  version: "1.0.0"
  description: a toy
  status: ACTIVE
  kind: registry
  references: [none]
equations:
  parity:
    formula: a = b
falsification_tests:
  - id: FALSIFY-TOY-001   # the first
    rule: figures agree
    prediction: the cosine is at least 0.99
    if_fails: they do not
    binds_to: parity
    thresholds:
      cosine: {op: ">=", value: 0.99, repeat: 1.0e-6}
    status: UNBOUND
    # about the second
  - id: FALSIFY-TOY-002
    rule: figures agree on two devices
    prediction: they agree
    if_fails: they do not
    binds_to: parity
    requires:
      cells: [{device: cpu, subject: code}, {device: cuda, subject: tiny-teacher}]
    precondition: [FALSIFY-TOY-001]
    thresholds:
      cosine: {op: ">=", value: 0.99}
    status: UNBOUND
  - id: FALSIFY-TOY-003
    rule: waits
    prediction: it will do
    if_fails: it will not
    blocked_on: [model-1]
    thresholds:
      cosine: {op: ">=", value: 0.99}
"""
CHECK = "from engine import ops\n\n\ndef agrees(context):\n    return ops.cosine()\n"
ENGINE = "def cosine():\n    return 1.0\n"


class Toy:
    """A project in a folder, with checks, and runs that are only told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("contracts/toy-v1.yaml", TOY)
        self.write("falsifiers/toy_v1.py", CHECK)
        self.write("src/engine/ops.py", ENGINE)
        self.write("src/engine/__init__.py", "")
        self.project = Project(root, falsifiers=root / "falsifiers", evidence=root / "evidence")
        self.contract_path = root / "contracts/toy-v1.yaml"
        self.checked = {"FALSIFY-TOY-001", "FALSIFY-TOY-002"}
        self.clock = 0

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def of(self, contract_id: str, claim_id: str):
        """The checks of the project, as discovery would find them."""
        check = SimpleNamespace(
            path=self.root / "falsifiers/toy_v1.py", attacks=("engine.ops.cosine",), data=("fixtures/*.bin",)
        )
        return check if claim_id in self.checked else None

    @property
    def ledger(self):
        from pv.evidence.ledger import Ledger

        return Ledger.open(self.project, self)

    @property
    def loaded(self):
        return load(self.contract_path, self.project)

    @property
    def text(self) -> str:
        return self.contract_path.read_text()

    def claim(self, claim_id: str):
        return self.loaded.contract.claim(claim_id)

    def statuses(self) -> list[str]:
        return [claim.status_text or "" for claim in self.loaded.contract.claims]

    def record(self, claim_id="FALSIFY-TOY-001", *, value=1.0, caught=True, **changes) -> Record:
        """The record of a run now, not in the store."""
        ledger, contract = self.ledger, self.loaded.contract
        claim = contract.claim(claim_id)
        cell = changes.get("cell", Cell(DeviceClass.CPU, "code"))
        closure = ledger.closure(contract, claim)
        threshold = claim.thresholds["cosine"]
        bound = ThresholdRecord(threshold.op, threshold.value, threshold.unit, "here", threshold.repeat)
        passed = value >= threshold.value
        verdict = Verdict.FALSIFIED if not passed else Verdict.SURVIVED if caught else Verdict.VACUOUS
        planted = MeasurementRecord("cosine", 0.0 if caught else 1.0, "1", 1, bound, None, not caught)
        self.clock += 1
        return replace(
            RECORD,
            **{
                "claim_id": claim_id,
                "contract_id": contract.id,
                "contract_path": "contracts/toy-v1.yaml",
                "cell": cell,
                "verdict": verdict,
                "predicted": claim.prediction,
                "observed": {Verdict.SURVIVED: "prediction", Verdict.FALSIFIED: "if_fails"}.get(verdict, ""),
                "measurements": (MeasurementRecord("cosine", value, "1", 7, bound, None, passed),),
                "controls": (
                    ControlRecord("turned", "cosine", caught, "FALSIFIED" if caught else "SURVIVED", (planted,)),
                ),
                "attacks": ("engine.ops.cosine",),
                "claim_digest": ledger.current(contract, claim).claim_digest,
                "closure_digest": closure.digest,
                "closure": closure.files,
                "bound": (),
                "entry_point": "falsifiers/toy_v1.py:agrees",
                "oracle": None,
                "exhausted": None,
                "log": None,
                "seed": None,
                "started_at": f"{datetime(2026, 11, 20) + timedelta(seconds=self.clock):%Y-%m-%dT%H:%M:%SZ}",
                "command": f"pv falsify --id {claim_id}",
                "previous": ledger.previous(contract, claim, cell),
                **changes,
            },
        )

    def run(self, claim_id="FALSIFY-TOY-001", **told) -> Record:
        """A run whose record is kept if it is worth keeping, and what it earns written."""
        record = self.record(claim_id, **told)
        contract = self.loaded.contract
        if self.ledger.worth_keeping(contract, contract.claim(claim_id), record):
            record = self.ledger.store.add(record)
        self.settle()
        return record

    def settle(self, **options):
        from pv.evidence.settle import settle

        (plan,) = settle(self.project, [self.loaded], self, **{"write": True, "today": "2026-11-21", **options})
        return plan

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout

    def commit(self) -> None:
        if not (self.root / ".git").exists():
            self.git("init", "-q")
            self.git("config", "user.email", "a@b.c")
            self.git("config", "user.name", "a")
        self.git("add", "-A")
        self.git("commit", "-qm", "x", "--allow-empty")


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path / "toy")
