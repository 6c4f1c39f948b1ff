"""`pv retract`: a record that should not count, and why -> a record that says so."""

from __future__ import annotations

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here


@click.command()
@click.argument("record")
@click.option("--reason", required=True, help="Why the record should not count; it is kept with the retraction.")
@click.option("--settle/--no-settle", default=True, show_default=True, help="Write what the other records support.")
def retract(record: str, reason: str, settle: bool) -> int:
    """Invalidate RECORD (its digest, or 12 digits of it). Nothing is deleted: the retraction is a record too.

    The claim falls to what its other records support, and whatever names it as a precondition is INCONCLUSIVE.
    Retracting a retraction makes its target count again.
    """
    from pv.cli.settle import told
    from pv.contract.load import load_all
    from pv.document.files import NotWritten
    from pv.evidence import settle as settling
    from pv.evidence.retract import RetractError
    from pv.evidence.retract import retract as retract_record
    from pv.evidence.store import Store
    from pv.falsify.discovery import find_checks

    project = project_here()
    try:
        written = retract_record(Store(project.evidence, project.cache), record, reason)
    except RetractError as wrong:
        raise click.UsageError(str(wrong)) from None
    click.echo(f"{written.invalidates} no longer counts: {written.digest}", err=True)
    if not settle:
        return ExitCode.OK
    concerned = [one for one in load_all((), project) if one.contract and one.contract.claim_known_as(written.claim_id)]
    try:
        plans = settling.settle(project, concerned, find_checks(project), write=True)
    except NotWritten as refusal:
        click.echo(f"{refusal}; the retraction is recorded", err=True)
        return ExitCode.FAILURE
    for line in told(plans, write=True):
        click.echo(line)
    return ExitCode.FAILURE if any(plan.refused for plan in plans) else ExitCode.OK
