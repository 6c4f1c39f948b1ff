"""The comparison in lockstep: an AND over every step, advanced by the CPU, and whatever is missing or late rejects."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pv.backends.protocol import BackendError, DeviceFacts
from pv.compare.thresholds import Kind
from pv.parity import gate
from pv.parity.gate import clamp_steps, kind_of, lockstep, probe, reference_logits

TOKENS = [3, 141, 59, 26, 53]


def judged(cpu, test, steps: int = 3, **options):
    return lockstep(reference_logits(cpu, TOKENS, steps), test, TOKENS, steps, **options)


def same(logits: np.ndarray, step: int) -> np.ndarray:
    return logits


def at_step(number: int, change):
    return lambda logits, step: change(logits) if step == number else logits


def test_equal_sessions_are_accepted(nano, cpu, altered):
    test = altered(nano, same)
    verdict = judged(cpu, test)
    assert verdict.accepted
    assert verdict.reason == ""
    assert [step.step for step in verdict.steps] == [0, 1, 2]
    assert verdict.worst_cosine == pytest.approx(1.0, abs=1e-12)
    assert test.position == 0  # emptied for whoever serves


def test_both_sides_are_advanced_by_the_cpus_choice(nano, cpu, altered):
    """A test whose own argmax differs (within a near tie) is fed the CPU's token all the same."""
    reference, flipped = flipped_by(0.005)
    expected = [reference(logits) for logits in reference_logits(cpu, TOKENS, 4)]
    test = altered(nano, lambda logits, _: flipped(logits))
    verdict = lockstep(iter(expected), test, TOKENS, 4)
    assert verdict.near_ties == 4
    assert test.fed == [TOKENS, *(int(logits.argmax()) for logits in expected[:3])]


def test_a_rejection_shows_cosine_both_tokens_and_the_step(nano, cpu, altered):
    verdict = judged(cpu, altered(nano, at_step(0, lambda logits: -logits)))
    assert not verdict.accepted
    assert verdict.reason.startswith("cosine vs CPU = -1.000000 (< 0.99), CPU argmax ")
    assert verdict.reason.endswith(", at step 0/3")
    flip = verdict.steps[0].flip
    assert f"CPU argmax {flip.reference}, GPU argmax {flip.test}" in verdict.reason


@pytest.mark.parametrize("number", [1, 2])
def test_a_later_step_rejects_and_is_named(nano, cpu, altered, number):
    verdict = judged(cpu, altered(nano, at_step(number, lambda logits: logits * 2)))
    assert f"at step {number}/3" in verdict.reason
    assert len(verdict.steps) == number + 1


def test_a_scale_that_the_cosine_cannot_see_is_rejected(nano, cpu, altered):
    verdict = judged(cpu, altered(nano, lambda logits, _: logits * np.float32(1.05)))
    assert verdict.reason.startswith("max_abs ")
    assert "cosine vs CPU = 1.000000" in verdict.reason
    assert verdict.steps[0].scale == pytest.approx(1.05, abs=1e-5)


def test_a_wrong_answer_under_an_equal_first_token_is_rejected(nano, cpu, altered):
    def keep_the_first(logits: np.ndarray, _: int) -> np.ndarray:
        changed = logits + np.random.default_rng(0).standard_normal(logits.size).astype(np.float32)
        changed[logits.argmax()] = changed.max() + 1
        return changed

    verdict = judged(cpu, altered(nano, keep_the_first))
    assert verdict.steps[0].flip.reference == verdict.steps[0].flip.test
    assert 0.5 < verdict.steps[0].cosine < 0.99
    assert not verdict.accepted


def flipped_by(margin: float):
    """Logits whose first two are `margin` apart on the CPU, and the other way round on the test, a hair apart."""

    def reference(logits: np.ndarray) -> np.ndarray:
        first, second = np.argsort(-logits)[:2]
        logits = logits.copy()
        logits[second] = logits[first] - np.float32(margin)
        return logits

    def test(logits: np.ndarray) -> np.ndarray:
        made = reference(logits)
        first, second = np.argsort(-made)[:2]
        made[second] = made[first] + np.float32(1e-4)
        return made

    return reference, test


def test_a_near_tie_is_tolerated_and_counted_and_a_wider_one_is_not(nano, cpu, altered):
    logits = cpu.prefill(TOKENS)
    cpu.reset()
    for margin, accepted in ((0.005, True), (0.009, True)):
        reference, test = flipped_by(margin)
        verdict = lockstep(iter([reference(logits)]), altered(nano, lambda logits, _, t=test: t(logits)), TOKENS, 1)
        assert verdict.accepted is accepted, verdict.reason
        assert verdict.near_ties == 1
    reference, test = flipped_by(0.5)
    step = gate.judge_step(0, reference(logits), test(logits), gate.THRESHOLDS[Kind.WGPU])
    assert step.reason  # here the difference itself is too large already
    loose = gate.THRESHOLDS[Kind.SHADOW]  # a row with a margin of 0 and no divergence
    reference, test = flipped_by(4e-4)
    step = gate.judge_step(0, reference(logits), test(logits), loose)
    assert step.reason.startswith("another first token (0.0004")
    assert "a near tie is at most 0)" in step.reason


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_logit_that_is_not_finite_rejects(nano, cpu, altered, bad):
    def spoil(logits: np.ndarray) -> np.ndarray:
        logits = logits.copy()
        logits[17] = bad
        return logits

    verdict = judged(cpu, altered(nano, at_step(1, spoil)))
    assert verdict.reason == f"1 logits are not finite, the first is {bad} of token 17, at step 1/3"
    assert np.isnan(verdict.worst_cosine)


