"""Superblocks of 256 weights: Q4_K, Q5_K and Q6_K, byte for byte as ggml's `quantize_row_q?_K_ref` writes them.

A superblock is cut into sub-blocks (32 weights, Q6_K: 16), each with its own small integer scale under one float16.
The scale of a sub-block is found by search. Three things in the C decide every byte, and all three are kept:
sums run in order, one float32 at a time (so sub-blocks lie along the last axis here and the sum goes down the first);
in the search of Q4_K and Q5_K the minimum found so far is used by the steps after it; and a sub-block whose scale
rounds to zero keeps the codes of the search.

Shapes: n superblocks, s sub-blocks in all; a search works on (w, s) with w weights down the first axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pv.model.quant_simple import FIFTEEN, FOUR, Bytes, Floats, put_half, to_half

F32 = np.float32
Ints = npt.NDArray[np.int32]

_ROUNDER = F32(12582912.0)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits of the sum
_ROUNDER_LIMIT = F32(4194303.0)  # beyond it those bits are no longer the integer, in C as here
_NEGLIGIBLE = F32(1e-15)  # ggml's GROUP_MAX_EPS: below it a Q6_K group is stored as zeros


@dataclass(frozen=True, slots=True)
class _Grid:
    """What tells Q4_K from Q5_K: the highest code and the steps of the scale search."""

    top: int
    first: float
    step: float
    steps: int


_Q4_K = _Grid(top=15, first=-1.0, step=0.1, steps=20)
_Q5_K = _Grid(top=31, first=-0.5, step=0.1, steps=15)


def encode_q4_k(x: Floats) -> Bytes:
    """(n, 256) float32 -> (n, 144): d, dmin, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles."""
    head, codes = _encode_scaled(x, _Q4_K)
    out = np.empty((len(x), 144), np.uint8)
    out[:, :16] = head
    out[:, 16:] = _nibbles_of_64(codes)
    return out


def encode_q5_k(x: Floats) -> Bytes:
    """(n, 256) float32 -> (n, 176): as Q4_K, with 32 bytes of fifth bits before the nibbles."""
    head, codes = _encode_scaled(x, _Q5_K)
    out = np.empty((len(x), 176), np.uint8)
    out[:, :16] = head
    fifth = (codes >> FOUR).reshape(-1, 8, 32)
    out[:, 16:48] = np.bitwise_or.reduce(fifth << np.arange(8, dtype=np.uint8)[:, None], axis=1)
    out[:, 48:] = _nibbles_of_64(codes & FIFTEEN)
    return out


def encode_q6_k(x: Floats) -> Bytes:
    """(n, 256) float32 -> (n, 210): 128 bytes of nibbles, 64 of upper bits, 16 int8 scales, d."""
    n = len(x)
    groups = np.ascontiguousarray(x.reshape(n * 16, 16).T)  # (16, 16 n)
    with np.errstate(all="ignore"):  # C divides by zero and goes on; every such lane is replaced below
        scales = search_symmetric(groups, 32).reshape(n, 16)
        top = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)  # (n, 1)
        dead = np.abs(top[:, 0]) < _NEGLIGIBLE
        inverse = F32(-128) / top
        d = to_half(np.where(dead[:, None], F32(0), F32(1) / inverse))
        small = np.minimum(nearest_int(inverse * scales), 127).astype(np.int8)  # (n, 16)
        small[dead] = 0
        width = (d.astype(F32) * small).reshape(-1)  # (16 n)
        codes = np.clip(nearest_int(groups / width), -32, 31) + 32
        stuck = (width == 0) & ~np.repeat(dead, 16)
        if stuck.any():
            codes[:, stuck] = search_symmetric_codes(np.ascontiguousarray(groups[:, stuck]), 32)
    levels = np.ascontiguousarray(codes.astype(np.uint8).T).reshape(n, 2, 4, 32)
    out = np.empty((n, 210), np.uint8)
    out[:, :128] = ((levels[:, :, :2] & 15) | (levels[:, :, 2:] & 15) << 4).reshape(n, 128)
    upper = (levels >> 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    out[:, 128:192] = np.bitwise_or.reduce(upper, axis=2).reshape(n, 64)
    out[:, 192:208] = small.view(np.uint8)
    put_half(out, 208, d)
    out[dead] = 0
    return out


def _summed(terms: Floats) -> Any:
    """(rows, g) -> (g,), row after row as C adds. Of a lone column numpy would add eight partial sums instead.

    Any, because numpy's stubs make float64 of what float32 arithmetic gives.
    """
    return np.add.accumulate(terms, axis=0)[-1] if terms.shape[1] == 1 else np.add.reduce(terms, axis=0)


def nearest_int(x: Floats) -> Ints:
    """ggml's `nearest_int`: to nearest even, by its own bit trick, so that what is out of range goes wrong alike."""
    bits: Ints = (x + _ROUNDER).view(np.int32)
    rounded: Ints = (bits & 0x7FFFFF) - 0x400000
    return rounded


