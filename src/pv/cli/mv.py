"""`pv mv`: a claim or a contract gets another name, and everything that it earned comes along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pv.contract.project import Project
    from pv.evidence.rename import Move


@click.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--in", "within", metavar="CONTRACT", type=click.Path(path_type=Path), help="Of several, this file's.")
@click.option("--dry-run", is_flag=True, help="Write nothing; print what would be written as a patch.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if the rename can be made.")
def mv(old: str, new: str, within: Path | None, dry_run: bool, check: bool) -> int:
    """Rename the claim or the contract file OLD to NEW. Its evidence, its status and its check come along.

    Edited are the contract (which says in `formerly` what the name was), whatever names it in other contracts, the
    registration of its check or the check's module, and the scopes of [tool.pv]. Records stay as they are: they say
    what was run. All files are written, or none; a rename that was killed is finished by the next `pv mv`.

    \b
    Exit codes
      0 renamed, or nothing to do
      1 (--check) it can be renamed
      2 a wrong call: no such name, or one that is taken
      3 a file could not be written, or not safely edited; nothing was
    \b
    Examples
      pv mv FALSIFY-SORT-001 FALSIFY-SORT-STABLE-001
      pv mv contracts/sort-v1.yaml contracts/stable-sort-v1.yaml
    """
    from pv.document.files import NotWritten
    from pv.evidence import carry_out
    from pv.evidence.rename import NotEditable, RenameError

    project = project_here()
    what = f"pv mv {old} {new}"
    try:
        if not (dry_run or check):
            done = carry_out.finish(project.root)
            if done:
                click.echo(f"finished what was interrupted: {done}", err=True)
            if done == what:
                return ExitCode.OK
        move = _plan(project, old, new, within)
        if dry_run:
            click.echo(move.diff, nl=False)
        elif not check:
            steps = [carry_out.Step(c.path, _sha256(c.before), c.after) for c in move.changes]
            carry_out.carry_out(project.root, what, steps)
    except RenameError as why:
        if not isinstance(why, NotEditable):
            raise click.UsageError(str(why)) from None
        click.echo(str(why), err=True)
        return ExitCode.FAILURE
    except NotWritten as refusal:
        click.echo(str(refusal), err=True)
        return ExitCode.FAILURE
    for line in told(move, written=not (dry_run or check)):
        click.echo(line, err=dry_run)
    return ExitCode.FINDINGS if check and move.changes else ExitCode.OK


def told(move: Move, *, written: bool) -> Iterator[str]:
    """Each file and what is changed in it; then where the old name stands in words that pv does not edit."""
    for change in move.changes:
        if change.told:
            yield f"{change.display}: {', '.join(change.told)}"
    yield f"{move.old} {'is' if written else 'would be'} {move.new} now; its records stay and count for it"
    if move.mentions:
        yield f"still mentioned, for you to edit: {', '.join(move.mentions)}"


def _plan(project: Project, old: str, new: str, within: Path | None) -> Move:
    """A path or anything that ends like a contract's file is a file; everything else is an id."""
    from pv.contract.load import load_all
    from pv.evidence import rename
    from pv.falsify.discovery import find_checks

    loaded, checks = load_all((), project), find_checks(project)
    if old.endswith((".yaml", ".yml")) or Path(old).is_file():
        return rename.rename_contract(project, loaded, checks, Path(old), Path(new))
    return rename.rename_claim(project, loaded, checks, old, new, within)


def _sha256(content: bytes | None) -> str:
    import hashlib

    return "" if content is None else hashlib.sha256(content).hexdigest()
