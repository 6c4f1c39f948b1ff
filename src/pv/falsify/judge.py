"""Measurements and thresholds -> judged measurements, and from those the verdict of a run. Pure: no clock, no files."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pv.contract.claims import Threshold
from pv.contract.vocabulary import Verdict
from pv.evidence.record import ControlRecord, MeasurementRecord, Number, ThresholdRecord
from pv.falsify.api import Measurement

PREDICTION, IF_FAILS = "prediction", "if_fails"


class MismatchError(ValueError):
    """The measurements are not exactly those that the claim has thresholds for; such a run is an ERROR."""


class Judged(NamedTuple):
    """What a run came to. `branch` is "prediction", "if_fails", or "" when neither could be told."""

    verdict: Verdict
    reason: str
    branch: str


def threshold_record(threshold: Threshold) -> ThresholdRecord:
    """The contract's threshold as a record keeps it."""
    return ThresholdRecord(threshold.op, threshold.value, threshold.unit, threshold.source, threshold.repeat)


def judge(
    measurements: Sequence[Measurement], thresholds: Mapping[str, ThresholdRecord]
) -> tuple[MeasurementRecord, ...]:
    """Each measurement beside its threshold, in the order of the thresholds.

    Raises MismatchError when one is measured twice, a measurement has no threshold, a threshold no measurement, or the
    two have different units.
    """
    by_name = {measurement.name: measurement for measurement in measurements}
    complaints = [
        *(f"{name!r} is measured twice" for name in _twice(m.name for m in measurements)),
        *(f"{name!r} has no threshold in the contract" for name in by_name if name not in thresholds),
        *(f"{name!r} has a threshold but was not measured" for name in thresholds if name not in by_name),
        *(_other_unit(by_name[name], thresholds[name]) for name in by_name if name in thresholds),
        "" if by_name else "nothing was measured",
    ]
    if any(complaints):
        raise MismatchError("; ".join(filter(None, complaints)))
    return tuple(_judged(by_name[name], threshold) for name, threshold in thresholds.items())


def margin(value: float, op: str, bound: Number | tuple[Number, Number]) -> float | None:
    """Signed distance to the bound, in its unit: at least 0 exactly when `value op bound` holds.

    None for a value or bound that is not finite: those fail. Where a strict bound is met exactly, the margin is minus
    the distance to the next number, which would pass. Distances beyond the largest float are that float.
    """
    if isinstance(bound, tuple):
        low, high = _finite(bound[0]), _finite(bound[1])
        if op != "within" or low is None or high is None or not math.isfinite(value):
            return None
        return _clamped(min(value - low, high - value))
    limit = _finite(bound)
    if limit is None or not math.isfinite(value):
        return None
    short = -math.ulp(limit)
    if op == "<=":
        distance = limit - value
    elif op == ">=":
        distance = value - limit
    elif op == "<":
        distance = limit - value or short
    elif op == ">":
        distance = value - limit or short
    elif op == "==":
        distance = -abs(value - limit)
    elif op == "!=":
        distance = abs(value - limit) or short
    else:
        return None
    return _clamped(distance) + 0.0  # no negative zero


def verdict(healthy: Sequence[MeasurementRecord], controls: Sequence[ControlRecord]) -> Judged:
    """The verdict of a healthy run that measured, and of the controls that were run after it.

    A broken threshold is FALSIFIED whatever the controls say; without a caught control a survival means nothing.
    """
    broken = [measured for measured in healthy if not measured.passed]
    if broken:
        return Judged(Verdict.FALSIFIED, "; ".join(map(describe, broken)), IF_FAILS)
    missed = [control for control in controls if not control.caught]
    if missed:
        said = "; ".join(f"{control.name!r} was not caught ({control.observed})" for control in missed)
        return Judged(Verdict.VACUOUS, said, "")
    if not controls:
        return Judged(Verdict.VACUOUS, "no negative control applies in this cell", "")
    return Judged(Verdict.SURVIVED, "", PREDICTION)


def control_record(
    name: str, breaks: str, measurements: tuple[MeasurementRecord, ...] = (), error: str = ""
) -> ControlRecord:
    """What a planted defect came to: caught only if the very threshold it names failed, and nothing crashed."""
    if error:
        return ControlRecord(name, breaks, False, f"ERROR: {error}", measurements)
    caught = any(measured.name == breaks and not measured.passed for measured in measurements)
    others = [measured.name for measured in measurements if not measured.passed and measured.name != breaks]
    observed = "FALSIFIED" if caught else f"SURVIVED, though {', '.join(others)} failed" if others else "SURVIVED"
    return ControlRecord(name, breaks, caught, observed, measurements)


def worst(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The worst over cells: FALSIFIED > VACUOUS > ERROR > INCONCLUSIVE > BLOCKED > SURVIVED; None of none."""
    return max(verdicts, key=lambda found: found.badness, default=None)


def describe(measured: MeasurementRecord) -> str:
    """`cosine = 0.41, expected >= 0.99`."""
    expected = "a threshold" if measured.threshold is None else bound_text(measured.threshold)
    return f"{measured.name} = {number_text(measured.value)}, expected {expected}"


def bound_text(threshold: ThresholdRecord) -> str:
    """`>= 0.99`, `within [0.5, 2]`."""
    if isinstance(threshold.value, tuple):
        low, high = threshold.value
        return f"{threshold.op} [{number_text(low)}, {number_text(high)}]"
    return f"{threshold.op} {number_text(threshold.value)}"


def number_text(value: Number) -> str:
    """At most seven significant digits, whole numbers without a point."""
    if isinstance(value, str):
        return value
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.7g}"


def as_number(value: float) -> Number:
    """A float as canonical JSON can carry it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _judged(measured: Measurement, threshold: ThresholdRecord) -> MeasurementRecord:
    distance = margin(measured.value, threshold.op, threshold.value)
    return MeasurementRecord(
        name=measured.name,
        value=as_number(measured.value),
        unit=measured.unit,
        n=measured.n,
        threshold=threshold,
        margin=distance,
        passed=distance is not None and distance >= 0,
    )


def _other_unit(measured: Measurement, threshold: ThresholdRecord) -> str:
    if measured.unit == threshold.unit:
        return ""
    return f"{measured.name!r} is measured in {measured.unit!r}, its threshold is in {threshold.unit!r}"


def _finite(bound: Number) -> float | None:
    if isinstance(bound, str):
        return None
    try:
        value = float(bound)
    except OverflowError:  # a whole number beyond the largest float
        return None
    return value if math.isfinite(value) else None


def _clamped(distance: float) -> float:
    return max(-sys.float_info.max, min(sys.float_info.max, distance))


def _twice(names: Iterable[str]) -> list[str]:
    return sorted(name for name, times in Counter(names).items() if times > 1)
