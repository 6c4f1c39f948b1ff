"""How a replayed figure agrees with the recorded one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.evidence.record import Environment, FileDigest
from pv.falsify.judge import as_number
from pv.falsify.replay import RELATIVE, Agreement, _changed_inputs, _differences, agree

BITS, NEAR, FAR = Agreement.BITS, Agreement.TOLERANCE, Agreement.DIFFERS


@pytest.mark.parametrize(
    ("then", "now", "repeat", "wanted"),
    [
        (1.0, 1, None, BITS),
        (0, -0.0, None, BITS),  # a record cannot tell them apart
        ("NaN", "NaN", None, BITS),
        ("Infinity", "Infinity", None, BITS),
        ("NaN", 1.0, 1e9, FAR),
        ("Infinity", "-Infinity", 1e9, FAR),
        (1.0, 1.0 + 2**-52, None, NEAR),
        (1.0, 1.0 + 1e-8, None, FAR),
        (1.0, 1.0 + 1e-8, 1e-7, NEAR),
        (1.0, 1.0 + 1e-10, 0, FAR),  # the author allows nothing, so the default does not
        (0.0, 1e-300, None, FAR),  # nothing is relatively near zero
        (1e300, 1e300 * (1 + 1e-10), None, NEAR),
    ],
)
def test_agreement(then, now, repeat, wanted):
    assert agree(then, now, repeat)[0] is wanted
    assert agree(now, then, repeat)[0] is wanted


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_identical_means_equal_or_both_nan_and_near_means_near(a, b):
    found, allowed = agree(as_number(a), as_number(b), None)
    assert (found is BITS) == (a == b or (math.isnan(a) and math.isnan(b)))
    assert (found is NEAR) == (found is not BITS and math.isfinite(a + b - b) and math.isclose(a, b, rel_tol=RELATIVE))
    assert allowed == "relative 1e-09"


def test_environments_are_compared_field_by_field():
    then = Environment(python="3.11", torch="2.11", flags={"tf32": "0"})
    now = Environment(python="3.11", torch="2.13", flags={"tf32": "0", "OMP_NUM_THREADS": "2"})
    assert _differences(then, now) == {"torch": ("2.11", "2.13"), "flag OMP_NUM_THREADS": ("", "2")}
    assert _differences(then, then) == {}


def test_inputs_that_changed_are_named():
    then = (FileDigest("a", "1"), FileDigest("b", "2"), FileDigest("gone", "3"))
    assert _changed_inputs(then, (FileDigest("a", "1"), FileDigest("b", "9"))) == ("b",)
