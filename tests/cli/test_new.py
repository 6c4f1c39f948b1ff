"""`pv new`: what it writes validates, earns something and is tested at once; what is there is not overwritten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

STRICT = '[tool.pv]\nprofile = "strict"\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text(STRICT)
    monkeypatch.chdir(root)
    return root


def run_tests_of(root: Path) -> subprocess.CompletedProcess[str]:
    """The project's own tests, in an interpreter of their own."""
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    return subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, timeout=120)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def entries(root: Path, stem: str) -> list[dict[str, object]]:
    return yaml.safe_load((root / "contracts" / f"{stem}.yaml").read_text())["falsification_tests"]


def test_a_new_contract_validates_runs_and_is_tested_at_once(project, pv):
    made = pv("new", "contract", "rope-norm")
    assert made.code == 0
    assert made.out.splitlines() == [
        "written: contracts/rope-norm-v1.yaml",
        "written: falsifiers/rope_norm_v1.py",
        "written: tests/test_rope_norm_v1.py",
    ]
    assert "1 contract, 1 falsifier: 1 unbound; 0 errors, 0 warnings" in (said := pv("validate")).out + said.err
    ran = pv("falsify", "--all")
    assert ran.code == 0
    assert "UNBOUND -> PARTIAL_ALGORITHM_LEVEL" in ran.out
    assert "1 partial; 0 errors, 0 warnings" in (said := pv("validate")).out + said.err
    done = run_tests_of(project)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_one_more_falsifier_leaves_what_is_there_as_it_is(project, pv):
    pv("new", "contract", "rope-norm")
    pv("falsify", "--all")
    contract = project / "contracts" / "rope-norm-v1.yaml"
    contract.write_text(contract.read_text() + "# the end\n")
    before, module = contract.read_text(), (project / "falsifiers" / "rope_norm_v1.py").read_text()
    made = pv("new", "falsifier", "FALSIFY-ROPE-NORM-002", "--contract", "rope-norm-v1")
    assert made.code == 0, made.err
    assert made.out.splitlines() == [
        "extended: contracts/rope-norm-v1.yaml",
        "extended: falsifiers/rope_norm_v1.py",
    ]
    assert contract.read_text().startswith(before.removesuffix("# the end\n"))
    assert contract.read_text().endswith("# the end\n")
    assert (project / "falsifiers" / "rope_norm_v1.py").read_text().startswith(module)
    ran = pv("falsify", "--all")
    assert ran.code == 0, ran.out
    assert {entry["id"]: entry["status"] for entry in entries(project, "rope-norm-v1")} == {
        "FALSIFY-ROPE-NORM-001": "PARTIAL_ALGORITHM_LEVEL",
        "FALSIFY-ROPE-NORM-002": "PARTIAL_ALGORITHM_LEVEL",
    }
    assert "2 partial; 0 errors, 0 warnings" in (said := pv("validate")).out + said.err
    assert run_tests_of(project).returncode == 0


def test_its_test_fails_when_the_code_is_wrong_and_when_the_check_is_blind(project, pv):
    pv("new", "contract", "rope-norm")
    module = project / "falsifiers" / "rope_norm_v1.py"
    source = module.read_text()
    module.write_text(source.replace("return max(low, min(high, value))", "return max(low, value)"))
    wrong = run_tests_of(project)
    assert wrong.returncode == 1
    assert "FALSIFIED FALSIFY-ROPE-NORM-001" in wrong.stdout
    module.write_text(source.replace("outside += not low", "outside += 0 and low"))
    blind = run_tests_of(project)
    assert blind.returncode == 1
    assert "'forgets the upper bound' was not caught" in blind.stdout


@pytest.mark.parametrize("stem", ["rope-norm", "rope-norm-v1"])
def test_nothing_is_overwritten(project, pv, stem):
    pv("new", "contract", "rope-norm")
    before = tree(project)
    assert pv("new", "contract", stem).code == 2
    assert tree(project) == before


