"""What a change means, by example and by law."""

from __future__ import annotations

import itertools
import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.contract.claims import Threshold
from pv.contract.meaning import (
    Change,
    ChangeKind,
    Numbers,
    accepted,
    compare,
    demanded,
    is_unsettled,
    least_version,
    numbers_of,
    threshold_change,
)
from pv.contract.vocabulary import Bump

COMPARE = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


def judged(threshold: Threshold, value: float) -> bool:
    """An independent reading of a threshold."""
    if isinstance(threshold.value, tuple):
        return threshold.value[0] <= value <= threshold.value[1]
    return COMPARE[threshold.op](value, threshold.value)


# A coarse grid makes equal bounds, neighbours and empty ranges frequent.
bounds = st.integers(-3, 3).map(float) | st.sampled_from([math.inf, -math.inf, math.nan])
thresholds = st.builds(Threshold, st.sampled_from(sorted(COMPARE)), bounds) | st.builds(
    Threshold, st.just("within"), st.tuples(bounds, bounds)
)
GRID = [n / 2 for n in range(-9, 10)]  # the bounds, points between them, and points beyond


@given(thresholds)
def test_the_accepted_numbers_are_those_that_the_operator_accepts(threshold):
    for value in GRID:
        inside = any(
            (p.low < value or (p.low == value and p.low_in)) and (value < p.high or (value == p.high and p.high_in))
            for p in accepted(threshold)
        )
        expected = judged(threshold, value) and not (isinstance(threshold.value, float) and math.isnan(threshold.value))
        assert inside == expected, (threshold, value)


@given(thresholds, thresholds)
def test_tightened_means_that_nothing_new_is_accepted(old, new):
    change = threshold_change(old, new)
    before = {value for value in GRID if any_accepts(old, value)}
    after = {value for value in GRID if any_accepts(new, value)}
    if change is ChangeKind.TIGHTENED:
        assert after < before or (after <= before and not after)
    elif change is None:
        assert after == before
    else:
        assert change is ChangeKind.LOOSENED
        assert not after <= before


def any_accepts(threshold: Threshold, value: float) -> bool:
    return any(
        p.low <= value <= p.high and (value != p.low or p.low_in) and (value != p.high or p.high_in)
        for p in accepted(threshold)
    )


@given(thresholds, thresholds)
def test_of_a_change_and_its_reverse_one_at_least_is_loosened(old, new):
    there, back = threshold_change(old, new), threshold_change(new, old)
    assert (there is None) == (back is None)
    if there is not None:
        assert ChangeKind.LOOSENED in (there, back)


def test_tightening_twice_is_tightening():
    few = [Threshold(op, float(bound)) for op in COMPARE for bound in (-1, 0, 1)]
    few += [Threshold("within", pair) for pair in ((-1, 1), (0, 1), (1, 0))]
    tighter = {(a, b) for a, b in itertools.product(few, few) if threshold_change(a, b) is ChangeKind.TIGHTENED}
    chains = [(a, c) for (a, b), (b_, c) in itertools.product(tighter, tighter) if b == b_]
    assert len(chains) > 50
    assert set(chains) <= tighter


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (Threshold(">=", 0.99), Threshold(">=", 0.999), ChangeKind.TIGHTENED),
        (Threshold(">=", 0.99), Threshold(">", 0.99), ChangeKind.TIGHTENED),
        (Threshold(">=", 0.99), Threshold(">=", 0.98), ChangeKind.LOOSENED),
        (Threshold(">=", 0.99), Threshold("<=", 0.99), ChangeKind.LOOSENED),
        (Threshold("<=", 1), Threshold("within", (0, 1)), ChangeKind.TIGHTENED),
        (Threshold("within", (0, 1)), Threshold("==", 1), ChangeKind.TIGHTENED),
        (Threshold("within", (0, 2)), Threshold("within", (1, 3)), ChangeKind.LOOSENED),
        (Threshold("within", (1, 1)), Threshold("==", 1), None),
        (Threshold("<", 1, "ms"), Threshold("<", 1, "s"), ChangeKind.LOOSENED),
        (Threshold("<", 1, repeat=0.5), Threshold("<", 1, repeat=0.1), ChangeKind.TIGHTENED),
        (Threshold("<", 1), Threshold("<", 1, repeat=0.1), ChangeKind.LOOSENED),
        (Threshold("<", 1), Threshold("<", 0.5, repeat=0.1), ChangeKind.LOOSENED),
        (Threshold("!=", 0), Threshold(">", 0), ChangeKind.TIGHTENED),
    ],
)
def test_thresholds_by_example(old, new, kind):
    assert threshold_change(old, new) is kind


