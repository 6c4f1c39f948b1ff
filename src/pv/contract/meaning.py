"""Two versions of a contract -> what changed in meaning, and the version bump that the changes demand.

Only what can be shown to be no weaker counts as such: a threshold is tightened when everything it accepts was accepted
before, and any other change of it counts as loosened. The words of a prediction are the claim itself where no threshold
judges it; where thresholds do, new words are a clarification.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from pv.contract.claims import Claim, Contract, Obligation, Threshold, equation_name, text_of
from pv.contract.vocabulary import SEMVER, Bump

UNSETTLED = frozenset({"DRAFT", "PROPOSED"})  # documents that have promised nothing yet


class ChangeKind(StrEnum):
    """What a change does to the promise."""

    ADDED = "added"
    REMOVED = "removed"
    TIGHTENED = "tightened"
    LOOSENED = "loosened"
    RENAMED = "renamed"  # the same promise under another name
    STATUS = "status"
    EVIDENCE = "evidence"
    CLARIFIED = "clarified"  # part of the claim, and neither weaker nor stronger for it
    PROSE = "prose"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `subject` names what changed ("FALSIFY-X-001", "equations.parity"), `what` the part of it."""

    kind: ChangeKind
    subject: str
    what: str
    before: str
    after: str

    def bump(self, document_status: str | None) -> Bump:
        """The bump that this change alone demands."""
        if self.kind is ChangeKind.PROSE:
            return Bump.PATCH
        if self.kind in (ChangeKind.REMOVED, ChangeKind.LOOSENED):
            return Bump.MINOR if is_unsettled(document_status) else Bump.MAJOR
        return Bump.MINOR

    def __str__(self) -> str:
        if self.kind in (ChangeKind.ADDED, ChangeKind.REMOVED):
            return f"{self.subject}: {self.what} {self.kind.value}"
        return f"{self.subject}: {self.what} {self.kind.value}: {self.before or 'nothing'} -> {self.after or 'nothing'}"


def is_unsettled(document_status: str | None) -> bool:
    """Whether the document's life has not reached ACTIVE. A document that names no status is taken at its word."""
    words = (document_status or "").split()
    return bool(words) and words[0].upper().strip(".,;:") in UNSETTLED


def demanded(changes: tuple[Change, ...], document_status: str | None) -> Bump:
    """The largest bump among the changes. `document_status` is `metadata.status` of the older version."""
    return max((change.bump(document_status) for change in changes), key=lambda bump: bump.value, default=Bump.NONE)


def compare(old: Contract, new: Contract) -> tuple[Change, ...]:
    """Every difference in meaning, in the order of the new file. Version and changelog are no difference."""
    return tuple(
        change
        for part in (_metadata, _equations, _obligations, _claims, _sections)
        for change in part(old, new)
        if change.before != change.after or change.kind in (ChangeKind.ADDED, ChangeKind.REMOVED)
    )


