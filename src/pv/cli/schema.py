"""`pv schema`: the JSON Schemas of contracts, evidence records and settings, printed or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from pv.cli.exit_codes import ExitCode


def _contract() -> Mapping[str, Any]:
    from pv.contract.schema_export import schemas

    return schemas()["contract"]


def _config() -> Mapping[str, Any]:
    from pv.contract.schema_export import schemas

    return schemas()["config"]


def _evidence() -> Mapping[str, Any]:
    from pv.evidence.schema import json_schema

    return json_schema()


SCHEMAS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "contract": _contract,
    "evidence": _evidence,
    "config": _config,
}


@click.command()
@click.argument("name", required=False, type=click.Choice(list(SCHEMAS)))
@click.option(
    "--write",
    "folder",
    is_flag=False,
    flag_value="schemas",
    type=click.Path(path_type=Path),
    metavar="[DIR]",
    help="Write all of them (or NAME) as <name>.schema.json; into schemas/ unless told otherwise.",
)
@click.option("--check", is_flag=True, help="Exit 1 if what is written differs from what would be written.")
@click.pass_context
def schema(ctx: click.Context, name: str | None, folder: Path | None, check: bool) -> None:  # fmt: skip
    """Print or write the JSON Schemas, draft-07, for editors and other programs.

    \b
    Examples:
      pv schema contract > contract.schema.json
      pv schema --write
      pv schema --write --check
    """
    names = [name] if name else list(SCHEMAS)
    if folder is None and not check:
        if name is None:
            raise click.UsageError(f"name one of {', '.join(SCHEMAS)}, or give --write")
        click.echo(text_of(name), nl=False)
        return
    folder = folder or Path("schemas")
    stale = [each for each in names if _read(folder / file_name(each)) != text_of(each)]
    if check:
        for each in stale:
            click.echo(f"{folder / file_name(each)} is not current: run `pv schema --write`")
        ctx.exit(int(ExitCode.FINDINGS if stale else ExitCode.OK))
    for each in stale:
        _write(folder / file_name(each), text_of(each))
    click.echo(f"{len(stale)} of {len(names)} schemas written to {folder}", err=True)


def file_name(name: str) -> str:
    """The file that holds the schema of that name."""
    return f"{name}.schema.json"


def text_of(name: str) -> str:
    """The schema as it is written to disk."""
    from pv.contract.schema_export import as_text

    return as_text(SCHEMAS[name]())


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")
    except OSError as error:
        raise click.FileError(str(path), error.strerror or str(error)) from error
