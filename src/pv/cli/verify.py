"""`pv verify`: every record and every pointer to one -> findings; runs no check, needs no network and no GPU."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pv import __version__
from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here

if TYPE_CHECKING:
    from pv.evidence.verify import Verified


@click.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option(
    "--output-format",
    type=click.Choice(["text", "json", "sarif", "github", "junit"]),
    default="text",
    show_default=True,
    help="Of the findings on standard output.",
)
@click.option("--quiet", "-q", is_flag=True, help="Leave out what is only for information.")
def verify(paths: tuple[str, ...], output_format: str, quiet: bool) -> int:
    """Re-judge every record on disk; follow every pointer of the contracts. No check is run.

    Each record's bytes against its name, its figures against their bounds, its planted defects against what they broke,
    its verdict against both, and the chain to the record before it. Tamper-evident against git's history, not more: who
    forges a record together with its name and all that points to it is told by signatures only.

    \b
    Exit codes: 0 all is well, 1 findings, 2 a wrong call, 5 there is no record and no pointer.
    """
    from pv.contract.load import load_all
    from pv.diagnostics.model import Severity
    from pv.diagnostics.render import Look, render
    from pv.diagnostics.report import CodeHelp
    from pv.evidence.verify import CODES
    from pv.evidence.verify import verify as verify_all

    project = project_here()
    loaded = load_all(paths, project)
    found = verify_all(project, loaded)
    shown = [d for d in found.diagnostics if not (quiet and d.severity is Severity.INFO)]
    render(
        shown,
        {one.display: one.document.text for one in loaded if one.document is not None},
        output_format,
        sys.stdout,
        summary={"text": _summary(found), "records": found.records, "pointers": found.pointers},
        files=[one.display for one in loaded],
        codes={code: CodeHelp(e.title, e.why, e.fix) for code, e in CODES.items()},
        version=__version__,
        look=Look(),
    )
    if not found.records and not found.pointers and not found.diagnostics:
        return ExitCode.NOTHING
    wrong = any(d.severity is Severity.ERROR for d in found.diagnostics)
    return ExitCode.FINDINGS if wrong else ExitCode.OK


def _summary(found: Verified) -> str:
    """`42 records re-judged, 37 pointers followed: 0 error(s), 1 warning(s)`."""
    errors = sum(d.severity.value == "error" for d in found.diagnostics)
    warnings = sum(d.severity.value == "warning" for d in found.diagnostics)
    records = f"{found.records} record{'' if found.records == 1 else 's'}"
    pointers = f"{found.pointers} pointer{'' if found.pointers == 1 else 's'}"
    return f"{records} re-judged, {pointers} followed: {errors} error(s), {warnings} warning(s)"
