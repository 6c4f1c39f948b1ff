"""`pv trend`: the measurements of a claim over its records, and what moved suddenly."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here

if TYPE_CHECKING:
    from pv.contract.claims import Contract
    from pv.contract.project import Project
    from pv.report.trend import Trend


@click.command()
@click.argument("claim_id", metavar="ID")
@click.option("--output-format", type=click.Choice(["text", "json", "svg"]), default="text", show_default=True)
def trend(claim_id: str, output_format: str) -> int:
    """Show value and margin of each measurement of the claim ID over its records, oldest first.

    With each: time, contract version, device, driver, torch, pv. Retracted records are left out. A passing value
    drifts when it lies further from the median of five or more earlier ones than five times their median absolute
    deviation, or when its margin is less than half of the median of earlier ones. A drift is a warning: the exit code
    stays 0.

    \b
    Exit codes: 0, 2 no such claim, 5 no record with a measurement.
    Examples:
      pv trend FALSIFY-CPU-GPU-002
      pv trend FALSIFY-CPU-GPU-002 --output-format svg > cosine.svg
    """
    from pv.diagnostics.words import put, put_json, safe, xml_safe
    from pv.report import trend as of

    project = project_here()
    found = [one for contract in _holders(project, claim_id) if (one := _trend(project, contract, claim_id)).series]
    out = sys.stdout
    if not found:
        click.echo(f"{claim_id}: no record with a measurement yet; `pv falsify --id {claim_id}` makes one", err=True)
    if output_format == "json":
        put_json(out, [of.as_data(one) for one in found])
    elif found and output_format == "svg":
        put(out, xml_safe(of.as_svg(found)), "xmlcharrefreplace")
    elif found:
        put(out, "".join(f"{safe(of.as_text(one))}\n" for one in found))
    return ExitCode.OK if found else ExitCode.NOTHING


def _holders(project: Project, claim_id: str) -> list[Contract]:
    """The contracts with a claim of this id. Raises click.UsageError where there is none."""
    from pv.contract.load import load_all
    from pv.evidence.ledger import open_contracts

    contracts = open_contracts(load_all((), project))
    holders = [contract for contract in contracts if contract.claim_known_as(claim_id)]
    if not holders:
        near = get_close_matches(claim_id, [claim.id for contract in contracts for claim in contract.claims], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; `pv list` names them"
        raise click.UsageError(f"expected the id of a claim, found {claim_id!r}{hint}")
    return holders


def _trend(project: Project, contract: Contract, claim_id: str) -> Trend:
    from pv.evidence.ledger import Ledger
    from pv.report import trend as of
    from pv.report.story import Reader

    ledger = Ledger.open(project, None)
    claim = contract.claim_known_as(claim_id)
    summaries = ledger.records_of(contract, claim) if claim else []
    counting = [s for s in summaries if not s.invalidates and s.digest not in ledger.retractions]
    series = of.series_of(filter(None, map(Reader(ledger), counting)))
    return of.Trend(contract.id, claim.id if claim else claim_id, series)
