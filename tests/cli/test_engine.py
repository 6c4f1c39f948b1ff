"""Errors of the engine are a sentence and a code; what is not installed is told with the extra that brings it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import click
import pytest

from pv.backends.protocol import BackendError
from pv.backends.registry import ChoiceError
from pv.cli.engine import _EXTRAS, engine_errors
from pv.cli.exit_codes import ExitCode
from pv.model.errors import ContextError, WeightsError

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (WeightsError("truncated"), ExitCode.FINDINGS),
        (ContextError("too long"), ExitCode.USAGE),
        (ChoiceError("vulkan", "unknown"), ExitCode.USAGE),
        (BackendError("cuda", "no card"), ExitCode.BLOCKED),
        (PermissionError(13, "Permission denied", "x"), ExitCode.FAILURE),
        (ModuleNotFoundError("no torch", name="torch"), ExitCode.BLOCKED),
    ],
)
def test_every_kind_of_error_has_its_code(problem: Exception, code: ExitCode) -> None:
    with pytest.raises(click.ClickException) as told, engine_errors():
        raise problem
    assert told.value.exit_code == code


def test_a_closed_pipe_is_nobody_s_error() -> None:
    with pytest.raises(BrokenPipeError), engine_errors():
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("name", "extra"),
    [("torch", "engine"), ("matplotlib.pyplot", "report"), ("xllamacpp.xllamacpp", "peers"), ("gguf", "gguf")],
)
def test_what_is_not_installed_is_told_with_its_extra(name: str, extra: str) -> None:
    with pytest.raises(click.ClickException) as told, engine_errors():
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = name.partition(".")[0]
    assert told.value.message == (
        f"this command needs the package {package}; pip install 'provable-contracts-pv[{extra}]'"
    )


@pytest.mark.parametrize("package", [*_EXTRAS, "torch", "safetensors", "tokenizers"])
def test_the_extra_does_bring_the_package(package: str) -> None:
    brought = PROJECT["optional-dependencies"][_EXTRAS.get(package, "engine")]
    assert any(requirement.startswith(f"{package}>=") for requirement in brought)
