"""Which stage is computed from which: the forward as a graph, so that a failing stage can be told from its inputs.

It is no chain: scores depend on both rotated q and k, the context on the softmax and on v, a residual on two branches,
and a decode step on the keys and values of every token before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from pv.model.stages import FIRST_LAYER_ONLY, PER_LAYER, WHOLE_MODEL, Stage


class Node(NamedTuple):
    """One tensor of a run: a stage, its layer (None: whole model), its decode step (None: the prefill)."""

    stage: Stage
    layer: int | None
    step: int | None = None

    def __str__(self) -> str:
        place = (
            str(self.stage)
            if self.layer is None or self.stage is Stage.EMBEDDING
            else f"{self.stage} of layer {self.layer}"
        )
        return place if self.step is None else f"{place} at decode step {self.step}"


# Stage -> the stages of the same layer that it is computed from.
WITHIN: dict[Stage, tuple[Stage, ...]] = {
    Stage.QKV_MATMUL: (Stage.ATTN_NORM,),
    Stage.QKV_BIAS: (Stage.QKV_MATMUL,),
    Stage.Q_POST_ROPE: (Stage.QKV_BIAS,),
    Stage.K_POST_ROPE: (Stage.QKV_BIAS,),
    Stage.ATTN_SCORES: (Stage.Q_POST_ROPE, Stage.K_POST_ROPE),
    Stage.ATTN_SOFTMAX: (Stage.ATTN_SCORES,),
    Stage.ATTENTION: (Stage.ATTN_SOFTMAX, Stage.QKV_BIAS),
    Stage.ATTN_OUT: (Stage.ATTENTION,),
    Stage.POST_ATTN_RESIDUAL: (Stage.ATTN_OUT,),
    Stage.FFN_NORM: (Stage.POST_ATTN_RESIDUAL,),
    Stage.FFN_GATE: (Stage.FFN_NORM,),
    Stage.FFN_UP: (Stage.FFN_NORM,),
    Stage.FFN_SILU: (Stage.FFN_GATE,),
    Stage.FFN_SWIGL: (Stage.FFN_SILU, Stage.FFN_UP),
    Stage.FFN_OUT: (Stage.FFN_SWIGL,),
    Stage.POST_FFN_RESIDUAL: (Stage.POST_ATTN_RESIDUAL, Stage.FFN_OUT),
}
# Stages that also read the residual stream as it enters the layer.
FROM_RESIDUAL = frozenset({Stage.ATTN_NORM, Stage.POST_ATTN_RESIDUAL})
# Stages that read what the cache holds of earlier tokens, and the stage that it was stored from.
FROM_CACHE = {Stage.ATTN_SCORES: Stage.K_POST_ROPE, Stage.ATTENTION: Stage.QKV_BIAS}


def nodes(layers: int, steps: Iterable[int | None] = (None,)) -> tuple[Node, ...]:
    """Every tensor of a run in computation order. `steps`: None for the prefill, then decode steps from 1."""
    return tuple(
        node
        for step in steps
        for node in (
            *(Node(stage, 0, step) for stage in Stage if stage in FIRST_LAYER_ONLY),
            *(Node(stage, layer, step) for layer in range(layers) for stage in PER_LAYER),
            *(Node(stage, None, step) for stage in Stage if stage in WHOLE_MODEL),
        )
    )


def inputs(node: Node, layers: int) -> tuple[Node, ...]:
    """What a node is computed from; nothing for the embedding."""
    stage, layer, step = node
    if stage is Stage.EMBEDDING:
        return ()
    if layer is None:
        return (residual(layers, layers, step) if stage is Stage.FINAL_NORM else Node(Stage.FINAL_NORM, None, step),)
    found = [residual(layer, layers, step)] if stage in FROM_RESIDUAL else []
    found += [Node(within, layer, step) for within in WITHIN.get(stage, ())]
    if stage in FROM_CACHE and step is not None:
        found += [Node(FROM_CACHE[stage], layer, earlier) for earlier in (None, *range(1, step))]
    return tuple(found)


def residual(layer: int, layers: int, step: int | None) -> Node:
    """The residual stream as it enters `layer`; `layer == layers` is where it leaves the last one."""
    if not 0 <= layer <= layers:
        raise ValueError(f"expected a layer from 0 to {layers}, got {layer}")
    return Node(Stage.EMBEDDING, 0, step) if layer == 0 else Node(Stage.POST_FFN_RESIDUAL, layer - 1, step)


def nearest(node: Node, layers: int, known: Collection[Node]) -> tuple[Node, ...]:
    """The closest ancestors that are in `known`: what a node depends on when stages in between were not captured."""
    found: dict[Node, None] = {}
    waiting, seen = list(inputs(node, layers)), set()
    while waiting:
        one = waiting.pop(0)
        if one in seen:
            continue
        seen.add(one)
        if one in known:
            found[one] = None
        else:
            waiting += inputs(one, layers)
    return tuple(found)
