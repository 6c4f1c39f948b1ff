"""A foreign tree of YAML files: which are contracts, what they hold, and globs that find them and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pv.contract.survey import report, survey

CORPUS = Path(__file__).parent.parent.parent.parent / "shared" / "corpus"


def contract(*claims: str, kind: str = "schema") -> str:
    listed = "".join(f"  - {{id: {claim}}}\n" for claim in claims)
    tests = f"falsification_tests:\n{listed}" if claims else ""
    return f'metadata:\n  version: "1.0.0"\n  description: d\n  kind: {kind}\n{tests}'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "a/x-v1.yaml": contract("FALSIFY-X-001, status: FUNCTIONAL", "FALSIFY-X-002, status: DONE"),
        "a/y-v1.yaml": contract("FALSIFY-X-001", kind="registry"),
        "b/x-v1.yaml": contract("KH-1"),
        "b/workflow.yaml": "on: push\njobs: {}\n",
        "b/[odd]-v1.yaml": contract(),
        "c/deep/z-v1.yml": contract(),
        "c/broken-v1.yaml": "metadata:\n  version: 1.0.0\nfalsification_tests: []\n",
        ".hidden/h-v1.yaml": contract(),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_globs_find_every_contract_and_nothing_else(tree):
    found = survey(tree)
    assert found.globs == ("a/*.yaml", "b/[[]odd]-v1.yaml", "b/x-v1.yaml", "c/*.yaml", "c/deep/*.yml")
    matched = {path for pattern in found.globs for path in tree.glob(pattern)}
    assert matched == {contract.path for contract in found.contracts} | {one.path for one in found.unsound}


def test_the_report_counts_and_names(tree):
    assert list(report(survey(tree))) == [
        "found: 5 contracts in 3 folders; 4 falsifiers, 0 in kani_harnesses",
        "kinds: schema 4, registry 1",
        "statuses: none 2, FUNCTIONAL 1",
        "status words that are not pv's, kept as they are: 'DONE' 1",
        "ids in more than one contract: 1",
        "  FALSIFY-X-001: x-v1, y-v1",
        "file names used more than once: 1",
        "  x-v1: a/x-v1.yaml, b/x-v1.yaml",
        "not sound contracts: 1; `pv validate` says where",
        "  c/broken-v1.yaml: missing field `description`",
    ]


def test_every_real_contract_is_found_again_by_its_glob():
    if not CORPUS.is_dir():
        pytest.skip(f"no corpus of real contracts at {CORPUS}: this test saw none")
    found = survey(CORPUS)
    wanted = {contract.path for contract in found.contracts} | {one.path for one in found.unsound}
    assert len(wanted) > 150
    assert {path for pattern in found.globs for path in CORPUS.glob(pattern)} == wanted
