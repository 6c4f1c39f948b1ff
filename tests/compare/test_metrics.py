"""The metrics against their definitions, their laws, and the holes that other comparers have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pv.compare import metrics
from pv.compare.metrics import ShapeError, compare, compare_logits

FINITE = st.floats(-1e6, 1e6, width=32)
PAIRS = hnp.array_shapes(min_dims=1, max_dims=3, max_side=7).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=FINITE), hnp.arrays(np.float32, shape, elements=FINITE)
    )
)


def by_definition(x, r):
    """(rel_l2, linf_rel, cosine, scale) of each row, straight from the formulas."""
    x, r = (v.astype(np.float64).reshape(-1, v.shape[-1]) for v in (x, r))
    for a, b in zip(x, r, strict=True):
        error, length = np.linalg.norm(a - b), np.linalg.norm(b)
        cosine = a @ b / (np.linalg.norm(a) * length) if np.linalg.norm(a) * length else float(not (a.any() or b.any()))
        yield (
            error / length if length else (0.0 if error == 0 else np.inf),
            np.abs(a - b).max() / np.abs(b).max() if b.any() else (0.0 if error == 0 else np.inf),
            cosine,
            a @ b / (b @ b) if b @ b else 1.0,
        )


@given(PAIRS)
def test_every_figure_is_its_definition(pair):
    x, r = pair
    rows = compare(x, r).rows
    for row, (rel_l2, linf_rel, cosine, scale) in enumerate(by_definition(x, r)):
        assert rows.rel_l2[row] == pytest.approx(rel_l2, rel=1e-6)
        assert rows.linf_rel[row] == pytest.approx(linf_rel, rel=1e-6)
        assert rows.cosine[row] == pytest.approx(cosine, abs=1e-6)
        assert rows.scale[row] == pytest.approx(scale, rel=1e-6, abs=1e-6)


@given(PAIRS)
def test_the_worst_row_decides_and_the_worst_element_is_found(pair):
    x, r = pair
    found = compare(x, r)
    assert found.rel_l2 == found.rows.rel_l2.max()
    assert found.cosine == found.rows.cosine.min()
    assert found.worst.test == x[found.worst.at]
    assert found.worst.reference == r[found.worst.at]
    assert found.max_abs == np.abs(x.astype(np.float64) - r.astype(np.float64)).max()
    assert found.identical == (x.tobytes() == r.tobytes())


@given(hnp.arrays(np.float32, (3, 50), elements=st.floats(np.float32(0.01), 100, width=32)), st.integers(-4, 4))
def test_scaling_by_a_power_of_two_is_a_scale_and_nothing_else(r, power):
    found = compare(r * np.float32(2.0**power), r)
    assert found.scale == pytest.approx(2.0**power, rel=1e-12)
    assert found.cosine == pytest.approx(1.0, abs=1e-15)
    assert found.rel_l2 == pytest.approx(abs(2.0**power - 1), rel=1e-12)


@given(
    hnp.arrays(np.float32, (4, 9), elements=FINITE),
    hnp.arrays(np.float32, (4, 9), elements=FINITE),
    st.permutations(range(4)),
)
def test_the_order_of_positions_does_not_matter(x, r, order):
    found, moved = compare(x, r), compare(x[list(order)], r[list(order)])
    assert (found.rel_l2, found.linf_rel, found.cosine, found.max_abs) == (
        moved.rel_l2, moved.linf_rel, moved.cosine, moved.max_abs,
    )  # fmt: skip
    assert found.rms == pytest.approx(moved.rms, rel=1e-12)


@pytest.mark.parametrize("size", [1e-37, 1e-25, 1e-19, 1e-6, 1.0, 1e6, 1e15, 1e19, 1e30, 1e37])
@pytest.mark.parametrize("error", [1e-7, 1e-3, 0.4])
def test_reported_figures_are_float64s_at_every_size(size, error):
    """Squares of float32 numbers under- and overflow float32; the figures that are reported never do."""
    rng = np.random.default_rng(5)
    r = (size * rng.uniform(0.5, 1, (40, 300))).astype(np.float32)
    x = (r * (1 + error * rng.uniform(-1, 1, r.shape))).astype(np.float32)
    found, rows = compare(x, r), list(by_definition(x, r))
    assert found.rel_l2 == pytest.approx(max(row[0] for row in rows), rel=1e-12)
    assert found.linf_rel == pytest.approx(max(row[1] for row in rows), rel=1e-12)
    assert found.scale == pytest.approx(rows[found.rel_l2_at][3], rel=1e-12)
    exact = [1 - row[2] for row in rows]
    assert found.cosine_loss == pytest.approx(exact[found.cosine_at], rel=1e-9, abs=1e-15)
    assert exact[found.cosine_at] == pytest.approx(max(exact), rel=1e-4, abs=1e-15)
    assert found.rms == pytest.approx(np.sqrt(((x.astype(np.float64) - r) ** 2).mean()), rel=1e-5)


def test_float32_sums_are_not_believed_where_they_cannot_be():
    """A row of tiny numbers among ordinary ones: its squares vanish in float32, its error must not."""
    r = np.ones((50, 64), np.float32)
    r[7] = 1e-25
    x = r.copy()
    x[7, 3] *= 3
    found = compare(x, r)
    assert found.rel_l2_at == 7
    assert found.rel_l2 == pytest.approx(2 / 8)


def lost_squares(width: int) -> np.ndarray:
    """Differences whose later squares vanish in a float32 sum, in whatever number of lanes up to 256 it is taken."""
    d = np.ones(width)
    d[256:] = np.sqrt(0.9) * 2.0**-12
    return d


def adversarial(rows: int = 6, width: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Row 3 is the worst by every figure of the whole error, and float32 finds another: the last ones seem larger."""
    r = np.tile(np.where(np.arange(width) % 2, 16.0, -16.0), (rows, 1)).astype(np.float32)
    d = np.zeros((rows, width))
    d[3] = lost_squares(width)
    for row in set(range(rows)) - {3}:
        d[row, :256] = 1.0
        d[row, 0] = 1 + 26 * 2.0**-19  # adds 1e-4 to a sum of 256, half of what the lost squares add to theirs
    return (r + d).astype(np.float32), r


