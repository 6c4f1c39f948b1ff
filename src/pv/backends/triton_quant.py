"""Blocks of Q4_K, Q6_K and Q8_0 times one or a few tokens on a CUDA card: dequantize and multiply in one kernel.

The same product as `pv.model.quant_product`, which is the reference: activations rounded to int8 as ggml rounds them,
four codes times four codes in one instruction (dp4a), scales applied to exact integers. Only the order of float32
additions differs. Weights are never written out in a wider form, so a decode step is bound by the bytes of the blocks.

Blocks are rearranged once, when a weight is first seen. A *unit* is what shares its scales: 64 weights of Q4_K, 128 of
Q6_K, 32 of Q8_0. Units lie along the last axis and the words of a unit along the one before it, so that neighbouring
threads take neighbouring units, read neighbouring words, and keep a unit's integer sums in registers. The bytes stay
the same, except that Q4_K's twelve bytes of six-bit scales become sixteen (4.625 bits a weight instead of 4.5).

Under `TRITON_INTERPRET=1` the kernels run on a CPU, which is how they are tested without a card.

Legend: T tokens, R rows, K columns, U units in a row, n superblocks of 256 in a row; a word is four bytes.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel as its own types, so kernels have none for what is not a constexpr.

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pv.model.errors import QuantError
from pv.model.operators import REFERENCE, Operators, Product
from pv.model.quant_product import ACTIVATIONS
from pv.model.weights import BLOCKS, Weight, WeightType

FEW = 64  # tokens up to which each is a matrix-vector product of its own
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Cut(NamedTuple):
    """How a product is cut: rows of a program, units of a step, warps of a program."""

    rows: int
    units: int
    warps: int


CUTS = {
    WeightType.Q4_K: Cut(4, 32, 1),
    WeightType.Q6_K: Cut(2, 32, 1),
    WeightType.Q8_0: Cut(4, 32, 1),
}
UNIT_WORDS = {WeightType.Q4_K: 16, WeightType.Q6_K: 32, WeightType.Q8_0: 8}  # words of int8 activations in a unit


class Packed(NamedTuple):
    """A weight's blocks, rearranged; U counts units."""

    codes: torch.Tensor  # int32 words: Q4_K (R, 8, U), Q6_K lower nibbles (R, 16, U), Q8_0 (R, 8, U)
    upper: torch.Tensor  # int32 words: Q6_K upper bits (R, 8, U); else empty
    small: torch.Tensor  # Q4_K scales and minima of the two runs, four bytes a unit (R, U); Q6_K scales (R, 2, U) words
    scale: torch.Tensor  # float16: Q4_K d and dmin (R, n, 2), Q6_K (R, n), Q8_0 (R, U)


class Codes(NamedTuple):
    """Activations as int8 codes, as `quant_product.Activations`, in units like the weights they meet."""

    codes: torch.Tensor  # (T, words of a unit, U) int32
    scale: torch.Tensor  # (T, blocks) float32
    sums: torch.Tensor  # (T, sums of a unit, U) int32: of sixteen codes each; empty for Q8_0


def operators(base: Operators = REFERENCE) -> Operators:
    """`base` with fused products for the types that have one; every other weight takes `base`'s own product."""
    return replace(base, linear=_linear(base.linear))


