"""Bugs that are the same for every backend: a model changed before it is copied, logits changed before they are
served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

import numpy as np
import torch

from pv.model.weights import Weight, Weights, WeightType


def gate_and_up_swapped(weights: Weights) -> Weights:
    """Both projections have one shape, so nothing complains."""
    tensors = dict(weights.tensors)
    for i in range(weights.spec.layers):
        gate, up = f"layers.{i}.ffn_gate", f"layers.{i}.ffn_up"
        tensors[gate] = replace(weights.tensors[up], name=gate)
        tensors[up] = replace(weights.tensors[gate], name=up)
    return replace(weights, tensors=tensors)


def one_block_wrong(weights: Weights) -> Weights:
    """32 consecutive weights of one row of the last down projection with the wrong sign; of a block type, one block."""
    name = f"layers.{weights.spec.layers - 1}.ffn_down"
    row = int(weights.tensors[name].dense().abs().sum(1).argmax())  # a row that matters, or nothing would show

    def change(values: torch.Tensor) -> torch.Tensor:
        values[row, :32] *= -1.0
        return values

    def change_block(stored: torch.Tensor, high_bytes: tuple[int, ...]) -> torch.Tensor:
        stored[row, list(high_bytes)] ^= 0x80  # the sign of a float16
        return stored

    return _with(weights, name, change, change_block)


def one_nan(weights: Weights) -> Weights:
    """One weight in the middle of the model is NaN; of a block type, one scale."""

    def change(values: torch.Tensor) -> torch.Tensor:
        values[0, 0] = float("nan")
        return values

    def change_block(stored: torch.Tensor, high_bytes: tuple[int, ...]) -> torch.Tensor:
        stored[0, high_bytes[0]] = 0x7E
        return stored

    return _with(weights, f"layers.{weights.spec.layers // 2}.ffn_gate", change, change_block)


def without_bias(weights: Weights) -> Weights:
    """The biases of q, k and v are zero."""
    tensors = {n: Weight.of(n, w.dense() * 0) if n.endswith("_bias") else w for n, w in weights.tensors.items()}
    return replace(weights, tensors=tensors)


def gain_plus_one(weights: Weights) -> Weights:
    """Gemma's RMSNorm multiplies by 1 + gain; Qwen2's does not."""
    tensors = {n: Weight.of(n, w.dense() + 1) if n.endswith("norm") else w for n, w in weights.tensors.items()}
    return replace(weights, tensors=tensors)


def scaled(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """Logits times `factor`: cosine and argmax do not move."""

    def change(logits: np.ndarray) -> np.ndarray:
        product: np.ndarray = logits * np.float32(factor)
        return product

    return change


def argmax_kept(logits: np.ndarray) -> np.ndarray:
    """Noise of 45 % of the logits' length everywhere, the first token put back on top: cosine about 0.91."""
    first = int(np.argmax(logits))
    noise = np.random.default_rng(0).standard_normal(logits.size).astype(np.float32)
    noisy = logits + noise * np.float32(0.45 * np.linalg.norm(logits) / sqrt(logits.size))
    noisy[first] = max(float(noisy.max()), float(logits[first])) + np.float32(0.5)
    result: np.ndarray = noisy.astype(np.float32)
    return result


# Where the upper bytes of a block's float16 scale and minimum lie.
_HIGH_BYTES: dict[WeightType, tuple[int, ...]] = {
    WeightType.Q4_0: (1,),
    WeightType.Q5_0: (1,),
    WeightType.Q8_0: (1,),
    WeightType.Q4_1: (1, 3),
    WeightType.Q5_1: (1, 3),
    WeightType.Q4_K: (1, 3),
    WeightType.Q5_K: (1, 3),
    WeightType.Q6_K: (209,),
}


def _with(
    weights: Weights,
    name: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    change_block: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor],
) -> Weights:
    """One tensor changed. A block type stays one: a defect must not bring another product with it."""
    weight = weights.tensors[name]
    if weight.type.quantized:
        changed = replace(weight, data=change_block(weight.data.clone(), _HIGH_BYTES[weight.type]))
    else:
        changed = Weight.of(name, change(weight.dense().clone()))
    return replace(weights, tensors={**weights.tensors, name: changed})
