"""A record and the present state of its claim -> why the record is stale, in words; "" while it speaks of this code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pv.contract.claims import Threshold
from pv.evidence.index import Summary
from pv.evidence.record import Number, ThresholdRecord
from pv.evidence.statement import number

MISSING = "missing"  # in place of a digest: the file is not there


@dataclass(frozen=True, slots=True)
class CurrentDigests:
    """The present state of a claim: what a record must have been made from to speak of it.

    `closure_digest` is None where no check is registered any more; `files` are the closure's files with their digests,
    `bound` those of the subject files that records name (only files present here; a model that is not on this machine
    cannot be compared and makes nothing stale). `today` are present paths of files that have another one in closures.
    """

    claim_digest: str
    closure_digest: str | None
    files: Mapping[str, str] = field(default_factory=dict)
    bound: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, str] = field(default_factory=dict)
    today: Mapping[str, str] = field(default_factory=dict)


def stale_reason(summary: Summary, closure: Mapping[str, str], now: CurrentDigests) -> str:
    """Why the record is stale: thresholds, claim, source closure, bound files, in that order; "" when it is not.

    `closure` maps the record's closure files to their digests at the time.
    """
    if summary.claim_digest != now.claim_digest:
        return _threshold_change(summary.thresholds, now.thresholds) or "the claim changed since"
    if now.closure_digest is None:
        return "its check is not registered any more"
    if summary.closure_digest != now.closure_digest:
        changed = [now.today.get(path, path) for path in changed_files(closure, now.files)]
        return f"{_named(changed) or 'the source closure'} changed since"
    changed = [path for path, sha256 in summary.bound.items() if now.bound.get(path, sha256) != sha256]
    return f"{_named(changed)} changed since" if changed else ""


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Paths whose digest differs, came or went, sorted."""
    return sorted(path for path in {*before, *now} if before.get(path) != now.get(path))


def in_words(threshold: Threshold | ThresholdRecord) -> str:
    """`>= 0.99 1`, `within [0.5, 2] ms`: one text for one bound, however its numbers were written."""
    values = threshold.value if isinstance(threshold.value, tuple) else (threshold.value,)
    figures = [_figure(value) for value in values]
    bound = f"[{', '.join(figures)}]" if isinstance(threshold.value, tuple) else figures[0]
    return f"{threshold.op} {bound} {threshold.unit}"


def _figure(value: Number) -> str:
    carried = value if isinstance(value, str) else number(value)
    if isinstance(carried, float) and carried.is_integer() and abs(carried) < 1e16:
        return str(int(carried))
    return str(carried)  # repr of a float: the shortest text that means this very number


def _threshold_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The bounds that differ, where that is what can be told; "" when all bounds are as they were."""
    told = [
        f"{name} {before.get(name, 'not judged')} -> {now.get(name, 'not judged')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    return f"thresholds changed since: {'; '.join(told)}" if before and told else ""


def _named(paths: list[str], most: int = 3) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more
