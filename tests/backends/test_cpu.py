"""The CPU session: the protocol that every backend keeps, its errors in one line, and no GPU anywhere near."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pv.backends import torch_session
from pv.backends.cpu import cpu_facts, open_cpu
from pv.backends.protocol import BackendError, Session
from pv.backends.torch_session import TorchSession, in_words
from pv.model.errors import ContextError
from pv.model.operators import REFERENCE
from pv.model.spec import named_shape
from pv.model.stages import Stage
from pv.model.synthetic import Recipe, build

SPEC = named_shape("nano")
WEIGHTS = build(Recipe(SPEC))
TOKENS = [3, 141, 59, 26, 53]


class LastNorm:
    """A tap for one stage."""

    def __init__(self) -> None:
        self.taken: list[np.ndarray] = []

    def wants(self, stage: Stage, layer: int | None) -> bool:
        return stage is Stage.FINAL_NORM

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        self.taken.append(values)


def test_prefill_and_decode_are_one_path() -> None:
    session: Session = open_cpu(WEIGHTS)
    whole = session.prefill(TOKENS)
    session.reset()
    assert session.position == 0
    session.prefill(TOKENS[:2])
    stepped = [session.decode(token) for token in TOKENS[2:]][-1]
    assert session.position == len(TOKENS)
    assert whole.shape == (SPEC.vocab,)
    assert whole.dtype == np.float32
    assert np.abs(whole - stepped).max() <= 1e-4


def test_two_runs_give_the_same_bits() -> None:
    first, second = (open_cpu(WEIGHTS).prefill(TOKENS) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_reset_leaves_nothing_behind() -> None:
    session = open_cpu(WEIGHTS)
    first = session.prefill(TOKENS)
    session.reset()
    session.prefill([7] * 50)
    session.reset()
    assert np.array_equal(session.prefill(TOKENS), first)


def test_logits_of_all_positions() -> None:
    session = open_cpu(WEIGHTS)
    logits = session.prefill_all(TOKENS)
    assert logits.shape == (len(TOKENS), SPEC.vocab)
    session.reset()
    assert np.abs(logits[-1] - session.prefill(TOKENS)).max() <= 1e-5


def test_taps_and_grafts_reach_prefill_and_decode() -> None:
    session, tap = open_cpu(WEIGHTS), LastNorm()
    session.prefill(TOKENS, tap)
    session.decode(1, tap)
    assert [values.shape for values in tap.taken] == [(len(TOKENS), SPEC.hidden), (1, SPEC.hidden)]
    session.reset()
    silent = session.prefill(TOKENS, graft=lambda stage, layer, x: x * 0 if stage is Stage.LM_HEAD else x)
    assert not silent.any()


def test_the_cache_grows_past_its_first_size() -> None:
    session = open_cpu(WEIGHTS)
    session.prefill([5] * 63)
    for _ in range(200):
        session.decode(5)
    stepped = session.decode(9)
    other = open_cpu(WEIGHTS)
    assert np.abs(other.prefill([5] * 263 + [9]) - stepped).max() <= 1e-4


def test_replaced_operators_are_used() -> None:
    planted = open_cpu(WEIGHTS, replace(REFERENCE, silu=torch.nn.functional.gelu))
    assert np.abs(planted.prefill(TOKENS) - open_cpu(WEIGHTS).prefill(TOKENS)).max() > 1e-3


def test_float64_is_the_shadow_of_float32() -> None:
    shadow, served = (open_cpu(WEIGHTS, dtype=dtype).prefill(TOKENS) for dtype in (torch.float64, torch.float32))
    assert 0 < np.abs(shadow - served).max() <= 1e-4


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ([], "expected at least one token"),
        ([0, 300], r"expected token ids below 300 \(the vocabulary\), got 300"),
        ([-1], "got -1"),
        ([1] * 513, r"expected at most 512 tokens \(the model's context\), got 513"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_before_any_work(tokens: list[int], sentence: str) -> None:
    session = open_cpu(WEIGHTS)
    with pytest.raises(ContextError, match=sentence):
        session.prefill(tokens)
    assert session.position == 0


def test_a_prompt_beyond_the_memory_is_refused_before_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux would kill the process; three score tensors of (4, 400, 400) float32 are 7.3 MiB."""
    session = open_cpu(WEIGHTS)
    monkeypatch.setattr(torch_session, "free_memory", lambda: 7 << 20)
    with pytest.raises(BackendError, match=r"a prompt of 400 tokens needs 0\.0 GiB .*a shorter prompt"):
        session.prefill([1] * 400)
    session.prefill([1] * 300)
    monkeypatch.setattr(torch_session, "free_memory", lambda: None)
    session.reset()
    session.prefill([1] * 400)


def test_a_full_context_refuses_one_more_token() -> None:
    session = open_cpu(WEIGHTS)
    session.prefill([1] * 512)
    with pytest.raises(ContextError, match="got 513"):
        session.decode(1)


def test_a_second_prefill_wants_a_reset() -> None:
    session = open_cpu(WEIGHTS)
    session.prefill(TOKENS)
    with pytest.raises(ContextError, match="expected an empty cache for a prefill, got 5 tokens"):
        session.prefill(TOKENS)


def test_a_closed_session_says_so() -> None:
    session = open_cpu(WEIGHTS)
    session.close()
    with pytest.raises(BackendError, match="cpu: the session is closed"):
        session.prefill(TOKENS)


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"),
            r"cpu: out of device memory: CUDA out of memory. Tried",
        ),
        (MemoryError("no"), "cpu: out of memory: no"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9\nx"), "cpu: out of memory: "),
    ],
)
def test_a_lack_of_memory_is_one_line(problem: Exception, sentence: str) -> None:
    def fail() -> None:
        raise problem

    with pytest.raises(BackendError, match=sentence) as caught:
        in_words("cpu", fail)
    assert "\n" not in str(caught.value)


def test_another_runtime_error_is_a_bug_and_passes() -> None:
    def fail() -> None:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match=r"^shapes$"):
        in_words("cpu", fail)


def test_facts_of_the_processor() -> None:
    facts = cpu_facts()
    assert (facts.backend, facts.device_class, facts.software) == ("cpu", "cpu", False)
    assert facts.name
    assert facts.memory_bytes > 1 << 28
    assert facts.details["threads"] == str(torch.get_num_threads())


def test_a_session_is_a_session() -> None:
    """Every member of the protocol is there, under mypy as well (the annotation above)."""
    members = {name for name in dir(Session) if not name.startswith("_")}
    assert members <= set(dir(TorchSession)) | {"spec", "facts"}


PROBE = """
import sys
from pv.backends.cpu import open_cpu
from pv.model.spec import named_shape
from pv.model.synthetic import Recipe, build
open_cpu(build(Recipe(named_shape("nano")))).prefill([1, 2])
import torch
gpu = {"wgpu", "triton", "transformers"}
print(torch.cuda.is_initialized(), sorted(name for name in sys.modules if name.split(".")[0] in gpu))
"""


def test_no_gpu_module_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"
