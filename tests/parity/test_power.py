"""The power of the gate: intervals, prompts, and a matrix that says who sees what."""

from __future__ import annotations

import json
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.parity import power_report
from pv.parity.power import Healthy, bench, healthy_prompts, power, wilson

TOKENS = [(37 * n + 11) % 300 for n in range(20)]


def test_wilson_by_hand():
    low, high = wilson(0, 299)
    assert low == 0.0
    assert high == pytest.approx(0.01268, abs=1e-5)  # z^2 / (n + z^2)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_is_symmetric_and_holds_the_rate(hits, trials):
    hits = min(hits, trials)
    low, high = wilson(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1
    mirrored = wilson(trials - hits, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_the_rule_of_three_is_the_exact_bound_for_no_alarm():
    healthy = Healthy(299, (), 0, 1.0, 0.0, 0.0)
    assert healthy.rule_of_three == pytest.approx(3 / 299)
    rate = healthy.rule_of_three
    assert comb(299, 0) * (1 - rate) ** 299 == pytest.approx(0.05, abs=0.003)
    assert Healthy(299, ("one",), 0, 1.0, 0.0, 0.0).rule_of_three is None


def test_healthy_prompts_are_many_different_and_fit_the_gate():
    plain = healthy_prompts(299, 300)
    assert len(plain) == 299
    assert len({tuple(prompt) for prompt in plain}) > 290
    lengths = {len(prompt) for prompt in plain}
    assert (min(lengths), max(lengths)) == (1, 64)
    assert len(lengths) > 55
    assert all(0 <= token < 300 for prompt in plain for token in prompt)
    assert plain == healthy_prompts(299, 300)
    texts: list[str] = []
    mixed = healthy_prompts(20, 300, lambda text: texts.append(text) or [1])
    assert len(texts) == 10
    assert sum(prompt == [1] for prompt in mixed) >= 10


@pytest.fixture(scope="module")
def measured(nano):
    on = bench(nano, TOKENS)
    names = ["logits-x2", "argmax-kept", "tf32-operands", "one-nan", "kv-slot-late"]
    return power("cuda", on, healthy_prompts(12, 300), device="cpu", names=names)


def test_the_matrix_says_who_sees_what(measured):
    rows = {row.defect: row for row in measured.rows}
    assert len(rows) == 5
    scaled = rows["logits-x2"].caught()
    assert not scaled["cosine<0.99"]  # the customary bound is blind to a factor
    assert not scaled["argmax"]
    assert scaled["max_abs>0.005"]
    assert rows["argmax-kept"].caught()["cosine<0.98"]
    assert not rows["argmax-kept"].caught()["argmax"]
    assert rows["tf32-operands"].by == "deep"
    assert rows["tf32-operands"].deep_by == ("stages",)
    assert all(rows["one-nan"].caught().values())
    assert rows["kv-slot-late"].by == "start"
    assert "at step 1/3" in rows["kv-slot-late"].start


def test_healthy_prompts_raise_no_alarm(measured):
    assert measured.healthy.prompts == 12
    assert measured.healthy.alarms == ()
    assert measured.healthy_deep.accepted
    assert measured.healthy.lowest_cosine > 0.9999999


def test_text_markdown_and_json_tell_the_same(measured):
    text, table = power_report.text(measured), power_report.markdown(measured)
    for row in measured.rows:
        assert row.defect in text
        assert f"| {row.defect} |" in table
    assert "caught by the start gate: 4 of 5; by the deep check alone: 1 (tf32-operands); by neither: 0" in text
    assert "false alarms: 0 of 12 healthy prompts (rate below 24.25% at 95 %, rule of three 25.00%)" in text
    told = json.loads(json.dumps(measured.as_json(), allow_nan=False))
    assert {d["defect"]: d["by"] for d in told["defects"]} == {row.defect: row.by for row in measured.rows}
    assert told["healthy"]["false_alarms"] == []
    assert power_report.missed(measured) == []


def test_a_picture_is_drawn(measured, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: no plot")
    power_report.plot([measured, measured], tmp_path / "power.png")
    assert (tmp_path / "power.png").read_bytes().startswith(b"\x89PNG")


def test_a_healthy_session_that_is_wrong_is_all_alarms(nano, altered):
    from pv.parity.power import false_alarms

    test = altered(nano, lambda logits, step: -logits, "cuda")
    healthy = false_alarms(test, nano, [[1, 2], [3]], 3)
    assert len(healthy.alarms) == 2
    assert healthy.alarms[0].startswith("prompt 0: cosine vs CPU = -1.000000")
    assert healthy.bound == 1.0 or healthy.bound > 0.9
