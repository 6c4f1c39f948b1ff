"""Drift of names: evidence against the tree, ids against the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pv.rules.cited import Citation, citation, cited_by
from tests.contract.samples import SOUND

STATUS = "    status: UNBOUND\nkani"
LOC = ("falsification_tests", 0, "algorithm_evidence")


def evidence(block: str) -> str:
    lines = "".join(f"      {line}\n" for line in block.splitlines())
    return SOUND.replace(STATUS, f"    status: UNBOUND\n    algorithm_evidence:\n{lines}kani", 1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "src" / "pkg").mkdir(parents=True)
    (tmp_path / "src" / "pkg" / "ops.py").write_text(
        "LIMIT = 1\ndef rope(): ...\nclass Tape:\n    READ = 1\n    def read(self): ...\n# def ghost(): ...\n"
    )
    (tmp_path / "src" / "pkg" / "__init__.py").write_text("def top(): ...\n")
    (tmp_path / "kernel.rs").write_text("fn other() {}")
    (tmp_path / "data.json").write_text("{}")
    return tmp_path


def drift(check, text: str, **more) -> list[tuple[str, str]]:
    return [(each.code, each.found.strip("`")) for each in check(text, **more) if each.code in ("PV311", "PV312")]


@pytest.mark.parametrize(
    "name",
    [
        "rope", "Tape", "Tape.read", "Tape.READ", "LIMIT", "pkg.ops.rope", "src.pkg.ops.Tape.read", "ops.rope",
        "Tape::read", "rope — rotates", "rope (both halves)", "`rope`", "rope()",
    ],
)  # fmt: skip
def test_names_that_are_there(tree, check, name):
    block = f"file_paths: [src/pkg/ops.py]\nfunction_names: ['{name}']"
    assert drift(check, evidence(block)) == []


@pytest.mark.parametrize(
    "name", ["ghost", "read", "READ", "rop", "pkg.other.rope", "Tape.write", "rope.inner", "or equivalent"]
)
def test_names_that_are_not(tree, check, name):
    block = f"file_paths: [src/pkg/ops.py]\nfunction_names: ['{name}']"
    assert drift(check, evidence(block)) == [("PV312", name.split()[0])]


def test_a_name_in_a_package_is_looked_up_in_its_init(tree, check):
    assert drift(check, evidence("file_paths: [src/pkg/__init__.py]\nfunction_names: [pkg.top]")) == []


def test_beside_a_file_in_another_language_a_name_may_be_there(tree, check):
    assert drift(check, evidence("file_paths: [src/pkg/ops.py, kernel.rs]\nfunction_names: [other]")) == []
    assert drift(check, evidence("file_paths: [kernel.rs, gone.rs]\nfunction_names: [other]")) == [("PV311", "nothing")]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("src/pkg/ops.py::rope — rotates a head", []),
        ("src/pkg/ops.py::Tape::read", []),
        ("src/pkg/ops.py::Tape.read[case-1]", []),
        ("src/pkg/ops.py", []),
        ("kernel.rs::tests::anything", []),
        ("src/pkg/ops.py::ghost", [("PV312", "ghost")]),
        ("src/pkg/gone.py::rope", [("PV311", "nothing")]),
        ("pv validate contracts/x.yaml — exits 0", []),
        ("verified by hand on 2026-05-04", []),
        ("https://example.org/a.py", []),
    ],
)
@pytest.mark.parametrize("shape", ["test_locations: ['{}']", "- '{}'"])
def test_locations_of_tests_in_both_real_shapes(tree, check, location, expected, shape):
    assert drift(check, evidence(shape.format(location))) == expected


def test_other_blocks_are_read_too(tree, check):
    for key in ("functional_evidence", "discharge_evidence", "evidence_discharged_by"):
        text = SOUND.replace(
            STATUS, f"    status: UNBOUND\n    {key}: ['data.json', 'src/gone.json', 'cuda · a · b']\nkani", 1
        )
        assert drift(check, text) == [("PV311", "nothing")], key
    gate = SOUND + "gates: [{id: G, evidence_discharged_by: ['src/pkg/ops.py::ghost']}]\n"
    assert drift(check, gate) == [("PV312", "ghost")]


def test_where_not_even_the_folder_is_there_it_may_be_another_tree(tree, check):
    (finding,) = [e for e in check(evidence("file_paths: [crates/x.rs]"), "strict") if e.code == "PV311"]
    assert finding.severity.value == "warning"
    assert "is this the tree" in finding.help
    (finding,) = [e for e in check(evidence("file_paths: [src/x.rs]"), "compat") if e.code == "PV311"]
    assert finding.severity.value == "error"


def test_a_near_name_is_suggested(tree, check):
    (finding,) = [
        e for e in check(evidence("file_paths: [src/pkg/ops.py]\nfunction_names: [Tape.raed]")) if e.code == "PV312"
    ]
    assert finding.help == "did you mean `Tape.read`?"


@pytest.mark.parametrize(
    ("text", "sure", "expected"),
    [
        ("a/b.py::f — prose", False, ("a/b.py", "f")),
        ("b.py", False, None),
        ("b.py", True, ("b.py", "")),
        ("b.py::C::m[x-1]", False, ("b.py", "C.m")),
        ("Makefile", True, ("Makefile", "")),
        ("sha256:abc", True, None),
        ("see a/b.py", False, None),
        ("a/b.py, and c/d.py", False, ("a/b.py", "")),
        ("crates/x/src/lib.rs::tests::f — it works", False, ("crates/x/src/lib.rs", "tests.f")),
        ("1.5/2.5", False, None),
        ("", True, None),
    ],
)
def test_what_a_text_cites(text, sure, expected):
    found = citation(text, LOC, sure=sure)
    assert (found and (found.path, found.name)) == expected


def test_prose_fields_are_not_read():
    block = {"notes": "a/b.py::f", "status": "a/b.py", "invariants_enforced": ["a/b.py"], "deep": {"er": ["c/d.json"]}}
    assert cited_by(block, LOC).files == (Citation((*LOC, "deep", "er", 0), "c/d.json", ""),)


def test_three_claims_in_a_ring_are_told_once(check):
    extra = "".join(
        f"  - {{id: FALSIFY-SOUND-00{n}, prediction: p{n}, if_fails: f, precondition: FALSIFY-SOUND-00{after}}}\n"
        for n, after in ((2, 3), (3, 4), (4, 2))
    )
    found = [e for e in check(SOUND.replace("kani_harnesses:", extra + "kani_harnesses:")) if e.code == "PV304"]
    assert [e.where for e in found] == ["falsification_tests[1].precondition (FALSIFY-SOUND-002)"]
    assert "FALSIFY-SOUND-002 -> FALSIFY-SOUND-003 -> FALSIFY-SOUND-004 -> FALSIFY-SOUND-002" in found[0].message


def test_a_claim_that_waits_for_itself(check):
    text = SOUND.replace(STATUS, "    precondition: FALSIFY-SOUND-001\n" + STATUS, 1)
    assert [e.code for e in check(text)] == ["PV304"]


@pytest.mark.parametrize("subject", ["model-1", "code", "tiny-teacher", "synthetic:7b", "model-2", "a-new-one"])
def test_subjects_that_are_no_slip(check, subject):
    text = SOUND.replace(STATUS, f"    requires: {{cells: [{{subject: '{subject}'}}]}}\n" + STATUS, 1)
    assert check(text) == []
