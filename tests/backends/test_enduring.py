"""A device that fails in the middle of an answer: the other session goes on from the same tokens."""

from __future__ import annotations

import numpy as np
import pytest

from pv.backends.cpu import open_cpu
from pv.backends.enduring import EnduringSession
from pv.backends.protocol import BackendError
from pv.model.errors import ContextError
from pv.model.generate import Sampling, generate

PROMPT = [3, 141, 59]


class Failing:
    """The CPU's session until its `last` pass; then the device is gone, and closing it is counted."""

    def __init__(self, weights, last: int) -> None:
        self._inner, self._left, self.closed = open_cpu(weights), last, 0
        self.spec, self.facts = self._inner.spec, self._inner.facts

    @property
    def position(self) -> int:
        return self._inner.position

    def _alive(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BackendError("wgpu", "the device is lost")

    def prefill(self, tokens, tap=None, graft=None):
        self._alive()
        return self._inner.prefill(tokens, tap, graft)

    def decode(self, token, tap=None, graft=None):
        self._alive()
        return self._inner.decode(token, tap, graft)

    def reset(self) -> None:
        self._inner.reset()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def failing_at(nano):
    """(session, its device, what was told of the failure) whose device lives for so many passes."""

    def make(last: int):
        told: list[tuple[str, int]] = []
        device = Failing(nano, last)
        session = EnduringSession(device, lambda: open_cpu(nano), lambda why, fed: told.append((why.reason, fed)))
        return session, device, told

    return make


@pytest.mark.parametrize("last", [0, 1, 2, 7])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, 0.9, seed=5)], ids=["greedy", "sampled"])
def test_the_answer_is_the_one_of_an_undisturbed_run(nano, failing_at, last, sampling):
    expected = [step.token for step in generate(open_cpu(nano), PROMPT, max_tokens=12, sampling=sampling)]
    session, device, told = failing_at(last)
    assert [step.token for step in generate(session, PROMPT, max_tokens=12, sampling=sampling)] == expected
    assert told == [("the device is lost", 0 if last == 0 else len(PROMPT) + last - 1)]
    assert device.closed == 1
    assert session.position == len(PROMPT) + 11


def test_a_device_that_lives_is_left_alone(nano, failing_at):
    session, device, told = failing_at(100)
    reference = open_cpu(nano)
    assert np.array_equal(session.prefill(PROMPT), reference.prefill(PROMPT))
    assert np.array_equal(session.decode(9), reference.decode(9))
    session.reset()
    assert session.position == 0
    assert not told
    session.close()
    assert device.closed == 1


def test_after_a_reset_only_the_new_tokens_are_fed_again(nano, failing_at):
    session, _, told = failing_at(3)
    session.prefill([7, 8, 9, 10])
    session.reset()
    session.prefill(PROMPT)
    session.decode(9)
    reference = open_cpu(nano)
    reference.prefill(PROMPT), reference.decode(9)
    assert np.abs(session.decode(11) - reference.decode(11)).max() <= 1e-5
    assert told == [("the device is lost", len(PROMPT) + 1)]


def test_a_tap_sees_the_failed_pass_alone(nano, failing_at, everything):
    session, _, _ = failing_at(1)
    session.prefill(PROMPT)
    ours, theirs, reference = everything(), everything(), open_cpu(nano)
    session.decode(9, ours)
    reference.prefill(PROMPT), reference.decode(9, theirs)
    assert list(ours.tensors) == list(theirs.tensors)
    assert all(np.array_equal(ours.tensors[key], value) for key, value in theirs.tensors.items())


def test_what_the_other_session_raises_is_raised(nano):
    again = BackendError("cpu", "out of memory")

    def refuse() -> Failing:
        raise again

    session = EnduringSession(Failing(nano, 0), refuse, lambda why, fed: None)
    with pytest.raises(BackendError, match="cpu: out of memory"):
        session.prefill(PROMPT)
    both = EnduringSession(Failing(nano, 0), lambda: Failing(nano, 1), lambda why, fed: None)
    both.prefill(PROMPT)
    with pytest.raises(BackendError, match="the device is lost"):
        both.decode(9)


def test_a_wrong_call_is_no_failure_of_a_device(nano, failing_at):
    session, _, told = failing_at(100)
    session.prefill(PROMPT)
    with pytest.raises(ContextError):
        session.prefill(PROMPT)
    assert not told
