"""The list of dispatches that make one pass of the forward, with their buffers: built once, replayed at every step.

Legend: T new tokens, S slots to attend to, H hidden, F FFN width, Hq and Hkv heads, D head dimension, V vocabulary.
One kernel stands for one stage, so that every stage can be tapped and replaced on the path that serves tokens.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from pv.backends.wgpu_blocks import UNIT
from pv.backends.wgpu_device import Device, Region
from pv.backends.wgpu_product import Products, own_parts
from pv.backends.wgpu_recipe import Bench, Op, Place, Recipe, columns
from pv.backends.wgpu_weights import Model
from pv.model.stages import Stage


class Cache(NamedTuple):
    """Keys and values of every layer, each (Hkv, capacity, D), and the rotary tables, each (positions, D / 2)."""

    keys: tuple[Region, ...]
    values: tuple[Region, ...]
    cosine: Region
    sine: Region
    capacity: int


class Plan:
    """All dispatches of a pass over at most `rows` new tokens and `keys` slots, with the buffers they work in."""

    def __init__(
        self, device: Device, model: Model, cache: Cache, recipe: Recipe, rows: int, keys: int, *, guard: bool = False
    ) -> None:
        self.rows, self.keys = rows, keys
        self._device, self._model, self._recipe = device, model, recipe
        self._spec = spec = model.spec
        self._bench = bench = Bench(device, recipe, rows, guard=guard)
        self._products = Products(bench, max(spec.hidden, spec.q_width, spec.ffn))
        self.step, self.guarded = bench.step, bench.guarded
        self.tokens = bench.buffer("tokens", rows)
        self.logits = bench.buffer("logits", spec.vocab)
        self.ops: tuple[Op, ...] = tuple(self._build(cache))

    # -- the forward, in computation order --------------------------------------------------------------------

    def _build(self, cache: Cache) -> list[Op]:
        spec, rows = self._spec, self.rows
        scores = spec.heads * rows * self.keys
        b = {
            name: self._bench.buffer(name, width * rows)
            for name, width in (
                ("x", spec.hidden), ("middle", spec.hidden), ("normed", spec.hidden), ("branch", spec.hidden),
                ("qkv", spec.qkv_width), ("biased", spec.qkv_width), ("q", spec.q_width), ("k", spec.kv_width),
                ("context", spec.q_width), ("gate_up", 2 * spec.ffn), ("silu", spec.ffn), ("inner", spec.ffn),
            )
        }  # fmt: skip
        b |= {"scores": self._bench.buffer("scores", scores), "weights": self._bench.buffer("weights", scores)}
        ops = self._embedding(b["x"])
        for i in range(spec.layers):
            ops += self._attention(i, b, cache) + self._feed_forward(i, b)
        ops += [self._norm(b["x"], self._model.final_norm, b["normed"], Stage.FINAL_NORM, None)]
        head = Place(self.logits, lambda _: (spec.vocab,))
        return ops + self._products.ops(
            self._model.lm_head, b["normed"], self.logits, None, [(Stage.LM_HEAD, head)], last=True
        )

    def _attention(self, i: int, b: dict[str, Region], cache: Cache) -> list[Op]:
        spec, layer = self._spec, self._model.layers[i]
        heads = {"QUERY_HEADS": spec.heads, "KEY_HEADS": spec.kv_heads}
        grouped = {"QUERY_HEADS": spec.heads, "GROUP": spec.group, "DEPTH": spec.head_dim // 4}
        square = lambda step: (spec.heads, step.tokens, step.keys)  # noqa: E731 - a shape, as `_rows` makes them
        lanes, teams = self._device.tuning.reduce
        biased = b["qkv"] if layer.qkv_bias is None else b["biased"]
        pairs = (spec.heads + spec.kv_heads) * spec.head_dim // 2
        ops = [self._norm(b["x"], layer.attn_norm, b["normed"], Stage.ATTN_NORM, i)]
        product = [(Stage.QKV_MATMUL, self._rows(b["qkv"], spec.qkv_width))]
        with_bias = [(Stage.QKV_BIAS, self._rows(biased, spec.qkv_width))]
        if layer.qkv_bias is None:
            ops += self._products.ops(layer.qkv, b["normed"], b["qkv"], i, product + with_bias)
        else:
            ops += self._products.ops(layer.qkv, b["normed"], b["qkv"], i, product)
            ops.append(
                self._bench.op("bias", {"WIDTH": spec.qkv_width // 4}, [b["qkv"], layer.qkv_bias, biased, self.step],
                         columns(spec.qkv_width // 4), i, with_bias)
            )  # fmt: skip
        return [
            *ops,
            self._bench.op("rope", heads | {"HALF": spec.head_dim // 2},
                     [biased, cache.cosine, cache.sine, b["q"], b["k"], self.step], columns(pairs), i,
                     [(Stage.Q_POST_ROPE, self._rows(b["q"], spec.q_width)),
                      (Stage.K_POST_ROPE, self._rows(b["k"], spec.kv_width))]),
            self._bench.op("append", heads | {"DEPTH": spec.head_dim // 4},
                     [b["k"], biased, cache.keys[i], cache.values[i], self.step], columns(spec.kv_width // 4), i),
            self._bench.op("scores", grouped | {"SCALE": self._recipe.scale(spec)},
                     [b["q"], cache.keys[i], b["scores"], self.step],
                     lambda step: (ceil(step.keys / 64), step.tokens, spec.heads), i,
                     [(Stage.ATTN_SCORES, Place(b["scores"], square))]),
            self._bench.op("softmax", {"LANES": lanes, "TEAMS": teams}, [b["scores"], b["weights"], self.step],
                     lambda step: (ceil(step.tokens / teams), spec.heads, 1), i,
                     [(Stage.ATTN_SOFTMAX, Place(b["weights"], square))]),
            self._bench.op("context", grouped | {"SPLITS": self._device.tuning.splits},
                     [b["weights"], cache.values[i], b["context"], self.step],
                     lambda step: (step.tokens, spec.heads, 1), i,
                     [(Stage.ATTENTION, self._rows(b["context"], spec.q_width))]),
            *self._products.ops(layer.attn_out, b["context"], b["branch"], i,
                           [(Stage.ATTN_OUT, self._rows(b["branch"], spec.hidden))]),
            self._add(b["x"], b["branch"], b["middle"], Stage.POST_ATTN_RESIDUAL, i),
        ]  # fmt: skip

    def _feed_forward(self, i: int, b: dict[str, Region]) -> list[Op]:
        spec, layer = self._spec, self._model.layers[i]
        wide, every = {"WIDTH": spec.ffn // 4}, columns(spec.ffn // 4)
        gate = Place(b["gate_up"], lambda step: (step.tokens, spec.ffn), stride=2 * spec.ffn)
        return [
            self._norm(b["middle"], layer.ffn_norm, b["normed"], Stage.FFN_NORM, i),
            *self._products.ops(layer.gate_up, b["normed"], b["gate_up"], i,
                           [(Stage.FFN_GATE, gate), (Stage.FFN_UP, gate._replace(column=spec.ffn))]),
            self._bench.op("silu", wide, [b["gate_up"], b["silu"], self.step], every, i,
                     [(Stage.FFN_SILU, self._rows(b["silu"], spec.ffn))]),
            self._bench.op("multiply", wide, [b["silu"], b["gate_up"], b["inner"], self.step], every, i,
                     [(Stage.FFN_SWIGL, self._rows(b["inner"], spec.ffn))]),
            *self._products.ops(layer.ffn_down, b["inner"], b["branch"], i,
                           [(Stage.FFN_OUT, self._rows(b["branch"], spec.hidden))]),
            self._add(b["middle"], b["branch"], b["x"], Stage.POST_FFN_RESIDUAL, i),
        ]  # fmt: skip

    # -- kinds of dispatch ------------------------------------------------------------------------------------

    def _embedding(self, x: Region) -> list[Op]:
        width = self._spec.hidden // 4
        done = [(Stage.EMBEDDING, self._rows(x, self._spec.hidden))]
        chunks = self._model.embedding.chunks
        ops = []
        for chunk in chunks:
            regions = [*chunk.data, self.tokens, x, chunk.span, self.step]
            stages = done if chunk is chunks[-1] else ()
            if chunk.type.quantized:
                units = self._spec.hidden // UNIT
                parts = ("blocks", *own_parts(chunk.type), "blocks_embedding")
                ops.append(self._bench.op(parts, {"UNITS": units}, regions, columns(units), 0, stages))
            else:
                ops.append(self._bench.op("embedding", {"WIDTH": width}, regions, columns(width), 0, stages))
        return ops

    def _norm(self, x: Region, gain: Region, y: Region, stage: Stage, layer: int | None) -> Op:
        lanes, teams = self._device.tuning.reduce
        constants = {
            "WIDTH": self._spec.hidden // 4,
            "EPSILON": self._recipe.epsilon(self._spec),
            "LANES": lanes,
            "TEAMS": teams,
        }
        done = [(stage, self._rows(y, self._spec.hidden))]
        return self._bench.op(
            "rmsnorm", constants, [x, gain, y, self.step], lambda step: (ceil(step.tokens / teams), 1, 1), layer, done
        )

    def _add(self, a: Region, b: Region, y: Region, stage: Stage, layer: int) -> Op:
        width = self._spec.hidden // 4
        done = [(stage, self._rows(y, self._spec.hidden))]
        return self._bench.op("add", {"WIDTH": width}, [a, b, y, self.step], columns(width), layer, done)

    def _rows(self, region: Region, width: int) -> Place:
        return Place(region, lambda step: (step.tokens, width))
