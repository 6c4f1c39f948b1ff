"""`pv matrix`: contract x device x subject."""

from __future__ import annotations

import shutil
import sys

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_of, tell_empty


@click.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--claims", is_flag=True, help="A line for each claim instead of each contract.")
@click.option("--output-format", type=click.Choice(["text", "json", "md"]), default="text", show_default=True)
def matrix(paths: tuple[str, ...], claims: bool, output_format: str) -> int:
    """Show where contracts stand on each device and subject: lowest rung, claims that hold it up, what is stale.

    A claim that ran in a cell which it does not require stands in brackets. Reads records and source; runs nothing.
    JSON has the contracts and their claims.

    \b
    Exit codes: 0, 2 a wrong call, 5 no claim.
    Examples:
      pv matrix
      pv matrix --claims contracts/apr-cpu-vs-gpu-output-parity-v1.yaml
    """
    from pv.contract.load import load_all
    from pv.diagnostics.words import put, put_json, safe
    from pv.evidence.ledger import Ledger
    from pv.evidence.standing import standing
    from pv.falsify.discovery import find_checks
    from pv.report import markdown
    from pv.report import matrix as of

    project = project_of(paths)
    found = standing(project, load_all(paths, project), Ledger.open(project, find_checks(project)))
    for path in found.unsound:
        click.echo(f"{path}: not a sound contract, so its claims are not shown; see `pv validate {path}`", err=True)
    lines = of.matrix(found, claims=claims)
    out = sys.stdout
    if output_format == "json":
        put_json(out, of.as_data(found))
    elif output_format == "md":
        put(out, markdown.matrix(lines) + "\n")
    elif lines.lines:
        put(out, safe(of.as_text(lines, shutil.get_terminal_size((120, 24)).columns)) + "\n")
    if not lines.lines:
        tell_empty(project, paths)
        return ExitCode.NOTHING
    return ExitCode.OK
