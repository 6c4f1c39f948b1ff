"""The rungs, exactly as the table states them, and the laws they keep."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pv.contract.claims import Claim
from pv.contract.vocabulary import DEFAULT_CELL, Cell, DeviceClass, Level, Status, Verdict
from pv.ladder.entitlement import Figure, RecordView, entitle, entitle_all

CPU = DEFAULT_CELL
CUDA = Cell(DeviceClass.CUDA, "tiny-teacher")
VULKAN = Cell(DeviceClass.VULKAN, "tiny-teacher")
SOFTWARE = Cell(DeviceClass.VULKAN_SW, "tiny-teacher")


def figures(value, repeat=None):
    return {"cosine": Figure(value, repeat)}


# --- the rungs -------------------------------------------------------------------------------------------------------


def test_nothing_run_is_unbound(make_claim):
    got = entitle(make_claim(), [])
    assert (got.status, got.verdict, got.heads) == (Status.UNBOUND, None, ())


def test_a_named_blocker_is_a_blocker(make_claim):
    got = entitle(make_claim(blocked_on=("model-1",)), [])
    assert got.status is Status.BLOCKER_FIXTURE_ABSENT
    assert got.missing[Status.PARTIAL_ALGORITHM_LEVEL][0] == "blocked on model-1"


def test_a_blocked_run_is_a_blocker_that_says_what_is_missing(make_claim, make_view):
    blocked = make_view(cell=CUDA, verdict=Verdict.BLOCKED, missing=("a CUDA device",))
    got = entitle(make_claim(required_cells=(CUDA,)), [blocked])
    assert (got.status, got.verdict) == (Status.BLOCKER_FIXTURE_ABSENT, Verdict.BLOCKED)
    assert got.heads == (blocked.digest,)
    assert "a CUDA device" in got.missing[Status.FUNCTIONAL][0]


@pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.INCONCLUSIVE])
def test_a_crash_earns_nothing(make_claim, make_view, verdict):
    got = entitle(make_claim(), [make_view(verdict=verdict, reason="killed")])
    assert (got.status, got.verdict, got.heads) == (Status.UNBOUND, verdict, ())


def test_an_algorithm_level_survival_in_any_cell_is_partial(make_claim, make_view):
    view = make_view(cell=SOFTWARE, level=Level.ALGORITHM)
    got = entitle(make_claim(required_cells=(CUDA, VULKAN)), [view])
    assert got.status is Status.PARTIAL_ALGORITHM_LEVEL
    assert got.heads == (view.digest,)


def test_software_vulkan_never_satisfies_vulkan(make_claim, make_view):
    views = [make_view(cell=SOFTWARE), make_view(cell=SOFTWARE, host="another")]
    assert entitle(make_claim(required_cells=(VULKAN,)), views).status is Status.PARTIAL_ALGORITHM_LEVEL


def test_functional_needs_every_required_cell_live(make_claim, make_view):
    claim = make_claim(required_cells=(CPU, CUDA))
    cpu = make_view(cell=CPU)
    assert entitle(claim, [cpu]).status is Status.PARTIAL_ALGORITHM_LEVEL
    assert entitle(claim, [cpu, make_view(cell=CUDA, level=Level.ALGORITHM)]).status is Status.PARTIAL_ALGORITHM_LEVEL
    assert entitle(claim, [cpu, make_view(cell=CUDA)]).status is Status.FUNCTIONAL


def test_what_is_missing_names_the_cell(make_claim, make_view):
    got = entitle(make_claim(required_cells=(CPU, CUDA)), [make_view(cell=CPU)])
    assert got.missing[Status.FUNCTIONAL] == ("a run on cuda · tiny-teacher (none yet)",)
    assert any(m.startswith("on cpu · code: a second live record") for m in got.missing[Status.DISCHARGED])


def test_controls_not_all_caught_is_vacuous_whatever_the_record_says(make_claim, make_view):
    got = entitle(make_claim(), [make_view(controls_caught=False)])
    assert (got.status, got.verdict) == (Status.UNBOUND, Verdict.VACUOUS)


# --- discharge -------------------------------------------------------------------------------------------------------


def test_the_named_oracle_discharges_in_the_same_record(make_claim, make_view):
    claim = make_claim(oracle="hf")
    assert entitle(claim, [make_view(oracle="hf", oracle_agreed=True)]).status is Status.DISCHARGED
    assert entitle(claim, [make_view(oracle="llama.cpp", oracle_agreed=True)]).status is Status.FUNCTIONAL
    assert entitle(make_claim(), [make_view(oracle="hf", oracle_agreed=True)]).status is Status.FUNCTIONAL
    assert (
        entitle(claim, [make_view(oracle="hf", oracle_agreed=True, level=Level.ALGORITHM)]).status
        is Status.PARTIAL_ALGORITHM_LEVEL
    )


def test_an_oracle_that_disagrees_refuses_every_way_to_discharge(make_claim, make_view):
    views = [
        make_view(oracle="hf", oracle_agreed=False, figures=figures(1.0)),
        make_view(oracle="hf", oracle_agreed=True, figures=figures(1.0), host="another"),
    ]
    got = entitle(make_claim(oracle="hf"), views)
    assert got.status is Status.FUNCTIONAL
    assert "disagreed" in got.missing[Status.DISCHARGED][0]


@pytest.mark.parametrize(
    ("difference", "status"),
    [
        ({"host": "b"}, Status.DISCHARGED),
        ({"driver": "560"}, Status.DISCHARGED),
        ({"seed": 2}, Status.DISCHARGED),
        ({}, Status.FUNCTIONAL),
        ({"seed": None}, Status.FUNCTIONAL),
        ({"host": "b", "figures": figures(0.5)}, Status.FUNCTIONAL),
        ({"host": "b", "figures": {}}, Status.FUNCTIONAL),
        ({"host": "b", "figures": {"other": Figure(1.0)}}, Status.FUNCTIONAL),
        ({"host": "b", "level": Level.ALGORITHM}, Status.FUNCTIONAL),
        ({"host": "b", "cell": CUDA}, Status.FUNCTIONAL),
        ({"host": "b", "retracted": "wrong"}, Status.FUNCTIONAL),
        ({"host": "b", "generation": "old", "stale": "x changed"}, Status.FUNCTIONAL),
    ],
)
def test_a_second_record_discharges_only_if_it_is_independent_and_agrees(make_claim, make_view, difference, status):
    first = {"host": "a", "driver": "550", "seed": 1, "figures": figures(1.0)}
    views = [make_view(**first), make_view(**{**first, **difference})]
    assert entitle(make_claim(), views).status is status


def test_a_seedless_check_repeated_here_proves_nothing(make_claim, make_view):
    views = [make_view(figures=figures(1.0)) for _ in range(5)]
    got = entitle(make_claim(), views)
    assert got.status is Status.FUNCTIONAL
    assert "a second run on this machine does not count" in got.missing[Status.DISCHARGED][0]


@pytest.mark.parametrize(
    ("one", "other", "repeat", "agrees"),
    [
        (1.0, 1.0, None, True),
        (1.0, math.nextafter(1.0, 2), None, False),
        (1.0, 1.1, 0.2, True),
        (1.0, 1.3, 0.2, False),
        (math.nan, math.nan, 1.0, False),
        (math.inf, math.inf, 1.0, False),
        (math.inf, 1.0, math.inf, False),
    ],
)
def test_agreement_is_within_the_repeat_bound(make_claim, make_view, one, other, repeat, agrees):
    views = [make_view(host="a", figures=figures(one, repeat)), make_view(host="b", figures=figures(other, repeat))]
    assert (entitle(make_claim(), views).status is Status.DISCHARGED) is agrees


def test_two_records_without_figures_agree_on_nothing(make_claim, make_view):
    assert entitle(make_claim(), [make_view(host="a"), make_view(host="b")]).status is Status.FUNCTIONAL


def test_an_exhausted_bound_discharges_if_it_is_the_bound(make_claim, make_view):
    claim = make_claim(bound=280)
    assert entitle(claim, [make_view(exhausted=280)]).status is Status.DISCHARGED
    assert entitle(claim, [make_view(exhausted=279)]).status is Status.FUNCTIONAL
    assert entitle(claim, [make_view(exhausted=280, level=Level.ALGORITHM)]).status is Status.PARTIAL_ALGORITHM_LEVEL


def test_discharge_is_needed_in_every_required_cell(make_claim, make_view):
    claim = make_claim(required_cells=(CPU, CUDA), oracle="hf")
    views = [make_view(cell=CPU, oracle="hf", oracle_agreed=True), make_view(cell=CUDA)]
    assert entitle(claim, views).status is Status.FUNCTIONAL
    views[1] = make_view(cell=CUDA, oracle="hf", oracle_agreed=True)
    assert entitle(claim, views).status is Status.DISCHARGED


# --- breaking, and what cannot hide it -------------------------------------------------------------------------------


def test_one_required_cell_breaks_the_claim(make_claim, make_view):
    claim = make_claim(required_cells=(CPU, CUDA))
    broken = make_view(cell=CUDA, verdict=Verdict.FALSIFIED)
    got = entitle(claim, [make_view(cell=CPU), broken])
    assert (got.status, got.verdict) == (Status.FALSIFIED, Verdict.FALSIFIED)
    assert broken.digest in got.heads


def test_a_break_elsewhere_is_told_but_does_not_falsify(make_claim, make_view):
    views = [make_view(cell=CPU), make_view(cell=SOFTWARE, verdict=Verdict.FALSIFIED)]
    got = entitle(make_claim(), views)
    assert (got.status, got.verdict) == (Status.FUNCTIONAL, Verdict.FALSIFIED)
    assert any(r.startswith("vulkan-sw") for r in got.reasons)


@pytest.mark.parametrize("verdict", [Verdict.BLOCKED, Verdict.ERROR, Verdict.INCONCLUSIVE])
@pytest.mark.parametrize("earned", [Verdict.FALSIFIED, Verdict.SURVIVED, Verdict.VACUOUS])
def test_what_decides_nothing_hides_nothing(make_claim, make_view, verdict, earned):
    before = [make_view(verdict=earned)]
    after = [*before, make_view(verdict=verdict, reason="later")]
    assert entitle(make_claim(), after) == entitle(make_claim(), before)


def test_vacuous_drops_to_unbound_even_with_a_blocker_named(make_claim, make_view):
    views = [make_view(), make_view(generation="", verdict=Verdict.VACUOUS)]
    assert entitle(make_claim(blocked_on=("x",)), views).status is Status.UNBOUND


def test_running_again_until_it_passes_earns_nothing(make_claim, make_view):
    views = [make_view(verdict=Verdict.FALSIFIED, seed=7), *[make_view(seed=i) for i in range(8, 20)]]
    assert entitle(make_claim(), views).status is Status.FALSIFIED


def test_a_change_of_the_code_ends_a_break(make_claim, make_view):
    broken = make_view(verdict=Verdict.FALSIFIED, generation="old", stale="x.py changed since")
    assert entitle(make_claim(), [broken]).status is Status.FALSIFIED, "kept, shown as stale, until something runs"
    assert entitle(make_claim(), [broken]).stale == "x.py changed since"
    assert entitle(make_claim(), [broken, make_view(generation="new")]).status is Status.FUNCTIONAL


def test_going_back_to_proven_code_brings_its_status_back(make_claim, make_view):
    proven = make_view(generation="good")
    planted = make_view(generation="bad", verdict=Verdict.FALSIFIED, stale="x.py changed since")
    got = entitle(make_claim(), [proven, planted])
    assert (got.status, got.stale) == (Status.FUNCTIONAL, "")


def test_a_new_driver_on_the_same_host_ends_a_break_and_another_host_does_not(make_claim, make_view):
    broken = make_view(verdict=Verdict.FALSIFIED, host="a", driver="550")
    assert entitle(make_claim(), [broken, make_view(host="b", driver="560")]).status is Status.FALSIFIED
    assert entitle(make_claim(), [broken, make_view(host="a", driver="560")]).status is Status.FUNCTIONAL
    assert (
        entitle(
            make_claim(), [make_view(host="a", driver="560"), make_view(verdict=Verdict.FALSIFIED, host="a")]
        ).status
        is Status.FALSIFIED
    )


def test_a_stale_status_is_kept_and_says_why(make_claim, make_view):
    views = [
        make_view(generation="old", stale="pv/model/ops.py changed since", host=h, figures=figures(1)) for h in "ab"
    ]
    got = entitle(make_claim(), views)
    assert (got.status, got.stale) == (Status.DISCHARGED, "pv/model/ops.py changed since")


def test_generations_do_not_lend_each_other_evidence(make_claim, make_view):
    old = [make_view(generation="old", stale="changed", host=h, figures=figures(1)) for h in "ab"]
    assert entitle(make_claim(), [*old, make_view(generation="new")]).status is Status.FUNCTIONAL


def test_retraction_falls_to_what_is_left(make_claim, make_view):
    partial, live = make_view(level=Level.ALGORITHM), make_view()
    assert entitle(make_claim(), [partial, live]).status is Status.FUNCTIONAL
    retracted = replace(live, retracted="the fixture was wrong")
    assert entitle(make_claim(), [partial, retracted]).status is Status.PARTIAL_ALGORITHM_LEVEL
    assert entitle(make_claim(), [retracted]).status is Status.UNBOUND


# --- preconditions ---------------------------------------------------------------------------------------------------


def test_a_precondition_that_falls_makes_its_dependants_inconclusive_and_moves_no_rung(make_claim, make_view):
    claims = [make_claim("A", precondition=("B",)), make_claim("B")]
    views = {"A": [make_view()], "B": [make_view()]}
    assert entitle_all(claims, views)["A"].verdict is Verdict.SURVIVED
    views["B"].append(make_view(verdict=Verdict.FALSIFIED))
    got = entitle_all(claims, views)["A"]
    assert (got.status, got.verdict) == (Status.FUNCTIONAL, Verdict.INCONCLUSIVE)
    assert "INCONCLUSIVE: precondition B does not survive" in got.reasons


def test_a_falsified_claim_stays_so_under_an_unmet_precondition(make_claim, make_view):
    got = entitle(make_claim(), [make_view(verdict=Verdict.FALSIFIED)], unmet=["B"])
    assert (got.status, got.verdict) == (Status.FALSIFIED, Verdict.FALSIFIED)


def test_preconditions_chain_and_circles_are_unmet(make_claim, make_view):
    claims = [make_claim("A", precondition=("B",)), make_claim("B", precondition=("C",)), make_claim("C")]
    got = entitle_all(claims, {i: [make_view()] for i in "AB"})
    assert [got[i].verdict for i in "ABC"] == [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, None]
    circle = [
        make_claim("A", precondition=("B",)),
        make_claim("B", precondition=("A",)),
        make_claim("D", precondition=("?",)),
    ]
    got = entitle_all(circle, {i: [make_view()] for i in "ABD"})
    assert {got[i].verdict for i in "ABD"} == {Verdict.INCONCLUSIVE}


# --- laws ------------------------------------------------------------------------------------------------------------

moments = st.integers(0, 86399).map(lambda s: f"2026-11-20T{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}Z")
views = st.builds(
    RecordView,
    digest=st.integers(0, 2**64).map(lambda i: f"sha256:{i:064x}"),
    started_at=moments,
    cell=st.sampled_from([CPU, CUDA, SOFTWARE]),
    level=st.sampled_from(Level),
    verdict=st.sampled_from(Verdict),
    generation=st.just("now"),
    controls_caught=st.booleans(),
    figures=st.sampled_from([figures(1.0), figures(2.0), {}]),
    host=st.sampled_from("ab"),
    driver=st.sampled_from(["1", "2"]),
    seed=st.sampled_from([None, 1, 2]),
    oracle=st.sampled_from(["", "hf"]),
    oracle_agreed=st.booleans(),
    retracted=st.sampled_from(["", "", "why"]),
) | st.builds(
    RecordView,
    digest=st.integers(0, 2**64).map(lambda i: f"sha256:{i:064x}"),
    started_at=moments,
    cell=st.sampled_from([CPU, CUDA, SOFTWARE]),
    level=st.sampled_from(Level),
    verdict=st.sampled_from(Verdict),
    generation=st.sampled_from(["old", "older"]),
    stale=st.just("changed"),
)
CLAIM = Claim(id="X", loc=(), family="falsifier", required_cells=(CPU, CUDA), oracle="hf")


@given(st.lists(views, max_size=8, unique_by=lambda v: v.digest), st.randoms())
def test_the_order_of_records_does_not_matter(records, random):
    shuffled = records[:]
    random.shuffle(shuffled)
    assert entitle(CLAIM, shuffled) == entitle(CLAIM, records)


@given(st.lists(views, max_size=8, unique_by=lambda v: v.digest))
def test_a_retracted_record_is_as_if_it_had_never_been(records):
    assert entitle(CLAIM, records) == entitle(CLAIM, [v for v in records if not v.retracted])


@given(st.lists(views, max_size=6, unique_by=lambda v: v.digest), views)
def test_a_fresh_survival_never_lowers_what_fresh_records_hold(records, more):
    fresh = [v for v in records if not v.stale]
    added = replace(
        more, verdict=Verdict.SURVIVED, controls_caught=True, stale="", generation="now", oracle="", retracted=""
    )
    before, after = entitle(CLAIM, fresh).status, entitle(CLAIM, [*fresh, added]).status
    assert after.rung >= before.rung


@given(st.lists(views, max_size=6, unique_by=lambda v: v.digest), views)
def test_a_fresh_break_in_a_required_cell_is_never_outvoted_by_older_records(records, more):
    added = replace(
        more,
        verdict=Verdict.FALSIFIED,
        cell=CPU,
        stale="",
        generation="now",
        retracted="",
        started_at="2027-01-01T00:00:00Z",
    )
    assert entitle(CLAIM, [*records, added]).status is Status.FALSIFIED


@given(st.lists(views, max_size=8, unique_by=lambda v: v.digest))
def test_the_status_is_never_above_the_weakest_required_cell(records):
    got = entitle(CLAIM, records)
    lowest = min((s.rung for s in got.cells if s.required), key=lambda r: r.rung)
    if got.status.rung >= Status.FUNCTIONAL.rung:
        assert got.status is lowest
    assert len(got.heads) == len({s.cell for s in got.cells if s.head})


class History(RuleBasedStateMachine):
    """A claim lived through: code changes, runs, retractions. The model keeps, for the present code, what stands."""

    def __init__(self):
        super().__init__()
        self.records: list[RecordView] = []
        self.code = 0
        self.clock = 0

    def add(self, verdict, level=Level.LIVE, host="a"):
        self.clock += 1
        self.records.append(
            RecordView(
                digest=f"sha256:{self.clock:064x}",
                started_at=f"2026-11-20T{self.clock // 60:02d}:{self.clock % 60:02d}:00Z",
                cell=CPU,
                level=level,
                verdict=verdict,
                generation=str(self.code),
                host=host,
                figures=figures(1.0),
            )
        )

    @rule(verdict=st.sampled_from(Verdict), level=st.sampled_from(Level), host=st.sampled_from("ab"))
    def run(self, verdict, level, host):
        self.add(verdict, level, host)

    @rule(to=st.integers(0, 3))
    def change_the_code(self, to):
        self.code = to

    @rule(which=st.integers(0, 100))
    def retract(self, which):
        if self.records:
            i = which % len(self.records)
            self.records[i] = replace(self.records[i], retracted="why")

    def views(self):
        return [replace(v, stale="" if v.generation == str(self.code) else "code changed") for v in self.records]

    @invariant()
    def the_status_is_what_stands(self):
        got = entitle(Claim(id="X", loc=(), family="falsifier"), self.views()).status
        assert got is self.expected()

    def expected(self):
        standing = [v for v in self.records if not v.retracted]
        decisive = [v for v in standing if v.verdict in (Verdict.SURVIVED, Verdict.FALSIFIED, Verdict.VACUOUS)]
        here = [v for v in decisive if v.generation == str(self.code)]
        here = here or [v for v in decisive if v.generation == decisive[-1].generation]
        verdicts = {v.verdict for v in here}
        if Verdict.FALSIFIED in verdicts:
            return Status.FALSIFIED
        if Verdict.VACUOUS in verdicts:
            return Status.UNBOUND
        if not here:
            blocked = bool(standing) and standing[-1].verdict is Verdict.BLOCKED
            return Status.BLOCKER_FIXTURE_ABSENT if blocked else Status.UNBOUND
        hosts = {v.host for v in here if v.level is Level.LIVE}
        return [Status.PARTIAL_ALGORITHM_LEVEL, Status.FUNCTIONAL, Status.DISCHARGED][len(hosts)]


TestHistory = History.TestCase
