"""Checks against contracts: every misfit is one error that names both places."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from pv.contract.claims import Contract, contract_of
from pv.falsify.discovery import find_in
from pv.falsify.fit import check_against, misfits

METADATA = {"version": "1.0.0", "description": "d"}


def contract(stem: str, *entries: dict, harnesses: tuple[dict, ...] = ()):
    data = {"metadata": METADATA, "falsification_tests": list(entries), "kani_harnesses": list(harnesses)}
    return contract_of(stem, Path(f"contracts/{stem}.yaml"), data)


def entry(claim: str = "FALSIFY-X-001", **more):
    return {"id": claim, "thresholds": {"m": {"op": "==", "value": 1}}, **more}


def body(claim: str = "FALSIFY-X-001", *, breaks: str = "m", cells: str = "()", decorator: str = "falsifier", more=""):
    return (
        f'@{decorator}("{claim}", level="live", {more}controls=[Control("c", broken, "{breaks}", {cells})])\n'
        "def check(ctx): ...\n"
    )


def problems(checks, *contracts):
    return check_against(find_in(checks.folder, checks.root), contracts)


def test_what_fits_is_silent(checks):
    checks.write("x_v1", body())
    assert problems(checks, contract("x-v1", entry()), contract("other-v1", entry())) == []


def test_a_check_of_an_id_that_the_contract_lacks(checks):
    checks.write("x_v1", body("FALSIFY-X-01"))
    (problem,) = problems(checks, contract("x-v1", entry(), entry("FALSIFY-X-002")))
    assert problem.code == "PV353"
    assert problem.path == "falsifiers/x_v1.py"
    assert "contracts/x-v1.yaml has no such entry" in problem.message
    assert problem.help == "did you mean FALSIFY-X-001?"


def test_a_check_in_the_wrong_module_is_told_where_it_belongs(checks):
    checks.write("x_v1", body("FALSIFY-Y-001"))
    (problem,) = problems(checks, contract("x-v1", entry()), contract("y-v1", entry("FALSIFY-Y-001")))
    assert problem.code == "PV353"
    assert problem.help == "contracts/y-v1.yaml has it; its checks live in y_v1.py"


def test_a_module_of_no_contract_is_an_orphan(checks):
    checks.write("x_v1", body())
    checks.write("helpers", "", header="")
    found = problems(checks, contract("x-v2", entry()))
    assert [problem.code for problem in found] == ["PV354", "PV354"]
    assert found[1].help == "did you mean x_v2.py, for contracts/x-v2.yaml?"
    assert found[0].help == "helpers begin with `_`"


def test_two_contracts_that_share_a_module_name(checks):
    checks.write("x_v1", body())
    (problem,) = problems(checks, contract("x-v1", entry()), contract("x.v1", entry()))
    assert problem.code == "PV354"
    assert "contracts/x-v1.yaml and contracts/x.v1.yaml" in problem.message


def test_a_control_that_breaks_no_threshold(checks):
    checks.write("x_v1", body(breaks="mm"))
    (problem,) = problems(checks, contract("x-v1", entry()))
    assert problem.code == "PV356"
    assert "control 'c' breaks 'mm'" in problem.message
    assert "contracts/x-v1.yaml at falsification_tests[0]" in problem.message
    assert problem.expected == "one of m"


def test_a_required_cell_without_a_control(checks):
    checks.write("x_v1", body(cells='("cuda",)'))
    cells = [{"device": "cuda", "subject": "code"}, {"device": "cpu", "subject": "code"}]
    (problem,) = problems(checks, contract("x-v1", entry(requires={"cells": cells})))
    assert problem.code == "PV357"
    assert "applies on cpu" in problem.message
    assert problem.found == "'c' on cuda"


@pytest.mark.parametrize(
    ("decorator", "more", "bound", "says"),
    [
        ("falsifier", "", 8, "is a harness in contracts/x-v1.yaml at kani_harnesses[0], but registered as a falsifier"),
        ("harness", "bound=4, ", 8, "has bound 8 in contracts/x-v1.yaml at kani_harnesses[0], but bound=4 here"),
        ("harness", "bound=8, ", 8, ""),
    ],
)
def test_a_harness_agrees_with_its_entry(checks, decorator, more, bound, says):
    checks.write("x_v1", body("KH-X-001", decorator=decorator, more=more))
    found = problems(checks, contract("x-v1", harnesses=(entry("KH-X-001", obligation="o", bound=bound),)))
    assert [problem.code for problem in found] == (["PV358"] if says else [])
    assert all(says in problem.message for problem in found)


class File(NamedTuple):
    """What is needed of a loaded file."""

    stem: str
    contract: Contract | None


def test_a_contract_that_is_not_sound_leaves_no_orphan(checks):
    checks.write("x_v1", body(breaks="mm"))
    checks.write("y_v1", "broken = (\n", header="")
    unsound = [File(stem, None) for stem in ("x-v1", "y-v1")]
    assert [p.code for p in misfits(find_in(checks.folder, checks.root), unsound, whole=True)] == ["PV350"]


def test_of_some_contracts_only_their_own_modules_are_judged(checks):
    checks.write("x_v1", body(breaks="mm"))
    checks.write("y_v1", body("FALSIFY-Y-001", breaks="mm"))
    (checks.folder / "z_v1.py").write_text("def broken(:\n")
    found = find_in(checks.folder, checks.root)
    loaded = [File(one.id, one) for one in (contract("x-v1", entry()), contract("y-v1", entry("FALSIFY-Y-001")))]
    assert [p.code for p in misfits(found, loaded[:1], whole=False)] == ["PV356"]
    whole = misfits(found, loaded, whole=True)
    assert sorted((p.code, p.path) for p in whole) == [
        ("PV350", "falsifiers/z_v1.py"),
        ("PV354", "falsifiers/z_v1.py"),
        ("PV356", "falsifiers/x_v1.py"),
        ("PV356", "falsifiers/y_v1.py"),
    ]
