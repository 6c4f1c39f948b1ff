"""`pv init`: settings in pyproject.toml, the schema in the project, modelines at the head of its contracts.

`--adopt` takes in a tree of contracts that others wrote: settings that find them, a report of them, and no edit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from pv.cli.exit_codes import ExitCode
from pv.diagnostics.words import safe

SCHEMA_FILE = Path("schemas", "contract.schema.json")
# Editors of the yaml-language-server family read the first line, those of JetBrains the second.
MODELINES = ("# yaml-language-server: $schema={schema}", "# $schema: {schema}")
SETTINGS_BLOCK = """\
[tool.pv]
profile = "{profile}"
contracts = [{contracts}]
falsifiers = "falsifiers"
evidence = "evidence"
"""


class Step(NamedTuple):
    """One file: what is to be done with it, and the content that would be written (None: nothing is)."""

    path: Path
    words: str
    content: bytes | None


@click.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--profile", type=click.Choice(["strict", "compat"]), default="compat", show_default=True)
@click.option("--adopt", is_flag=True, help="Take in the contracts below FOLDER, wherever they are; change none.")
@click.option("--force", is_flag=True, help="Replace a schema file that differs.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, write nothing.")
@click.pass_context
def init(ctx: click.Context, folder: Path, profile: str, adopt: bool, force: bool, dry_run: bool) -> None:
    """Prepare FOLDER: a [tool.pv] table, the schema for editors, and modelines in the contracts that are there.

    Nothing is replaced: a table, a schema or a modeline that is there stays as it is, and is named. With --adopt no
    contract is touched; what was found in them is told: kinds, status words, ids used twice, files that are not sound.

    \b
    Examples:
      pv init
      pv init --adopt
      pv init --profile compat --dry-run
    """
    refused = False
    todo = adopting(folder, profile, force=force) if adopt else steps(folder, profile, force=force)
    for step in todo:
        refused = refused or step.words.startswith("left")
        click.echo(f"{step.words}: {step.path}")
        if step.content is not None and not dry_run:
            _write(step.path, step.content)
    if refused:
        click.echo("something was left as it is; --force replaces a schema that differs", err=True)
    ctx.exit(int(ExitCode.OK))


def adopting(folder: Path, profile: str, *, force: bool) -> Iterator[Step]:
    """Settings that find the contracts below `folder`, and the schema; tells what they hold. Raises UsageError."""
    from pv.contract.project import ConfigError
    from pv.contract.survey import report, survey

    found = survey(folder)
    if not found.contracts:
        raise click.UsageError(f"expected contracts below {folder}, found none; `pv init` prepares an empty project")
    for line in report(found):
        click.echo(safe(line))
    try:
        yield _settings(folder / "pyproject.toml", profile, found.globs)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    yield _schema(folder / SCHEMA_FILE, force)


def steps(folder: Path, profile: str, *, force: bool) -> Iterator[Step]:
    """What there is to do, in order. Raises click.UsageError where the settings that are there cannot be used."""
    from pv.contract.project import ConfigError, find

    try:
        yield _settings(folder / "pyproject.toml", profile)
        project = find(folder)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    yield _schema(folder / SCHEMA_FILE, force)
    globs = project.contracts if project.configured and project.root == folder.resolve() else ("contracts/*.yaml",)
    for path in sorted({path for pattern in globs for path in folder.glob(pattern)}):
        yield _modelined(path, folder)


def _settings(path: Path, profile: str, contracts: Sequence[str] = ("contracts/*.yaml",)) -> Step:
    import tomllib

    from pv.contract.project import ConfigError

    globs = [json.dumps(pattern, ensure_ascii=False) for pattern in contracts]  # JSON's texts are TOML's
    listed = globs[0] if len(globs) == 1 else "\n  " + ",\n  ".join(globs) + ",\n"
    block = SETTINGS_BLOCK.format(profile=profile, contracts=listed).encode()
    if not path.exists():
        return Step(path, "written", block)
    content = path.read_bytes()
    try:
        tool = tomllib.loads(content.decode()).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected TOML, found {error}", path=str(path)) from error
    if isinstance(tool, dict) and "pv" in tool:
        return Step(path, "kept, it has [tool.pv]", None)
    newline = b"\r\n" if b"\r\n" in content else b"\n"
    gap = b"" if not content or content.endswith(newline * 2) else newline if content.endswith(newline) else newline * 2
    return Step(path, "[tool.pv] added", content + gap + block.replace(b"\n", newline))


def _schema(path: Path, force: bool) -> Step:
    from pv.cli.schema import text_of

    content = text_of("contract").encode()
    if not path.exists():
        return Step(path, "written", content)
    if path.read_bytes() == content:
        return Step(path, "kept, it is current", None)
    return Step(path, "replaced", content) if force else Step(path, "left, it differs", None)


def _modelined(path: Path, folder: Path) -> Step:
    """The contract with modelines above its first line; its data must read the same."""
    from pv.document.limits import Unreadable
    from pv.document.reader import read

    try:
        document = read(path)
    except Unreadable as refusal:
        return Step(path, f"left, it cannot be read ({refusal.diagnostic.message})", None)
    if "$schema" in "\n".join(document.text.splitlines()[:5]):
        return Step(path, "kept, it names a schema", None)
    schema = Path(os.path.relpath(folder / SCHEMA_FILE, path.parent)).as_posix()
    head = "".join(line.format(schema=schema) + document.newline for line in MODELINES)
    return Step(path, "modelines added", document.encode(head + document.text))


def _write(path: Path, content: bytes) -> None:
    from pv.document.files import NotWritten, replace_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, content)
    except (NotWritten, OSError) as error:
        raise click.ClickException(str(error)) from error
