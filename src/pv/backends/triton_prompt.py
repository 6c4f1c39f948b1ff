"""Blocks of Q4_K, Q6_K and Q8_0 times a prompt on a CUDA card: tiles of rows and tokens on the tensor cores.

`triton_quant` reads and unpacks a weight once for each token: right for one, and T times too often for a prompt of T.
Here a program unpacks the codes of some rows once for a whole tile of tokens and takes integer products of int8 codes
with int8 codes (`tl.dot`, int32 sums: exact). As there, sums are scaled to float32 block by block; so the product
differs from the vector kernel's by the order of float32 additions, and from the CPU's by their rounding.

The tensor cores add 32 columns at a time and know of no scales, and a K type has one for each run of 16 or 32. The
runs of Q4_K are 32 long: each is a product, multiplied by its scale as an integer; the minima, repeated along their
runs, are one more product. The runs of Q6_K are half as long, so there the scale is multiplied into the code first: at
most 13 bits and a sign (128 * 32), taken as two int8, `64 * coarse + fine`, each with a product of its own. Either way
a superblock of 256 is one int32, at most 128 * 32 * 127 * 256 < 2**27.

A token's sum runs over the blocks in their order, whatever the tile and whoever stands beside it: its product is the
same, bit for bit, in every prompt that takes this way.

Legend: T tokens, R rows, K columns, n blocks in a row (of 256; of 32 for Q8_0).
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel as its own types, so kernels have none for what is not a constexpr.

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from pv.model.errors import QuantError
from pv.model.weights import BLOCKS, WeightType

if TYPE_CHECKING:
    from pv.backends.triton_quant import Codes, Packed


class Tile(NamedTuple):
    """How a product is cut: rows and tokens of a program, warps of it, steps whose loads are on the way together."""

    rows: int
    tokens: int
    warps: int
    stages: int


# Larger ones first: the fastest for 512 tokens on an H200 at the largest matrix of the 7B shape, then one for prompts
# that do not fill it (`benchmarks/quantize_gpu.py --tune`). Q6_K's first is so large that 64 tokens have one between.
TILES = {
    WeightType.Q4_K: (Tile(64, 64, 4, 2), Tile(64, 16, 4, 3)),
    WeightType.Q6_K: (Tile(128, 128, 8, 3), Tile(64, 64, 4, 2), Tile(64, 16, 4, 3)),
    WeightType.Q8_0: (Tile(128, 32, 4, 3), Tile(64, 16, 4, 3)),
}
# From so many tokens on, the products of a layer take less in tiles, though they do not fill the smallest one: at 8
# Q4_K's do, Q8_0's are even and Q6_K's do not (about 450 us one by one, 640 in tiles); at 12 all three do.
LEAST = 12


def tile_for(kind: WeightType, count: int, rows: int) -> Tile | None:
    """The tile for `count` tokens, the smallest one's may be more; None where one by one is faster or rows are few."""
    if count < LEAST or rows < TILES[kind][-1].rows:
        return None
    return next((tile for tile in TILES[kind] if tile.tokens <= count and tile.rows <= rows), TILES[kind][-1])


def lengths() -> tuple[int, ...]:
    """Prompts that need every tile once, the longest first: what a session runs to have all kernels compiled."""
    return tuple(sorted({tile.tokens for tiles in TILES.values() for tile in tiles}, reverse=True))


