"""The folder we stand in, or the paths given -> their project; a setting that cannot be used is a usage error."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pv.contract.project import Project


def project_here(start: Path | None = None) -> Project:
    """The project around `start` (default: the current folder). Raises click.UsageError (exit 2)."""
    from pv.contract.project import ConfigError, find

    try:
        return find(start or Path.cwd())
    except ConfigError as wrong:
        raise click.UsageError(str(wrong)) from None


def project_of(paths: Sequence[str]) -> Project:
    """The project that the paths lie in (their common folder), else the one here.

    Raises click.UsageError, also for a path that is not there: an empty answer would look like a clean one.
    """
    if absent := [path for path in paths if not os.path.lexists(path)]:
        raise click.UsageError(
            f"expected contract files or folders of them, found no {' and no '.join(absent)}; "
            "check the path, or name none to take all contracts of the project"
        )
    try:
        return project_here(Path(os.path.commonpath([os.path.abspath(path) for path in paths])) if paths else None)
    except ValueError:  # on different drives
        return project_here()


def tell_empty(project: Project, paths: Sequence[str]) -> None:
    """Say on stderr why there is no contract, and what to do."""
    if paths:
        why = f"none of {', '.join(paths)} holds a sound contract; `pv validate {' '.join(paths)}` says why"
    else:
        globs = " and ".join(project.contracts)
        why = f"no sound contract matches {globs} below {project.root}; `pv new contract NAME` writes a first one"
    click.echo(f"no contract here: {why}", err=True)
