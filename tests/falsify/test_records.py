"""Records of attempts: what they carry, the command that reproduces them, what is the same in every one of a run."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace

import pytest

from pv import __version__
from pv.contract.project import Project
from pv.contract.vocabulary import Cell, DeviceClass, Level, Verdict
from pv.diagnostics.model import Span
from pv.evidence import statement
from pv.evidence.closure import Closure
from pv.evidence.digests import closure_digest
from pv.evidence.record import Environment, FileDigest
from pv.falsify.attempt import Attempt, blocked, inconclusive, now
from pv.falsify.devices import DeviceReport
from pv.falsify.judge import Judged
from pv.falsify.planning import Task
from pv.falsify.protocol import Answer, Outcome
from pv.falsify.reading import FoundCheck
from pv.falsify.records import RunFacts, command, record_of, run_facts, tool_digest

FILES = (FileDigest("falsifiers/x_v1.py", "a" * 64),)
CLOSURE = Closure(closure_digest(FILES), FILES)
FACTS = RunFacts("run", seed=5, commit="c" * 40, dirty=True)


@pytest.fixture
def task(checks):
    def task(cell: tuple[str, str] = ("cpu", "code"), *cells: tuple[str, str], missing: tuple[str, ...] = ()) -> Task:
        contract = checks.contract("x-v1", checks.entry("FALSIFY-X-001", cells=cells or (cell,)))
        span = Span(0, 0, 1, 1, 1, 1)
        check = FoundCheck(
            "FALSIFY-X-001", "x_v1", checks.folder / "x_v1.py", "falsifiers/x_v1.py", "f", "falsifier",
            Level.LIVE, None, None, 1.0, (), ("json.dumps",), (), span,
        )  # fmt: skip
        made = Cell(DeviceClass(cell[0]), cell[1])
        return Task(contract, contract.claims[0], check, made, made in contract.claims[0].required_cells, missing)

    return task


@pytest.fixture
def record(checks):
    def record(attempt: Attempt, **more):
        project = Project(root=checks.root, falsifiers=checks.folder)
        return record_of(attempt, FACTS, CLOSURE, project, **{"device": None, "previous": "", **more})

    return record


@pytest.mark.parametrize(
    ("cell", "cells", "seed", "expected"),
    [
        (("cpu", "code"), (), 0, "pv falsify --id FALSIFY-X-001"),
        (("cpu", "code"), (), 3, "pv falsify --id FALSIFY-X-001 --seed 3"),
        (("cuda", "a"), (("cuda", "a"), ("cpu", "a")), 0, "pv falsify --id FALSIFY-X-001 --device cuda"),
        (("cuda", "a"), (("cuda", "a"), ("cuda", "b")), 0, "pv falsify --id FALSIFY-X-001 --device cuda --subject a"),
        (("vulkan-sw", "a"), (("vulkan", "a"),), 0, "pv falsify --id FALSIFY-X-001 --device vulkan-sw --subject a"),
    ],
)
def test_the_command_runs_that_cell_again_and_no_other(task, cell, cells, seed, expected):
    assert command(task(cell, *cells), seed) == expected


def test_a_record_carries_the_run_and_can_be_written(task, record):
    answer = Answer(
        Outcome.MEASURED,
        seeded=True,
        notes=("a note",),
        bound=(FileDigest("fixtures/a", "b" * 64),),
        environment=Environment(python="3.11", host="h"),
    )
    attempt = Attempt(task(), Judged(Verdict.FALSIFIED, "m = 0", "if_fails"), now(), 1.23456, answer, log=b"said")
    made = record(attempt, previous=f"sha256:{'d' * 64}")
    assert (made.claim_id, made.contract_id, made.contract_version) == ("FALSIFY-X-001", "x-v1", "1.0.0")
    assert (made.verdict, made.reason, made.observed, made.predicted) == (Verdict.FALSIFIED, "m = 0", "if_fails", "p")
    assert (made.seed, made.notes, made.bound) == (5, ("a note",), answer.bound)
    assert (made.environment.python, made.duration_seconds) == ("3.11", 1.235)
    assert (made.git_commit, made.git_dirty, made.run_id) == ("c" * 40, True, "run")
    assert (made.tool_version, made.tool_digest) == (__version__, tool_digest())
    assert made.entry_point == "falsifiers/x_v1.py:f"
    assert made.attacks == ("json.dumps",)
    written = statement.to_bytes(made)
    assert replace(statement.from_bytes(written), digest="") == made


def test_a_check_that_asked_for_no_seed_has_none_on_record(task, record):
    answer = Answer(Outcome.MEASURED, environment=Environment(python="3.11"))
    assert record(Attempt(task(), Judged(Verdict.SURVIVED, "", "prediction"), now(), answer=answer)).seed is None


def test_what_never_ran_is_on_record_with_this_machines_facts(task, record):
    made = record(
        blocked(task(("cuda", "code"), missing=("cuda: none",))), device=DeviceReport(DeviceClass.CUDA, why_not="x")
    )
    assert (made.verdict, made.missing, made.reason) == (Verdict.BLOCKED, ("cuda: none",), "cuda: none")
    assert made.environment.host
    assert made.environment.threads == 0
    waiting = record(inconclusive(task(), "FALSIFY-X-002", "FALSIFIED on cpu · code"))
    assert waiting.verdict is Verdict.INCONCLUSIVE
    assert waiting.reason == "precondition FALSIFY-X-002 does not survive: FALSIFIED on cpu · code"
    statement.to_bytes(made)
    statement.to_bytes(waiting)


def test_moments_sort_as_text_and_fit_the_schema(task):
    first, second = now(), now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first)
    assert first <= second


def test_git_facts_are_there_with_git_and_absent_without(tmp_path):
    project = Project(root=tmp_path)
    assert run_facts(project, 0).commit == ""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-qm", "a")
    clean = run_facts(project, 3)
    assert (clean.commit, clean.dirty, clean.seed) == (git("rev-parse", "HEAD"), False, 3)
    (tmp_path / "a").write_text("b")
    dirty = run_facts(project, 3)
    assert dirty.dirty
    assert dirty.run_id != clean.run_id
