"""`pv graph`: drawn from contracts on disk; a ring is an error; the impact of a change is what closures say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent.parent.parent.parent / "shared" / "corpus"


def depends(house, stem: str, *names: str) -> None:
    path = house.root / "contracts" / f"{stem}.yaml"
    path.write_text(path.read_text().replace("  kind:", f"  depends_on: [{', '.join(names)}]\n  kind:", 1))


@pytest.fixture
def three(house):
    """c depends on b, b on a; a's second claim waits for its first; a and c have checks that share a module."""
    house.contract("a-v1", house.claim("FALSIFY-A-001"), house.claim("FALSIFY-A-002", "precondition: [FALSIFY-A-001]"))
    house.contract("b-v1", house.claim("FALSIFY-B-001"))
    house.contract("c-v1", house.claim("FALSIFY-C-001"))
    depends(house, "b-v1", "a-v1")
    depends(house, "c-v1", "b-v1")
    (house.root / "shared.py").write_text("LIMIT = 1\n")
    (house.root / "weights.bin").write_bytes(b"1")
    body = "import shared\nctx.bind(ctx.project / 'weights.bin')\nreturn measure('m', not defect)"
    house.checks("a-v1", FALSIFY_A_001="import shared\nreturn measure('m', not defect)")
    house.checks("c-v1", FALSIFY_C_001=body)
    return house


def test_text_is_in_order_of_dependency(three, pv):
    ran = pv("graph", "--contracts-only")
    assert ran.code == 0
    assert ran.out.splitlines() == ["a-v1", "b-v1  ->  a-v1", "c-v1  ->  b-v1"]
    assert "e     <-  FALSIFY-A-001, FALSIFY-A-002" in pv("graph").out


@pytest.mark.parametrize(
    ("style", "sign"), [("dot", '"c-v1" -> "b-v1"'), ("mermaid", "flowchart LR"), ("json", '"cycles": []')]
)
def test_each_format(three, pv, style, sign):
    ran = pv("graph", "--format", style)
    assert ran.code == 0
    assert sign in ran.out


def test_a_ring_is_an_error_that_names_it(three, pv):
    depends(three, "a-v1", "c-v1")
    ran = pv("graph", "--format", "json")
    assert ran.code == 1
    assert json.loads(ran.out)["cycles"] == [["a-v1", "c-v1", "b-v1"]]
    assert "contracts depend on each other: a-v1 -> c-v1 -> b-v1 -> a-v1" in ran.err


def test_a_name_of_nobody_is_named(three, pv):
    depends(three, "a-v1", "gone-v1")
    ran = pv("graph")
    assert ran.code == 0
    assert "no contract here is called gone-v1, named by a-v1" in ran.err
    assert "a-v1  ->  gone-v1 (unknown)" in ran.out


def impact(pv, name: str) -> dict[str, object]:
    ran = pv("graph", "--impact", name, "--format", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    return {key: [one["id"] for one in found[key]] for key in ("claims", "waiting")} | {"contracts": found["contracts"]}


def test_a_file_touches_the_claims_whose_checks_reach_it(three, pv):
    assert impact(pv, "shared.py") == {
        "claims": ["FALSIFY-A-001", "FALSIFY-C-001"],
        "waiting": ["FALSIFY-A-002"],
        "contracts": ["b-v1"],
    }
    assert impact(pv, "falsifiers/c_v1.py") == {"claims": ["FALSIFY-C-001"], "waiting": [], "contracts": []}
    assert impact(pv, "pyproject.toml") == {"claims": [], "waiting": [], "contracts": []}


def test_a_file_that_a_record_was_made_from_counts(three, pv):
    assert impact(pv, "weights.bin")["claims"] == []
    assert pv("falsify", "--id", "FALSIFY-C-001").code == 0
    assert impact(pv, "weights.bin")["claims"] == ["FALSIFY-C-001"]


def test_a_claim_and_a_contract(three, pv):
    assert impact(pv, "FALSIFY-A-001") == {
        "claims": ["FALSIFY-A-001"],
        "waiting": ["FALSIFY-A-002"],
        "contracts": ["b-v1", "c-v1"],
    }
    of_contract = {"claims": ["FALSIFY-B-001"], "waiting": [], "contracts": ["c-v1"]}
    assert impact(pv, "b-v1") == of_contract
    assert impact(pv, "contracts/b-v1.yaml") == of_contract
    assert "FALSIFY-B-001  no status" in pv("graph", "--impact", "b-v1").out


def test_what_is_nothing_is_said(three, pv):
    ran = pv("graph", "--impact", "FALSIFY-A-01")
    assert ran.code == 2
    assert "did you mean FALSIFY-A-001" in ran.err
    assert pv("graph", "--impact", "a-v1", "--format", "dot").code == 2


def test_nothing_to_draw_is_no_success(house, pv):
    assert pv("graph").code == 5


def test_the_corpus_of_real_files_is_drawn(house, pv):
    if not CORPUS.is_dir():
        pytest.skip(f"no corpus of real contracts at {CORPUS}: this test saw none")
    ran = pv("graph", CORPUS, "--format", "json")
    data = json.loads(ran.out)
    assert len(data["contracts"]) > 100
    assert ran.code == (1 if data["cycles"] else 0)
    assert "transpiler-core-v1 -> transpiler-stdlib-v1" in ran.err
