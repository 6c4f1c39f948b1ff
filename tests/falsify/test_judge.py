"""The judge: every law of margins and verdicts, and each way a run can be no measurement at all."""

from __future__ import annotations

import math
import operator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pv.contract.claims import Threshold
from pv.contract.vocabulary import Verdict
from pv.evidence.record import ControlRecord, ThresholdRecord
from pv.falsify import measure
from pv.falsify.judge import (
    MismatchError,
    control_record,
    describe,
    judge,
    margin,
    threshold_record,
    verdict,
    worst,
)

OPERATIONS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
numbers = st.floats(allow_nan=False, allow_infinity=False)
not_finite = st.sampled_from([math.nan, math.inf, -math.inf])


def bound(op: str, value, unit: str = "1") -> ThresholdRecord:
    return ThresholdRecord(op, value, unit)


@given(numbers, st.sampled_from(sorted(OPERATIONS)), numbers)
@example(1.0, "<", 1.0)
@example(0.0, ">", -0.0)
@example(5e-324, ">", 0.0)
@example(-1.7e308, ">=", 1.7e308)
def test_the_margin_is_at_least_zero_exactly_when_the_threshold_holds(value, op, limit):
    distance = margin(value, op, limit)
    assert math.isfinite(distance)
    assert (distance >= 0) == OPERATIONS[op](value, limit)


@given(numbers, numbers, numbers)
def test_within_includes_both_ends(value, one, other):
    low, high = sorted((one, other))
    assert (margin(value, "within", (low, high)) >= 0) == (low <= value <= high)


@given(not_finite, st.sampled_from(sorted(OPERATIONS)), numbers)
def test_nan_and_infinity_fail_every_threshold(value, op, limit):
    (judged,) = judge([measure("x", value)], {"x": bound(op, limit)})
    assert not judged.passed
    assert judged.margin is None
    assert judged.value in ("NaN", "Infinity", "-Infinity")


@given(numbers, st.sampled_from(sorted(OPERATIONS)), st.sampled_from(["NaN", "Infinity", math.inf, 10**400]))
def test_a_bound_that_is_not_finite_holds_for_nothing(value, op, limit):
    assert margin(value, op, limit) is None


def test_an_unknown_operation_holds_for_nothing():
    assert margin(1.0, "~", 1.0) is None
    assert margin(1.0, "<", (0.0, 2.0)) is None


def test_a_judged_measurement_carries_everything_a_later_reader_needs():
    threshold = threshold_record(Threshold(">=", 0.99, unit="1", source="equations.cosine", repeat=1e-6))
    (judged,) = judge([measure("cosine", 0.995, n=12)], {"cosine": threshold})
    assert (judged.name, judged.value, judged.n, judged.passed) == ("cosine", 0.995, 12, True)
    assert judged.threshold == ThresholdRecord(">=", 0.99, "1", "equations.cosine", 1e-6)
    assert judged.margin == pytest.approx(0.005)
    assert describe(judged) == "cosine = 0.995, expected >= 0.99"


def test_measurements_come_in_the_order_of_the_thresholds():
    judged = judge([measure("b", 1), measure("a", 1)], {"a": bound("==", 1), "b": bound("==", 1)})
    assert [m.name for m in judged] == ["a", "b"]


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        ([measure("x", 1), measure("y", 1)], "'y' has no threshold"),
        ([measure("x", 1)], "'z' has a threshold but was not measured"),
        ([measure("x", 1), measure("x", 1), measure("z", 1)], "'x' is measured twice"),
        ([], "nothing was measured"),
        ([measure("x", 1, unit="ms"), measure("z", 1)], "'x' is measured in 'ms', its threshold is in '1'"),
    ],
)
def test_a_measurement_without_a_threshold_or_the_reverse_is_refused(measured, says):
    with pytest.raises(MismatchError, match=says):
        judge(measured, {"x": bound("==", 1), "z": bound("==", 1)})


def good():
    return judge([measure("x", 1)], {"x": bound("==", 1)})


def bad():
    return judge([measure("x", 0)], {"x": bound("==", 1)})


CAUGHT = control_record("planted", "x", bad())
MISSED = control_record("planted", "x", good())


def test_survival_takes_a_caught_control():
    assert verdict(good(), [CAUGHT])[::2] == (Verdict.SURVIVED, "prediction")
    assert verdict(good(), [])[0] is Verdict.VACUOUS
    missed = verdict(good(), [CAUGHT, MISSED])
    assert missed.verdict is Verdict.VACUOUS
    assert "'planted' was not caught" in missed.reason


def test_a_broken_claim_is_falsified_whatever_the_controls_say():
    for controls in ([], [CAUGHT], [MISSED]):
        judged = verdict(bad(), controls)
        assert (judged.verdict, judged.branch) == (Verdict.FALSIFIED, "if_fails")
        assert judged.reason == "x = 0, expected == 1"


def test_a_control_is_caught_only_by_the_threshold_it_names():
    thresholds = {"x": bound("==", 1), "other": bound("==", 1)}
    other_broke = judge([measure("x", 1), measure("other", 0)], thresholds)
    missed = control_record("planted", "x", other_broke)
    assert not missed.caught
    assert missed.observed == "SURVIVED, though other failed"
    assert control_record("planted", "other", other_broke) == ControlRecord(
        "planted", "other", True, "FALSIFIED", other_broke
    )


def test_an_error_in_a_control_is_not_caught():
    crashed = control_record("planted", "x", bad(), error="the worker died")
    assert not crashed.caught
    assert crashed.observed == "ERROR: the worker died"
    assert verdict(good(), [crashed]).verdict is Verdict.VACUOUS


@given(st.lists(st.sampled_from(list(Verdict))))
def test_the_worst_verdict_decides(verdicts):
    order = ["SURVIVED", "BLOCKED", "INCONCLUSIVE", "ERROR", "VACUOUS", "FALSIFIED"]
    expected = max((order.index(v) for v in verdicts), default=None)
    assert worst(verdicts) == (None if expected is None else order[expected])