def changed(read, before: str, *steps: tuple[str, str]):
    after = before
    for old, new in steps:
        assert old in after, old
        after = after.replace(old, new, 1)
    one, other = read(before).contract, read(after).contract
    assert one is not None
    assert other is not None, read(after).diagnostics
    return compare(one, other)


ADDED = "  - {id: FALSIFY-SOUND-002, prediction: p, if_fails: f, binds_to: PO-1}\nkani_harnesses:"


@pytest.mark.parametrize(
    ("steps", "active", "proposed"),
    [
        ((), Bump.NONE, Bump.NONE),
        ((("version: 1.2.0", "version: 1.3.0"),), Bump.NONE, Bump.NONE),
        ((("  status: ACTIVE", "  status: ACTIVE\n  changelog: [{1.2.0: x}]"),), Bump.NONE, Bump.NONE),
        ((("a sound contract", "a very sound contract"),), Bump.PATCH, Bump.PATCH),
        ((("rule: a is b", "rule: a equals b"),), Bump.PATCH, Bump.PATCH),
        ((("if_fails: a is not b", "if_fails: look at a"),), Bump.PATCH, Bump.PATCH),
        ((("test: pytest tests/test_ab.py", "test: make test"),), Bump.PATCH, Bump.PATCH),
        ((("status: UNBOUND", "status: FUNCTIONAL"),), Bump.MINOR, Bump.MINOR),
        ((("status: UNBOUND", "status: UNBOUND\n    algorithm_evidence: [x]"),), Bump.MINOR, Bump.MINOR),
        ((("kani_harnesses:", ADDED),), Bump.MINOR, Bump.MINOR),
        ((("value: 0.5", "value: 0.25"),), Bump.MINOR, Bump.MINOR),
        ((("value: 0.5", "value: 0.75"),), Bump.MAJOR, Bump.MINOR),
        ((('op: "<="', 'op: ">="'),), Bump.MAJOR, Bump.MINOR),
        ((("      gap:", "      width:"),), Bump.MAJOR, Bump.MINOR),
        ((("prediction: a minus b is 0", "prediction: a minus b is small"),), Bump.MINOR, Bump.MINOR),
        ((("prediction: a minus b is 0", "prediction: a minus   b\n      is 0"),), Bump.NONE, Bump.NONE),
        ((("[parity, PO-1]", "[parity]"),), Bump.MAJOR, Bump.MINOR),
        ((("[parity, PO-1]", "[PO-1, parity]"),), Bump.NONE, Bump.NONE),
        ((("bound: 8", "bound: 16"),), Bump.MINOR, Bump.MINOR),
        ((("bound: 8", "bound: 4"),), Bump.MAJOR, Bump.MINOR),
        ((("formula: a = b", "formula: a <= b"),), Bump.MAJOR, Bump.MINOR),
        ((("domain: numbers", "domain: numbers\n    invariants: [a]"),), Bump.MINOR, Bump.MINOR),
        ((("domain: numbers", "domain: numbers\n    preconditions: [a]"),), Bump.MAJOR, Bump.MINOR),
        ((("tolerance: 1.0e-6", "tolerance: 1.0e-7"),), Bump.MINOR, Bump.MINOR),
        ((("tolerance: 1.0e-6", "tolerance: 1.0e-5"),), Bump.MAJOR, Bump.MINOR),
        ((("type: invariant", "type: invariant\n    applies_to: not_applicable"),), Bump.MAJOR, Bump.MINOR),
        ((("type: invariant", "type: invariant\n    applies_to: simd"),), Bump.MINOR, Bump.MINOR),
        ((("status: UNBOUND", "requires: {oracle: hf}\n    status: UNBOUND"),), Bump.MINOR, Bump.MINOR),
        ((("status: UNBOUND", "requires: {cells: [{}, {subject: s}]}\n    status: UNBOUND"),), Bump.MINOR, Bump.MINOR),
        ((("status: UNBOUND", "requires: {cells: [{device: cuda}]}\n    status: UNBOUND"),), Bump.MAJOR, Bump.MINOR),
        ((("status: UNBOUND", "precondition: KH-SOUND-001\n    status: UNBOUND"),), Bump.MAJOR, Bump.MINOR),
        ((("status: UNBOUND", "blocked_on: [model-1]\n    status: UNBOUND"),), Bump.MINOR, Bump.MINOR),
        ((("status: UNBOUND", "claim: guard\n    status: UNBOUND"),), Bump.MAJOR, Bump.MINOR),
        ((("kind: schema", "kind: pattern"),), Bump.MAJOR, Bump.MINOR),
        ((("kani_harnesses:", "enforcement: {r: {description: d}}\nkani_harnesses:"),), Bump.MINOR, Bump.MINOR),
        ((("id: FALSIFY-SOUND-001", "id: FALSIFY-SOUND-009"),), Bump.MAJOR, Bump.MINOR),
    ],
)  # fmt: skip
def test_the_bump_that_a_change_demands(read, sound, steps, active, proposed):
    changes = changed(read, sound, *steps)
    assert demanded(changes, "ACTIVE") is active
    assert demanded(changes, "PROPOSED") is proposed


