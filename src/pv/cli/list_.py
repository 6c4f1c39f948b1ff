"""`pv list`: every claim with its status, cells, cost and check."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_of, tell_empty

if TYPE_CHECKING:
    from pv.falsify.discovery import Checks
    from pv.falsify.selection import Row

HEADINGS = ("claim", "status", "cost", "cells", "check")


@click.command("list")
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("-k", "words", metavar="EXPR", help="Ids and contracts that contain these words (and, or, not).")
@click.option("--select", "terms", multiple=True, metavar="TERMS", help="Like --select of `pv falsify`.")
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def list_(
    ctx: click.Context, paths: tuple[str, ...], words: str | None, terms: tuple[str, ...], output_format: str
) -> int:
    """List falsifiers by contract: status, cost, cells, and where the check stands.

    Reads source and records; imports and runs no check. Exit 5 when nothing is selected.

    \b
    Examples:
      pv list
      pv list --select status:<FUNCTIONAL,device:cuda
      pv list --select stale: --output-format json
    """
    from pv.contract.load import load_all
    from pv.evidence.ledger import Ledger
    from pv.falsify.discovery import find_checks
    from pv.falsify.rows import rows_of
    from pv.falsify.selection import SelectionError, by_terms, by_words

    project = project_of(paths)
    loaded = load_all(paths, project)
    checks = find_checks(project)
    ledger = Ledger.open(project, checks)
    rows = rows_of(project, loaded, checks, ledger)
    ledger.sources.save()
    try:
        chosen = by_words(rows, words) if words else rows
        chosen = by_terms(chosen, terms) if terms else chosen
    except SelectionError as wrong:
        raise click.UsageError(str(wrong)) from None
    if output_format == "json":
        click.echo(json.dumps([as_data(row, checks) for row in chosen], indent=2, ensure_ascii=False))
    elif chosen:
        click.echo(as_text(chosen, checks))
    _say_what_could_not_be_read([one.display for one in loaded if one.contract is None])
    click.echo(summary(chosen, rows), err=output_format == "json")
    if not rows:
        tell_empty(project, paths)
    return ExitCode.OK if chosen else ExitCode.NOTHING


def as_data(row: Row, checks: Checks) -> dict[str, Any]:
    """One claim for programs."""
    claim, check = row.claim, checks.of(row.contract.id, row.claim.id)
    return {
        "contract": row.contract.id,
        "path": row.contract.path.as_posix(),
        "id": claim.id,
        "family": claim.family,
        "rule": claim.rule,
        "claim": claim.claim.value,
        "status": row.status.value,
        "last": row.last.value if row.last else None,
        "stale": row.stale,
        "cost": row.cost.value,
        "cells": [{"device": cell.device.value, "subject": cell.subject} for cell in claim.required_cells],
        "thresholds": list(claim.thresholds),
        "check": None
        if check is None
        else {
            "entry_point": check.entry_point,
            "line": check.span.line,
            "level": check.level.value,
            "controls": [control.name for control in check.controls],
            "attacks": list(check.attacks),
        },
    }


def as_text(rows: Sequence[Row], checks: Checks) -> str:
    """A table for each contract; a stale status carries a word, never only a colour."""
    table = [HEADINGS, *(_cells(row, checks) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS) - 1)]
    lines = [_line(HEADINGS, widths)]
    before = None
    for row, cells in zip(rows, table[1:], strict=True):
        if row.contract is not before:
            lines += ["", f"{row.contract.id} {row.contract.metadata.version}"]
            before = row.contract
        lines.append(_line(cells, widths))
    return "\n".join(lines)


def summary(chosen: Sequence[Row], rows: Sequence[Row]) -> str:
    """`71 of 71 claims in 12 contracts: 40 DISCHARGED, 3 UNBOUND; 2 stale, 5 without a check`."""
    statuses = Counter(row.status for row in chosen)
    by_rung = sorted(statuses.items(), key=lambda pair: -pair[0].rung)
    told = ", ".join(f"{count} {status.value}" for status, count in by_rung) or "nothing"
    asides = [
        f"{count} {what}"
        for count, what in (
            (sum(bool(row.stale) for row in chosen), "stale"),
            (sum(not row.has_check for row in chosen), "without a check"),
        )
        if count
    ]
    contracts = len({row.contract.id for row in rows})
    tail = f"; {', '.join(asides)}" if asides else ""
    return f"{len(chosen)} of {len(rows)} claims in {contracts} contract{'' if contracts == 1 else 's'}: {told}{tail}"


def _cells(row: Row, checks: Checks) -> tuple[str, ...]:
    check = checks.of(row.contract.id, row.claim.id)
    return (
        row.claim.id,
        f"{row.status.value}{' (stale)' if row.stale else ''}",
        row.cost.value,
        ", ".join(map(str, row.claim.required_cells)),
        check.place if check else "no check",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [f"{cell:{width}}" for cell, width in zip(cells, widths, strict=False)]
    return "  " + "  ".join([*padded, cells[-1]])


def _say_what_could_not_be_read(paths: Sequence[str]) -> None:
    for path in paths:
        click.echo(f"{path}: not a sound contract, so its claims are not listed; see `pv validate {path}`", err=True)
