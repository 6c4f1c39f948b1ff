"""Weights -> a CPU session that adds in ggml's order: what llama.cpp computes from the same file, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import torch

from pv.backends.cpu import cpu_facts
from pv.backends.torch_session import TorchSession
from pv.model.ggml_order import GGML_ORDER, rope_tables
from pv.model.rope import RopeTables
from pv.model.weights import DTYPES, LayerWeights, Prepared, Weight, Weights, WeightType, prepare


class GgmlSession(TorchSession):
    """A session with ggml's operators and ggml's rotation angles."""

    def _tables(self, length: int) -> RopeTables:
        return rope_tables(self.spec, min(length, self.spec.context))


def open_cpu_ggml(weights: Weights) -> GgmlSession:
    """A session to hold against llama.cpp with one token a batch; ten to eighty times slower than `open_cpu`."""
    facts = replace(cpu_facts(), driver=f"torch {torch.__version__}, in ggml's order")
    return GgmlSession(_with_halves(weights, prepare(weights, "cpu", torch.float32)), facts, GGML_ORDER)


def _with_halves(weights: Weights, wide: Prepared) -> Prepared:
    """Matrices stored in float16 or bfloat16 are so again: ggml rounds the activations that it multiplies them with.

    Exact, because `prepare` only widened them. Where q, k and v are of different float types they stay wide.
    """

    def stored(matrix: Weight) -> Weight:
        parts = [matrix.name] if matrix.name in weights.tensors else [matrix.name[:-3] + part for part in "qkv"]
        kinds = {weights.tensors[part].type for part in parts}
        kind = kinds.pop() if len(kinds) == 1 else WeightType.F32
        return matrix if kind.quantized else matrix.placed(wide.device, DTYPES[kind])

    def layer(at: LayerWeights) -> LayerWeights:
        return replace(
            at,
            qkv=tuple(stored(matrix) for matrix in at.qkv),
            attn_out=stored(at.attn_out),
            ffn_gate=stored(at.ffn_gate),
            ffn_up=stored(at.ffn_up),
            ffn_down=stored(at.ffn_down),
        )

    return replace(wide, layers=tuple(layer(at) for at in wide.layers), lm_head=stored(wide.lm_head))
