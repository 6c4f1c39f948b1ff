"""Operators in ggml's order give ggml's bits; and, where no ggml is installed, they obey the laws that follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pv.model import ggml_order
from pv.model.ggml_order import context, dots, exp, linear, rms_norm, rope, rope_tables, scores, silu, softmax
from pv.model.operators import REFERENCE
from pv.model.quant import quantize
from pv.model.quant_grid import UNPACKERS
from pv.model.spec import named_shape
from pv.model.weights import BLOCKS, DTYPES, Weight, WeightType

FLOATS = [WeightType.F32, WeightType.F16, WeightType.BF16]
KINDS = [*UNPACKERS, *FLOATS]
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def ggml():  # type: ignore[no-untyped-def]
    """A fresh pool of ggml's kernels at every call."""
    pytest.importorskip("xllamacpp", reason="no llama.cpp wheel here (extra [peers]): no kernels to compare with")
    from tests.model import ggml_kernels

    if not ggml_kernels.FUSED_AVX2:
        pytest.skip("ggml's kernels for this processor are not those of AVX2, whose order is promised")
    return ggml_kernels.Kernels


def numbers(seed: int, *shape: int, spread: float = 1.0) -> torch.Tensor:
    """Normal, with another magnitude in each row."""
    rng = np.random.default_rng(seed)
    magnitudes = rng.lognormal(sigma=spread, size=(*shape[:-1], 1))
    return torch.from_numpy((rng.standard_normal(shape) * magnitudes).astype(np.float32))


def weight(kind: WeightType, seed: int, rows: int, columns: int) -> Weight:
    values = numbers(seed, rows, columns)
    if kind in FLOATS:
        return Weight.of("w", values.to(DTYPES[kind]))
    return Weight("w", kind, (rows, columns), torch.from_numpy(quantize(values.numpy(), kind)))


def stored(w: Weight) -> np.ndarray:
    return w.data.view(torch.int16).numpy() if w.data.dtype.itemsize == 2 else w.data.numpy()


def assert_same_bits(ours: torch.Tensor, theirs: np.ndarray) -> None:
    assert ours.dtype == torch.float32
    mine = ours.numpy().copy()
    differ = mine.view(np.int32) != theirs.view(np.int32)
    differ &= ~((mine == 0) & (theirs == 0)) & ~(np.isnan(mine) & np.isnan(theirs))
    assert not differ.any(), f"{differ.sum()} of {differ.size} differ, as {mine[differ][:3]} and {theirs[differ][:3]}"


# --- The same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, blocks=st.integers(1, 9), rows=st.integers(1, 40), count=st.integers(1, 3))
def test_a_product_is_ggmls(ggml, kind: WeightType, seed: int, blocks: int, rows: int, count: int) -> None:  # type: ignore[no-untyped-def]
    columns = blocks * BLOCKS.get(kind, (32, 0))[0]
    w, x = weight(kind, seed, rows, columns), numbers(seed + 1, count, columns)
    with ggml() as kernels:
        assert_same_bits(linear(x, w), kernels.mul_mat(kind, stored(w), rows, x.numpy()))


@pytest.mark.parametrize("kind", FLOATS)
@given(seed=SEEDS, columns=st.integers(1, 100))
def test_a_product_of_floats_of_any_width_is_ggmls(ggml, kind: WeightType, seed: int, columns: int) -> None:  # type: ignore[no-untyped-def]
    w, x = weight(kind, seed, 5, columns), numbers(seed + 1, 2, columns)
    with ggml() as kernels:
        assert_same_bits(linear(x, w), kernels.mul_mat(kind, stored(w), 5, x.numpy()))


@pytest.mark.parametrize("kind", list(UNPACKERS))
def test_blocks_of_zeros_and_of_outliers_are_ggmls(ggml, kind: WeightType) -> None:  # type: ignore[no-untyped-def]
    """Empty blocks have a scale of zero, and one outlier leaves all other codes of its block at zero."""
    values = numbers(3, 8, 512)
    values[:4, :256], values[4:, 300] = 0, 900
    w = Weight("w", kind, (8, 512), torch.from_numpy(quantize(values.numpy(), kind)))
    x = numbers(4, 4, 512)
    x[0, :256], x[1], x[2, 77] = 0, 0, 1e4
    with ggml() as kernels:
        assert_same_bits(linear(x, w), kernels.mul_mat(kind, stored(w), 8, x.numpy()))


