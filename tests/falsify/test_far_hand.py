"""One worker of a cluster as the run sees it, on a stand-in for Ray: silence, losses, a device that goes away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pv.contract.project import Project
from pv.contract.vocabulary import Cell, DeviceClass, Verdict
from pv.evidence.closure import Closure
from pv.falsify import cluster
from pv.falsify.api import Measurement
from pv.falsify.attempt import Ground
from pv.falsify.cluster import Cluster
from pv.falsify.discovery import find_in
from pv.falsify.environment import environment
from pv.falsify.planning import Task
from pv.falsify.protocol import Answer, Outcome, answer_line


class RayError(Exception):
    """What all of Ray's errors are."""


class GetTimeoutError(RayError):
    """Nobody answered in time."""


class RayTaskError(RayError):
    """The far side itself raised."""


class Later:
    """What a far call will come to."""

    def __init__(self, come: Callable[[], Any], *, done: bool = True) -> None:
        self.come, self.done = come, done


class Method:
    def __init__(self, come: Callable[..., Any], *, done: bool = True) -> None:
        self.come, self.done = come, done

    def remote(self, *given: Any) -> Later:
        return Later(lambda: self.come(*given), done=self.done)


def fail(error: Exception) -> Callable[..., Any]:
    def come(*_: Any) -> Any:
        raise error

    return come


READY = {"problem": "", "name": "", "driver": "", "why_not": ""}


class Actor:
    """`asks`: what the next calls of `ask` come to; `silent` actors never answer anything."""

    def __init__(self, ray: Ray) -> None:
        self.ray = ray
        plan = ray.plans.pop(0)
        self.ready = Method(plan.get("ready", lambda: READY), done=plan.get("placed", True))
        self.ask = Method(plan.get("ask", answered), done=not plan.get("silent"))
        self.said = Method(fail(GetTimeoutError()) if plan.get("silent") else lambda: (0, 0, ""))
        self.stop = self.close = Method(lambda: None)

    def __class_getitem__(cls, _: Any) -> type:
        return cls


def answered(*_: Any) -> tuple[bytes, bytes]:
    return answer_line(Answer(Outcome.MEASURED, (Measurement("m", 1.0),), environment=environment())), b"said\n"


class Ray:
    """As much of Ray as a run uses."""

    def __init__(self, *plans: dict[str, Any]) -> None:
        self.plans, self.killed = list(plans), 0
        self.machines = [{"Alive": True, "Resources": {"CPU": 2.0}}]
        self.exceptions = type(
            "exceptions", (), {"RayError": RayError, "GetTimeoutError": GetTimeoutError, "RayTaskError": RayTaskError}
        )

    def nodes(self):
        return self.machines

    def remote(self, _):
        return self

    def options(self, **_):
        made = type("made", (), {"remote": lambda _, *given: Actor(self)})
        return made()

    def wait(self, waiting, timeout):
        return (waiting, []) if waiting[0].done else ([], waiting)

    def get(self, one, timeout=None):
        return one.come()

    def kill(self, _):
        self.killed += 1


@pytest.fixture
def tried(checks, monkeypatch):
    """Try one check on a Ray whose actors, one after the other, behave as planned."""
    monkeypatch.setattr(cluster, "ABSENT", 0.0)
    path = checks.write(
        "x_v1",
        """
        @falsifier("FALSIFY-X-001", level="live", controls=[])
        def check(ctx):
            return measure("m", 1)
        """,
    )
    contract = checks.contract("x-v1", checks.entry("FALSIFY-X-001"))
    found = find_in(checks.folder, checks.root).found[0]
    project = Project(root=checks.root, falsifiers=checks.folder)
    task = Task(contract, contract.claims[0], found, Cell(DeviceClass.CPU, "code"))
    ground = Ground(checks.root, {}, {path: ()}, 0, {task.key: Closure("sha256:0", ())})

    def tried(*plans, machines=None):
        ray = Ray(*plans)
        place = Cluster(ray, project, 1, shipped=False)
        if machines is not None:
            ray.machines = machines
        hand = place.hire(ground)
        told: list[str] = []
        tried.ray, tried.told = ray, told
        try:
            return hand.attempt(task, lambda control, done, total, what: told.append(what))
        finally:
            hand.close()

    return tried


def test_an_answer_brings_its_log(tried):
    attempt = tried({})
    assert attempt.answer.outcome is Outcome.MEASURED
    assert attempt.log == b"== healthy ==\nsaid\n"
    assert tried.ray.killed == 1  # let go at the end


def test_a_worker_without_a_sign_of_life_is_lost_and_the_check_is_made_again(tried):
    attempt = tried({"silent": True}, {})
    assert attempt.answer.outcome is Outcome.MEASURED
    assert any(f"no sign of life for {cluster.SILENCE:g} s" in what for what in tried.told)
    assert tried.ray.killed == 2


def test_two_losses_are_an_error_that_names_both(tried):
    attempt = tried({"ask": fail(RayError("the node died.\nmore"))}, {"silent": True}, {})
    assert attempt.verdict is Verdict.ERROR
    assert attempt.judged.reason == (
        f"its worker was lost 2 times: the node died; then no sign of life for {cluster.SILENCE:g} s"
    )


def test_what_is_wrong_with_a_machine_is_an_error_of_the_check(tried):
    attempt = tried({"ready": lambda: {**READY, "problem": "host x has another pv"}})
    assert (attempt.verdict, attempt.judged.reason) == (Verdict.ERROR, "host x has another pv")


def test_a_wait_for_a_place_is_told_and_ends_when_no_machine_offers_the_device(tried):
    nowhere = {"placed": False}
    attempt = tried(nowhere, nowhere, machines=[{"Alive": True, "Resources": {}}])
    assert attempt.verdict is Verdict.ERROR
    assert "no machine of the cluster offers CPU any more" in attempt.judged.reason
    assert tried.told[0] == "waits for a machine with cpu that is free"


def test_a_fault_of_the_far_side_is_a_bug_and_comes_through(tried):
    with pytest.raises(RayTaskError, match="bug"):
        tried({"ask": fail(RayTaskError("bug"))})
