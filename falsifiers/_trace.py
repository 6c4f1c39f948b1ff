"""Ground of the trace checks: the public commands in this process, captures read without pv, defects planted in both.

Commands are called through their click entry in this process, so that a planted defect reaches the very code that a
user's command runs. Where a command is started as a process of its own, a defect reaches it through `sitecustomize`.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import click
import numpy as np

import pv
from pv.falsify import Completed
from pv.model.stages import Stage

PROMPT = "What is 2+2?"
SOURCE = str(Path(pv.__file__).parent.parent)
_variables: dict[str, str] = {}  # of the processes that a check starts under a planted defect


class Called(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


def call(*arguments: object) -> Called:
    """`pv ARGUMENTS…` in this process; a refusal is a code and a sentence, a crash is a crash of the check."""
    from pv.cli.main import pv as command

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command.main([str(a) for a in arguments], standalone_mode=False, prog_name="pv")
        except click.ClickException as refused:
            return Called(refused.exit_code, out.getvalue(), err.getvalue() + refused.format_message())
    return Called(int(code or 0), out.getvalue(), err.getvalue())


def must(called: Called) -> Called:
    """A step that is not under test has to work."""
    if called.code:
        raise RuntimeError(f"exit {called.code}: {called.err}{called.out}")
    return called


def teacher(context: Any) -> Path:
    """The trained teacher; its files are bound to the record."""
    path: Path = context.subject_path("tiny-teacher")
    return path


def captured(context: Any, name: str, *options: object, prompt: str = PROMPT) -> Path:
    """A capture of the teacher by `pv trace`, in the scratch folder."""
    folder: Path = context.scratch / name
    must(call("trace", teacher(context), "--prompt", prompt, "--output", folder, *options))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every tensor file of a capture."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.bin"))}


def header_of(content: bytes) -> tuple[bytes, int, int]:
    """Magic, layer and count, read without pv."""
    magic, layer, count = struct.unpack("<4sII", content[:12])
    return magic, layer, count


def values_of(content: bytes) -> np.ndarray:
    """The values of a file, read without pv."""
    return np.frombuffer(content, "<f4", offset=12)


def stage_of(path: str) -> str:
    """The stage in a file's path."""
    return path.rpartition("/")[2].removesuffix(".bin")


@contextlib.contextmanager
def patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """`owner.name` is `replacement` inside the block."""
    healthy = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, healthy)


@contextlib.contextmanager
def grafted(graft: Callable[[Stage, int | None, Any], Any]) -> Iterator[None]:
    """Every session that `pv trace` opens inside runs with `graft` in its forward."""
    from pv.cli import trace
    from pv.trace.grafts import PlantedSession

    healthy = trace.open_session
    with patched(trace, "open_session", lambda *given: PlantedSession(healthy(*given), graft)):
        yield


def in_children(code: str) -> Callable[[Any], contextlib.AbstractContextManager[None]]:
    """A control's `plant`: `code` runs at the start of every `pv` that `child` starts under it."""

    @contextlib.contextmanager
    def plant(context: Any) -> Iterator[None]:
        folder = context.scratch / "planted"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(dedent(code), "utf-8")
        _variables["PYTHONPATH"] = os.pathsep.join((str(folder), SOURCE))
        try:
            yield
        finally:
            _variables.clear()

    return plant


def child(context: Any, *arguments: object) -> Completed:
    """`pv ARGUMENTS…` as a process of its own, as users start it, under the planted defect if there is one."""
    done: Completed = context.run_pv(*map(str, arguments), env=_variables)
    return done
