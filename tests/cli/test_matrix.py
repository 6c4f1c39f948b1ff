"""`pv matrix`: contracts over cells, as text, data and Markdown."""

from __future__ import annotations

import json

import pytest

from tests.report.samples import town


@pytest.fixture
def made(tmp_path, monkeypatch):
    project = town(tmp_path / "town")
    monkeypatch.chdir(project.root)
    return project


def test_contracts_are_lines_and_cells_are_columns(made, pv):
    ran = pv("matrix")
    assert ran.code == 0
    lines = [line.split("  ") for line in ran.out.splitlines()]
    assert [line[0] for line in lines[2:4]] == ["parity-v1", "words-v1"]
    assert "parity-v1  FALSIFIED 2/5, 2 never ran  FALSIFIED 0/1" in ran.out


def test_claims_can_be_lines(made, pv):
    out = pv("matrix", "--claims", "contracts/words-v1.yaml").out
    assert "FALSIFY-WORDS-001  UNBOUND 0/1" in out
    assert "PARITY" not in out


def test_data_has_both(made, pv):
    data = json.loads(pv("matrix", "--output-format", "json").out)
    assert [contract["id"] for contract in data["contracts"]] == ["parity-v1", "words-v1"]
    assert len(data["contracts"][0]["claims"]) == 5


def test_markdown_is_a_table(made, pv):
    lines = pv("matrix", "--output-format", "md").out.splitlines()
    assert lines[0] == "|  | cpu<br>`code` | cuda<br>`tiny-teacher` |"
    assert lines[3] == "| `words-v1` | UNBOUND 0/1 | – |"


def test_no_claim_is_no_success(house, pv):
    (house.root / "contracts" / "bad.yaml").write_text("metadata: 3\n")
    ran = pv("matrix")
    assert ran.code == 5
    assert "not a sound contract" in ran.err
