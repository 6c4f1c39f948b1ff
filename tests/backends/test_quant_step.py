"""A session over blocks with our kernels: bits of the fused step, values of the CPU, all stages.

On a card by `make test-gpu`, and without one through Triton's interpreter, which `test_triton_interpreted.py` asks for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.backends.where_triton_runs import DEVICE, MARKS

# Where Triton runs nowhere, that import has skipped this module.
# isort: split
from pv.backends import cuda, triton_prompt, triton_quant
from pv.backends.cpu import open_cpu
from pv.backends.cuda import CUDA_RECIPE, CudaOptions, CudaSession, open_cuda
from pv.backends.quant_step import QuantStep
from pv.model.gguf_write import FileType, plan_types
from pv.model.operators import REFERENCE
from pv.model.quant import quantize
from pv.model.spec import ModelSpec, named_shape
from pv.model.synthetic import Recipe, build
from pv.model.weights import Weight, Weights
from pv.parity.deep import deep, record_stages

pytestmark = MARKS

TOKENS = [1, 5]
FLIP = 0.1  # what a code on the other side of a half moves logits by: their inputs differ in the last bit
DEFAULTS = CudaOptions()
SMALL = replace(named_shape("nano"), hidden=256, ffn=256, heads=4, kv_heads=2, head_dim=64, vocab=32, layers=2)
# Q8_0 alone has blocks that do not fill the 256 columns of a program.
UNEVEN = replace(SMALL, hidden=160, ffn=96, heads=5, kv_heads=1, head_dim=32)
CASES = {
    "Q4_K": (SMALL, "Q4_K"),
    "Q4_K_M": (SMALL, "Q4_K_M"),
    "Q6_K": (SMALL, "Q6_K"),
    "Q8_0": (SMALL, "Q8_0"),
    "Q8_0 uneven": (UNEVEN, "Q8_0"),
    "no bias, tied": (replace(SMALL, qkv_bias=False, tied=True), "Q4_K"),
}


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows a program where it is interpreted: the same arithmetic in a tenth of the time."""
    if not torch.cuda.is_available():
        cuts = {kind: tuple(cut._replace(rows=128) for cut in pair) for kind, pair in triton_quant.CUTS.items()}
        monkeypatch.setattr(triton_quant, "CUTS", cuts)
        monkeypatch.setattr(cuda, "FIRST_CAPACITY", 16)


def blocks(spec: ModelSpec, kind: str) -> Weights:
    """A random model in a file type's mix of blocks."""
    weights, plan = build(Recipe(spec, seed=3)), plan_types(spec, FileType(kind))
    stored = {
        name: Weight(name, plan[name], w.shape, torch.from_numpy(quantize(w.dense().numpy(), plan[name])))
        for name, w in weights.tensors.items()
        if plan[name].quantized
    }
    return replace(weights, tensors={**weights.tensors, **stored})


def opened(weights: Weights, options: CudaOptions = DEFAULTS, recipe=CUDA_RECIPE) -> CudaSession:
    return open_cuda(weights, options, device=DEVICE, recipe=recipe)


@pytest.mark.parametrize("case", CASES)
def test_a_fused_step_has_the_bits_of_single_operators_and_the_values_of_the_cpu(case: str) -> None:
    weights = blocks(*CASES[case])
    session, reference = opened(weights), open_cpu(weights)
    assert session.facts.details["kernels"] == "triton", "a step that differs in a bit says so here"
    assert isinstance(session._fused, QuantStep)
    want, got = reference.prefill(TOKENS), session.prefill(TOKENS)
    for _ in range(3):
        np.testing.assert_allclose(got, want, rtol=0, atol=FLIP)
        token = int(want.argmax())
        want, got = reference.decode(token), session.decode(token)
    np.testing.assert_allclose(got, want, rtol=0, atol=FLIP)
    stages = deep(session, record_stages(reference, TOKENS))
    assert stages.accepted, stages.reasons
    assert max(stages.worst_local().values()) < 2e-6


