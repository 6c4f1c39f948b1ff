"""Contract x cell: what decides a place, and the three ways to show it."""

from __future__ import annotations

import json

from pv.contract.vocabulary import Cell, DeviceClass, Status
from pv.report.matrix import as_data, as_text, matrix
from tests.report.samples import CPU, CUDA, Town


def places(found, name):
    line = next(line for line in found.lines if line.name == name)
    return {cell: str(place) for cell, place in line.places.items()}


def test_a_place_is_the_lowest_rung_of_the_claims_that_require_it(story):
    found = matrix(story.standing)
    assert found.cells == (CPU, CUDA)
    assert places(found, "parity-v1") == {CPU: "FALSIFIED 2/5, 2 never ran", CUDA: "FALSIFIED 0/1"}
    assert places(found, "words-v1") == {CPU: "UNBOUND 0/1"}


def test_where_claims_require_a_cell_those_alone_decide_it(made):
    made.tell("FALSIFY-PARITY-002", {"seconds": 1.0}, cell=CUDA)  # which asks for no such cell
    assert places(matrix(made.story.standing), "parity-v1")[CUDA] == "FALSIFIED 0/1"


def test_claims_have_lines_of_their_own(story):
    found = matrix(story.standing, claims=True)
    assert [line.name for line in found.lines][:2] == ["FALSIFY-PARITY-001", "FALSIFY-PARITY-002"]
    assert places(found, "FALSIFY-PARITY-001") == {CPU: "FUNCTIONAL 1/1", CUDA: "FALSIFIED 0/1"}


def test_stale_evidence_and_cells_that_nobody_requires_are_told(tmp_path):
    town = Town(tmp_path / "town")
    elsewhere = Cell(DeviceClass.VULKAN_SW, "code")
    town.tell("FALSIFY-WORDS-001", {"words": 5})
    town.tell("FALSIFY-WORDS-001", {"words": 5}, cell=elsewhere)
    module = town.root / "falsifiers/words_v1.py"
    module.write_text(module.read_text() + "\nmore = 1\n")
    found = matrix(town.story.standing)
    assert places(found, "words-v1") == {CPU: "FUNCTIONAL 1/1, 1 stale", elsewhere: "(FUNCTIONAL 1/1, 1 stale)"}


def test_the_table_breaks_its_columns_where_the_line_would_be_too_wide(story):
    found = matrix(story.standing)
    wide, narrow = as_text(found, 200), as_text(found, 40)
    assert wide.splitlines()[0].split() == ["cpu", "cuda"]
    assert narrow.splitlines()[0].split() == ["cpu"]
    assert sorted([*wide.split(), "parity-v1", "words-v1"]) == sorted(narrow.split())  # the names stand once more
    assert "parity-v1  FALSIFIED 2/5, 2 never ran  FALSIFIED 0/1\n" in wide
    assert max(map(len, narrow.split("\n\n(")[0].splitlines())) <= 40


def test_the_data_has_contracts_and_claims(story):
    data = json.loads(json.dumps(as_data(story.standing)))
    parity = data["contracts"][0]
    assert parity["id"] == "parity-v1"
    assert [cell["rung"] for cell in parity["cells"]] == ["FALSIFIED", "FALSIFIED"]
    claim = parity["claims"][0]
    assert claim["id"] == "FALSIFY-PARITY-001"
    assert claim["cells"][0] == {
        "device": "cpu",
        "subject": "code",
        "rung": Status.FUNCTIONAL.value,
        "shippable": 1,
        "total": 1,
        "stale": 0,
        "never_ran": 0,
        "required": True,
        "oldest": "2026-11-20T01:00:00Z",
    }
