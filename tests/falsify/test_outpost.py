"""The far side of a cluster, without one: what it runs, what it refuses, what it tells of itself."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pv.contract.vocabulary import Cell, DeviceClass
from pv.evidence.closure import CheckSource, Sources
from pv.falsify.environment import determinism, host
from pv.falsify.outpost import INSTALLED, PROJECT, Expected, Origin, Outpost
from pv.falsify.protocol import Outcome, Request, read_event, request_line, stated_in
from pv.falsify.reading import read_module
from pv.falsify.records import tool_digest

BODY = """
    @falsifier("FALSIFY-X-001", level="live", controls=[Control("broken", plant=broken, breaks="m")])
    def survives(ctx):
        print("said", ctx.project)
        (ctx.project / "stood-here").touch()
        ctx.progress(1, 1, "rows")
        return [measure("m", not defect), measure("seed", ctx.seed)]

    @falsifier("FALSIFY-X-002", level="live", controls=[Control("broken", plant=broken, breaks="m")])
    def sleeps(ctx):
        import time
        (ctx.project / "begun").touch()
        time.sleep(60)

    @falsifier("FALSIFY-X-003", level="live", controls=[Control("broken", plant=broken, breaks="m")])
    def dies(ctx):
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)

    @falsifier("FALSIFY-X-004", level="live", controls=[Control("broken", plant=broken, breaks="m")])
    def reads(ctx):
        return measure("m", float(ctx.subject_path("weights").read_text()))
