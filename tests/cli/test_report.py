"""`pv report`: where it writes, what it needs, what it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.report.pages import complaints, read
from tests.report.samples import town


@pytest.fixture
def made(tmp_path, monkeypatch):
    project = town(tmp_path / "town")
    monkeypatch.chdir(project.root)
    return project


def test_a_page_is_written_here_and_said_where(made, pv):
    ran = pv("report")
    assert (ran.code, ran.out) == (0, "")
    page = (made.root / "pv-report.html").read_text("utf-8")
    assert ran.err == f"pv-report.html: 6 claims in 2 contracts, {len(page.encode()):,} bytes\n"
    assert complaints(read(page)) == []


def test_the_same_tree_gives_the_same_file(made, pv):
    pv("report", "--output", "one.html")
    pv("report", "-o", "two.html")
    assert (made.root / "one.html").read_bytes() == (made.root / "two.html").read_bytes()


def test_stdout_is_the_page_alone(made, pv):
    ran = pv("report", "--output", "-")
    assert ran.err == ""
    assert complaints(read(ran.out)) == []
    assert not (made.root / "pv-report.html").exists()


def test_markdown_goes_to_stdout(made, pv):
    ran = pv("report", "--format", "md")
    assert ran.out.startswith("### Contracts: 0+1 of 6 claims\n")
    assert pv("report", "--format", "md", "--output", "report.md").out == ""
    assert (made.root / "report.md").read_text("utf-8") == ran.out


def test_paths_choose_contracts(made, pv):
    assert "in 1 contract." in pv("report", "--format", "md", "contracts/words-v1.yaml").out


def test_paths_bring_their_own_project(made, pv, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "`FALSIFY-PARITY-001`" in pv("report", "--format", "md", made.root / "contracts").out


def test_no_contract_is_no_success(house, pv):
    (house.root / "contracts" / "bad.yaml").write_text("metadata: 3\n")
    ran = pv("report")
    assert ran.code == 5
    assert "not a sound contract" in ran.err
    assert not (house.root / "pv-report.html").exists()


@pytest.mark.parametrize(
    ("output", "says"), [("contracts", "it is a folder (name a file in it:"), ("nowhere/r.html", "was not written")]
)
def test_a_file_that_cannot_be_written_is_a_failure(made, pv, output, says):
    ran = pv("report", "--output", output)
    assert ran.code == 3
    assert says in ran.err


def without(package: str, *arguments: str, cwd) -> subprocess.CompletedProcess[str]:
    """`pv` in a process in which a package is not installed; what was loaded is printed last."""
    code = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        f"sys.argv = ['pv', *{list(arguments)!r}]\n"
        "from pv.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n    print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120)


def test_without_jinja2_a_sentence_says_what_to_install(made):
    ran = without("jinja2", "report", cwd=made.root)
    assert ran.returncode == 2
    assert "pip install 'provable-contracts-pv[report]', or take --format md" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_markdown_needs_no_jinja2(made):
    ran = without("jinja2", "report", "--format", "md", cwd=made.root)
    assert ran.returncode == 0
    assert ran.stdout.startswith("### Contracts")


@pytest.mark.parametrize(
    "command", [["report"], ["report", "--format", "md"], ["matrix"], ["trend", "FALSIFY-PARITY-002"]]
)
def test_nothing_heavy_is_loaded(made, command):
    ran = without("no_such_package", *command, cwd=made.root)
    assert ran.returncode == 0, ran.stderr
    loaded = set(ran.stderr.splitlines()[-1].split())
    assert "click" in loaded  # the probe itself works
    assert not loaded & {"torch", "numpy", "jsonschema", "transformers", "matplotlib"}
