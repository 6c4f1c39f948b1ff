"""Near ties: rounding may swap the two likeliest tokens, by a bound stated before anything was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.compare.thresholds import THRESHOLDS, Kind
from pv.parity.near_tie import judge_flip

ROW = THRESHOLDS[Kind.WGPU]  # margin 0.02


def logits(*values: float) -> np.ndarray:
    return np.array([*values, -5, -6, -7], np.float32)


def test_equal_tokens_are_tolerated_whatever_the_margin():
    flip = judge_flip(logits(9, 1), logits(3, 1), ROW)
    assert (flip.reference, flip.test, flip.margin, flip.tolerated, flip.near_tie) == (0, 0, 0.0, True, False)


def test_the_two_likeliest_may_swap_within_the_bound():
    flip = judge_flip(logits(3.0, 3.001), logits(3.01, 3.0), ROW)
    assert flip.tolerated
    assert flip.near_tie
    assert flip.margin == pytest.approx(0.01, abs=1e-6)
    assert flip.bound == 0.02


def test_beyond_the_bound_they_may_not():
    assert not judge_flip(logits(3.0, 3.001), logits(3.03, 3.0), ROW).tolerated


def test_a_tail_token_is_never_a_near_tie():
    """Third on the CPU, first on the GPU, within the margin: still not one of the two likeliest."""
    assert not judge_flip(logits(3.0, 3.0, 3.005), logits(3.001, 3.0005, 3.0), ROW).tolerated


def test_both_sides_must_have_both_tokens_on_top():
    """The CPU's first token is third on the GPU."""
    assert not judge_flip(logits(2.9, 3.0, 2.95), logits(3.001, 3.0, 2.9), ROW).tolerated


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_tolerated(bad):
    assert not judge_flip(logits(bad, 1), logits(3, 1), ROW).tolerated
    assert not judge_flip(logits(3, 1), logits(bad, 1), ROW).tolerated
    assert not judge_flip(np.full(4, np.nan, np.float32), logits(1)[:4], ROW).tolerated


def test_the_rule_can_fail_at_the_observed_error():
    """The tautology that it replaces: every flip has a margin of at most the two observed errors."""
    reference, test = logits(3.5, 3.0), logits(3.0, 3.1)
    observed = abs(test[0] - reference[0]) + abs(test[1] - reference[1])
    flip = judge_flip(test, reference, ROW)
    assert flip.margin <= observed
    assert not flip.tolerated


def test_half_precision_is_bounded_in_probabilities_by_its_divergence():
    half = THRESHOLDS[Kind.HALF]
    flip = judge_flip(logits(3.0, 3.01), logits(3.01, 3.0), half)
    assert flip.tolerated
    assert flip.bound == pytest.approx(2 * (1e-3 / 2) ** 0.5)
    assert not judge_flip(logits(3.0, 3.01), logits(3.4, 3.0), half).tolerated


@given(st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=20), st.floats(0, 10), st.integers(0, 2**32 - 1))
def test_a_tolerated_flip_is_within_its_bound_and_among_the_two_likeliest(values, noise, seed):
    reference = np.array(values, np.float32)
    test = reference + np.float32(noise) * np.random.default_rng(seed).standard_normal(len(values)).astype(np.float32)
    flip = judge_flip(test, reference, ROW)
    if flip.near_tie:
        assert 0 <= flip.margin <= flip.bound
        assert flip.test in np.argsort(-reference, kind="stable")[:2]
        assert flip.reference in np.argsort(-test, kind="stable")[:2]
