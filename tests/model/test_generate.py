"""Tokens one by one: greedy, seeded draws that follow the distribution, and every reason to stop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.backends.cpu import open_cpu
from pv.model.errors import ContextError, ModelError
from pv.model.generate import NotFiniteError, Sampling, choose, generate
from pv.model.spec import ModelSpec, named_shape
from pv.model.synthetic import Recipe, build

SPEC = named_shape("nano")


class Script:
    """A session that gives the logits it was told to, and counts."""

    def __init__(self, *rows: list[float], context: int = 100) -> None:
        self.spec = ModelSpec(**{n: getattr(SPEC, n) for n in SPEC.__dataclass_fields__} | {"context": context})
        self.rows, self.heard = iter(rows), []

    def prefill(self, tokens: list[int]) -> np.ndarray:
        self.heard += tokens
        return np.array(next(self.rows), np.float32)

    def decode(self, token: int) -> np.ndarray:
        return self.prefill([token])


def test_greedy_takes_the_largest_and_stops_at_the_stop_token() -> None:
    session = Script([0, 3, 1], [5, 0, 0], [0, 0, 9])
    steps = list(generate(session, [7, 8], max_tokens=9, stops=frozenset({2})))
    assert steps == [(1, ""), (0, ""), (2, "stop")]
    assert session.heard == [7, 8, 1, 0]  # the stop token is not fed back


def test_the_last_token_asked_for_costs_no_further_step() -> None:
    session = Script([0, 1], [1, 0])
    assert list(generate(session, [7], max_tokens=2)) == [(1, ""), (0, "length")]
    assert session.heard == [7, 1]


def test_a_full_context_ends_the_answer() -> None:
    session = Script(*[[0.0, 1.0]] * 5, context=4)
    assert [step.end for step in generate(session, [7, 8], max_tokens=9)] == ["", "", "context"]
    assert len(session.heard) == 4


def test_a_real_session_fills_its_context_to_the_last_slot() -> None:
    short = ModelSpec(**{n: getattr(SPEC, n) for n in SPEC.__dataclass_fields__} | {"context": 6})
    session = open_cpu(build(Recipe(short)))
    assert [step.end for step in generate(session, [1, 2, 3, 4], max_tokens=9)] == ["", "", "context"]
    assert session.position == 6
    with pytest.raises(ContextError, match=r"expected at most 6 tokens \(the model's context\), got 7"):
        next(generate(open_cpu(build(Recipe(short))), [1] * 7, max_tokens=1))


def test_a_tie_goes_to_the_lowest_id() -> None:
    assert choose(np.array([1, 4, 4], np.float32), Sampling(), np.random.default_rng(0)) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_end_the_run(bad: float) -> None:
    with pytest.raises(NotFiniteError, match=r"expected finite logits, got -?(nan|inf) at token 2"):
        choose(np.array([1, 2, bad], np.float32), Sampling(), np.random.default_rng(0))


def test_draws_follow_the_distribution() -> None:
    """10,000 draws: each share within five standard deviations of its probability."""
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    random = np.random.default_rng(3)
    drawn = np.bincount([choose(logits, Sampling(1.0), random) for _ in range(10_000)], minlength=4) / 10_000
    assert np.abs(drawn - np.exp(logits)).max() < 0.025


def test_temperature_sharpens() -> None:
    logits = np.log(np.array([0.6, 0.4], np.float32))
    random = np.random.default_rng(3)
    share = np.mean([choose(logits, Sampling(0.5), random) == 0 for _ in range(5_000)])
    assert share == pytest.approx(0.36 / 0.52, abs=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = np.log(np.array([0.15, 0.5, 0.3, 0.05], np.float32))
    for top_p, kept in ((0.4, {1}), (0.51, {1, 2}), (0.79, {1, 2}), (0.81, {1, 2, 0}), (1.0, {0, 1, 2, 3})):
        random = np.random.default_rng(3)
        assert {choose(logits, Sampling(1.0, top_p), random) for _ in range(500)} == kept, top_p


@given(st.integers(0, 2**32), st.floats(0.1, 3), st.floats(0.01, 1))
def test_the_same_seed_draws_the_same_tokens(seed: int, temperature: float, top_p: float) -> None:
    logits = np.random.default_rng(1).normal(size=50).astype(np.float32)
    sampling = Sampling(temperature, top_p, seed)
    first, second = (
        [choose(logits, sampling, random) for _ in range(5)]
        for random in (np.random.default_rng(seed), np.random.default_rng(seed))
    )
    assert first == second


def test_a_whole_answer_repeats_with_its_seed_and_changes_with_another() -> None:
    session = open_cpu(build(Recipe(SPEC)))

    def said(seed: int) -> list[int]:
        session.reset()
        return [step.token for step in generate(session, [5, 6], max_tokens=12, sampling=Sampling(1.0, 1.0, seed))]

    assert said(1) == said(1) != said(2)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ModelError, match=r"expected (a temperature|top_p)"):
        Sampling(**wrong)
