"""Runs: every verdict from a real check in a real worker, preconditions, several workers, Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from filelock import FileLock

from pv.contract.project import Project
from pv.contract.vocabulary import Cost, DeviceClass, Verdict
from pv.falsify.devices import Card, DeviceReport
from pv.falsify.discovery import find_in
from pv.falsify.places import Here
from pv.falsify.planning import Task, plan
from pv.falsify.runner import _Board, run
from pv.falsify.selection import Row

MACHINE = {
    device: DeviceReport(device, f"a {device.value}")
    if device in ("cpu", "vulkan-sw")
    else DeviceReport(device, why_not="no")
    for device in DeviceClass
}


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.told: list[tuple] = []
        self.ended: list[str] = []

    def started(self, task) -> None:
        self.begun.append(task.claim.id)

    def progress(self, task, control, done, total, what) -> None:
        self.told.append((task.claim.id, control, done, total, what))

    def finished(self, attempt) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.ended.append(attempt.task.claim.id)


@pytest.fixture
def ran(checks):
    """Run the checks of one module; gives the attempts by the last part of their claim's id and cell."""

    def ran(body, *entries, harnesses=(), jobs=1, heard=None, standing=lambda key, cell: "it never ran", seed=0):
        checks.write("x_v1", body)
        contract = checks.contract("x-v1", *entries, harnesses=harnesses)
        project = Project(root=checks.root, falsifiers=checks.folder)
        found = find_in(checks.folder, checks.root)
        assert found.problems == ()
        rows = [Row(contract, claim) for claim in contract.claims]
        made = plan(rows, found, MACHINE, project, costs=frozenset(Cost))
        finished = run(
            made.tasks, found.found, MACHINE, project, heard or Heard(), standing=standing, jobs=jobs, seed=seed
        )
        ran.finished = finished
        return {(one.task.claim.id[-3:], one.task.cell.device.value): one for one in finished.attempts}

    return ran


@pytest.fixture
def one(ran, checks):
    """Run a single check; gives its attempt."""

    def one(function, *, thresholds=("m",), more="", cells=(), control_cells="()", **entry):
        body = (
            checks.registration("FALSIFY-X-001", more=more, cells=control_cells) + f"def check(ctx):\n    {function}\n"
        )
        return ran(body, checks.entry("FALSIFY-X-001", thresholds=thresholds, cells=cells, **entry))["001", "cpu"]

    return one


def test_a_claim_survives_with_its_control_caught(one):
    attempt = one("return measure('m', not defect)")
    assert (attempt.verdict, attempt.judged.branch) == (Verdict.SURVIVED, "prediction")
    assert [(m.name, m.value, m.passed) for m in attempt.measurements] == [("m", 1.0, True)]
    (control,) = attempt.controls
    assert (control.name, control.caught, control.observed) == ("broken", True, "FALSIFIED")
    assert control.measurements[0].value == 0.0
    assert attempt.answer.seeded is False


def test_a_broken_claim_is_falsified_and_its_controls_are_not_run(one):
    attempt = one("print('attack'); return measure('m', 0)")
    assert (attempt.verdict, attempt.judged.branch) == (Verdict.FALSIFIED, "if_fails")
    assert attempt.judged.reason == "m = 0, expected == 1"
    assert attempt.controls == ()
    assert attempt.log == b"== healthy ==\nattack\n"


def test_a_check_that_cannot_fail_is_vacuous(one):
    attempt = one("return measure('m', 1)")
    assert attempt.verdict is Verdict.VACUOUS
    assert attempt.judged.reason == "'broken' was not caught (SURVIVED)"


def test_a_control_that_breaks_something_else_is_not_caught(one):
    attempt = one("return [measure('m', 1), measure('other', not defect)]", thresholds=("m", "other"))
    assert attempt.verdict is Verdict.VACUOUS
    assert attempt.controls[0].observed == "SURVIVED, though other failed"


