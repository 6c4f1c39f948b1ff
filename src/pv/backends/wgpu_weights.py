"""`Weights` -> a model in device memory: float32 matrices in chunks of rows that one binding can hold.

The seam for quantized products: a `Matrix` with another layout, and the shader that reads it. Block types are
dequantized here, so a GGUF model runs with exactly its own numbers in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pv.backends.protocol import BackendError
from pv.backends.wgpu_device import BACKEND, Device, Region
from pv.model.spec import ModelSpec
from pv.model.weights import Weight, Weights


class Chunk(NamedTuple):
    """Some rows of a matrix, and the uniform that says which."""

    data: Region
    span: Region
    first: int
    rows: int


class Matrix(NamedTuple):
    """An (outer, inner) float32 matrix, row by row."""

    chunks: tuple[Chunk, ...]
    outer: int
    inner: int


class Layer(NamedTuple):
    """One layer on the device; q, k and v are one matrix, gate and up another."""

    attn_norm: Region  # (H,)
    qkv: Matrix  # ((Hq + 2 Hkv) D, H)
    qkv_bias: Region | None  # ((Hq + 2 Hkv) D,)
    attn_out: Matrix  # (H, Hq D)
    ffn_norm: Region  # (H,)
    gate_up: Matrix  # (2 F, H)
    ffn_down: Matrix  # (H, F)


class Model(NamedTuple):
    """All of a model on the device."""

    spec: ModelSpec
    embedding: Matrix  # (V, H)
    layers: tuple[Layer, ...]
    final_norm: Region  # (H,)
    lm_head: Matrix  # (V, H); the embedding itself when tied


def upload(device: Device, weights: Weights) -> Model:
    """Copy a model to the device. Raises BackendError for widths that vec4 loads cannot walk, or out of memory."""
    spec = weights.spec
    _want_fours(spec)
    loader = _Loader(device, weights)

    def layer(at: str) -> Layer:
        return Layer(
            attn_norm=loader.vector(f"{at}.attn_norm"),
            qkv=loader.matrix(f"{at}.q", f"{at}.k", f"{at}.v"),
            qkv_bias=loader.vector(*(f"{at}.{part}_bias" for part in "qkv")) if spec.qkv_bias else None,
            attn_out=loader.matrix(f"{at}.attn_out"),
            ffn_norm=loader.vector(f"{at}.ffn_norm"),
            gate_up=loader.matrix(f"{at}.ffn_gate", f"{at}.ffn_up"),
            ffn_down=loader.matrix(f"{at}.ffn_down"),
        )

    embedding = loader.matrix("embedding")
    return Model(
        spec=spec,
        embedding=embedding,
        layers=tuple(layer(f"layers.{i}") for i in range(spec.layers)),
        final_norm=loader.vector("final_norm"),
        lm_head=embedding if spec.tied else loader.matrix("lm_head"),
    )


class _Loader:
    """Uploads tensors by our names."""

    def __init__(self, device: Device, weights: Weights) -> None:
        self._device, self._tensors = device, weights.tensors

    def vector(self, *names: str) -> Region:
        """1-D tensors, one behind the other."""
        values = np.concatenate([self._dense(self._tensors[name]) for name in names])
        region = self._device.allocate(names[0], values.nbytes)
        self._device.write(region, values)
        return region

    def matrix(self, *names: str) -> Matrix:
        """2-D tensors of one width, the rows of one under those of the other, cut where a binding is full."""
        parts = [self._tensors[name] for name in names]
        inner = parts[0].shape[1]
        outer = sum(part.shape[0] for part in parts)
        most = self._device.max_binding // (4 * inner)
        chunks = [self._chunk(names[0], first, min(most, outer - first), inner) for first in range(0, outer, most)]
        row = 0
        for part in parts:
            values = self._dense(part)
            for chunk in chunks:
                low, high = max(row, chunk.first), min(row + len(values), chunk.first + chunk.rows)
                if low < high:
                    offset = 4 * inner * (low - chunk.first)
                    target = Region(chunk.data.buffer, offset, chunk.data.size - offset)
                    self._device.write(target, values[low - row : high - row])
            row += len(values)
        return Matrix(tuple(chunks), outer, inner)

    def _chunk(self, name: str, first: int, rows: int, inner: int) -> Chunk:
        data = self._device.allocate(f"{name}[{first}:{first + rows}]", 4 * inner * rows)
        span = self._device.allocate(f"{name} span", 16, uniform=True)
        self._device.write(span, np.array([first, rows, 0, 0], np.uint32))
        return Chunk(data, span, first, rows)

    def _dense(self, weight: Weight) -> np.ndarray:
        values: np.ndarray = weight.dense().detach().cpu().numpy()
        return values


def _want_fours(spec: ModelSpec) -> None:
    for name in ("hidden", "head_dim", "ffn"):
        if getattr(spec, name) % 4:
            raise BackendError(
                BACKEND, f"expected {name} to be a multiple of 4, got {name}={getattr(spec, name)}", "use the CPU"
            )