def product(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """(T, K) -> (T, R), or (..., K) -> (..., R). Raises QuantError for a type without a kernel, or another width."""
    if weight.type not in PACKERS:
        raise QuantError(
            f"expected one of {', '.join(PACKERS)} for the fused product of {weight.name!r}, got {weight.type}"
        )
    if x.shape[-1] != weight.shape[-1]:
        raise QuantError(f"expected {weight.shape[-1]} columns for {weight.name!r}, got {x.shape[-1]}")
    rows = x.reshape(-1, x.shape[-1]).to(torch.float32).contiguous()
    out = MULTIPLIERS[weight.type](quantize_activations(rows, weight.type), packed(weight))
    return out.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def quantize_activations(x: torch.Tensor, kind: WeightType) -> Codes:
    """(T, K) float32, contiguous -> the codes that meet weights of `kind`, bit for bit the reference's, by unit."""
    count, width = x.shape
    words = UNIT_WORDS[kind]
    units = width // (4 * words)
    codes = torch.empty((count, words, units), dtype=torch.int32, device=x.device)
    if ACTIVATIONS[kind] == "Q8_K":
        scale = torch.empty((count, width // 256), dtype=torch.float32, device=x.device)
        sums = torch.empty((count, words // 4, units), dtype=torch.int32, device=x.device)
        _to_q8_k[(count, width // 256)](x, codes.view(torch.int8), scale, sums, width, words, num_warps=1)
    else:
        scale = torch.empty((count, width // 32), dtype=torch.float32, device=x.device)
        sums = torch.empty(0, dtype=torch.int32, device=x.device)
        _to_q8_0[(count, triton.cdiv(width // 32, 8))](x, codes.view(torch.int8), scale, width, words, num_warps=1)
    return Codes(codes, scale, sums)


def packed(weight: Weight) -> Packed:
    """The weight's blocks rearranged on their device, once; kept as long as the blocks live."""
    key = id(weight.data)
    if key not in _PACKED:
        _PACKED[key] = PACKERS[weight.type](torch.unflatten(weight.data, 1, (-1, BLOCKS[weight.type][1])))
        weakref.finalize(weight.data, _PACKED.pop, key, None)
    return _PACKED[key]


_PACKED: dict[int, Packed] = {}


def _linear(otherwise: Product) -> Product:
    def linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        few = x.numel() // x.shape[-1] <= FEW
        return product(x, weight) if weight.type in PACKERS and few else otherwise(x, weight)

    return linear


# --- rearranging blocks: (R, n, block bytes) uint8 -> Packed ---


def _pack_q4_k(b: torch.Tensor) -> Packed:
    low, mid, high = b[..., 4:8], b[..., 8:12], b[..., 12:16]
    small = torch.cat((low & 63, high & 15 | low >> 6 << 4), dim=-1)  # (R, n, 8)
    minima = torch.cat((mid & 63, high >> 4 | mid >> 6 << 4), dim=-1)
    both = torch.cat((torch.unflatten(small, -1, (4, 2)), torch.unflatten(minima, -1, (4, 2))), dim=-1)  # (R, n, 4, 4)
    words = both.contiguous().view(torch.int32).flatten(1)  # (R, U)
    return Packed(_by_unit(b[..., 16:], 8), b.new_empty(0), words, _halves(b, 0, 2))


def _pack_q6_k(b: torch.Tensor) -> Packed:
    scale = _halves(b, 208, 1).squeeze(-1)
    return Packed(_by_unit(b[..., :128], 16), _by_unit(b[..., 128:192], 8), _by_unit(b[..., 192:208], 2), scale)


def _pack_q8_0(b: torch.Tensor) -> Packed:
    none = b.new_empty(0)
    return Packed(_by_unit(b[..., 2:], 8), none, none, _halves(b, 0, 1).squeeze(-1))


PACKERS: dict[WeightType, Callable[[torch.Tensor], Packed]] = {
    WeightType.Q4_K: _pack_q4_k,
    WeightType.Q6_K: _pack_q6_k,
    WeightType.Q8_0: _pack_q8_0,
}


def _by_unit(part: torch.Tensor, words: int) -> torch.Tensor:
    """(R, n, bytes) -> (R, words of a unit, U) int32."""
    row = part.flatten(1).contiguous().view(torch.int32)
    return torch.unflatten(row, 1, (-1, words)).transpose(1, 2).contiguous()


def _halves(b: torch.Tensor, start: int, count: int) -> torch.Tensor:
    """(R, n, count) float16 from a byte offset of every block."""
    return b[..., start : start + 2 * count].contiguous().view(torch.float16)


# --- launching ---


def _multiply_q4_k(a: Codes, w: Packed) -> torch.Tensor:
    out, grid, cut = _launch(WeightType.Q4_K, a, w)
    _q4_k[grid](
        a.codes, a.scale, a.sums, w.codes, w.small, w.scale, out, out.shape[1], w.codes.shape[2],
        cut.rows, cut.units, not INTERPRETED, num_warps=cut.warps,
    )  # fmt: skip
    return out


def _multiply_q6_k(a: Codes, w: Packed) -> torch.Tensor:
    out, grid, cut = _launch(WeightType.Q6_K, a, w)
    _q6_k[grid](
        a.codes, a.scale, a.sums, w.codes, w.upper, w.small, w.scale, out, out.shape[1], w.codes.shape[2],
        cut.rows, cut.units, not INTERPRETED, num_warps=cut.warps,
    )  # fmt: skip
    return out


def _multiply_q8_0(a: Codes, w: Packed) -> torch.Tensor:
    out, grid, cut = _launch(WeightType.Q8_0, a, w)
    _q8_0[grid](
        a.codes, a.scale, w.codes, w.scale, out, out.shape[1], w.codes.shape[2],
        cut.rows, cut.units, not INTERPRETED, num_warps=cut.warps,
    )  # fmt: skip
    return out


MULTIPLIERS: dict[WeightType, Callable[[Codes, Packed], torch.Tensor]] = {
    WeightType.Q4_K: _multiply_q4_k,
    WeightType.Q6_K: _multiply_q6_k,
    WeightType.Q8_0: _multiply_q8_0,
}


def _launch(kind: WeightType, a: Codes, w: Packed) -> tuple[torch.Tensor, tuple[int, int], Cut]:
    """The answer (T, R) to be filled, the grid that fills it, and the cut."""
    cut, rows, count = CUTS[kind], len(w.codes), len(a.codes)
    out = torch.empty((count, rows), dtype=torch.float32, device=a.codes.device)
    return out, (triton.cdiv(rows, cut.rows), count), cut


# --- kernels ---


@triton.jit
def _nearest(x):
    """To nearest even, for |x| < 2**22, by ggml's own trick."""
    return (x + 12582912.0) - 12582912.0


@triton.jit  # type: ignore[untyped-decorator]
def _dot(unsigned, signed, total, DP4A: tl.constexpr, SIGNED: tl.constexpr):
    """total plus the four bytes of one word times those of the other; the first are signed where SIGNED."""
    if DP4A:
        if SIGNED:
            return tl.inline_asm_elementwise(
                "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [unsigned, signed, total], tl.int32, True, 1
            )
        return tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [unsigned, signed, total], tl.int32, True, 1
        )
    for byte in tl.static_range(4):
        one = (unsigned << (24 - 8 * byte)) >> 24 if SIGNED else (unsigned >> (8 * byte)) & 255
        total += one * ((signed << (24 - 8 * byte)) >> 24)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _to_q8_k(x, codes, scales, sums, K, WORDS: tl.constexpr):
    """One block of 256 activations: the extreme becomes -127."""
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    at = block * 256 + tl.arange(0, 256)
    value = tl.load(x + token * K + at)
    size = tl.abs(value)
    broken = tl.sum(((value != value) | (size == float("inf"))).to(tl.int32), axis=0) > 0
    value = tl.where(broken, 0.0, value)
    first = tl.argmax(tl.abs(value), axis=0, tie_break_left=True)
    extreme = tl.sum(tl.where(tl.arange(0, 256) == first, value, 0.0), axis=0)
    inverse = tl.div_rn(-127.0, extreme)
    dead = (tl.abs(inverse) == float("inf")) | (inverse != inverse)
    inverse = tl.where(dead, 0.0, inverse)
    code = tl.minimum(_nearest(value * inverse), 127.0).to(tl.int32)
    scale = tl.where(dead, 0.0, tl.div_rn(1.0, tl.where(dead, 1.0, inverse)))
    units = K // (4 * WORDS)
    word = at // 4
    tl.store(codes + token * K + (word % WORDS * units + word // WORDS) * 4 + at % 4, code.to(tl.int8))
    tl.store(scales + token * (K // 256) + block, tl.where(broken, float("nan"), scale))
    run = block * 16 + tl.arange(0, 16)
    to = token * (K // 16) + run % (WORDS // 4) * units + run // (WORDS // 4)
    tl.store(sums + to, tl.sum(tl.reshape(code, (16, 16)), axis=1))


@triton.jit  # type: ignore[untyped-decorator]
def _to_q8_0(x, codes, scales, K, WORDS: tl.constexpr):
    """Eight blocks of 32 activations, by 127 / max; the scale is rounded to float16."""
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * 8 + tl.arange(0, 8)
    at = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    value = tl.load(x + token * K + at, mask=at < K, other=0.0)
    size = tl.abs(value)
    broken = tl.sum(((value != value) | (size == float("inf"))).to(tl.int32), axis=1) > 0
    value = tl.where(broken[:, None], 0.0, value)
    largest = tl.max(tl.abs(value), axis=1)
    inverse = tl.div_rn(127.0, tl.where(largest > 0, largest, 127.0))
    inverse = tl.where((largest > 0) & (inverse != float("inf")), inverse, 0.0)
    code = _nearest(value * inverse[:, None])
    units = K // (4 * WORDS)
    word = at // 4
    to = (word % WORDS * units + word // WORDS) * 4 + at % 4
    tl.store(codes + token * K + to, code.to(tl.int32).to(tl.int8), mask=at < K)
    scale = tl.div_rn(largest, 127.0).to(tl.float16).to(tl.float32)
    tl.store(scales + token * (K // 32) + block, tl.where(broken, float("nan"), scale), mask=block * 32 < K)


@triton.jit  # type: ignore[untyped-decorator]
def _q4_k(
    a, a_scale, a_sums, codes, small, scale, out, R, U: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, DP4A: tl.constexpr,
):  # fmt: skip
    """A word holds four weights of a unit's first run of 32 in its low nibbles, four of the second in its high ones."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1)
    line = row.to(tl.int64)[:, None]
    a += token * U * 16
    a_sums += token * U * 4
    a_scale += token * (U // 4)
    total = tl.zeros((ROWS, STEP), tl.float32)
    none = tl.zeros((ROWS, STEP), tl.int32)
    for first in range(0, U, STEP):
        unit = first + tl.arange(0, STEP)
        here = unit < U
        ok = (row < R)[:, None] & here[None, :]
        low, high = none, none
        for word in tl.static_range(8):
            packed = tl.load(codes + line * (U * 8) + (word * U + unit)[None, :], mask=ok, other=0)
            one = tl.load(a + word * U + unit, mask=here, other=0)
            two = tl.load(a + (word + 8) * U + unit, mask=here, other=0)
            low = _dot(packed & 0x0F0F0F0F, none + one[None, :], low, DP4A, False)
            high = _dot(packed >> 4 & 0x0F0F0F0F, none + two[None, :], high, DP4A, False)
        six = tl.load(small + line * U + unit[None, :], mask=ok, other=0)
        dot = (six & 255) * low + (six >> 8 & 255) * high
        s_low = tl.load(a_sums + unit, mask=here, other=0) + tl.load(a_sums + U + unit, mask=here, other=0)
        s_high = tl.load(a_sums + 2 * U + unit, mask=here, other=0) + tl.load(a_sums + 3 * U + unit, mask=here, other=0)
        less = (six >> 16 & 255) * s_low[None, :] + (six >> 24 & 255) * s_high[None, :]
        at = scale + line * (U // 2) + (unit // 4 * 2)[None, :]
        d = tl.load(at, mask=ok, other=0.0).to(tl.float32)
        m = tl.load(at + 1, mask=ok, other=0.0).to(tl.float32)
        by = tl.load(a_scale + unit // 4, mask=here, other=0.0)
        total += (d * dot.to(tl.float32) - m * less.to(tl.float32)) * by[None, :]
    tl.store(out + token * R + row, tl.sum(total, axis=1), mask=row < R)


@triton.jit  # type: ignore[untyped-decorator]
def _q6_k(
    a, a_scale, a_sums, codes, upper, small, scale, out, R, U: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, DP4A: tl.constexpr,
):  # fmt: skip
    """A unit is half a superblock: four quarters of 32 weights, eight runs of 16, each with a signed scale."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1)
    line = row.to(tl.int64)[:, None]
    a += token * U * 32
    a_sums += token * U * 8
    a_scale += token * (U // 2)
    total = tl.zeros((ROWS, STEP), tl.float32)
    none = tl.zeros((ROWS, STEP), tl.int32)
    for first in range(0, U, STEP):
        unit = first + tl.arange(0, STEP)
        here = unit < U
        ok = (row < R)[:, None] & here[None, :]
        whole = none
        for side in tl.static_range(2):  # of each quarter, the first or the second run of 16
            dot0, dot1, dot2, dot3 = none, none, none, none
            for place in tl.static_range(4):
                word = side * 4 + place
                one = tl.load(codes + line * (U * 16) + (word * U + unit)[None, :], mask=ok, other=0)
                two = tl.load(codes + line * (U * 16) + ((word + 8) * U + unit)[None, :], mask=ok, other=0)
                bits = tl.load(upper + line * (U * 8) + (word * U + unit)[None, :], mask=ok, other=0)
                x0 = none + tl.load(a + word * U + unit, mask=here, other=0)[None, :]
                x1 = none + tl.load(a + (word + 8) * U + unit, mask=here, other=0)[None, :]
                x2 = none + tl.load(a + (word + 16) * U + unit, mask=here, other=0)[None, :]
                x3 = none + tl.load(a + (word + 24) * U + unit, mask=here, other=0)[None, :]
                dot0 = _dot(one & 0x0F0F0F0F | (bits & 0x03030303) << 4, x0, dot0, DP4A, False)
                dot1 = _dot(two & 0x0F0F0F0F | (bits << 2 & 0x30303030), x1, dot1, DP4A, False)
                dot2 = _dot(one >> 4 & 0x0F0F0F0F | (bits & 0x30303030), x2, dot2, DP4A, False)
                dot3 = _dot(two >> 4 & 0x0F0F0F0F | (bits >> 2 & 0x30303030), x3, dot3, DP4A, False)
            # Scale 2 quarter + side of eight: bytes `side` and `2 + side` of each of two words. Codes are 32 too high.
            front = tl.load(small + line * (U * 2) + unit[None, :], mask=ok, other=0)
            back = tl.load(small + line * (U * 2) + (U + unit)[None, :], mask=ok, other=0)
            whole += (front << (24 - 8 * side) >> 24) * (dot0 - _above(a_sums, side, unit, U, here))
            whole += (front << (8 - 8 * side) >> 24) * (dot1 - _above(a_sums, side + 2, unit, U, here))
            whole += (back << (24 - 8 * side) >> 24) * (dot2 - _above(a_sums, side + 4, unit, U, here))
            whole += (back << (8 - 8 * side) >> 24) * (dot3 - _above(a_sums, side + 6, unit, U, here))
        d = tl.load(scale + line * (U // 2) + (unit // 2)[None, :], mask=ok, other=0.0).to(tl.float32)
        by = tl.load(a_scale + unit // 2, mask=here, other=0.0)
        total += whole.to(tl.float32) * (d * by[None, :])
    tl.store(out + token * R + row, tl.sum(total, axis=1), mask=row < R)


@triton.jit  # type: ignore[untyped-decorator]
def _above(a_sums, run, unit, U: tl.constexpr, here):
    """What codes that are 32 too high add to a run's dot product."""
    return (32 * tl.load(a_sums + run * U + unit, mask=here, other=0))[None, :]


@triton.jit  # type: ignore[untyped-decorator]
def _q8_0(
    a, a_scale, codes, scale, out, R, U: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, DP4A: tl.constexpr,
):  # fmt: skip
    """A word holds four weights, a unit is a block."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1)
    line = row.to(tl.int64)[:, None]
    a += token * U * 8
    a_scale += token * U
    total = tl.zeros((ROWS, STEP), tl.float32)
    none = tl.zeros((ROWS, STEP), tl.int32)
    for first in range(0, U, STEP):
        unit = first + tl.arange(0, STEP)
        here = unit < U
        ok = (row < R)[:, None] & here[None, :]
        dot = none
        for word in tl.static_range(8):
            code = tl.load(codes + line * (U * 8) + (word * U + unit)[None, :], mask=ok, other=0)
            x = tl.load(a + word * U + unit, mask=here, other=0)
            dot = _dot(code, none + x[None, :], dot, DP4A, True)
        d = tl.load(scale + line * U + unit[None, :], mask=ok, other=0.0).to(tl.float32)
        total += dot.to(tl.float32) * (d * tl.load(a_scale + unit, mask=here, other=0.0)[None, :])
    tl.store(out + token * R + row, tl.sum(total, axis=1), mask=row < R)
