"""Blocks of 1 and 32 weights: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, after ggml's `quantize_row_*_ref`.

Shapes: an encoder takes (n, block) float32 and returns (n, block bytes) uint8. The way back is in `quant_grid`.
Every multiplication and addition below rounds to float32 where C does; joining two of them (as a fused multiply-add
would) changes codes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pv.model.errors import QuantError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
F32 = np.float32
FOUR, FIFTEEN = np.uint8(4), np.uint8(15)  # typed: a plain int widens uint8 arithmetic in the checker's eyes


def to_half(values: Floats) -> npt.NDArray[np.float16]:
    """Float32 to float16, nearest even as ggml. Raises QuantError where the result would not be finite."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        worst = float(np.abs(values).max())
        got = f"{worst:g}" if np.isfinite(worst) else "weights whose squares leave float32"
        raise QuantError(f"expected values (or block scales) within float16, at most 65504, got {got}; use BF16 or F32")
    return half


def put_half(blocks: Bytes, start: int, values: npt.NDArray[np.float16]) -> None:
    """Write one float16 per block at a byte offset."""
    blocks[:, start : start + 2] = values.astype("<f2").reshape(-1, 1).view(np.uint8)


def encode_f32(x: Floats) -> Bytes:
    return np.ascontiguousarray(x, "<f4").view(np.uint8)


def encode_f16(x: Floats) -> Bytes:
    stored: Bytes = to_half(x).astype("<f2").view(np.uint8)
    return stored


def encode_bf16(x: Floats) -> Bytes:
    bits = np.ascontiguousarray(x, "<f4").view("<u4")
    rounded = bits + (0x7FFF + ((bits >> 16) & 1))  # to nearest even; no NaN arrives here
    high = (rounded >> 16).astype("<u2")
    if ((high & 0x7F80) == 0x7F80).any():
        raise QuantError(f"expected values within bfloat16, got {float(np.abs(x).max()):g}; use F32")
    stored: Bytes = high.view(np.uint8)
    return stored


def encode_q8_0(x: Floats) -> Bytes:
    d = np.abs(x).max(axis=1, keepdims=True) / F32(127)  # (n, 1)
    out = np.empty((len(x), 34), np.uint8)
    put_half(out, 0, to_half(d))
    out[:, 2:] = round_half_away(_finite(_scaled(x, d))).astype(np.int8).view(np.uint8)
    return out


def encode_q4_0(x: Floats) -> Bytes:
    d = signed_extreme(x) / F32(-8)
    codes = np.minimum(_truncate(_scaled(x, d) + F32(8.5)), np.uint8(15))
    out = np.empty((len(x), 18), np.uint8)
    put_half(out, 0, to_half(d))
    out[:, 2:] = pack_nibbles(codes)
    return out


def encode_q4_1(x: Floats) -> Bytes:
    d, low = _span(x, 15)
    codes = np.minimum(_truncate(_scaled((x - low), d) + F32(0.5)), np.uint8(15))
    out = np.empty((len(x), 20), np.uint8)
    put_half(out, 0, to_half(d))
    put_half(out, 2, to_half(low))
    out[:, 4:] = pack_nibbles(codes)
    return out


def encode_q5_0(x: Floats) -> Bytes:
    d = signed_extreme(x) / F32(-16)
    codes = np.minimum(_truncate(_scaled(x, d) + F32(16.5)), np.uint8(31))
    out = np.empty((len(x), 22), np.uint8)
    put_half(out, 0, to_half(d))
    out[:, 2:6] = np.packbits(codes >> FOUR, axis=1, bitorder="little")
    out[:, 6:] = pack_nibbles(codes & FIFTEEN)
    return out


def encode_q5_1(x: Floats) -> Bytes:
    d, low = _span(x, 31)
    codes = _truncate(_scaled((x - low), d) + F32(0.5))
    out = np.empty((len(x), 24), np.uint8)
    put_half(out, 0, to_half(d))
    put_half(out, 2, to_half(low))
    out[:, 4:8] = np.packbits(codes >> FOUR, axis=1, bitorder="little")
    out[:, 8:] = pack_nibbles(codes & FIFTEEN)
    return out


def pack_nibbles(codes: Bytes) -> Bytes:
    """(n, 32) codes below 16 -> (n, 16): the first half of the block in the low nibbles, the second in the high."""
    half = codes.shape[1] // 2
    packed: Bytes = codes[:, :half] | codes[:, half:] << FOUR
    return packed


def signed_extreme(x: Floats) -> Floats:
    """The first value of the largest magnitude in each row, with its sign (zero is +0): (n, k) -> (n, 1)."""
    return np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1) + F32(0)


def round_half_away(x: Floats) -> Floats:
    """C's `roundf`: halves go away from zero (numpy's `rint` sends them to even)."""
    magnitude = np.abs(x)
    whole = np.floor(magnitude)
    rounded: Floats = np.copysign(whole + (magnitude - whole >= F32(0.5)), x)
    return rounded


def _span(x: Floats, levels: int) -> tuple[Floats, Floats]:
    """Step and lowest value of each row. Signs of zeros are stored: of equal zeros the first counts, the step is +0."""
    low = x.min(axis=1, keepdims=True)
    low = np.take_along_axis(x, (x == low).argmax(axis=1)[:, None], axis=1)
    return (x.max(axis=1, keepdims=True) - low + F32(0)) / F32(levels), low


def _scaled(x: Floats, d: Floats) -> Floats:
    """x times the reciprocal of d (0 where d is 0); a d so small that 1/d overflows leaves infinities, as in C."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return x * np.where(d != 0, F32(1) / d, F32(0))


def _truncate(x: Floats) -> Bytes:
    """C's cast of a small positive float to an unsigned byte."""
    return _finite(x).astype(np.uint8)


def _finite(x: Floats) -> Floats:
    """Zeros for what is not finite: C's cast of it leaves code 0 (the block's scale is below 3e-39 and stored as 0)."""
    return x if np.isfinite(x).all() else np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