def test_the_cpus_own_nan_rejects_too(nano, altered):
    broken = np.full(300, np.nan, np.float32)
    verdict = lockstep(iter([broken]), altered(nano, same), TOKENS, 1)
    assert verdict.reason == "the CPU's own logits are not finite, at step 0/1"


@pytest.mark.parametrize("shape", [(299,), (1, 300), (0,), ()])
def test_another_shape_rejects(nano, cpu, altered, shape):
    verdict = judged(cpu, altered(nano, lambda logits, _: np.zeros(shape, np.float32)))
    assert verdict.reason == f"expected logits of shape (300,), got {shape}, at step 0/3"


class BoomError(Exception):
    pass


@pytest.mark.parametrize(
    "raised", [BackendError("wgpu", "device lost"), BoomError("out of luck"), MemoryError("host"), SystemExit(3)]
)
@pytest.mark.parametrize("number", [0, 1])
def test_any_exception_rejects(nano, cpu, altered, raised, number):
    def fail(_: np.ndarray) -> np.ndarray:
        raise raised

    test = altered(nano, at_step(number, fail))
    verdict = judged(cpu, test)
    assert not verdict.accepted
    assert verdict.reason.startswith(f"error: {type(raised).__name__}: ")
    assert verdict.reason.endswith(f"at step {number}/3")


def test_no_answer_in_time_rejects_and_does_not_hang(nano, cpu, altered):
    release = threading.Event()

    def hang(logits: np.ndarray) -> np.ndarray:
        release.wait(30)
        return logits

    began = time.monotonic()
    verdict = judged(cpu, altered(nano, at_step(1, hang)), patience=0.2)
    assert time.monotonic() - began < 10
    release.set()
    assert verdict.reason == "no answer within 0.2 s, at step 1/3"


def test_a_reference_that_fails_rejects(nano, altered):
    def failing():
        yield np.ones(300, np.float32)
        raise MemoryError("no room")

    verdict = lockstep(iter([]), altered(nano, same), TOKENS, 3)
    assert "the comparison itself failed: StopIteration" in verdict.reason
    verdict = lockstep(failing(), altered(nano, lambda logits, _: np.ones(300, np.float32)), TOKENS, 3)
    assert verdict.reason == "the comparison itself failed: MemoryError: no room, at step 1/3"


def test_measurement_goes_on_behind_a_rejection_and_keeps_the_first_reason(nano, cpu, altered):
    verdict = judged(cpu, altered(nano, lambda logits, step: logits * 2), to_the_end=True)
    assert len(verdict.steps) == 3
    assert verdict.reason.endswith("at step 0/3")


def test_the_prompts_last_tokens_are_compared_and_the_start_token_only_without_a_prompt():
    assert probe(list(range(100))) == list(range(36, 100))
    assert probe([5, 6]) == [5, 6]
    assert probe([]) == [0]
    assert probe([], start_token=7) == [7]


@pytest.mark.parametrize("steps", [0, 17, -1])
def test_steps_outside_1_to_16_are_refused(steps):
    with pytest.raises(BackendError, match=f"expected 1 to 16 parity steps, got {steps}"):
        clamp_steps(steps)


def test_the_kind_follows_backend_and_type():
    assert kind_of(DeviceFacts("wgpu", "vulkan", "x")) is Kind.WGPU
    assert kind_of(DeviceFacts("cuda", "cuda", "x", details={"dtype": "torch.float32"})) is Kind.CUDA
    assert kind_of(DeviceFacts("cuda", "cuda", "x", details={"dtype": "torch.bfloat16"})) is Kind.HALF


def test_reference_logits_leave_the_session_empty(cpu):
    assert len(list(reference_logits(cpu, TOKENS, 3))) == 3
    assert cpu.position == 0


def test_the_gpu_works_while_the_reference_does(nano, cpu, altered):
    """Each step of the one waits for the same step of the other to have begun; one after the other, none would end."""
    meet = threading.Barrier(2, timeout=10)

    def met(logits: np.ndarray, _: int) -> np.ndarray:
        meet.wait()
        return logits

    def slow():
        for logits in reference_logits(cpu, TOKENS, 3):
            meet.wait()
            yield logits

    assert lockstep(slow(), altered(nano, met), TOKENS, 3).accepted


IDLE = """
import time
import numpy as np
from pv.compare.thresholds import THRESHOLDS, Kind
from pv.parity.gate import judge_step

ours = np.random.default_rng(0).normal(size=152064).astype(np.float32)
theirs = ours + np.float32(1e-6)
spent = []
for _ in range(6):
    judge_step(0, ours, theirs, THRESHOLDS[Kind.CUDA])
    began = time.process_time()
    time.sleep(0.05)
    spent.append(time.process_time() - began)
print(sorted(spent[1:])[2])
"""


def test_nobody_spins_once_a_step_is_judged():
    """A BLAS with threads keeps them spinning after a dot product, and the reference's next step is twice as slow."""
    threads = {"OPENBLAS_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", IDLE], capture_output=True, text=True, check=True, env={**os.environ, **threads}
    )
    assert float(done.stdout) < 1e-3  # of 50 ms asleep; with a BLAS 5 to 50
