"""`pv why-not`: a rung and a claim -> what the claim lacks for it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here

if TYPE_CHECKING:
    from pv.contract.vocabulary import Status

RUNGS = {
    "partial": "PARTIAL_ALGORITHM_LEVEL",
    "partial_algorithm_level": "PARTIAL_ALGORITHM_LEVEL",
    "functional": "FUNCTIONAL",
    "discharged": "DISCHARGED",
}


@click.command("why-not")
@click.argument("rung", metavar="RUNG", type=click.Choice(list(RUNGS), case_sensitive=False))
@click.argument("claim_id", metavar="ID")
def why_not(rung: str, claim_id: str) -> int:
    """What is missing for a rung: PARTIAL, FUNCTIONAL or DISCHARGED, of the claim ID.

    Exit 0 if the claim holds the rung, 1 if it lacks something, 2 for an unknown claim.

    \b
    Example
      pv why-not DISCHARGED FALSIFY-CPU-GPU-002
    """
    from pv.contract.load import load_all
    from pv.contract.vocabulary import Status
    from pv.evidence.ledger import Ledger, open_contracts
    from pv.falsify.discovery import find_checks
    from pv.report import terminal

    project = project_here()
    contracts = open_contracts(load_all((), project))
    holders = [(contract, claim) for contract in contracts if (claim := contract.claim_known_as(claim_id))]
    if not holders:
        known = [claim.id for contract in contracts for claim in contract.claims]
        near = get_close_matches(claim_id, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; `pv list` names them"
        raise click.UsageError(f"expected the id of a claim, found {claim_id!r}{hint}")
    wanted: Status = Status(RUNGS[rung.lower()])
    ledger = Ledger.open(project, find_checks(project))
    found = [ledger.entitlements(contract)[claim.id] for contract, claim in holders]
    ledger.sources.save()
    for (contract, _), entitlement in zip(holders, found, strict=True):
        if len(holders) > 1:
            click.echo(f"{contract.id}:")
        click.echo(terminal.missing(entitlement, wanted))
    holds = all(entitlement.status.rung >= wanted.rung for entitlement in found)
    return ExitCode.OK if holds else ExitCode.FINDINGS
