"""Rows of a quantized weight -> the two arrays that its shader reads: codes as the file has them, and scales as words.

Nothing is lost and nothing is widened but float16 scales, which become float32: WGSL may flush a subnormal float16, and
most scales of K types are. So Q4_K takes 4.75 bits a weight on the device where the file has 4.5.

A *unit* is 32 weights. Legend: R rows, n blocks in a row, a word is four bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pv.model.quant_product import ACTIVATIONS, BLOCK
from pv.model.weights import BLOCKS, WeightType

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
UNIT = 32


class Layout(NamedTuple):
    """How a type's blocks lie on the device."""

    parts: tuple[str, ...]  # the type's own WGSL files
    codes: slice  # of a block's bytes, verbatim
    words: Callable[[Bytes], list[Words]]  # (R, n, block bytes) -> words of every block, (R, n, …) each
    offsets: bool = False  # a weight is scale * code + offset

    def split(self, rows: Bytes, size: int) -> tuple[Bytes, Words]:
        """(R, row bytes) of blocks of `size` bytes -> codes (R, bytes), extra (R, words)."""
        blocks = rows.reshape(len(rows), -1, size)
        extra = np.concatenate(self.words(blocks), axis=-1)
        return np.ascontiguousarray(blocks[..., self.codes]).reshape(len(rows), -1), extra.reshape(len(rows), -1)


class Activation(NamedTuple):
    """How activations are rounded before a product: ggml's `vec_dot_type`."""

    kind: str  # Q8_0, Q8_1, Q8_K
    block: int  # activations that share a scale

    @property
    def units(self) -> int:
        """Units that share a scale."""
        return self.block // UNIT


def activation_of(kind: WeightType) -> Activation:
    """What a block type's product wants its activations as."""
    name = ACTIVATIONS[kind]
    return Activation(name, BLOCK[name])


def split(kind: WeightType, rows: Bytes) -> tuple[Bytes, Words]:
    """(R, row bytes) -> codes (R, bytes), extra (R, words)."""
    return LAYOUTS[kind].split(rows, BLOCKS[kind][1])


# --- the words of a block beside its codes; every shader states their order ---


def _halves(*starts: int) -> Callable[[Bytes], list[Words]]:
    """Float16 numbers at these byte offsets, as float32."""
    return lambda b: [_half(b, start) for start in starts]


def _half(b: Bytes, start: int) -> Words:
    return _taken(b, start, 2).view(np.float16).astype(np.float32).view(np.uint32)


def _words(b: Bytes, start: int, count: int) -> Words:
    return _taken(b, start, 4 * count).view(np.uint32)


def _taken(b: Bytes, start: int, count: int) -> Bytes:
    return np.ascontiguousarray(b[..., start : start + count])


def _six_bits(b: Bytes) -> list[Words]:
    """d and dmin; then the eight scales and eight minima of six bits as four words: two of each, a byte apiece."""
    low, mid, high = b[..., 4:8], b[..., 8:12], b[..., 12:16]
    scales = np.concatenate((low & 63, high & 15 | low >> 6 << 4), axis=-1)  # (R, n, 8)
    minima = np.concatenate((mid & 63, high >> 4 | mid >> 6 << 4), axis=-1)
    pairs = (*b.shape[:-1], 4, 2)
    both = np.concatenate((scales.reshape(pairs), minima.reshape(pairs)), axis=-1)  # (R, n, 4, 4)
    return [_half(b, 0), _half(b, 2), np.ascontiguousarray(both).view(np.uint32)[..., 0]]


LAYOUTS: dict[WeightType, Layout] = {  # a type that is not here is multiplied by no shader
    WeightType.Q4_0: Layout(("blocks_q4_0",), slice(2, 18), _halves(0)),
    WeightType.Q4_1: Layout(("blocks_q4_1",), slice(4, 20), _halves(0, 2), offsets=True),
    WeightType.Q5_0: Layout(("blocks_q5", "blocks_q5_0"), slice(6, 22), lambda b: [_half(b, 0), _words(b, 2, 1)]),
    WeightType.Q5_1: Layout(
        ("blocks_q5", "blocks_q5_1"), slice(8, 24), lambda b: [_half(b, 0), _half(b, 2), _words(b, 4, 1)], offsets=True
    ),
    WeightType.Q8_0: Layout(("blocks_q8_0",), slice(2, 34), _halves(0)),
    WeightType.Q4_K: Layout(("blocks_q4_k",), slice(16, 144), _six_bits, offsets=True),
    WeightType.Q5_K: Layout(("blocks_q5_k",), slice(16, 176), _six_bits, offsets=True),
    WeightType.Q6_K: Layout(("blocks_q6_k",), slice(0, 192), lambda b: [_half(b, 208), _words(b, 192, 4)]),
}
