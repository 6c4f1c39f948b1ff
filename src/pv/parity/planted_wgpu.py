"""Bugs of the wgpu backend: shaders with one place changed, and host steps that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pv.backends.wgpu_recipe import RECIPE, Op, Recipe, Step
from pv.model.rope import RopeTables
from pv.model.spec import ModelSpec
from pv.model.stages import Stage
from pv.parity.planted_torch import other_base

Planted = Callable[[ModelSpec], Recipe]
Edit = tuple[str, str, str]  # shader, old text, new text


def edited(*edits: Edit) -> Recipe:
    """The production recipe with shaders changed; an old text must be there exactly once. Raises ValueError."""
    texts = dict(RECIPE.sources)
    for name, old, new in edits:
        if texts[name].count(old) != 1:
            raise ValueError(f"expected {old!r} once in {name}.wgsl, found it {texts[name].count(old)} times")
        texts[name] = texts[name].replace(old, new)
    return replace(RECIPE, sources=texts)


def shader(*edits: Edit) -> Planted:
    """A defect that is one change of a shader."""
    return lambda _: edited(*edits)


def with_other_base(spec: ModelSpec) -> Recipe:
    """Rotary tables of the wrong base."""

    def rope(cosine: np.ndarray, sine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tables = RopeTables.build(other_base(spec), len(cosine))
        return tables.cos.numpy(), tables.sin.numpy()

    return replace(RECIPE, rope=rope)


def late_slot(_: ModelSpec) -> Recipe:
    """After the prompt, keys and values go one slot too far."""

    def step(told: Step) -> Step:
        late = min(told.slot + 1, told.capacity - 1)
        return told._replace(slot=late) if told.tokens == 1 and told.start else told

    return replace(RECIPE, step=step)


def decode_kernel_missing(spec: ModelSpec) -> Recipe:
    """One product is never dispatched in a decode step; its output buffer keeps what another dispatch left there."""

    def keep(op: Op, step: Step) -> bool:
        gone = op.layer == spec.layers // 2 and any(stage is Stage.FFN_OUT for stage, _ in op.stages)
        return not (gone and step.tokens == 1 and step.start)

    return replace(RECIPE, keep=keep)


def tf32(_: ModelSpec) -> Recipe:
    """Both operands of every product rounded to 10 bits of mantissa; where weights are blocks, the scales of x."""
    function = (
        "fn tf32(v: vec4<f32>) -> vec4<f32> "
        "{ return bitcast<vec4<f32>>((bitcast<vec4<u32>>(v) + vec4(0x1000u)) & vec4(0xffffe000u)); }\n"
    )
    edits: list[Edit] = [
        (name, _ENTRY, function + _ENTRY) for name in ("matmul", "matvec", "blocks_matmul", "blocks_matvec")
    ]
    for name in ("blocks_matmul", "blocks_matvec"):
        scale = "a_scale[token * (UNITS / SHARE) + u / SHARE]"
        edits.append((name, scale, f"tf32(vec4({scale})).x"))
    for axis in "xyzw":
        edits.append(("matmul", f"w[rows.{axis} + k];", f"tf32(w[rows.{axis} + k]);"))
        edits.append(("matmul", f"x[tokens.{axis} + k];", f"tf32(x[tokens.{axis} + k]);"))
    edits += [
        ("matvec", load, load.replace("= ", "= tf32(").replace(";", ");")) for load in (*_LOADS_OF_X, *_LOADS_OF_W)
    ]
    edits.append(("matvec", "fma(w[row * INNER + k], tail", "fma(tf32(w[row * INNER + k]), tail"))
    return edited(*edits)


def int8(_: ModelSpec) -> Recipe:
    """Activations of every product rounded to 8 bits with one scale for a token, where blocks have one for a block."""
    function = "fn int8(v: vec4<f32>, s: f32) -> vec4<f32> { return round(v / s) * s; }\n"
    edits: list[Edit] = [(name, _ENTRY, function + _ENTRY) for name in ("matmul", "matvec")]
    scales = "".join(_scale(f"tokens.{axis}", axis) for axis in "xyzw")
    edits.append(("matmul", "    var sums: array<vec4<f32>, 4>;", scales + "    var sums: array<vec4<f32>, 4>;"))
    edits += [("matmul", f"x[tokens.{a} + k];", f"int8(x[tokens.{a} + k], scale_{a});") for a in "xyzw"]
    head = "    var sums: array<vec4<f32>, ROWS>;"
    edits.append(("matvec", head, _scale("source", "x") + head))
    edits += [("matvec", load, load.replace("= ", "= int8(").replace(";", ", scale_x);")) for load in _LOADS_OF_X]
    edits.append(("quantize", _OF_A_BLOCK, "for (var k = 4u * t * PIECES; k < 4u * (t + 1u) * PIECES; k++)"))
    return edited(*edits)


def _scale(row: str, name: str) -> str:
    """WGSL: the largest magnitude of a row of x over 127; every invocation finds it for itself: slow, and right."""
    return (
        f"    var most_{name} = vec4(1e-12);\n"
        f"    for (var k = 0u; k < INNER; k++) {{ most_{name} = max(most_{name}, abs(x[{row} + k])); }}\n"
        f"    let scale_{name} = max(max(most_{name}.x, most_{name}.y), max(most_{name}.z, most_{name}.w)) / 127.0;\n"
    )


def tile_edge(length: int) -> Planted:
    """The last row of a pass of exactly `length` tokens is halved in every product."""
    store = "y[(t + i) * OUTER + chunk.first + row + j] = sums[i][j]"
    wrong = f"select(1.0, 0.5, step.tokens == {length}u && t + i == {length - 1}u)"
    return shader(("matmul", store, f"{store} * {wrong}"), ("blocks_matmul", store, f"{store} * {wrong}"))


_ENTRY = "@compute @workgroup_size"
_LOADS_OF_X = ("let value = x[source + k];", "let other = x[source + k + LANES];", "let tail = x[source + k];")
_LOADS_OF_W = ("let one = w[at];", "let more = w[at + LANES];")
_OF_A_BLOCK = "for (var k = 4u * block; k < 4u * (block + SHARE); k++)"

OTHER_HEADS = shader(
    ("scores", "(h / GROUP)", "(h % (QUERY_HEADS / GROUP))"), ("context", "(h / GROUP)", "(h % (QUERY_HEADS / GROUP))")
)
INTERLEAVED = shader(
    ("rope", "qkv[source + d];", "qkv[source + 2u * d];"),
    ("rope", "qkv[source + HALF + d];", "qkv[source + 2u * d + 1u];"),
    ("rope", "q[to + d] = low;", "q[to + 2u * d] = low;"),
    ("rope", "q[to + HALF + d] = high;", "q[to + 2u * d + 1u] = high;"),
    ("rope", "k[to + d] = low;", "k[to + 2u * d] = low;"),
    ("rope", "k[to + HALF + d] = high;", "k[to + 2u * d + 1u] = high;"),
)
LATE_POSITION = shader(
    ("rope", "= step.start + t;", "= step.start + t + select(0u, 1u, step.tokens == 1u && step.start > 0u);")
)
SEES_THE_FUTURE = shader(("softmax", "step.start + t + 1u;", "min(step.start + t + 2u, step.keys);"))
BLIND_TO_ITSELF = shader(("softmax", "step.start + t + 1u;", "max(step.start + t, 1u);"))
DECODE_SCALED = shader(("scores", ")) * SCALE;", ")) * SCALE * select(1.0, 1.2, step.tokens == 1u);"))
GELU = shader(
    (
        "silu",
        "gate / (1.0 + exp(-gate));",
        "0.5 * gate * (1.0 + tanh(0.7978845608 * (gate + 0.044715 * gate * gate * gate)));",
    )
)
NEXT_ROW = shader(
    *(
        (name, "= token[t] - chunk.first;", "= token[t] + 1u - chunk.first;")
        for name in ("embedding", "blocks_embedding")
    )
)
WRITES_BEYOND = shader(  # a vec4 of the first key, in the slot behind the last one of this pass
    (
        "append",
        "    value_cache[to] =",
        "    if (t + 1u == step.tokens && step.slot + t + 1u < step.capacity) { key_cache[to + DEPTH] = k[0]; }\n"
        "    value_cache[to] =",
    )
)