@pytest.mark.parametrize(
    ("under_defect", "observed"),
    [
        ("raise ValueError('boom')", "ERROR: error: ValueError: boom (x_v1.py:"),
        ("import os; os._exit(3)", "ERROR: error: the worker ended by itself with exit code 3"),
        ("raise Inconclusive('hm')", "ERROR: inconclusive: hm"),
        ("return measure('n', 1)", "ERROR: 'n' has no threshold in the contract; 'm' has a threshold but was not"),
    ],
)
def test_an_error_in_a_control_is_not_caught(one, under_defect, observed):
    attempt = one(f"if defect:\n        {under_defect}\n    return measure('m', 1)")
    assert attempt.verdict is Verdict.VACUOUS
    assert attempt.controls[0].caught is False
    assert attempt.controls[0].observed.startswith(observed)


def test_a_control_that_is_blocked_blocks_the_run(one):
    attempt = one("if defect: raise Blocked('a spare')\n    return measure('m', 1)")
    assert (attempt.verdict, attempt.missing) == (Verdict.BLOCKED, ("a spare",))
    assert attempt.judged.reason == "control 'broken' is blocked: a spare"


def test_nan_fails_its_threshold(one):
    attempt = one("return measure('m', float('nan'))")
    assert attempt.verdict is Verdict.FALSIFIED
    assert attempt.measurements[0].value == "NaN"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("return measure('n', 1)", "'n' has no threshold in the contract; 'm' has a threshold but was not measured"),
        ("return [measure('m', 1), measure('m', 1)]", "'m' is measured twice"),
        ("return []", "'m' has a threshold but was not measured; nothing was measured"),
        ("raise KeyError('k')", "KeyError: 'k' (x_v1.py:"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the worker died of SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the worker died of SIGKILL, as when memory runs"),
    ],
)
def test_a_run_without_a_measurement_is_an_error(one, function, reason):
    attempt = one(function)
    assert attempt.verdict is Verdict.ERROR
    assert attempt.judged.reason.startswith(reason)
    assert attempt.controls == ()


def test_a_check_that_overruns_is_an_error(one):
    attempt = one("import time; time.sleep(60)", more=", timeout=1")
    assert attempt.verdict is Verdict.ERROR
    assert attempt.judged.reason == "killed: it overran its budget of 1 s"


def test_a_blocked_check_names_what_is_missing(one):
    attempt = one("raise Blocked('fixture a', 'fixture b')")
    assert (attempt.verdict, attempt.missing) == (Verdict.BLOCKED, ("fixture a", "fixture b"))


def test_a_check_in_doubt_is_inconclusive(one):
    attempt = one("raise Inconclusive('the scale is off')")
    assert (attempt.verdict, attempt.judged.reason, attempt.waits_for) == (Verdict.INCONCLUSIVE, "the scale is off", "")


def test_a_cell_without_a_fitting_control_is_vacuous(one):
    attempt = one("return measure('m', 1)", control_cells='("cuda",)')
    assert (attempt.verdict, attempt.judged.reason) == (Verdict.VACUOUS, "no negative control applies in this cell")


