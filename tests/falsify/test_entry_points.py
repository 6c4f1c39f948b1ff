"""Checks that an installed package brings (`pv.falsifiers`), from `pv list` to a status earned and gone stale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CHECK = """\
from pv.falsify import Control, falsifier, measure

from summing import total

from ._support import forgets_the_first


@falsifier(
    "FALSIFY-SUM-001",
    level="live",
    controls=[Control("forgets the first", plant=forgets_the_first, breaks="wrong")],
    attacks=[total],
)
def sums_are_sums(context):
    import summing

    return measure("wrong", sum(summing.total(list(range(n))) != n * (n - 1) // 2 for n in range(50)), unit="sums")
"""
SUPPORT = """\
from unittest.mock import patch


def forgets_the_first(context):
    return patch("summing.total", lambda values: sum(values[2:]))
"""


class Installed:
    """A package as an installer leaves it: modules beside a `dist-info` that names the entry point."""

    def __init__(self, site: Path, project: Path) -> None:
        self.site, self.project = site, project
        self.checks = site / "summing" / "claims"

    def pv(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`pv` where the package is installed."""
        env = {**os.environ, "PYTHONPATH": str(self.site)}
        command = [sys.executable, "-P", "-m", "pv", *words]
        return subprocess.run(command, cwd=self.project, env=env, capture_output=True, text=True, timeout=120)

    def status(self) -> str:
        [entry] = yaml.safe_load((self.project / "contracts" / "sum-v1.yaml").read_text())["falsification_tests"]
        return str(entry["status"])


@pytest.fixture
def installed(tmp_path: Path, checks) -> Installed:
    site, project = tmp_path / "site", tmp_path / "project"
    claims = site / "summing" / "claims"
    claims.mkdir(parents=True)
    (site / "summing" / "__init__.py").write_text("def total(values):\n    return sum(values)\n")
    (claims / "__init__.py").write_text("raise RuntimeError('reading a project must not run this')\n")
    (claims / "sum_v1.py").write_text(CHECK)
    (claims / "_support.py").write_text(SUPPORT)
    info = site / "summing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: summing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pv.falsifiers]\nsumming = summing.claims\n")
    (project / "contracts").mkdir(parents=True)
    (project / "pyproject.toml").write_text('[tool.pv]\nprofile = "strict"\n')
    entry = checks.entry("FALSIFY-SUM-001", thresholds=(), status="UNBOUND", binds_to="e", rule="sums are sums")
    entry["thresholds"] = {"wrong": {"op": "==", "value": 0, "unit": "sums"}}
    data = {
        "metadata": {
            "version": "1.0.0",
            "description": "d",
            "kind": "schema",
            "status": "DRAFT",
            "created": "2026-11-20",
            "author": "us",
            "references": ["Peano"],
        },
        "equations": {"e": {"formula": "sum(0..n-1) = n(n-1)/2", "domain": "n >= 0", "invariants": ["exact"]}},
        "falsification_tests": [entry],
    }
    (project / "contracts" / "sum-v1.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return Installed(site, project)


def test_an_installed_check_is_found_run_and_earns_the_status(installed):
    assert "FALSIFY-SUM-001" in installed.pv("list").stdout
    assert installed.pv("validate").returncode == 0
    ran = installed.pv("falsify", "--all")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert installed.status() == "FUNCTIONAL"
    assert installed.pv("verify").returncode == 0
    assert installed.pv("falsify", "--all", "--check").returncode == 0


def test_its_record_names_no_folder_of_this_machine(installed):
    installed.pv("falsify", "--all")
    records = [path.read_text() for path in (installed.project / "evidence").rglob("*.json")]
    assert len(records) == 1
    assert str(installed.site) not in records[0]
    assert "summing/claims/sum_v1.py:sums_are_sums" in records[0]


@pytest.mark.parametrize("changed", ["__init__.py", "claims/_support.py"])
def test_another_version_of_the_package_makes_the_evidence_stale(installed, changed):
    installed.pv("falsify", "--all")
    path = installed.site / "summing" / changed
    path.write_text(path.read_text() + "\nMORE = 1\n")
    said = installed.pv("validate").stdout
    assert "PV403" in said
    assert f"summing/{changed} changed since" in said


def test_another_version_of_the_check_makes_the_evidence_stale(installed):
    installed.pv("falsify", "--all")
    path = installed.checks / "sum_v1.py"
    path.write_text(path.read_text().replace("range(50)", "range(500)"))
    said = installed.pv("validate").stdout
    assert "PV403" in said
    assert "sum_v1.py changed since" in said
    assert installed.pv("falsify", "--stale").returncode == 0
    assert "PV403" not in installed.pv("validate").stdout


def test_a_broken_claim_of_the_package_is_seen(installed):
    (installed.site / "summing" / "__init__.py").write_text("def total(values):\n    return sum(values) + 1\n")
    assert installed.pv("falsify", "--all").returncode == 1
    assert installed.status() == "FALSIFIED"


def test_a_package_that_is_gone_leaves_a_claim_without_a_check(installed):
    (installed.site / "summing-1.0.dist-info" / "entry_points.txt").write_text("")
    ran = installed.pv("falsify", "--all")
    assert ran.returncode == 5
    assert "no check: FALSIFY-SUM-001" in ran.stdout


def test_a_check_here_and_in_a_package_is_one_too_many(installed):
    own = installed.project / "falsifiers"
    own.mkdir()
    for name in ("sum_v1.py", "_support.py"):
        (own / name).write_text((installed.checks / name).read_text())
    ran = installed.pv("falsify", "--all")
    assert ran.returncode == 1
    assert "PV352" in ran.stderr
