"""A record -> the contradictions in it: what its own stored numbers say against what it says of itself.

Written apart from the judge of the runner on purpose: two readings of the same thresholds that must agree.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping

from pv.contract.claims import Claim
from pv.contract.vocabulary import Verdict
from pv.evidence.digests import closure_digest
from pv.evidence.record import ControlRecord, MeasurementRecord, Number, Record, ThresholdRecord
from pv.evidence.staleness import in_words
from pv.evidence.statement import plain

COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
JUDGED = (Verdict.SURVIVED, Verdict.FALSIFIED, Verdict.VACUOUS)


def contradictions(record: Record) -> Iterator[str]:
    """Sentences: measurements against thresholds, controls against their measurements, the verdict against both."""
    yield from _measurements(record.measurements, "")
    for control in record.controls:
        yield from _control(control)
    if record.verdict in JUDGED:
        yield from _verdict(record)
    if record.closure_digest != closure_digest(record.closure):
        yield "the closure digest is not that of the files listed with it"
    if record.exhausted and record.exhausted.complete and record.exhausted.cases < 1:
        yield "it says that the bound was exhausted, with no case run"


def foreign_bounds(bounds: Iterable[tuple[str, str]], claim: Claim) -> Iterator[str]:
    """Where a record of this very claim was judged by bounds that are not the claim's. (Its digest says they are.)

    `bounds` are (measurement, the bound that judged it, in words).
    """
    for name, used in bounds:
        own = claim.thresholds.get(name)
        stated = in_words(own) if own else "none"
        if stated != used:
            yield f"{name} was judged by {used}, the claim states {stated}"


def holds(value: Number, threshold: ThresholdRecord) -> bool:
    """Whether the value meets the bound. NaN and infinity, as value or bound, fail every threshold."""
    bounds = threshold.value if isinstance(threshold.value, tuple) else (threshold.value,)
    if not all(math.isfinite(plain(each)) for each in (value, *bounds)):
        return False
    if threshold.op == "within":
        return len(bounds) == 2 and plain(bounds[0]) <= plain(value) <= plain(bounds[1])
    return COMPARE[threshold.op](plain(value), plain(bounds[0]))


def _measurements(measured: tuple[MeasurementRecord, ...], where: str) -> Iterator[str]:
    for one in measured:
        if one.threshold is None:
            if one.passed:
                yield f"{where}{one.name} passed without a threshold"
            continue
        holding = holds(one.value, one.threshold)
        said, is_so = ("passed", "fails") if one.passed else ("failed", "meets")
        if holding != one.passed:
            yield f"{where}{one.name} = {one.value} is said to have {said}, but it {is_so} {in_words(one.threshold)}"
        elif one.margin is not None and (plain(one.margin) >= 0) != one.passed:
            yield f"{where}{one.name} has the margin {one.margin}, though it {said}"


def _control(control: ControlRecord) -> Iterator[str]:
    name = f"control {control.name!r}: "
    yield from _measurements(control.measurements, name)
    broke = any(
        one.name == control.breaks and one.threshold is not None and not holds(one.value, one.threshold)
        for one in control.measurements
    )
    crashed = control.observed.startswith("ERROR")
    if control.caught and (crashed or not broke):
        yield f"{name}said to be caught, but {'it crashed' if crashed else f'{control.breaks} did not fail under it'}"
    if not control.caught and broke and not crashed:
        yield f"{name}said to be missed, but {control.breaks} failed under it"


def _verdict(record: Record) -> Iterator[str]:
    broken = [one.name for one in record.measurements if one.threshold is None or not holds(one.value, one.threshold)]
    missed = not record.controls or not all(control.caught for control in record.controls)
    if not record.measurements:
        due = Verdict.ERROR
    elif broken:
        due = Verdict.FALSIFIED
    else:
        due = Verdict.VACUOUS if missed else Verdict.SURVIVED
    if record.verdict is not due:
        yield f"the verdict is {record.verdict.value}, its figures and controls say {due.value}"
    branch = {Verdict.SURVIVED: "prediction", Verdict.FALSIFIED: "if_fails"}.get(record.verdict, record.observed)
    if record.observed != branch:
        yield f"a {record.verdict.value} run observed {record.observed!r}, expected {branch!r}"
