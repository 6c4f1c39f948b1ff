"""Fused products of blocks: the same codes and the same product as the reference.

On a card by `make test-gpu`, and without one through Triton's interpreter, which `test_triton_interpreted.py` asks for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.backends.where_triton_runs import DEVICE, MARKS

# Where Triton runs nowhere, that import has skipped this module.
# isort: split
from pv.backends import triton_quant
from pv.model.errors import QuantError
from pv.model.operators import REFERENCE
from pv.model.quant import quantize
from pv.model.quant_product import ACTIVATIONS, quantized_product
from pv.model.quant_product import quantize_activations as by_reference
from pv.model.weights import Weight, WeightType

pytestmark = MARKS

KINDS = list(triton_quant.PACKERS)


def weight(kind: WeightType, rows: int, columns: int, seed: int = 0) -> Weight:
    values = (np.random.default_rng(seed).standard_normal((rows, columns)) / 16).astype(np.float32)
    return Weight("w", kind, (rows, columns), torch.from_numpy(quantize(values, kind)).to(DEVICE))


def activations(count: int, columns: int, seed: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((count, columns)) * rng.lognormal(size=(count, 1))).astype(np.float32)
    return torch.from_numpy(values).to(DEVICE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [256, 768, 2560])
def test_activations_are_bit_for_bit_the_references(kind: WeightType, columns: int) -> None:
    x = activations(4, columns)
    x[0, :256] = 0
    x[1, 9], x[1, 5] = x[1].abs().max(), -x[1].abs().max()  # two extremes: the first one's sign counts
    x[2, 0] = 1e-42
    want, got = (make(x, ACTIVATIONS[kind]) for make in (by_reference, triton_quant.quantize_activations))
    assert torch.equal(got.codes.view(torch.int8), want.codes)
    assert torch.equal(got.scale, want.scale)
    if got.sums.numel():
        assert torch.equal(got.sums, torch.unflatten(want.codes, 1, (-1, 16)).sum(-1, dtype=torch.int32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_without_dependent_launch_computes_the_same_bits(
    kind: WeightType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cards before Hopper have none: no kernel may ask for it there, nor be launched so."""
    x, w = activations(3, 768), weight(kind, 70, 768)
    with_it = triton_quant.product(x, w)
    monkeypatch.setattr(triton_quant, "dependent_launch", lambda device: False)
    monkeypatch.setattr(triton_quant, "launching", lambda device: {})
    triton_quant.card_of.cache_clear()
    try:
        assert triton_quant.card_of(x.device) == (0 if triton_quant.INTERPRETED else 1)
        assert torch.equal(triton_quant.product(x, w), with_it)
    finally:
        triton_quant.card_of.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_beside_a_half_is_rounded_before_it_is_a_code(kind: WeightType) -> None:
    """Contracted with the addition behind it, it would not be: the code would be the exact product's."""
    extreme = np.float32(3.7)
    inverse = np.float32(-127 if ACTIVATIONS[kind] == "Q8_K" else 127) / extreme
    halves = (np.arange(126, dtype=np.float32) + np.float32(0.5)) / np.abs(inverse)
    steps = np.arange(-3, 4, dtype=np.int32)
    near = (halves.astype(np.float32).view(np.int32)[:, None] + steps).view(np.float32).reshape(-1)
    rounded, exact = near * inverse, near.astype(np.float64) * np.float64(inverse)
    near = near[np.rint(rounded) != np.rint(exact)]
    assert len(near) > 9, "no value tells the two apart"
    x = np.zeros((1, 512), np.float32)
    x[0, : len(near)] = near[:512]
    x[0, ::32] = extreme
    x = torch.from_numpy(x).to(DEVICE)
    want, got = (make(x, ACTIVATIONS[kind]) for make in (by_reference, triton_quant.quantize_activations))
    assert torch.equal(got.codes.view(torch.int8), want.codes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns", "count"), [(7, 256, 1), (37, 768, 3), (4, 2560, 1)])
def test_product_is_the_references_up_to_the_order_of_additions(
    kind: WeightType, rows: int, columns: int, count: int
) -> None:
    w, x = weight(kind, rows, columns), activations(count, columns)
    want, got = quantized_product(x, w), triton_quant.product(x, w)
    length = x.norm(dim=1, keepdim=True) * w.dense().norm(dim=1)
    assert float(((want - got).abs() / length).max()) < 3e-7


@pytest.mark.parametrize("kind", KINDS)
def test_each_token_is_a_product_of_its_own(kind: WeightType) -> None:
    """Prefill and decode of a linear layer agree bit for bit."""
    w, x = weight(kind, 9, 512), activations(5, 512)
    together = triton_quant.product(x, w)
    assert torch.equal(together, torch.cat([triton_quant.product(row[None], w) for row in x]))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_so_in_its_row_alone(kind: WeightType) -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = activations(3, 512)
        x[1, 300] = bad
        out = triton_quant.product(x, weight(kind, 5, 512))
        assert out[1].isnan().all()
        assert torch.isfinite(out[[0, 2]]).all()


def test_extreme_codes_do_not_overflow() -> None:
    for kind in KINDS:
        values = np.tile(np.float32([1, -1]), (3, 256))
        w = Weight("w", kind, values.shape, torch.from_numpy(quantize(values, kind)).to(DEVICE))
        x = torch.from_numpy(np.tile(np.float32([-3, 3]), (1, 256))).to(DEVICE)
        torch.testing.assert_close(triton_quant.product(x, w), quantized_product(x, w), rtol=1e-6, atol=0)


def test_operators_fuse_blocks_and_leave_the_rest() -> None:
    calls: list[str] = []

    def plain(x: torch.Tensor, w: Weight) -> torch.Tensor:
        calls.append(str(w.type))
        return REFERENCE.linear(x, w)

    fused = triton_quant.operators(replace(REFERENCE, linear=plain)).linear
    x = activations(1, 256)
    for kind in (*KINDS, WeightType.Q5_K):
        fused(x, weight(kind, 3, 256))
    fused(x, Weight.of("w", torch.zeros(3, 256, device=DEVICE)))
    assert calls == ["Q5_K", "F32"]


def test_a_prompt_longer_than_a_launch_takes_several(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = weight(WeightType.Q4_K, 3, 256), activations(7, 256)
    whole = triton_quant.product(x, w)
    monkeypatch.setattr(triton_quant, "MOST", 3)
    assert torch.equal(triton_quant.product(x, w), whole)


def test_leading_dimensions_are_kept() -> None:
    w, x = weight(WeightType.Q4_K, 6, 256), activations(4, 256).reshape(2, 2, 256)
    assert triton_quant.product(x, w).shape == (2, 2, 6)


def test_other_types_and_widths_are_refused() -> None:
    with pytest.raises(QuantError, match=r"expected one of Q4_K, Q6_K, Q8_0 for the fused product of 'w', got Q5_K"):
        triton_quant.product(activations(1, 256), weight(WeightType.Q5_K, 3, 256))
    with pytest.raises(QuantError, match="expected 512 columns for 'w', got 256"):
        triton_quant.product(activations(1, 256), weight(WeightType.Q4_K, 3, 512))


def test_rearranged_blocks_keep_their_bytes() -> None:
    for kind in KINDS:
        w = weight(kind, 4, 512)
        size = sum(part.numel() * part.element_size() for part in triton_quant.packed(w))
        assert size == w.nbytes + (4 * w.data.shape[0] * 2 if kind == WeightType.Q4_K else 0)
        assert triton_quant.packed(w) is triton_quant.packed(w)