"""
CLAIM = {"survives": "FALSIFY-X-001", "sleeps": "FALSIFY-X-002", "dies": "FALSIFY-X-003", "reads": "FALSIFY-X-004"}


class Far:
    """A request for a project at one place, asked of an outpost that stands in another one."""

    def __init__(self, project: Path, outpost: Outpost) -> None:
        self.project, self.outpost = project, outpost
        self.module = project / "falsifiers/x_v1.py"

    def expected(self) -> Expected:
        closure = Sources(self.project).closure(CheckSource(self.module))
        files = tuple((file.path, file.sha256) for file in closure.files)
        return Expected((PROJECT, "falsifiers/x_v1.py"), (), (), "", (), closure.digest, files)

    def ask(self, function="survives", timeout=30.0, expected=None, **more):
        request = Request(
            module=self.module,
            function=function,
            claim=CLAIM[function],
            stated=stated_in(read_module(self.module, "x_v1.py").checks),
            cell=Cell(DeviceClass.CPU, "code"),
            project=self.project,
            scratch=Path("/nowhere"),
            log=Path("/nowhere/log"),
            seed=5,
        )
        line, log = self.outpost.ask(request_line(replace(request, **more)), timeout, expected or self.expected())
        return read_event(line), log.decode()


@pytest.fixture
def far(checks, tmp_path):
    """Two copies of one project, as two machines have them."""
    checks.write("x_v1", BODY)
    (checks.root / "pyproject.toml").write_text("[tool.pv]\n")
    there = tmp_path / "there"
    shutil.copytree(checks.root, there, ignore=shutil.ignore_patterns("there"))
    made: list[Outpost] = []

    def far(root=there, subjects=(), tool=None) -> Far:
        made.append(Outpost("cpu", Origin(str(root), tool or tool_digest(), dict(subjects), determinism(1))))
        return Far(checks.root, made[-1])

    far.there = there
    yield far
    for outpost in made:
        outpost.close()


def test_a_check_runs_in_the_project_as_it_stands_there(far):
    one = far()
    assert one.outpost.ready()["problem"] == ""
    answer, log = one.ask()
    assert [(m.name, m.value) for m in answer.measurements] == [("m", 1.0), ("seed", 5.0)]
    assert log == "said <project>\n"
    assert (far.there / "stood-here").exists()
    assert one.outpost.said() == (1, 1, "rows")
    assert answer.environment.host == host()
    assert answer.environment.threads == 1


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda root: (root / "falsifiers/x_v1.py").write_text("x = 1\n"), "falsifiers/x_v1.py is another one"),
        (lambda root: (root / "falsifiers/x_v1.py").unlink(), "falsifiers/x_v1.py is not there"),
    ],
)
def test_another_source_is_an_error_that_names_the_file(far, spoil, why):
    spoil(far.there)
    answer, _ = far().ask()
    assert answer.outcome is Outcome.ERROR
    assert why in answer.reason
    assert str(far.there) in answer.reason
    assert "bring both to the same commit" in answer.reason


def test_a_comment_there_is_no_other_source(far):
    module = far.there / "falsifiers/x_v1.py"
    module.write_text(module.read_text() + "# no difference in meaning\n")
    assert far().ask()[0].outcome is Outcome.MEASURED


def test_an_imported_helper_that_differs_is_named(far, checks):
    for root in (checks.root, far.there):
        (root / "falsifiers/_help.py").write_text("value = 1\n")
        module = root / "falsifiers/x_v1.py"
        module.write_text("from . import _help\n" + module.read_text())
    (far.there / "falsifiers/_help.py").write_text("value = 2\n")
    answer, _ = far().ask()
    assert "falsifiers/_help.py is another one" in answer.reason


def test_another_pv_there_is_refused_before_anything_runs(far):
    problem = far(tool="sha256:" + "0" * 64).outpost.ready()["problem"]
    assert "expected sha256:000000000000, found sha256:" in problem
    assert "install the same one" in problem


def test_a_missing_checkout_is_refused_with_what_to_do(far, tmp_path):
    problem = far(root=tmp_path / "gone").outpost.ready()["problem"]
    assert f"has no folder {tmp_path / 'gone'}; check the project out there, or take --ray-ship" in problem


def test_a_module_of_an_installed_package_is_found_there(far, checks, monkeypatch):
    monkeypatch.syspath_prepend(str(far.there / "falsifiers"))
    one = far()
    expected = one.expected()._replace(module=(INSTALLED, "x_v1.py"))
    assert one.ask(expected=expected)[0].outcome is Outcome.MEASURED


def test_a_worker_that_dies_there_is_an_error_with_the_facts_of_that_machine(far):
    answer, _ = far().ask("dies")
    assert answer.outcome is Outcome.ERROR
    assert "the worker died of SIGKILL" in answer.reason
    assert answer.environment.host == host()


def test_the_time_budget_holds_there(far):
    begun = time.monotonic()
    answer, _ = far().ask("sleeps", timeout=1.0)
    assert answer.reason == "killed: it overran its budget of 1 s"
    assert time.monotonic() - begun < 20


def test_stop_ends_a_run_from_another_thread(far):
    one = far()
    answers: list[tuple] = []
    thread = threading.Thread(target=lambda: answers.append(one.ask("sleeps")))
    thread.start()
    deadline = time.monotonic() + 20
    while not (far.there / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    one.outpost.stop()
    thread.join(20)
    assert answers[0][0].reason == "stopped"


def test_a_subject_is_where_this_machine_has_it_else_where_the_asking_one_has_it(far, tmp_path, monkeypatch):
    given, own = tmp_path / "given", tmp_path / "own"
    given.write_text("1")
    own.write_text("2")
    (far.there / "inside").write_text("3")
    assert far(subjects={"weights": str(given)}).ask("reads")[0].measurements[0].value == 1
    assert far(subjects={"weights": "./inside"}).ask("reads")[0].measurements[0].value == 3
    monkeypatch.setenv("PV_SUBJECT_WEIGHTS", str(own))
    assert far(subjects={"weights": str(given)}).ask("reads")[0].measurements[0].value == 2
    monkeypatch.setenv("PV_SUBJECT_WEIGHTS", str(tmp_path / "gone"))
    assert far(subjects={"weights": str(given)}).ask("reads")[0].measurements[0].value == 1


def test_nothing_is_left_in_the_temporary_folder(far, monkeypatch, tmp_path):
    room = tmp_path / "temporary"
    room.mkdir()
    monkeypatch.setattr("pv.falsify.outpost.tempfile.tempdir", str(room))
    one = far()
    one.ask()
    one.outpost.close()
    assert list(room.iterdir()) == []
