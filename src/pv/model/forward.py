"""Token ids -> logits: the Qwen2 forward, read top to bottom. Every torch backend, trace and training run this one.

Legend: T new tokens, S slots to attend to (T without a cache), H hidden, F FFN width, Hq query heads, Hkv key-value
heads, D head dimension, V vocabulary; `...` stands for leading batch dimensions (none when serving, B in training).

At every stage a `graft` may replace the tensor and a `tap` may take a copy of it, in this order. Neither changes what
is computed: with a tap and without one, logits are bitwise equal, and a stage that nobody wants is never copied.
"""

from __future__ import annotations

import numpy as np
import torch

from pv.model.cache import Cache, Seen, causal
from pv.model.operators import REFERENCE, Operators
from pv.model.rope import RopeTables
from pv.model.stages import Stage
from pv.model.taps import Graft, Tap
from pv.model.weights import LayerWeights, Prepared


def forward(
    weights: Prepared,
    tokens: torch.Tensor,  # (..., T)
    rope: RopeTables,
    *,
    cache: Cache | None = None,
    operators: Operators = REFERENCE,
    tap: Tap | None = None,
    graft: Graft | None = None,
    all_positions: bool = False,
) -> torch.Tensor:
    """Logits of the last position, (..., V), or of all positions, (..., T, V)."""
    see = Eyes(tap, graft)
    x = hidden_states(weights, tokens, rope, cache=cache, operators=operators, see=see)  # (..., T, H)
    return head(weights, x, operators=operators, see=see, all_positions=all_positions)


def hidden_states(
    weights: Prepared,
    tokens: torch.Tensor,  # (..., T)
    rope: RopeTables,
    *,
    cache: Cache | None = None,
    operators: Operators = REFERENCE,
    see: Eyes | None = None,
) -> torch.Tensor:
    """Everything before the head: (..., T) token ids -> (..., T, H) after the final norm."""
    spec, op, see = weights.spec, operators, see or Eyes(None, None)
    count = tokens.shape[-1]
    positions = cache.positions(count) if cache else torch.arange(count, device=tokens.device)  # (T,)
    visible = cache.visible(positions) if cache else causal(positions, count)  # (T, S)
    turn = rope.at(positions)  # cos and sin, each (T, 1, D/2)

    x = see(Stage.EMBEDDING, 0, op.embed(tokens, weights.embedding, weights.dtype))  # (..., T, H)
    for i, layer in enumerate(weights.layers):
        h = see(Stage.ATTN_NORM, i, op.rms_norm(x, layer.attn_norm, spec.rms_eps))  # (..., T, H)
        h = _attention(weights, layer, i, h, turn, visible, cache, op, see)  # (..., T, H)
        x = see(Stage.POST_ATTN_RESIDUAL, i, op.add(x, h))  # (..., T, H)
        h = see(Stage.FFN_NORM, i, op.rms_norm(x, layer.ffn_norm, spec.rms_eps))  # (..., T, H)
        h = _feed_forward(layer, i, h, op, see)  # (..., T, H)
        x = see(Stage.POST_FFN_RESIDUAL, i, op.add(x, h))  # (..., T, H)
    if cache:
        cache.advance(count)
    return see(Stage.FINAL_NORM, None, op.rms_norm(x, weights.final_norm, spec.rms_eps))  # (..., T, H)


def _attention(
    weights: Prepared,
    layer: LayerWeights,
    i: int,
    h: torch.Tensor,  # (..., T, H), normed
    turn: tuple[torch.Tensor, torch.Tensor],
    visible: torch.Tensor,  # (T, S)
    cache: Cache | None,
    op: Operators,
    see: Eyes,
) -> torch.Tensor:
    """Grouped-query attention with rotary positions: (..., T, H) -> (..., T, H), before the residual."""
    spec = weights.spec
    widths = [spec.q_width, spec.kv_width, spec.kv_width]
    parts = [op.linear(h, matrix) for matrix in layer.qkv]
    qkv = see(Stage.QKV_MATMUL, i, parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))  # (..., T, (Hq+2Hkv) D)
    qkv = see(Stage.QKV_BIAS, i, qkv if layer.qkv_bias is None else op.add(qkv, layer.qkv_bias))
    q, k, v = (
        torch.unflatten(part, -1, (-1, spec.head_dim)) for part in torch.split(qkv, widths, dim=-1)
    )  # (..., T, heads, D)

    q = see(Stage.Q_POST_ROPE, i, op.rope(q, *turn).flatten(-2))  # (..., T, Hq D)
    k = see(Stage.K_POST_ROPE, i, op.rope(k, *turn).flatten(-2))  # (..., T, Hkv D)
    q, k = (torch.unflatten(part, -1, (-1, spec.head_dim)).transpose(-3, -2) for part in (q, k))  # (..., heads, T, D)
    v = v.transpose(-3, -2)  # (..., Hkv, T, D)
    seen = cache.append(i, k, v) if cache else Seen(k, v)  # (..., Hkv, S, D)

    if op.fused_attention is not None:
        see.refuse(Stage.ATTN_SCORES, Stage.ATTN_SOFTMAX, layer=i)
        out = op.fused_attention(q, *seen, visible)  # (..., Hq, T, D)
    else:
        filled = (cache.length if cache else 0) + q.shape[-2]
        scores = see.slots(Stage.ATTN_SCORES, i, op.scores(q, seen.keys), filled)  # (..., Hq, T, S)
        weighing = see.slots(Stage.ATTN_SOFTMAX, i, op.softmax(scores, visible), filled)  # (..., Hq, T, S)
        out = op.context(weighing, seen.values)  # (..., Hq, T, D)
    out = see(Stage.ATTENTION, i, out.transpose(-3, -2).flatten(-2))  # (..., T, Hq D)
    return see(Stage.ATTN_OUT, i, op.linear(out, layer.attn_out))  # (..., T, H)


