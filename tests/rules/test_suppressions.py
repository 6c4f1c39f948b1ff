"""A comment silences a finding on its line, with a reason, and only where that is allowed."""

from __future__ import annotations

import pytest

from pv.contract.vocabulary import Status
from pv.rules.facts import Facts
from tests.contract.samples import SOUND

ID = "  - id: FALSIFY-SOUND-001"


def codes(found) -> list[str]:
    return [each.code for each in found]


def test_a_finding_is_silenced_and_a_silenced_error_does_not_fail(check):
    text = SOUND.replace("version: 1.2.0", "version: next  # pv: ignore[PV215] decided by the release")
    assert codes(check(text)) == []
    assert codes(check(text.replace(" decided by the release", ""))) == ["PV115", "PV215"]


def test_a_comment_on_a_line_of_its_own_governs_the_next(check):
    text = SOUND.replace("  version: 1.2.0", "  # pv: ignore[PV215] decided by the release\n  version: next")
    assert codes(check(text)) == []


def test_several_codes_and_the_unused_one_among_them(check):
    text = SOUND.replace(ID, "  - id: F-1  # pv: ignore[PV218, PV213] old name")
    (found,) = check(text)
    assert found.code == "PV191"
    assert (
        found.message
        == f"this comment suppresses nothing: line {SOUND[: SOUND.index(ID)].count(chr(10)) + 1} has no PV213"
    )


def test_a_code_that_no_rule_has(check):
    (found,) = check(SOUND.replace("kind: schema", "kind: schema  # pv: ignore[PV999] why not"))
    assert found.message == "this comment suppresses nothing: there is no rule PV999"


@pytest.mark.parametrize("code", ["PV401", "PV405"])
def test_what_guards_statuses_cannot_be_silenced(check, code):
    text = SOUND.replace("    status: UNBOUND\n", f"    status: FUNCTIONAL  # pv: ignore[{code}] trust me\n", 1)
    found = check(text, facts={"FALSIFY-SOUND-001": Facts(Status.UNBOUND)})
    assert set(codes(found)) == {"PV191", "PV401", "PV405"}
    assert f"{code} cannot be suppressed" in next(each.message for each in found if each.code == "PV191")


def test_rules_about_evidence_are_silenced_where_they_are_looked_for(check):
    text = SOUND.replace(
        "    status: UNBOUND\n", "    status: UNBOUND  # pv: ignore[PV402] settled after the release\n", 1
    )
    assert codes(check(text, facts={"FALSIFY-SOUND-001": Facts(Status.FUNCTIONAL)})) == []
    assert codes(check(text, facts={"FALSIFY-SOUND-001": Facts(Status.UNBOUND)})) == ["PV191"]


def test_another_line_is_not_silenced(check):
    text = SOUND.replace("metadata:\n", "metadata:  # pv: ignore[PV215] wrong place\n").replace(
        "version: 1.2.0", "version: next"
    )
    assert sorted(codes(check(text))) == ["PV191", "PV215"]