def figures(x, r):
    """rel_l2, linf_rel, cosine_loss and max |x - r| of each row in float64, the cosine without cancellation."""
    x, r = x.astype(np.longdouble), r.astype(np.longdouble)
    d = x - r
    dd, rr, xx = ((v * v).sum(1) for v in (d, r, x))
    gap = (2 * (d * r).sum(1) + dd) / (np.sqrt(xx) + np.sqrt(rr))
    most = np.abs(d).max(1)
    return np.sqrt(dd / rr), most / np.abs(r).max(1), (dd - gap * gap) / (2 * np.sqrt(xx * rr)), most


def test_float32_does_not_choose_the_worst_row():
    x, r = adversarial()
    rel_l2, _, loss, _ = figures(x, r)
    assert (np.argmax(rel_l2), np.argmax(loss)) == (3, 3)
    ranked = metrics.row_sums(x, r)
    assert not ranked.exact.any()
    assert np.argmax(ranked.rel_l2) != 3  # what float32 alone would have said
    found = compare(x, r)
    assert (found.rel_l2_at, found.cosine_at) == (3, 3)
    assert found.rel_l2 == pytest.approx(float(rel_l2[3]), rel=1e-14)
    assert found.cosine_loss == pytest.approx(float(loss[3]), rel=1e-12)


def test_the_largest_difference_is_not_lost_in_a_rounding_of_it():
    """1 + 1e-8 and 1 are one difference in float32."""
    r = np.full((6, 512), 100, np.float32)
    x = r.copy()
    r[:, 9], x[:, 9] = 1, 0
    x[4, 9] = -1e-8
    found = compare(x, r)
    assert (found.worst.at, found.linf_rel_at, found.max_abs) == ((4, 9), 4, 1 + float(np.float32(1e-8)))


