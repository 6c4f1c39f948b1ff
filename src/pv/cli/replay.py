"""`pv replay`: a record's run made again; which figures are the same to the bit, which are near, which are not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pv.contract.project import Project
    from pv.falsify.replay import Replay


@click.command()
@click.argument("record")
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def replay(record: str, output_format: str) -> int:
    """Run RECORD again: same check, same cell, same seed. Writes nothing.

    RECORD is a digest, 12 digits of one, or the id of a claim for the latest of its records.

    Every figure is compared with the recorded one: bit-identical, within tolerance (the threshold's `repeat`, else
    relatively 1e-9), or different; beside them what differs in environment, inputs and code.

    \b
    Exit codes
      0 every figure agrees and so does the verdict
      1 something differs, or the record's claim or check is gone
      4 it cannot run here
    \b
    Example
      pv replay 80388bd90ac3
      pv replay FALSIFY-SORT-001
    """
    from pv.evidence.store import Store
    from pv.falsify.replay import Agreement, ReplayError
    from pv.falsify.replay import replay as run_again

    project = project_here()
    store = Store(project.evidence, project.cache)
    ids = _ids(project, record)
    runs = [one.digest for one in store.summaries() if one.claim_id in ids and not one.invalidates]
    found = store.get(runs[-1] if runs else record)
    if found is None:
        raise click.UsageError(
            f"expected the digest of one record (12 digits or more) or a claim's id, found {record!r}"
        )
    try:
        replayed = run_again(project, found)
    except ReplayError as why:
        click.echo(f"{found.digest[:19]} cannot be replayed: {why}", err=True)
        return ExitCode.FINDINGS
    click.echo(as_json(replayed) if output_format == "json" else "\n".join(as_text(replayed)))
    if not replayed.ran:
        return ExitCode.BLOCKED
    good = replayed.agreement in (Agreement.BITS, Agreement.TOLERANCE)
    return ExitCode.OK if good else ExitCode.FINDINGS


def _ids(project: Project, name: str) -> set[str]:
    """What was named, and where it is the id of a claim, every id that the claim has or had."""
    from pv.contract.load import load_all
    from pv.evidence.ledger import open_contracts

    found = [one.claim_known_as(name) for one in open_contracts(load_all((), project))]
    return {name, *(known_as for claim in found if claim for known_as in claim.ids)}


def as_text(replayed: Replay) -> Iterator[str]:
    """The figures side by side, then what differs besides, then one line that sums it up."""
    from pv.diagnostics.words import one_line

    record, attempt = replayed.record, replayed.attempt
    seed = "no seed" if record.seed is None else f"seed {record.seed}"
    yield f"{record.claim_id} [{record.cell}], {record.digest[:19]} of {record.started_at[:10]}, {seed}"
    rows = [("figure", "then", "now", "")]
    for one in replayed.figures:
        allowed = f" ({one.allowed})" if one.agreement.value in ("within tolerance", "differs") else ""
        rows.append((str(one), _shown(one.then), _shown(one.now), f"{one.agreement.value}{allowed}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows if replayed.figures else ():
        yield (
            "  " + "  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        )
    if replayed.stale:
        yield f"  not the same code or claim: {replayed.stale}"
    for name in replayed.inputs:
        yield f"  not the same input: {name}"
    for name, (then, now) in replayed.environment.items():
        yield f"  environment: {name}: {then or 'nothing'} -> {now or 'nothing'}"
    if not replayed.ran:
        yield f"{attempt.verdict.value} here: {one_line(attempt.judged.reason)}; recorded was {record.verdict.value}"
    elif attempt.verdict is not record.verdict:
        why = f": {one_line(attempt.judged.reason)}" if attempt.judged.reason else ""
        yield f"the verdict was {record.verdict.value} and is {attempt.verdict.value}{why}"
    else:
        yield f"{attempt.verdict.value} as recorded; {len(replayed.figures)} figures: {replayed.agreement.value}"


def as_json(replayed: Replay) -> str:
    """The same for programs."""
    record, attempt = replayed.record, replayed.attempt
    data = {
        "record": record.digest,
        "claim": record.claim_id,
        "device": record.cell.device.value,
        "subject": record.cell.subject,
        "seed": record.seed,
        "verdict": {"then": record.verdict.value, "now": attempt.verdict.value, "reason": attempt.judged.reason},
        "ran": replayed.ran,
        "agreement": replayed.agreement.value if replayed.ran else None,
        "figures": [one._asdict() for one in replayed.figures],
        "stale": replayed.stale,
        "inputs": list(replayed.inputs),
        "environment": {name: {"then": then, "now": now} for name, (then, now) in replayed.environment.items()},
    }
    return json.dumps(data, indent=2, ensure_ascii=False)


def _shown(value: object) -> str:
    """The whole number, so that a difference in the last digit can be seen."""
    return "-" if value is None else str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
