"""A record that should not count -> a record that says so, with the reason. Nothing is ever deleted or edited."""

from __future__ import annotations

import shlex
import uuid
from dataclasses import replace
from datetime import UTC, datetime

from pv.contract.vocabulary import Verdict
from pv.evidence.record import Record
from pv.evidence.store import Store


class RetractError(ValueError):
    """The record cannot be retracted; the sentence says why."""


def retract(store: Store, name: str, reason: str, *, now: datetime | None = None) -> Record:
    """Write the retraction of the record that `name` (its digest, or at least 12 digits of it) names.

    Retracting a retraction makes its target count again. Raises RetractError for an unknown record, an empty reason,
    or a record that is retracted already.
    """
    if not reason.strip():
        raise RetractError("expected a reason, found none: say why the record should not count")
    target = store.get(name)
    if target is None:
        raise RetractError(f"expected the digest of one record (12 digits or more), found {name!r}, which names none")
    same_cell = [one for one in store.of(target.claim_id) if one.cell == target.cell]
    earlier = [one for one in same_cell if one.invalidates == target.digest]
    if earlier:
        raise RetractError(f"{target.digest} was retracted already by {earlier[-1].digest}: {earlier[-1].reason}")
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return store.add(_retraction(target, reason.strip(), moment, same_cell[-1].digest))


def _retraction(target: Record, reason: str, moment: datetime, previous: str) -> Record:
    """Of the target it keeps what names the claim, the cell and the code; it measures nothing."""
    return replace(
        target,
        verdict=Verdict.INCONCLUSIVE,
        reason=reason,
        observed="",
        measurements=(),
        controls=(),
        oracle=None,
        exhausted=None,
        notes=(),
        missing=(),
        log=None,
        seed=None,
        started_at=f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        duration_seconds=0,
        command=shlex.join(["pv", "retract", target.digest, "--reason", reason]),
        run_id=str(uuid.uuid4()),
        previous=previous,
        invalidates=target.digest,
        digest="",
    )
