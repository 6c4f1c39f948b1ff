"""The ledger and the contracts -> where every claim stands, each contract's tally, and the scopes' ship percentages.

Statuses here are what the records entitle to; a written one that differs is told beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pv.contract.claims import Claim, Contract
from pv.contract.load import Loaded
from pv.contract.project import Project
from pv.contract.vocabulary import Status
from pv.evidence.ledger import Ledger, open_contracts
from pv.ladder.entitlement import Entitlement
from pv.ladder.tally import Tally


@dataclass(frozen=True, slots=True)
class ClaimStanding:
    """One claim: what is written, what is earned, and whether it can be found to be checked at all."""

    claim: Claim
    entitlement: Entitlement
    has_check: bool

    @property
    def status(self) -> Status:
        """The status that the records on disk support."""
        return self.entitlement.status

    @property
    def written(self) -> str:
        """The written status where it is another one; "" where it is the same, or nothing stands for UNBOUND."""
        text = self.claim.status_text or ""
        return "" if text == self.status.value or (not text and self.status is Status.UNBOUND) else text or "nothing"

    @property
    def bound(self) -> bool:
        """Whether the claim has an evidence block or a blocker."""
        blocked = self.status is Status.BLOCKER_FIXTURE_ABSENT or bool(self.claim.blocked_on)
        return blocked or any(
            block not in (None, "", [], {})
            for block in (self.claim.algorithm_evidence, self.claim.functional_evidence, self.claim.discharge_evidence)
        )


@dataclass(frozen=True, slots=True)
class ContractStanding:
    """One contract and its claims, in file order."""

    contract: Contract
    claims: tuple[ClaimStanding, ...]

    @property
    def tally(self) -> Tally:
        """Of the earned statuses."""
        return Tally.of(claim.status for claim in self.claims)

    @property
    def words(self) -> tuple[str, ...]:
        """COMPLETE (all discharged), BOUND (every claim has an evidence block or a blocker), as far as they hold."""
        bound = bool(self.claims) and all(claim.bound for claim in self.claims)
        return tuple(word for word, holds in (("COMPLETE", self.tally.complete), ("BOUND", bound)) if holds)


@dataclass(frozen=True, slots=True)
class ScopeStanding:
    """A named list of contracts: how many of its claims could ship. `absent` are contracts that do not exist."""

    name: str
    contracts: tuple[str, ...]
    shippable: int
    total: int
    absent: tuple[str, ...] = ()

    @property
    def percent(self) -> float:
        """Claims at FUNCTIONAL or better, of all in scope; 0 where there is none."""
        return 100 * self.shippable / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class ProjectStanding:
    """All of it. `unsound` are files whose claims cannot be read, so the tally is not of them."""

    contracts: tuple[ContractStanding, ...]
    scopes: tuple[ScopeStanding, ...]
    unsound: tuple[str, ...]

    @property
    def tally(self) -> Tally:
        """Of every claim."""
        return sum((one.tally for one in self.contracts), Tally())

    @property
    def claims(self) -> list[tuple[Contract, ClaimStanding]]:
        """Every claim with its contract."""
        return [(one.contract, claim) for one in self.contracts for claim in one.claims]


def standing(project: Project, loaded: Sequence[Loaded], ledger: Ledger) -> ProjectStanding:
    """Where everything stands. Reads records and source; imports and runs no check."""
    contracts = tuple(_contract(ledger, contract) for contract in open_contracts(loaded))
    ledger.sources.save()
    by_stem = {one.contract.id: one for one in contracts}
    scopes = tuple(_scope(name, stems, by_stem) for name, stems in project.scopes.items())
    return ProjectStanding(contracts, scopes, tuple(one.display for one in loaded if one.contract is None))


def _contract(ledger: Ledger, contract: Contract) -> ContractStanding:
    entitlements = ledger.entitlements(contract)
    claims = (
        ClaimStanding(claim, entitlements[claim.id], bool(ledger.has_check(contract, claim)))
        for claim in contract.claims
    )
    return ContractStanding(contract, tuple(claims))


def _scope(name: str, stems: Sequence[str], by_stem: Mapping[str, ContractStanding]) -> ScopeStanding:
    present = [by_stem[stem] for stem in stems if stem in by_stem]
    return ScopeStanding(
        name,
        tuple(stems),
        sum(one.tally.shippable for one in present),
        sum(one.tally.total for one in present),
        tuple(stem for stem in stems if stem not in by_stem),
    )


def as_data(standing: ProjectStanding) -> dict[str, Any]:
    """The same for programs."""
    return {
        "tally": {"text": str(standing.tally), **_tally_data(standing.tally)},
        "contracts": [_contract_data(one) for one in standing.contracts],
        "scopes": [
            {
                "name": scope.name,
                "contracts": list(scope.contracts),
                "shippable": scope.shippable,
                "total": scope.total,
                "percent": round(scope.percent, 2),
                "absent": list(scope.absent),
            }
            for scope in standing.scopes
        ],
        "unsound": list(standing.unsound),
    }


def _tally_data(tally: Tally) -> dict[str, int]:
    return {
        "discharged": tally.discharged,
        "functional": tally.functional,
        "partial": tally.partial,
        "blocked": tally.blocked,
        "unbound": tally.unbound,
        "falsified": tally.falsified,
        "total": tally.total,
    }


def _contract_data(one: ContractStanding) -> dict[str, Any]:
    return {
        "id": one.contract.id,
        "version": one.contract.metadata.version,
        "document_status": one.contract.metadata.status,
        "words": list(one.words),
        "tally": {"text": str(one.tally), **_tally_data(one.tally)},
        "claims": [_claim_data(claim) for claim in one.claims],
    }


def _claim_data(one: ClaimStanding) -> dict[str, Any]:
    entitlement = one.entitlement
    return {
        "id": one.claim.id,
        "status": one.status.value,
        "written": one.claim.status_text,
        "verdict": entitlement.verdict.value if entitlement.verdict else None,
        "stale": entitlement.stale,
        "known_failing": one.claim.known_failing.reason if one.claim.known_failing else None,
        "has_check": one.has_check,
        "verified_at": entitlement.verified_at,
        "reasons": list(entitlement.reasons),
        "cells": [
            {
                "device": state.cell.device.value,
                "subject": state.cell.subject,
                "required": state.required,
                "rung": state.rung.value,
                "verdict": state.verdict.value if state.verdict else None,
                "record": state.head,
                "verified_at": state.verified_at,
                "stale": state.stale,
                "settled_by": state.settled_by,
            }
            for state in entitlement.cells
        ],
    }
