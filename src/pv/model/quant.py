"""Float32 weights -> the block formats of GGUF, byte-identical to ggml's own C: one table of types.

Legend: a row of K weights is cut into blocks; a block of `block` weights is stored in `size` bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pv.model import quant_k, quant_simple
from pv.model.errors import QuantError
from pv.model.quant_grid import dequantize_rows
from pv.model.weights import BLOCKS, DTYPES, WeightType

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_CHUNK = 1 << 16  # weights per pass: five float32 temporaries of it stay inside a core's second-level cache

ENCODERS: dict[WeightType, Callable[[Floats], Bytes]] = {  # (blocks, block) float32 -> (blocks, size) uint8
    WeightType.F32: quant_simple.encode_f32,
    WeightType.F16: quant_simple.encode_f16,
    WeightType.BF16: quant_simple.encode_bf16,
    WeightType.Q4_0: quant_simple.encode_q4_0,
    WeightType.Q4_1: quant_simple.encode_q4_1,
    WeightType.Q5_0: quant_simple.encode_q5_0,
    WeightType.Q5_1: quant_simple.encode_q5_1,
    WeightType.Q8_0: quant_simple.encode_q8_0,
    WeightType.Q4_K: quant_k.encode_q4_k,
    WeightType.Q5_K: quant_k.encode_q5_k,
    WeightType.Q6_K: quant_k.encode_q6_k,
}


class Block(NamedTuple):
    """How many weights share a block, and in how many bytes it is stored."""

    block: int
    size: int


def block_of(kind: WeightType) -> Block:
    """The block of a type; float types are blocks of one."""
    return Block(*BLOCKS.get(kind, (1, DTYPES[kind].itemsize if kind in DTYPES else 0)))


def quantize(values: Floats, kind: WeightType) -> Bytes:
    """Store a matrix as ggml does: (rows, columns) float32 -> (rows, row bytes) uint8.

    Byte-identical to ggml's `quantize_row_*_ref` (and so to `llama-quantize` without an importance matrix).
    Raises QuantError for rows that are no whole number of blocks, for NaN and infinity, and for blocks whose scale does
    not fit in float16.
    """
    if values.ndim != 2 or values.dtype != np.float32:
        raise QuantError(f"expected a float32 matrix, got {values.ndim} dimensions of {values.dtype}")
    if kind not in ENCODERS:
        raise QuantError(f"expected a type among {', '.join(ENCODERS)}, got {kind}")
    rows, columns = values.shape
    block, size = block_of(kind)
    if columns % block:
        raise QuantError(
            f"expected rows of a multiple of {block} weights for {kind}, got rows of {columns}",
            f"store this tensor as {'Q8_0 or F16' if columns % 32 == 0 else 'F16'}",
        )
    stored = np.empty((rows * columns // block, size), np.uint8)
    blocks = np.ascontiguousarray(values).reshape(-1, block)
    step = _CHUNK // block
    for start in range(0, len(blocks), step):
        part = blocks[start : start + step]
        if not np.isfinite(part).all():
            where = start * block + int(np.argmin(np.isfinite(part.reshape(-1))))
            raise QuantError(
                f"expected finite weights, got {blocks.reshape(-1)[where]} at row {where // columns}, "
                f"column {where % columns}",
                "a model with it answers nonsense; was the training run sound?",
            )
        stored[start : start + step] = ENCODERS[kind](part)
    return stored.reshape(rows, columns // block * size)


def dequantize(stored: Bytes, kind: WeightType) -> Floats:
    """The values that stored rows stand for: (rows, row bytes) uint8 -> (rows, columns) float32.

    Bit-exact with ggml's `dequantize_row_*`. Raises QuantError when the rows are no whole number of blocks.
    """
    block, size = block_of(kind)
    if stored.ndim != 2 or stored.dtype != np.uint8 or stored.shape[1] % size:
        raise QuantError(
            f"expected uint8 rows of a multiple of {size} bytes for {kind}, got {stored.shape} of {stored.dtype}"
        )
    data = torch.from_numpy(np.require(stored, requirements=["C", "W"]))
    if kind in DTYPES:
        return data.view(DTYPES[kind]).to(torch.float32).numpy()
    return dequantize_rows(kind, data, stored.shape[1] // size * block).numpy()
