"""`pv new`: a contract, or one more falsifier, that validates, runs and is tested from its first minute."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here

if TYPE_CHECKING:
    from pv.falsify.scaffold import NewFile


@click.group()
def new() -> None:
    """Write a contract, or one more falsifier, with a check that works and a test that passes.

    Both are a small true claim to put your own in the place of. No file is overwritten; a contract gets its entry as
    a few added lines, and nothing else of it moves.

    \b
    Examples
      pv new contract rope-norm
      pv new falsifier FALSIFY-ROPE-NORM-002 --contract rope-norm-v1
    """


@new.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Name the files, write nothing.")
def contract(name: str, dry_run: bool) -> int:
    """Write contract NAME (`-v1` is added) with one falsifier, its check and its test."""
    from pv.falsify.scaffold import new_contract

    return _make(lambda: new_contract(project_here(), name), dry_run)


@new.command()
@click.argument("claim_id", metavar="ID")
@click.option("--contract", "stem", required=True, metavar="STEM", help="The contract that makes the claim.")
@click.option("--dry-run", is_flag=True, help="Name the files, write nothing.")
def falsifier(claim_id: str, stem: str, dry_run: bool) -> int:
    """Add falsifier ID to a contract, and its check to the contract's check module."""
    from pv.falsify.scaffold import new_falsifier

    return _make(lambda: new_falsifier(project_here(), claim_id, stem), dry_run)


def _make(plan: Callable[[], tuple[NewFile, ...]], dry_run: bool) -> int:
    from pv.falsify.scaffold import ScaffoldError

    try:
        files = plan()
    except ScaffoldError as why:
        raise click.UsageError(str(why)) from None
    project = project_here()
    for file in files:
        if not dry_run:
            _write(file)
        did = "written" if file.before is None else "extended"
        click.echo(f"{'would be ' if dry_run else ''}{did}: {project.display(file.path)}")
    click.echo("next: `pv validate`, `pv falsify --all`, `python -m pytest`", err=True)
    return ExitCode.OK


def _write(file: NewFile) -> None:
    from pv.document.files import NotWritten, compare_and_swap

    try:
        if file.before is not None:
            compare_and_swap(file.path, hashlib.sha256(file.before).hexdigest(), file.content)
            return
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with file.path.open("xb") as made:  # never over a file that appeared meanwhile
            made.write(file.content)
    except (NotWritten, OSError) as error:
        raise _Refused(str(error)) from None


class _Refused(click.ClickException):
    """A file could not be written; what was written before it stands."""

    exit_code = ExitCode.FAILURE