# --- a scale and a minimum for each sub-block of 32 (Q4_K, Q5_K) ---


def _encode_scaled(x: Floats, grid: _Grid) -> tuple[Bytes, Bytes]:
    """Head bytes (n, 16) and codes (n, 256) of Q4_K and Q5_K."""
    n = len(x)
    subs = np.ascontiguousarray(x.reshape(n * 8, 32).T)  # (32, 8 n)
    with np.errstate(all="ignore"):  # C divides by zero and goes on; every such lane is replaced below
        scale, minimum = (a.reshape(n, 8) for a in _Search(subs, grid).run())
        d, six_scale = _to_six_bits(scale)
        dmin, six_min = _to_six_bits(minimum)
        width = (d.astype(F32)[:, None] * six_scale).reshape(-1)  # (8 n)
        shift = (dmin.astype(F32)[:, None] * six_min).reshape(-1)
        codes = np.clip(nearest_int((subs + shift) / width), 0, grid.top).astype(np.uint8)
        stuck = width == 0
        if stuck.any():
            codes[:, stuck] = _Search(np.ascontiguousarray(subs[:, stuck]), grid).run_for_codes()
    head = np.empty((n, 16), np.uint8)
    put_half(head, 0, d)
    put_half(head, 2, dmin)
    head[:, 4:8] = six_scale[:, :4] | six_scale[:, 4:] >> 4 << 6
    head[:, 8:12] = six_min[:, :4] | six_min[:, 4:] >> 4 << 6
    head[:, 12:16] = (six_scale[:, 4:] & 15) | (six_min[:, 4:] & 15) << 4
    return head, np.ascontiguousarray(codes.T).reshape(n, 256)


def _to_six_bits(values: Floats) -> tuple[npt.NDArray[np.float16], Bytes]:
    """Eight positive numbers of a superblock as one float16 times six bits: (n, 8) -> (n,), (n, 8)."""
    top: Floats = values.max(axis=1)
    top[~(top > 0)] = 0  # and never -0, which is another byte
    inverse = np.where(top > 0, F32(63) / top, F32(0))
    six = nearest_int(inverse[:, None] * values).astype(np.uint8)  # C's cast wraps a negative scale, then cuts it
    d: Floats = top / F32(63)
    return to_half(d), np.minimum(six, np.uint8(63))


def _nibbles_of_64(codes: Bytes) -> Bytes:
    """(n, 256) codes below 16 -> (n, 128): of every 64, the first 32 in low nibbles and the next 32 in high ones."""
    pairs = codes.reshape(-1, 4, 2, 32)
    packed: Bytes = (pairs[:, :, 0] | pairs[:, :, 1] << FOUR).reshape(-1, 128)
    return packed


