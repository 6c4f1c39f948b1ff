"""A project of two contracts whose runs are only told: a red with its stage, a drift, a known failure.

`town(root)` makes it; `Town.tell` adds a record as a run of that moment would have written it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pv.contract.load import load_all
from pv.contract.project import Project
from pv.contract.vocabulary import Cell, DeviceClass, Level, Verdict
from pv.evidence.closure import CheckSource
from pv.evidence.ledger import Ledger
from pv.evidence.record import ControlRecord, Environment, FileDigest, MeasurementRecord, OracleRecord, Record
from pv.evidence.retract import retract
from pv.falsify.api import Measurement
from pv.falsify.discovery import find_checks
from pv.falsify.judge import judge, threshold_record, verdict
from pv.report.story import Story, gather

CPU = Cell(DeviceClass.CPU, "code")
CUDA = Cell(DeviceClass.CUDA, "tiny-teacher")

PARITY = """\
metadata:
  version: 1.10
  status: ACTIVE
  kind: pattern
  created: "2026-11-20"
  author: somebody
  description: A GPU serves tokens only while it agrees with `pv run --no-gpu`.
  references: ["https://example.org/paper", "javascript:alert(1)", "a book"]
  depends_on: [words-v1]
equations:
  cosine_parity:
    formula: "cos(g, c) >= 0.99"
    invariants: ["0.99 is an outer bound"]
  speed:
    formula: "t <= 2 s"
proof_obligations:
  - {id: PO-COSINE, type: bound, property: "logits stay near", formal: "cos(g, c) >= 0.99"}
  - {id: PO-NOBODY, type: safety, property: "nobody argues this"}
falsification_tests:
  - id: FALSIFY-PARITY-001
    rule: logits agree
    prediction: the cosine is at least 0.99
    if_fails: serve from the CPU
    binds_to: [cosine_parity, PO-COSINE]
    requires: {cells: [{device: cpu, subject: code}, {device: cuda, subject: tiny-teacher}]}
    thresholds:
      max_abs: {op: "<=", value: 0.01, unit: logits}
      cosine: {op: ">=", value: 0.99, repeat: 1.0e-6, source: equations.cosine_parity}
    status: FUNCTIONAL
  - id: FALSIFY-PARITY-002
    rule: a run is quick
    prediction: it takes at most two seconds
    if_fails: users wait
    binds_to: speed
    thresholds:
      seconds: {op: "<=", value: 2.0, unit: s}
  - id: FALSIFY-PARITY-003
    rule: the argmax agrees
    prediction: both begin with the same token
    if_fails: the answers differ
    precondition: [FALSIFY-PARITY-001]
    known_failing: {owner: me, reason: a tie, since: "2026-11-01"}
    thresholds:
      equal: {op: "==", value: 1, unit: bool}
  - id: FALSIFY-PARITY-004
    rule: needs a model
    prediction: it will agree
    if_fails: it does not
    blocked_on: [model-1]
    thresholds:
      equal: {op: "==", value: 1, unit: bool}
kani_harnesses:
  - {id: KH-PARITY-001, obligation: PO-COSINE, bound: 16, thresholds: {cases: {op: "==", value: 16, unit: cases}}}
"""
WORDS = """\
metadata:
  version: "1.0.0"
  status: DRAFT
  kind: registry
  description: words
  references: [none]
falsification_tests:
  - id: FALSIFY-WORDS-001
    rule: words are words
    prediction: every word is one
    if_fails: it is none
    thresholds:
      words: {op: within, value: [1, 9], unit: words}
"""
CHECKS = """\
from pv.falsify import Control, falsifier, harness


def check(ctx):
    raise AssertionError("a report runs nothing")


def plant(ctx):
    raise AssertionError("a report runs nothing")


{}
"""
REGISTRATION = """\
@{decorator}("{claim}", level="live", controls=[Control("defect of {claim}", plant=plant, breaks="m")])
def {name}(ctx):
    pass


