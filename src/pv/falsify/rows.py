"""Loaded contracts, found checks and the ledger -> one row for each claim, as selections and `pv list` see it."""

from __future__ import annotations

from collections.abc import Sequence

from pv.contract.load import Loaded
from pv.contract.project import Project
from pv.evidence.ledger import Ledger, open_contracts
from pv.falsify.discovery import Checks
from pv.falsify.journal import last_verdicts
from pv.falsify.selection import Row


def rows_of(project: Project, loaded: Sequence[Loaded], checks: Checks, ledger: Ledger) -> list[Row]:
    """Every claim of every contract whose shape is sound, in file order.

    Its last verdict is that of its last run on this machine, else what the records on disk say.
    """
    recent = last_verdicts(project.cache)
    rows = []
    for contract in open_contracts(loaded):
        entitlements = ledger.entitlements(contract)
        for claim in contract.claims:
            entitlement = entitlements[claim.id]
            check = checks.of(contract.id, claim.id)
            rows.append(
                Row(
                    contract,
                    claim,
                    has_check=check is not None,
                    stale=entitlement.stale,
                    last=recent.get((contract.id, claim.id), entitlement.verdict),
                    cost=(check.cost if check else None) or claim.cost,
                )
            )
    return rows