@pytest.mark.parametrize("width", [257, 4096, metrics.BLOCK + 1000])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), shift=st.sampled_from([0.0, 1e-4, 1e-2]), apart=st.sampled_from([0.0, 1e-8, 1e-5])
)
def test_the_worst_of_nearly_equal_rows_is_float64s(width, seed, shift, apart):
    """The same errors in another order, a hair larger or smaller, and with a part along the reference."""
    rng = np.random.default_rng(seed)
    noise = 1e-3 * rng.standard_normal(width)
    r = np.stack([rng.permutation(np.linspace(0.5, 2, width)) for _ in range(6)]).astype(np.float32)
    d = np.stack([rng.permutation(noise) * (1 + apart * rng.standard_normal()) for _ in range(6)]) + shift * r
    x = (r + d).astype(np.float32)
    found = compare(x, r)
    rel_l2, linf_rel, loss, most = figures(x, r)
    assert found.rel_l2 == pytest.approx(float(rel_l2.max()), rel=1e-12)
    assert found.linf_rel == pytest.approx(float(linf_rel.max()), rel=1e-12)
    assert found.cosine_loss == pytest.approx(float(loss.max()), rel=1e-9)
    assert found.max_abs == most.max()


@pytest.mark.parametrize("width", [300, 4096, 40_000])
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    error=st.sampled_from([1e-7, 1e-4, 0.3]),
    kind=st.sampled_from(["noise", "lost", "scale"]),
)
def test_a_float32_figure_is_off_by_no_more_than_it_says(width, seed, error, kind):
    rng = np.random.default_rng(seed)
    r = rng.standard_normal((5, width)).astype(np.float32)
    d = np.tile(lost_squares(width), (5, 1)) if kind == "lost" else rng.standard_normal((5, width))
    along = 1.0 if kind == "scale" else 0.3  # a part along the reference, which the cosine must not see
    x = (r + error * (along * r + d / np.sqrt((d * d).mean()) * (1e-3 if kind == "scale" else 1))).astype(np.float32)
    ranked = metrics.row_sums(x, r)
    for (figure, off), exact in zip(metrics._ranked(ranked), figures(x, r)[:2] + figures(x, r)[3:1:-1], strict=True):
        assert (np.abs(figure - exact) <= off + 1e-13 * exact).all()


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(width=32) | st.sampled_from([-0.0, 0.0, 1e-45, -1e-45]),
    )
)
def test_the_largest_magnitude_by_the_order_of_bits(values):
    highest, lowest = values.view(np.int32).max(axis=1), values.view(np.uint32).max(axis=1)
    np.testing.assert_array_equal(metrics._magnitudes(highest, lowest), np.abs(values).max(axis=1))


def test_few_rows_are_summed_twice():
    """Float64 for all of them would cost what float32 saves."""
    rng = np.random.default_rng(0)
    r = rng.standard_normal((2000, 1024), np.float32)
    x = r + np.float32(1e-5) * rng.standard_normal(r.shape, np.float32)
    assert 0 < compare(x, r).rows.exact.sum() < 40
    assert not compare(r, r.copy()).rows.exact.any()


def test_identical_gives_zero_zero_one():
    values = np.random.default_rng(0).standard_normal((5, 8), np.float32)
    found = compare(values, values.copy())
    assert (found.max_abs, found.rms, found.rel_l2, found.cosine, found.identical) == (0.0, 0.0, 0.0, 1.0, True)


def test_the_cosine_keeps_digits_that_a_dot_product_loses():
    r = np.random.default_rng(1).standard_normal((1, 4096), np.float32)
    x = r.copy()
    x[0, 7] = np.nextafter(x[0, 7], np.float32(9))
    gap, length = float(x[0, 7]) - float(r[0, 7]), np.linalg.norm(r.astype(np.float64))
    exact = (gap**2 - (gap * float(r[0, 7]) / length) ** 2) / (2 * length**2)
    lost = compare(x, r).cosine_loss
    assert lost == pytest.approx(exact, rel=1e-3)
    assert 0 < lost < 1e-15


def test_one_bad_position_is_not_averaged_away():
    r = np.ones((1000, 16), np.float32)
    x = r.copy()
    x[777] *= 2
    found = compare(x, r)
    assert (found.rel_l2, found.rel_l2_at, found.worst.at) == (1.0, 777, (777, 0))


def test_a_single_wrong_block_shows_in_linf_where_rel_l2_dilutes_it():
    r = np.random.default_rng(0).standard_normal((1, 100_000), np.float32)
    x = r.copy()
    x[0, 5] += 8
    found = compare(x, r)
    assert found.linf_rel > 1
    assert found.rel_l2 < 0.03


