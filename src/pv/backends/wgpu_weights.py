"""`Weights` -> a model in device memory: matrices in chunks of rows of one type that one binding can hold.

A float type becomes float32. A block type keeps its blocks, and the product that belongs to them (`wgpu_blocks`): what
is multiplied is chosen by the weight's type alone. A block type without a shader is refused by name, so that the next
backend serves, visibly; a detour over float32 would hide what the type was chosen for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pv.backends.protocol import BackendError
from pv.backends.wgpu_blocks import LAYOUTS, split
from pv.backends.wgpu_device import BACKEND, UPLOAD_BYTES, Device, Region
from pv.model.spec import ModelSpec
from pv.model.weights import Weight, Weights, WeightType


class Chunk(NamedTuple):
    """Some rows of a matrix, and the uniform that says which. `data`: float32 rows; or codes and scales of blocks."""

    data: tuple[Region, ...]
    span: Region
    first: int
    rows: int
    type: WeightType


class Matrix(NamedTuple):
    """An (outer, inner) matrix, row by row."""

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

    @property
    def products(self) -> tuple[str, ...]:
        """The block types that are multiplied as such; none for a model of floats."""
        matrices = [m for layer in self.layers for m in (layer.qkv, layer.attn_out, layer.gate_up, layer.ffn_down)]
        chunks = [chunk for matrix in (*matrices, self.lm_head) for chunk in matrix.chunks]
        return tuple(sorted({str(chunk.type) for chunk in chunks if chunk.type.quantized}))


def upload(device: Device, weights: Weights) -> Model:
    """Copy a model to the device. Raises BackendError for widths that vec4 loads cannot walk, for a block type that no
    shader multiplies, or out of memory.
    """
    spec = weights.spec
    _want_fours(spec)
    _want_shaders(weights)
    loader = _Loader(device, weights.tensors)

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


def upload_matrix(device: Device, weight: Weight) -> Matrix:
    """Copy one matrix to the device."""
    return _Loader(device, {weight.name: weight}).matrix(weight.name)


class _Loader:
    """Uploads tensors by our names."""

    def __init__(self, device: Device, tensors: Mapping[str, Weight]) -> None:
        self._device, self._tensors = device, tensors

    def vector(self, *names: str) -> Region:
        """1-D tensors, one behind the other."""
        values = np.concatenate([_floats(self._tensors[name]) for name in names])
        region = self._device.allocate(names[0], values.nbytes)
        self._device.write(region, values)
        return region

    def matrix(self, *names: str) -> Matrix:
        """2-D tensors of one width, the rows of one under those of the other, cut where a binding is full and where
        the type changes.
        """
        parts = [self._tensors[name] for name in names]
        chunks: list[Chunk] = []
        row = 0
        for run in _runs_of_one_type(parts):
            chunks += self._chunks(run, row)
            row += sum(part.shape[0] for part in run)
        return Matrix(tuple(chunks), row, parts[0].shape[1])

    def _chunks(self, parts: list[Weight], row: int) -> Iterator[Chunk]:
        """Tensors of one type, from row `row` of the matrix on."""
        name, kind, outer = parts[0].name, parts[0].type, sum(part.shape[0] for part in parts)
        widths = [array.nbytes for array in _arrays(parts[0], 0, 1)]  # bytes of a row in each buffer
        most = self._device.max_binding // max(widths)
        chunks = [self._chunk(name, kind, row + at, min(most, outer - at), widths) for at in range(0, outer, most)]
        for part in parts:
            for chunk in chunks:
                low, high = max(row, chunk.first), min(row + part.shape[0], chunk.first + chunk.rows)
                self._fill(chunk, part, low - row, high - row, at=low - chunk.first, widths=widths)
            row += part.shape[0]
        yield from chunks

    def _fill(self, chunk: Chunk, part: Weight, low: int, high: int, *, at: int, widths: list[int]) -> None:
        """Rows `low` to `high` of a tensor into the chunk's rows from `at` on, a bounded piece at a time."""
        step = max(1, UPLOAD_BYTES // max(widths))
        for start in range(low, high, step):
            arrays = _arrays(part, start, min(start + step, high))
            for region, values, width in zip(chunk.data, arrays, widths, strict=True):
                offset = width * (at + start - low)
                self._device.write(Region(region.buffer, offset, region.size - offset), values)

    def _chunk(self, name: str, kind: WeightType, first: int, rows: int, widths: list[int]) -> Chunk:
        data = tuple(self._device.allocate(f"{name}[{first}:{first + rows}]", width * rows) for width in widths)
        span = self._device.allocate(f"{name} span", 16, uniform=True)
        self._device.write(span, np.array([first, rows, 0, 0], np.uint32))
        return Chunk(data, span, first, rows, kind)


def _runs_of_one_type(parts: list[Weight]) -> list[list[Weight]]:
    """Neighbours of one type together; all float types are float32 on the device."""
    runs: list[list[Weight]] = []
    for part in parts:
        alike = runs and (runs[-1][0].type == part.type or not (runs[-1][0].type.quantized or part.type.quantized))
        if alike:
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _arrays(weight: Weight, low: int, high: int) -> tuple[np.ndarray, ...]:
    """Rows `low` to `high` as the device holds them: float32; or codes and the words beside them."""
    rows = replace(weight, data=weight.data[low:high], shape=(high - low, weight.shape[1]))
    if not weight.type.quantized:
        return (_floats(rows),)
    return split(weight.type, rows.data.detach().cpu().numpy())


def _floats(weight: Weight) -> np.ndarray:
    values: np.ndarray = weight.dense().detach().cpu().numpy()
    return values


def _want_shaders(weights: Weights) -> None:
    """Refuse matrices of a block type that no shader multiplies."""
    for weight in weights.tensors.values():
        if weight.type.quantized and len(weight.shape) == 2 and weight.type not in LAYOUTS:
            raise BackendError(
                BACKEND, f"no shader multiplies {weight.type} of {weight.name!r}", "use the CPU, or another type"
            )


def _want_fours(spec: ModelSpec) -> None:
    for name in ("hidden", "head_dim", "ffn"):
        if getattr(spec, name) % 4:
            raise BackendError(
                BACKEND, f"expected {name} to be a multiple of 4, got {name}={getattr(spec, name)}", "use the CPU"
            )
