"""The list of dispatches that make one pass of the forward, with their buffers: built once, replayed at every step.

Legend: T new tokens, S slots to attend to, H hidden, F FFN width, Hq and Hkv heads, D head dimension, V vocabulary.
One kernel stands for one stage, so that every stage can be tapped and replaced on the path that serves tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil, sqrt
from typing import Any, NamedTuple

import numpy as np

from pv.backends.wgpu_blocks import LAYOUTS, UNIT, Activation, activation_of
from pv.backends.wgpu_device import Device, Guarded, Kernel, Region, sources
from pv.backends.wgpu_weights import Chunk, Matrix, Model
from pv.model.spec import ModelSpec
from pv.model.stages import Stage
from pv.model.weights import Weights, WeightType

Groups = tuple[int, int, int]
Cut = tuple[tuple[str, ...], dict[str, int], Callable[["Step"], Groups]]  # parts of a shader, constants, workgroups


class Step(NamedTuple):
    """The facts of one pass, as the shaders' `Step`: they change from token to token, nothing else does."""

    tokens: int  # T
    start: int  # position of the first new token
    keys: int  # S
    slot: int  # cache slot of the first new token
    capacity: int  # slots of the cache

    def packed(self) -> np.ndarray:
        """As the uniform buffer holds it, padded to 32 bytes."""
        return np.array([*self, 0, 0, 0], np.uint32)


class Place(NamedTuple):
    """Where a stage's tensor lies: columns from `column` on of rows of `stride` floats, or a whole buffer."""

    region: Region
    shape: Callable[[Step], tuple[int, ...]]  # of the stage
    stride: int = 0  # floats in a row of the buffer; 0: the buffer holds nothing else
    column: int = 0

    def floats(self, step: Step) -> int:
        """How many floats of the buffer belong to this step."""
        return step.tokens * self.stride if self.stride else int(np.prod(self.shape(step)))

    def view(self, values: np.ndarray, step: Step) -> np.ndarray:
        """The stage's tensor as a view of the buffer's floats."""
        if not self.stride:
            return values.reshape(self.shape(step))
        width = self.shape(step)[-1]
        return values.reshape(step.tokens, self.stride)[:, self.column : self.column + width]


@dataclass(frozen=True, slots=True)
class Op:
    """One dispatch. `stages`: the tensors that are complete once it is done."""

    kernel: Kernel
    bind_group: Any
    groups: Callable[[Step], Groups]
    layer: int | None
    stages: tuple[tuple[Stage, Place], ...] = ()


