"""The quantized product: float activations times blocks of codes, as ggml multiplies them on a CPU.

ggml never turns the weights into floats. It turns the activations into int8 codes with one scale for each block, takes
integer dot products of codes with codes, and scales those. Three formats, by the weight's type:

    Q8_0  32 values, scale max|x| / 127, in float16          (Q8_0, Q4_0, Q5_0)
    Q8_1  the same, and scale times the sum of the codes, in float16, for the offsets (Q4_1, Q5_1)
    Q8_K  256 values, scale -extreme / 127, in float32       (Q4_K, Q5_K, Q6_K)

Here each run of 16 or 32 codes is multiplied in float32, where integers below 2**24 are exact in any order of
summation; the runs are then scaled and added in float64 and rounded once. So the result has no rounding of its own
beyond the last one, and what separates it from ggml's is ggml's order of float32 additions.

Legend: T rows of activations, R rows of weights, K columns, s runs in a row, w codes in a run, n activation blocks.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch

from pv.model.errors import QuantError
from pv.model.operators import PRODUCTS
from pv.model.quant_grid import UNPACKERS, Grid, unpack
from pv.model.weights import Weight, WeightType

_SCRATCH = 1 << 19  # elements of the largest temporary: 4 MiB of float64

ACTIVATIONS: dict[WeightType, str] = {  # ggml's `vec_dot_type`
    WeightType.Q4_0: "Q8_0",
    WeightType.Q5_0: "Q8_0",
    WeightType.Q8_0: "Q8_0",
    WeightType.Q4_1: "Q8_1",
    WeightType.Q5_1: "Q8_1",
    WeightType.Q4_K: "Q8_K",
    WeightType.Q5_K: "Q8_K",
    WeightType.Q6_K: "Q8_K",
}
BLOCK = {"Q8_0": 32, "Q8_1": 32, "Q8_K": 256}


class Activations(NamedTuple):
    """Activations as ggml multiplies them. An element is scale * code."""

    codes: torch.Tensor  # (T, K) int8
    scale: torch.Tensor  # (T, n) float32
    block: int  # K / n
    sums: (
        torch.Tensor | None
    )  # (T, n) float32: scale times the block's sum of codes as Q8_1 stores it, rounded to float16


def quantize_activations(x: torch.Tensor, kind: str) -> Activations:
    """(T, K) float32 -> int8 codes. What is not finite keeps its block not finite: the scale becomes NaN.

    Raises QuantError for an unknown kind and for rows that are no whole number of blocks.
    """
    if kind not in BLOCK:
        raise QuantError(f"expected an activation type among {', '.join(BLOCK)}, got {kind!r}")
    block = BLOCK[kind]
    if x.ndim != 2 or x.shape[1] % block:
        raise QuantError(f"expected rows of a multiple of {block} activations for {kind}, got {tuple(x.shape)}")
    blocks = torch.unflatten(x, 1, (-1, block))  # (T, n, block)
    codes, scale = _q8_k(blocks) if kind == "Q8_K" else _q8_0(blocks)
    scale = scale.masked_fill(~torch.isfinite(blocks).all(-1), float("nan"))
    stored = scale if kind == "Q8_K" else scale.to(torch.float16).to(torch.float32)
    sums = (scale * codes.sum(-1)).to(torch.float16).to(torch.float32) if kind == "Q8_1" else None
    return Activations(codes.flatten(1).nan_to_num(0.0, 0.0, 0.0).to(torch.int8), stored, block, sums)


def quantized_product(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """(..., K) -> (..., R): x times the quantized weight transposed, in x's dtype. Codes are never turned into floats
    of the weights' own scale: a float32 detour would hide what this path is there to show.

    Raises QuantError for a float weight, for a width that does not fit, and where a gradient is wanted: rounding has
    none.
    """
    if weight.type not in ACTIVATIONS:
        raise QuantError(f"expected a block type for the quantized product of {weight.name!r}, got {weight.type}")
    if x.shape[-1] != weight.shape[-1]:
        raise QuantError(f"expected {weight.shape[-1]} columns for {weight.name!r}, got {x.shape[-1]}")
    if torch.is_grad_enabled() and x.requires_grad:
        raise QuantError(f"{weight.name!r} is {weight.type}, and rounding has no gradient", "train on float weights")
    kind = ACTIVATIONS[weight.type]
    activations = quantize_activations(x.reshape(-1, x.shape[-1]).to(torch.float32), kind)
    return multiply(activations, grid_of(weight)).to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def multiply(a: Activations, grid: Grid) -> torch.Tensor:
    """(T, K) activations times (R, K) weights transposed -> (T, R) float64."""
    rows, runs, width = grid.codes.shape
    codes = torch.unflatten(a.codes, 1, (runs, width)).permute(1, 2, 0).to(torch.float32)  # (s, w, T)
    scale = a.scale.to(torch.float64).repeat_interleave(a.block // width, dim=1)  # (T, s)
    count = a.codes.shape[0]
    out = torch.empty((rows, count), dtype=torch.float64, device=a.codes.device)
    step = max(1, _SCRATCH // (runs * max(width, 2 * count)))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        dots = torch.bmm(grid.codes[part].transpose(0, 1).to(torch.float32), codes).to(
            torch.float64
        )  # (s, R, T), exact
        dots.mul_(grid.scale[part].T.unsqueeze(-1)).mul_(scale.T.unsqueeze(1))
        torch.sum(dots, dim=0, out=out[part])
    if grid.offset is not None:
        out.add_(grid.offset.to(torch.float64) @ _run_sums(a, runs, width).T)
    return out.T


def grid_of(weight: Weight) -> Grid:
    """The weight's codes unpacked to int8, once: 1.25 bytes a weight or less, kept as long as its blocks live."""
    key = id(weight.data)
    if key not in _GRIDS:
        _GRIDS[key] = unpack(weight.type, weight.data)
        weakref.finalize(weight.data, _GRIDS.pop, key, None)
    return _GRIDS[key]


