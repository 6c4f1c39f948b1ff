"""The operators of the forward, one callable each, so that a backend, a weight type or a planted defect replaces one.

Legend: T new tokens, S tokens in the cache, H hidden, F FFN width, Hq query heads, Hkv key-value heads, D head
dimension; `...` stands for leading batch dimensions (none when serving).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch.nn import functional

from pv.model.errors import WeightsError
from pv.model.weights import Weight, WeightType

Product = Callable[[torch.Tensor, Weight], torch.Tensor]  # (..., in), (out, in) -> (..., out)


def float_product(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """x times a float weight transposed, in x's own dtype."""
    return functional.linear(x, weight.data.to(x.dtype))


# How to multiply, for each type of weight; the quantized products enter here. A type without an entry is an error,
# never a silent detour over float32.
PRODUCTS: dict[WeightType, Product] = {
    WeightType.F64: float_product,
    WeightType.F32: float_product,
    WeightType.F16: float_product,
    WeightType.BF16: float_product,
}


def linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """(..., in) -> (..., out) by the product that belongs to the weight's type."""
    if weight.type not in PRODUCTS:
        raise WeightsError(f"no product for {weight.type} of {weight.name!r}", "dequantize the weights first")
    return PRODUCTS[weight.type](x, weight)


def embed(tokens: torch.Tensor, weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """(..., T) token ids -> (..., T, H)."""
    return weight.rows(tokens, dtype)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, the mean in float32 (Zhang and Sennrich 2019)."""
    wide = x.to(torch.float32) if x.dtype != torch.float64 else x
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * scaled.to(x.dtype)


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate pairs (d, d + D/2) of every head. x (..., T, heads, D); cos, sin (T, 1, D/2)."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Q·Kᵀ/√D. q (..., Hq, T, D), k (..., Hkv, S, D) -> (..., Hq, T, S). KV heads are shared, not repeated."""
    grouped = torch.unflatten(q, -3, (k.shape[-3], -1)).flatten(-3, -2)  # (..., Hkv, group T, D)
    product = torch.matmul(grouped, k.transpose(-2, -1)) * (1 / sqrt(q.shape[-1]))  # (..., Hkv, group T, S)
    return torch.unflatten(product, -2, (-1, q.shape[-2])).flatten(-4, -3)  # (..., Hq, T, S)


def softmax(scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Masked softmax over S, in float32 or wider. visible (T, S) is true where a query may look."""
    wide = scores if scores.dtype == torch.float64 else scores.to(torch.float32)
    return torch.softmax(wide.masked_fill(~visible, float("-inf")), dim=-1).to(scores.dtype)


def context(weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax·V. weights (..., Hq, T, S), v (..., Hkv, S, D) -> (..., Hq, T, D)."""
    grouped = torch.unflatten(weights, -3, (v.shape[-3], -1)).flatten(-3, -2)  # (..., Hkv, group T, S)
    product = torch.matmul(grouped, v)  # (..., Hkv, group T, D)
    return torch.unflatten(product, -2, (-1, weights.shape[-2])).flatten(-4, -3)  # (..., Hq, T, D)


def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The residual sum, and the bias."""
    return x + y


def multiply(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up."""
    return x * y


FusedAttention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Operators:
    """What the forward is made of. `dataclasses.replace(REFERENCE, rope=mine)` changes one and leaves the rest.

    `fused_attention(q, k, v, visible)` -> (..., Hq, T, D), when set, stands for scores, softmax and context in one
    kernel; it cannot serve the taps of attn_scores and attn_softmax, and the forward refuses to try.
    """

    embed: Callable[[torch.Tensor, Weight, torch.dtype], torch.Tensor] = embed
    linear: Product = linear
    rms_norm: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] = rms_norm
    rope: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = rope
    scores: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = scores
    softmax: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = softmax
    context: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = context
    silu: Callable[[torch.Tensor], torch.Tensor] = functional.silu
    multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = multiply
    add: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = add
    fused_attention: FusedAttention | None = None


REFERENCE = Operators()


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Torch's fused attention, for training. A square `visible` is the causal one, for which the fast kernels exist."""
    square = visible.shape[-2] == visible.shape[-1] == q.shape[-2]
    mask = None if square else visible
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=square, enable_gqa=True)


TRAINING = Operators(fused_attention=sdpa)