def test_without_thresholds_the_words_are_the_claim(read, sound):
    bare = sound.replace(
        '    thresholds:\n      gap: {op: "<=", value: 0.5, unit: "1", source: equations.parity}\n', ""
    )
    changes = changed(read, bare, ("prediction: a minus b is 0", "prediction: a minus b is small"))
    assert demanded(changes, "ACTIVE") is Bump.MAJOR


def test_every_change_says_what_it_was_and_what_it_is(read, sound):
    changes = changed(read, sound, ("value: 0.5", "value: 0.75"), ("status: UNBOUND", "status: FUNCTIONAL"))
    assert [str(change) for change in changes] == [
        "FALSIFY-SOUND-001: thresholds.gap loosened: <= 0.5 -> <= 0.75",
        "FALSIFY-SOUND-001: status status: UNBOUND -> FUNCTIONAL",
    ]


def test_an_obligation_without_an_id_is_known_by_its_sentence(read, sound):
    bare = sound.replace("  - id: PO-1\n    type: invariant", "  - type: invariant").replace("[parity, PO-1]", "parity")
    moved = bare.replace("proof_obligations:\n", "proof_obligations:\n  - {property: another}\n")
    (change,) = compare(read(bare).contract, read(moved).contract)
    assert change == Change(ChangeKind.ADDED, "another", "obligation", "", "another")


def test_documents_that_have_promised_nothing():
    assert is_unsettled("PROPOSED")
    assert is_unsettled("draft, until the kernel lands")
    assert not is_unsettled(None), "a document that names no status is taken at its word"
    assert not is_unsettled("ACTIVE")
    assert not is_unsettled("PARTIAL_ALGORITHM_LEVEL")


def test_versions():
    assert numbers_of("1.10.2-rc.1+x") == Numbers(1, 10, 2)
    assert numbers_of("1.0") is None
    assert numbers_of("01.0.0") is None
    old = Numbers(1, 2, 3)
    assert [str(least_version(old, bump)) for bump in Bump] == ["1.2.3", "1.2.4", "1.3.0", "2.0.0"]


@given(st.lists(st.sampled_from(list(ChangeKind))), st.sampled_from([None, "DRAFT", "ACTIVE"]))
def test_more_changes_never_demand_less(kinds, status):
    changes = tuple(Change(kind, "s", "w", "a", "b") for kind in kinds)
    for count in range(len(changes)):
        assert demanded(changes[:count], status).value <= demanded(changes, status).value


def test_the_corpus_is_no_change_of_itself(corpus):
    from pv.contract.load import load_all
    from pv.contract.project import Project

    for loaded in load_all([corpus], Project(root=corpus)):
        if loaded.contract is not None:
            assert compare(loaded.contract, loaded.contract) == (), loaded.display
