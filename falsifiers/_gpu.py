"""Shared ground of the GPU checks: `pv run` as a user starts it, in a cell, with a planted defect where a control asks.

A defect of a backend reaches the child process through the hidden `--plant-defect`; a defect of the gate itself, which
no option can plant, through a `sitecustomize` that patches one module as soon as it is imported.
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
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pv.falsify import Completed

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
    """The backend that drives the cell's device."""
    return _BACKEND.get() or {"cuda": "cuda", "cpu": "cpu"}.get(context.cell.device.value, "wgpu")


def title_of(context: Any) -> str:
    """As the gate's lines name it."""
    return TITLES[backend_of(context)]


def environment(context: Any) -> dict[str, str]:
    """No verdict remembered from elsewhere, and the adapter that the cell is about."""
    adapter = {"vulkan": "hardware", "vulkan-sw": "software"}.get(context.cell.device.value, "")
    return {"PV_CACHE": str(context.scratch / "cache"), "PV_PARITY_STEPS": ""} | (
        {"PV_WGPU_ADAPTER": adapter} if adapter else {}
    )


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
    tokens = _EXTRA.set(extra), _DROPPED.set(tuple(without)), _BACKEND.set(backend)
    try:
        yield
    finally:
        _EXTRA.reset(tokens[0])
        _DROPPED.reset(tokens[1])
        _BACKEND.reset(tokens[2])


@contextlib.contextmanager
def child_patch(context: Any, module: str, code: str) -> Iterator[None]:
    """Inside, every Python child runs `code` right after `module` was imported, with its namespace as `m`."""
    with _sitecustomize(context, _AFTER_IMPORT.format(module=module, code=code)):
        yield


@contextlib.contextmanager
def child_start(context: Any, code: str) -> Iterator[None]:
    """Inside, every Python child runs `code` before anything else."""
    with _sitecustomize(context, code):
        yield


@contextlib.contextmanager
def _sitecustomize(context: Any, code: str) -> Iterator[None]:
    folder: Path = context.scratch / "planted"
    folder.mkdir(exist_ok=True)
    earlier = (folder / "sitecustomize.py").read_text("utf-8") if (folder / "sitecustomize.py").exists() else ""
    (folder / "sitecustomize.py").write_text(earlier + "\n" + code, "utf-8")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
    try:
        yield
    finally:
        (folder / "sitecustomize.py").write_text(earlier, "utf-8")
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


_AFTER_IMPORT = """
import importlib.abc, importlib.machinery, sys


class _Patcher(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != {module!r}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None:
            return None
        healthy = spec.loader.exec_module

        def patched(module):
            healthy(module)
            exec({code!r}, {{"m": module}})

        spec.loader.exec_module = patched
        return spec


sys.meta_path.insert(0, _Patcher())
"""