def multiply(a: Codes, w: Packed, kind: WeightType, tile: Tile) -> torch.Tensor:
    """(T, K) codes times a rearranged weight -> (T, R) float32. Raises QuantError where T or R is less than a tile."""
    count, rows, columns = len(a.codes), len(w.codes), 4 * a.codes.shape[1]
    if count < tile.tokens or rows < tile.rows:  # it would be read and written outside of them
        raise QuantError(f"expected at least {tile.rows} rows and {tile.tokens} tokens for {tile}, got {rows}, {count}")
    out = torch.empty((count, rows), dtype=torch.float32, device=a.codes.device)
    grid = (triton.cdiv(rows, tile.rows) * triton.cdiv(count, tile.tokens),)
    shape = (out, count, rows, columns // BLOCKS[kind][0], tile.rows, tile.tokens)
    cut = {"num_warps": tile.warps, "num_stages": tile.stages}
    x, codes = a.codes.view(torch.int8), w.codes.view(torch.uint8)
    if kind == WeightType.Q4_K:
        _q4_k[grid](x, a.scale, codes, w.small, w.scale, *shape, **cut)
    elif kind == WeightType.Q6_K:
        _q6_k[grid](x, a.scale, codes, w.upper.view(torch.uint8), w.small.view(torch.int8), w.scale, *shape, **cut)
    else:
        _q8_0[grid](x, a.scale, codes.view(torch.int8), w.scale, *shape, **cut)
    return out


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def _place(T, R, ROWS: tl.constexpr, TOKENS: tl.constexpr):
    """A program's first row and first token. The last tile is moved back until it is whole: what two programs then
    compute twice has the same bits. Tiles of the same rows follow one another, so weights are read from memory once."""
    tiles = tl.cdiv(T, TOKENS)
    row = tl.minimum(tl.program_id(0) // tiles * ROWS, R - ROWS)
    token = tl.minimum(tl.program_id(0) % tiles * TOKENS, T - TOKENS)
    return row.to(tl.int64), token.to(tl.int64)


@triton.jit  # type: ignore[untyped-decorator]
def _rows_of(base, first, PITCH: tl.constexpr, ROWS: tl.constexpr):
    """Pointers to 32 bytes of each row from `first` on, (ROWS, 32); `PITCH` bytes lie between rows."""
    return base + first * PITCH + tl.arange(0, ROWS)[:, None] * PITCH + tl.arange(0, 32)[None, :]


@triton.jit  # type: ignore[untyped-decorator]
def _tokens_of(base, first, PITCH: tl.constexpr, TOKENS: tl.constexpr):
    """The same for tokens, the other way round: (32, TOKENS)."""
    return base + first * PITCH + tl.arange(0, TOKENS)[None, :] * PITCH + tl.arange(0, 32)[:, None]


@triton.jit  # type: ignore[untyped-decorator]
def _each(base, first, PITCH: tl.constexpr, COUNT: tl.constexpr):
    """Pointers to one element for each row or token, (COUNT,)."""
    return base + first * PITCH + tl.arange(0, COUNT) * PITCH


@triton.jit  # type: ignore[untyped-decorator]
def _keep(total, out, row, token, R, ROWS: tl.constexpr, TOKENS: tl.constexpr):
    """(ROWS, TOKENS) into (T, R)."""
    tl.store(out + token * R + row + tl.arange(0, TOKENS)[None, :] * R + tl.arange(0, ROWS)[:, None], total)


@triton.jit  # type: ignore[untyped-decorator]
def _add(fine, coarse, whole, x, SHIFT: tl.constexpr):
    """Both sums with 32 columns more: scaled codes (ROWS, 32) int32, cut in two, times activations (32, TOKENS)."""
    fine = tl.dot((whole & ((1 << SHIFT) - 1)).to(tl.int8), x, fine, out_dtype=tl.int32)
    return fine, tl.dot((whole >> SHIFT).to(tl.int8), x, coarse, out_dtype=tl.int32)


@triton.jit(do_not_specialize=["T"])  # type: ignore[untyped-decorator]
def _q4_k(a, a_scale, codes, small, scale, out, T, R, n: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr):
    """A byte holds a weight of a run of 32 in its low nibble and one of the next run in its high one; a word of `small`
    the scales of both runs and their minima."""
    row, token = _place(T, R, ROWS, TOKENS)
    w = _rows_of(codes, row, n * 128, ROWS)
    x = _tokens_of(a, token, n * 256, TOKENS)
    words, halves = _each(small, row, n * 4, ROWS), _each(scale, row, n * 2, ROWS)
    by_at = _each(a_scale, token, n, TOKENS)
    none = tl.zeros((ROWS, 32), tl.int8)
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    for block in range(n):
        dot = tl.zeros((ROWS, TOKENS), tl.int32)
        less = tl.zeros((ROWS, TOKENS), tl.int32)
        for unit in tl.static_range(4):
            packed = tl.load(w + block * 128 + unit * 32)
            six = tl.load(words + block * 4 + unit)[:, None]
            low, high = tl.load(x + block * 256 + unit * 64), tl.load(x + block * 256 + unit * 64 + 32)
            dot += (six & 255) * tl.dot((packed & 15).to(tl.int8), low, out_dtype=tl.int32)
            dot += (six >> 8 & 255) * tl.dot((packed >> 4).to(tl.int8), high, out_dtype=tl.int32)
            less = tl.dot(none + (six >> 16 & 255).to(tl.int8), low, less, out_dtype=tl.int32)
            less = tl.dot(none + (six >> 24 & 255).to(tl.int8), high, less, out_dtype=tl.int32)
        d, m = tl.load(halves + block * 2).to(tl.float32), tl.load(halves + block * 2 + 1).to(tl.float32)
        by = tl.load(by_at + block)[None, :]
        total += (d[:, None] * dot.to(tl.float32) - m[:, None] * less.to(tl.float32)) * by
    _keep(total, out, row, token, R, ROWS, TOKENS)


@triton.jit(do_not_specialize=["T"])  # type: ignore[untyped-decorator]
def _q6_k(
    a, a_scale, codes, upper, small, scale, out, T, R, n: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr
):  # fmt: skip
    """Half a superblock is four quarters of 32 weights, each of two runs of 16 with a signed scale: their lower nibbles
    in 64 bytes, two quarters in each half of a byte, their upper bits in 32, two for each quarter."""
    row, token = _place(T, R, ROWS, TOKENS)
    w, bits = _rows_of(codes, row, n * 128, ROWS), _rows_of(upper, row, n * 64, ROWS)
    x = _tokens_of(a, token, n * 256, TOKENS)
    runs, halves = _each(small, row, n * 16, ROWS), _each(scale, row, n, ROWS)
    by_at = _each(a_scale, token, n, TOKENS)
    front = (tl.arange(0, 32) < 16)[None, :]
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    for block in range(n):
        fine = tl.zeros((ROWS, TOKENS), tl.int32)
        coarse = tl.zeros((ROWS, TOKENS), tl.int32)
        for quarter in tl.static_range(8):
            half, at = quarter // 4, quarter % 4
            lower = tl.load(w + block * 128 + half * 64 + at % 2 * 32).to(tl.int32) >> (at // 2 * 4) & 15
            above = tl.load(bits + block * 64 + half * 32).to(tl.int32) >> (at * 2) & 3
            one = tl.load(runs + block * 16 + quarter * 2).to(tl.int32)[:, None]
            two = tl.load(runs + block * 16 + quarter * 2 + 1).to(tl.int32)[:, None]
            scaled = ((lower | above << 4) - 32) * tl.where(front, one, two)
            fine, coarse = _add(fine, coarse, scaled, tl.load(x + block * 256 + quarter * 32), 6)
        by = tl.load(halves + block).to(tl.float32)[:, None] * tl.load(by_at + block)[None, :]
        total += (fine + (coarse << 6)).to(tl.float32) * by
    _keep(total, out, row, token, R, ROWS, TOKENS)


@triton.jit(do_not_specialize=["T"])  # type: ignore[untyped-decorator]
def _q8_0(a, a_scale, codes, scale, out, T, R, n: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr):
    """A block is a run of 32 signed bytes, of weights and of activations."""
    row, token = _place(T, R, ROWS, TOKENS)
    w, x = _rows_of(codes, row, n * 32, ROWS), _tokens_of(a, token, n * 32, TOKENS)
    halves, by_at = _each(scale, row, n, ROWS), _each(a_scale, token, n, TOKENS)
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    for block in range(n):
        dot = tl.dot(tl.load(w + block * 32), tl.load(x + block * 32), out_dtype=tl.int32)
        by = tl.load(halves + block).to(tl.float32)[:, None] * tl.load(by_at + block)[None, :]
        total += dot.to(tl.float32) * by
    _keep(total, out, row, token, R, ROWS, TOKENS)
