"""Stored blocks -> codes, scales and offsets -> float32, in torch, on whatever device the blocks lie.

Every block type of ggml says the same thing in another packing: a weight is `scale * code + offset`, with an integer
code and one scale (and offset) for each run of 16 or 32 weights. `Grid` is that, unpacked. Scales here are products of
a float16 and at most seven bits, hence exact in float32; so dequantizing rounds where ggml's `dequantize_row_*` rounds
and is bit-exact with it.

Shapes: R rows, n blocks in a row, s runs in a row, w weights in a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pv.model.errors import QuantError
from pv.model.weights import BLOCKS, DEQUANTIZERS, WeightType

_CHUNK = 1 << 16  # weights per pass on a CPU, so that temporaries stay in its second-level cache


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Rows of weights as integers on a scale: weight = scale * code + offset."""

    codes: torch.Tensor  # (R, s, w) int8
    scale: torch.Tensor  # (R, s) float32
    offset: torch.Tensor | None  # (R, s) float32; None where the type has none

    def dense(self) -> torch.Tensor:
        """The float32 values, (R, s w)."""
        values = self.codes.to(torch.float32).mul_(self.scale.unsqueeze(-1))
        if self.offset is not None:
            values.add_(self.offset.unsqueeze(-1))
        return values.flatten(1)


def unpack(kind: WeightType, rows: torch.Tensor) -> Grid:
    """(R, row bytes) uint8 -> a grid. Raises QuantError for a type without blocks and for broken rows."""
    if kind not in UNPACKERS:
        raise QuantError(f"expected a block type among {', '.join(UNPACKERS)}, got {kind}")
    size = BLOCKS[kind][1]
    if rows.ndim != 2 or rows.dtype != torch.uint8 or rows.shape[1] % size:
        raise QuantError(f"expected uint8 rows of a multiple of {size} bytes for {kind}, got {tuple(rows.shape)}")
    codes, scale, offset = UNPACKERS[kind](torch.unflatten(rows, 1, (-1, size)))  # (R, n, ...)
    return Grid(codes.flatten(1, 2), scale.flatten(1), None if offset is None else offset.flatten(1))


def dequantize_rows(kind: WeightType, rows: torch.Tensor, width: int) -> torch.Tensor:
    """(R, row bytes) uint8 -> (R, width) float32, bit-exact with ggml, in pieces that fit a CPU's cache."""
    step = max(1, _CHUNK // width) if rows.device.type == "cpu" else max(1, len(rows))
    values = torch.empty((len(rows), width), dtype=torch.float32, device=rows.device)
    for start in range(0, len(rows), step):
        values[start : start + step] = unpack(kind, rows[start : start + step]).dense()
    return values


Unpacked = tuple[torch.Tensor, torch.Tensor, "torch.Tensor | None"]  # (R, n, runs, w), (R, n, runs), the same or None


def _q8_0(b: torch.Tensor) -> Unpacked:
    return b[..., None, 2:].view(torch.int8), _half(b, 0), None


def _q4_0(b: torch.Tensor) -> Unpacked:
    return _nibbles(b[..., 2:]).unsqueeze(-2) - 8, _half(b, 0), None


def _q4_1(b: torch.Tensor) -> Unpacked:
    return _nibbles(b[..., 4:]).unsqueeze(-2), _half(b, 0), _half(b, 2)


def _q5_0(b: torch.Tensor) -> Unpacked:
    codes = _nibbles(b[..., 6:]) | _bits(b[..., 2:6]) << 4
    return codes.unsqueeze(-2) - 16, _half(b, 0), None


def _q5_1(b: torch.Tensor) -> Unpacked:
    codes = _nibbles(b[..., 8:]) | _bits(b[..., 4:8]) << 4
    return codes.unsqueeze(-2), _half(b, 0), _half(b, 2)


def _q4_k(b: torch.Tensor) -> Unpacked:
    return _nibbles_of_64(b[..., 16:]), *_scales_and_offsets(b)


def _q5_k(b: torch.Tensor) -> Unpacked:
    fifth = b[..., None, 16:48] >> torch.arange(8, device=b.device, dtype=torch.uint8).unsqueeze(-1) & 1  # (…, 8, 32)
    return _nibbles_of_64(b[..., 48:]) | fifth.view(torch.int8) << 4, *_scales_and_offsets(b)


def _q6_k(b: torch.Tensor) -> Unpacked:
    low = torch.unflatten(b[..., :128], -1, (2, 1, 64))
    low = torch.unflatten(torch.cat((low & 15, low >> 4), dim=-2), -1, (2, 32)).flatten(-3, -2)  # (..., 2, 4, 32)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=b.device).unsqueeze(-1)
    high = torch.unflatten(b[..., 128:192], -1, (2, 1, 32)) >> shifts & 3  # (..., 2, 4, 32)
    codes = (low | high << 4).view(torch.int8) - 32
    scale = _half(b, 208) * b[..., 192:208].view(torch.int8).to(torch.float32)  # (..., 16)
    return torch.unflatten(codes.flatten(-3), -1, (16, 16)), scale, None


UNPACKERS: dict[WeightType, Callable[[torch.Tensor], Unpacked]] = {  # (R, n, block bytes) uint8 -> the parts
    WeightType.Q4_0: _q4_0,
    WeightType.Q4_1: _q4_1,
    WeightType.Q5_0: _q5_0,
    WeightType.Q5_1: _q5_1,
    WeightType.Q8_0: _q8_0,
    WeightType.Q4_K: _q4_k,
    WeightType.Q5_K: _q5_k,
    WeightType.Q6_K: _q6_k,
}


def _half(b: torch.Tensor, start: int) -> torch.Tensor:
    """The float16 at a byte offset of every block, as float32 with one axis for the runs: (..., 1)."""
    return b[..., start : start + 2].contiguous().view(torch.float16).to(torch.float32)


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """(..., k) bytes -> (..., 2 k) codes below 16: the low nibbles, then the high ones."""
    return torch.cat((packed & 15, packed >> 4), dim=-1).view(torch.int8)


def _nibbles_of_64(packed: torch.Tensor) -> torch.Tensor:
    """(..., 128) bytes -> (..., 8, 32) codes: of 32 bytes, the low nibbles are one run, the high ones the next."""
    quarters = torch.unflatten(packed, -1, (4, 1, 32))
    return torch.cat((quarters & 15, quarters >> 4), dim=-2).flatten(-3, -2).view(torch.int8)


def _bits(packed: torch.Tensor) -> torch.Tensor:
    """(..., 4) bytes -> (..., 32) bits, lowest first."""
    shifts = torch.arange(8, device=packed.device, dtype=torch.uint8)
    return (packed.unsqueeze(-1) >> shifts & 1).flatten(-2).view(torch.int8)


def _scales_and_offsets(b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The eight six-bit scales and minima of Q4_K and Q5_K, times their float16: (..., 8) each, the minima negated."""
    low, mid, high = b[..., 4:8], b[..., 8:12], b[..., 12:16]
    six_scale = torch.cat((low & 63, high & 15 | low >> 6 << 4), dim=-1)
    six_min = torch.cat((mid & 63, high >> 4 | mid >> 6 << 4), dim=-1)
    return _half(b, 0) * six_scale.to(torch.float32), -(_half(b, 2) * six_min.to(torch.float32))


def _dequantizer(kind: WeightType) -> Callable[[torch.Tensor, int], torch.Tensor]:
    return lambda rows, width: dequantize_rows(kind, rows, width)


DEQUANTIZERS.update({kind: _dequantizer(kind) for kind in UNPACKERS})