@pytest.mark.parametrize("there", ["contracts/y-v1.yaml", "falsifiers/y_v1.py", "tests/test_y_v1.py"])
def test_a_file_of_the_same_name_is_kept_and_named(project, pv, there):
    (project / there).parent.mkdir()
    (project / there).write_text("mine: 1\n" if there.endswith("yaml") else "MINE = 1\n")
    before = tree(project)
    made = pv("new", "contract", "y")
    if there.startswith("tests"):  # a test that is there is the user's: nothing is added to it
        assert made.code == 0
        assert (project / there).read_text() == "MINE = 1\n"
    else:
        assert made.code == 2
        assert f"{there} exists and is not overwritten" in made.err
        assert tree(project) == before


def test_a_dry_run_writes_nothing(project, pv):
    assert "would be written: contracts/x-v1.yaml" in pv("new", "contract", "x", "--dry-run").out
    assert list(tree(project)) == ["pyproject.toml"]


def test_a_foreign_module_keeps_its_lines_and_gets_the_imports_it_lacks(project, pv):
    pv("new", "contract", "x")
    module = project / "falsifiers" / "x_v1.py"
    theirs = '"""Ours."""\r\n\r\nimport random\r\nimport sys\r\n\r\nHERE = sys.path\r\n'
    module.write_bytes(theirs.encode())
    pv("new", "falsifier", "FALSIFY-X-002", "--contract", "x-v1")
    source = module.read_bytes().decode()
    assert source.count("import random") == 1
    assert source.count("\n") == source.count("\r\n")
    assert "from pv.falsify import Control, falsifier, measure\r\n" in source
    assert pv("falsify", "--id", "FALSIFY-X-002").code == 0


def test_a_contract_without_falsifiers_gets_its_first(project, pv):
    (project / "contracts").mkdir()
    (project / "contracts" / "bare-v1.yaml").write_text(
        'metadata:\n  version: "1.0.0"\n  description: bare\n  kind: schema'
    )
    made = pv("new", "falsifier", "FALSIFY-BARE-001", "--contract", "bare-v1")
    assert made.code == 0, made.err
    assert "written: tests/test_bare_v1.py" in made.out
    assert pv("falsify", "--id", "FALSIFY-BARE-001").code == 0
    assert "binds_to" not in entries(project, "bare-v1")[0]


FLOW = 'metadata: {version: "1.0.0", description: d, kind: schema}\nfalsification_tests: [{id: FALSIFY-F-001}]\n'
EMPTY = 'metadata: {version: "1.0.0", description: d, kind: schema}\nfalsification_tests: []\n'


@pytest.mark.parametrize(("text", "why"), [(FLOW, "not a list with a dash"), (EMPTY, "is there and empty")])
def test_a_contract_that_cannot_be_edited_safely_is_left_with_the_entry_to_paste(project, pv, text, why):
    (project / "contracts").mkdir()
    (project / "contracts" / "f-v1.yaml").write_text(text)
    before = tree(project)
    made = pv("new", "falsifier", "FALSIFY-F-002", "--contract", "f-v1")
    assert made.code == 2
    assert why in made.err
    assert "- id: FALSIFY-F-002" in made.err
    assert tree(project) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("contract", "Rope Norm"), "expected a name in lower case with dashes"),
        (("contract", "../x"), "expected a name in lower case with dashes"),
        (("falsifier", "ROPE-2", "--contract", "rope-norm-v1"), "expected an id like FALSIFY-ROPE-002"),
        (("falsifier", "FALSIFY-R-001", "--contract", "rope-norm"), "did you mean rope-norm-v1?"),
        (("falsifier", "FALSIFY-ROPE-NORM-001", "--contract", "rope-norm-v1"), "has FALSIFY-ROPE-NORM-001 already"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(project, pv, words, said):
    pv("new", "contract", "rope-norm")
    before = tree(project)
    made = pv("new", *words)
    assert made.code == 2
    assert said in made.err
    assert tree(project) == before


def test_a_name_that_means_something_else_in_the_module_is_refused(project, pv):
    pv("new", "contract", "x")
    module = project / "falsifiers" / "x_v1.py"
    module.write_text(
        "from elsewhere import patch\n" + module.read_text().replace("from unittest.mock import patch\n", "")
    )
    before = tree(project)
    made = pv("new", "falsifier", "FALSIFY-X-002", "--contract", "x-v1")
    assert made.code == 2
    assert "to be unittest.mock.patch, found elsewhere.patch" in made.err
    assert tree(project) == before
