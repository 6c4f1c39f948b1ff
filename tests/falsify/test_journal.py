"""Journals: the last verdicts, a run that was killed, lines that were cut off."""

from __future__ import annotations

import pytest

from pv.contract.vocabulary import Cell, DeviceClass, Level, Verdict
from pv.diagnostics.model import Span
from pv.falsify.attempt import Attempt
from pv.falsify.journal import KEPT, Entry, Journal, JournalError, last_verdicts, unfinished
from pv.falsify.judge import Judged
from pv.falsify.planning import Task
from pv.falsify.reading import FoundCheck

CPU = Cell(DeviceClass.CPU, "code")
SOFTWARE = Cell(DeviceClass.VULKAN_SW, "code")


@pytest.fixture
def task(checks):
    contract = checks.contract("x-v1", checks.entry("FALSIFY-X-001"), checks.entry("FALSIFY-X-002"))

    def task(claim: str = "FALSIFY-X-001", cell: Cell = CPU) -> Task:
        place = checks.folder / "x_v1.py"
        span = Span(0, 0, 1, 1, 1, 1)
        check = FoundCheck(
            claim, "x_v1", place, place.name, "f", "falsifier", Level.LIVE, None, None, 1.0, (), (), (), span
        )
        return Task(contract, contract.claim(claim), check, cell)

    return task


def attempt(task: Task, verdict: Verdict) -> Attempt:
    return Attempt(task, Judged(verdict, "", ""), "2026-11-20T00:00:00Z")


def written(cache, run_id, *attempts, ended=True) -> Journal:
    journal = Journal(cache, run_id, [one.task for one in attempts])
    for one in attempts:
        journal.add(one, claim="sha256:c", closure="sha256:s")
    if ended:
        journal.end()
    return journal


def test_a_claims_last_verdict_is_the_worst_of_its_last_run(tmp_path, task):
    first, software, other = task(), task(cell=SOFTWARE), task("FALSIFY-X-002")
    written(tmp_path, "a" * 8, attempt(first, Verdict.FALSIFIED), attempt(other, Verdict.ERROR))
    written(tmp_path, "b" * 8, attempt(first, Verdict.BLOCKED), attempt(software, Verdict.SURVIVED))
    assert last_verdicts(tmp_path) == {
        ("x-v1", "FALSIFY-X-001"): Verdict.BLOCKED,
        ("x-v1", "FALSIFY-X-002"): Verdict.ERROR,
    }


def test_a_run_without_an_end_can_be_taken_up(tmp_path, task):
    written(tmp_path, "killed-1", attempt(task(), Verdict.SURVIVED), ended=False)
    written(tmp_path, "whole-22", attempt(task(), Verdict.SURVIVED))
    past = unfinished(tmp_path)
    assert (past.run_id, past.ended) == ("killed-1", False)
    assert past.wanted == ((("x-v1", "FALSIFY-X-001"), CPU),)
    entry = Entry(("x-v1", "FALSIFY-X-001"), CPU, Verdict.SURVIVED, "sha256:c", "sha256:s")
    assert past.entries == (entry,)
    assert unfinished(tmp_path, "whole").run_id == "whole-22"


@pytest.mark.parametrize(
    ("run_id", "says"),
    [("", "no run was left unfinished"), ("zzz", "found no run with 'zzz'; the latest: whole-1"), ("whole", "2 runs")],
)
def test_a_run_that_is_not_there_is_told_so(tmp_path, task, run_id, says):
    for number in (1, 2):
        written(tmp_path, f"whole-{number}", attempt(task(), Verdict.SURVIVED))
    with pytest.raises(JournalError, match=says):
        unfinished(tmp_path, run_id)


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path, task):
    journal = written(tmp_path, "killed-1", attempt(task(), Verdict.SURVIVED), ended=False)
    with journal.path.open("a") as file:
        file.write('{"key": ["x-v1", "FALS')
    assert len(unfinished(tmp_path).entries) == 1
    journal.path.with_name("00000000-empty.jsonl").touch()
    assert last_verdicts(tmp_path) == {("x-v1", "FALSIFY-X-001"): Verdict.SURVIVED}


def test_old_journals_are_removed(tmp_path, task):
    for number in range(KEPT + 5):
        written(tmp_path, f"run-{number}", attempt(task(), Verdict.SURVIVED))
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == KEPT
    assert names[-1] == f"{KEPT + 5:08d}-run-{KEPT + 4}.jsonl"


def test_a_project_without_journals_has_no_verdicts(tmp_path):
    assert last_verdicts(tmp_path) == {}
