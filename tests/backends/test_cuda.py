"""The CUDA session: its logic on the CPU through the same class; on a card (`-m gpu`) kernels, graphs, precision."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pv.backends import cuda
from pv.backends.cpu import open_cpu
from pv.backends.cuda import CUDA_RECIPE, CudaOptions, CudaSession, in_our_words, open_cuda, precision
from pv.backends.cuda_cache import DecodeCache
from pv.backends.protocol import BackendError
from pv.model.errors import ContextError
from pv.model.operators import REFERENCE
from pv.model.spec import named_shape
from pv.model.stages import Stage
from pv.model.synthetic import Recipe, build

TOKENS = [3, 141, 59, 26, 53]


@pytest.fixture
def session(nano) -> CudaSession:
    return open_cuda(nano, device="cpu")


def test_it_is_the_one_forward(nano, session):
    reference = open_cpu(nano)
    assert np.abs(session.prefill(TOKENS) - reference.prefill(TOKENS)).max() <= 1e-5  # another number of slots
    for token in (5, 6, 7):
        assert np.abs(session.decode(token) - reference.decode(token)).max() <= 1e-5


def test_taps_and_grafts_are_those_of_the_forward(nano, session, everything):
    ours, theirs = everything(), everything()
    reference = open_cpu(nano)
    session.prefill(TOKENS), reference.prefill(TOKENS)
    session.decode(9, ours), reference.decode(9, theirs)
    assert list(ours.tensors) == list(theirs.tensors)
    for key, expected in theirs.tensors.items():  # the static cache's empty slots are not part of a stage
        assert ours.tensors[key].shape == expected.shape, key
    silent = session.decode(9, graft=lambda stage, layer, x: x * 0 if stage is Stage.LM_HEAD else x)
    assert not silent.any()


def test_the_cache_grows_by_replacement_and_keeps_what_it_held(nano, session):
    reference = open_cpu(nano)
    session.prefill(TOKENS), reference.prefill(TOKENS)
    for n in range(300):
        made, expected = session.decode(n), reference.decode(n)
    assert session.position == 305
    assert np.abs(made - expected).max() <= 1e-4


def test_a_cache_takes_over_and_steps_back():
    spec, cpu = named_shape("nano"), torch.device("cpu")
    small, large = DecodeCache(spec, cpu, torch.float32, 4), DecodeCache(spec, cpu, torch.float32, 9)
    small.append(1, torch.ones(2, 3, 8), torch.ones(2, 3, 8))
    small.advance(3)
    large.take_over(small)
    assert (large.length, int(large.position)) == (3, 3)
    assert torch.equal(large._buffer[:, :, :, :3], small._buffer[:, :, :, :3])
    large.step_back()
    assert (large.length, int(large.position)) == (2, 2)


def test_a_reset_leaves_nothing_behind(session):
    first = session.prefill(TOKENS)
    session.reset()
    session.prefill([7] * 40)
    session.reset()
    assert np.array_equal(session.prefill(TOKENS), first)


def test_bfloat16_serves_float32_logits(nano):
    half = open_cuda(nano, CudaOptions(dtype=torch.bfloat16), device="cpu")
    logits = half.prefill(TOKENS)
    assert logits.dtype == np.float32
    exact = open_cpu(nano).prefill(TOKENS)
    assert 1e-4 < np.linalg.norm(logits - exact) / np.linalg.norm(exact) < 5e-2
    assert half.facts.details["dtype"] == "torch.bfloat16"


@pytest.mark.parametrize("before", ["highest", "high"])
def test_tf32_is_off_inside_whatever_was_set_and_put_back(nano, before):
    seen: list[str] = []

    def begin(_tokens: int, _start: int) -> None:
        seen.append(torch.get_float32_matmul_precision())

    kept = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(before)
        open_cuda(nano, device="cpu", recipe=replace(CUDA_RECIPE, begin=begin)).prefill(TOKENS)
        asked = CudaOptions(tf32=True)
        open_cuda(nano, asked, device="cpu", recipe=replace(CUDA_RECIPE, begin=begin)).prefill(TOKENS)
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(kept)
    assert seen == ["highest", "high"]


def test_precision_is_put_back_after_a_failure():
    kept = torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), precision(tf32=True):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == kept


def test_a_recipe_replaces_operators_weights_tables_and_logits(nano):
    plain = open_cuda(nano, device="cpu").prefill(TOKENS)
    for recipe in (
        replace(CUDA_RECIPE, operators=replace(REFERENCE, silu=torch.nn.functional.gelu)),
        replace(CUDA_RECIPE, rope=lambda tables: replace(tables, sin=-tables.sin)),
        replace(CUDA_RECIPE, logits=lambda logits, tokens, start: logits * tokens),
    ):
        assert not np.array_equal(open_cuda(nano, device="cpu", recipe=recipe).prefill(TOKENS), plain)


def test_a_closed_session_says_so(session):
    session.close()
    with pytest.raises(BackendError, match="the session is closed"):
        session.prefill(TOKENS)


def test_a_second_prefill_is_refused(session):
    session.prefill(TOKENS)
    with pytest.raises(ContextError, match="expected an empty cache"):
        session.prefill(TOKENS)


# -- a card that is not there, too small, or broken ---------------------------------------------------------------


def test_a_build_without_cuda_is_a_sentence(monkeypatch, nano):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendError, match=r"cuda: torch .* is built without CUDA \(--backend wgpu or --no-gpu\)"):
        open_cuda(nano)


def test_a_driver_that_cannot_be_asked_is_a_sentence(monkeypatch):
    def broken() -> int:
        raise RuntimeError("CUDA unknown error\nmore")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", broken)
    assert cuda.why_no_cuda() == "torch cannot ask the driver: CUDA unknown error"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cuda.why_no_cuda() == "no CUDA device or no working NVIDIA driver"


def test_a_model_larger_than_the_card_is_refused_before_a_byte_is_copied(monkeypatch, nano):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 29, 1 << 30))
    with pytest.raises(BackendError, match=r"needs 0.0 GiB and 1 GiB to work in; the card has 0.5 of 1.0 GiB free"):
        cuda._want_room(nano, CudaOptions(), torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 32, 1 << 33))
    cuda._want_room(nano, CudaOptions(), torch.device("cuda"))


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nstack"), "out of device memory: CUDA out of memory"),
        (RuntimeError("CUDA error: an illegal memory access\nat"), "the card or its driver failed: CUDA error: an ill"),
    ],
)
def test_what_torch_raises_becomes_one_line(raised, sentence):
    with pytest.raises(BackendError, match=sentence) as caught, in_our_words():
        raise raised
    assert "\n" not in str(caught.value)


def test_a_card_that_never_answers_is_an_error():
    with pytest.raises(BackendError, match=r"the card gave no answer within 0\.06 s"):
        cuda._wait(SimpleNamespace(query=lambda: False), 0.06)
    cuda._wait(SimpleNamespace(query=lambda: True), 0.0)


def test_only_a_decode_step_is_waited_for_awake(monkeypatch):
    """Whoever spins takes a core from the CPU's reference, which computes while the card does."""
    naps: list[float] = []
    clock = iter(range(1000))
    monkeypatch.setattr(cuda.time, "monotonic", lambda: next(clock) * 0.005)
    monkeypatch.setattr(cuda.time, "sleep", naps.append)
    answers = iter([False] * 4 + [True])
    cuda._wait(SimpleNamespace(query=lambda: next(answers)), 1.0)
    assert len(naps) == 4
    answers = iter([False] * 4 + [True])
    cuda._wait(SimpleNamespace(query=lambda: next(answers)), 1.0, spin=cuda.SPIN_SECONDS)
    assert len(naps) == 4 + 2  # 5 and 10 ms awake, then asleep