"""


class Town:
    """The project on disk."""

    def __init__(self, root: Path, *, fresh: bool = True) -> None:
        self.root = root
        self.clock = 0
        if not fresh:
            return
        self.write("pyproject.toml", '[tool.pv]\n[tool.pv.scopes]\nSHIP = ["parity-v1", "absent-v1"]\n')
        self.write("contracts/parity-v1.yaml", PARITY)
        self.write("contracts/words-v1.yaml", WORDS)
        self.checks("parity_v1", "FALSIFY-PARITY-001", "FALSIFY-PARITY-002", "FALSIFY-PARITY-003", "KH-PARITY-001")
        self.checks("words_v1", "FALSIFY-WORDS-001")

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def checks(self, module: str, *claims: str) -> None:
        registered = (
            REGISTRATION.format(
                decorator="harness" if claim.startswith("KH") else "falsifier",
                claim=claim,
                name=claim.lower().replace("-", "_"),
            )
            for claim in claims
        )
        self.write(f"falsifiers/{module}.py", CHECKS.format("".join(registered)))

    @property
    def project(self) -> Project:
        return Project.find(self.root)

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(self.project, find_checks(self.project))

    @property
    def loaded(self):
        return load_all((), self.project)

    @property
    def story(self) -> Story:
        checks = find_checks(self.project)
        return gather(self.project, self.loaded, Ledger.open(self.project, checks), checks, "9.9.9")

    def tell(
        self,
        claim_id: str,
        figures: Mapping[str, float] | None = None,
        *,
        cell: Cell = CPU,
        caught: bool = True,
        notes: tuple[str, ...] = (),
        torch: str = "2.13.0",
        oracle: OracleRecord | None = None,
        **changes,
    ) -> Record:
        """Keep the record of a run that measured these figures; without figures the run was BLOCKED."""
        ledger = self.ledger
        contract = next(one.contract for one in self.loaded if one.contract and one.contract.claim(claim_id))
        claim = contract.claim(claim_id)
        bounds = {name: threshold_record(threshold) for name, threshold in claim.thresholds.items()}
        measured = judge([Measurement(n, v, bounds[n].unit) for n, v in figures.items()], bounds) if figures else ()
        first = next(iter(claim.thresholds))
        planted = MeasurementRecord(first, "NaN", bounds[first].unit, 1, bounds[first], None, False)
        sound = replace(measured[0], passed=True) if measured else planted
        control = ControlRecord(
            "a planted defect", first, caught, "FALSIFIED" if caught else "SURVIVED", (planted if caught else sound,)
        )
        judged = verdict(measured, (control,)) if measured else None
        check = find_checks(self.project).of(contract.id, claim_id)
        closure = ledger.sources.closure(CheckSource(check.path, check.attacks, check.data)) if check else None
        self.clock += 1
        record = Record(
            claim_id=claim_id,
            contract_id=contract.id,
            contract_path=f"contracts/{contract.id}.yaml",
            contract_version=contract.metadata.version,
            cell=cell,
            level=Level.LIVE,
            verdict=judged.verdict if judged else Verdict.BLOCKED,
            reason=judged.reason if judged else "no such device",
            predicted=claim.prediction,
            observed=judged.branch if judged else "",
            measurements=measured,
            controls=(control,) if measured else (),
            attacks=(),
            claim_digest=ledger.current(contract, claim).claim_digest,
            closure_digest=closure.digest if closure else "sha256:" + "0" * 64,
            closure=closure.files if closure else (),
            bound=(FileDigest("contracts/words-v1.yaml", "1" * 64),) if changes.pop("bind", False) else (),
            tool_version="9.9.9",
            tool_digest="sha256:" + "f" * 64,
            environment=Environment(python="3.12.1", platform="Linux", host="0123456789abcdef", torch=torch),
            seed=None,
            started_at=f"{datetime(2026, 11, 20) + timedelta(hours=self.clock):%Y-%m-%dT%H:%M:%SZ}",
            duration_seconds=1.5,
            command=f"pv falsify --id {claim_id}",
            run_id=f"run-{self.clock}",
            entry_point=check.entry_point if check else "",
            oracle=oracle,
            notes=notes,
            missing=() if measured else ("cuda",),
            previous=ledger.previous(contract, claim, cell),
        )
        return ledger.store.add(replace(record, **changes))

    def retract(self, record: Record, reason: str) -> Record:
        self.clock += 1
        moment = datetime(2026, 11, 20, tzinfo=UTC) + timedelta(hours=self.clock)
        return retract(self.ledger.store, record.digest, reason, now=moment)


STAGE_NOTES = (
    "The guilty stage is ffn_up of layer 2: from equal inputs its result is off by 3.1 %.",
    "ffn_norm of layer 2: total 2.0e-7, local 1.0e-7",
    "ffn_up of layer 2: total 0.031, local 0.031",
    "ffn_out of layer 2: total 0.028, local 1.0e-7",
)


def town(root: Path) -> Town:
    """The project with its story: a red on CUDA with its stage, a drift, a known failure, a retraction."""
    made = Town(root)
    made.tell("FALSIFY-PARITY-001", {"cosine": 0.9999998, "max_abs": 0.0003}, bind=False)
    made.tell("FALSIFY-PARITY-001", {"cosine": 0.41, "max_abs": 0.003}, cell=CUDA, notes=STAGE_NOTES)
    for seconds in (1.0, 1.01, 0.99, 1.0, 1.02):
        made.tell("FALSIFY-PARITY-002", {"seconds": seconds})
    made.tell("FALSIFY-PARITY-002", {"seconds": 1.9}, torch="2.14.0")
    wrong = made.tell("FALSIFY-PARITY-003", {"equal": 1})
    made.retract(wrong, "the wrong model")
    made.tell("FALSIFY-PARITY-003", {"equal": 0})
    made.tell("FALSIFY-WORDS-001", {"words": 5}, caught=False)
    return made
