"""Paths become files, files become contracts or one diagnostic each, and nothing is passed over in silence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pv.contract import load
from pv.contract.project import Project, find

OURS = "metadata: {version: 1.0.0, description: d, references: [r]}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {
        "contracts/a.yaml": OURS,
        "contracts/b.yml": OURS,
        "contracts/deep/c.yaml": "falsification_tests: []\n",
        "contracts/notes.txt": "no",
        "contracts/.hidden/d.yaml": OURS,
        "contracts/node_modules/e.yaml": OURS,
        "contracts/k8s.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n",
        "contracts/compose.yaml": "services: {}\n",
        "contracts/broken.yaml": "a: [1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "pyproject.toml").write_text('[tool.pv]\ncontracts = ["contracts/*.yaml"]\n')
    return tmp_path


def names(files) -> list[str]:
    return [path.name for path in files]


def test_a_folder_is_walked_in_order_without_what_tools_keep(tree):
    found = load.discover([tree / "contracts"], find(tree))
    assert names(found.files) == ["a.yaml", "b.yml", "broken.yaml", "compose.yaml", "k8s.yaml", "c.yaml"]
    assert found.refused == ()


def test_without_paths_the_globs_of_the_project(tree):
    assert names(load.discover([], find(tree)).files) == ["a.yaml", "broken.yaml", "compose.yaml", "k8s.yaml"]


def test_other_peoples_files_are_left_out_unless_named(tree):
    project = find(tree)
    walked = load.load_all([tree / "contracts"], project)
    assert [one.stem for one in walked] == ["a", "b", "broken", "c"], "an unreadable file is never passed over"
    (named,) = load.load_all([tree / "contracts" / "k8s.yaml"], project)
    assert [each.code for each in named.diagnostics] == ["PV201", "PV201"]


def test_a_path_that_names_nothing_is_refused_and_the_others_are_looked_at(tree):
    (tree / "empty.yaml").mkdir()
    found = load.discover([tree / "nosuch.yaml", tree / "empty.yaml", tree / "contracts" / "a.yaml"], find(tree))
    assert names(found.files) == ["a.yaml"]
    assert [(each.code, each.found) for each in found.refused] == [
        ("PV190", "no such file or folder"),
        ("PV190", "a folder with no *.yaml or *.yml file below it"),
    ]


def test_a_file_comes_once_however_often_it_is_named(tree):
    a = tree / "contracts" / "a.yaml"
    assert names(load.discover([a, tree / "contracts", a], find(tree)).files).count("a.yaml") == 1


def test_a_file_that_cannot_be_read_is_one_diagnostic(tree):
    dangling = tree / "dangling.yaml"
    dangling.symlink_to(tree / "gone")
    for path in (tree / "contracts" / "broken.yaml", dangling):
        loaded = load.load(path, find(tree))
        assert loaded.document is None
        assert loaded.contract is None
        assert len(loaded.diagnostics) == 1


def test_every_kind_of_bad_file_is_one_diagnostic_with_a_code(tmp_path):
    bad = {
        "brackets": b"[" * 100_000,
        "bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (i, i, b",".join([b"*%c" % (i - 1)] * 9)) for i in range(98, 110)),
        "large": b"a: " + b"x" * (17 << 20),
        "nul": b"a: \x00\n",
        "latin-1": "a: \xe9\n".encode("latin-1"),
        "two": b"a: 1\n---\nb: 2\n",
        "empty": b"",
        "object": b"!!python/object/apply:os.system ['touch /tmp/pv-was-here']\n",
    }
    codes = {}
    for name, content in bad.items():
        path = tmp_path / f"{name}.yaml"
        path.write_bytes(content)
        loaded = load.load(path, Project(root=tmp_path))
        assert loaded.document is None
        (codes[name],) = [each.code for each in loaded.diagnostics]
    assert codes == {
        "brackets": "PV107", "bomb": "PV108", "large": "PV102", "nul": "PV104", "latin-1": "PV103", "two": "PV106",
        "empty": "PV106", "object": "PV110",
    }  # fmt: skip
    assert not Path("/tmp/pv-was-here").exists()


def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path, sound):
    project = Project(root=tmp_path)
    plain = load.load_bytes(sound.encode(), tmp_path / "a.yaml", project)
    other = load.load_bytes(b"\xef\xbb\xbf" + sound.replace("\n", "\r\n").encode(), tmp_path / "a.yaml", project)
    assert other.contract.data == plain.contract.data
    assert plain.contract.id == "a"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_closed_to_us(tmp_path):
    path = tmp_path / "closed.yaml"
    path.write_text(OURS)
    path.chmod(0)
    assert [each.code for each in load.load(path, Project(root=tmp_path)).diagnostics] == ["PV101"]


def test_the_corpus_loads(corpus):
    loaded = load.load_all([corpus], Project(root=corpus))
    assert len(loaded) == 162
    without = [one.path.name for one in loaded if one.contract is None]
    assert without == ["inference-showdown-v1.yaml"], "it lacks metadata.description"
    contracts = [one.contract for one in loaded if one.contract is not None]
    assert sum(len(contract.falsifiers) for contract in contracts) == 802
    assert sum(len(contract.harnesses) for contract in contracts) == 263
    assert sum(len(contract.obligations) for contract in contracts) == 641
    assert sum(len(contract.equations) for contract in contracts) == 455