@pytest.mark.parametrize("case", ["Q4_K_M", "Q8_0 uneven"])
def test_a_prompt_in_tiles_has_the_values_of_the_cpu_and_decoding_goes_on(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, prompt = blocks(*CASES[case]), [token % 32 for token in range(3, 24)]
    session, reference = opened(weights), open_cpu(weights)
    original, counts = triton_prompt.multiply, set()

    def counted(a, w, kind, tile):
        counts.add(len(a.codes))
        return original(a, w, kind, tile)

    monkeypatch.setattr(triton_prompt, "multiply", counted)
    want, got = reference.prefill(prompt), session.prefill(prompt)
    assert counts == {len(prompt)}, "tiles, and whole ones"
    np.testing.assert_allclose(got, want, rtol=0, atol=FLIP)
    np.testing.assert_allclose(session.decode(7), reference.decode(7), rtol=0, atol=FLIP)
    stages = deep(session, record_stages(reference, prompt))
    assert stages.accepted, stages.reasons
    assert max(stages.worst_local().values()) < 2e-6


def test_a_step_is_the_same_step_whoever_looks(everything) -> None:
    """With taps, eagerly, and replayed: the same bits; with taps, all of the CPU's stages, near the CPU's values."""
    weights = blocks(SMALL, "Q4_K_M")
    session, reference = opened(weights), open_cpu(weights)
    ours, cpus, answers = everything(), everything(), []
    for look in ("tap", "eager", "plain"):
        session.reset()
        session.prefill(TOKENS)
        if look == "tap":
            answers.append(session.decode(7, tap=ours))
        else:
            answers.append(session.decode_eagerly(7) if look == "eager" else session.decode(7))
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[1], answers[2])
    reference.prefill(TOKENS)
    reference.decode(7, tap=cpus)
    assert list(ours.tensors) == list(cpus.tensors)
    assert len({stage for stage, _ in ours.tensors}) == 20
    for place, tensor in cpus.tensors.items():
        np.testing.assert_allclose(ours.tensors[place], tensor, rtol=0, atol=FLIP, err_msg=str(place))


def test_a_planted_operator_is_left_alone_and_nothing_is_fused_over_it() -> None:
    calls: list[str] = []

    def watched(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        calls.append(weight.name)
        return REFERENCE.linear(x, weight)

    recipe = replace(CUDA_RECIPE, operators=replace(REFERENCE, linear=watched))
    session = opened(blocks(SMALL, "Q8_0"), CudaOptions(graphs=False), recipe)
    assert session._fused is None
    calls.clear()
    session.prefill(TOKENS)
    assert "layers.1.ffn_down" in calls


def test_a_tensor_for_an_unexpected_successor_is_computed_first() -> None:
    """What was promised and is not picked up is settled before anybody reads it."""
    weights = blocks(SMALL, "Q4_K")
    session = opened(weights, CudaOptions(graphs=False))
    step, layer = session._fused, session._weights.layers[0]
    single = session._operators
    x = torch.randn(1, SMALL.hidden, device=DEVICE)
    with torch.inference_mode():
        for weight in (layer.attn_out, layer.ffn_gate):
            step.begin()
            promised = step.operators.linear(x, weight)
            step.operators.rope(
                torch.randn(1, 4, 64, device=DEVICE), *session._rope.at(torch.tensor([0], device=DEVICE))
            )
            assert torch.equal(promised, single.linear(x, weight))
        step.begin()
        gate, up = (step.operators.linear(x, weight) for weight in (layer.ffn_gate, layer.ffn_up))
        step.settle()
        assert torch.equal(gate, single.linear(x, layer.ffn_gate))
        assert torch.equal(up, single.linear(x, layer.ffn_up))
        step.begin()
        active = step.operators.silu(x)
        step.operators.add(x, x)
        assert torch.equal(active, single.silu(x))
