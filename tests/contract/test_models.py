"""The vocabulary: what is accepted, what is closed, what a number may stand for."""

from __future__ import annotations

import pytest

from pv.contract.claims import ALIASES
from pv.contract.models import KINDS, OBLIGATION_TYPES, ContractFile, Falsifier, ObligationShape

HEAD = "metadata: {version: 1.0.0, description: d%s}\n"


def codes(loaded):
    return [each.code for each in loaded.diagnostics]


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds(read, kind):
    assert read(HEAD % f", kind: {kind}").contract.metadata.kind == kind


@pytest.mark.parametrize("kind", OBLIGATION_TYPES)
def test_all_obligation_types(read, kind):
    assert read(HEAD % "" + f"proof_obligations: [{{type: {kind}, property: p}}]").contract.obligations[0].type == kind


def test_the_vocabulary_has_the_size_of_the_reference():
    assert (len(KINDS), len(OBLIGATION_TYPES)) == (14, 28)
    assert len(set(KINDS)) == 14
    assert len(set(OBLIGATION_TYPES)) == 28
    assert sum(len(pairs) for pairs in ALIASES.values()) == 6
    for model, section in ((Falsifier, "falsification_tests"), (ObligationShape, "proof_obligations")):
        assert {word for pair in ALIASES[section] for word in pair} <= set(model.model_fields)


@pytest.mark.parametrize(
    "text",
    [
        HEAD % ", kind: kernels",
        HEAD % ", enforcement_level: high",
        HEAD % ", intake_status: banana",
        HEAD % "" + "proof_obligations: [{type: vow, property: p}]",
        HEAD % "" + "proof_obligations: [{property: p, lean: {theorem: T, status: done}}]",
        HEAD % "" + "kani_harnesses: [{id: K, obligation: o, strategy: luck}]",
        HEAD % "" + "stories: [{id: s, status: maybe}]",
        HEAD % "" + "parity: {rows: [{verdict: SUPERB}]}",
        HEAD % "" + "parity: {downgrades: [{reason: TIRED}]}",
        "version: 1.0.0\ntarget_crate: c\nbindings: [{contract: c, equation: e, status: done}]",
    ],
)
def test_closed_words_are_closed(read, text):
    loaded = read(text)
    assert loaded.contract is None
    assert codes(loaded) == ["PV204"]
    assert "one of: " in loaded.diagnostics[0].expected


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("equations: {}", "metadata"),
        ("metadata: {description: d}", "version"),
        ("metadata: {version: 1.0.0}", "description"),
        (HEAD % "" + "falsification_tests: [{rule: r}]", "id"),
        (HEAD % "" + "kani_harnesses: [{obligation: o}]", "id"),
        (HEAD % "" + "kani_harnesses: [{id: K}]", "obligation"),
        (HEAD % "" + "verification_summary: {l4_lean_proved: 1}", "total_obligations"),
        (HEAD % "" + "kernel_structure: {}", "phases"),
        (HEAD % "" + "enforcement: {r: {check: c}}", "description"),
        (HEAD % "" + "type_invariants: [{name: n, type: t}]", "predicate"),
        (HEAD % "" + "coq_spec: {imports: []}", "module"),
        (HEAD % "" + "proof_obligations: [{property: p, lean: {module: m}}]", "theorem"),
    ],
)
def test_what_the_reference_requires_is_required(read, text, field):
    loaded = read(text)
    assert codes(loaded) == ["PV201"]
    assert loaded.diagnostics[0].message == f"missing field `{field}`"


@pytest.mark.parametrize(
    "text",
    [
        HEAD % "" + "falsification_tests:",
        HEAD % "" + "equations: {a: just text}",
        HEAD % "" + "equations: {a: {invariants: [{text: t}]}}",
        HEAD % "" + "proof_obligations: [{property: p, applies_to: [simd]}]",
        HEAD % "" + "proof_obligations: [{property: p, tolerance: '1e-6'}]",
        HEAD % "" + "proof_obligations: [{property: true}]",
        HEAD % ", registry: maybe",
        HEAD % ", references: a paper",
        HEAD % "" + "kani_harnesses: [{id: K, obligation: o, bound: 1.5}]",
    ],
)
def test_values_of_another_type(read, text):
    loaded = read(text)
    assert loaded.contract is None
    assert codes(loaded) == ["PV202"], loaded.diagnostics


@pytest.mark.parametrize(
    "text",
    [
        HEAD % "",
        HEAD % ", created: , author: ",
        HEAD % "" + "equations:",
        HEAD % "" + "equations: [{id: a, formula: f}]",
        HEAD % "" + "qa_gate:\nverification_summary:\nkernel_structure:",
        HEAD % "" + "falsification_tests: [{id: 17}]",
        HEAD % ""
        + "proof_obligations: [{property: p, tolerance: 1e-6}, {statement: s, verification: v, tolerance: 0}]",
        HEAD % "" + "falsification_tests: [{id: F, description: d, expected: e, command: c, fails_if: f, name: n}]",
        HEAD % ""
        + "falsification_tests: [{id: F, claim: a sentence, status: PENDING, evidence: prose, severity: [1]}]",
        HEAD % "" + "gates: [{verdict: pass}]\nchangelog: 3\nfailure_modes: {a: b}",
        "version: 1.0\ntarget_crate: c\nbindings: [{contract: c, equation: e, status: pending}]",
        "model_id: m\nprovenance: {a: b}\nsha256: " + "0" * 64,
    ],
)
def test_what_the_reference_accepts_is_accepted(read, text):
    assert read(text).diagnostics == ()


@pytest.mark.parametrize("literal", ["1.10", "2", "0x10", "1e3", "-0.0"])
def test_a_number_in_the_place_of_text_is_its_source(read, literal):
    loaded = read(f"metadata: {{version: {literal}, description: 7, references: [1.50]}}")
    assert loaded.contract.metadata.version == literal
    assert loaded.data["metadata"]["version"] == literal
    assert loaded.contract.metadata.references == ("1.50",)
    assert loaded.document.data["metadata"]["version"] != literal, "the document itself is left as it is"


def test_the_fields_of_a_claim_in_another_form_only_warn_outside(read):
    text = HEAD % "" + "falsification_tests: [{id: F, prediction: p, requires: [gpu], cost: high, thresholds: {x: 1}}]"
    for profile, severity in (("compat", "warning"), ("strict", "error")):
        loaded = read(text, profile)
        assert loaded.contract is None, "a claim that cannot be read is not run"
        assert {(each.code, each.severity.value) for each in loaded.diagnostics} == {("PV206", severity)}
        assert len(loaded.diagnostics) == 3


@pytest.mark.parametrize(
    "threshold",
    [
        "{op: '<', value: [1, 2]}",
        "{op: within, value: 1}",
        "{op: within, value: [1]}",
        "{op: within, value: [1, 2, 3]}",
        "{op: '=<', value: 1}",
        "{op: '<', value: true}",
        "{op: '<', value: '1'}",
        "{op: '<'}",
        "{op: '<', value: 1, repeat: -1}",
        "3",
    ],
)
def test_thresholds_have_one_form(read, threshold):
    loaded = read(HEAD % "" + f"falsification_tests: [{{id: F, thresholds: {{x: {threshold}}}}}]", "strict")
    assert codes(loaded) == ["PV206"]


def test_no_model_has_a_validator_that_other_errors_would_silence():
    """pydantic's after-validators do not run once a field fails: users would see their errors in two rounds."""
    ContractFile.model_rebuild()
    assert "function-after" not in str(ContractFile.__pydantic_core_schema__)