@pytest.mark.parametrize("width", [1, 3, metrics.BLOCK - 1, metrics.BLOCK, metrics.BLOCK + 1, 2 * metrics.BLOCK + 5])
def test_blocks_of_any_width_sum_to_the_whole(width):
    rng = np.random.default_rng(width)
    r = rng.standard_normal((3, width), np.float32)
    x = r + rng.standard_normal((3, width), np.float32) / np.float32(1000)
    rows = compare(x, r).rows
    d = x.astype(np.float64) - r
    np.testing.assert_allclose(rows.dd, (d * d).sum(1), rtol=1e-6)
    np.testing.assert_allclose(rows.rr, (r.astype(np.float64) ** 2).sum(1), rtol=1e-6)


def test_an_older_numpy_gives_the_same(monkeypatch):
    """numpy 1 has no vecdot."""
    r = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float32)
    x = r + np.float32(1e-4)
    newer = compare(x, r)
    monkeypatch.delattr(np, "vecdot", raising=False)
    older = compare(x, r)
    assert older.rel_l2 == pytest.approx(newer.rel_l2, rel=1e-14)
    assert older.cosine_loss == pytest.approx(newer.cosine_loss, rel=1e-10)
    assert older.max_abs == newer.max_abs
    np.testing.assert_allclose(older.rows.dd, newer.rows.dd, rtol=1e-5)


def test_used_elements_are_forgotten_each_once():
    seen = np.zeros(3 * 100_000, int)

    def forget(first: int, last: int) -> None:
        seen[first:last] += 1

    r = np.ones((3, 100_000), np.float32)
    compare(r.reshape(-1), r.reshape(-1), (3, 100_000), forget)
    assert (seen == 1).all()


NAN, INF = np.float32("nan"), np.float32("inf")


@pytest.mark.parametrize(
    ("x", "r", "disagree", "broken"),
    [
        ([1, NAN], [1, 2], 1, True),
        ([1, 2], [1, NAN], 1, True),
        ([1, NAN], [1, NAN], 0, True),  # NaN anywhere fails, even in the same place
        ([1, -INF], [1, -INF], 0, False),  # a mask both sides agree upon
        ([1, -metrics.MASK], [1, -INF], 0, False),  # the mask constant stands for -inf
        ([1, INF], [1, -INF], 1, True),
        ([1, -INF], [1, 5], 1, True),
        ([1, 2], [1, -metrics.MASK], 1, True),
    ],
)
def test_masks_must_match_and_nan_is_never_fine(x, r, disagree, broken):
    found = compare(np.array([x], np.float32), np.array([r], np.float32))
    assert found.nonfinite.disagree == disagree
    assert found.broken == broken
    assert found.max_abs == 0.0  # of what is finite on both sides
    assert found.rows.rr[0] == 1.0


def test_a_mask_constant_does_not_swamp_the_figures():
    r = np.array([[1, 1, -metrics.MASK]], np.float32)
    x = np.array([[1, 2, -metrics.MASK]], np.float32)
    assert compare(x, r).rel_l2 == pytest.approx(np.sqrt(0.5))


def test_nothing_finite_to_compare_is_nan_not_zero():
    found = compare(np.array([[NAN]], np.float32), np.array([[1]], np.float32))
    assert found.worst is None
    assert np.isnan(found.max_abs)
    assert np.isnan(found.rms)


def test_identical_nan_bits_are_identical_and_other_nan_bits_are_not():
    one, other = (np.array([bits], np.uint32).view(np.float32) for bits in (0x7FC00001, 0x7FC00002))
    assert compare(one, one.copy()).identical
    assert not compare(one, other).identical


def test_sizes_are_never_cut_to_fit():
    with pytest.raises(ShapeError, match=r"got \(3,\) and \(4,\)"):
        compare(np.zeros(3, np.float32), np.zeros(4, np.float32))
    with pytest.raises(ShapeError, match="expected 3 elements"):
        compare(np.zeros(3, np.float32), np.zeros(3, np.float32), (2, 2))
    with pytest.raises(ShapeError, match="at least one"):
        compare(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))


@given(PAIRS, st.integers(1, 5))
def test_largest_is_the_sorted_list(pair, limit):
    x, r = pair
    flat = np.abs(x.astype(np.float64) - r.astype(np.float64)).reshape(-1)
    order = np.lexsort((np.arange(flat.size), -flat))[:limit]
    found = metrics.largest(x, r, x.shape, limit)
    assert [w.at for w in found] == [tuple(map(int, np.unravel_index(i, x.shape))) for i in order]
    assert [abs(w.difference) for w in found] == list(flat[order])


