"""What the rooms above read of a contract."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pv.contract.claims import Claim, KnownFailing, Threshold, status_of
from pv.contract.vocabulary import Cell, ClaimKind, Cost, DeviceClass, Status

FULL = """\
metadata: {version: 1.10, description: d, references: [r], depends_on: [other-v1], changelog: {1.0.0: first}}
equations: {parity: {formula: a}}
falsification_tests:
  - id: FALSIFY-X-001
    rule: backends agree
    prediction: cosine is high
    if_fails: kernels are wrong
    binds_to: parity
    claim: guard
    requires:
      cells: [{device: cuda, subject: tiny-teacher}, {device: vulkan, subject: "synthetic:7b"}, {}]
      oracle: hf
    precondition: [FALSIFY-X-002]
    blocked_on: model-1
    known_failing: {owner: me, reason: upstream, since: 2026-01-02}
    thresholds:
      cosine: {op: ">=", value: 0.99, unit: "1", source: equations.parity, repeat: 1.0e-3}
      ratio: {op: within, value: [0.5, 2]}
    cost: device
    status: FUNCTIONAL
    last_verified: "2026-11-20"
    evidence: ["sha256:aa", "sha256:bb"]
    algorithm_evidence: {file_paths: [a.py]}
    functional_evidence: [line]
  - id: FALSIFY-X-002
    description: by its other name
    expected: by its other name
    fails_if: by its other name
    algorithm_evidence: {status: PARTIAL_ALGORITHM_LEVEL, last_verified: "2026-05-15", notes: n}
kani_harnesses:
  - {id: KH-X-001, obligation: parity, property: it holds, bound: 280}
"""


def test_every_field_of_an_entry_arrives(read):
    claim = read(FULL).contract.claim("FALSIFY-X-001")
    assert claim == Claim(
        id="FALSIFY-X-001",
        loc=("falsification_tests", 0),
        family="falsifier",
        rule="backends agree",
        prediction="cosine is high",
        if_fails="kernels are wrong",
        binds_to=("parity",),
        claim=ClaimKind.GUARD,
        required_cells=(
            Cell(DeviceClass.CUDA, "tiny-teacher"),
            Cell(DeviceClass.VULKAN, "synthetic:7b"),
            Cell(DeviceClass.CPU, "code"),
        ),
        oracle="hf",
        precondition=("FALSIFY-X-002",),
        blocked_on=("model-1",),
        known_failing=KnownFailing("me", "upstream", "2026-01-02"),
        thresholds={
            "cosine": Threshold(">=", 0.99, "1", "equations.parity", 1.0e-3),
            "ratio": Threshold("within", (0.5, 2)),
        },
        cost=Cost.DEVICE,
        status=Status.FUNCTIONAL,
        status_text="FUNCTIONAL",
        status_loc=("falsification_tests", 0, "status"),
        last_verified="2026-11-20",
        evidence=("sha256:aa", "sha256:bb"),
        algorithm_evidence={"file_paths": ["a.py"]},
        functional_evidence=["line"],
        data=claim.data,
    )


def test_aliases_and_a_status_inside_the_evidence_are_read(read):
    claim = read(FULL).contract.claim("FALSIFY-X-002")
    assert (claim.rule, claim.prediction, claim.if_fails) == ("by its other name",) * 3
    assert claim.status is Status.PARTIAL_ALGORITHM_LEVEL
    assert claim.status_loc == ("falsification_tests", 1, "algorithm_evidence", "status")
    assert claim.last_verified == "2026-05-15"
    assert claim.required_cells == (Cell(DeviceClass.CPU, "code"),)


def test_a_harness_is_a_claim_after_the_falsifiers(read):
    contract = read(FULL).contract
    assert [claim.id for claim in contract.claims] == ["FALSIFY-X-001", "FALSIFY-X-002", "KH-X-001"]
    harness = contract.claims[2]
    assert (harness.family, harness.bound, harness.prediction, harness.binds_to) == (
        "harness", 280, "it holds", ("parity",),
    )  # fmt: skip
    assert harness.loc == ("kani_harnesses", 0)


def test_the_head_of_a_contract(read):
    metadata = read(FULL).contract.metadata
    assert metadata.version == "1.10", "the source text, not the number"
    assert (metadata.kind, metadata.kind_written) == ("kernel", False)
    assert metadata.depends_on == ("other-v1",)
    assert metadata.changelog == {"1.0.0": "first"}


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("registry: true", "registry"),
        ("registry: true, kind: schema", "schema"),
        ("kind: kernel, registry: true", "registry"),
    ],
)
def test_registry_true_excuses_a_kernel_only(read, head, kind):
    assert read(f"metadata: {{version: 1.0.0, description: d, {head}}}").contract.metadata.kind == kind


def test_equations_come_as_a_mapping_or_as_a_list(read):
    head = "metadata: {version: 1.0.0, description: d}\n"
    assert read(head + "equations: {a: {}, b: {}}").contract.equations == ("a", "b")
    assert read(head + "equations: [{id: a}, {formula: x}, {id: ''}]").contract.equations == (
        "a",
        "equation_1",
        "equation_2",
    )
    assert read(head + "equations:").contract.equations == ()


def test_a_foreign_word_is_kept_and_no_rung(read):
    claim = read(FULL.replace("status: FUNCTIONAL", "status: VERIFIED — 129 TFLOP/s")).contract.claims[0]
    assert (claim.status, claim.status_text) == (None, "VERIFIED — 129 TFLOP/s")
    assert status_of("functional") is None, "words of the ladder are exact"


def test_the_first_of_two_claims_of_one_id_is_found(read):
    text = FULL.replace("id: FALSIFY-X-002", "id: FALSIFY-X-001")
    assert read(text).contract.claim("FALSIFY-X-001").loc == ("falsification_tests", 0)
    assert read(text).contract.claim("nobody") is None


def test_the_claims_need_no_pydantic():
    code = (
        "import sys, pv.contract.claims, pv.contract.load, pv.rules.table; "
        "print('pydantic' in sys.modules, 'yaml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