def _feed_forward(layer: LayerWeights, i: int, h: torch.Tensor, op: Operators, see: Eyes) -> torch.Tensor:
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): (..., T, H) -> (..., T, H), before the residual."""
    gate = see(Stage.FFN_GATE, i, op.linear(h, layer.ffn_gate))  # (..., T, F)
    up = see(Stage.FFN_UP, i, op.linear(h, layer.ffn_up))  # (..., T, F)
    active = see(Stage.FFN_SILU, i, op.silu(gate))  # (..., T, F)
    inner = see(Stage.FFN_SWIGL, i, op.multiply(active, up))  # (..., T, F)
    return see(Stage.FFN_OUT, i, op.linear(inner, layer.ffn_down))  # (..., T, H)


def head(
    weights: Prepared,
    x: torch.Tensor,  # (..., T, H), after the final norm
    *,
    operators: Operators = REFERENCE,
    see: Eyes | None = None,
    all_positions: bool = False,
) -> torch.Tensor:
    """Logits of the last position, (..., V), or of all, (..., T, V). The tap sees the last position in both cases."""
    see = see or Eyes(None, None)
    if not all_positions:
        last = operators.linear(x[..., -1:, :], weights.lm_head).squeeze(-2)  # (..., V)
        return see(Stage.LM_HEAD, None, last)
    logits = operators.linear(x, weights.lm_head)  # (..., T, V)
    last = see(Stage.LM_HEAD, None, logits[..., -1, :])  # (..., V)
    return logits if see.blind else torch.cat((logits[..., :-1, :], last.unsqueeze(-2)), dim=-2)


class Eyes:
    """A graft and a tap behind one call: `x = see(stage, layer, x)`. Inert when both are None."""

    __slots__ = ("_graft", "_tap", "blind")

    def __init__(self, tap: Tap | None, graft: Graft | None) -> None:
        self._tap, self._graft = tap, graft
        self.blind = tap is None and graft is None

    def __call__(self, stage: Stage, layer: int | None, x: torch.Tensor) -> torch.Tensor:
        if self.blind:
            return x
        if self._graft is not None:
            x = self._graft(stage, layer, x)
        if self._tap is not None and self._tap.wants(stage, layer):
            self._tap.take(stage, layer, copied(x))
        return x

    def slots(self, stage: Stage, layer: int, x: torch.Tensor, filled: int) -> torch.Tensor:
        """Like the call, over the `filled` slots of the last dimension; a static cache has empty ones behind them."""
        if self.blind or x.shape[-1] == filled:
            return self(stage, layer, x)
        part = x[..., :filled]
        looked = self(stage, layer, part)
        return x if looked is part else torch.cat((looked, x[..., filled:]), dim=-1)

    def refuse(self, *stages: Stage, layer: int) -> None:
        """Say that a fused kernel has no such tensors, rather than leave a hole in a capture."""
        for stage in stages:
            if self._tap is not None and self._tap.wants(stage, layer):
                raise ValueError(f"fused attention has no {stage} to tap (layer {layer}); use the reference operators")


def copied(x: torch.Tensor) -> np.ndarray:
    """A float32, C-contiguous copy on the host, of the same shape."""
    fresh = x.detach().to(device="cpu", dtype=torch.float32, copy=True, memory_format=torch.contiguous_format)
    values: np.ndarray = fresh.numpy()
    return values
