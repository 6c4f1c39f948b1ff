"""`pytest --pv`: each verdict is the outcome that pytest has for it; nothing is written; without it nothing loads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

BODY = "def {0}(ctx):\n    {1}\n\n\n"
HOW = {
    "001": "return measure('m', not defect)",
    "002": "return measure('m', 0.25)",
    "003": "return measure('m', 1)",  # blind to its control
    "004": "raise OSError('the disk is gone')",
    "005": "raise Blocked('a licence')",
    "006": "return measure('m', not defect)",  # waits for 002
    "007": "return measure('m', 0)",  # known to fail
    "008": "return measure('m', not defect)",  # known to fail, and does not
    "009": "return measure('m', not defect)",  # slow
}
KNOWN = {"owner": "us", "reason": "rounding", "since": "2026-01-01"}
MORE = {
    "006": {"precondition": ["FALSIFY-P-002"]},
    "007": {"known_failing": KNOWN},
    "008": {"known_failing": KNOWN},
    "009": {"cost": "slow"},
}


class Ran(NamedTuple):
    code: int
    out: str

    def outcome(self, claim: str) -> str:
        """The word that `pytest -v` puts after an item."""
        found = re.search(rf"FALSIFY-P-{claim}\[cpu · code\] (\w+)", self.out)
        return found[1] if found else ""


def run(root: Path, *words: str) -> Ran:
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "pv.falsify.pytest_plugin", *words]
    env = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, env=env)
    return Ran(done.returncode, done.stdout + done.stderr)


@pytest.fixture
def project(checks) -> Path:
    """A claim for every verdict, one without a check, and a test of the usual kind."""
    root = checks.root
    (root / "pyproject.toml").write_text('[tool.pv]\n[tool.pytest.ini_options]\ntestpaths = ["tests"]\n')
    data = {
        "metadata": {"version": "1.0.0", "description": "d", "kind": "schema"},
        "falsification_tests": [
            *(checks.entry(f"FALSIFY-P-{number}", **MORE.get(number, {})) for number in HOW),
            checks.entry("FALSIFY-P-010"),
        ],
    }
    (root / "contracts").mkdir()
    (root / "contracts" / "p-v1.yaml").write_text(yaml.safe_dump(data))
    parts = [checks.registration(f"FALSIFY-P-{n}", f"c{n}") + BODY.format(f"c{n}", code) for n, code in HOW.items()]
    checks.write("p_v1", "".join(parts))
    (root / "tests").mkdir()
    (root / "tests" / "test_usual.py").write_text("def test_usual():\n    assert True\n")
    return root


def tree(root: Path) -> dict[Path, bytes]:
    """Every file of the project's own; pv's cache of sources and Python's of modules are no results."""
    kept = (path for path in root.rglob("*") if not {".pv_cache", "__pycache__"} & set(path.parts))
    return {path: path.read_bytes() for path in kept if path.is_file()}


def test_every_verdict_has_its_outcome_and_nothing_is_written(project):
    before = tree(project)
    ran = run(project, "--pv")
    assert ran.code == 1
    assert {number: ran.outcome(number) for number in HOW} == {
        "001": "PASSED",
        "002": "FAILED",
        "003": "FAILED",
        "004": "ERROR",
        "005": "SKIPPED",
        "006": "SKIPPED",
        "007": "XFAIL",
        "008": "FAILED",
        "009": "",
    }
    assert "test_usual PASSED" in ran.out
    assert "3 failed, 2 passed, 2 skipped, 1 xfailed, 1 error" in ran.out
    assert "m            0.25 1  == 1       -0.75   BROKEN" in ran.out
    assert "'broken' was not caught" in ran.out
    assert "OSError: the disk is gone" in ran.out
    assert "is known_failing in" in ran.out
    told = ran.out[ran.out.index("claims that were not tried") :]
    assert "BLOCKED FALSIFY-P-005 [cpu · code]: a licence" in told
    assert "INCONCLUSIVE FALSIFY-P-006 [cpu · code]: precondition FALSIFY-P-002 does not survive" in told
    assert "left out: FALSIFY-P-009 [cpu · code], with --pv-cost slow" in told
    assert "no check: FALSIFY-P-010 in p-v1.yaml" in told
    assert tree(project) == before