def test_the_others_go_on_after_a_crash(ran, checks):
    body = ""
    for number, what in enumerate(["import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "raise OSError", "pass"]):
        body += checks.registration(f"FALSIFY-X-00{number}", more="")
        body += f"def check_{number}(ctx):\n    {what}\n    return measure('m', not defect)\n\n\n"
    attempts = ran(body, *(checks.entry(f"FALSIFY-X-00{number}") for number in range(3)))
    assert [attempt.verdict.value for attempt in attempts.values()] == ["ERROR", "ERROR", "SURVIVED"]


HARNESS = '@harness("KH-X-001", bound=8, controls=[Control("broken", plant=broken, breaks="m")])\ndef proof(ctx):\n    '


@pytest.mark.parametrize(
    ("body", "verdict", "reason"),
    [
        ("ctx.exhaust(8, 255, True)", Verdict.SURVIVED, ""),
        ("pass", Verdict.ERROR, "a harness must call context.exhaust"),
        ("ctx.exhaust(4, 15, True)", Verdict.ERROR, "expected context.exhaust of the bound 8, found 4"),
    ],
)
def test_a_harness_says_how_many_cases_it_ran(ran, checks, body, verdict, reason):
    entry = {**checks.entry("KH-X-001"), "obligation": "o", "bound": 8}
    attempts = ran(f"{HARNESS}{body}\n    return measure('m', not defect)\n", harnesses=(entry,))
    attempt = attempts["001", "cpu"]
    assert attempt.verdict is verdict
    assert attempt.judged.reason.startswith(reason)
    if verdict is Verdict.SURVIVED:
        assert (attempt.answer.exhausted.cases, attempt.answer.exhausted.complete) == (255, True)


def numbered(checks, *bodies: str) -> str:
    return "\n\n".join(
        checks.registration(f"FALSIFY-X-00{i}") + f"def check_{i}(ctx):\n    {body}\n" for i, body in enumerate(bodies)
    )


GOOD, BAD = "return measure('m', not defect)", "return measure('m', 0)"


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize(
    ("second", "expected"),
    [(GOOD, ["SURVIVED", "SURVIVED", "SURVIVED"]), (BAD, ["INCONCLUSIVE", "FALSIFIED", "INCONCLUSIVE"])],
)
def test_a_claim_waits_for_its_precondition_and_is_inconclusive_without_it(ran, checks, second, expected, jobs):
    heard = Heard()
    entries = [
        checks.entry("FALSIFY-X-000", precondition=["FALSIFY-X-001"]),
        checks.entry("FALSIFY-X-001"),
        checks.entry("FALSIFY-X-002", precondition=["FALSIFY-X-000"]),
    ]
    attempts = ran(numbered(checks, GOOD, second, GOOD), *entries, jobs=jobs, heard=heard)
    assert [attempt.verdict.value for attempt in attempts.values()] == expected
    if second is BAD:
        assert heard.begun == ["FALSIFY-X-001"]
        attempt = attempts["000", "cpu"]
        assert attempt.waits_for == "FALSIFY-X-001"
        assert attempt.judged.reason == "precondition FALSIFY-X-001 does not survive: FALSIFIED on cpu · code"
    else:
        assert heard.begun == ["FALSIFY-X-001", "FALSIFY-X-000", "FALSIFY-X-002"]


def test_a_precondition_outside_the_run_is_judged_by_what_is_on_record(ran, checks):
    entry = checks.entry("FALSIFY-X-000", precondition=["FALSIFY-X-009"])
    asked = []

    def standing(key, cell):
        asked.append((key, str(cell)))
        return ""

    assert ran(numbered(checks, GOOD), entry, standing=standing)["000", "cpu"].verdict is Verdict.SURVIVED
    assert asked == [(("x-v1", "FALSIFY-X-009"), "cpu · code")]
    attempt = ran(numbered(checks, GOOD), entry)["000", "cpu"]
    assert attempt.judged.reason == "precondition FALSIFY-X-009 does not survive: it never ran"


@pytest.mark.parametrize("jobs", [1, 2])
def test_claims_that_wait_for_each_other_are_inconclusive(ran, checks, jobs):
    entries = [
        checks.entry("FALSIFY-X-000", precondition=["FALSIFY-X-001"]),
        checks.entry("FALSIFY-X-001", precondition=["FALSIFY-X-000"]),
        checks.entry("FALSIFY-X-002"),
    ]
    attempts = ran(numbered(checks, GOOD, GOOD, GOOD), *entries, jobs=jobs)
    assert sorted(attempt.verdict.value for attempt in attempts.values()) == [
        "INCONCLUSIVE",
        "INCONCLUSIVE",
        "SURVIVED",
    ]
    assert "the two wait for each other" in attempts["000", "cpu"].judged.reason


def test_an_absent_device_blocks_its_cell_and_the_stand_in_runs(ran, checks):
    entry = checks.entry("FALSIFY-X-000", cells=(("cpu", "code"), ("vulkan", "code")))
    attempts = ran(numbered(checks, GOOD), entry)
    assert {cell[1]: attempt.verdict.value for cell, attempt in attempts.items()} == {
        "cpu": "SURVIVED",
        "vulkan": "BLOCKED",
        "vulkan-sw": "SURVIVED",
    }
    assert attempts["000", "vulkan"].missing == ("vulkan: no",)
    assert attempts["000", "vulkan-sw"].answer.environment.device == "a vulkan-sw"
    assert attempts["000", "cpu"].answer.environment.device == ""


def test_several_workers_run_side_by_side(ran, checks):
    meet = """
    import time
    from pathlib import Path
    (ctx.project / ctx.cell.device.value).touch()
    mine, others = Path(__file__), ctx.project
    (others / f"here-{FUNCTION}").touch()
    deadline = time.monotonic() + 20
    while len(list(others.glob("here-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return measure('m', not defect and len(list(others.glob("here-*"))) == 2)"""
    bodies = [meet.replace("{FUNCTION}", str(i)).strip() for i in range(2)]
    attempts = ran(numbered(checks, *bodies), *(checks.entry(f"FALSIFY-X-00{i}") for i in range(2)), jobs=2)
    assert [attempt.verdict.value for attempt in attempts.values()] == ["SURVIVED", "SURVIVED"]


def test_a_gpu_serves_one_check_at_a_time(ran, checks, monkeypatch):
    """Three workers, two checks on the GPU and one on the processor: the two never meet."""
    monkeypatch.setitem(MACHINE, DeviceClass.CUDA, DeviceReport(DeviceClass.CUDA, "a card"))
    body = """
    import time
    here = ctx.project / f"{ctx.cell.device.value}-{ctx.scratch.parent.name}"
    here.touch()
    met = 0
    for _ in range(20):
        met = max(met, len(list(ctx.project.glob("cuda-*"))))
        time.sleep(0.01)
    here.unlink()
    return measure('m', not defect and met <= 1)"""
    entries = [
        checks.entry(f"FALSIFY-X-00{i}", cells=((device, "code"),)) for i, device in enumerate(("cuda", "cuda", "cpu"))
    ]
    attempts = ran(numbered(checks, *[body.strip()] * 3), *entries, jobs=3)
    assert [attempt.verdict.value for attempt in attempts.values()] == ["SURVIVED"] * 3


def test_a_thread_takes_what_needs_no_gpu_while_the_gpu_is_busy(checks):
    cells = (("cuda", "code"), ("cuda", "code"), ("cpu", "code"))
    contract = checks.contract(
        "x-v1", *(checks.entry(f"FALSIFY-X-00{i}", cells=(cell,)) for i, cell in enumerate(cells))
    )
    first, second, third = (Task(contract, claim, None, claim.required_cells[0]) for claim in contract.claims)
    board = _Board([second, third], lambda key, cell: "", Here(MACHINE, 1), running={-1: first})
    assert not board._ready(second)
    assert board.take(("cuda", "code")) is third
    board.running.pop(-1)
    assert board._ready(second)
    assert board.take(None) is second


def test_another_run_of_pv_on_this_machine_keeps_the_gpu_to_itself(ran, checks, monkeypatch, tmp_path):
    monkeypatch.setitem(MACHINE, DeviceClass.CUDA, DeviceReport(DeviceClass.CUDA, "a card"))
    monkeypatch.setattr("pv.falsify.cards.tempfile.gettempdir", lambda: str(tmp_path))
    other = FileLock(tmp_path / "pv-gpu.lock", thread_local=False)  # another thread lets it go
    other.acquire()
    free = tmp_path / "free"

    def leave() -> None:
        time.sleep(0.7)
        free.touch()
        other.release()

    threading.Thread(target=leave, daemon=True).start()
    body = f"return measure('m', not defect and __import__('os').path.exists({str(free)!r}))"
    attempts = ran(numbered(checks, body), checks.entry("FALSIFY-X-000", cells=(("cuda", "code"),)))
    assert attempts["000", "cuda"].verdict is Verdict.SURVIVED


def two_cards(monkeypatch, tmp_path) -> None:
    cards = (Card("3", "first card", "uuid-a"), Card("5", "second card", "uuid-b"))
    monkeypatch.setitem(MACHINE, DeviceClass.CUDA, DeviceReport(DeviceClass.CUDA, "first card", cards=cards))
    monkeypatch.setattr("pv.falsify.cards.tempfile.gettempdir", lambda: str(tmp_path))


def test_two_cards_serve_two_checks_at_the_same_time_and_each_sees_one_card(ran, checks, monkeypatch, tmp_path):
    """Four checks, four workers, two cards: two run side by side, never two on one card, and records name the card."""
    two_cards(monkeypatch, tmp_path)
    body = """
    import os, time
    card = os.environ["CUDA_VISIBLE_DEVICES"]
    (ctx.project / f"on-{card}-{os.getpid()}").touch()
    met, other, deadline = 0, 0, time.monotonic() + 10
    while time.monotonic() < deadline and not (other and met):
        met = max(met, len(list(ctx.project.glob(f"on-{card}-*"))))
        other = max(other, len(list(ctx.project.glob("on-*"))) - met)
        if (ctx.project / "seen").exists():
            break
        time.sleep(0.01)
    if other:
        (ctx.project / "seen").touch()
    time.sleep(0.3)
    met = max(met, len(list(ctx.project.glob(f"on-{card}-*"))))
    (ctx.project / f"on-{card}-{os.getpid()}").unlink()
    return [measure('m', not defect and met == 1), measure('together', (ctx.project / "seen").exists())]"""
    entries = [
        checks.entry(f"FALSIFY-X-00{i}", thresholds=("m", "together"), cells=(("cuda", "code"),)) for i in range(4)
    ]
    attempts = ran(numbered(checks, *[body.strip()] * 4), *entries, jobs=4)
    assert [attempt.verdict.value for attempt in attempts.values()] == ["SURVIVED"] * 4
    seen = {
        (one.answer.environment.flags["CUDA_VISIBLE_DEVICES"], one.answer.environment.device)
        for one in attempts.values()
    }
    assert seen == {("3", "first card"), ("5", "second card")}


def test_a_run_takes_the_card_that_another_pv_leaves(ran, checks, monkeypatch, tmp_path):
    two_cards(monkeypatch, tmp_path)
    body = "return measure('m', not defect and __import__('os').environ['CUDA_VISIBLE_DEVICES'] == '5')"
    begun = time.monotonic()
    with FileLock(tmp_path / "pv-gpu-uuid-a.lock"):
        attempts = ran(numbered(checks, body), checks.entry("FALSIFY-X-000", cells=(("cuda", "code"),)))
    assert attempts["000", "cuda"].verdict is Verdict.SURVIVED
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("held", ["pv-gpu-uuid-a.lock", "pv-gpu-uuid-b.lock", "pv-gpu.lock"])
def test_a_vulkan_check_waits_until_every_card_is_free(ran, checks, monkeypatch, tmp_path, held):
    two_cards(monkeypatch, tmp_path)
    monkeypatch.setitem(MACHINE, DeviceClass.VULKAN, DeviceReport(DeviceClass.VULKAN, "a card"))
    free, other = tmp_path / "free", FileLock(tmp_path / held, thread_local=False)
    other.acquire()

    def leave() -> None:
        free.touch()
        other.release()

    threading.Timer(0.7, leave).start()
    body = f"return measure('m', not defect and __import__('os').path.exists({str(free)!r}))"
    entry = checks.entry("FALSIFY-X-000", cells=(("vulkan", "code"),))
    attempts = ran(numbered(checks, body), entry)
    assert attempts["000", "vulkan"].verdict is Verdict.SURVIVED


def test_on_several_cards_cuda_checks_meet_and_a_vulkan_check_is_alone(checks, monkeypatch, tmp_path):
    two_cards(monkeypatch, tmp_path)
    place = Here(MACHINE, 4)
    contract = checks.contract(
        "x-v1",
        *(
            checks.entry(f"FALSIFY-X-00{i}", cells=((device, "code"),))
            for i, device in enumerate(("cuda", "cuda", "cuda", "vulkan", "cpu"))
        ),
    )
    a, b, c, vulkan, cpu = (Task(contract, claim, None, claim.required_cells[0]) for claim in contract.claims)
    assert place.room(b, [a, cpu])
    assert not place.room(c, [a, b])
    assert not place.room(vulkan, [a])
    assert not place.room(a, [vulkan])
    assert place.room(vulkan, [cpu])
    assert place.room(cpu, [a, b, vulkan])


def test_ctrl_c_ends_the_wait_for_a_gpu(ran, checks, monkeypatch, tmp_path):
    monkeypatch.setitem(MACHINE, DeviceClass.CUDA, DeviceReport(DeviceClass.CUDA, "a card"))
    monkeypatch.setattr("pv.falsify.cards.tempfile.gettempdir", lambda: str(tmp_path))
    heard = Heard()
    with FileLock(tmp_path / "pv-gpu.lock"):
        threading.Timer(1.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        begun = time.monotonic()
        ran(numbered(checks, GOOD), checks.entry("FALSIFY-X-000", cells=(("cuda", "code"),)), heard=heard)
    assert time.monotonic() - begun < 10
    assert ran.finished.interrupted
    assert ("FALSIFY-X-000", "", 0, 0, "waits for the GPU, which another pv uses") in heard.told


def test_checks_of_one_group_share_a_worker_and_what_it_built(ran, checks):
    build = "import os; return measure('m', not defect and ctx.subject('s', os.getpid) == os.getpid())"
    tell = "print(ctx.subject('s', lambda: 'built anew')); return measure('m', not defect)"
    attempts = ran(numbered(checks, build, tell), checks.entry("FALSIFY-X-000"), checks.entry("FALSIFY-X-001"))
    assert [attempt.verdict.value for attempt in attempts.values()] == ["SURVIVED", "SURVIVED"]
    assert b"built anew" not in attempts["001", "cpu"].log


def test_the_seed_of_a_run_reaches_the_check(ran, checks):
    attempts = ran(
        numbered(checks, "return measure('m', not defect and ctx.seed == 7)"), checks.entry("FALSIFY-X-000"), seed=7
    )
    assert attempts["000", "cpu"].verdict is Verdict.SURVIVED
    assert attempts["000", "cpu"].answer.seeded


def test_progress_is_heard_with_the_control_it_belongs_to(ran, checks):
    heard = Heard()
    ran(numbered(checks, "ctx.progress(3, 3, 'rows'); " + GOOD), checks.entry("FALSIFY-X-000"), heard=heard)
    assert heard.told == [("FALSIFY-X-000", "", 3, 3, "rows"), ("FALSIFY-X-000", "broken", 3, 3, "rows")]
    assert heard.ended == ["FALSIFY-X-000"]


def test_ctrl_c_keeps_what_was_finished_and_leaves_no_process(ran, checks):
    slow = "import os, time; (ctx.project / 'pid').write_text(str(os.getpid())); time.sleep(60)"
    pid = checks.root / "pid"

    def interrupt() -> None:
        deadline = time.monotonic() + 20
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    begun = time.monotonic()
    attempts = ran(numbered(checks, GOOD, slow), checks.entry("FALSIFY-X-000"), checks.entry("FALSIFY-X-001"))
    assert time.monotonic() - begun < 30
    assert ran.finished.interrupted
    assert [(key[0], attempt.verdict.value) for key, attempt in attempts.items()] == [("000", "SURVIVED")]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_what_is_kept_of_a_run_names_no_place_of_this_machine(ran, checks):
    body = (
        "print(ctx.project, ctx.scratch / 'x'); ctx.note(f'{ctx.scratch} is empty')\n"
        "    if defect: raise OSError(f'no {ctx.project}/y')\n"
        "    return measure('m', 1)"
    )
    attempt = ran(numbered(checks, body), checks.entry("FALSIFY-X-000"))["000", "cpu"]
    assert attempt.log.splitlines()[:2] == [b"== healthy ==", b"<project> <scratch>/x"]
    assert str(checks.root).encode() not in attempt.log
    assert attempt.answer.notes == ("<scratch> is empty",)
    assert "OSError: no <project>/y" in attempt.controls[0].observed


def test_scratch_folders_are_empty_private_and_gone_afterwards(ran, checks):
    body = (
        "there = list(ctx.scratch.iterdir()); (ctx.scratch / 'x').touch()\n"
        "    with (ctx.project / 'seen').open('a') as seen: print(ctx.scratch, file=seen)\n"
        "    return measure('m', not defect and not there)"
    )
    attempt = ran(numbered(checks, body), checks.entry("FALSIFY-X-000"))["000", "cpu"]
    assert attempt.verdict is Verdict.SURVIVED
    healthy, planted = (checks.root / "seen").read_text().splitlines()
    assert healthy != planted
    assert not os.path.exists(healthy)
    assert not os.path.exists(planted)
