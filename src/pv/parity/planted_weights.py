"""Bugs that are the same for every backend: a model changed before it is copied, logits changed before they are
served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import sqrt

import numpy as np
import torch

from pv.model.weights import Weight, Weights


def gate_and_up_swapped(weights: Weights) -> Weights:
    """Both projections have one shape, so nothing complains."""
    tensors = dict(weights.tensors)
    for i in range(weights.spec.layers):
        gate, up = f"layers.{i}.ffn_gate", f"layers.{i}.ffn_up"
        tensors[gate] = replace(weights.tensors[up], name=gate)
        tensors[up] = replace(weights.tensors[gate], name=up)
    return replace(weights, tensors=tensors)


def one_block_wrong(weights: Weights) -> Weights:
    """32 consecutive weights of one row of the last down projection with the wrong sign."""

    def change(values: torch.Tensor) -> torch.Tensor:
        row = int(values.abs().sum(1).argmax())  # a row that matters, or nothing would show
        values[row, :32] *= -1.0
        return values

    return _with(weights, f"layers.{weights.spec.layers - 1}.ffn_down", change)


def one_nan(weights: Weights) -> Weights:
    """One weight in the middle of the model is NaN."""

    def change(values: torch.Tensor) -> torch.Tensor:
        values[0, 0] = float("nan")
        return values

    return _with(weights, f"layers.{weights.spec.layers // 2}.ffn_gate", change)


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


def _with(weights: Weights, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Weights:
    changed = Weight.of(name, change(weights.tensors[name].dense().clone()))
    return replace(weights, tensors={**weights.tensors, name: changed})
