"""Bugs of a torch backend: operators, a cache and rotary tables that are wrong in one place each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from typing import Any

import torch
from torch.nn import functional

from pv.backends.cuda import CUDA_RECIPE, CudaRecipe
from pv.backends.cuda_cache import DecodeCache
from pv.model import operators as ops
from pv.model.cache import Seen
from pv.model.operators import REFERENCE
from pv.model.rope import RopeTables
from pv.model.spec import ModelSpec
from pv.model.weights import Weight

Planted = Callable[[ModelSpec], CudaRecipe]


def operators(**changed: Any) -> Planted:
    """The production recipe with some operators replaced, by their names in `Operators`."""
    return lambda _: replace(CUDA_RECIPE, operators=replace(REFERENCE, **changed))


# -- rotary embedding ---------------------------------------------------------------------------------------------


def other_base(spec: ModelSpec) -> ModelSpec:
    """The spec with the rotary base of another family."""
    return replace(spec, rope_theta=10000.0 if spec.rope_theta != 10000.0 else 1e6)


def with_other_base(spec: ModelSpec) -> CudaRecipe:
    """Tables of the wrong base."""

    def rope(tables: RopeTables) -> RopeTables:
        return RopeTables.build(other_base(spec), tables.length, tables.cos.device, tables.cos.dtype)

    return replace(CUDA_RECIPE, rope=rope)


def interleaved(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Pairs (2d, 2d + 1) instead of (d, d + D/2)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


class LateTables(RopeTables):
    """A decode step looks one position too far."""

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        late = positions + 1 if positions.numel() == 1 else positions
        return RopeTables.at(self, late.clamp(max=self.length - 1))


# -- attention ----------------------------------------------------------------------------------------------------


def scores_of_other_heads(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Key heads as a kernel that computes `head % kv_heads` finds them."""
    return ops.scores(q, _other_heads(k, q.shape[0]))


def context_of_other_heads(weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Value heads likewise."""
    return ops.context(weights, _other_heads(v, weights.shape[0]))


def _other_heads(k: torch.Tensor, heads: int) -> torch.Tensor:
    return k.repeat(heads // k.shape[0], 1, 1)


def sees_the_future(scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """The mask lets through one slot too many."""
    return ops.softmax(scores, functional.pad(visible[..., :-1], (1, 0), value=True))


def blind_to_itself(scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """The diagonal is masked; the first token keeps itself, or its row would be empty."""
    shorter = functional.pad(visible[..., 1:], (0, 1), value=False)
    shorter[..., 0] = True
    return ops.softmax(scores, shorter)


def decode_scaled(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Decoding multiplies its scores by 1.2."""
    return ops.scores(q, k) * (1.2 if q.shape[-2] == 1 else 1.0)


def unscaled(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Q·Kᵀ without the root."""
    return ops.scores(q, k) * sqrt(q.shape[-1])


def scaled_twice(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Q·Kᵀ/D."""
    return ops.scores(q, k) / sqrt(q.shape[-1])


def late_slot(cache: type[DecodeCache]) -> type[DecodeCache]:
    """A cache that writes one slot too far once a prompt is there."""

    class LateSlot(cache):  # type: ignore[misc, valid-type]  # made from the type in use
        def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> Seen:
            if keys.shape[-2] > 1:
                seen: Seen = super().append(layer, keys, values)
                return seen
            at = (self.positions(1) + 1).clamp(max=self.capacity - 1)
            self._buffer[layer, 0].index_copy_(-2, at, keys)
            self._buffer[layer, 1].index_copy_(-2, at, values)
            return Seen(self._buffer[layer, 0], self._buffer[layer, 1])

    return LateSlot


# -- products -----------------------------------------------------------------------------------------------------


def int8_linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """Activations rounded to 8 bits with one scale for a token: bad once one channel is 26 times the others."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
    return ops.linear(torch.round(x / scale) * scale, weight)


def tf32_linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """Both operands rounded to 10 bits of mantissa, as a tensor core reads them; codes of blocks have no such bits."""
    read = weight if weight.type.quantized else replace(weight, data=_tf32(weight.data))
    return ops.linear(_tf32(x), read)


def _tf32(x: torch.Tensor) -> torch.Tensor:
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def edge_linear(length: int) -> Callable[[torch.Tensor, Weight], torch.Tensor]:
    """The last row of a pass of exactly `length` tokens is halved in one product."""

    def linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        y = ops.linear(x, weight)
        if x.shape[-2] == length and weight.name.endswith("attn_out"):
            y[..., -1, :] *= 0.5
        return y

    return linear


class _Stale:
    """A product whose decode kernel is launched once and never again: what it wrote stays in its buffer."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._written: torch.Tensor | None = None

    def launch(self, x: torch.Tensor, weight: Weight) -> torch.Tensor:
        """The product, and for the one weight in a decode step its buffer is kept."""
        y = ops.linear(x, weight)
        if weight.name == self._name and x.shape[-2] == 1:
            self._written = y.clone()
        return y

    def skip(self, x: torch.Tensor, weight: Weight) -> torch.Tensor:
        """Like `launch`, but what the buffer holds is returned as it is."""
        if weight.name != self._name or x.shape[-2] != 1 or self._written is None:
            return self.launch(x, weight)
        return self._written


def decode_kernel_missing(spec: ModelSpec) -> CudaRecipe:
    """One product runs in the first decode step alone."""
    product = _Stale(f"layers.{spec.layers // 2}.ffn_down")
    return replace(CUDA_RECIPE, operators=replace(REFERENCE, linear=product.skip))


def captured_kernel_missing(spec: ModelSpec) -> CudaRecipe:
    """One product is missing from the recorded graph; the eager step is whole."""
    product = _Stale(f"layers.{spec.layers // 2}.ffn_down")

    def linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        recording = x.is_cuda and torch.cuda.is_current_stream_capturing()
        return product.skip(x, weight) if recording else product.launch(x, weight)

    return replace(CUDA_RECIPE, operators=replace(REFERENCE, linear=linear))


# -- other operators ----------------------------------------------------------------------------------------------


def wrong_epsilon(eps: float) -> float:
    """Ten times off: 1e-5 for 1e-6, the other usual one."""
    return eps * 10


def norm_with_wrong_epsilon(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm of another model's configuration."""
    return ops.rms_norm(x, gain, wrong_epsilon(eps))


def gelu(x: torch.Tensor) -> torch.Tensor:
    """The activation of another family."""
    return functional.gelu(x, approximate="tanh")


def next_row(tokens: torch.Tensor, weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """The embedding of the token behind."""
    return ops.embed((tokens + 1) % weight.shape[0], weight, dtype)
