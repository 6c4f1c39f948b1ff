"""What is written of a claim against what was earned: every pair of rungs, every kind of evidence block."""

from __future__ import annotations

from itertools import product

import pytest

from pv.contract.vocabulary import Status
from pv.rules.facts import Facts
from tests.contract.samples import SOUND

CLAIM = "FALSIFY-SOUND-001"
STATUS = "    status: UNBOUND\nkani"
BLOCKS = "    algorithm_evidence: [words]\n    functional_evidence: [words]\n"


def written(lines: str) -> str:
    assert STATUS in SOUND
    return SOUND.replace(STATUS, f"{lines}kani", 1)


def about_status(found) -> list[str]:
    return [each.code for each in found if each.code.startswith("PV40")]


@pytest.mark.parametrize(("word", "earned"), list(product(Status, Status)))
def test_every_pair_of_rungs(check, word, earned):
    text = written(f"    status: {word}\n{BLOCKS}")
    expected = {True: ["PV401"], False: ["PV402"]}.get(word.rung > earned.rung) if word is not earned else []
    assert about_status(check(text, facts={CLAIM: Facts(earned)})) == expected


@pytest.mark.parametrize("earned", Status)
def test_nothing_written_is_unbound(check, earned):
    found = about_status(check(written(""), "compat", facts={CLAIM: Facts(earned)}))
    assert found == (["PV402"] if earned.rung > 0 else [])


def test_a_foreign_word_is_neither_above_nor_below(check):
    found = about_status(check(written("    status: SHINING\n"), "compat", facts={CLAIM: Facts(Status.DISCHARGED)}))
    assert found == ["PV407"], "it is never overwritten unasked, so nothing is to be settled"


def test_the_reason_for_a_status_that_is_too_high_is_told(check):
    text = written(f"    status: DISCHARGED\n{BLOCKS}")
    (found,) = check(text, facts={CLAIM: Facts(Status.FUNCTIONAL, reason="no second host", has_check=True)})
    assert "entitles to FUNCTIONAL: no second host" in found.message
    assert "`pv falsify --id FALSIFY-SOUND-001`" in found.help


@pytest.mark.parametrize(
    ("status", "blocks", "lacking"),
    [
        ("UNBOUND", "", None),
        ("FALSIFIED", "", None),
        ("BLOCKER_FIXTURE_ABSENT", "", "`algorithm_evidence`"),
        ("PARTIAL_ALGORITHM_LEVEL", "", "`algorithm_evidence`"),
        ("PARTIAL_ALGORITHM_LEVEL", "functional_evidence: [w]", "`algorithm_evidence`"),
        ("PARTIAL_ALGORITHM_LEVEL", "algorithm_evidence: {}", "`algorithm_evidence`"),
        ("PARTIAL_ALGORITHM_LEVEL", "algorithm_evidence: []", "`algorithm_evidence`"),
        (
            "PARTIAL_ALGORITHM_LEVEL",
            "algorithm_evidence: {last_verified: '2026-01-01', notes: ''}",
            "`algorithm_evidence`",
        ),
        ("PARTIAL_ALGORITHM_LEVEL", "algorithm_evidence: {notes: words}", None),
        ("PARTIAL_ALGORITHM_LEVEL", "algorithm_evidence: [w]", None),
        ("FUNCTIONAL", "algorithm_evidence: [w]", "`functional_evidence`"),
        ("FUNCTIONAL", "functional_evidence: [w]", "`algorithm_evidence`"),
        ("DISCHARGED", "", "`algorithm_evidence` and no `functional_evidence`"),
        ("DISCHARGED", "algorithm_evidence: [w]\n    functional_evidence: w", None),
    ],
)
@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_no_rung_without_its_block(check, status, blocks, lacking, profile):
    text = written(f"    status: {status}\n" + (f"    {blocks}\n" if blocks else ""))
    found = [each for each in check(text, profile) if each.code == "PV405"]
    assert [each.message.partition("with no ")[2] for each in found] == ([lacking] if lacking else [])
    assert all(each.severity.value == "error" for each in found)


def test_a_status_inside_the_evidence_is_judged_where_it_stands(check):
    text = written(
        "    algorithm_evidence:\n      status: FUNCTIONAL\n      notes: words\n    functional_evidence: [w]\n"
    )
    (found,) = check(text, "compat", facts={CLAIM: Facts(Status.UNBOUND)})
    assert found.code == "PV401"
    assert found.span.line == text[: text.index("status: FUNCTIONAL")].count("\n") + 1


def test_the_same_status_in_both_places_is_one(check):
    text = written("    status: UNBOUND\n    algorithm_evidence: {status: UNBOUND, notes: words}\n")
    assert check(text) == []


@pytest.mark.parametrize(
    ("document", "falsifier", "boasts"),
    [
        ("ACTIVE", "UNBOUND", False),
        ("PROPOSED", "UNBOUND", False),
        ("FUNCTIONAL", "PARTIAL_ALGORITHM_LEVEL", True),
        ("functional", "PARTIAL_ALGORITHM_LEVEL", True),
        ("FUNCTIONAL", "DISCHARGED", False),
        ("ACTIVE_ALGORITHM_LEVEL", "PARTIAL_ALGORITHM_LEVEL", False),
        ("COMPLETE", "FUNCTIONAL", True),
        ("BOUND", "UNBOUND", True),
        ("BOUND", "BLOCKER_FIXTURE_ABSENT", False),
        ("BOUND", "FALSIFIED", True),
        ("some words of their own", "UNBOUND", False),
    ],
)
def test_a_document_says_no_more_than_its_falsifiers_earned(check, document, falsifier, boasts):
    text = written(f"    status: {falsifier}\n{BLOCKS}").replace("  status: ACTIVE", f"  status: {document}")
    assert [each.code for each in check(text) if each.code == "PV408"] == (["PV408"] if boasts else [])
    assert "PV408" not in [each.code for each in check(text, "compat")]


def test_a_document_is_measured_by_the_records_where_there_are_any(check):
    text = written(f"    status: FUNCTIONAL\n{BLOCKS}").replace("  status: ACTIVE", "  status: FUNCTIONAL")
    found = {each.code for each in check(text, facts={CLAIM: Facts(Status.UNBOUND)})}
    assert found == {"PV401", "PV408"}


def test_a_blocker_is_as_good_as_a_check(check):
    facts = {CLAIM: Facts(Status.UNBOUND, has_check=False)}
    assert [each.code for each in check(SOUND, facts=facts)] == ["PV410"]
    assert check(written("    blocked_on: [model-1]\n    status: UNBOUND\n"), facts=facts) == []
    assert check(SOUND, facts={CLAIM: Facts(Status.UNBOUND, has_check=None)}) == [], "nobody looked"
    assert check(SOUND, "compat", facts=facts) == []


def test_stale_evidence_of_nothing_is_nothing(check):
    stale = "ops.py changed since"
    assert check(SOUND, facts={CLAIM: Facts(Status.UNBOUND, stale=stale)}) == []
    text = written("    status: FALSIFIED\n")
    assert check(text, facts={CLAIM: Facts(Status.FALSIFIED, stale=stale)}) == []
