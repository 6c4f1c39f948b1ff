"""`pv trend`: one claim over its records."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from tests.report.samples import town


@pytest.fixture
def made(tmp_path, monkeypatch):
    project = town(tmp_path / "town")
    monkeypatch.chdir(project.root)
    return project


def test_a_drift_is_told_and_is_no_failure(made, pv):
    ran = pv("trend", "FALSIFY-PARITY-002")
    assert ran.code == 0
    assert "seconds [s] on cpu · code" in ran.out
    assert "drift:\n  seconds on cpu · code at 2026-11-20T08:00:00Z: value 1.9" in ran.out


def test_retracted_records_are_left_out(made, pv):
    data = json.loads(pv("trend", "FALSIFY-PARITY-003", "--output-format", "json").out)
    assert [[point["value"] for point in series["points"]] for series in data[0]["series"]] == [[0]]


def test_a_picture_is_one_file_of_svg(made, pv):
    root = ElementTree.fromstring(pv("trend", "FALSIFY-PARITY-001", "--output-format", "svg").out)
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "FALSIFY-PARITY-001  cosine on cuda · tiny-teacher" in texts
    assert "0.41 (>= 0.99, margin -0.58)" in texts


def test_a_claim_without_records_has_no_trend(made, pv):
    ran = pv("trend", "FALSIFY-PARITY-004")
    assert (ran.code, ran.out) == (5, "")
    assert "`pv falsify --id FALSIFY-PARITY-004` makes one" in ran.err
    assert json.loads(pv("trend", "FALSIFY-PARITY-004", "--output-format", "json").out) == []


def test_an_unknown_claim_is_a_wrong_call_with_a_hint(made, pv):
    ran = pv("trend", "FALSIFY-PARITY-0O1")
    assert ran.code == 2
    assert "did you mean FALSIFY-PARITY-001" in ran.err
    assert "`pv list` names them" in pv("trend", "nothing-like-it").err


def test_a_claim_of_two_contracts_is_told_for_both(made, pv):
    made.write("contracts/more-v1.yaml", (made.root / "contracts/words-v1.yaml").read_text())
    out = pv("trend", "FALSIFY-WORDS-001").out
    assert "FALSIFY-WORDS-001  words-v1  1 record" in out
    assert "FALSIFY-WORDS-001  more-v1  1 record" in out  # it claims the very same thing
