"""Ground of the trace checks: captures of the teacher by the public command, and their files read without pv."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pv.falsify import Completed
from pv.model.stages import Stage

from ._commands import call, must
from ._plant import patched

PROMPT = "What is 2+2?"


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
def grafted(graft: Callable[[Stage, int | None, Any], Any]) -> Iterator[None]:
    """Every session that `pv trace` opens inside runs with `graft` in its forward."""
    from pv.cli import trace
    from pv.trace.grafts import PlantedSession

    healthy = trace.open_session
    with patched(trace, "open_session", lambda *given: PlantedSession(healthy(*given), graft)):
        yield


def child(context: Any, *arguments: object) -> Completed:
    """`pv ARGUMENTS…` as a process of its own, as users start it."""
    done: Completed = context.run_pv(*map(str, arguments))
    return done