@given(seed=SEEDS, width=st.integers(1, 300), spread=st.sampled_from([0.0, 1.0, 8.0]))
def test_the_norm_is_ggmls(ggml, seed: int, width: int, spread: float) -> None:  # type: ignore[no-untyped-def]
    x, w = numbers(seed, 4, width, spread=spread), numbers(seed + 1, width)
    with ggml() as kernels:
        assert_same_bits(rms_norm(x, w, 1e-6), kernels.rms_norm(x.numpy(), w.numpy(), 1e-6))


@pytest.mark.parametrize(("head", "base"), [(32, 1e6), (64, 1e6), (128, 1e4), (80, 1e6), (96, 5e5), (112, 1e7)])
def test_the_rotation_is_ggmls(ggml, head: int, base: float) -> None:  # type: ignore[no-untyped-def]
    spec = replace(named_shape("tiny"), head_dim=head, rope_theta=base)
    x = numbers(5, 700, 2, head)
    turn = rope_tables(spec, 700).at(torch.arange(700))
    with ggml() as kernels:
        assert_same_bits(rope(x, *turn), kernels.rope(x.numpy(), base))


@given(seed=SEEDS, slots=st.integers(1, 70), spread=st.sampled_from([0.0, 1.0, 3.0]))
def test_the_softmax_is_ggmls(ggml, seed: int, slots: int, spread: float) -> None:  # type: ignore[no-untyped-def]
    """ggml is given whole eights, of which the last are hidden, as its cache has them."""
    x = numbers(seed, 5, slots, spread=spread)
    visible = torch.tril(torch.ones(5, slots, dtype=torch.bool), diagonal=max(0, slots - 5))
    behind = ((0, 0), (0, -slots % 8))
    with ggml() as kernels:
        theirs = kernels.soft_max(np.pad(x.numpy(), behind), np.pad(visible.numpy(), behind), 1.0)
    assert_same_bits(softmax(x, visible), np.ascontiguousarray(theirs[:, :slots]))


@pytest.mark.parametrize("head", [32, 64, 80, 128])
def test_scores_and_context_are_ggmls(ggml, head: int) -> None:  # type: ignore[no-untyped-def]
    """Four query heads over two key-value heads, forty slots; ggml is given whole strides, whose last are empty."""
    q, k, v = numbers(1, 4, 3, head), numbers(2, 2, 40, head), numbers(3, 2, 40, head)
    weighing = torch.softmax(numbers(4, 4, 3, 40), -1)
    scale = np.float32(1) / np.sqrt(np.float32(head))
    behind = ((0, 0), (0, 24))
    for one in range(4):
        shared = one // 2
        with ggml() as kernels:
            theirs = kernels.mul_mat("F32", k[shared].numpy(), 40, q[one].numpy()) * scale
            assert_same_bits(scores(q, k)[one], theirs)
            values = np.pad(v[shared].T.numpy(), behind)
            theirs = kernels.mul_mat("F32", values, head, np.pad(weighing[one].numpy(), behind))
            assert_same_bits(context(weighing, v)[one], theirs)


@given(seed=SEEDS, spread=st.sampled_from([0.0, 2.0, 5.0]))
def test_the_gate_is_ggmls(ggml, seed: int, spread: float) -> None:  # type: ignore[no-untyped-def]
    """Magnitudes up to the hundreds, where the exponential overflows and vanishes. Widths of whole lanes only."""
    gate, up = numbers(seed, 20, 32, spread=spread), numbers(seed + 1, 20, 32)
    with ggml() as kernels:
        assert_same_bits(silu(gate) * up, kernels.swiglu(gate.numpy(), up.numpy()))


def test_the_exponential_is_ggmls_at_every_exponent(ggml) -> None:  # type: ignore[no-untyped-def]
    """Through the gate of x, x / (1 + exp(-x)), from where exp(-x) is infinite to where it is a subnormal number."""
    x = torch.cat((torch.linspace(-140, 140, 80_000), torch.tensor([0.0, -0.0, 88.7, -88.7, 1e9, -1e9, 103.9, -103.9])))
    ones = torch.ones_like(x)
    with ggml() as kernels:
        assert_same_bits(silu(x)[None], kernels.swiglu(x[None].numpy(), ones[None].numpy()))


# --- Each operator's order is needed: with the engine's own, bits differ ----------------------------------------------


