"""The second reading of thresholds: it agrees with the runner's judge on every value and bound there can be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.evidence.record import ThresholdRecord
from pv.evidence.rejudge import contradictions, holds
from pv.evidence.statement import number, plain
from pv.falsify.api import measure
from pv.falsify.judge import judge

values = st.one_of(st.floats(), st.integers(-(10**6), 10**6), st.sampled_from([0.0, -0.0, 0.99, 1.0, math.ulp(1.0)]))


@pytest.mark.parametrize(
    ("op", "bound", "inside", "outside"),
    [
        ("<", 1, 0.99, 1.0),
        ("<=", 1, 1.0, math.nextafter(1.0, 2)),
        (">", 1, math.nextafter(1.0, 2), 1.0),
        (">=", 0.99, 0.99, math.nextafter(0.99, 0)),
        ("==", 1, 1.0, 0.0),
        ("!=", 0, 1.0, -0.0),
        ("within", (0.5, 2.0), 2.0, 2.01),
    ],
)
def test_every_operator_has_an_inside_and_an_outside(op, bound, inside, outside):
    assert holds(inside, ThresholdRecord(op, bound))
    assert not holds(outside, ThresholdRecord(op, bound))


@pytest.mark.parametrize("op", ["<", "<=", ">", ">=", "==", "!="])
@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_is_not_finite_fails_every_threshold(op, word):
    assert not holds(word, ThresholdRecord(op, 1.0))
    assert not holds(1.0, ThresholdRecord(op, word))


@given(values, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), values)
def test_the_judge_and_the_second_reading_agree(value, op, bound):
    threshold = ThresholdRecord(op, number(bound))
    (judged,) = judge([measure("x", value)], {"x": threshold})
    assert judged.passed == holds(judged.value, threshold)
    assert judged.margin is None or (plain(judged.margin) >= 0) == judged.passed


@given(values, values, values)
def test_they_agree_on_ranges(value, low, high):
    threshold = ThresholdRecord("within", (number(low), number(high)))
    (judged,) = judge([measure("x", value)], {"x": threshold})
    assert judged.passed == holds(judged.value, threshold)


def test_the_example_record_has_no_contradiction(make_record):
    assert list(contradictions(make_record())) == []
