"""Work shared out over processes: the same results in the same order, errors as they are, nothing for few values."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from pv.report import spread
from pv.report.spread import FEW, shared_out

forks = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)


def test_results_stand_in_the_order_of_the_values():
    values = list(range(5 * FEW))
    assert shared_out(lambda value: value * value, values) == [value * value for value in values]


@forks
def test_many_values_are_worked_out_by_other_processes():
    """In a process of its own: the one that tests run in may have threads, beside which nothing is copied."""
    code = (
        "import os; from pv.report.spread import FEW, shared_out; "
        "print(os.getpid(), *set(shared_out(lambda _: os.getpid(), range(5 * FEW))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    own, *found = done.stdout.split()
    assert found
    assert own not in found


def test_few_values_are_not_worth_a_process():
    assert set(shared_out(lambda _: os.getpid(), range(FEW - 1))) == {os.getpid()}
    assert shared_out(str, []) == []


def test_beside_other_threads_nothing_is_copied():
    leave = threading.Event()
    other = threading.Thread(target=leave.wait)
    other.start()
    try:
        assert set(shared_out(lambda _: os.getpid(), range(5 * FEW))) == {os.getpid()}
    finally:
        leave.set()
        other.join()


def test_what_a_function_raises_comes_through_and_leaves_nothing_behind():
    def refuse(value: int) -> int:
        raise ValueError(f"no {value}")

    with pytest.raises(ValueError, match="no "):
        shared_out(refuse, range(5 * FEW))
    assert spread._WORK == []
