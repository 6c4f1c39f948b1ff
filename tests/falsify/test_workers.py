"""Workers: a run ends in an answer whatever the check does to its process, and nothing that it started lives on."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pv.contract.vocabulary import Cell, DeviceClass
from pv.falsify import Measurement
from pv.falsify.protocol import Outcome, Request, stated_in
from pv.falsify.reading import read_module
from pv.falsify.workers import Worker, sweep

MODULE = """
    import ctypes, os, signal, subprocess, sys, time
    from pathlib import Path

    def attack(name):
        return None

    @falsifier("FALSIFY-X-001", level="algorithm", controls=[Control("broken", plant=broken, breaks="m")])
    def survives(ctx):
        ctx.note("a note")
        return [measure("m", not defect), measure("seed", ctx.seed, unit="n", n=3)]

    @falsifier("FALSIFY-X-002", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def special(ctx):
        return [measure("nan", float("nan")), measure("inf", float("inf")), measure("minus", float("-inf"))]

    @falsifier("FALSIFY-X-003", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def crashes(ctx):
        print("said before the crash")
        os.kill(os.getpid(), signal.SIGSEGV)

    @falsifier("FALSIFY-X-004", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def leaves(ctx):
        os._exit(7)

    @falsifier("FALSIFY-X-005", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def overruns(ctx):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        (ctx.project / "pids").write_text(f"{child.pid} {daemon.pid}")
        time.sleep(600)

    @falsifier("FALSIFY-X-006", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def raises(ctx):
        raise ZeroDivisionError("no such number")

    @falsifier("FALSIFY-X-007", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def exits(ctx):
        sys.exit("bye")

    @falsifier("FALSIFY-X-008", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def blocked(ctx):
        raise Blocked("the moon", "a rope")

    @falsifier("FALSIFY-X-009", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def doubts(ctx):
        raise Inconclusive("the scale is off")

    @falsifier("FALSIFY-X-010", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def returns_nonsense(ctx):
        return {"m": 1}

    @falsifier("FALSIFY-X-011", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def talks(ctx):
        print("python")
        os.write(1, b"descriptor one\\n")
        os.write(2, b"descriptor two\\n")
        subprocess.run(["echo", "a child"])
        print(sys.stdin.read() == "", file=sys.stderr)
        ctx.progress(1, 2, "half")
        ctx.progress(2, 2, "whole")
        return measure("m", 1)

    @falsifier("FALSIFY-X-012", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def builds(ctx):
        ctx.subject("s", lambda: print("building") or ("broken" if defect else "sound"))
        return measure("m", ctx.subject("s", list) == "sound")

    @falsifier("FALSIFY-X-013", level="algorithm", controls=[Control("c", plant=broken, breaks="m")])
    def litters(ctx):
        import tempfile
        code = "import tempfile, os; print(tempfile.mkdtemp(), flush=True); os.kill(os.getpid(), 9)"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        ctx.note(tempfile.mkdtemp())
        ctx.note(child.stdout.strip())
        return measure("m", 1)
"""


@pytest.fixture
def ask(checks, tmp_path):
    """Run one check of MODULE in one worker that lives through the test."""
    path = checks.write("x", MODULE)
    found = read_module(path, "falsifiers/x.py").checks
    worker = Worker({"OMP_NUM_THREADS": "1"})

    def ask(function: str, *, control: str = "", timeout: float = 60, progress=lambda *_: None):
        check = next(check for check in found if check.function == function)
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        log = tmp_path / f"{function}-{control}.log"
        log.write_bytes(b"")
        request = Request(
            path, function, check.id, stated_in(found), Cell(DeviceClass.CPU, "code"), checks.root, scratch, log,
            control=control, seed=5,
        )  # fmt: skip
        answer = worker.ask(request, timeout, progress)
        return answer, log.read_text("utf-8")

    ask.worker = worker
    yield ask
    worker.close()


def test_a_check_measures_and_a_control_runs_the_same_check_on_broken_ground(ask):
    healthy, _ = ask("survives")
    assert healthy.outcome is Outcome.MEASURED
    assert healthy.measurements == (Measurement("m", 1.0), Measurement("seed", 5.0, "n", 3))
    assert healthy.seeded
    assert healthy.notes == ("a note",)
    assert healthy.environment.threads == 1
    assert healthy.environment.python == ".".join(map(str, sys.version_info[:3]))
    planted, _ = ask("survives", control="broken")
    assert planted.measurements[0] == Measurement("m", 0.0)
    again, _ = ask("survives")
    assert again.measurements[0] == Measurement("m", 1.0)


def test_nan_and_infinity_cross_the_pipe(ask):
    answer, _ = ask("special")
    nan, inf, minus = (m.value for m in answer.measurements)
    assert math.isnan(nan)
    assert (inf, minus) == (math.inf, -math.inf)


def test_a_segmentation_fault_is_an_answer_with_its_log_and_the_next_check_runs(ask):
    answer, log = ask("crashes")
    assert (answer.outcome, answer.reason) == (Outcome.ERROR, "the worker died of SIGSEGV")
    assert "said before the crash" in log
    assert "Segmentation fault" in log  # faulthandler's trace, with the line of the check
    assert "in crashes" in log
    assert ask("survives")[0].outcome is Outcome.MEASURED


def test_a_check_that_leaves_the_process_is_an_answer(ask):
    answer, _ = ask("leaves")
    assert (answer.outcome, answer.reason) == (Outcome.ERROR, "the worker ended by itself with exit code 7")
    assert ask("survives")[0].outcome is Outcome.MEASURED


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_check_that_overruns_is_killed_with_everything_it_started(ask, checks):
    begun = time.monotonic()
    answer, _ = ask("overruns", timeout=2.0)
    assert (answer.outcome, answer.reason) == (Outcome.ERROR, "killed: it overran its budget of 2 s")
    assert time.monotonic() - begun < 6
    child, daemon = map(int, (checks.root / "pids").read_text().split())
    assert wait_until(lambda: not alive(child) and not alive(daemon))
    assert ask("survives")[0].outcome is Outcome.MEASURED


@pytest.mark.parametrize(
    ("function", "outcome", "reason"),
    [
        ("raises", Outcome.ERROR, "ZeroDivisionError: no such number (x.py:"),
        ("exits", Outcome.ERROR, "SystemExit: bye (x.py:"),
        ("blocked", Outcome.BLOCKED, "the moon; a rope"),
        ("doubts", Outcome.INCONCLUSIVE, "the scale is off"),
        ("returns_nonsense", Outcome.ERROR, "TypeError: expected the check to return measure(…)"),
    ],
)
def test_what_a_check_raises_is_an_answer(ask, function, outcome, reason):
    answer, log = ask(function)
    assert answer.outcome is outcome
    assert answer.reason.startswith(reason)
    assert answer.missing == (("the moon", "a rope") if outcome is Outcome.BLOCKED else ())
    assert ("Traceback" in log) is (outcome is Outcome.ERROR)


def test_everything_a_check_says_is_in_its_log_and_nothing_in_the_protocol(ask):
    heard = []
    answer, log = ask("talks", progress=lambda *said: heard.append(said))
    assert answer.outcome is Outcome.MEASURED
    assert log.splitlines() == ["python", "descriptor one", "descriptor two", "a child", "True"]
    assert heard[-1] == (2, 2, "whole")


def test_a_subject_is_built_once_and_a_broken_one_never_kept(ask):
    for _ in range(2):  # each defect builds for itself
        planted, log = ask("builds", control="c")
        assert (planted.measurements[0].value, log) == (0.0, "building\n")
    healthy, log = ask("builds")
    assert (healthy.measurements[0].value, log) == (1.0, "building\n")
    again, log = ask("builds")
    assert (again.measurements[0].value, log) == (1.0, "")


def test_a_module_that_does_not_register_what_its_source_says_is_an_error(ask, checks):
    path = checks.folder / "x.py"
    path.write_text(path.read_text("utf-8").replace('level="algorithm"', 'level="live"'), "utf-8")
    answer, _ = ask("survives")
    assert answer.outcome is Outcome.ERROR
    assert "level in source 'algorithm', when imported 'live'" in answer.reason


def test_a_worker_that_cannot_start_says_why(ask, monkeypatch, tmp_path):
    (tmp_path / "shadow" / "pv").mkdir(parents=True)
    ask.worker.environment["PYTHONHOME"] = str(tmp_path)
    answer, _ = ask("survives")
    assert answer.outcome is Outcome.ERROR
    assert answer.reason.startswith("the worker ended by itself with exit code 1: ")


def test_what_checks_leave_in_the_temporary_folder_goes_with_the_worker(ask):
    answer, _ = ask("litters")
    left = [Path(note) for note in answer.notes]
    assert len(left) == 2
    assert all(folder.is_dir() for folder in left)
    ask.worker.close()
    assert not any(folder.exists() for folder in left)


def test_a_stopped_worker_answers_and_starts_no_more(ask):
    import threading

    threading.Timer(1.0, ask.worker.stop).start()
    begun = time.monotonic()
    answer, _ = ask("overruns", timeout=60)
    assert answer.reason == "stopped"
    assert time.monotonic() - begun < 20
    assert ask("survives")[0].outcome is Outcome.ERROR


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_worker_dies_with_the_runner(checks, tmp_path):
    """kill -9 of the runner in the middle of a check leaves nothing behind."""
    path = checks.write("x", MODULE)
    code = f"""
import sys
from pathlib import Path
from pv.contract.vocabulary import Cell, DeviceClass
from pv.falsify.protocol import Request, stated_in
from pv.falsify.reading import read_module
from pv.falsify.workers import Worker
path = Path({str(path)!r}); root = path.parent.parent
found = read_module(path, "x.py").checks
cell = Cell(DeviceClass.CPU, "code")
request = Request(path, "overruns", "FALSIFY-X-005", stated_in(found), cell, root, root, root / "log")
Worker({{}}).ask(request, 600)
"""
    runner = subprocess.Popen([sys.executable, "-c", code])
    pids = checks.root / "pids"
    assert wait_until(lambda: pids.exists() and pids.read_text().count(" ") == 1, 30)
    child, daemon = map(int, pids.read_text().split())
    assert alive(child)
    runner.kill()
    runner.wait()
    try:
        assert wait_until(lambda: not alive(child))
    finally:
        os.kill(daemon, 9)  # in a session of its own, out of the dying worker's reach


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_only_processes_with_the_token_are_swept():
    marked = subprocess.Popen(["sleep", "60"], env={**os.environ, "PV_WORKER": ":outer:inner"})
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, "PV_WORKER": ":elsewhere"})
    try:
        assert sweep("outer") == [marked.pid]
        assert other.poll() is None
    finally:
        for process in (marked, other):
            process.kill()
            process.wait()
