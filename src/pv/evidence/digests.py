"""A claim -> the digest of what it claims, frozen: two files that claim the same have the same digest for ever.

The digest is the sha256 of the RFC 8785 form of `claim_meaning`. In it: id, family, kind of claim, prediction, what it
binds to (with the formula, domain and tolerances of a bound equation, and the formal text of a bound obligation: they
are the mathematics of the claim), required cells and oracle, preconditions, blockers, thresholds, cost, bound. Not in
it: status, dates, evidence, version, `rule`, `if_fails`, `known_failing`, a threshold's `source`, and all prose around.
A claim stands in it under the id that it was first made with (`formerly`), so that a rename leaves the digest alone.
Numbers count by value (1, 1.0 and 1e0 are one number), texts without regard to line breaks, lists as sets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import rfc8785

from pv.contract.claims import Claim, Contract, Threshold, equation_name
from pv.evidence import canonical
from pv.evidence.record import FileDigest
from pv.evidence.statement import PREFIX, number

CLAIM_FORM = 1  # of the object below; a digest made under another form is another claim
EQUATION_PARTS = ("formula", "domain", "codomain", "float_tolerance")
OBLIGATION_PARTS = ("type", "formal", "tolerance")


def claim_digest(contract: Contract, claim: Claim) -> str:
    """`sha256:…` of what the claim says. Raises ValueError for a number that JSON cannot carry, naming the claim."""
    try:
        return _sha256(claim_meaning(contract, claim))
    except rfc8785.CanonicalizationError as error:
        raise ValueError(f"{claim.id} in {contract.path}: {error}") from error


def claim_meaning(contract: Contract, claim: Claim) -> dict[str, Any]:
    """The object behind the digest."""
    return {
        "form": CLAIM_FORM,
        "id": claim.first_id,
        "family": claim.family,
        "claim": claim.claim.value,
        "prediction": _squeezed(claim.prediction),
        "bindsTo": _bound_meaning(contract, claim),
        "requires": {
            "cells": [list(cell) for cell in sorted({(c.device.value, c.subject) for c in claim.required_cells})],
            "oracle": claim.oracle,
        },
        "precondition": sorted({_first_id(contract, name) for name in claim.precondition}),
        "blockedOn": sorted(set(claim.blocked_on)),
        "thresholds": {name: _threshold(threshold) for name, threshold in claim.thresholds.items()},
        "cost": claim.cost.value,
        "bound": None if claim.bound is None else number(claim.bound),
    }


def _first_id(contract: Contract, claim_id: str) -> str:
    claim = contract.claim(claim_id)
    return claim.first_id if claim else claim_id


def closure_digest(files: Iterable[FileDigest]) -> str:
    """`sha256:…` of the files of a closure: path and digest each, in order of path."""
    return _sha256({file.path: file.sha256 for file in files})


def _sha256(value: Any) -> str:
    return PREFIX + hashlib.sha256(canonical.dumps(value)).hexdigest()


def _bound_meaning(contract: Contract, claim: Claim) -> dict[str, Any]:
    equations, obligations = _equations(contract), {o.id: o for o in contract.obligations if o.id}
    bound: dict[str, Any] = {}
    for name in sorted(set(claim.binds_to)):
        if name in equations:
            bound[_squeezed(name)] = _parts(equations[name], EQUATION_PARTS)
        elif name in obligations:
            obligation = obligations[name]
            written = {**obligation.data, "type": obligation.type, "formal": obligation.formal}
            bound[_squeezed(name)] = _parts(written, OBLIGATION_PARTS)
        else:
            bound[_squeezed(name)] = None
    return bound


def _equations(contract: Contract) -> Mapping[str, Any]:
    written = contract.data.get("equations") or {}
    if isinstance(written, list):
        return {equation_name(index, item): item for index, item in enumerate(written)}
    return {str(name): equation for name, equation in written.items()}


def _parts(written: Any, names: Iterable[str]) -> dict[str, Any]:
    """The parts that are there; a bare text is a formula."""
    if not isinstance(written, Mapping):
        return {"formula": _squeezed(str(written))} if written is not None else {}
    return {name: _scalar(written[name]) for name in names if written.get(name) not in (None, "")}


def _scalar(value: Any) -> Any:
    return number(value) if isinstance(value, int | float) else _squeezed(str(value))


def _threshold(threshold: Threshold) -> dict[str, Any]:
    value = threshold.value
    return {
        "op": threshold.op,
        "value": [number(v) for v in value] if isinstance(value, tuple) else number(value),
        "unit": threshold.unit,
        "repeat": None if threshold.repeat is None else number(threshold.repeat),
    }


def _squeezed(text: str) -> str:
    """A text without regard to how its lines are broken."""
    return " ".join(text.split())
