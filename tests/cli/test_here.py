"""Paths that are not there, projects without a contract, runs of nothing: said, with what to do about it."""

from __future__ import annotations

import gc

import pytest

READERS = ("status", "list", "report", "matrix", "graph", "falsify")


@pytest.mark.parametrize("command", READERS)
def test_a_path_that_is_not_there_is_a_wrong_call_and_no_empty_answer(house, pv, command):
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    ran = pv(command, "contracts/y-v1.yaml")
    assert (ran.code, ran.out) == (2, "")
    assert "found no contracts/y-v1.yaml; check the path, or name none to take all contracts" in ran.err


@pytest.mark.parametrize("command", ["status", "list", "report", "matrix", "graph"])
def test_a_project_without_a_contract_is_told_how_to_write_one(house, pv, command):
    ran = pv(command)
    assert ran.code == 5
    assert f"no sound contract matches contracts/*.yaml below {house.root}" in ran.err
    assert "`pv new contract NAME`" in ran.err


@pytest.mark.parametrize("command", ["status", "matrix", "graph"])
def test_files_that_hold_no_sound_contract_lead_to_validate(house, pv, command):
    (house.root / "contracts/x-v1.yaml").write_text("metadata: 1\nfalsification_tests: 2\n")
    ran = pv(command, "contracts/x-v1.yaml")
    assert ran.code == 5
    assert "`pv validate contracts/x-v1.yaml` says why" in ran.err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--all", "--device", "cuda"), "no claim fits what was asked for; `pv list` shows"),
        (("-k", "nothing-like-it"), "no claim fits what was asked for; `pv list` shows"),
        (("--all",), "what was chosen costs more than --all runs; add --cost slow"),
    ],
)
def test_a_run_of_nothing_says_why(house, pv, options, why):
    house.contract("x-v1", house.claim("FALSIFY-X-001", "cost: slow"))
    house.checks("x-v1", FALSIFY_X_001="return measure('m', not defect)")
    ran = pv("falsify", *options)
    assert ran.code == 5
    assert f"nothing was run: {why}" in ran.err


def test_a_claim_without_a_check_leads_to_the_command_that_writes_one(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    ran = pv("falsify", "--all")
    assert ran.code == 5
    assert "`pv new falsifier FALSIFY-X-001 --contract x-v1` writes one" in ran.err


@pytest.mark.parametrize(("command", "seldom"), [("status", True), ("run", False), ("no-such-command", False)])
def test_only_contract_commands_collect_garbage_seldom(house, pv, command, seldom):
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    try:
        pv(command, "--help")
        assert (gc.get_threshold() != (700, 10, 10)) is seldom
    finally:
        gc.set_threshold(*before)
