"""The deep check: fixed prompts that fit, stages judged on their own inputs, and reasons that name what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pv.backends.cpu import open_cpu
from pv.backends.cuda import CUDA_RECIPE, open_cuda
from pv.model import operators
from pv.model.operators import REFERENCE
from pv.model.spec import named_shape
from pv.model.stages import Stage
from pv.parity.deep import deep, local_errors, prompts, record, summary
from pv.parity.gate import THRESHOLDS, Kind


@pytest.fixture(scope="module")
def reference(nano):
    return record(open_cpu(nano), steps=4)


def test_prompts_cross_the_edges_and_fit_the_context():
    fixed = prompts(named_shape("nano"))
    assert [len(tokens) for tokens in fixed.values()] == [1, 17, 65, 257, 33]
    assert len(set(fixed["one token 33 times"])) == 1
    assert all(0 <= token < 300 for tokens in fixed.values() for token in tokens)
    short = prompts(replace(named_shape("nano"), context=80))
    assert list(short) == ["1 tokens", "17 tokens", "one token 33 times"]


def test_prompts_are_the_same_everywhere():
    """Frozen: a record of one machine must be about the prompts of another."""
    assert prompts(named_shape("nano"))["17 tokens"][:5] == (299, 189, 179, 179, 119)


def test_a_stage_that_is_wrong_is_named_and_its_followers_are_not(nano, reference):
    def wrong(x):
        return torch_silu(x) * 1.001

    torch_silu = REFERENCE.silu
    planted = replace(CUDA_RECIPE, operators=replace(REFERENCE, silu=wrong))
    found = local_errors(open_cuda(nano, device="cpu", recipe=planted), reference, THRESHOLDS[Kind.CUDA])
    broken = {error.stage for error in found if error.broken}
    assert broken == {Stage.FFN_SILU}
    first = next(error for error in found if error.broken)
    assert str(first).startswith(
        "faint: ffn_silu of layer 0: rel_l2 0.001, expected <= 1e-05 (its inputs were the CPU's"
    )


def test_every_stage_is_judged_in_every_way(nano, reference):
    found = local_errors(open_cuda(nano, device="cpu"), reference, THRESHOLDS[Kind.CUDA])
    assert {(e.where, e.stage) for e in found} == {
        (where, stage) for where in ("faint", "prefill", "decode") for stage in Stage
    } - {("faint", Stage.EMBEDDING)}
    assert not any(error.broken for error in found)


def test_an_epsilon_shows_only_under_a_faint_input(nano, reference):
    def norm(x, gain, eps):
        return operators.rms_norm(x, gain, eps * 10)

    planted = replace(CUDA_RECIPE, operators=replace(REFERENCE, rms_norm=norm))
    found = local_errors(open_cuda(nano, device="cpu", recipe=planted), reference, THRESHOLDS[Kind.CUDA])
    assert {error.where for error in found if error.broken} == {"faint"}


def test_reasons_of_all_kinds_are_collected(nano, reference):
    planted = replace(CUDA_RECIPE, logits=lambda logits, tokens, start: logits * np.float32(2))
    verdict = deep(open_cuda(nano, device="cpu", recipe=planted), reference)
    assert not verdict.accepted
    assert len(verdict.reasons) == len(reference.cases)
    assert all(reason.startswith("prompt of ") for reason in verdict.reasons)
    lines = summary(verdict)
    assert sum("REJECTED" in line for line in lines) == len(reference.cases)
    assert "sentinels: none here" in lines


def test_it_stops_at_the_first_reason_when_asked(nano, reference):
    planted = replace(CUDA_RECIPE, logits=lambda logits, tokens, start: -logits)
    verdict = deep(open_cuda(nano, device="cpu", recipe=planted), reference, to_the_end=False)
    assert len(verdict.cases) == len(verdict.reasons) == 1


def test_a_session_that_raises_is_a_reason_and_no_crash(nano, reference):
    class Raises:
        def __init__(self) -> None:
            self.facts = open_cuda(nano, device="cpu").facts

        def prefill(self, *a, **k):
            raise KeyError("gone")

        decode = prefill

        def reset(self) -> None:
            pass

        def close(self) -> None:
            pass

    verdict = deep(Raises(), reference)
    assert len(verdict.reasons) == len(reference.cases) + 1
    assert verdict.reasons[-1].startswith("error in the check of single stages: KeyError: 'gone'")


def test_the_reference_session_is_left_empty(nano):
    cpu = open_cpu(nano)
    record(cpu, steps=2)
    assert cpu.position == 0
    assert deep(cpu, record(cpu, steps=2), kind=Kind.CUDA).accepted
