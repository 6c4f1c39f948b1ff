"""`pv status`: where every claim stands, the tally, and what could ship."""

from __future__ import annotations

import json

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_of, tell_empty


@click.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--short", is_flag=True, help="Only the scopes and the tally.")
def status(paths: tuple[str, ...], output_format: str, short: bool) -> int:
    """Show where every claim stands: what the records on disk support, cell by cell.

    The tally is discharged + (functional and partial); blocked and unbound claims are listed apart. COMPLETE: all
    discharged. BOUND: every claim has an evidence block or a blocker. Reads records and source; runs nothing.

    \b
    Exit codes: 0, 2 a wrong call, 5 no contract.
    """
    from pv.contract.load import load_all
    from pv.evidence.ledger import Ledger
    from pv.evidence.standing import as_data, standing
    from pv.falsify.discovery import find_checks
    from pv.report import terminal

    project = project_of(paths)
    found = standing(project, load_all(paths, project), Ledger.open(project, find_checks(project)))
    for path in found.unsound:
        click.echo(f"{path}: not a sound contract, so its claims are not counted; see `pv validate {path}`", err=True)
    if output_format == "json":
        click.echo(json.dumps(as_data(found), indent=2, ensure_ascii=False))
    else:
        click.echo(terminal.short_status(found) if short else terminal.status(found))
    if not found.contracts:
        tell_empty(project, paths)
        return ExitCode.NOTHING
    return ExitCode.OK
