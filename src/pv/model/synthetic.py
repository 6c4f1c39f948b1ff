"""A named shape and a seed -> a model of random weights, in memory or on disk, one tensor at a time.

Random weights answer nothing sensible; they are for shapes, speed and numerics. Never judge quantized types on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from json import dumps

import torch

from pv.model.spec import ModelSpec
from pv.model.weights import Weight, Weights, expected_shapes

MASSIVE = 26.0  # times the RMS of its neighbours: the outlier channel of real 7B models (arXiv 2402.17762)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides a synthetic model's numbers."""

    spec: ModelSpec
    seed: int = 0
    dtype: torch.dtype = torch.float32
    massive_channel: bool = False

    @property
    def digest(self) -> str:
        """Stands in for the digest of weights on disk: equal recipes make equal numbers on the same kind of device."""
        text = dumps(asdict(self) | {"dtype": str(self.dtype)}, sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def tensors(recipe: Recipe, device: torch.device | str = "cpu") -> Iterator[Weight]:
    """All tensors of the model, one at a time, on `device`; each depends on the seed and its own name alone.

    Scales follow a trained model's: matrices of variance 1/fan-in (residual writers smaller by the depth), norms near
    one, visible biases. With `massive_channel`, one hidden channel carries `MASSIVE` times the RMS of the others from
    the embedding on, as in trained models of this size.
    """
    for name, shape in expected_shapes(recipe.spec).items():
        generator = torch.Generator(device=device).manual_seed(_seed_of(recipe.seed, name))
        values = torch.empty(shape, dtype=torch.float32, device=device)
        values.normal_(generator=generator)
        values.mul_(_scale(name, shape, recipe.spec)).add_(1.0 if name.endswith("norm") else 0.0)
        if name == "final_norm" and recipe.spec.tied:
            values.mul_(recipe.spec.hidden**-0.5)  # the embedding is of unit variance, and a head must be smaller
        if name == "embedding" and recipe.massive_channel:
            values[:, massive_index(recipe.spec)] = MASSIVE * values.pow(2).mean().sqrt()
        yield Weight.of(name, values.to(recipe.dtype))


def massive_index(spec: ModelSpec) -> int:
    """Which hidden channel is the massive one."""
    return spec.hidden // 3


def build(recipe: Recipe, device: torch.device | str = "cpu") -> Weights:
    """The whole model in the memory of `device`."""
    return Weights.checked(recipe.spec, tensors(recipe, device), f"synthetic model, seed {recipe.seed}")


def _scale(name: str, shape: tuple[int, ...], spec: ModelSpec) -> float:
    """Standard deviation of a tensor's noise."""
    if name.endswith("norm"):
        return 0.1
    if name.endswith("_bias"):
        return 0.5 if not name.endswith("v_bias") else 0.1  # Qwen2's q and k carry large biases
    if name == "embedding":
        return 1.0
    depth = (2 * spec.layers) ** -0.5 if name.endswith(("attn_out", "ffn_down")) else 1.0
    return float(shape[-1] ** -0.5 * depth)


def _seed_of(seed: int, name: str) -> int:
    """A tensor's own seed, so that order and shape of the others do not matter."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1
