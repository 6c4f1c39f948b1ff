"""Claims tried inside tests: judged as `pv falsify` judges them, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pv.contract.project import find
from pv.contract.vocabulary import Verdict
from pv.falsify.request import Asked
from pv.falsify.trial import TrialError, Trials, attempts, explain


@pytest.fixture
def contract(checks) -> Path:
    """Three claims: one survives, one is wrong, one waits for the wrong one."""
    (checks.root / "pyproject.toml").write_text("[tool.pv]\n")
    data = {
        "metadata": {"version": "1.0.0", "description": "d", "kind": "schema"},
        "falsification_tests": [
            checks.entry("FALSIFY-T-001"),
            checks.entry("FALSIFY-T-002", precondition=["FALSIFY-T-003"]),
            checks.entry("FALSIFY-T-003"),
        ],
    }
    path = checks.root / "contracts" / "t-v1.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(data))
    body = "def {0}(ctx):\n    return measure('m', {1})\n\n\n"
    checks.write(
        "t_v1",
        checks.registration("FALSIFY-T-001", "a")
        + body.format("a", "not defect")
        + checks.registration("FALSIFY-T-002", "b")
        + body.format("b", "not defect")
        + checks.registration("FALSIFY-T-003", "c")
        + body.format("c", "0.25"),
    )
    return path


def test_each_claim_comes_to_its_verdict_and_nothing_is_written(contract):
    before = {path: path.read_bytes() for path in contract.parent.parent.rglob("*.yaml")}
    made = {attempt.task.claim.id: attempt for attempt in attempts(contract)}
    assert {claim: attempt.verdict for claim, attempt in made.items()} == {
        "FALSIFY-T-001": Verdict.SURVIVED,
        "FALSIFY-T-002": Verdict.INCONCLUSIVE,
        "FALSIFY-T-003": Verdict.FALSIFIED,
    }
    assert "precondition FALSIFY-T-003 does not survive: FALSIFIED" in made["FALSIFY-T-002"].judged.reason
    assert {path: path.read_bytes() for path in contract.parent.parent.rglob("*.yaml")} == before
    assert not (contract.parent.parent / "evidence").exists()


def test_a_precondition_is_tried_once_and_first(contract):
    trials = Trials.of(find(contract), Asked(every=True))
    by_id = {task.claim.id: task for task in trials.tasks}
    trials.attempt(by_id["FALSIFY-T-002"])
    assert [task.claim.id for task in trials.made] == ["FALSIFY-T-003", "FALSIFY-T-002"]
    first = trials.made[by_id["FALSIFY-T-003"]]
    assert trials.attempt(by_id["FALSIFY-T-003"]) is first


def test_an_explanation_shows_the_figure_the_bound_the_consequence_and_the_way_back(contract):
    [broken] = attempts(contract, ids=["FALSIFY-T-003"])
    assert explain(broken).splitlines() == [
        "FALSIFIED FALSIFY-T-003 [cpu · code]: m = 0.25, expected == 1",
        "  measurement  value   threshold  margin",
        "  m            0.25 1  == 1       -0.75   BROKEN",
        "  then: f",
        "  again: pv falsify --id FALSIFY-T-003",
    ]
    [survived] = attempts(contract, ids=["FALSIFY-T-001"])
    assert "control 'broken' must break m: FALSIFIED" in explain(survived)


def test_a_test_of_nothing_does_not_pass(contract, checks):
    (checks.folder / "t_v1.py").unlink()
    with pytest.raises(TrialError, match="expected a claim with a quick check"):
        list(attempts(contract))


def test_checks_that_do_not_fit_are_named(contract, checks):
    path = checks.folder / "t_v1.py"
    path.write_text(path.read_text().replace("FALSIFY-T-003", "FALSIFY-T-009"))
    with pytest.raises(TrialError, match="FALSIFY-T-009"):
        list(attempts(contract))
