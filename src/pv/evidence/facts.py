"""Loaded contracts and the ledger -> plain facts about each claim's evidence, for the rules. No check is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pv.contract.claims import Claim
from pv.contract.load import Loaded
from pv.contract.project import Project
from pv.contract.vocabulary import Status
from pv.evidence.ledger import FoundChecks, Key, Ledger, open_contracts
from pv.ladder.entitlement import CLIMB, Entitlement
from pv.rules.facts import Facts


def facts_for(
    project: Project, loaded: Sequence[Loaded], checks: FoundChecks | None = None, *, ledger: Ledger | None = None
) -> Mapping[Key, Facts]:
    """Facts by (contract stem, claim id). `checks` are those found in source; None where nobody looked."""
    ledger = ledger or Ledger.open(project, checks)
    facts: dict[Key, Facts] = {}
    for contract in open_contracts(loaded):
        entitlements = ledger.entitlements(contract)
        for claim in contract.claims:
            facts[contract.id, claim.id] = Facts(
                entitled=entitlements[claim.id].status,
                stale=entitlements[claim.id].stale,
                records_missing=tuple(digest for digest in claim.evidence if digest not in ledger.by_digest),
                has_check=ledger.has_check(contract, claim),
                reason=_missing_above(claim, entitlements[claim.id]),
            )
    ledger.sources.save()
    return facts


def _missing_above(claim: Claim, entitlement: Entitlement) -> str:
    """What the records lack for the next rung up, in one line; for a written status above them, for that status."""
    wanted = claim.status if claim.status is not None and claim.status.rung > entitlement.status.rung else None
    for rung in CLIMB:
        if rung.rung > entitlement.status.rung and (wanted is None or rung is wanted):
            return "; ".join(entitlement.missing.get(rung, ()))
    return "" if wanted is None else f"for {wanted.value}: {', '.join(entitlement.reasons) or 'nothing is recorded'}"


def entitled(facts: Mapping[Key, Facts], contract_id: str, claim_id: str) -> Status:
    """The rung of a claim; UNBOUND for one nobody knows."""
    known = facts.get((contract_id, claim_id))
    return known.entitled if known else Status.UNBOUND
