"""Divergence over a text: against the definition, with honest shares, and refusals instead of half comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pv.compare.kld import KldError, Share, cut, divergence


def logits(seed: int, count: int, vocab: int = 11, scale: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, vocab)) * scale).astype(np.float32)


def serve(table: np.ndarray):  # type: ignore[no-untyped-def]  # a stand-in model that knows its answers by position
    given_out = iter(table)

    def after_each(window: Sequence[int]) -> np.ndarray:
        return np.stack([next(given_out) for _ in window])

    return after_each


def by_definition(p: np.ndarray, q: np.ndarray) -> float:
    """KL of two vectors of logits in Python's own floats."""
    a, b = (np.array([math.exp(float(v)) for v in x]) for x in (p, q))
    a, b = a / a.sum(), b / b.sum()
    return float(sum(x * math.log(x / y) for x, y in zip(a, b, strict=True)))


def test_figures_are_those_of_the_definition() -> None:
    x, y, tokens = logits(0, 7), logits(1, 7), [3, 1, 4, 1, 5, 9, 2]
    found = divergence([tokens[:4], tokens[4:]], serve(x), serve(y))
    want = [by_definition(p, q) for p, q in zip(x, y, strict=True)]
    np.testing.assert_allclose(found.kl, want, rtol=1e-12)
    assert found.positions == 7
    assert [(f.position, f.reference, f.test) for f in found.flips] == [
        (i, int(p.argmax()), int(q.argmax()))
        for i, (p, q) in enumerate(zip(x, y, strict=True))
        if p.argmax() != q.argmax()
    ]
    for flip in found.flips:
        assert flip.margin == pytest.approx(float(x[flip.position, flip.reference] - x[flip.position, flip.test]))
    # A window's last token has no successor in it: 3 of the first window and 2 of the second are told.
    for table, perplexity in ((x, found.perplexity_reference), (y, found.perplexity_test)):
        p = table.astype(np.float64)
        p = p - np.log(np.exp(p).sum(axis=1, keepdims=True))
        told = [p[i, tokens[i + 1]] for i in (0, 1, 2, 4, 5)]
        assert perplexity == pytest.approx(math.exp(-sum(told) / 5))


def test_equal_sides_have_no_divergence() -> None:
    x = logits(0, 200)
    found = divergence([range(11), range(11)], serve(x), serve(x))
    assert not found.kl.any()
    assert found.one_minus_cosine.max() < 1e-15
    assert found.flips == ()
    assert found.same_top1.value == 1.0


def test_a_shift_of_all_logits_is_no_divergence_and_a_scale_is() -> None:
    x = logits(0, 9)
    shifted = divergence([range(9)], serve(x), serve(x + np.float32(0.5)))
    scaled = divergence([range(9)], serve(x), serve(x * np.float32(2)))
    assert shifted.kl.max() < 1e-12
    assert scaled.kl.max() > 0.1
    assert scaled.flips == ()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 30))
def test_divergence_is_never_negative(seed: int, scale: float) -> None:
    found = divergence([range(5)], serve(logits(seed, 5, scale=scale)), serve(logits(seed + 1, 5, scale=scale)))
    assert (found.kl >= 0).all()
    assert np.isfinite(found.kl).all()


def test_windows_longer_than_a_piece_are_whole() -> None:
    x, y = logits(0, 150), logits(1, 150)
    tokens = list(np.random.default_rng(2).integers(0, 11, 150))
    whole = divergence([tokens], serve(x), serve(y))
    np.testing.assert_allclose(whole.kl, [by_definition(p, q) for p, q in zip(x, y, strict=True)], rtol=1e-10)
    p = x.astype(np.float64) - np.log(np.exp(x.astype(np.float64)).sum(axis=1, keepdims=True))
    told = [p[i, tokens[i + 1]] for i in range(149)]
    assert whole.perplexity_reference == pytest.approx(math.exp(-sum(told) / 149))
    assert max(flip.position for flip in whole.flips) > 64


def test_data_for_json_holds_every_figure() -> None:
    found = divergence([range(7)], serve(logits(0, 7)), serve(logits(1, 7)))
    data = found.as_json()
    assert data["kl_max"] > data["kl_p999"] > data["kl_p99"] > data["kl_median"] > 0
    assert data["kl_max_at"] == int(found.kl.argmax())
    assert data["same_top1_hits"] + len(data["flips"]) == 7
    assert data["same_top1_low"] <= data["same_top1"] < data["same_top1_high"]


def test_logits_so_large_that_no_perplexity_fits_are_compared_all_the_same() -> None:
    sound, hot = logits(0, 3), logits(1, 3, scale=1e6)
    found = divergence([range(3)], serve(sound), serve(hot))
    assert math.isinf(found.perplexity_test)
    assert math.isfinite(found.perplexity_reference)
    data = found.as_json()
    assert data["perplexity_test"] is None
    assert json.loads(json.dumps(data, allow_nan=False))["kl_max"] > 1e5


def test_a_single_token_has_no_perplexity() -> None:
    data = divergence([[1]], serve(logits(0, 1)), serve(logits(1, 1))).as_json()
    assert (data["perplexity_reference"], data["perplexity_test"]) == (None, None)


def test_near_ties_are_told_apart_by_the_reference() -> None:
    x = np.zeros((2, 3), np.float32)
    x[:, 0], x[0, 1], x[1, 1] = 1.0, 0.999, 0.5
    y = np.zeros((2, 3), np.float32)
    y[:, 1] = 1.0
    found = divergence([[0, 0]], serve(x), serve(y))
    assert [flip.position for flip in found.near_ties(0.01)] == [0]
    assert [flip.position for flip in found.flips] == [0, 1]


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [
        (0, 59, 0.0, 0.0611),
        (59, 59, 0.9389, 1.0),
        (299, 299, 0.9873, 1.0),
        (5, 10, 0.2366, 0.7634),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_bounds(hits: int, of: int, low: float, high: float) -> None:
    """Values from the closed form in Wilson 1927, by hand to four places."""
    assert Share(hits, of).interval == pytest.approx((low, high), abs=5e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.data())
def test_wilson_bounds_hold_the_share_and_shrink(of: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, of))
    low, high = Share(hits, of).interval
    assert 0 <= low <= hits / of <= high <= 1
    more = Share(hits * 4, of * 4).interval
    assert more[1] - more[0] < high - low


def test_cut_keeps_every_token() -> None:
    assert [list(part) for part in cut(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert cut([], 3) == []


def test_different_vocabularies_are_refused_with_both_sizes() -> None:
    with pytest.raises(KldError, match="expected one vocabulary, got 11 and 12 tokens"):
        divergence([[1, 2]], serve(logits(0, 2, 11)), serve(logits(0, 2, 12)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "test"])
def test_logits_that_are_not_finite_are_refused_with_their_place(bad: float, side: str) -> None:
    x, y = logits(0, 5), logits(1, 5)
    (x if side == "reference" else y)[3, 4] = bad
    with pytest.raises(KldError, match=f"expected finite logits, the {side}'s are not after token 3"):
        divergence([[1, 2], [3, 4, 5]], serve(x), serve(y))


def test_a_missing_row_is_refused() -> None:
    with pytest.raises(KldError, match="expected logits after each of 3 tokens, got 1 from the test"):
        divergence([[1, 2, 3]], serve(logits(0, 3)), lambda window: logits(0, 1))


def test_no_text_is_refused() -> None:
    with pytest.raises(KldError, match="expected at least one token of text, got none"):
        divergence([], serve(logits(0, 1)), serve(logits(0, 1)))
