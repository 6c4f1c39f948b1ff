"""The twenty places of the forward where a tensor can be tapped, in computation order, with their shapes.

Legend: T tokens, H hidden, F FFN width, Hq query heads, Hkv key-value heads, D head dimension, V vocabulary.
No import of torch or numpy: the command line reads this table.
"""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """One tapped tensor; the value is its file name in a capture."""

    EMBEDDING = "embedding"  # (T, H), once
    ATTN_NORM = "attn_norm"  # (T, H)
    QKV_MATMUL = "qkv_matmul"  # (T, (Hq + 2 Hkv) D), before the bias; q, k, v side by side
    QKV_BIAS = "qkv_bias"  # same
    Q_POST_ROPE = "q_post_rope"  # (T, Hq D)
    K_POST_ROPE = "k_post_rope"  # (T, Hkv D), before the KV heads are repeated
    ATTN_SCORES = "attn_scores"  # (Hq, T, T), Q Kt / sqrt(D), before the mask
    ATTN_SOFTMAX = "attn_softmax"  # (Hq, T, T)
    ATTENTION = "attention"  # (T, Hq D), softmax V, before the output projection
    ATTN_OUT = "attn_out"  # (T, H)
    POST_ATTN_RESIDUAL = "post_attn_residual"  # (T, H)
    FFN_NORM = "ffn_norm"  # (T, H)
    FFN_GATE = "ffn_gate"  # (T, F)
    FFN_UP = "ffn_up"  # (T, F)
    FFN_SILU = "ffn_silu"  # (T, F)
    FFN_SWIGL = "ffn_swigl"  # (T, F), silu(gate) up
    FFN_OUT = "ffn_out"  # (T, H)
    POST_FFN_RESIDUAL = "post_ffn_residual"  # (T, H); alias layer_output
    FINAL_NORM = "final_norm"  # (T, H), whole model
    LM_HEAD = "lm_head"  # (V,), whole model, last position


ALIASES = {"layer_output": Stage.POST_FFN_RESIDUAL}
WHOLE_MODEL = frozenset({Stage.FINAL_NORM, Stage.LM_HEAD})  # no layer: APRT sentinel 0xFFFFFFFF
FIRST_LAYER_ONLY = frozenset({Stage.EMBEDDING})  # once, kept in layer-0
PER_LAYER = tuple(s for s in Stage if s not in WHOLE_MODEL and s not in FIRST_LAYER_ONLY)
