"""`pv retract`: a record that should not count, and what falls with it."""

from __future__ import annotations

import pytest


def text(house) -> str:
    return (house.root / "contracts" / "x-v1.yaml").read_text()


def digest(house) -> str:
    (path,) = (house.root / "evidence" / "FALSIFY-X-001").glob("*.json")
    return path.stem.rpartition("-")[2]


def test_retract_writes_a_record_and_the_claim_falls(earned, pv):
    name = digest(earned)
    ran = pv("retract", name, "--reason", "the fixture was wrong")
    assert ran.code == 0
    assert "FALSIFY-X-001  FUNCTIONAL -> UNBOUND" in ran.out
    assert "status: UNBOUND" in text(earned)
    shown = pv("evidence", "show", name).out
    assert "RETRACTED: the fixture was wrong" in shown
    assert pv("verify").code == 0


@pytest.mark.parametrize(("name", "reason"), [("0" * 12, "x"), (None, " ")])
def test_retract_of_nothing_is_a_wrong_call(earned, pv, name, reason):
    assert pv("retract", name or digest(earned), "--reason", reason).code == 2
    assert pv("retract", digest(earned)).code == 2


def test_retract_can_leave_the_contract_for_later(earned, pv):
    before = text(earned)
    assert pv("retract", digest(earned), "--reason", "x", "--no-settle").code == 0
    assert text(earned) == before
    assert pv("settle", "--check").code == 1