class _Search:
    """ggml's `make_qkx2_quants` for many sub-blocks at once: the scale and minimum of least weighted squared error.

    Buffers are made once and reused by every step: memory traffic, not arithmetic, is what this costs.
    """

    def __init__(self, x: Floats, grid: _Grid) -> None:
        """`x`: (32, s) float32, C-contiguous."""
        self.x, self.grid = x, grid
        self.work, self.codes = np.empty_like(x), np.empty_like(x)
        self.low, self.high = x.min(axis=0), x.max(axis=0)
        self.minimum = np.minimum(self.low, F32(0))
        self.flat = self.high == self.minimum
        np.square(x, out=self.work)
        mean_square = self._total() / F32(len(x))
        self.weights = np.abs(x)
        self.weights += np.sqrt(mean_square)
        self.sum_w = _summed(self.weights)
        np.multiply(self.weights, x, out=self.work)
        self.sum_x = self._total()

    def run(self) -> tuple[Floats, Floats]:
        """Scale and (negated) minimum, (s,) each."""
        self._search(None)
        return self.scale, -self.minimum

    def run_for_codes(self) -> Bytes:
        """The codes of the best step, (32, s): what C leaves in a sub-block whose stored scale is zero."""
        kept = np.empty(self.x.shape, np.uint8)
        self._search(kept)
        return kept

    def _search(self, kept: Bytes | None) -> None:
        grid, top = self.grid, F32(self.grid.top)
        start = self.minimum
        inverse = top / (self.high - start)
        self.scale = F32(1) / inverse
        self._take_codes(inverse)
        best = self._error(self.scale, start)
        if kept is not None:
            kept[...] = self.codes
        self.minimum = start.copy()
        for step in range(grid.steps + 1):
            self._take_codes((F32(grid.first) + F32(grid.step) * F32(step) + top) / (self.high - self.minimum))
            scale, minimum, solvable = self._least_squares()
            error = self._error(scale, minimum)
            better = solvable & (error < best)
            np.copyto(best, error, where=better)
            np.copyto(self.scale, scale, where=better)
            np.copyto(self.minimum, minimum, where=better)  # running: the next steps start from it
            if kept is not None:
                kept[:, better] = self.codes[:, better]
        self.scale[self.flat] = 0
        self.minimum[self.flat] = start[self.flat]
        if kept is not None:
            kept[:, self.flat] = 0

    def _take_codes(self, inverse: Floats) -> None:
        """codes = clamp(nearest_int((x - minimum) * inverse))."""
        codes, top = self.codes, self.grid.top
        np.subtract(self.x, self.minimum, out=codes)
        np.multiply(codes, inverse, out=codes)
        reach = np.maximum(np.abs((self.low - self.minimum) * inverse), np.abs((self.high - self.minimum) * inverse))
        if (reach <= _ROUNDER_LIMIT).all():
            np.rint(codes, out=codes)
            np.clip(codes, F32(0), F32(top), out=codes)
        else:  # some lane has left the range where C's rounding trick rounds: go wrong with it, bit by bit
            np.copyto(codes, np.clip(nearest_int(codes), 0, top))

    def _least_squares(self) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
        """The scale and minimum that fit these codes best; the minimum is never above zero."""
        weighted = self.weights * self.codes
        sum_l = _summed(weighted)
        np.multiply(weighted, self.codes, out=self.work)
        sum_l2 = self._total()
        np.multiply(weighted, self.x, out=self.work)
        sum_xl = self._total()
        determinant = self.sum_w * sum_l2 - sum_l * sum_l
        scale = (self.sum_w * sum_xl - self.sum_x * sum_l) / determinant
        minimum = (sum_l2 * self.sum_x - sum_l * sum_xl) / determinant
        above = minimum > 0
        if above.any():
            scale = np.where(above, sum_xl / sum_l2, scale)
            minimum = np.where(above, F32(0), minimum)
        return scale, minimum, determinant > 0

    def _error(self, scale: Floats, minimum: Floats) -> Floats:
        """Weighted squared error, term for term in C's order of operations."""
        work = self.work
        np.multiply(self.codes, scale, out=work)
        np.add(work, minimum, out=work)
        np.subtract(work, self.x, out=work)
        np.multiply(work, work, out=work)
        np.multiply(work, self.weights, out=work)
        return self._total()

    def _total(self) -> Floats:
        """Sum down the first axis, in order: numpy's pairwise summation is only used along a contiguous axis."""
        total: Floats = _summed(self.work)
        return total


# --- a scale alone for each group of 16 (Q6_K) ---


def search_symmetric(x: Floats, top: int) -> Floats:
    """ggml's `make_qx_quants` (weights x squared) for many groups at once: (16, g) -> scale (g,)."""
    return _symmetric(x, top, None)


def search_symmetric_codes(x: Floats, top: int) -> Ints:
    """The codes, 0 to 2 top - 1, of the same search: (16, g) -> (16, g)."""
    kept = np.empty(x.shape, np.int32)
    _symmetric(x, top, kept)
    return kept


def _symmetric(x: Floats, top: int, kept: Ints | None) -> Floats:
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]  # (g,), with its sign
    dead = np.abs(extreme) < _NEGLIGIBLE
    weighted = np.square(x)
    squares = weighted.copy()
    np.multiply(weighted, x, out=weighted)  # w x, and `squares` is w
    codes, work = np.empty_like(x), np.empty_like(x)

    def fit(numerator: np.float32) -> tuple[Floats, Floats]:
        """Codes for the scale -extreme / numerator, and sums of w x code and of w code code."""
        np.multiply(x, -numerator / extreme, out=codes)
        np.rint(codes, out=codes)  # |x / extreme| <= 1: inside the range of C's trick
        np.clip(codes, F32(-top), F32(top - 1), out=codes)
        np.multiply(weighted, codes, out=work)
        sum_xl = _summed(work)
        np.multiply(squares, codes, out=work)
        np.multiply(work, codes, out=work)
        return sum_xl, _summed(work)

    sum_xl, sum_l2 = fit(F32(top))
    scale = np.where(sum_l2 != 0, sum_xl / sum_l2, F32(0))
    best = scale * sum_xl
    if kept is not None:
        kept[...] = codes
    for step in (*range(-9, 0), *range(1, 10)):
        sum_xl, sum_l2 = fit(F32(top) + F32(0.1) * F32(step))
        better = (sum_l2 > 0) & (sum_xl * sum_xl > best * sum_l2)
        np.copyto(scale, sum_xl / sum_l2, where=better)
        np.copyto(best, scale * sum_xl, where=better)
        if kept is not None:
            kept[:, better] = codes[:, better]
    scale[dead] = 0
    if kept is not None:
        kept += top
        kept[:, dead] = 0
    return scale
