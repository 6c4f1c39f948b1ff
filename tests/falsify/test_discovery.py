"""Finding checks: in the project's folder, in installed packages, and twice."""

from __future__ import annotations

import sys

import pytest

from pv.contract.project import Project
from pv.falsify.discovery import find_checks, find_in, module_name


def body(claim: str = "FALSIFY-X-001", function: str = "check") -> str:
    control = 'Control("c", plant=broken, breaks="m")'
    return f'@falsifier("{claim}", level="live", controls=[{control}])\ndef {function}(ctx): ...\n'


@pytest.mark.parametrize(
    ("contract", "module"),
    [("pv-self-v1", "pv_self_v1"), ("apr-vs-gguf-v1.2", "apr_vs_gguf_v1_2"), ("plain", "plain")],
)
def test_a_contract_names_its_module(contract, module):
    assert module_name(contract) == module


def test_checks_are_found_by_claim_and_helpers_are_passed_over(checks):
    checks.write("x_v1", body())
    checks.write("y_v1", body("FALSIFY-Y-001"))
    checks.write("_support", body("FALSIFY-Z-001"))
    (checks.folder / "notes.txt").write_text("no module")
    found = find_in(checks.folder, checks.root)
    assert found.problems == ()
    assert found.modules == {"x_v1": "falsifiers/x_v1.py", "y_v1": "falsifiers/y_v1.py"}
    assert found.of("x-v1", "FALSIFY-X-001").function == "check"
    assert found.of("x.v1", "FALSIFY-Y-001") is None


def test_a_project_without_the_folder_has_no_checks(tmp_path):
    assert find_in(tmp_path / "falsifiers", tmp_path).found == ()


def test_two_checks_of_one_claim_are_an_error_that_names_both(checks):
    checks.write("x_v1", body(function="first") + "\n\n" + body(function="second"))
    found = find_in(checks.folder, checks.root)
    (problem,) = found.problems
    first, second = found.found
    assert problem.code == "PV352"
    assert f"first at {first.place}" in problem.message
    assert f"second at {second.place}" in problem.message
    assert problem.span == second.span
    assert found.of("x-v1", "FALSIFY-X-001") is first


def test_the_same_id_in_two_contracts_is_two_claims(checks):
    checks.write("x_v1", body())
    checks.write("y_v1", body())
    assert find_in(checks.folder, checks.root).problems == ()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed package that declares check modules; importing any part of it fails the test."""
    site = tmp_path / "site"
    package = site / "plugged" / "claims"
    package.mkdir(parents=True)
    (site / "plugged" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    info = site / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pv.falsifiers]\nclaims = plugged.claims\ngone = absent.module\n")
    monkeypatch.syspath_prepend(str(site))
    return package


def test_checks_of_an_installed_package_are_found_without_importing_it(checks, installed):
    header = "from pv.falsify import Control, falsifier\nraise SystemExit('imported')\nbroken = None\n"
    (installed / "x_v1.py").write_text(header + body())
    (installed / "_helper.py").write_text(body("FALSIFY-X-002"))
    project = Project(root=checks.root, falsifiers=checks.folder)
    found = find_checks(project)
    (check,) = found.found
    assert (check.id, check.from_plugin, check.entry_point) == ("FALSIFY-X-001", True, "plugged/claims/x_v1.py:check")
    assert found.modules == {}
    assert "plugged" not in sys.modules


def test_a_project_and_a_package_that_register_one_claim_collide(checks, installed):
    (installed / "x_v1.py").write_text("from pv.falsify import Control, falsifier\n" + body())
    checks.write("x_v1", body())
    found = find_checks(Project(root=checks.root, falsifiers=checks.folder))
    (problem,) = found.problems
    assert problem.code == "PV352"
    assert "falsifiers/x_v1.py:" in problem.message
    assert "plugged/claims/x_v1.py:2" in problem.message
    assert found.of("x-v1", "FALSIFY-X-001").from_plugin is False
