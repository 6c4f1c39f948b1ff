"""A function and many values -> its results in order, worked out on all cores where that is safe and worth it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Value = TypeVar("Value")
Result = TypeVar("Result")

FEW = 100  # values that are not worth a process
AT_ONCE = 16  # values that a process takes at a time

_WORK: list[tuple[Callable[[Any], Any], Sequence[Any]]] = []  # what forked processes find in their copy of our memory


def shared_out(function: Callable[[Value], Result], values: Sequence[Value]) -> list[Result]:
    """`[function(value) for value in values]`, by processes that are copies of this one.

    Nothing but results travels. In this process alone where there are few values, one core, other threads (a copy would
    have their locks and not them), or a system whose libraries do not stand being copied.
    """
    cores = min(len(os.sched_getaffinity(0)), len(values) // FEW + 1) if sys.platform == "linux" else 1
    if cores < 2 or threading.active_count() > 1:
        return [function(value) for value in values]
    _WORK.append((function, values))
    gc.freeze()  # or each copy would look through all of our values, and copy the memory that they stand in
    try:
        with multiprocessing.get_context("fork").Pool(cores) as pool:
            return pool.map(_one, range(len(values)), chunksize=AT_ONCE)
    finally:
        gc.unfreeze()
        _WORK.pop()


def _one(index: int) -> Any:
    function, values = _WORK[-1]
    return function(values[index])
