"""Shared ground of the GPU checks: `pv run` as a user starts it, in a cell, with a planted defect where a control asks.

A defect of a backend reaches the child process through the hidden `--plant-defect`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from pv.falsify import Completed

from ._ground import adapter_variables
from ._ground import backend_of as backend_of_cell
from ._plant import holding

TAG = "[apr-cpu-vs-gpu-output-parity-v1]"
CONTRACT = "contracts/apr-cpu-vs-gpu-output-parity-v1.yaml"
PROMPT = "What is 2+2?"
PROMPTS = (PROMPT, "What is 31+46?", "The sum of two numbers")
TITLES = {"cuda": "CUDA", "wgpu": "wgpu"}
FIGURES = re.compile(
    r"cosine vs CPU = (?P<cosine>-?\d\.\d+|nan).*CPU argmax (?P<cpu>-?\d+), GPU argmax (?P<gpu>-?\d+), "
    r"at step (?P<step>\d+)/(?P<steps>\d+)"
)

Done = TypeVar("Done")

_EXTRA: ContextVar[tuple[str, ...]] = ContextVar("extra arguments of the command", default=())
_DROPPED: ContextVar[tuple[str, ...]] = ContextVar("arguments that the control takes away", default=())
_BACKEND: ContextVar[str] = ContextVar("backend that stands in for the cell's own", default="")


def backend_of(context: Any) -> str:
    """The backend that drives the cell's device, or the one that a control has put in its place."""
    return _BACKEND.get() or backend_of_cell(context)


def title_of(context: Any) -> str:
    """As the gate's lines name it."""
    return TITLES[backend_of(context)]


def environment(context: Any) -> dict[str, str]:
    """No verdict remembered from elsewhere, and the adapter that the cell is about."""
    nothing_kept = {"PV_CACHE": str(context.scratch / "cache"), "PV_PARITY_STEPS": ""}
    return nothing_kept | adapter_variables(context)


def run(
    context: Any, *arguments: str, prompt: str = PROMPT, variables: Mapping[str, str] = MappingProxyType({})
) -> Completed:
    """`pv run TEACHER --prompt …` in the cell, with what a planted control adds or takes away."""
    wanted = [a for a in arguments if a not in _DROPPED.get()] + list(_EXTRA.get())
    model = str(context.subject_path("tiny-teacher"))
    done: Completed = context.run_pv(
        "run", model, "--prompt", prompt, *wanted, env={**environment(context), **variables}, timeout=240
    )
    return done


def side_by_side(*runs: Callable[[], Done]) -> list[Done]:
    """Independent runs at the same time, as far as there are processors: starting is most of what each costs."""
    with ThreadPoolExecutor(max(2, (os.cpu_count() or 2) // 3)) as pool:
        return [waiting.result() for waiting in [pool.submit(copy_context().run, one) for one in runs]]


def cpu_answer(context: Any, prompt: str = PROMPT, tokens: int = 12) -> str:
    """What the CPU answers, asked once for a worker."""

    def ask() -> str:
        model = str(context.subject_path("tiny-teacher"))
        done = context.run_pv("run", model, "--prompt", prompt, "--no-gpu", "--max-tokens", str(tokens), timeout=240)
        if done.returncode:
            raise RuntimeError(f"expected the CPU to answer, got exit {done.returncode}: {done.stderr[-300:]}")
        return str(done.stdout)

    return str(context.subject(f"cpu answer to {prompt} in {tokens}", ask))


def tagged(done: Completed) -> list[str]:
    """The gate's lines on stderr, in order, without their tag."""
    return [line.removeprefix(TAG).strip() for line in done.stderr.splitlines() if line.startswith(TAG)]


def in_order(lines: Sequence[str], *patterns: str) -> bool:
    """Whether there is a line for each pattern, in this order."""
    rest = iter(lines)
    return all(any(re.match(pattern, line) for line in rest) for pattern in patterns)


@dataclass(frozen=True)
class Rejection:
    """A rejection with all its numbers, parsed from its one line."""

    line: str
    figures: dict[str, str] = field(default_factory=dict)


def rejections(done: Completed, title: str) -> list[Rejection]:
    """The rejections of one backend."""
    lines = [line for line in tagged(done) if line.startswith(f"{title} path rejected")]
    return [Rejection(line, found.groupdict() if (found := FIGURES.search(line)) else {}) for line in lines]


def receipt_of(context: Any, *arguments: str) -> tuple[Completed, dict[str, Any]]:
    """A run and its receipt."""
    path = context.scratch / "receipt.json"
    path.unlink(missing_ok=True)
    done = run(context, *arguments, "--receipt", str(path))
    return done, json.loads(path.read_text("utf-8")) if path.exists() else {"events": []}


# -- planting -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def arguments(*extra: str, without: Sequence[str] = (), backend: str = "") -> Iterator[None]:
    """Inside, `run` adds `extra`, leaves out `without`, and drives `backend` instead of the cell's own."""
    with holding(_EXTRA, extra), holding(_DROPPED, tuple(without)), holding(_BACKEND, backend):
        yield
