"""The quantized product: exact integers inside, honest about its type, loud about what it cannot do."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pv.model import quant_product
from pv.model.errors import QuantError, WeightsError
from pv.model.operators import linear
from pv.model.quant import dequantize, quantize
from pv.model.quant_grid import UNPACKERS, unpack
from pv.model.quant_product import ACTIVATIONS, BLOCK, grid_of, multiply, quantize_activations, quantized_product
from pv.model.weights import DTYPES, Weight, WeightType

KINDS = list(UNPACKERS)


def weight(kind: WeightType, rows: int = 12, columns: int = 512, seed: int = 0) -> Weight:
    values = (np.random.default_rng(seed).standard_normal((rows, columns)) / 16).astype(np.float32)
    return Weight("w", kind, (rows, columns), torch.from_numpy(quantize(values, kind)))


def activations(count: int = 3, columns: int = 512, seed: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.standard_normal((count, columns)) * rng.lognormal(size=(count, 1))).astype(np.float32))


def by_the_definition(x: torch.Tensor, w: Weight) -> np.ndarray:
    """The product from its definition, in Python's integers and float64: no shape tricks, no float32."""
    kind = ACTIVATIONS[w.type]
    a, grid = quantize_activations(x, kind), unpack(w.type, w.data)
    rows, runs, width = grid.codes.shape
    out = np.zeros((len(x), rows))
    for t in range(len(x)):
        for r in range(rows):
            for s in range(runs):
                block = s * width // a.block
                codes = a.codes[t, s * width : (s + 1) * width].tolist()
                dot = sum(p * q for p, q in zip(codes, grid.codes[r, s].tolist(), strict=True))
                out[t, r] += float(a.scale[t, block]) * float(grid.scale[r, s]) * dot
                if grid.offset is not None:
                    weighed = float(a.sums[t, s]) if a.sums is not None else float(a.scale[t, block]) * sum(codes)
                    out[t, r] += float(grid.offset[r, s]) * weighed
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_product_is_its_definition(kind: WeightType) -> None:
    w, x = weight(kind, rows=3), activations(2)
    ours = multiply(quantize_activations(x, ACTIVATIONS[kind]), grid_of(w)).numpy()
    np.testing.assert_allclose(ours, by_the_definition(x, w), rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(quantized_product(x, w).numpy(), ours.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_largest_codes_stay_exact(kind: WeightType) -> None:
    """Every code at its extreme: the float32 sums inside reach their largest integers."""
    stored = np.full((2, quantize(np.ones((1, 512), np.float32), kind).shape[1]), 0xFF, np.uint8)
    stored.reshape(2, -1)[:] = quantize(np.tile(np.float32([1, -1]), (2, 256)), kind)
    w, x = Weight("w", kind, (2, 512), torch.from_numpy(stored)), torch.full((1, 512), -3.0)
    ours = multiply(quantize_activations(x, ACTIVATIONS[kind]), grid_of(w)).numpy()
    np.testing.assert_allclose(ours, by_the_definition(x, w), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_product_is_not_the_dense_one_but_near_it(kind: WeightType) -> None:
    w, x = weight(kind), activations()
    dense = x.numpy() @ dequantize(w.data.numpy(), kind).T
    far = np.linalg.norm(quantized_product(x, w).numpy() - dense) / np.linalg.norm(dense)
    assert 1e-3 < far < 2e-2, "int8 activations leave a trace of half a code"


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_do_not_show(kind: WeightType, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = weight(kind, rows=50), activations(9)
    whole = quantized_product(x, w)
    monkeypatch.setattr(quant_product, "_SCRATCH", 1)
    assert torch.equal(quantized_product(x, w), whole)


def test_leading_dimensions_and_dtype_are_kept() -> None:
    w, x = weight(WeightType.Q4_K), activations(6).reshape(2, 3, 512)
    assert quantized_product(x, w).shape == (2, 3, 12)
    assert quantized_product(x.to(torch.float64), w).dtype == torch.float64
    assert torch.equal(quantized_product(x, w)[1, 2], quantized_product(x[1, 2], w))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so_in_its_row_alone(kind: WeightType, bad: float) -> None:
    x = activations()
    x[1, 300] = bad
    out = quantized_product(x, weight(kind))
    assert not torch.isfinite(out[1]).any()
    assert torch.isfinite(out[[0, 2]]).all()


def test_zero_activations_give_zero() -> None:
    for kind in KINDS:
        assert not quantized_product(torch.zeros(2, 512), weight(kind)).any()


def test_division_rounds_once_as_in_c() -> None:
    """127 / max and 127 * (1 / max) differ in the last bit for some max, and then in a code."""
    largest = np.linspace(1, 2, 20001, dtype=np.float32)
    once, twice = np.float32(127) / largest, np.float32(127) * (np.float32(1) / largest)
    steps = (np.arange(1, 127) - np.float32(0.5))[:, None] / once.astype(np.float64)
    value = steps.astype(np.float32)
    tell = (once != twice) & (np.rint(value * once) != np.rint(value * twice))
    code, which = np.nonzero(tell)
    assert which.size > 10
    x = np.zeros((which.size, 32), np.float32)
    x[:, 0], x[:, 1] = largest[which], value[code, which]
    got = quantize_activations(torch.from_numpy(x), "Q8_0").codes[:, 1].numpy()
    np.testing.assert_array_equal(got, np.rint(x[:, 1] * once[which]).astype(np.int8))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(BLOCK)), st.integers(0, 2**32 - 1), st.floats(-5, 12))
def test_activations_come_back_within_half_a_step(kind: str, seed: int, exponent: float) -> None:
    x = (np.random.default_rng(seed).standard_normal((3, 512)) * 2.0**exponent).astype(np.float32)
    a = quantize_activations(torch.from_numpy(x), kind)
    back = a.codes.to(torch.float64) * a.scale.to(torch.float64).repeat_interleave(a.block, dim=1)
    step = a.scale.abs().to(torch.float64).repeat_interleave(a.block, dim=1).numpy()
    slack = 0.5 + (0.001 if kind == "Q8_K" else 127 * 2.0**-11)  # a float16 scale is off by 2^-11 at most
    assert (np.abs(back.numpy() - x) <= slack * step + 1e-12).all()


# --- types decide, and nothing falls back ---


def test_linear_takes_the_quantized_product_for_blocks_and_the_float_one_for_floats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, calls = activations(), []
    original = quant_product.quantize_activations
    monkeypatch.setattr(quant_product, "quantize_activations", lambda x, kind: calls.append(kind) or original(x, kind))
    for kind in KINDS:
        linear(x, weight(kind))
    assert calls == [ACTIVATIONS[kind] for kind in KINDS]
    calls.clear()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        linear(x, Weight.of("w", weight(WeightType.Q8_0).dense().to(dtype)))
    assert calls == []


@pytest.mark.parametrize("kind", DTYPES)
def test_a_float_weight_is_refused_by_the_quantized_product(kind: WeightType) -> None:
    w = Weight.of("w", torch.zeros(4, 512, dtype=DTYPES[kind]))
    with pytest.raises(QuantError, match=f"expected a block type for the quantized product of 'w', got {kind}"):
        quantized_product(activations(), w)


def test_a_gradient_is_refused() -> None:
    with pytest.raises(QuantError, match="rounding has no gradient; train on float weights"):
        quantized_product(activations().requires_grad_(), weight(WeightType.Q4_K))


def test_another_width_is_refused() -> None:
    with pytest.raises(QuantError, match="expected 512 columns for 'w', got 256"):
        quantized_product(activations(columns=256), weight(WeightType.Q4_K))


def test_odd_activations_are_refused() -> None:
    with pytest.raises(QuantError, match=r"expected rows of a multiple of 256 activations for Q8_K, got \(3, 128\)"):
        quantize_activations(activations(columns=128), "Q8_K")
    with pytest.raises(QuantError, match="expected an activation type among Q8_0, Q8_1, Q8_K, got 'Q7'"):
        quantize_activations(activations(), "Q7")


def test_unpacking_refuses_what_is_no_block() -> None:
    with pytest.raises(QuantError, match=r"expected a block type among .*, got F32"):
        unpack(WeightType.F32, torch.zeros(1, 4, dtype=torch.uint8))
    with pytest.raises(QuantError, match=r"multiple of 144 bytes for Q4_K, got \(2, 143\)"):
        unpack(WeightType.Q4_K, torch.zeros(2, 143, dtype=torch.uint8))


def test_a_grid_is_unpacked_once_and_goes_with_its_blocks() -> None:
    w = weight(WeightType.Q6_K)
    assert grid_of(w) is grid_of(w)
    before = len(quant_product._GRIDS)
    del w
    gc.collect()
    assert len(quant_product._GRIDS) == before - 1


def test_a_weight_without_a_product_is_an_error_not_a_detour(monkeypatch: pytest.MonkeyPatch) -> None:
    from pv.model import operators

    monkeypatch.delitem(operators.PRODUCTS, WeightType.Q4_K)
    with pytest.raises(WeightsError, match="no product for Q4_K of 'w'; dequantize the weights first"):
        linear(activations(), weight(WeightType.Q4_K))
