"""The claim digest: frozen by a worked example, blind to form, prose and status, and to nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from pv.contract.claims import contract_of
from pv.evidence.digests import claim_digest, claim_meaning, closure_digest
from pv.evidence.record import FileDigest

VECTOR = Path(__file__).parent / "vectors" / "claim.json"

CONTRACT = """
metadata: {version: "1.2.0", description: an example, references: [a paper]}
equations:
  cosine_parity:
    formula: cos(a, b) >= 0.99
    domain: R^n
    description: prose that may change
proof_obligations:
  - {id: PO-1, type: bound, property: the cosine is large, formal: "cos >= 0.99", tolerance: 1.0e-6}
falsification_tests:
  - id: FALSIFY-EXAMPLE-002
    rule: last-token logits agree
    prediction: the cosine of last-token logits
      is at least 0.99
    if_fails: the kernels are wrong
    binds_to: [cosine_parity, PO-1]
    claim: outcome
    requires:
      cells: [{device: cuda, subject: tiny-teacher}, {device: cpu, subject: code}]
      oracle: hf
    precondition: [FALSIFY-EXAMPLE-007]
    blocked_on: [model-1]
    thresholds:
      cosine: {op: ">=", value: 0.99, unit: "1", source: equations.cosine_parity, repeat: 1.0e-6}
      ratio: {op: within, value: [0.5, 2]}
    cost: device
    status: FUNCTIONAL
    last_verified: "2026-11-20"
    evidence: ["sha256:00"]
kani_harnesses:
  - {id: KH-EXAMPLE-001, obligation: PO-1, bound: 280}
"""


def digest(text: str = CONTRACT, claim_id: str = "FALSIFY-EXAMPLE-002") -> str:
    contract = contract_of("example-v1", Path("example-v1.yaml"), yaml.safe_load(text))
    return claim_digest(contract, contract.claim(claim_id))


def test_the_worked_example_is_frozen():
    """The object, its canonical bytes and its digest. If this fails, every record in the world goes stale."""
    contract = contract_of("example-v1", Path("example-v1.yaml"), yaml.safe_load(CONTRACT))
    vector = json.loads(VECTOR.read_text())
    for claim_id, frozen in vector.items():
        claim = contract.claim(claim_id)
        assert claim_meaning(contract, claim) == json.loads(frozen["canonical"])
        assert "sha256:" + hashlib.sha256(frozen["canonical"].encode()).hexdigest() == frozen["digest"]
        assert claim_digest(contract, claim) == frozen["digest"]


SAME = [
    ("status: FUNCTIONAL", "status: DISCHARGED"),
    ('last_verified: "2026-11-20"', 'last_verified: "2027-01-01"'),
    ('evidence: ["sha256:00"]', 'evidence: ["sha256:11", "sha256:22"]'),
    ('version: "1.2.0"', 'version: "9.0.0"'),
    ("rule: last-token logits agree", "rule: other words"),
    ("if_fails: the kernels are wrong", "if_fails: other words"),
    ("description: prose that may change", "description: it did"),
    ("property: the cosine is large", "property: other words"),
    ("source: equations.cosine_parity", "source: elsewhere"),
    ("logits\n      is at least", "logits is at\n      least"),
    ("value: 0.99,", "value: 0.990,"),
    ("value: [0.5, 2]", "value: [5.0e-1, 2.0]"),
    ("repeat: 1.0e-6", "repeat: 0.000001"),
    ("[{device: cuda, subject: tiny-teacher}, {device: cpu, subject: code}]",
     "[{subject: code, device: cpu}, {device: cuda, subject: tiny-teacher}]"),
    ("binds_to: [cosine_parity, PO-1]", "binds_to: [PO-1, cosine_parity]"),
    ("    cost: device\n", "    cost: device\n    known_failing: {owner: me, reason: hard, since: today}\n"),
    ("    cost: device\n", "    notes: free\n    cost: device\n"),
]  # fmt: skip

OTHER = [
    ("at least 0.99\n", "at least 0.98\n"),
    ("value: 0.99,", "value: 0.9900000001,"),
    ("value: [0.5, 2]", "value: [0.5, 2.5]"),
    ('op: ">="', 'op: ">"'),
    ('unit: "1"', 'unit: "%"'),
    ("repeat: 1.0e-6", "repeat: 1.0e-5"),
    ("subject: tiny-teacher", "subject: synthetic:7b"),
    ("device: cpu", "device: vulkan"),
    ("oracle: hf", "oracle: llama.cpp"),
    ("[FALSIFY-EXAMPLE-007]", "[FALSIFY-EXAMPLE-008]"),
    ("blocked_on: [model-1]", "blocked_on: []"),
    ("cost: device", "cost: quick"),
    ("claim: outcome", "claim: guard"),
    ("binds_to: [cosine_parity, PO-1]", "binds_to: [cosine_parity]"),
    ("formula: cos(a, b) >= 0.99", "formula: cos(a, b) >= 0.9"),
    ("domain: R^n", "domain: C^n"),
    ('formal: "cos >= 0.99"', 'formal: "cos >= 0.9"'),
    ("tolerance: 1.0e-6}", "tolerance: 1.0e-3}"),
    ("ratio: {op: within, value: [0.5, 2]}", ""),
]


@pytest.mark.parametrize(("old", "new"), SAME)
def test_form_prose_and_status_do_not_count(old, new):
    assert old in CONTRACT
    assert digest(CONTRACT.replace(old, new)) == digest()


@pytest.mark.parametrize(("old", "new"), OTHER)
def test_what_is_claimed_counts(old, new):
    assert old in CONTRACT
    assert digest(CONTRACT.replace(old, new)) != digest()


def test_the_id_and_the_bound_count():
    assert digest(CONTRACT.replace("EXAMPLE-002", "EXAMPLE-003"), "FALSIFY-EXAMPLE-003") != digest()
    harness = digest(claim_id="KH-EXAMPLE-001")
    assert digest(CONTRACT.replace("bound: 280", "bound: 281"), "KH-EXAMPLE-001") != harness


def test_the_name_of_the_file_does_not_count():
    data = yaml.safe_load(CONTRACT)
    renamed = contract_of("other-v2", Path("elsewhere/other-v2.yaml"), data)
    assert claim_digest(renamed, renamed.claim("FALSIFY-EXAMPLE-002")) == digest()


def test_numbers_beyond_json_are_carried():
    assert digest(CONTRACT.replace("value: 0.99,", "value: .nan,")) != digest(
        CONTRACT.replace("value: 0.99,", "value: .inf,")
    )


def test_the_closure_digest_is_of_paths_and_digests_in_any_order():
    files = [FileDigest("b.py", "1" * 64), FileDigest("a.py", "2" * 64)]
    assert closure_digest(files) == closure_digest(files[::-1])
    canonical = f'{{"a.py":"{"2" * 64}","b.py":"{"1" * 64}"}}'
    assert closure_digest(files) == "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    assert closure_digest(files) != closure_digest([FileDigest("b.py", "1" * 64)])
