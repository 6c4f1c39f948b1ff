"""Blocks of Q4_K, Q6_K and Q8_0 times one or a few tokens on a CUDA card: dequantize and multiply in one kernel.

The same product as `pv.model.quant_product`, which is the reference: activations rounded to int8 as ggml rounds them,
four codes times four codes in one instruction (dp4a), scales applied to exact integers. Only the order of float32
additions differs. Weights are never written out in a wider form, so a decode step is bound by the bytes of the blocks.

Blocks are rearranged once, when a weight is first seen: codes, small scales and float16 scales each in an array of its
own, so that threads read whole words beside one another. A *unit* is what shares its scales: 64 weights of Q4_K, 128 of
Q6_K, 32 of Q8_0. The bytes stay the same, except that Q4_K's twelve bytes of six-bit scales become sixteen (4.625 bits
a weight instead of 4.5).

A prompt long enough for tiles of tokens takes `pv.backends.triton_prompt` over the same blocks and codes.

On Hopper and later each kernel asks for the next one before it is done (programmatic dependent launch), and a product
has read its first weights before it waits for the activations: a decode step is some hundred short kernels, and what
lies between them would cost as much as they do.

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
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch.nn import functional

from pv.backends import triton_prompt
from pv.backends.cuda_kernels import begin, dependent_launch, launching
from pv.model.errors import QuantError
from pv.model.operators import REFERENCE, Operators, Product
from pv.model.quant_product import ACTIVATIONS, BLOCK
from pv.model.weights import BLOCKS, Weight, WeightType

MOST = 32768  # tokens of one launch
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Cut(NamedTuple):
    """How a product is cut: rows of a program, units of a step, warps of a program."""

    rows: int
    units: int
    warps: int


# Measured on an H200: for rows of at most `LONG` columns, and for longer ones.
LONG = 8192
CUTS = {
    WeightType.Q4_K: (Cut(4, 64, 1), Cut(1, 32, 1)),
    WeightType.Q6_K: (Cut(2, 32, 1), Cut(1, 32, 2)),
    WeightType.Q8_0: (Cut(2, 64, 2), Cut(1, 128, 4)),
}


class Packed(NamedTuple):
    """A weight's blocks, rearranged; U counts units of a row, n its superblocks."""

    codes: torch.Tensor  # int32 words: Q4_K (R, 8 U), Q6_K lower nibbles (R, 16 U), Q8_0 (R, 8 U)
    upper: torch.Tensor  # int32 words: Q6_K upper bits (R, 8 U); else empty
    small: torch.Tensor  # int32 words: Q4_K scales and minima of the two runs (R, U); Q6_K eight scales (R, 2 U)
    scale: torch.Tensor  # float16: Q4_K d and dmin (R, n, 2), Q6_K (R, n), Q8_0 (R, U)


class Codes(NamedTuple):
    """Activations as int8 codes, as `quant_product.Activations`, with the sums that offsets need."""

    codes: torch.Tensor  # (T, K/4) int32 words of four codes
    scale: torch.Tensor  # (T, blocks) float32
    sums: torch.Tensor  # (T, K/16) int32: of sixteen codes each; empty for Q8_0


class Sum(NamedTuple):
    """What is added to a product, and where the sum goes; each as large as the product."""

    other: torch.Tensor
    total: torch.Tensor


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
    parts = [_of_part(part, weight) for part in torch.split(rows, MOST)]
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])


