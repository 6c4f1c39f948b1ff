"""Two contracts, or one and a git revision of it -> what changed in meaning and the version that it demands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pv.cli.exit_codes import ExitCode
from pv.contract.claims import Contract
from pv.contract.load import Loaded, load, load_bytes
from pv.contract.meaning import Change, compare, demanded, least_version, numbers_of
from pv.contract.project import ConfigError, Project, find
from pv.contract.revisions import RevisionError, content_at
from pv.contract.vocabulary import Bump


def run(left: str, right: str, output_format: str) -> int:
    """Compare the contract at `left` with that at `right`; a `right` that is no file is a git revision of `left`.

    A revision is the older side. Prints the changes and the demanded bump; 0 when nothing changed in meaning, else 1.
    Raises click.UsageError where a side cannot be read as a contract.
    """
    path = Path(left)
    try:
        project = find(path)
        if Path(right).exists():
            old, new = load(path, project), load(Path(right), project)
        else:
            new = load(path, project)
            old = _at(right, new, project)
    except (ConfigError, RevisionError) as error:
        raise click.UsageError(str(error)) from error
    before, after = _contract(old, left), _contract(new, right)
    changes = compare(before, after)
    bump = demanded(changes, before.metadata.status)
    if output_format == "json":
        click.echo(json.dumps(as_data(before, after, changes, bump), ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(as_lines(before, after, changes, bump)))
    return int(ExitCode.FINDINGS if changes else ExitCode.OK)


def _at(revision: str, new: Loaded, project: Project) -> Loaded:
    """The file as the revision has it, under its name or one that it says it had."""
    for stem in new.contract.stems if new.contract else (new.stem,):
        path = new.path.with_name(stem + new.path.suffix)
        content = content_at(revision, path)
        if content is not None:
            return load_bytes(content, path, project, display=f"{path}@{revision}")
    raise click.UsageError(f"expected {new.path} in revision {revision}, found no such file there")


def _contract(loaded: Loaded, side: str) -> Contract:
    if loaded.contract is None:
        first = loaded.diagnostics[0] if loaded.diagnostics else None
        why = f"{first.code} {first.message}" if first else f"it is a {loaded.artifact}"
        raise click.UsageError(f"expected a contract, found that {loaded.display} ({side}) is not one: {why}")
    return loaded.contract


def as_lines(before: Contract, after: Contract, changes: Sequence[Change], bump: Bump) -> list[str]:
    """The comparison for people: a line for each change, the heaviest first, then the version."""
    if not changes:
        return ["nothing changed in meaning"]
    status = before.metadata.status
    ordered = sorted(changes, key=lambda change: -change.bump(status).value)
    lines = [f"{change.bump(status).name.lower():5}  {change}" for change in ordered]
    return [*lines, "", _verdict(before, after, bump)]


def _verdict(before: Contract, after: Contract, bump: Bump) -> str:
    versions = f"{before.metadata.version} -> {after.metadata.version}"
    numbers = numbers_of(before.metadata.version), numbers_of(after.metadata.version)
    if numbers[0] is None or numbers[1] is None:
        return f"{versions}: no semantic versions; the changes demand a {bump.name.lower()} bump"
    least = least_version(numbers[0], bump)
    enough = "enough" if numbers[1] >= least else f"too small, write {least} or later"
    return f"{versions}: the changes demand a {bump.name.lower()} bump; {enough}"


def as_data(before: Contract, after: Contract, changes: Sequence[Change], bump: Bump) -> dict[str, Any]:
    """The comparison for programs."""
    numbers = numbers_of(before.metadata.version)
    return {
        "before": {"contract": before.id, "version": before.metadata.version, "status": before.metadata.status},
        "after": {"contract": after.id, "version": after.metadata.version, "status": after.metadata.status},
        "bump": bump.name.lower(),
        "least_version": str(least_version(numbers, bump)) if numbers else None,
        "changes": [
            {
                "kind": change.kind.value,
                "subject": change.subject,
                "what": change.what,
                "before": change.before,
                "after": change.after,
                "bump": change.bump(before.metadata.status).name.lower(),
            }
            for change in changes
        ],
    }