class Numbers(NamedTuple):
    """MAJOR.MINOR.PATCH; what follows a `-` or `+` does not take part."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


def numbers_of(version: str) -> Numbers | None:
    """The three numbers of a semantic version, or None for any other text."""
    match = SEMVER.fullmatch(version)
    return Numbers(int(match[1]), int(match[2]), int(match[3])) if match else None


def least_version(old: Numbers, bump: Bump) -> Numbers:
    """The lowest version that a change of `bump` may carry after `old`."""
    if bump is Bump.MAJOR:
        return Numbers(old.major + 1, 0, 0)
    if bump is Bump.MINOR:
        return Numbers(old.major, old.minor + 1, 0)
    return old._replace(patch=old.patch + 1) if bump is Bump.PATCH else old


# ---------------------------------------------------------------------------------------------------- thresholds


class Interval(NamedTuple):
    """A range of real numbers; each end is in it or not."""

    low: float
    low_in: bool
    high: float
    high_in: bool

    def within(self, other: Interval) -> bool:
        """Whether every number of this interval lies in the other."""
        above = self.low > other.low or (self.low == other.low and (other.low_in or not self.low_in))
        below = self.high < other.high or (self.high == other.high and (other.high_in or not self.high_in))
        return above and below

    @property
    def empty(self) -> bool:
        """Whether no number lies in it."""
        return self.low > self.high or (self.low == self.high and not (self.low_in and self.high_in))


def accepted(threshold: Threshold) -> tuple[Interval, ...]:
    """The finite numbers that a threshold accepts, as intervals with gaps between them.

    NaN and infinity fail every threshold, and a NaN bound accepts nothing.
    """
    low, high = threshold.value if isinstance(threshold.value, tuple) else (threshold.value, threshold.value)
    below = Interval(-math.inf, False, high, False)
    above = Interval(low, False, math.inf, False)
    ranges: Mapping[str, tuple[Interval, ...]] = {
        "<": (below,),
        "<=": (below._replace(high_in=math.isfinite(high)),),
        ">": (above,),
        ">=": (above._replace(low_in=math.isfinite(low)),),
        "==": (Interval(low, math.isfinite(low), high, math.isfinite(high)),),
        "!=": (below, above) if math.isfinite(low) else (Interval(-math.inf, False, math.inf, False),),
        "within": (Interval(low, math.isfinite(low), high, math.isfinite(high)),),
    }
    if math.isnan(low) or math.isnan(high):
        return ()
    return tuple(interval for interval in ranges[threshold.op] if not interval.empty)


def accepts_no_more(new: Threshold, old: Threshold) -> bool:
    """Whether every value that `new` accepts was accepted by `old`, in the same unit."""
    if new.unit != old.unit:
        return False
    before = accepted(old)
    return all(any(piece.within(whole) for whole in before) for piece in accepted(new))


def threshold_change(old: Threshold, new: Threshold) -> ChangeKind | None:
    """What the step from one threshold to another does; None when both accept the same."""
    agreement = _number_change(_repeat(old), _repeat(new), smaller_is_tighter=True)
    narrower, wider = accepts_no_more(new, old), accepts_no_more(old, new)
    if not narrower:
        return ChangeKind.LOOSENED
    if agreement is ChangeKind.LOOSENED or wider:
        return agreement
    return ChangeKind.TIGHTENED


def _repeat(threshold: Threshold) -> float:
    return 0.0 if threshold.repeat is None else float(threshold.repeat)


def _number_change(old: float | None, new: float | None, *, smaller_is_tighter: bool) -> ChangeKind | None:
    """A bound that appears tightens, one that goes loosens."""
    if old == new:
        return None
    if old is None:
        return ChangeKind.TIGHTENED
    if new is None:
        return ChangeKind.LOOSENED
    return ChangeKind.TIGHTENED if (new < old) == smaller_is_tighter else ChangeKind.LOOSENED


# ---------------------------------------------------------------------------------------------------- the parts


def _metadata(old: Contract, new: Contract) -> Iterator[Change]:
    before, after = old.metadata, new.metadata
    yield Change(ChangeKind.STATUS, "metadata", "status", before.status or "", after.status or "")
    yield Change(ChangeKind.LOOSENED, "metadata", "kind", before.kind, after.kind)  # it decides which rules hold
    yield from _lists("metadata", "depends_on", before.depends_on, after.depends_on, ChangeKind.CLARIFIED)
    yield from _file_name(old, new)
    told = {"version", "status", "kind", "registry", "depends_on", "changelog", "formerly"}
    yield from _rest("metadata", before.data, after.data, told, ChangeKind.PROSE)


def _file_name(old: Contract, new: Contract) -> Iterator[Change]:
    """A contract goes by its stem; one that says what it was called before is the same contract."""
    if old.id != new.id and old.id in new.metadata.formerly:
        yield Change(ChangeKind.RENAMED, "metadata", "file", old.id, new.id)
    else:
        yield from _lists("metadata", "formerly", old.metadata.formerly, new.metadata.formerly, ChangeKind.CLARIFIED)


def _equations(old: Contract, new: Contract) -> Iterator[Change]:
    before, after = _by_name(old), _by_name(new)
    yield from _come_and_gone("equation", before, after)
    for name, equation in after.items():
        if name in before:
            yield from _equation(f"equations.{name}", before[name], equation)


def _by_name(contract: Contract) -> dict[str, Mapping[str, Any]]:
    equations = contract.data.get("equations") or {}
    if isinstance(equations, list):
        return {equation_name(index, item): item for index, item in enumerate(equations)}
    return {str(name): item for name, item in equations.items()}


def _equation(subject: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for part in ("formula", "domain", "codomain"):
        yield _wording(ChangeKind.LOOSENED, subject, part, text_of(old.get(part)), text_of(new.get(part)))
    for part in ("invariants", "postconditions"):
        yield from _lists(subject, part, _items(old, part), _items(new, part))
    yield from _lists(subject, "preconditions", _items(new, "preconditions"), _items(old, "preconditions"), flip=True)
    tolerances = old.get("float_tolerance"), new.get("float_tolerance")
    yield from _number(subject, "float_tolerance", *tolerances, smaller_is_tighter=True)
    told = {"id", "formula", "domain", "codomain", "invariants", "postconditions", "preconditions", "float_tolerance"}
    yield from _rest(subject, old, new, told, ChangeKind.PROSE)


def _obligations(old: Contract, new: Contract) -> Iterator[Change]:
    before, after = _keyed(old.obligations), _keyed(new.obligations)
    yield from _come_and_gone("obligation", before, after)
    for key, obligation in after.items():
        if key in before:
            yield from _obligation(f"obligation {key!r}", before[key], obligation)


def _keyed(obligations: tuple[Obligation, ...]) -> dict[str, Obligation]:
    """By id, else by the sentence; a second one of the same name is numbered."""
    keyed: dict[str, Obligation] = {}
    for obligation in obligations:
        name = obligation.id or _squeezed(obligation.property)
        count = sum(1 for key in keyed if key == name or key.startswith(f"{name} ("))
        keyed[f"{name} ({count + 1})" if count else name] = obligation
    return keyed


def _obligation(subject: str, old: Obligation, new: Obligation) -> Iterator[Change]:
    yield Change(ChangeKind.LOOSENED, subject, "type", old.type, new.type)
    yield _wording(ChangeKind.LOOSENED, subject, "property", old.property, new.property)
    yield _wording(ChangeKind.LOOSENED, subject, "formal", old.formal, new.formal)
    applies = text_of(old.data.get("applies_to")), text_of(new.data.get("applies_to"))
    excused = applies[1] == "not_applicable"
    yield Change(ChangeKind.LOOSENED if excused else ChangeKind.CLARIFIED, subject, "applies_to", *applies)
    tolerances = old.data.get("tolerance"), new.data.get("tolerance")
    yield from _number(subject, "tolerance", *tolerances, smaller_is_tighter=True)
    told = {"id", "type", "property", "statement", "formal", "verification", "applies_to", "tolerance"}
    yield from _rest(subject, old.data, new.data, told, ChangeKind.PROSE)


def _claims(old: Contract, new: Contract) -> Iterator[Change]:
    before = {claim.id: claim for claim in old.claims}
    after = {claim.id: claim for claim in new.claims}
    names = {former: claim_id for claim_id, former in _renames(before, after)}
    for claim_id, claim in before.items():
        if names.get(claim_id, claim_id) not in after:
            yield Change(ChangeKind.REMOVED, claim_id, claim.family, claim_id, "")
    former_of = {claim_id: former for former, claim_id in names.items()}
    for claim_id, claim in after.items():
        former = former_of.get(claim_id, claim_id)
        if former not in before:
            yield Change(ChangeKind.ADDED, claim_id, claim.family, "", claim_id)
            continue
        if former == claim_id:
            yield from _lists(claim_id, "formerly", before[former].formerly, claim.formerly, ChangeKind.CLARIFIED)
        else:
            yield Change(ChangeKind.RENAMED, claim_id, "id", former, claim_id)
        waited_for = tuple(names.get(name, name) for name in before[former].precondition)
        yield from _claim(replace(before[former], precondition=waited_for), claim)


def _renames(before: Mapping[str, Claim], after: Mapping[str, Claim]) -> Iterator[tuple[str, str]]:
    """(id now, id before) of every claim that says it had that id, where nobody has it any more."""
    taken: set[str] = set()
    for claim_id, claim in after.items():
        known = [name for name in claim.formerly if name in before and name not in after and name not in taken]
        if claim_id not in before and known:
            taken.add(known[-1])
            yield claim_id, known[-1]


_WEIGHED = frozenset(
    {
        "id",
        "prediction",
        "expected",
        "binds_to",
        "claim",
        "requires",
        "precondition",
        "blocked_on",
        "known_failing",
        "thresholds",
        "cost",
        "bound",
        "status",
        "last_verified",
        "evidence",
        "algorithm_evidence",
        "functional_evidence",
        "discharge_evidence",
        "formerly",
        "strategy",
        "property",
        "obligation",
    }
)


def _claim(old: Claim, new: Claim) -> Iterator[Change]:
    name = new.id
    yield from _thresholds(name, old.thresholds, new.thresholds)
    judged = bool(old.thresholds) and bool(new.thresholds)
    words = ChangeKind.CLARIFIED if judged else ChangeKind.LOOSENED
    yield _wording(words, name, "prediction", old.prediction, new.prediction)
    yield from _lists(name, "binds_to", old.binds_to, new.binds_to)
    yield Change(ChangeKind.LOOSENED, name, "claim", old.claim.value, new.claim.value)
    yield from _lists(name, "requires.cells", _cells(old), _cells(new))
    yield _named(name, "requires.oracle", old.oracle, new.oracle)
    yield from _lists(name, "precondition", new.precondition, old.precondition, flip=True)
    yield from _number(name, "bound", old.bound, new.bound, smaller_is_tighter=False)
    yield Change(ChangeKind.CLARIFIED, name, "cost", old.cost.value, new.cost.value)
    yield Change(ChangeKind.CLARIFIED, name, "strategy", _text(old, "strategy"), _text(new, "strategy"))
    yield Change(ChangeKind.STATUS, name, "status", old.status_text or "", new.status_text or "")
    yield Change(ChangeKind.STATUS, name, "blocked_on", ", ".join(old.blocked_on), ", ".join(new.blocked_on))
    yield Change(ChangeKind.STATUS, name, "known_failing", _reason(old), _reason(new))
    yield from _evidence(old, new)
    yield from _rest(name, old.data, new.data, _WEIGHED, ChangeKind.PROSE)


def _thresholds(name: str, old: Mapping[str, Threshold], new: Mapping[str, Threshold]) -> Iterator[Change]:
    for measurement, threshold in old.items():
        if measurement not in new:
            yield Change(ChangeKind.LOOSENED, name, f"thresholds.{measurement}", _full(threshold), "")
    for measurement, threshold in new.items():
        what = f"thresholds.{measurement}"
        before = old.get(measurement)
        if before is None:
            yield Change(ChangeKind.TIGHTENED, name, what, "", _full(threshold))
            continue
        kind = threshold_change(before, threshold)
        if kind is not None:
            yield Change(kind, name, what, _full(before), _full(threshold))
        yield _wording(ChangeKind.PROSE, name, f"{what}.source", before.source, threshold.source)


def _evidence(old: Claim, new: Claim) -> Iterator[Change]:
    for part in ("evidence", "last_verified", "algorithm_evidence", "functional_evidence", "discharge_evidence"):
        before, after = getattr(old, part), getattr(new, part)
        if before != after:
            yield _differs(ChangeKind.EVIDENCE, new.id, part, before, after)


_SECTIONS = frozenset(
    {"enforcement", "kernel_structure", "simd_dispatch", "type_invariants", "coq_spec", "beat", "parity"}
)


def _sections(old: Contract, new: Contract) -> Iterator[Change]:
    told = {"metadata", "equations", "proof_obligations", "falsification_tests", "kani_harnesses", "changelog"}
    for key in [*old.data, *(key for key in new.data if key not in old.data)]:
        if key not in told and old.data.get(key) != new.data.get(key):
            kind = ChangeKind.CLARIFIED if key in _SECTIONS else ChangeKind.PROSE
            yield _differs(kind, str(key), "contents", old.data.get(key), new.data.get(key))


# ---------------------------------------------------------------------------------------------------- small steps


def _come_and_gone(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name in old:
        if name not in new:
            yield Change(ChangeKind.REMOVED, name, what, name, "")
    for name in new:
        if name not in old:
            yield Change(ChangeKind.ADDED, name, what, "", name)


def _lists(
    subject: str,
    what: str,
    old: tuple[str, ...],
    new: tuple[str, ...],
    kind: ChangeKind | None = None,
    *,
    flip: bool = False,
) -> Iterator[Change]:
    """A list whose items each demand something: gone loosens, come tightens. `flip` only turns what is shown."""
    gone = [item for item in old if item not in new]
    come = [item for item in new if item not in old]
    before, after = (new, old) if flip else (old, new)
    if gone or come:
        found = kind or (ChangeKind.LOOSENED if gone else ChangeKind.TIGHTENED)
        yield Change(found, subject, what, ", ".join(before), ", ".join(after))


def _items(mapping: Mapping[str, Any], part: str) -> tuple[str, ...]:
    return tuple(_squeezed(text_of(item)) for item in mapping.get(part) or ())


def _wording(kind: ChangeKind, subject: str, what: str, old: str, new: str) -> Change:
    """Words, compared without regard to how lines are broken; a re-flow is no change at all."""
    return Change(kind, subject, what, _squeezed(old), _squeezed(new))


def _named(subject: str, what: str, old: str | None, new: str | None) -> Change:
    """One named thing that is demanded: any other than before may be a weaker one."""
    kind = ChangeKind.TIGHTENED if old is None else ChangeKind.LOOSENED
    return Change(kind, subject, what, old or "", new or "")


def _number(
    subject: str, what: str, old: float | None, new: float | None, *, smaller_is_tighter: bool
) -> Iterator[Change]:
    kind = _number_change(old, new, smaller_is_tighter=smaller_is_tighter)
    if kind is not None:
        yield Change(kind, subject, what, "" if old is None else str(old), "" if new is None else str(new))


def _rest(
    subject: str, old: Mapping[str, Any], new: Mapping[str, Any], told: frozenset[str] | set[str], kind: ChangeKind
) -> Iterator[Change]:
    """Keys whose meaning pv does not weigh."""
    for key in [*old, *(key for key in new if key not in old)]:
        if key not in told and old.get(key) != new.get(key):
            yield _differs(kind, subject, str(key), old.get(key), new.get(key))


def _differs(kind: ChangeKind, subject: str, what: str, old: Any, new: Any) -> Change:
    """Two values known to differ; where they look alike in short, the words say that they are not."""
    before, after = _shown(old), _shown(new)
    return Change(kind, subject, what, before, after if after != before else f"{after} (otherwise)")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = _squeezed(str(value))
    return text if len(text) <= 80 else text[:79] + "…"


def _full(threshold: Threshold) -> str:
    unit = "" if threshold.unit == "1" else f" {threshold.unit}"
    repeat = "" if threshold.repeat is None else f" (repeat {threshold.repeat})"
    return f"{threshold}{unit}{repeat}"


def _cells(claim: Claim) -> tuple[str, ...]:
    return tuple(str(cell) for cell in claim.required_cells)


def _reason(claim: Claim) -> str:
    return claim.known_failing.reason if claim.known_failing else ""


def _text(claim: Claim, key: str) -> str:
    return text_of(claim.data.get(key))


def _squeezed(text: str) -> str:
    return " ".join(text.split())
