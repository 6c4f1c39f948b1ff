"""`pv settle`: the records on disk -> the statuses that they support, written; runs no check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pv.ladder.writeback import WritePlan


@click.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--dry-run", is_flag=True, help="Write nothing; print what would be written as a patch.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if anything would be written.")
@click.option("--against", metavar="REF", default="HEAD", show_default=True, help="One version bump since there.")
@click.option("--adopt", is_flag=True, help="Overwrite status words that are not pv's own.")
def settle(paths: tuple[str, ...], dry_run: bool, check: bool, against: str, adopt: bool) -> int:
    """Write the statuses that the records on disk support. No check is run.

    For records that came from elsewhere (`pv evidence import`), after a retraction, and after a merge: conflicts in
    what pv writes are resolved first, whatever both sides wrote; those in what people write stay, and are named.

    \b
    Exit codes
      0 written, or nothing to do
      1 a conflict is left for people, or (--check) something would be written
      2 a wrong call
      3 a write was refused (the patch is printed)
      5 no contract
    \b
    Examples
      pv settle --dry-run
      pv settle contracts/apr-cli-trace-save-tensor-v1.yaml
    """
    from pv.contract.load import load_all
    from pv.document.files import NotWritten
    from pv.evidence import merge as merging
    from pv.evidence import settle as settling
    from pv.falsify.discovery import find_checks

    project = project_here()
    write = not (dry_run or check)
    try:
        merge = merging.at_hand(project, paths, write=write)
    except NotWritten as refusal:
        click.echo(str(refusal), err=True)
        return ExitCode.FAILURE
    for line in merge.told:
        click.echo(line, err=True)
    loaded = [merge.loaded.get(one.path, one) for one in load_all(paths, project)]
    for one in loaded:
        if one.contract is None and one.path not in merge.left:
            click.echo(f"{one.display}: not a sound contract, left alone; see `pv validate {one.display}`", err=True)
    if not any(one.contract for one in loaded):
        click.echo("no contract to settle", err=True)
        return ExitCode.FINDINGS if merge.left else ExitCode.NOTHING
    checks, merged = find_checks(project), merge.merged
    try:
        plans = settling.settle(project, loaded, checks, write=write, adopt=adopt, against=against, merged=merged)
    except NotWritten as refusal:
        click.echo(str(refusal), err=True)
        return ExitCode.FAILURE
    for line in told(plans, write=write):
        click.echo(line)
    click.echo(_summary(plans, write=write), err=True)
    code = _exit_code(plans, check=check)
    return ExitCode.FINDINGS if code is ExitCode.OK and (merge.left or (check and merge.loaded)) else code


def told(plans: Sequence[WritePlan], *, write: bool) -> Iterator[str]:
    """Each move, or each patch where nothing is written; then what was refused, with the lines to write by hand."""
    for plan in plans:
        if plan.changes and not write:
            yield plan.diff.rstrip("\n")
        elif plan.changes:
            version = f" {plan.version_before} -> {plan.version_after}"
            yield f"{plan.display}{version if plan.version_before != plan.version_after else ''}"
            yield from (f"  {claim}  {_move(before, after)}" for claim, before, after in plan.moves)
        yield from (f"{plan.display}: {note}" for note in plan.notes)
        for refusal in plan.refused:
            yield f"{plan.display}:{refusal.line}: {refusal.claim_id} was not written: {refusal.reason}"
            yield f"  write by hand, into the entry of {refusal.claim_id}:"
            yield refusal.patch.rstrip("\n")


def _move(before: str, after: str) -> str:
    return f"{after} (evidence renewed)" if before == after else f"{before or 'no status'} -> {after}"


def _summary(plans: Sequence[WritePlan], *, write: bool) -> str:
    changed = sum(plan.changes for plan in plans)
    refused = sum(len(plan.refused) for plan in plans)
    words = "written" if write else "would be written"
    tail = f"; {refused} refused" if refused else ""
    return f"{changed} of {len(plans)} contract{'' if len(plans) == 1 else 's'} {words}{tail}"


def _exit_code(plans: Sequence[WritePlan], *, check: bool) -> ExitCode:
    if any(plan.refused for plan in plans):
        return ExitCode.FAILURE
    return ExitCode.FINDINGS if check and any(plan.changes for plan in plans) else ExitCode.OK
