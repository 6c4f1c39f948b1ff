"""Laws of the quantizers, and what they refuse. Their bytes are tested in `test_quant_bytes`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pv.model.errors import QuantError
from pv.model.quant import ENCODERS, block_of, dequantize, quantize
from pv.model.weights import BLOCKS, DTYPES, Weight, WeightType

KINDS = list(ENCODERS)
BLOCK_KINDS = [kind for kind in KINDS if kind.quantized]
# Relative RMS error on a Gaussian, measured; engine facts have .0713 Q4_K, .0177 Q6_K, .0054 Q8_0, .0860 Q4_0.
ERROR = {"Q4_0": 0.0862, "Q4_1": 0.0775, "Q5_0": 0.0428, "Q5_1": 0.0376, "Q8_0": 0.0055, "Q4_K": 0.0715, "Q5_K": 0.0359,
         "Q6_K": 0.0178, "F16": 0.000207, "BF16": 0.00166, "F32": 0.0}  # fmt: skip


def gauss(rows: int = 16, columns: int = 1024, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_error_is_that_of_the_format(kind: WeightType) -> None:
    x = gauss()
    back = dequantize(quantize(x, kind), kind)
    error = float(np.linalg.norm(back - x) / np.linalg.norm(x))
    assert error <= ERROR[kind] * 1.02
    assert error >= ERROR[kind] * 0.9


def test_the_table_of_types_agrees_with_the_weights_own() -> None:
    assert set(KINDS) == set(WeightType) - {WeightType.F64}
    for kind in KINDS:
        block, size = block_of(kind)
        assert (block, size) == (BLOCKS[kind] if kind.quantized else (1, DTYPES[kind].itemsize))
        assert quantize(np.zeros((2, 512), np.float32), kind).shape == (2, kind.row_bytes(512))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(BLOCK_KINDS), st.integers(-2, 6), st.integers(0, 1000))
def test_powers_of_two_pass_through(kind: WeightType, exponent: int, seed: int) -> None:
    """Scaling by a power of two scales what comes back by it, as long as float16 scales neither overflow nor vanish."""
    x = gauss(2, 512, seed)
    scaled = dequantize(quantize(x * np.float32(2.0**exponent), kind), kind)
    np.testing.assert_array_equal(scaled, dequantize(quantize(x, kind), kind) * np.float32(2.0**exponent))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(BLOCK_KINDS), st.integers(0, 1000), st.integers(1, 3), st.integers(1, 5))
def test_a_block_does_not_know_its_neighbours(kind: WeightType, seed: int, rows: int, blocks: int) -> None:
    x = gauss(rows, 256 * blocks, seed)
    whole = quantize(x, kind).reshape(rows * blocks, -1)
    alone = np.concatenate([quantize(part[None], kind) for part in x.reshape(-1, 256)])
    np.testing.assert_array_equal(whole, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_come_back_as_zeros(kind: WeightType) -> None:
    assert not dequantize(quantize(np.zeros((3, 512), np.float32), kind), kind).any()


@pytest.mark.parametrize("kind", KINDS)
def test_views_of_memory_are_no_obstacle(kind: WeightType) -> None:
    x = gauss(8, 512)
    np.testing.assert_array_equal(quantize(x.T.copy().T[::2], kind), quantize(np.ascontiguousarray(x[::2]), kind))
    stored = quantize(x, kind)
    stored.setflags(write=False)
    np.testing.assert_array_equal(dequantize(stored[::2], kind), dequantize(stored.copy(), kind)[::2])


@pytest.mark.parametrize("kind", BLOCK_KINDS)
def test_a_weight_dequantizes_whole_and_by_rows(kind: WeightType) -> None:
    stored = quantize(gauss(9, 512), kind)
    weight = Weight("w", kind, (9, 512), torch.from_numpy(stored))
    want = torch.from_numpy(dequantize(stored, kind))
    assert torch.equal(weight.dense(), want)
    index = torch.tensor([[3, 0], [8, 3]])
    assert torch.equal(weight.rows(index, torch.float32), want[index])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(kind: WeightType, bad: float) -> None:
    x = gauss(300, 512)
    x[257, 77] = bad
    with pytest.raises(QuantError, match=f"expected finite weights, got {bad} at row 257, column 77"):
        quantize(x, kind)


@pytest.mark.parametrize(("kind", "hint"), [("Q4_K", "Q8_0 or F16"), ("Q6_K", "Q8_0 or F16")])
def test_rows_of_no_whole_superblock_are_refused(kind: str, hint: str) -> None:
    with pytest.raises(QuantError, match=f"multiple of 256 weights for {kind}, got rows of 288; store .* as {hint}"):
        quantize(gauss(2, 288), WeightType(kind))


def test_rows_of_no_whole_block_are_refused() -> None:
    with pytest.raises(QuantError, match="multiple of 32 weights for Q8_0, got rows of 100; store this tensor as F16"):
        quantize(gauss(2, 100), WeightType.Q8_0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"F32", "BF16"}])
def test_a_scale_beyond_float16_is_refused(kind: WeightType) -> None:
    for large in (1e9, 1e18, 1e30, -3e38):  # beyond 1.8e19 squares are infinite, and scales made of them no number
        x = gauss(2, 512)
        x[1, 5] = large
        with pytest.raises(QuantError, match=r"within float16, at most 65504, got .*; use BF16 or F32"):
            quantize(x, kind)


def test_bfloat16_rounds_to_nearest_even_and_refuses_overflow() -> None:
    x = np.float32([[1.0, 1.00390625, 1.01171875, -1.00390625, 3.0e38]])
    back = torch.from_numpy(x).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(dequantize(quantize(x, WeightType.BF16), WeightType.BF16), back)
    with pytest.raises(QuantError, match="within bfloat16"):
        quantize(np.full((1, 4), np.finfo(np.float32).max, np.float32), WeightType.BF16)


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(QuantError, match="expected a float32 matrix, got 2 dimensions of float64"):
        quantize(np.zeros((2, 256)), WeightType.Q4_K)
    with pytest.raises(QuantError, match=r"expected a type among .*, got F64"):
        quantize(gauss(1, 256), WeightType.F64)
    with pytest.raises(QuantError, match=r"multiple of 210 bytes for Q6_K, got \(1, 209\) of uint8"):
        dequantize(np.zeros((1, 209), np.uint8), WeightType.Q6_K)


@pytest.mark.slow
def test_q4_k_writes_a_million_and_a_half_weights_a_second() -> None:
    from time import perf_counter

    x = gauss(1024, 1024) / 32
    best = 0.0
    for _ in range(5):
        start = perf_counter()
        quantize(x, WeightType.Q4_K)
        best = max(best, x.size / (perf_counter() - start))
    assert best > 1.5e6
