"""Texts that tests of contracts and of rules vary."""

SOUND = """\
metadata:
  version: 1.2.0
  description: a sound contract
  kind: schema
  status: ACTIVE
  created: "2026-11-20"
  references: ["a paper"]
equations:
  parity:
    formula: a = b
    domain: numbers
proof_obligations:
  - id: PO-1
    type: invariant
    property: a is b
    formal: a = b
    tolerance: 1.0e-6
falsification_tests:
  - id: FALSIFY-SOUND-001
    rule: a is b
    prediction: a minus b is 0
    if_fails: a is not b
    test: pytest tests/test_ab.py
    binds_to: [parity, PO-1]
    thresholds:
      gap: {op: "<=", value: 0.5, unit: "1", source: equations.parity}
    status: UNBOUND
kani_harnesses:
  - id: KH-SOUND-001
    obligation: PO-1
    property: a is b
    bound: 8
    strategy: exhaustive
    status: UNBOUND
"""

KERNEL = SOUND.replace("  kind: schema\n", "") + "qa_gate: {id: Q, name: quality}\n"
