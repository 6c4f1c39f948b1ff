"""What the rooms above know of a claim's evidence, handed to the rules as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pv.contract.vocabulary import Status


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one claim. `entitled` is the highest rung that the records on disk support.

    `stale` says why the evidence no longer speaks of this code ("" while it does), `records_missing` names digests that
    the contract points to and the store does not hold, `has_check` whether a check is registered for the claim (None
    when nobody looked), and `reason` what is missing for the rung above.
    """

    entitled: Status
    stale: str = ""
    records_missing: tuple[str, ...] = ()
    has_check: bool | None = None
    reason: str = ""


FactsByClaim = Mapping[tuple[str, str], Facts]  # (contract stem, claim id)
NO_FACTS: FactsByClaim = {}
