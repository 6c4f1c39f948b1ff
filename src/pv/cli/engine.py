"""Errors of the engine -> one line on stderr and an exit code, for every command that touches a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from pv.backends.protocol import BackendError
from pv.backends.registry import ChoiceError
from pv.cli.exit_codes import ExitCode
from pv.model.errors import ModelError

_EXTRAS = {
    "gguf": "gguf",
    "matplotlib": "report",
    "transformers": "oracle",
    "wgpu": "gpu",
    "xllamacpp": "peers",
}  # others come with the engine


class DamagedModel(click.ClickException):
    """The model itself is at fault."""

    exit_code = ExitCode.FINDINGS


class BackendBlocked(click.ClickException):
    """What was asked for cannot run here."""

    exit_code = ExitCode.BLOCKED


class SystemRefused(click.ClickException):
    """The disk is full, a directory is read-only."""

    exit_code = ExitCode.FAILURE


@contextmanager
def engine_errors() -> Iterator[None]:
    """Inside, a damaged model exits 1, a wrong call 2, a backend that cannot serve 4, the system's refusal 3."""
    try:
        yield
    except ModelError as problem:
        raise DamagedModel(str(problem)) if problem.damaged else click.UsageError(str(problem)) from None
    except ChoiceError as problem:
        raise click.UsageError(str(problem)) from None
    except BackendError as problem:
        raise BackendBlocked(str(problem)) from None
    except BrokenPipeError:
        raise
    except OSError as problem:
        place = f" ({problem.filename})" if problem.filename else ""
        raise SystemRefused(f"{problem.strerror or problem}{place}") from None
    except ImportError as problem:
        package = (problem.name or str(problem)).partition(".")[0]
        extra = _EXTRAS.get(package, "engine")
        needs = f"this command needs the package {package}"
        raise BackendBlocked(f"{needs}; pip install 'provable-contracts-pv[{extra}]'") from None
