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
    """The project that the existing paths lie in (their common folder), else the one here. Raises click.UsageError."""
    existing = [os.path.abspath(path) for path in paths if os.path.lexists(path)]
    try:
        return project_here(Path(os.path.commonpath(existing)) if existing else None)
    except ValueError:  # on different drives
        return project_here()