def test_largest_crosses_blocks_and_puts_one_sided_nan_first():
    r = np.zeros(3 * metrics.BLOCK, np.float32)
    x = r.copy()
    x[[5, metrics.BLOCK + 1, 2 * metrics.BLOCK + 2]] = [1, 3, 2]
    x[7] = NAN
    found = metrics.largest(x, r, x.shape, 3)
    assert [w.at[0] for w in found] == [7, metrics.BLOCK + 1, 2 * metrics.BLOCK + 2]


@given(hnp.arrays(np.float32, 20, elements=FINITE), st.integers(0, 1000))
def test_ulps_count_representable_numbers(values, steps):
    moved = values.copy()
    moved.view(np.int32)[values != 0] += steps
    expected = np.where(values != 0, steps, 0)
    np.testing.assert_array_equal(metrics.ulps(moved, values), expected)


def test_ulps_across_zero():
    tiny = np.array([1e-45], np.float32)
    assert metrics.ulps(tiny, -tiny)[0] == 2
    assert metrics.ulps(np.array([-0.0], np.float32), np.array([0.0], np.float32))[0] == 0


def test_spread_describes_a_shift():
    r = np.random.default_rng(0).standard_normal((4, 1000), np.float32)
    found = metrics.spread(r + np.float32(0.5), r)
    assert found.shift == pytest.approx(0.5, abs=1e-6)
    assert found.median_abs == pytest.approx(0.5, abs=1e-6)
    assert found.centred_cosine == pytest.approx(1.0, abs=1e-12)
    assert found.reference_std == pytest.approx(1, abs=0.05)
    assert found.sampled == 1
    assert metrics.spread(r, r, most=100).sampled == 40


def test_a_massive_channel_does_not_make_unrelated_rows_alike():
    rng = np.random.default_rng(0)
    x, r = rng.standard_normal((2, 6, 512)).astype(np.float32)
    x[:, 3] = r[:, 3] = 1e4
    assert compare(x, r).cosine > 0.999
    assert metrics.without_massive(x, r) > 1


def test_logits_scaled_by_two_pass_the_cosine_and_fail_the_divergence():
    r = np.random.default_rng(0).standard_normal(1000).astype(np.float32) * 3
    found = compare_logits(2 * r, r)
    assert found.top1_equal
    assert found.centred_cosine > 0.999999
    assert found.kl > 0.5


def test_a_shift_of_all_logits_is_harmless_to_the_sampler():
    r = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    found = compare_logits(r + np.float32(4), r)
    assert found.kl == pytest.approx(0, abs=1e-10)
    assert found.centred_cosine == pytest.approx(1.0, abs=1e-9)


@given(
    hnp.arrays(
        np.float64, st.integers(1, 30), elements=st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0, np.inf, np.nan])
    ),
    st.integers(0, 31),
)
def test_the_largest_are_the_head_of_the_whole_sorted_list(logits, k):
    sorted_whole = np.lexsort((np.arange(logits.size), -logits))
    assert np.array_equal(metrics.top(logits, k), sorted_whole[:k])


def test_logit_figures_by_hand():
    found = compare_logits(np.array([0, 1, 5, 4], np.float32), np.array([0, 1, 4, 5], np.float32), k=2)
    assert (found.top1_equal, found.top1_reference, found.top1_test) == (False, 3, 2)
    assert (found.margin, found.jaccard, found.k) == (1.0, 1.0, 2)
    p = np.exp([0, 1, 4, 5.0]) / np.exp([0, 1, 4, 5.0]).sum()
    assert found.kl == pytest.approx(p[3] - p[2])
    assert found.max_logprob == pytest.approx(1.0)
    assert compare_logits(np.array([1, 0, 0, 9], np.float32), np.array([9, 8, 0, 0], np.float32), k=2).jaccard == 1 / 3


def test_logits_with_nan_are_nan_figures_not_zero():
    found = compare_logits(np.array([NAN, 1], np.float32), np.array([0, 1], np.float32))
    assert np.isnan(found.kl)
    assert not found.top1_equal
    with pytest.raises(ShapeError):
        compare_logits(np.zeros(3, np.float32), np.zeros(4, np.float32))
