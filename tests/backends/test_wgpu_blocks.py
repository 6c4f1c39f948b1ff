"""Quantized weights on a Vulkan device: the file's blocks, the CPU's codes bit for bit, the CPU's product."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pv.backends.cpu import open_cpu
from pv.backends.protocol import BackendError
from pv.backends.wgpu_blocks import LAYOUTS, activation_of, split
from pv.backends.wgpu_device import HARDWARE, SOFTWARE, Device, Region, Tuning
from pv.backends.wgpu_product import Products
from pv.backends.wgpu_recipe import RECIPE, Bench, Op, Step
from pv.backends.wgpu_session import WgpuSession, dispatch, open_wgpu
from pv.backends.wgpu_weights import upload_matrix
from pv.model.open import Model, open_model
from pv.model.quant import quantize
from pv.model.quant_product import quantize_activations, quantized_product
from pv.model.spec import named_shape
from pv.model.stages import Stage
from pv.model.synthetic import Recipe, build
from pv.model.weights import BLOCKS, Weight, Weights, WeightType

KINDS = tuple(LAYOUTS)
TOKENS = [3, 141, 59, 26, 53, 58, 97, 93, 23]
NEAR = 5e-7  # relative L2 of one product whose activations have the CPU's codes; one other code is 1e-3 away
SPEC = replace(named_shape("tiny"), vocab=300, layers=2, ffn=512)


def quantized(weights: Weights, kind: Callable[[str], WeightType]) -> Weights:
    """Every matrix as blocks of the type that `kind` says for its name."""

    def one(name: str, weight: Weight) -> Weight:
        if len(weight.shape) != 2:
            return weight
        return Weight(name, kind(name), weight.shape, torch.from_numpy(quantize(weight.dense().numpy(), kind(name))))

    return replace(weights, tensors={name: one(name, weight) for name, weight in weights.tensors.items()})


def mixed(name: str) -> WeightType:
    """As Q4_K_M: the value and down projections and the head in another type."""
    return WeightType.Q6_K if name.endswith((".v", "ffn_down", "embedding")) else WeightType.Q4_K


@pytest.fixture(scope="module")
def dense() -> Weights:
    return build(Recipe(SPEC, seed=5))


@pytest.fixture(scope="module", params=[*KINDS, "mixed"])
def weights(request: pytest.FixtureRequest, dense: Weights) -> Weights:
    return quantized(dense, mixed if request.param == "mixed" else lambda _: request.param)


@pytest.fixture(scope="module")
def session(weights: Weights, vulkan: None) -> Iterator[WgpuSession]:
    opened = open_wgpu(weights)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def teacher() -> Model:
    return open_model(Path(__file__).parents[2] / "fixtures" / "tiny-teacher")


def relative(test: np.ndarray, expected: np.ndarray) -> float:
    wide = expected.astype(np.float64)
    return float(np.linalg.norm(test.astype(np.float64) - wide) / np.linalg.norm(wide))


def blocks_of(kind: WeightType, rows: int, blocks: int, seed: int) -> np.ndarray:
    """Any bytes that are blocks: every code and small scale, float16 scales finite."""
    made = np.random.default_rng(seed).integers(0, 256, (rows, blocks, BLOCKS[kind][1]), dtype=np.uint8)
    high_bytes = {WeightType.Q6_K: (209,)}.get(kind, (1, 3) if LAYOUTS[kind].offsets else (1,))
    for at in high_bytes:
        made[..., at] &= 0b10111011  # exponents of 11 or less: subnormal scales too
    return made.reshape(rows, -1)


# -- what is uploaded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_the_files_own_bytes_and_nothing_is_dropped(kind):
    rows = blocks_of(kind, 3, 4, zlib.crc32(kind.encode()))
    codes, words = split(kind, rows)
    size, per = BLOCKS[kind][1], LAYOUTS[kind].codes
    assert codes.tobytes() == rows.reshape(3, 4, size)[..., per].tobytes()
    assert codes.shape[1] % 16 == 0  # whole vec4
    other, changed = rows.copy(), 0
    for at in range(size):  # every byte of a block reaches one of the two arrays
        other[1, 2 * size + at] ^= 1
        moved, told = split(kind, other)
        assert not np.array_equal(codes, moved) or not np.array_equal(words, told), at
        other[1, 2 * size + at] ^= 1
        changed += 1
    assert changed == size


@pytest.mark.usefixtures("vulkan")
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_the_dequantizers_bit_for_bit(kind, dense):
    """Looked up as an embedding: random blocks, so that every code, every scale and every bit of a packing occurs."""
    stored = torch.from_numpy(blocks_of(kind, SPEC.vocab, SPEC.hidden // BLOCKS[kind][0], 7))
    table = Weight("embedding", kind, (SPEC.vocab, SPEC.hidden), stored)
    with_it = replace(dense, tensors={**dense.tensors, "embedding": table})
    opened = open_wgpu(with_it)
    found: list[np.ndarray] = []
    try:
        tokens = list(range(0, SPEC.vocab, 3))
        opened.prefill(tokens, Catch(Stage.EMBEDDING, found))
    finally:
        opened.close()
    assert np.array_equal(found[0], table.dense().numpy()[tokens])


class Catch:
    """A tap for one stage."""

    def __init__(self, stage: Stage, found: list[np.ndarray]) -> None:
        self._stage, self._found = stage, found

    def wants(self, stage: Stage, layer: int | None) -> bool:
        return stage is self._stage

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        self._found.append(values)


# -- activations --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device(vulkan: None) -> Iterator[Device]:
    opened = Device()
    yield opened
    opened.close()


def run(device: Device, ops: list[Op], step: Step | None) -> None:
    encoder = device.encoder()
    dispatch(encoder, ops, step)
    device.submit([encoder.finish()])


def rounded(device: Device, x: np.ndarray, kind: WeightType) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (T, K), scales (T, n) and sums (T, K / 16) that the shader makes of x (T, K)."""
    count, width = x.shape
    block = activation_of(kind).block
    constants = {"PIECES": width // 16, "SHARE": block // 16, "SUMMED": int(activation_of(kind).kind == "Q8_1")}
    kernel = device.kernel("quantize", RECIPE.sources["common"] + RECIPE.sources["quantize"], constants)
    source = device.allocate("x", x.nbytes)
    device.write(source, x)
    sizes = {"codes": x.size // 4, "scales": x.size // block, "sums": x.size // 16}
    codes, scales, sums = (device.allocate(name, 4 * size) for name, size in sizes.items())
    step = device.allocate("step", 32, uniform=True)
    device.write(step, np.array([count, 0, 0, 0, 0, 0, 0, 0], np.uint32))
    groups = (-(-width // 16 // 64), count, 1)
    run(device, [Op(kernel, device.bind(kernel, [source, codes, scales, sums, step]), lambda _: groups, None)], None)

    def floats(region: Region, size: int) -> np.ndarray:
        return device.read(region)[:size]

    return (
        floats(codes, x.size // 4).view(np.int8).reshape(x.shape),
        floats(scales, x.size // block).reshape(count, -1),
        floats(sums, x.size // 16).reshape(count, -1),
    )


REPRESENTATIVES = (WeightType.Q8_0, WeightType.Q4_1, WeightType.Q4_K)  # of the three ways to round activations


@pytest.mark.parametrize("kind", REPRESENTATIVES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_activations_have_the_cpus_codes_and_scales_bit_for_bit(device, kind, data):
    seed, size = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.sampled_from([1e-30, 1e-6, 1e-3, 1.0, 30.0, 1e5]))
    random = np.random.default_rng(seed)
    x = (random.standard_normal((3, 512)) * size).astype(np.float32)
    x[0, :64] = 0.0
    x[1, 5] = data.draw(st.sampled_from([0.0, 1000.0, -1000.0])) * size  # an outlier, of either sign
    x[2] = np.round(x[2] / np.float32(size) * 8) * np.float32(size)  # ties of the largest, of both signs
    codes, scales, sums = rounded(device, x, kind)
    expected = quantize_activations(torch.from_numpy(x), activation_of(kind).kind)
    assert np.array_equal(codes, expected.codes.numpy())
    assert np.array_equal(scales.view(np.uint32), expected.scale.numpy().view(np.uint32))
    pieces = expected.codes.numpy().reshape(3, -1, 16).sum(-1, dtype=np.int64)
    if expected.sums is not None:
        assert np.array_equal(sums[:, ::2], expected.sums.numpy())
        assert not sums[:, 1::2].any()
    elif activation_of(kind).kind == "Q8_K":
        by = expected.scale.numpy().astype(np.float64).repeat(16, axis=1)
        np.testing.assert_allclose(sums, pieces * by, rtol=1e-6)


@pytest.mark.parametrize("kind", REPRESENTATIVES)
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_in_its_own_block(device, kind, odd):
    x = np.ones((2, 512), np.float32)
    x[1, 300] = odd
    codes, scales, _ = rounded(device, x, kind)
    block = activation_of(kind).block
    wrong = np.zeros_like(scales, bool)
    wrong[1, 300 // block] = True
    assert np.array_equal(np.isnan(scales), wrong)
    assert not codes[1, 300 // block * block : (300 // block + 1) * block].any()


# -- products -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 6, 33])
def test_every_stage_is_the_cpus_own_when_its_inputs_are(session, weights, everything, length):
    """The CPU's quantized product is the reference; its tensors are grafted in, so no code can differ."""
    tokens = [(7 * n + length) % SPEC.vocab for n in range(length)]
    theirs, reference = everything(), open_cpu(weights)
    reference.prefill(tokens, theirs)
    found: dict[tuple[Stage, int | None], float] = {}

    def graft(stage: Stage, layer: int | None, made: np.ndarray) -> np.ndarray:
        expected = theirs.tensors[stage, layer]
        found[stage, layer] = relative(made, expected)
        return expected

    session.reset()
    session.prefill(tokens, graft=graft)
    assert found.keys() == theirs.tensors.keys()
    products = {Stage.QKV_MATMUL, Stage.ATTN_OUT, Stage.FFN_GATE, Stage.FFN_UP, Stage.FFN_OUT, Stage.LM_HEAD}
    assert max(value for (stage, _), value in found.items() if stage in products) <= NEAR
    assert max(found.values()) <= 3e-6
    assert found[Stage.EMBEDDING, 0] == 0


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_a_whole_answer_is_the_quantized_cpus_not_the_dequantized(kind, teacher, vulkan):
    """On a trained model. A code flips where a stage before differs in its last bit; another product is another
    everywhere.

    A flip moves the logits by about 1e-3, so the median of the steps is what tells the two products apart.
    """
    weights = quantized(teacher.weights, mixed if kind == "mixed" else lambda _: kind)
    ours = open_wgpu(weights)
    sessions = (ours, open_cpu(weights), open_cpu(weights.dequantized()))
    tokens, followed = teacher.tokenizer.encode("What is 2+2?"), teacher.tokenizer.encode("2+2 is 4.")
    try:
        made, theirs, others = ([one.prefill(tokens), *(one.decode(token) for token in followed)] for one in sessions)
        near = np.median([relative(a, b) for a, b in zip(made, theirs, strict=True)])
        far = np.median([relative(a, b) for a, b in zip(made, others, strict=True)])
        assert near <= 1e-6
        assert far >= 1e-3
    finally:
        ours.close()


def test_the_facts_say_what_is_multiplied_as_blocks(session, weights, dense):
    assert session.facts.details["products"].split() == sorted(kind for kind in weights.types if kind.quantized)
    floats = open_wgpu(dense)
    assert "products" not in floats.facts.details
    floats.close()


def test_no_matrix_of_blocks_is_held_as_floats(session, weights):
    """What lies on the device is the blocks' size, give or take wider scales."""
    layer = session._model.layers[0]
    matrices = (layer.qkv, layer.attn_out, layer.gate_up, layer.ffn_down, session._model.lm_head)
    for matrix in matrices:
        assert sum(chunk.rows for chunk in matrix.chunks) == matrix.outer
        held = sum(region.size for chunk in matrix.chunks for region in chunk.data)
        stored = sum(chunk.type.row_bytes(matrix.inner) * chunk.rows for chunk in matrix.chunks)
        assert held <= 1.2 * stored + 64
        assert held < 1.3 * matrix.outer * matrix.inner  # a byte a weight or so, never four


def test_looking_changes_no_bit(session, everything):
    def answers(tap: object = None, graft: object = None) -> list[np.ndarray]:
        session.reset()
        return [session.prefill(TOKENS, tap, graft), session.decode(5, tap, graft)]

    plain = answers()
    assert all(map(np.array_equal, plain, answers(everything())))
    assert all(map(np.array_equal, plain, answers(None, lambda stage, layer, x: x.copy())))


@pytest.mark.parametrize("tuning", [HARDWARE, SOFTWARE._replace(blocks=(1, 2), block_rows=3)])
@pytest.mark.parametrize("kind", [WeightType.Q4_K, WeightType.Q8_0])
def test_any_cut_is_as_right(dense, kind, tuning: Tuning, vulkan):
    weights = quantized(dense, lambda _: kind)
    device = Device()
    device.tuning = tuning
    tuned, reference = WgpuSession(weights, device), open_wgpu(weights)
    try:
        assert relative(tuned.prefill(TOKENS), reference.prefill(TOKENS)) <= 1e-2
        assert relative(tuned.decode(5), reference.decode(5)) <= 1e-2
    finally:
        tuned.close()
        reference.close()


def test_blocks_are_cut_into_chunks_that_a_binding_holds(dense, vulkan):
    weights = quantized(replace(dense, spec=replace(SPEC, context=64)), mixed)
    device = Device()
    device.max_binding = 24 * 1024
    chunked, whole = WgpuSession(weights, device), open_wgpu(weights)
    try:
        chunks = chunked._model.layers[0].qkv.chunks
        assert [(chunk.first, chunk.rows, chunk.type) for chunk in chunks] == [
            (0, 192, WeightType.Q4_K),
            (192, 128, WeightType.Q4_K),
            (320, 64, WeightType.Q6_K),
        ]
        assert all(region.size <= device.max_binding for chunk in chunks for region in chunk.data)
        assert np.array_equal(chunked.prefill(TOKENS[:8]), whole.prefill(TOKENS[:8]))  # in passes of 4
        assert np.array_equal(chunked.decode(7), whole.decode(7))
    finally:
        chunked.close()
        whole.close()


def test_sentinels_stay_whole(dense, vulkan):
    guarded = open_wgpu(quantized(dense, mixed), guard=True)
    try:
        for tokens in (TOKENS, [5], TOKENS[:7]):
            guarded.reset()
            guarded.prefill(tokens)
            guarded.decode(9)
            assert guarded.damaged() == []
    finally:
        guarded.close()


@pytest.mark.parametrize("kind", [WeightType.Q8_0, WeightType.Q4_0])
def test_rows_of_32_alone_are_enough_for_the_types_of_32(kind, vulkan):
    spec = replace(SPEC, hidden=96, heads=4, kv_heads=1, head_dim=24, ffn=160, layers=1, vocab=61)
    weights = quantized(build(Recipe(spec)), lambda _: kind)
    ours, theirs = open_wgpu(weights), open_cpu(weights)
    try:
        assert relative(ours.prefill([1, 60, 7]), theirs.prefill([1, 60, 7])) <= 1e-2
        assert relative(ours.decode(9), theirs.decode(9)) <= 1e-2
    finally:
        ours.close()


def test_a_type_that_no_shader_multiplies_is_refused_by_name(dense, monkeypatch, vulkan):
    monkeypatch.delitem(LAYOUTS, WeightType.Q5_K)
    weights = quantized(dense, lambda name: WeightType.Q5_K if name.endswith("0.ffn_up") else WeightType.Q4_K)
    with pytest.raises(BackendError, match=r"wgpu: no shader multiplies Q5_K of 'layers.0.ffn_up'"):
        open_wgpu(weights)


def test_float_and_block_types_share_a_matrix(dense, vulkan):
    """q and k in float16, v in Q8_0: each part by its own product."""
    half = dict(dense.tensors)
    for name in ("layers.0.q", "layers.0.k"):
        half[name] = Weight.of(name, half[name].data.to(torch.float16))
    value = quantized(dense, lambda _: WeightType.Q8_0).tensors["layers.0.v"]
    weights = Weights(SPEC, {**half, "layers.0.v": value})
    ours, theirs = open_wgpu(weights), open_cpu(weights)
    try:
        assert relative(ours.prefill(TOKENS), theirs.prefill(TOKENS)) <= 1e-4
    finally:
        ours.close()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(rows=st.sampled_from([6, 37]), count=st.sampled_from([1, 5, 33]), seed=st.integers(0, 999))
def test_any_product_is_the_cpus(device, kind, rows, count, seed):
    """Random blocks of every bit pattern times random activations, off every tile edge."""
    width = 3 * 256
    stored = blocks_of(kind, rows, width // BLOCKS[kind][0], seed)
    weight = Weight("w", kind, (rows, width), torch.from_numpy(stored))
    x = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    expected = quantized_product(torch.from_numpy(x), weight).numpy()
    made = product_on(device, x, weight)
    scale = np.abs(x).astype(np.float64) @ np.abs(weight.dense().numpy().astype(np.float64)).T
    assert (np.abs(made - expected) <= 1e-6 * scale).all()


def product_on(device: Device, x: np.ndarray, weight: Weight) -> np.ndarray:
    """(T, K) times one weight, by the very dispatches of a pass."""
    bench = Bench(device, RECIPE, len(x))
    matrix = upload_matrix(device, weight)
    source, target = device.allocate("x", x.nbytes), device.allocate("y", 4 * len(x) * weight.shape[0])
    step = Step(len(x), 0, len(x), 0, len(x))
    device.write(source, x)
    device.write(bench.step, step.packed())
    run(device, Products(bench, x.shape[1]).ops(matrix, source, target, None, []), step)
    return device.read(target)[: len(x) * weight.shape[0]].reshape(len(x), -1)
