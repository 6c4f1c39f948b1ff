"""PV231 to PV234: what benchmarks to beat, user stories, improvement records and parity ledgers must say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

from pv.rules.finding import Finding, text
from pv.rules.view import View

_INCUMBENTS = ("scikit-learn", "pytorch", "unsloth", "ollama", "llama.cpp")
_KAIZEN_STATES = ("draft", "implemented", "implementing", "pending", "planned")
_LONGEST_VALIDITY = timedelta(days=180)
_DEMAND = range(1, 6)


def beats(view: View) -> Iterator[Finding]:
    """A benchmark to beat names whom, by what measure, by how much, where and on what."""
    if view.kind != "beat-benchmark":
        return
    beat = view.data.get("beat")
    if not isinstance(beat, dict):
        yield Finding(("beat",), "kind beat-benchmark needs a `beat:` block", "`beat:`", "none", key=True)
        return
    incumbent = text(beat, "incumbent")
    if not any(name in incumbent.lower() for name in _INCUMBENTS):
        yield _beat("incumbent", f"one of {', '.join(_INCUMBENTS)}", incumbent)
    if not text(beat, "metric"):
        yield _beat("metric", "the name of a measure", "")
    if beat.get("direction") not in ("higher_is_better", "lower_is_better"):
        yield _beat("direction", "higher_is_better or lower_is_better", beat.get("direction"))
    if not _is_finite(beat.get("beat_threshold")):
        yield _beat("beat_threshold", "a finite number", beat.get("beat_threshold"))
    if not text(beat, "ci_gate_name"):
        yield _beat("ci_gate_name", "the gate that runs it", "")
    if beat.get("approved_compute") not in ("CPU", "GPU"):
        yield _beat("approved_compute", "CPU or GPU", beat.get("approved_compute"))


def _beat(name: str, expected: str, found: Any) -> Finding:
    shown = f"`{found}`" if found not in (None, "") else "nothing"
    return Finding(("beat", name), f"beat.{name}: expected {expected}, found {shown}", expected=expected, found=shown)


def demands(view: View) -> Iterator[Finding]:
    """A demand score is 1 to 5, and a story names its competitor."""
    score = view.metadata.get("demand_score")
    if score is not None and score not in _DEMAND:
        yield _demand(("metadata", "demand_score"), score)
    for loc, story in view.entries("stories"):
        if story.get("demand_score") not in _DEMAND:
            yield _demand((*loc, "demand_score"), story.get("demand_score"))
        if not text(story, "competitor").strip():
            message = f"stories[{loc[1]}].competitor must name a competitor"
            yield Finding((*loc, "competitor"), message, expected="a name", found="nothing", key=True)


def _demand(loc: tuple[str | int, ...], score: Any) -> Finding:
    shown = "nothing" if score is None else f"{score}"
    return Finding(loc, f"demand_score: expected 1 to 5, found {shown}", expected="1 to 5", found=shown, key=True)


def improvements(view: View) -> Iterator[Finding]:
    """An improvement record says of what, in which state, and what number moves."""
    if view.kind != "kaizen":
        return
    if not text(view.data, "contract"):
        yield Finding(("contract",), "a kaizen record names its `contract:`", "an id", "nothing", key=True)
    status = view.data.get("status")
    if str(status).lower() not in _KAIZEN_STATES:
        expected = ", ".join(_KAIZEN_STATES)
        yield Finding(("status",), f"status: expected one of {expected}, found `{status}`", expected=expected)
    baseline, target = _metrics(view.data.get("baseline")), _metrics(view.data.get("target"))
    if not target and not view.data.get("invariants"):
        yield Finding(("target",), "the record states nothing that can fail: no target, no invariants", key=True)
    for name in target:
        if name not in baseline:
            message = f"target.{name} has no baseline to compare with"
            yield Finding(("target", name), message, expected=f"`baseline.{name}`", found="nothing", key=True)
    if target and all(baseline.get(name) == value for name, value in target.items()):
        yield Finding(("target",), "no metric moves: every target equals its baseline", key=True)


def _metrics(value: Any) -> Mapping[str, float]:
    items = value.items() if isinstance(value, dict) else ()
    return {name: number for name, number in items if _is_finite(number)}


def ledgers(view: View) -> Iterator[Finding]:
    """A parity ledger has rows, and each row a verdict that was measured on a day and holds for at most 180 days."""
    if view.kind != "competitive-parity":
        return
    ledger = view.data.get("parity")
    rows = ledger.get("rows") if isinstance(ledger, dict) else None
    if not isinstance(rows, list) or not rows:
        yield Finding(("parity", "rows"), "the ledger has no rows: nothing is compared", expected="at least one row")
        return
    entry_points = set()
    for index, row in enumerate(rows):
        if isinstance(row, dict):
            entry_points.add(row.get("entry_point"))
            yield from _row(("parity", "rows", index), row)
    downgrades = ledger.get("downgrades") if isinstance(ledger, dict) else None
    for index, downgrade in enumerate(downgrades if isinstance(downgrades, list) else ()):
        if isinstance(downgrade, dict) and downgrade.get("entry_point") not in entry_points:
            name = downgrade.get("entry_point")
            place = ("parity", "downgrades", index, "entry_point")
            yield Finding(place, f"the downgrade of `{name}` names no row of the ledger", expected="the name of a row")


def _row(loc: tuple[str | int, ...], row: Mapping[str, Any]) -> Iterator[Finding]:
    if not row.get("verdict"):
        yield Finding((*loc, "verdict"), "the row has no verdict", expected="a verdict", found="nothing", key=True)
    days = {}
    for name in ("measured_on", "valid_until"):
        value = row.get(name)
        try:
            days[name] = date.fromisoformat(str(value))
        except ValueError:
            if value is not None or row.get("verdict") != "UNMEASURED":
                yield Finding((*loc, name), f"{name}: expected YYYY-MM-DD, found `{value}`", expected="YYYY-MM-DD")
    if len(days) == 2 and days["valid_until"] - days["measured_on"] > _LONGEST_VALIDITY:
        span = (days["valid_until"] - days["measured_on"]).days
        message = f"the verdict is kept for {span} days; a measurement speaks for at most 180"
        yield Finding((*loc, "valid_until"), message, expected="at most 180 days", found=f"{span} days")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