def test_a_choice_of_claims_and_a_node_id(project):
    ran = run(project, "--pv", "--pv-select", "id:FALSIFY-P-001 id:FALSIFY-P-009", "--pv-cost", "slow", "contracts")
    assert ran.code == 0
    assert (ran.outcome("001"), ran.outcome("009")) == ("PASSED", "PASSED")
    assert "2 passed" in ran.out
    ran = run(project, "--pv", "contracts/p-v1.yaml::FALSIFY-P-001[cpu · code]")
    assert (ran.code, "1 passed" in ran.out) == (0, True)


def test_named_paths_are_the_choice(project):
    ran = run(project, "--pv", "tests")
    assert (ran.code, "1 passed" in ran.out) == (0, True)


def test_workers_of_xdist_share_the_items(project):
    ran = run(project, "--pv", "-n", "2", "--pv-select", "id:FALSIFY-P-001 id:FALSIFY-P-002")
    assert ran.code == 1
    assert "1 failed, 2 passed" in ran.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pv-select", "colour:red"), "expected KEY:VALUE in --select, found 'colour:red'"),
        (("--pv-cost", "dear"), "'dear' is not a valid Cost"),
    ],
)
def test_a_wrong_choice_ends_the_session_before_anything_runs(project, words, said):
    ran = run(project, "--pv", *words)
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert said in ran.out


def test_checks_that_do_not_fit_end_the_session(project):
    path = project / "falsifiers" / "p_v1.py"
    path.write_text(path.read_text().replace("FALSIFY-P-001", "FALSIFY-P-011"))
    ran = run(project, "--pv")
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert "FALSIFY-P-011" in ran.out


def test_without_the_option_no_contract_is_collected_and_nothing_of_pv_is_loaded(project):
    (project / "tests" / "test_usual.py").write_text(
        "import sys\n\n\ndef test_usual():\n"
        "    ours = {name for name in sys.modules if name.partition('.')[0] in ('pv', 'yaml', 'pydantic', 'ruamel')}\n"
        "    assert ours == {'pv', 'pv.contract', 'pv.contract.vocabulary', 'pv.falsify', 'pv.falsify.api',"
        " 'pv.falsify.pytest_plugin'}\n"
    )
    ran = run(project)
    assert ran.code == 0, ran.out
    assert "1 passed" in ran.out


TEST = """\
import pytest

from lib import double


def test_double():
    assert double(2) == 4


def test_skipped():
    pytest.skip("no licence")


def test_failed():
    pytest.fail("by its own word")
"""
FROM_A_TEST = """\
from unittest.mock import patch

from pv.falsify import Control, falsifier, measure, passes

from tests import test_lib


def triples(context):
    return patch.object(test_lib, "double", lambda value: 3 * value)


@falsifier("FALSIFY-P-001", level="live", controls=[Control("triples", plant=triples, breaks="m")])
def the_test_holds(context):
    return measure("m", passes(test_lib.{}))
"""


@pytest.mark.parametrize(
    ("test", "verdict", "code"),
    [("test_double", "SURVIVED", 0), ("test_skipped", "BLOCKED", 4), ("test_failed", "FALSIFIED", 1)],
)
def test_a_test_can_be_a_falsifier(checks, test, verdict, code):
    root = checks.root
    (root / "pyproject.toml").write_text("[tool.pv]\n")
    (root / "lib.py").write_text("def double(value):\n    return 2 * value\n")
    (root / "tests").mkdir()
    (root / "tests" / "test_lib.py").write_text(TEST)
    (root / "contracts").mkdir()
    head = {"version": "1.0.0", "description": "d", "kind": "schema"}
    entry = checks.entry("FALSIFY-P-001")
    (root / "contracts" / "p-v1.yaml").write_text(yaml.safe_dump({"metadata": head, "falsification_tests": [entry]}))
    checks.write("p_v1", FROM_A_TEST.format(test), header="")
    command = [sys.executable, "-m", "pv", "falsify", "--all"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout
    assert verdict in done.stdout
