"""Which rules hold for which kind of document, and what each special kind must say."""

from __future__ import annotations

import pytest

from pv.contract.models import KINDS

HEAD = "metadata: {version: 1.0.0, description: d, references: [r]%s}\n"
KERNEL_ONLY = {"PV219", "PV225", "PV601"}
OF_KIND = {
    "kernel": KERNEL_ONLY,
    "beat-benchmark": {"PV231"},
    "kaizen": {"PV233"},
    "competitive-parity": {"PV234"},
}


def codes(found) -> set[str]:
    return {each.code for each in found}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_document_of_each_kind(check, kind):
    assert codes(check(HEAD % f", kind: {kind}", "compat")) == OF_KIND.get(kind, set())


@pytest.mark.parametrize("head", ["", ", registry: false"])
def test_without_a_kind_a_document_is_a_kernel_and_is_told_so(check, head):
    found = check(HEAD % head, "compat")
    assert codes(found) == KERNEL_ONLY
    told = [each.code for each in found if "(no metadata.kind, judged kernel by default)" in each.message]
    assert set(told) == {"PV219", "PV601"}
    written = check(HEAD % ", kind: kernel", "compat")
    assert not any("by default" in each.message for each in written)


def test_registry_true_excuses_a_kernel(check):
    assert codes(check(HEAD % ", registry: true", "compat")) == set()
    assert codes(check(HEAD % ", registry: true, kind: beat-benchmark", "compat")) == {"PV231"}


def test_what_stands_in_a_document_is_looked_at_whatever_its_kind(check):
    body = (
        "equations: {e: {}}\n"
        "proof_obligations: [{type: subcontract, parent_contract: p}]\n"
        "falsification_tests: [{id: A}, {id: A}]\n"
        "kani_harnesses: [{id: K, obligation: ''}]\n"
        "verification_summary: {total_obligations: 3}\n"
        "kind: x\n"
    )
    everywhere = {"PV210", "PV211", "PV221", "PV226", "PV305", "PV602", "PV603", "PV604", "PV605", "PV612"}
    for kind in ("kernel", "schema", "registry", "model-family"):
        found = codes(check(HEAD % f", kind: {kind}" + body, "compat"))
        assert found - everywhere == ({"PV220", "PV225"} if kind == "kernel" else set()), kind
        assert everywhere <= found, kind


def test_a_schema_without_obligations_may_count_those_of_others(check):
    body = "verification_summary: {total_obligations: 3}\n"
    assert codes(check(HEAD % ", kind: schema" + body, "compat")) == set()
    assert codes(check(HEAD % ", kind: registry" + body, "compat")) == {"PV226"}


BEAT = {
    "incumbent": "llama.cpp b1", "metric": "tok/s", "direction": "higher_is_better", "beat_threshold": "1.5",
    "approved_compute": "GPU", "ci_gate_name": "beat",
}  # fmt: skip


def beat(**changes: str) -> str:
    fields = {**BEAT, **changes}
    return HEAD % ", kind: beat-benchmark" + "beat: {" + ", ".join(f"{k}: {v}" for k, v in fields.items() if v) + "}\n"


def test_a_complete_benchmark(check):
    assert check(beat(), "compat") == []
    assert check(beat(incumbent="PyTorch 2.11"), "compat") == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("incumbent", "somebody"), ("incumbent", ""), ("metric", ""), ("direction", "upwards"), ("beat_threshold", ""),
        ("beat_threshold", ".inf"), ("approved_compute", "TPU"), ("ci_gate_name", ""),
    ],
)  # fmt: skip
def test_an_incomplete_benchmark(check, field, value):
    found = check(beat(**{field: value}), "compat")
    assert [each.code for each in found] == ["PV231"]
    assert f"beat.{field}" in found[0].message


KAIZEN = (
    HEAD % ", kind: kaizen"
    + "contract: c\nstatus: planned\nbaseline: {seconds: 2, mb: 5}\ntarget: {seconds: 1, mb: 5}\n"
)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("contract: c\n", "", "names its `contract:`"),
        ("status: planned", "status: dreamt", "expected one of draft"),
        ("target: {seconds: 1, mb: 5}\n", "", "nothing that can fail"),
        ("target: {seconds: 1, mb: 5}", "target: {joules: 1, seconds: 1}", "target.joules has no baseline"),
        ("target: {seconds: 1, mb: 5}", "target: {seconds: 2, mb: 5}", "no metric moves"),
    ],
)
def test_an_improvement_that_nothing_can_contradict(check, old, new, says):
    assert check(KAIZEN, "compat") == []
    assert old in KAIZEN
    found = check(KAIZEN.replace(old, new), "compat")
    assert [each.code for each in found] == ["PV233"]
    assert says in found[0].message


ROW = "{entry_point: e, verdict: PARITY, measured_on: 2026-01-01, valid_until: 2026-06-30}"
LEDGER = (
    HEAD % ", kind: competitive-parity"
    + f"parity: {{rows: [{ROW}], downgrades: [{{entry_point: e, reason: SUPERSEDED}}]}}\n"
)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("verdict: PARITY, ", "", "no verdict"),
        ("2026-01-01", "in January", "measured_on: expected YYYY-MM-DD"),
        ("2026-06-30", "2026-07-01", "kept for 181 days"),
        ("[{entry_point: e, reason", "[{entry_point: f, reason", "names no row"),
    ],
)
def test_a_ledger_that_compares_nothing(check, old, new, says):
    quiet = ("PV118",)  # unquoted dates
    assert [each.code for each in check(LEDGER, "compat") if each.code not in quiet] == []
    found = [each for each in check(LEDGER.replace(old, new, 1), "compat") if each.code not in quiet]
    assert [each.code for each in found] == ["PV234"]
    assert says in found[0].message


def test_an_unmeasured_row_needs_no_dates(check):
    text = LEDGER.replace(ROW, "{entry_point: e, verdict: UNMEASURED}")
    assert check(text, "compat") == []


@pytest.mark.parametrize("score", ["0", "6", "99999", "-1"])
def test_demand_scores(check, score):
    head = HEAD % f", kind: registry, demand_score: {score}"
    assert codes(check(head, "compat")) == {"PV232"}
    assert check(HEAD % ", kind: registry, demand_score: 5", "compat") == []
    stories = HEAD % ", kind: registry" + "stories: [{id: s, demand_score: 1, competitor: someone}, {id: t}]\n"
    assert [each.where for each in check(stories, "compat")] == [
        "stories[1].demand_score (t)",
        "stories[1].competitor (t)",
    ]
