"""`pv evidence`: show a record, carry records to another clone and back, tell others of them, remove what is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pv.cli import signing
from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here

if TYPE_CHECKING:
    from pv.contract.project import Project
    from pv.evidence.store import Store


@click.group()
def evidence() -> None:
    """Show, export, import, sign and prune evidence records."""


for command in (signing.key, signing.sign, signing.verify):
    evidence.add_command(command)


def _digits(record: str) -> str:
    """The digits that name a record: of `…/20261120T135014Z-d557e8097492.json`, the last twelve; else as given."""
    return Path(record).stem.rpartition("-")[2] if record.endswith(".json") else record


@evidence.command()
@click.argument("record")
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log", is_flag=True, help="Print the log too, where it was kept.")
def show(record: str, output_format: str, log: bool) -> int:
    """Show RECORD (its digest, 12 digits of it, or its file): prediction, observation, figures, defects, reproducer.

    \b
    Example
      pv evidence show 80388bd90ac3
    """
    from pv.diagnostics.words import safe
    from pv.evidence.ledger import retractions
    from pv.evidence.statement import StatementError, to_bytes
    from pv.report import terminal

    store = _store(project_here())
    found = store.get(_digits(record))
    if found is None:
        raise click.UsageError(f"expected one record (its digest, 12 digits of it, or its file), found {record!r}")
    if output_format == "json":
        click.echo(to_bytes(found))
        return ExitCode.OK
    undone = retractions(store.summaries()).get(found.digest)
    try:
        text = store.log_text(found) if log else None
    except (StatementError, OSError) as wrong:
        click.echo(f"its log cannot be shown: {wrong}", err=True)
        return ExitCode.FINDINGS
    shown = terminal.record(found, retracted=undone.reason if undone else "", log=text)
    click.echo("\n".join(safe(line) for line in shown.splitlines()))
    return ExitCode.OK


@evidence.command()
@click.argument("bundle", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only records of these claims; repeatable.")
@click.option("--run", "runs", multiple=True, metavar="RUN", help="Only records of these runs; repeatable.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["bundle", "in-toto"]),
    default="bundle",
    show_default=True,
    help="A zip file of records, or one in-toto Test Result statement that tells of them.",
)
def export(bundle: Path, ids: tuple[str, ...], runs: tuple[str, ...], form: str) -> int:
    """Write records and their logs to BUNDLE, a zip file; the same records make the same bytes.

    What a record follows or retracts goes with it. With --format in-toto, write instead what the records support, for
    tools that read attestations: which claims passed, which failed, and the digests of the files that this is about.

    \b
    Examples
      pv evidence export from-the-gpu-machine.zip
      pv evidence export --format in-toto claims.intoto.json
    """
    from pv.evidence import bundle as bundles

    project = project_here()
    if form == "in-toto":
        if runs:
            raise click.UsageError("--run chooses records of a bundle; a statement tells of claims (--id)")
        return _export_statement(project, bundle, ids)
    store = _store(project)
    ids = tuple(_all_ids(project, ids))
    chosen = [one.digest for one in store.summaries() if not ids or one.claim_id in ids]
    if runs:
        of_runs = {record.digest for record in store.all() if record.run_id in runs}
        chosen = [digest for digest in chosen if digest in of_runs]
    if not chosen:
        click.echo("no record to export", err=True)
        return ExitCode.NOTHING
    try:
        written = bundles.export(store, chosen, bundle)
    except (bundles.BundleError, OSError) as wrong:
        click.echo(str(wrong), err=True)
        return ExitCode.FAILURE
    click.echo(f"{len(written)} record{'' if len(written) == 1 else 's'} in {bundle}", err=True)
    return ExitCode.OK


def _export_statement(project: Project, path: Path, ids: tuple[str, ...]) -> int:
    from pv.contract.load import load_all
    from pv.evidence import attestation
    from pv.evidence.ledger import Ledger, open_contracts
    from pv.falsify.discovery import find_checks

    contracts = open_contracts(load_all((), project))
    strangers = [name for name in ids if not any(one.claim_known_as(name) for one in contracts)]
    if strangers:
        raise click.UsageError(f"expected ids of claims, found {', '.join(strangers)}; `pv list` names them")
    if not any(one.claims for one in contracts):
        click.echo("no claim to tell of", err=True)
        return ExitCode.NOTHING
    ledger = Ledger.open(project, find_checks(project))
    content = attestation.as_statement(project, contracts, ledger, ids)
    ledger.sources.save()
    path.write_bytes(content)
    click.echo(f"{path}: {attestation.in_words(content)}", err=True)
    return ExitCode.OK


def _all_ids(project: Project, ids: tuple[str, ...]) -> list[str]:
    """The ids, and every one that a claim of theirs has or had."""
    from pv.contract.load import load_all
    from pv.evidence.ledger import open_contracts

    contracts = open_contracts(load_all((), project)) if ids else []
    claims = [claim for name in ids for one in contracts if (claim := one.claim_known_as(name))]
    return list(dict.fromkeys([*ids, *(name for claim in claims for name in claim.ids)]))


@evidence.command("import")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
def import_(bundles: tuple[Path, ...]) -> int:
    """Take the records of BUNDLES in. `pv settle` then writes what they support.

    Every record is checked before anything is written: its digest, its schema, its own figures. A bundle with one bad
    member is refused whole.
    """
    from pv.evidence import bundle as bundling

    store = _store(project_here())
    code = ExitCode.OK
    for path in bundles:
        try:
            taken = bundling.import_(store, path)
        except (bundling.BundleError, OSError) as wrong:
            click.echo(f"{path}: refused: {wrong}", err=True)
            code = ExitCode.FINDINGS
            continue
        for record in taken.new:
            click.echo(f"{record.digest}  {record.claim_id}  {record.cell}  {record.verdict.value}")
        click.echo(f"{path}: {len(taken.new)} new, {taken.known} known already", err=True)
    return code


@evidence.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def prune(dry_run: bool) -> int:
    """Remove records of claims that no contract has, logs that no record names, and leftovers of killed writes.

    Nothing that a claim rests on, or that a chain of records needs, is ever removed.
    """
    from pv.evidence.prune import prunable

    project = project_here()
    found = prunable(project, _store(project))
    _remove(found, dry_run=dry_run)
    words = "would be removed" if dry_run else "removed"
    click.echo(f"{len(found)} file{'' if len(found) == 1 else 's'} {words}", err=True)
    return ExitCode.OK


def _remove(paths: Sequence[Path], *, dry_run: bool) -> None:
    for path in paths:
        click.echo(path)
        if not dry_run:
            path.unlink(missing_ok=True)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()


def _store(project: Project) -> Store:
    from pv.evidence.store import Store

    return Store(project.evidence, project.cache)
