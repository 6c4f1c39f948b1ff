"""Which files a result depends on, and that a digest moves exactly when one of them changes its meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from pv.contract.project import Project
from pv.evidence import closure as closures
from pv.evidence.closure import CheckSource, Sources, closure_of
from pv.evidence.digests import closure_digest

FILES = {
    "falsifiers/check.py": "from engine.ops import norm\nimport pv.falsify\n\ndef attack(c): import engine.late\n",
    "falsifiers/other.py": "import json\n",
    "src/engine/__init__.py": "",
    "src/engine/ops.py": "from . import tables\nfrom .deep.more import thing\nimport os, numpy\n",
    "src/engine/tables.py": "ONE = 1\n",
    "src/engine/late.py": "import engine.ops\n",  # a circle
    "src/engine/unused.py": "",
    "src/engine/deep/__init__.py": "",
    "src/engine/deep/more.py": "from ..names import *\nthing = 1\n",
    "src/engine/names/__init__.py": "",
    "src/engine/names/hidden.py": "",
    "helpers.py": "",
    "shaders/a.wgsl": "fn a() {}",
    "shaders/b.wgsl": "fn b() {}",
}


@pytest.fixture
def project(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Project(tmp_path / "project")


def names(project, check="falsifiers/check.py", **fields):
    found = closure_of(project, CheckSource(project.root / check, **fields))
    assert found.digest == closure_digest(found.files)
    return [file.path for file in found.files]


def write(project, name, text):
    path = project.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def digest(project, **fields):
    return closure_of(project, CheckSource(project.root / "falsifiers/check.py", **fields)).digest


def test_everything_imported_is_in_it_and_nothing_else(project):
    assert names(project) == [
        "falsifiers/check.py",
        "src/engine/__init__.py",
        "src/engine/deep/__init__.py",
        "src/engine/deep/more.py",
        "src/engine/late.py",
        "src/engine/names/__init__.py",
        "src/engine/ops.py",
        "src/engine/tables.py",
    ]


def test_a_module_without_project_imports_stands_alone(project):
    assert names(project, "falsifiers/other.py") == ["falsifiers/other.py"]


@pytest.mark.parametrize(
    "statement",
    [
        "import helpers",
        "from helpers import x",
        "def f():\n    import helpers",
        "try:\n    import helpers\nexcept ImportError:\n    pass",
        "if False:\n    from helpers import *",
    ],
)
def test_a_flat_layout_is_followed(project, statement):
    write(project, "falsifiers/other.py", statement)
    assert names(project, "falsifiers/other.py") == ["falsifiers/other.py", "helpers.py"]


def test_a_neighbour_and_a_relative_import_are_followed(project):
    write(project, "falsifiers/other.py", "import _shared\nfrom . import check\n")
    write(project, "falsifiers/_shared.py", "")
    found = names(project, "falsifiers/other.py")
    assert found[:3] == ["falsifiers/_shared.py", "falsifiers/check.py", "falsifiers/other.py"]
    assert "src/engine/ops.py" in found


def test_a_relative_import_runs_its_own_package(project):
    write(project, "falsifiers/__init__.py", "")
    write(project, "falsifiers/other.py", "from . import _shared\n")
    write(project, "falsifiers/_shared.py", "")
    assert names(project, "falsifiers/other.py")[0] == "falsifiers/__init__.py"


def test_a_package_without_init_is_followed(project):
    write(project, "src/bare/inner/leaf.py", "")
    write(project, "falsifiers/other.py", "from bare.inner import leaf\nimport bare.inner.leaf as l\n")
    assert names(project, "falsifiers/other.py") == ["falsifiers/other.py", "src/bare/inner/leaf.py"]


def test_relative_imports_never_climb_out(project, tmp_path):
    (tmp_path / "outside.py").write_text("")
    write(project, "falsifiers/other.py", "from ... import outside\nfrom .... import outside\n")
    assert names(project, "falsifiers/other.py") == ["falsifiers/other.py"]


def test_the_module_of_an_attacked_function_is_in_it(project):
    found = names(
        project, "falsifiers/other.py", attacks=("engine.unused.Thing.method", "json.dumps", "nowhere.at.all")
    )
    assert found == ["falsifiers/other.py", "src/engine/unused.py"]


def test_the_contract_side_is_left_out_unless_attacked(project):
    for room in ("contract", "evidence", "trace"):
        write(project, f"src/pv/{room}/__init__.py", "")
    write(project, "src/pv/__init__.py", "__version__ = '1'\n")
    write(project, "src/pv/contract/claims.py", "import pv.evidence.record\n")
    write(project, "src/pv/evidence/record.py", "")
    write(project, "src/pv/trace/aprt.py", "from pv import __version__\n")
    write(project, "falsifiers/other.py", "import pv.contract.claims\nfrom pv.trace import aprt\n")
    assert names(project, "falsifiers/other.py") == [
        "falsifiers/other.py", "src/pv/trace/__init__.py", "src/pv/trace/aprt.py"
    ]  # fmt: skip
    assert "src/pv/contract/claims.py" in names(project, "falsifiers/other.py", attacks=("pv.contract.claims.Claim",))
    assert "src/pv/evidence/record.py" not in names(
        project, "falsifiers/other.py", attacks=("pv.contract.claims.Claim",)
    )


def test_declared_data_is_in_it(project):
    assert names(project, "falsifiers/other.py", data=("shaders/*.wgsl", "none/*.bin")) == [
        "falsifiers/other.py", "shaders/a.wgsl", "shaders/b.wgsl"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="relative to the project root"):
        names(project, data=("/etc/*",))


def test_data_outside_the_root_is_not_taken(project, tmp_path):
    (tmp_path / "secret.bin").write_text("x")
    assert names(project, "falsifiers/other.py", data=("../*.bin",)) == ["falsifiers/other.py"]


def test_a_check_of_a_plugin_stands_by_its_name(project, tmp_path):
    plugin = tmp_path / "site" / "plugin_checks.py"
    plugin.parent.mkdir()
    plugin.write_text("import helpers\n")
    found = closure_of(project, CheckSource(plugin))
    assert [f.path for f in found.files] == ["helpers.py", "plugin_checks.py"]


@pytest.mark.parametrize(
    "name", ["falsifiers/check.py", "src/engine/ops.py", "src/engine/deep/more.py", "src/engine/late.py"]
)
def test_code_anywhere_in_it_moves_the_digest_and_comments_do_not(project, name):
    before = digest(project)
    write(project, name, f'"""A docstring."""\n\n# a comment\n{FILES[name]}')
    assert digest(project) == before
    write(project, name, FILES[name] + "more = 1\n")
    assert digest(project) != before
    write(project, name, FILES[name])
    assert digest(project) == before


def test_the_package_that_brings_a_check_is_in_it_and_no_other_installed_one(project, tmp_path):
    site = tmp_path / "site"
    for name, text in {
        "kernels/__init__.py": "",
        "kernels/core.py": "import other\nimport helpers\n",
        "kernels/unused.py": "",
        "kernels/claims/__init__.py": "",
        "kernels/claims/sum_v1.py": "from kernels import core\nfrom ._support import planted\nimport other\n",
        "kernels/claims/_support.py": "",
        "other/__init__.py": "",
    }.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    check = CheckSource(site / "kernels/claims/sum_v1.py", attacks=("other.function",))
    write(project, "falsifiers/other.py", "import kernels\n")
    sources = Sources(project.root)
    assert [file.path for file in sources.closure(check).files] == [
        "helpers.py",
        "kernels/__init__.py",
        "kernels/claims/__init__.py",
        "kernels/claims/_support.py",
        "kernels/claims/sum_v1.py",
        "kernels/core.py",
    ]
    own = CheckSource(project.root / "falsifiers/other.py")
    assert [file.path for file in sources.closure(own).files] == ["falsifiers/other.py"]  # installed code, to it


def test_code_outside_does_not_move_it(project):
    before = digest(project)
    write(project, "src/engine/unused.py", "x = 1\n")
    write(project, "falsifiers/other.py", "x = 1\n")
    assert digest(project) == before


def test_data_counts_by_its_bytes(project):
    before = digest(project, data=("shaders/*",))
    write(project, "shaders/a.wgsl", "fn a() {} // a comment")
    changed = digest(project, data=("shaders/*",))
    (project.root / "shaders/a.wgsl").unlink()
    assert len({before, changed, digest(project, data=("shaders/*",))}) == 3


def test_files_are_read_once_and_remembered(project, monkeypatch):
    digest(project)
    read = []
    monkeypatch.setattr(closures.source_meaning, "meaning", lambda source: read.append(source) or "0" * 64)
    digest(project)
    assert read == [], "the cache of the run before was not used"
    write(project, "src/engine/tables.py", "TWO = 22\n")
    digest(project)
    assert read == [b"TWO = 22\n"]


@pytest.mark.parametrize("damage", ["", "[]", '{"version": 99}', "\x00"])
def test_a_damaged_cache_is_no_error(project, damage):
    before = digest(project)
    (project.cache / "closure-cache.json").write_text(damage)
    assert digest(project) == before


def test_bound_files_are_those_of_the_project(project, tmp_path):
    (tmp_path / "outside.bin").write_text("x")
    sources = Sources(project.root)
    assert sources.data_digest("shaders/a.wgsl") == closures.file_digest(project.root / "shaders/a.wgsl")
    assert sources.data_digest("shaders/none.wgsl") == ""
    assert sources.data_digest("../outside.bin") == ""
    assert sources.data_digest(str(tmp_path / "outside.bin")) == ""


def test_our_own_engine_is_found():
    root = Path(__file__).parents[2]
    found = Sources(root).closure(CheckSource(root / "falsifiers" / "none.py", ("pv.trace.aprt.write",)))
    paths = {file.path for file in found.files}
    assert "src/pv/trace/aprt.py" in paths
    assert not any(p.startswith(("src/pv/contract", "src/pv/evidence", "src/pv/cli")) for p in paths)
