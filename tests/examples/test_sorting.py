"""The sorting example: committed as earned, it earns the same again from nothing, and works beside an installed pv."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "sorting"
CONTRACT = "contracts/sorting-network-v1.yaml"
WRITTEN = re.compile(
    r"^    (last_verified|evidence|discharge_evidence): .*\n"
    r"|^    (algorithm|functional|discharge)_evidence:\n(      .*\n)+",
    re.MULTILINE,
)
LOCAL = shutil.ignore_patterns(".pv_cache", "__pycache__")


def pv(folder: Path, *words: str, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, "-P", "-m", "pv", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def statuses(folder: Path) -> dict[str, str]:
    data = yaml.safe_load((folder / CONTRACT).read_text())
    return {entry["id"]: entry["status"] for entry in (*data["falsification_tests"], *data["kani_harnesses"])}


def tree(folder: Path) -> dict[str, bytes]:
    kept = (path for path in folder.rglob("*") if not {".pv_cache", "__pycache__"} & set(path.parts))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept if path.is_file()}


def unearn(folder: Path) -> None:
    """Take away what pv wrote: evidence, blocks, statuses."""
    shutil.rmtree(folder / "evidence")
    text = WRITTEN.sub("", (folder / CONTRACT).read_text())
    (folder / CONTRACT).write_text(re.sub(r"    status: \w+", "    status: UNBOUND", text))


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "sorting", ignore=LOCAL))


def test_it_is_committed_as_it_was_earned(example):
    said = pv(example, "validate")
    assert said.returncode == 0
    assert "4 discharged, 1 functional; 0 errors, 0 warnings" in said.stdout + said.stderr
    assert pv(example, "verify").returncode == 0
    assert statuses(example) == {
        "FALSIFY-SORT-001": "DISCHARGED",
        "FALSIFY-SORT-002": "DISCHARGED",
        "FALSIFY-SORT-003": "FUNCTIONAL",
        "KH-SORT-001": "DISCHARGED",
        "KH-SORT-002": "DISCHARGED",
    }


def test_from_nothing_it_earns_the_same_and_a_second_run_changes_nothing(example):
    wanted = statuses(example)
    unearn(example)
    assert set(statuses(example).values()) == {"UNBOUND"}
    assert pv(example, "validate").returncode == 0
    assert pv(example, "falsify", "--all").returncode == 0
    seeded = ("--id", "FALSIFY-SORT-001", "--id", "FALSIFY-SORT-002", "--seed", "1")
    assert pv(example, "falsify", *seeded).returncode == 0
    assert statuses(example) == wanted
    before = tree(example)
    again = pv(example, "falsify", "--all")
    assert again.returncode == 0
    assert "earned: 0 statuses moved; written: 0 records, 0 contracts" in again.stdout
    assert tree(example) == before


@pytest.mark.parametrize(
    ("old", "new", "claim"),
    [
        ("np.where(swap, b, a), np.where(swap, a, b)", "np.minimum(a, b), np.maximum(a, a)", "KH-SORT-001"),
        ('np.inf if dtype.kind == "f" else np.iinfo(dtype).max', "0", "FALSIFY-SORT-001"),
        ("if is_sorted_permutation(answer, values):", "if True:", "FALSIFY-SORT-002"),
        ("            distance //= 2", "            made.append(made[-1]); distance //= 2", "FALSIFY-SORT-003"),
    ],
)
def test_a_defect_in_the_kernel_breaks_its_claim(example, old, new, claim):
    path = example / "sortnet.py"
    source = path.read_text()
    assert old in source
    path.write_text(source.replace(old, new))
    ran = pv(example, "falsify", "--id", claim)
    assert ran.returncode == 1, ran.stdout
    assert statuses(example)[claim] == "FALSIFIED"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the wheel of pv, numpy and pytest, all through pip; its interpreter. Needs an index."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    constraints = str(ROOT / "requirements" / "constraints.txt")
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "-c",
        constraints,
        *map(str, folder.glob("*.whl")),
        "numpy",
        "pytest",
    ]
    done = subprocess.run(install, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return python


@pytest.mark.slow
def test_it_works_with_an_installed_wheel_and_nothing_from_this_repository(installed, example):
    python = str(installed)
    where = subprocess.run(
        [python, "-P", "-c", "import pv; print(pv.__file__)"], capture_output=True, text=True, cwd=example
    )
    assert Path(where.stdout).is_relative_to(installed.parent.parent)
    unearn(example)
    assert pv(example, "validate", python=python).returncode == 0
    ran = pv(example, "falsify", "--all", python=python)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert set(statuses(example).values()) == {"FUNCTIONAL", "DISCHARGED"}
    assert pv(example, "falsify", "--all", "--check", python=python).returncode == 0
    assert pv(example, "verify", python=python).returncode == 0
    tried = subprocess.run(
        [python, "-m", "pytest", "--pv", "-q"], cwd=example, capture_output=True, text=True, timeout=300
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert "5 passed" in tried.stdout


@pytest.mark.slow
def test_an_installed_pv_scaffolds_a_project_of_its_own(installed, tmp_path):
    python = str(installed)
    assert pv(tmp_path, "init", "--profile", "strict", python=python).returncode == 0
    assert pv(tmp_path, "new", "contract", "mine", python=python).returncode == 0
    assert pv(tmp_path, "validate", python=python).returncode == 0
    assert pv(tmp_path, "falsify", "--all", python=python).returncode == 0
    tried = subprocess.run(
        [python, "-m", "pytest", "--pv", "-q"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert "2 passed" in tried.stdout
