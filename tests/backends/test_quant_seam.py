"""What a CUDA session does with blocks that it cannot multiply: it says so and leaves, it never turns to floats."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

import pv.model.quant_product  # noqa: F401  (the reference's product of blocks enters its table)
from pv.backends import cuda
from pv.backends.cpu import open_cpu
from pv.backends.cuda import CudaOptions, multiplied_as_blocks, open_cuda, want_products
from pv.backends.protocol import BackendError
from pv.backends.registry import Choice, choose
from pv.model.quant import quantize
from pv.model.spec import named_shape
from pv.model.synthetic import Recipe, build
from pv.model.weights import Weight, Weights, WeightType

CARD, OPTIONS = torch.device("cuda"), CudaOptions()
SPEC = replace(named_shape("nano"), hidden=256, ffn=256, heads=4, kv_heads=2, head_dim=64, vocab=64, layers=2)


def with_blocks(kind: WeightType, *names: str) -> Weights:
    """A random model whose matrices of these last names are blocks."""
    weights = build(Recipe(SPEC, seed=3))
    stored = {
        name: Weight(name, kind, w.shape, torch.from_numpy(quantize(w.dense().numpy(), kind)))
        for name, w in weights.tensors.items()
        if name.rpartition(".")[2] in names
    }
    return replace(weights, tensors={**weights.tensors, **stored})


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our kernels' table without Triton."""
    module = ModuleType("pv.backends.triton_quant")
    module.PACKERS = dict.fromkeys((WeightType.Q4_K, WeightType.Q6_K, WeightType.Q8_0))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pv.backends.triton_quant", module)


def test_a_type_with_a_kernel_is_taken(kernels):
    for kind in (WeightType.Q4_K, WeightType.Q6_K, WeightType.Q8_0):
        want_products(with_blocks(kind, "ffn_gate", "lm_head"), OPTIONS, CARD)


def test_a_type_without_a_kernel_is_named_with_a_tensor_and_the_types_there_are(kernels):
    weights = with_blocks(WeightType.Q5_K, "ffn_up")
    with pytest.raises(BackendError, match=r"no kernel multiplies Q5_K \(of 'layers\.\d\.ffn_up'.*Q4_K, Q6_K, Q8_0"):
        want_products(weights, OPTIONS, CARD)


def test_an_embedding_that_is_only_read_may_be_of_any_type(kernels):
    want_products(with_blocks(WeightType.Q5_K, "embedding"), OPTIONS, CARD)
    tied = with_blocks(WeightType.Q5_K, "embedding")
    tied = replace(tied, spec=replace(SPEC, tied=True))
    assert multiplied_as_blocks(tied) == {WeightType.Q5_K: "embedding"}
    with pytest.raises(BackendError, match="Q5_K"):
        want_products(tied, OPTIONS, CARD)


def test_without_triton_the_next_backend_serves_and_the_line_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "pv.backends.triton_quant", None)  # import fails
    monkeypatch.setattr(cuda, "cuda_facts", lambda device: None)
    monkeypatch.setattr(cuda, "_want_room", lambda *_: None)
    said: list[str] = []
    weights = with_blocks(WeightType.Q4_K, "ffn_gate")
    opened = {"cuda": lambda: open_cuda(weights), "cpu": lambda: open_cpu(weights)}
    session = choose(weights, [1], Choice(backend="cuda"), said.append, open_backend=lambda name, _: opened[name]())
    assert session.facts.backend == "cpu"
    assert len(said) == 1
    assert said[0].startswith("cuda: multiplying Q4_K needs triton")


def test_switched_off_kernels_are_no_way_to_floats(kernels):
    with pytest.raises(BackendError, match="kernels are switched off"):
        want_products(with_blocks(WeightType.Q4_K, "q"), CudaOptions(kernels=False), CARD)


def test_the_session_on_the_cpu_multiplies_blocks_as_the_reference_does():
    weights = with_blocks(WeightType.Q5_K, "ffn_gate", "ffn_up", "ffn_down", "q", "k", "v")
    session, reference = open_cuda(weights, device="cpu"), open_cpu(weights)
    assert session.facts.details["products"] == "Q5_K"
    assert np.abs(session.prefill([1, 2, 3]) - reference.prefill([1, 2, 3])).max() < 1e-5
    floats = open_cpu(weights.dequantized()).prefill([1, 2, 3])
    assert np.abs(session.decode(4) - reference.decode(4)).max() < 1e-5
    session.reset()
    assert np.abs(session.prefill([1, 2, 3]) - floats).max() > 1e-4, "the float product is another one"
