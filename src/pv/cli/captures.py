"""Errors of captures and selections -> one line on stderr and an exit code; options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pv.cli.engine import DamagedModel, SystemRefused, engine_errors

if TYPE_CHECKING:
    from pv.trace.manifest import FileEntry


class DamagedCapture(DamagedModel):
    """A file of a capture is at fault."""


@contextmanager
def capture_errors() -> Iterator[None]:
    """Inside, a damaged capture exits 1, a wrong call 2, the system's refusal 3; the engine's errors as elsewhere."""
    with engine_errors():
        from pv.compare.metrics import ShapeError
        from pv.compare.thresholds import UnmatchedError
        from pv.trace.aprt import AprtError
        from pv.trace.manifest import CaptureError, DamagedError, WriteError
        from pv.trace.stages import SelectionError

        try:
            yield
        except (DamagedError, AprtError) as problem:
            raise DamagedCapture(str(problem)) from None
        except WriteError as problem:
            raise SystemRefused(str(problem)) from None
        except (CaptureError, SelectionError, ShapeError, UnmatchedError) as problem:
            raise click.UsageError(str(problem)) from None


def entry_filter(stages: str | None, layers: str | None, steps: str | None) -> Callable[[FileEntry], bool]:
    """Which files of a capture `--stages`, `--layer` and `--step` name; None names all. Raises SelectionError."""
    from pv.model.stages import WHOLE_MODEL
    from pv.trace.stages import parse_numbers, parse_stages

    kept_stages = None if stages is None else frozenset(parse_stages(stages).stages)
    kept_layers = None if layers is None else parse_numbers(layers, "layer")
    kept_steps = None if steps is None else parse_numbers(steps, "step", least=1)

    def wanted(entry: FileEntry) -> bool:
        return (
            (kept_stages is None or entry.stage in kept_stages)
            and (kept_layers is None or entry.stage in WHOLE_MODEL or entry.layer in kept_layers)
            and (kept_steps is None or entry.step in kept_steps)
        )

    return wanted


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[str], None]]:
    """A bar on stderr, on a terminal only; the value is called with the name of each thing done."""
    stream = sys.stderr
    if not stream.isatty():
        yield lambda _name: None
        return
    with click.progressbar(length=total, label=label, file=stream, item_show_func=str) as bar:

        def tick(name: str) -> None:
            bar.update(1, name)

        yield tick