_GRIDS: dict[int, Grid] = {}


def _run_sums(a: Activations, runs: int, width: int) -> torch.Tensor:
    """What the offset of a run is multiplied with: the sum of its activations, (T, s) float64."""
    if a.sums is not None:
        return a.sums.to(torch.float64)
    codes = torch.unflatten(a.codes, 1, (runs, width)).sum(-1, dtype=torch.int64)  # exact
    return codes.to(torch.float64) * a.scale.to(torch.float64).repeat_interleave(a.block // width, dim=1)


def _q8_0(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (T, n, 32) as floats, scale (T, n) before it is rounded to float16.

    As ggml's x86 kernels do it, which are what runs: by 127 / max, to nearest even. Its portable C multiplies by the
    reciprocal of the scale and rounds halves away: one code in 500,000 differs.
    """
    largest = blocks.abs().amax(-1, keepdim=True)
    codes = torch.round(blocks * torch.where(largest > 0, _over(127, largest), 0))
    return codes, (largest / 127).squeeze(-1)


def _q8_k(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """ggml's `quantize_row_q8_K`: codes (T, n, 256) as floats, scale (T, n) float32; the extreme becomes -127."""
    at = blocks.abs().argmax(-1, keepdim=True)
    inverse = _over(-127, blocks.gather(-1, at))  # (T, n, 1)
    dead = ~inverse.isfinite()
    codes = torch.clamp(torch.round(blocks * inverse), max=127)
    return codes.masked_fill(dead, 0), (1 / inverse).masked_fill(dead, 0).squeeze(-1)


def _over(number: float, x: torch.Tensor) -> torch.Tensor:
    """number / x, rounded once: torch takes `number / x` for number times the reciprocal, which rounds twice."""
    return torch.full_like(x, number) / x


PRODUCTS.update(dict.fromkeys(UNPACKERS, quantized_product))