def test_the_comparison_sees_the_order_of_sums(ggml) -> None:  # type: ignore[no-untyped-def]
    x, w = numbers(1, 64, 256), weight(WeightType.Q4_K, 2, 64, 256)
    norm = numbers(3, 256)
    visible = torch.ones(64, 256, dtype=torch.bool)
    with ggml() as kernels:
        theirs = {
            "linear": (REFERENCE.linear(x, w), kernels.mul_mat("Q4_K", stored(w), 64, x.numpy())),
            "rms_norm": (REFERENCE.rms_norm(x, norm, 1e-6), kernels.rms_norm(x.numpy(), norm.numpy(), 1e-6)),
            "softmax": (REFERENCE.softmax(x, visible), kernels.soft_max(x.numpy(), visible.numpy(), 1.0)),
            "silu": (REFERENCE.silu(x), kernels.swiglu(x.numpy(), np.ones((64, 256), np.float32))),
        }
    for name, (own, ggmls) in theirs.items():
        assert not np.array_equal(own.numpy(), ggmls), name
        assert np.allclose(own.numpy(), ggmls, rtol=1e-3, atol=1e-4), name


# --- Laws that need no ggml -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_others(kind: WeightType) -> None:
    """What one token a batch means: many rows at once are computed as each alone, so a prompt is one pass here."""
    w, x = weight(kind, 1, 9, 512), numbers(2, 6, 512)
    alone = torch.cat([linear(x[i : i + 1], w) for i in range(6)])
    assert torch.equal(linear(x, w), alone)
    assert torch.equal(linear(x, w)[:, 2:5], linear(x, replace(w, shape=(3, 512), data=w.data[2:5])))


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_the_scratch_change_nothing(kind: WeightType, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = weight(kind, 1, 33, 512), numbers(2, 5, 512)
    whole = linear(x, w)
    monkeypatch.setattr(ggml_order, "_SCRATCH", 1)
    assert torch.equal(linear(x, w), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_engines_product_but_for_the_last_bits(kind: WeightType) -> None:
    w, x = weight(kind, 1, 33, 512), numbers(2, 5, 512)
    own = REFERENCE.linear(x.to(w.data.dtype) if kind in FLOATS else x, w).to(torch.float64)
    error = (linear(x, w) - own).norm() / own.norm()
    assert error < (5e-3 if kind in {WeightType.F16, WeightType.BF16} else 1e-6)


@given(seed=SEEDS)
def test_the_exponential_is_within_two_units_in_the_last_place(seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).uniform(-87, 88, 4096).astype(np.float32))
    exact = x.to(torch.float64).exp()
    assert ((exp(x) - exact) / exact).abs().max() < 2 * 2**-23


def test_the_exponential_at_its_ends() -> None:
    x = torch.tensor([float("-inf"), -200.0, -104.0, 89.0, 200.0, float("inf")])
    assert exp(x).tolist() == [0.0, 0.0, 0.0, float("inf"), float("inf"), float("inf")]
    assert exp(torch.tensor([float("nan")])).isnan().all()


def test_hidden_slots_weigh_nothing_and_rows_sum_to_one() -> None:
    visible = torch.tril(torch.ones(6, 6, dtype=torch.bool))
    weighing = softmax(numbers(1, 2, 6, 6), visible)
    assert (weighing.masked_select(~visible) == 0).all()
    assert torch.allclose(weighing.sum(-1), torch.ones(2, 6), atol=1e-6)


def test_angles_without_a_c_library_are_rounded_from_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = named_shape("tiny")
    with_library = rope_tables(spec, 300)

    def none(name: None) -> None:
        raise OSError("no library of the process")

    monkeypatch.setattr(ggml_order.ctypes, "CDLL", none)
    without = rope_tables(spec, 300)
    assert (with_library.cos - without.cos).abs().max() <= 2**-23
    assert (with_library.sin - without.sin).abs().max() <= 2**-23
    assert (with_library.cos == without.cos).float().mean() > 0.95


def test_what_is_not_finite_stays_so() -> None:
    x = numbers(1, 3, 256)
    x[1, 7] = float("nan")
    for kind in KINDS:
        out = linear(x, weight(kind, 2, 4, 256))
        assert out[1].isnan().all()
        assert out[[0, 2]].isfinite().all()


def test_dots_of_many_heads_are_dots_of_each() -> None:
    x, w = numbers(1, 3, 4, 72), numbers(2, 3, 5, 72)
    assert torch.equal(dots(x, w), torch.stack([dots(a, b) for a, b in zip(x, w, strict=True)]))
