"""`pv list`: what is shown, what is selected, what loads nothing."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def two(house):
    """Two contracts, three claims, two checks, one of which would exit when imported."""
    house.contract(
        "x-v1",
        house.claim("FALSIFY-X-001", "status: UNBOUND"),
        house.claim("FALSIFY-X-002", "requires: {cells: [{device: cuda, subject: model-1}]}", "cost: device"),
    )
    house.contract("y-v1", house.claim("FALSIFY-Y-001"))
    module = house.checks("x-v1", FALSIFY_X_001="pass", FALSIFY_X_002="pass")
    module.write_text(f"{module.read_text()}raise SystemExit('imported')\n")
    return house


def test_every_claim_is_listed_with_its_place(two, pv):
    ran = pv("list")
    assert ran.code == 0
    lines = [" ".join(line.split()) for line in ran.out.splitlines() if line]
    assert lines == [
        "claim status cost cells check",
        "x-v1 1.0.0",
        f"FALSIFY-X-001 UNBOUND quick cpu · code falsifiers/x_v1.py:{line_of(two, 'FALSIFY-X-001')}",
        f"FALSIFY-X-002 UNBOUND device cuda · model-1 falsifiers/x_v1.py:{line_of(two, 'FALSIFY-X-002')}",
        "y-v1 1.0.0",
        "FALSIFY-Y-001 UNBOUND quick cpu · code no check",
        "3 of 3 claims in 2 contracts: 3 UNBOUND; 1 without a check",
    ]


def line_of(house, claim: str) -> int:
    lines = (house.root / "falsifiers" / "x_v1.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if f'"{claim}"' in line)


def test_a_selection_narrows_the_list_and_the_summary_keeps_the_denominator(two, pv):
    ran = pv("list", "--select", "device:cuda")
    assert "FALSIFY-X-002" in ran.out
    assert "FALSIFY-X-001" not in ran.out
    assert ran.out.endswith("1 of 3 claims in 2 contracts: 1 UNBOUND\n")
    assert pv("list", "-k", "y and not x").out.count("FALSIFY") == 1
    assert pv("list", "contracts/y-v1.yaml").out.count("FALSIFY") == 1


def test_json_is_data_alone_on_stdout(two, pv):
    ran = pv("list", "--output-format", "json")
    listed = json.loads(ran.out)
    assert [(one["contract"], one["id"], one["status"]) for one in listed] == [
        ("x-v1", "FALSIFY-X-001", "UNBOUND"),
        ("x-v1", "FALSIFY-X-002", "UNBOUND"),
        ("y-v1", "FALSIFY-Y-001", "UNBOUND"),
    ]
    assert listed[0]["check"]["controls"] == ["broken"]
    assert listed[0]["thresholds"] == ["m"]
    assert listed[1]["cells"] == [{"device": "cuda", "subject": "model-1"}]
    assert listed[2]["check"] is None
    assert "3 of 3 claims" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--select", "status:DISCHARGED"], 5, "0 of 3 claims in 2 contracts: nothing"),
        (["--select", "stats:X"], 2, "expected KEY:VALUE in --select"),
        (["-k", "and"], 2, "expected a name"),
    ],
)
def test_a_list_of_nothing_is_not_success(two, pv, arguments, code, says):
    ran = pv("list", *arguments)
    assert ran.code == code
    assert says in ran.out + ran.err


def test_an_empty_project_lists_nothing(house, pv):
    assert pv("list").code == 5


def test_a_file_that_is_no_sound_contract_is_named(two, pv):
    (two.root / "contracts" / "z-v1.yaml").write_text("metadata: {version: [}\n")
    ran = pv("list")
    assert ran.code == 0
    assert "contracts/z-v1.yaml: not a sound contract" in ran.err


def test_a_setting_that_cannot_be_used_is_a_usage_error(house, pv):
    (house.root / "pyproject.toml").write_text("[tool.pv]\nprofil = 'strict'\n")
    ran = pv("list")
    assert ran.code == 2
    assert "did you mean `profile`?" in ran.err