def test_kernels_are_left_out_where_triton_is_not_there(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pv.backends.cuda_fused", None)
    found = cuda._kernels_for(CUDA_RECIPE, None, wanted=True)
    assert found.operators is REFERENCE
    assert found.cache is DecodeCache
    assert found.fuse is None
    assert found.word.startswith("torch (no triton")


def test_what_triton_cannot_do_torch_does(monkeypatch, nano):
    """A compiler that fails, met when the session is opened: it serves all the same, and says how."""

    class CompilationError(Exception):
        pass

    def failing(x, gain, eps):
        if len(x) > 1:
            return REFERENCE.rms_norm(x, gain, eps)
        raise CompilationError("at line 3\nof a kernel")

    broken = cuda._Kernels(replace(REFERENCE, rms_norm=failing), DecodeCache, lambda cache: None, "triton")
    healthy = cuda._Kernels(REFERENCE, DecodeCache, None, "torch")
    monkeypatch.setattr(cuda, "interpreted", lambda: True)
    monkeypatch.setattr(cuda, "_kernels_for", lambda recipe, weights, wanted: broken if wanted else healthy)
    session = open_cuda(nano, device="cpu")
    assert session.facts.details["kernels"] == "torch (triton failed: CompilationError: at line 3)"
    assert np.abs(session.prefill(TOKENS) - open_cpu(nano).prefill(TOKENS)).max() <= 1e-5


def test_a_fused_step_of_other_bits_is_not_taken(monkeypatch, nano):
    class OtherBits:
        operators = replace(REFERENCE, add=lambda x, y: x + y + 1e-3)

        def begin(self) -> None:
            pass

        settle = begin

    kernels = cuda._Kernels(REFERENCE, DecodeCache, lambda cache: OtherBits(), "triton")
    monkeypatch.setattr(cuda, "interpreted", lambda: True)
    monkeypatch.setattr(cuda, "_kernels_for", lambda recipe, weights, wanted: kernels)
    session = open_cuda(nano, device="cpu")
    assert session.facts.details["kernels"] == "triton, not fused (the bits differ)"
    assert session._fused is None
    session.prefill(TOKENS)
    reference = open_cpu(nano)
    reference.prefill(TOKENS)
    assert np.abs(session.decode(5) - reference.decode(5)).max() <= 1e-5


# -- on a card ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card() -> None:
    if reason := cuda.why_no_cuda():
        if os.environ.get("PV_REQUIRE_GPU"):
            pytest.fail(f"a CUDA card is required here: {reason}")
        pytest.skip(f"no CUDA card: {reason}")


WAYS = [
    CudaOptions(graphs=False, kernels=False),
    CudaOptions(graphs=True, kernels=False),
    CudaOptions(graphs=False, kernels=True),
    CudaOptions(),
]


@pytest.mark.gpu
@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("options", WAYS, ids=["eager torch", "graph torch", "eager kernels", "graph kernels"])
@pytest.mark.parametrize("shape", ["nano", "tiny"])
def test_on_the_card_every_way_is_the_cpus(options, shape):
    weights = build(Recipe(named_shape(shape)))
    reference, session = open_cpu(weights), open_cuda(weights, options)
    made, expected = session.prefill(TOKENS), reference.prefill(TOKENS)
    for _ in range(20):
        assert np.linalg.norm(made - expected) / np.linalg.norm(expected) <= 1e-5
        token = int(expected.argmax())
        made, expected = session.decode(token), reference.decode(token)
    assert session.replayed == (20 if options.graphs else 0)
    session.close()


@pytest.mark.gpu
@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_the_card_a_replay_is_the_eager_step_bit_by_bit(dtype):
    """Two sessions that grow alike: a softmax over more slots is summed in another order."""
    weights = build(Recipe(named_shape("tiny")))
    replaying, eager = (open_cuda(weights, CudaOptions(dtype=dtype)) for _ in range(2))
    assert np.array_equal(replaying.prefill(TOKENS), eager.prefill(TOKENS))
    for token in range(300):  # past the first growth of the cache
        assert np.array_equal(replaying.decode(token), eager.decode_eagerly(token)), token
    assert (replaying.replayed, eager.replayed) == (300, 0)
    replaying.close(), eager.close()


@pytest.mark.gpu
@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["nano", "tiny", "wide"])
def test_on_the_card_a_fused_step_has_the_bits_of_single_operators(dtype, shape, monkeypatch, everything):
    """At every position, over a growing cache, with one attention kernel and with two; a tap takes single operators."""
    from pv.backends import cuda_fused

    monkeypatch.setattr(cuda, "FIRST_CAPACITY", 16)
    monkeypatch.setattr(cuda_fused, "ATTENTION_SLOTS", 32)
    wide = replace(named_shape("7b"), layers=1, vocab=512, context=128)  # every cut of the 7B shape but the head's
    weights = build(Recipe(wide if shape == "wide" else named_shape(shape)))
    fused, single = (open_cuda(weights, CudaOptions(dtype=dtype)) for _ in range(2))
    assert fused.facts.details["kernels"] == "triton"
    fused.prefill(TOKENS), single.prefill(TOKENS)
    for token in range(60):
        assert np.array_equal(fused.decode(token), single.decode(token, everything())), token
    assert (fused.replayed, single.replayed) == (60, 0)
    fused.close(), single.close()


@pytest.mark.gpu
@pytest.mark.usefixtures("card")
def test_on_the_card_every_stage_is_the_cpus_on_its_own():
    from pv.parity.deep import deep, record

    weights = build(Recipe(named_shape("tiny")))
    session = open_cuda(weights)
    verdict = deep(session, record(open_cpu(weights)))
    assert verdict.accepted, verdict.reasons
    session.close()
