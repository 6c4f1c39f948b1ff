"""The folder we stand in -> its project; a setting that cannot be used is a usage error with its place."""

from __future__ import annotations

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
