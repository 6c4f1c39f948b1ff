"""A GPU that multiplies blocks, judged against the CPU's product of the same blocks; nothing else passes for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pv.backends.cpu import open_cpu
from pv.backends.cuda import CUDA_RECIPE, open_cuda
from pv.backends.protocol import BackendError, DeviceFacts
from pv.backends.registry import Choice
from pv.compare.thresholds import Kind
from pv.model.operators import REFERENCE, float_product
from pv.model.quant import quantize
from pv.model.spec import named_shape
from pv.model.synthetic import Recipe, build
from pv.model.weights import Weight, Weights, WeightType
from pv.parity.defects import DEFECTS, Defect
from pv.parity.gate import kind_of, reference_weights
from pv.parity.power import bench, measure
from pv.parity.start import reference_does_not_fit, serve

TOKENS = [3, 41, 59, 26, 53, 7, 7, 12, 30]


def of_blocks(weights: Weights, kind: WeightType) -> Weights:
    """The same model with its matrices as blocks."""
    stored = {
        name: Weight(name, kind, w.shape, torch.from_numpy(quantize(w.dense().numpy(), kind)))
        for name, w in weights.tensors.items()
        if len(w.shape) == 2
    }
    return replace(weights, tensors={**weights.tensors, **stored})


@pytest.fixture(scope="module")
def floats() -> Weights:
    spec = replace(named_shape("nano"), hidden=256, ffn=256, heads=4, kv_heads=2, head_dim=64, vocab=64, layers=2)
    return build(Recipe(spec, seed=5))


@pytest.fixture(scope="module", params=["Q4_K", "Q6_K", "Q8_0"])
def blocks(request: pytest.FixtureRequest, floats: Weights) -> Weights:
    return of_blocks(floats, WeightType(request.param))


def served(weights: Weights, open_gpu) -> tuple[str, list[str]]:
    """Which backend serves when `open_gpu` is the card's opener, and every line said."""
    said: list[str] = []

    def open_backend(name: str, given: Weights):
        return open_gpu(given) if name == "cuda" else open_cpu(given)

    session = serve(weights, TOKENS, Choice(backend="cuda"), say=said.append, open_backend=open_backend)
    return session.facts.backend, said


def on_card(weights: Weights, recipe=CUDA_RECIPE):
    return open_cuda(weights, device="cpu", recipe=recipe)


def test_the_session_says_which_blocks_it_multiplies(blocks):
    facts = on_card(blocks).facts
    assert facts.details["products"] == str(blocks.tensors["lm_head"].type)
    assert kind_of(facts) is Kind.QUANT_SAME
    assert reference_weights(blocks, facts) is blocks


def test_floats_are_judged_as_floats(floats):
    facts = on_card(floats).facts
    assert "products" not in facts.details
    assert kind_of(facts) is Kind.CUDA
    unnamed = DeviceFacts("wgpu", "vulkan", "a card")
    dense = reference_weights(of_blocks(floats, WeightType.Q8_0), unnamed)
    assert not any(w.type.quantized for w in dense.tensors.values())


def test_a_healthy_product_of_blocks_serves(blocks):
    backend, said = served(blocks, on_card)
    assert backend == "cuda", said
    assert any("accepted" in line for line in said)


def test_a_float_product_hidden_behind_blocks_is_refused(blocks):
    """Values that are right to seven digits, of the wrong product: the float32 fallback that nobody asked for."""

    def hidden(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        return float_product(x, Weight.of(weight.name, weight.dense())) if weight.type.quantized else x @ weight.data.T

    backend, said = served(
        blocks, lambda w: on_card(w, replace(CUDA_RECIPE, operators=replace(REFERENCE, linear=hidden)))
    )
    assert backend == "cpu"
    assert any("rejected" in line for line in said)


@pytest.mark.parametrize("name", ["bias-dropped", "rope-base", "block-of-32-wrong", "scale-missing", "tf32-operands"])
def test_a_defect_too_small_for_the_logits_is_found_in_its_stage(blocks, name):
    backend, said = served(blocks, lambda w: DEFECTS[name].open("cuda", w, device="cpu"))
    assert backend == "cpu", said
    assert not any("error" in line for line in said), "the defect itself failed"


def test_the_reference_of_blocks_needs_their_codes_not_floats(floats, blocks):
    gib = 1 << 30
    count = sum(w.data.numel() for w in floats.tensors.values())
    assert reference_does_not_fit(blocks, available=gib) == ""
    assert reference_does_not_fit(blocks, available=count) != ""
    dense = 4 * count
    assert reference_does_not_fit(blocks, available=dense) == "", "blocks are not widened to float32"


def test_a_defect_that_cannot_open_stands_in_the_table_under_the_same_bounds(blocks):
    def refuse(_spec):
        raise BackendError("cuda", "cannot open")

    on = bench(blocks, TOKENS)
    broken = measure("cuda", on, Defect("broken", "it does not open", cuda=refuse), "cpu", Kind.QUANT_SAME)
    small = measure("cuda", on, DEFECTS["block-of-32-wrong"], "cpu", Kind.QUANT_SAME)
    assert broken.start == "unavailable: cuda: cannot open"
    assert list(broken.caught()) == list(small.caught())
    assert "ffn_out of layer 1" in small.start, "the stages of the start gate belong to it"