Stages = Sequence[tuple[Stage, Place]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the backend is made of. Production uses `RECIPE`; a planted defect is a changed copy of it.

    `sources`: texts of shaders and of their parts, by name. `epsilon`, `scale`: RMSNorm's epsilon and the factor of the
    scores, from the spec. `step`: what the shaders are told of a pass. `keep`: whether a dispatch is made. `weights`:
    the model before upload. `rope`: cosine and sine tables as uploaded. `logits`: the logits as handed out. `begin`:
    called before every pass.
    """

    sources: Mapping[str, str] = field(default_factory=sources)
    epsilon: Callable[[ModelSpec], float] = lambda spec: spec.rms_eps
    scale: Callable[[ModelSpec], float] = lambda spec: 1 / sqrt(spec.head_dim)
    step: Callable[[Step], Step] = lambda step: step
    keep: Callable[[Op, Step], bool] | None = None
    weights: Callable[[Weights], Weights] = lambda weights: weights
    rope: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] = lambda cos, sin: (cos, sin)
    logits: Callable[[np.ndarray, Step], np.ndarray] = lambda logits, _: logits
    begin: Callable[[Step], None] = lambda _: None


RECIPE = Recipe()


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
        self._device, self._model, self._recipe, self._guard = device, model, recipe, guard
        self._spec = spec = model.spec
        self.guarded: list[Guarded] = []
        self.step = device.allocate("step", 32, uniform=True)
        self.tokens = self._buffer("tokens", rows)
        self._rounded: dict[Activation, tuple[Region, Region, Region]] = {}
        self.logits = self._buffer("logits", spec.vocab)
        self.ops: tuple[Op, ...] = tuple(self._build(cache))

    # -- the forward, in computation order --------------------------------------------------------------------

    def _build(self, cache: Cache) -> list[Op]:
        spec, rows = self._spec, self.rows
        scores = spec.heads * rows * self.keys
        b = {
            name: self._buffer(name, width * rows)
            for name, width in (
                ("x", spec.hidden), ("middle", spec.hidden), ("normed", spec.hidden), ("branch", spec.hidden),
                ("qkv", spec.qkv_width), ("biased", spec.qkv_width), ("q", spec.q_width), ("k", spec.kv_width),
                ("context", spec.q_width), ("gate_up", 2 * spec.ffn), ("silu", spec.ffn), ("inner", spec.ffn),
            )
        }  # fmt: skip
        b |= {"scores": self._buffer("scores", scores), "weights": self._buffer("weights", scores)}
        ops = self._embedding(b["x"])
        for i in range(spec.layers):
            ops += self._attention(i, b, cache) + self._feed_forward(i, b)
        ops += [self._norm(b["x"], self._model.final_norm, b["normed"], Stage.FINAL_NORM, None)]
        head = Place(self.logits, lambda _: (spec.vocab,))
        return ops + self._product(
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
            ops += self._product(layer.qkv, b["normed"], b["qkv"], i, product + with_bias)
        else:
            ops += self._product(layer.qkv, b["normed"], b["qkv"], i, product)
            ops.append(
                self._op("bias", {"WIDTH": spec.qkv_width // 4}, [b["qkv"], layer.qkv_bias, biased, self.step],
                         _columns(spec.qkv_width // 4), i, with_bias)
            )  # fmt: skip
        return [
            *ops,
            self._op("rope", heads | {"HALF": spec.head_dim // 2},
                     [biased, cache.cosine, cache.sine, b["q"], b["k"], self.step], _columns(pairs), i,
                     [(Stage.Q_POST_ROPE, self._rows(b["q"], spec.q_width)),
                      (Stage.K_POST_ROPE, self._rows(b["k"], spec.kv_width))]),
            self._op("append", heads | {"DEPTH": spec.head_dim // 4},
                     [b["k"], biased, cache.keys[i], cache.values[i], self.step], _columns(spec.kv_width // 4), i),
            self._op("scores", grouped | {"SCALE": self._recipe.scale(spec)},
                     [b["q"], cache.keys[i], b["scores"], self.step],
                     lambda step: (ceil(step.keys / 64), step.tokens, spec.heads), i,
                     [(Stage.ATTN_SCORES, Place(b["scores"], square))]),
            self._op("softmax", {"LANES": lanes, "TEAMS": teams}, [b["scores"], b["weights"], self.step],
                     lambda step: (ceil(step.tokens / teams), spec.heads, 1), i,
                     [(Stage.ATTN_SOFTMAX, Place(b["weights"], square))]),
            self._op("context", grouped | {"SPLITS": self._device.tuning.splits},
                     [b["weights"], cache.values[i], b["context"], self.step],
                     lambda step: (step.tokens, spec.heads, 1), i,
                     [(Stage.ATTENTION, self._rows(b["context"], spec.q_width))]),
            *self._product(layer.attn_out, b["context"], b["branch"], i,
                           [(Stage.ATTN_OUT, self._rows(b["branch"], spec.hidden))]),
            self._add(b["x"], b["branch"], b["middle"], Stage.POST_ATTN_RESIDUAL, i),
        ]  # fmt: skip

    def _feed_forward(self, i: int, b: dict[str, Region]) -> list[Op]:
        spec, layer = self._spec, self._model.layers[i]
        wide = {"WIDTH": spec.ffn // 4}
        gate = Place(b["gate_up"], lambda step: (step.tokens, spec.ffn), stride=2 * spec.ffn)
        return [
            self._norm(b["middle"], layer.ffn_norm, b["normed"], Stage.FFN_NORM, i),
            *self._product(layer.gate_up, b["normed"], b["gate_up"], i,
                           [(Stage.FFN_GATE, gate), (Stage.FFN_UP, gate._replace(column=spec.ffn))]),
            self._op("silu", wide, [b["gate_up"], b["silu"], self.step], _columns(spec.ffn // 4), i,
                     [(Stage.FFN_SILU, self._rows(b["silu"], spec.ffn))]),
            self._op("multiply", wide, [b["silu"], b["gate_up"], b["inner"], self.step], _columns(spec.ffn // 4), i,
                     [(Stage.FFN_SWIGL, self._rows(b["inner"], spec.ffn))]),
            *self._product(layer.ffn_down, b["inner"], b["branch"], i,
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
                parts = ("blocks", *_own(chunk.type), "blocks_embedding")
                ops.append(self._op(parts, {"UNITS": units}, regions, _columns(units), 0, stages))
            else:
                ops.append(self._op("embedding", {"WIDTH": width}, regions, _columns(width), 0, stages))
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
        return self._op(
            "rmsnorm", constants, [x, gain, y, self.step], lambda step: (ceil(step.tokens / teams), 1, 1), layer, done
        )

    def _add(self, a: Region, b: Region, y: Region, stage: Stage, layer: int) -> Op:
        width = self._spec.hidden // 4
        done = [(stage, self._rows(y, self._spec.hidden))]
        return self._op("add", {"WIDTH": width}, [a, b, y, self.step], _columns(width), layer, done)

    def _product(
        self,
        matrix: Matrix,
        x: Region,
        y: Region,
        layer: int | None,
        done: list[tuple[Stage, Place]],
        *,
        last: bool = False,
    ) -> list[Op]:
        """x times the matrix transposed, a dispatch for each chunk; `last`: of the last token alone.

        Blocks are multiplied with rounded activations, which are made first: once for all chunks that want the same.
        """
        ops = []
        wanted = dict.fromkeys(activation_of(chunk.type) for chunk in matrix.chunks if chunk.type.quantized)
        for activation in wanted:
            ops.append(self._rounding(activation, x, matrix.inner, layer))
        for chunk in matrix.chunks:
            cut = self._vector if last or self.rows == 1 else self._block
            parts, constants, groups = cut(matrix, chunk)
            inputs = self._rounded[activation_of(chunk.type)] if chunk.type.quantized else (x,)
            stages = done if chunk is matrix.chunks[-1] else ()
            regions = [*chunk.data, *inputs, y, chunk.span, self.step]
            ops.append(self._op(parts, constants, regions, groups, layer, stages))
        return ops

    def _rounding(self, activation: Activation, x: Region, inner: int, layer: int | None) -> Op:
        """x as codes, scales and sums, in buffers that all products of this pass share."""
        if activation not in self._rounded:
            self._rounded[activation] = self._buffers_of(activation)
        constants = {"PIECES": inner // 16, "SHARE": activation.block // 16, "SUMMED": int(activation.kind == "Q8_1")}
        regions = [x, *self._rounded[activation], self.step]
        return self._op("quantize", constants, regions, _columns(inner // 16), layer)

    def _buffers_of(self, activation: Activation) -> tuple[Region, Region, Region]:
        """Room for the widest input of a product: codes (T, K / 4) words, scales (T, K / block), sums (T, K / 16)."""
        most = self.rows * max(self._spec.hidden, self._spec.q_width, self._spec.ffn)
        sizes = (("codes", most // 4), ("scales", most // activation.block), ("sums", most // 16))
        codes, scales, sums = (self._buffer(f"{activation.kind} {name}", floats) for name, floats in sizes)
        return codes, scales, sums

    def _vector(self, matrix: Matrix, chunk: Chunk) -> Cut:
        tuning, quantized = self._device.tuning, chunk.type.quantized
        (lanes, teams), at_once = (tuning.blocks, tuning.block_rows) if quantized else (tuning.matvec, tuning.rows)
        groups = ceil(chunk.rows / (teams * at_once))
        span = min(groups, self._device.max_groups)
        constants = {"LANES": lanes, "TEAMS": teams, "ROWS": at_once, "SPAN": span}
        fixed = partial(_fixed, (span, ceil(groups / span), 1))
        if quantized:
            return ("blocks", *_own(chunk.type), "blocks_matvec"), constants | _units(matrix, chunk), fixed
        return ("matvec",), constants | {"INNER": matrix.inner // 4}, fixed

    def _block(self, matrix: Matrix, chunk: Chunk) -> Cut:
        constants = {"OUTER": matrix.outer}
        groups = partial(_tiles, chunk.rows)
        if chunk.type.quantized:
            return ("blocks", *_own(chunk.type), "blocks_matmul"), constants | _units(matrix, chunk), groups
        return ("matmul",), constants | {"INNER": matrix.inner // 4}, groups

    def _op(
        self,
        parts: str | tuple[str, ...],
        constants: Mapping[str, int | float],
        regions: list[Region],
        groups: Callable[[Step], Groups],
        layer: int | None,
        stages: Stages = (),
    ) -> Op:
        """A dispatch of the shader that consists of `parts`, behind what all shaders share."""
        names = ("common", parts) if isinstance(parts, str) else ("common", *parts)
        source = "".join(self._recipe.sources[name] for name in names)
        kernel = self._device.kernel(names[-1], source, constants)
        return Op(kernel, self._device.bind(kernel, regions), groups, layer, tuple(stages))

    def _rows(self, region: Region, width: int) -> Place:
        return Place(region, lambda step: (step.tokens, width))

    def _buffer(self, name: str, floats: int) -> Region:
        region = self._device.allocate(name, 4 * floats, guard=self._guard)
        if self._guard:
            self.guarded.append(Guarded(name, region))
        return region


def _columns(width: int) -> Callable[[Step], Groups]:
    """One invocation for each of `width` columns of each token."""
    return lambda step: (ceil(width / 64), step.tokens, 1)


def _fixed(groups: Groups, _: Step) -> Groups:
    return groups


def _tiles(rows: int, step: Step) -> Groups:
    """Workgroups of 32 rows by 32 tokens."""
    return ceil(rows / 32), ceil(step.tokens / 32), 1


def _own(kind: WeightType) -> tuple[str, ...]:
    """The parts of a shader that are a block type's own."""
    return LAYOUTS[kind].parts


def _units(matrix: Matrix, chunk: Chunk) -> dict[str, int]:
    """Constants of a product of blocks."""
    share, offsets = activation_of(chunk.type).units, LAYOUTS[chunk.type].offsets
    return {"UNITS": matrix.inner // UNIT, "SHARE": share, "OFFSETS": int(offsets)}