def _of_part(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """(T, K) -> (T, R) float32, T at most `MOST`: in tiles where that is faster, else token by token."""
    count, kind, blocks = len(x), ACTIVATIONS[weight.type], packed(weight)
    tile = triton_prompt.tile_for(weight.type, count, weight.shape[0])
    if tile is None:
        return multiply(quantize_activations(x, kind), blocks, weight.type)
    if count < tile.tokens:
        x = functional.pad(x, (0, 0, 0, tile.tokens - count))
    return triton_prompt.multiply(quantize_activations(x, kind), blocks, weight.type, tile)[:count]


def quantize_activations(x: torch.Tensor, kind: str) -> Codes:
    """(T, K) float32, contiguous -> codes, bit for bit those of `quant_product.quantize_activations`."""
    count, width = x.shape
    made = room_for(count, width, kind, x.device)
    codes = made.codes.view(torch.int8)
    grid = (count, triton.cdiv(width, 256))
    by, how = card_of(x.device), launching(x.device)
    _to_codes[grid](x, codes, made.scale, made.sums, width, kind == "Q8_K", by, num_warps=1, **how)
    return made


@cache
def card_of(device: torch.device) -> int:
    """What the kernels may use, their CARD: 0 nothing (the interpreter), 1 dp4a, 2 dependent launch too."""
    return 0 if INTERPRETED else 1 + dependent_launch(device)


def room_for(count: int, width: int, kind: str, device: torch.device) -> Codes:
    """Codes of `count` tokens that are still to be written."""
    codes = torch.empty((count, width // 4), dtype=torch.int32, device=device)
    scale = torch.empty((count, width // BLOCK[kind]), dtype=torch.float32, device=device)
    sums = torch.empty((count, width // 16 if kind == "Q8_K" else 0), dtype=torch.int32, device=device)
    return Codes(codes, scale, sums)


def multiply(
    a: Codes, w: Packed, kind: WeightType, cut: Cut | None = None, *, into: torch.Tensor | None = None,
    plus: Sum | None = None,
) -> torch.Tensor:  # fmt: skip
    """(T, K) codes times a rearranged weight -> (T, R) float32. `plus`: a sum to make with the product on the way."""
    count, rows, units = len(a.codes), len(w.codes), w.codes.shape[1] // (16 if kind == WeightType.Q6_K else 8)
    cut = cut or CUTS[kind][4 * a.codes.shape[1] > LONG]
    out = torch.empty((count, rows), dtype=torch.float32, device=a.codes.device) if into is None else into
    grid = (triton.cdiv(rows, cut.rows), count)
    other, total = plus or (out, out)
    step = min(cut.units, triton.next_power_of_2(units))
    shape = (out, other, total, rows, units, cut.rows, step, plus is not None, card_of(out.device))
    how = {"num_warps": cut.warps, **launching(out.device)}
    if kind == WeightType.Q4_K:
        _q4_k[grid](a.codes, a.scale, a.sums, w.codes, w.small, w.scale, *shape, **how)
    elif kind == WeightType.Q6_K:
        _q6_k[grid](a.codes, a.scale, a.sums, w.codes, w.upper, w.small, w.scale, *shape, **how)
    else:
        _q8_0[grid](a.codes, a.scale, w.codes, w.scale, *shape, **how)
    return out


def packed(weight: Weight) -> Packed:
    """The weight's blocks rearranged on their device, once; kept as long as the blocks live."""
    key = id(weight.data)
    if key not in _PACKED:
        _PACKED[key] = PACKERS[weight.type](torch.unflatten(weight.data, 1, (-1, BLOCKS[weight.type][1])))
        weakref.finalize(weight.data, _PACKED.pop, key, None)
    return _PACKED[key]


def keep(weight: Weight, blocks: Packed) -> None:
    """Use these blocks for a weight from now on: the same ones, elsewhere in memory."""
    _PACKED[id(weight.data)] = blocks


_PACKED: dict[int, Packed] = {}


def _linear(otherwise: Product) -> Product:
    def linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        return product(x, weight) if weight.type in PACKERS else otherwise(x, weight)

    return linear


# --- rearranging blocks: (R, n, block bytes) uint8 -> Packed ---


def _pack_q4_k(b: torch.Tensor) -> Packed:
    low, mid, high = b[..., 4:8], b[..., 8:12], b[..., 12:16]
    small = torch.cat((low & 63, high & 15 | low >> 6 << 4), dim=-1)  # (R, n, 8)
    minima = torch.cat((mid & 63, high >> 4 | mid >> 6 << 4), dim=-1)
    both = torch.cat((torch.unflatten(small, -1, (4, 2)), torch.unflatten(minima, -1, (4, 2))), dim=-1)  # (R, n, 4, 4)
    words = both.contiguous().view(torch.int32).flatten(1)  # (R, U)
    return Packed(_words(b[..., 16:]), b.new_empty(0), words, _halves(b, 0, 2))


def _pack_q6_k(b: torch.Tensor) -> Packed:
    scale = _halves(b, 208, 1).squeeze(-1)
    return Packed(_words(b[..., :128]), _words(b[..., 128:192]), _words(b[..., 192:208]), scale)


def _pack_q8_0(b: torch.Tensor) -> Packed:
    none = b.new_empty(0)
    return Packed(_words(b[..., 2:]), none, none, _halves(b, 0, 1).squeeze(-1))


PACKERS: dict[WeightType, Callable[[torch.Tensor], Packed]] = {
    WeightType.Q4_K: _pack_q4_k,
    WeightType.Q6_K: _pack_q6_k,
    WeightType.Q8_0: _pack_q8_0,
}


def _words(part: torch.Tensor) -> torch.Tensor:
    """(R, n, bytes) -> (R, words of the row) int32."""
    return part.flatten(1).contiguous().view(torch.int32)


def _halves(b: torch.Tensor, start: int, count: int) -> torch.Tensor:
    """(R, n, count) float16 from a byte offset of every block."""
    return b[..., start : start + 2 * count].contiguous().view(torch.float16)


# --- kernels ---


@triton.jit
def _nearest(x):
    """To nearest even, for |x| < 2**22, by ggml's own trick."""
    return (x + 12582912.0) - 12582912.0


@triton.jit  # type: ignore[untyped-decorator]
def _times(x, y, CARD: tl.constexpr):
    """x times y, rounded. Followed by an addition, a plain product would be contracted with it and not be rounded:
    where it lies beside a half, the code would be another one than the reference's."""
    if CARD:
        return tl.inline_asm_elementwise("mul.rn.f32 $0, $1, $2;", "=f,f,f", [x, y], tl.float32, is_pure=True, pack=1)
    return x * y


@triton.jit  # type: ignore[untyped-decorator]
def _dot(codes, x, CARD: tl.constexpr, SIGNED: tl.constexpr):
    """The four bytes of one word times those of the other, summed; codes are signed where SIGNED, x always is."""
    if CARD:
        if SIGNED:
            return tl.inline_asm_elementwise(
                "dp4a.s32.s32 $0, $1, $2, 0;", "=r,r,r", [codes, x], tl.int32, is_pure=True, pack=1
            )
        return tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, 0;", "=r,r,r", [codes, x], tl.int32, is_pure=True, pack=1
        )
    total = codes * 0
    for byte in tl.static_range(4):
        one = (codes << (24 - 8 * byte)) >> 24 if SIGNED else (codes >> (8 * byte)) & 255
        total += one * ((x << (24 - 8 * byte)) >> 24)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def round_q8_k(value, start, codes, scales, sums, CARD: tl.constexpr):
    """One block of 256 activations that begin at `start`: the extreme becomes -127."""
    at = tl.arange(0, 256)
    size = tl.abs(value)
    broken = tl.sum(((value != value) | (size == float("inf"))).to(tl.int32), axis=0) > 0
    value = tl.where(broken, 0.0, value)
    first = tl.argmax(tl.abs(value), axis=0, tie_break_left=True)
    extreme = tl.sum(tl.where(at == first, value, 0.0), axis=0)
    inverse = tl.div_rn(-127.0, extreme)
    dead = (tl.abs(inverse) == float("inf")) | (inverse != inverse)
    inverse = tl.where(dead, 0.0, inverse)
    code = tl.minimum(_nearest(_times(value, inverse, CARD)), 127.0).to(tl.int32)
    scale = tl.where(dead, 0.0, tl.div_rn(1.0, tl.where(dead, 1.0, inverse)))
    tl.store(codes + start + at, code.to(tl.int8))
    tl.store(scales + start // 256, tl.where(broken, float("nan"), scale))
    tl.store(sums + start // 16 + tl.arange(0, 16), tl.sum(tl.reshape(code, (16, 16)), axis=1))


@triton.jit  # type: ignore[untyped-decorator]
def round_q8_0(value, start, left, codes, scales, CARD: tl.constexpr):
    """Eight blocks of 32 activations (256,) that begin at `start`, by 127 / max; the scale is rounded to float16.
    `left`: how many activations of the row there are from `start` on."""
    value = tl.reshape(value, (8, 32))
    block = tl.arange(0, 8)
    at = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    size = tl.abs(value)
    broken = tl.sum(((value != value) | (size == float("inf"))).to(tl.int32), axis=1) > 0
    value = tl.where(broken[:, None], 0.0, value)
    largest = tl.max(tl.abs(value), axis=1)
    inverse = tl.div_rn(127.0, tl.where(largest > 0, largest, 127.0))
    inverse = tl.where((largest > 0) & (inverse != float("inf")), inverse, 0.0)
    code = _nearest(_times(value, inverse[:, None], CARD))
    tl.store(codes + start + at, code.to(tl.int32).to(tl.int8), mask=at < left)
    scale = tl.div_rn(largest, 127.0).to(tl.float16).to(tl.float32)
    tl.store(scales + start // 32 + block, tl.where(broken, float("nan"), scale), mask=block * 32 < left)


@triton.jit  # type: ignore[untyped-decorator]
def _to_codes(x, codes, scales, sums, K, SUPER: tl.constexpr, CARD: tl.constexpr):
    """256 activations of one token."""
    begin(CARD > 1)
    first = tl.program_id(1) * 256
    start = tl.program_id(0).to(tl.int64) * K + first
    at = tl.arange(0, 256)
    value = tl.load(x + start + at, mask=first + at < K, other=0.0)
    if SUPER:
        round_q8_k(value, start, codes, scales, sums, CARD)
    else:
        round_q8_0(value, start, K - first, codes, scales, CARD)


@triton.jit  # type: ignore[untyped-decorator]
def _words_of(base, line, unit, ok, PITCH: tl.constexpr, OFFSET: tl.constexpr, WIDTH: tl.constexpr):
    """Eight words of each unit of each row, (rows, units, 8): `WIDTH` words lie between units, `PITCH` between rows."""
    at = (unit[:, None] * WIDTH + OFFSET + tl.arange(0, 8)[None, :])[None, :, :]
    return tl.load(base + line[:, :, None] * PITCH + at, mask=ok[:, :, None], other=0)


@triton.jit  # type: ignore[untyped-decorator]
def _codes_of(a, unit, here, OFFSET: tl.constexpr, WIDTH: tl.constexpr):
    """Eight words of activations for each unit, (1, units, 8)."""
    at = unit[:, None] * WIDTH + OFFSET + tl.arange(0, 8)[None, :]
    return tl.load(a + at, mask=here[:, None], other=0)[None, :, :]


@triton.jit  # type: ignore[untyped-decorator]
def _finish(found, out, other, both, at, inside, ADD: tl.constexpr):
    """The rows' products, and where ADD their sums with `other`."""
    tl.store(out + at, found, mask=inside)
    if ADD:
        tl.store(both + at, tl.load(other + at, mask=inside, other=0.0) + found, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _q4_k(
    a, a_scale, a_sums, codes, small, scale, out, other, both, R, U: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, ADD: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """A word holds four weights of a unit's first run of 32 in its low nibbles, four of the second in its high ones."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1)
    line = row.to(tl.int64)[:, None]
    mine = (row < R)[:, None]
    unit = tl.arange(0, STEP)
    packed = _words_of(codes, line, unit, mine & (unit < U)[None, :], U * 8, 0, 8)
    six = tl.load(small + line * U + unit[None, :], mask=mine & (unit < U)[None, :], other=0)
    begin(CARD > 1)
    a += token * U * 16
    a_sums += token * U * 4
    a_scale += token * (U // 4)
    none = tl.zeros((ROWS, STEP, 8), tl.int32)
    total = tl.zeros((ROWS, STEP), tl.float32)
    for first in range(0, U, STEP):
        unit = first + tl.arange(0, STEP)
        here = unit < U
        ok = mine & here[None, :]
        low = tl.sum(_dot(packed & 0x0F0F0F0F, none + _codes_of(a, unit, here, 0, 16), CARD, False), axis=2)
        high = tl.sum(_dot(packed >> 4 & 0x0F0F0F0F, none + _codes_of(a, unit, here, 8, 16), CARD, False), axis=2)
        dot = (six & 255) * low + (six >> 8 & 255) * high
        sums = a_sums + unit * 4
        s_low = tl.load(sums, mask=here, other=0) + tl.load(sums + 1, mask=here, other=0)
        s_high = tl.load(sums + 2, mask=here, other=0) + tl.load(sums + 3, mask=here, other=0)
        less = (six >> 16 & 255) * s_low[None, :] + (six >> 24 & 255) * s_high[None, :]
        at = scale + line * (U // 2) + (unit // 4 * 2)[None, :]
        d = tl.load(at, mask=ok, other=0.0).to(tl.float32)
        m = tl.load(at + 1, mask=ok, other=0.0).to(tl.float32)
        by = tl.load(a_scale + unit // 4, mask=here, other=0.0)[None, :]
        total += (d * dot.to(tl.float32) - m * less.to(tl.float32)) * by
        ok = mine & (unit + STEP < U)[None, :]
        packed = _words_of(codes, line, unit + STEP, ok, U * 8, 0, 8)
        six = tl.load(small + line * U + (unit + STEP)[None, :], mask=ok, other=0)
    _finish(tl.sum(total, axis=1), out, other, both, token * R + row, row < R, ADD)


@triton.jit  # type: ignore[untyped-decorator]
def _q6_k(
    a, a_scale, a_sums, codes, upper, small, scale, out, other, both, R, U: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, ADD: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """A unit is half a superblock: four quarters of 32 weights, eight runs of 16, each with a signed scale."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1)
    line = row.to(tl.int64)[:, None]
    mine = (row < R)[:, None]
    unit = tl.arange(0, STEP)
    ok = mine & (unit < U)[None, :]
    one = _words_of(codes, line, unit, ok, U * 16, 0, 16)
    two = _words_of(codes, line, unit, ok, U * 16, 8, 16)
    bits = _words_of(upper, line, unit, ok, U * 8, 0, 8)
    begin(CARD > 1)
    a += token * U * 32
    a_sums += token * U * 8
    a_scale += token * (U // 2)
    none = tl.zeros((ROWS, STEP, 8), tl.int32)
    total = tl.zeros((ROWS, STEP), tl.float32)
    eighth = tl.arange(0, 8)
    side = 24 - 8 * (eighth // 4)[None, None, :]  # of a quarter, its first or its second run of 16
    for first in range(0, U, STEP):
        unit = first + tl.arange(0, STEP)
        here = unit < U
        ok = mine & here[None, :]
        front = tl.load(small + line * (U * 2) + (unit * 2)[None, :], mask=ok, other=0)[:, :, None]
        back = tl.load(small + line * (U * 2) + (unit * 2 + 1)[None, :], mask=ok, other=0)[:, :, None]
        code = one & 0x0F0F0F0F | (bits & 0x03030303) << 4
        whole = (front << side >> 24) * _dot(code, none + _codes_of(a, unit, here, 0, 32), CARD, False)
        code = two & 0x0F0F0F0F | (bits << 2 & 0x30303030)
        whole += (front << (side - 16) >> 24) * _dot(code, none + _codes_of(a, unit, here, 8, 32), CARD, False)
        code = one >> 4 & 0x0F0F0F0F | (bits & 0x30303030)
        whole += (back << side >> 24) * _dot(code, none + _codes_of(a, unit, here, 16, 32), CARD, False)
        code = two >> 4 & 0x0F0F0F0F | (bits >> 2 & 0x30303030)
        whole += (back << (side - 16) >> 24) * _dot(code, none + _codes_of(a, unit, here, 24, 32), CARD, False)
        # Codes are 32 above their weights: take 32 times the sum of each run of activations away, by its own scale.
        sums = tl.load(a_sums + unit[:, None] * 8 + eighth[None, :], mask=here[:, None], other=0)[None, :, :]
        word = tl.where(eighth[None, None, :] < 4, front, back)
        whole -= (word << (24 - 8 * (eighth % 4)[None, None, :]) >> 24) * (32 * sums)
        d = tl.load(scale + line * (U // 2) + (unit // 2)[None, :], mask=ok, other=0.0).to(tl.float32)
        by = tl.load(a_scale + unit // 2, mask=here, other=0.0)[None, :]
        total += tl.sum(whole, axis=2).to(tl.float32) * (d * by)
        ok = mine & (unit + STEP < U)[None, :]
        one = _words_of(codes, line, unit + STEP, ok, U * 16, 0, 16)
        two = _words_of(codes, line, unit + STEP, ok, U * 16, 8, 16)
        bits = _words_of(upper, line, unit + STEP, ok, U * 8, 0, 8)
    _finish(tl.sum(total, axis=1), out, other, both, token * R + row, row < R, ADD)


@triton.jit  # type: ignore[untyped-decorator]
def _q8_0(
    a, a_scale, codes, scale, out, other, both, R, U: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, ADD: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """A word holds four weights, a unit is a block."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.program_id(1)
    line = row.to(tl.int64)[:, None]
    mine = (row < R)[:, None]
    unit = tl.arange(0, STEP)
    packed = _words_of(codes, line, unit, mine & (unit < U)[None, :], U * 8, 0, 8)
    begin(CARD > 1)
    a += token * U * 8
    a_scale += token * U
    none = tl.zeros((ROWS, STEP, 8), tl.int32)
    total = tl.zeros((ROWS, STEP), tl.float32)
    for first in range(0, U, STEP):
        unit = first + tl.arange(0, STEP)
        here = unit < U
        ok = mine & here[None, :]
        dot = tl.sum(_dot(packed, none + _codes_of(a, unit, here, 0, 8), CARD, True), axis=2)
        d = tl.load(scale + line * U + unit[None, :], mask=ok, other=0.0).to(tl.float32)
        total += dot.to(tl.float32) * (d * tl.load(a_scale + unit, mask=here, other=0.0)[None, :])
        packed = _words_of(codes, line, unit + STEP, mine & (unit + STEP < U)[None, :], U * 8, 0, 8)
    _finish(tl.sum(total, axis=1), out, other, both, token * R + row, row < R, ADD)
