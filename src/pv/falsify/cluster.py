"""Attempts made on the machines of a Ray cluster; Ray places, carries and notices the dead, everything else is pv's.

One Ray actor for each worker of the run holds what its checks need: a graphics card for CUDA, the resource of the same
name for every other device class, processor cores for all. What it is asked and what it answers are lines of
`pv.falsify.protocol`; judging and keeping stay with the process that was called. A run whose actor is lost (its process
killed, its machine gone) is made again once, on whatever is left; lost twice, it is an ERROR.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pv.contract.project import Project
from pv.contract.vocabulary import DeviceClass, Verdict
from pv.evidence.closure import Closure
from pv.evidence.ledger import source_of
from pv.falsify.attempt import Attempt, Ground, attempt, now
from pv.falsify.devices import DeviceReport, Devices, present
from pv.falsify.environment import determinism
from pv.falsify.judge import Judged
from pv.falsify.outpost import INSTALLED, PROJECT, Expected, Origin, Outpost
from pv.falsify.places import Hand, Progress
from pv.falsify.planning import Task
from pv.falsify.protocol import Answer, Outcome, Request, read_event, request_line
from pv.falsify.ray_engine import ClusterError, cause, cores_each, needs, offers, resource_of
from pv.falsify.records import tool_digest

TRIES = 2  # of an attempt whose worker is lost
LOOK = 0.25  # seconds between two looks at a run that goes on elsewhere
SILENCE = 60.0  # seconds without a sign of life, after which a worker counts as lost
ABSENT = 30.0  # seconds that a device may be missing from the cluster before a run stops waiting for it
FAREWELL = 5.0  # seconds that an actor has to end its worker


class LostWorkerError(Exception):
    """An actor died, or its machine did: nothing is known of what it was asked."""


class Cluster:
    """The machines of a cluster as a `pv.falsify.places.Place`."""

    def __init__(self, ray: Any, project: Project, jobs: int, *, shipped: bool) -> None:
        self.ray, self.project, self.shipped = ray, project, shipped
        self.cores = cores_each(self.nodes(), jobs)

    def nodes(self) -> list[Mapping[str, Any]]:
        """The living machines, as Ray describes them."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def devices(self, wanted: Iterable[DeviceClass]) -> Devices:
        """The best report of each wanted device class over all machines that offer it, each asked itself."""
        chosen = sorted(set(wanted), key=list(DeviceClass).index)
        asked = {
            node["NodeID"]: (node, [device.value for device in chosen if offers(node["Resources"], device)])
            for node in self.nodes()
        }
        survey = self.ray.remote(_survey)
        affinity = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        answers = [
            survey.options(num_cpus=0, scheduling_strategy=affinity(node_id=node, soft=False)).remote(names)
            for node, (_, names) in asked.items()
            if names
        ]
        try:
            found = [
                DeviceReport(DeviceClass(said.pop("device")), **said) for one in self.ray.get(answers) for said in one
            ]
        except self.ray.exceptions.RayError as error:
            raise ClusterError(
                f"a machine of the cluster cannot be asked for its devices: {cause(error)}; "
                "install the same pv there, or take --ray-ship"
            ) from None
        return {device: merged(device, [report for report in found if report.device is device]) for device in chosen}

    def room(self, task: Task, running: Collection[Task]) -> bool:
        """As many checks at a time on a device class as the cluster has of it; cores are Ray's to share out."""
        device = task.cell.device
        if device is DeviceClass.CPU:
            return True
        total = sum(float(node["Resources"].get(resource_of(device), 0)) for node in self.nodes())
        return sum(other.cell.device is device for other in running) < max(1, int(total))

    def hire(self, ground: Ground) -> Hand:
        return _FarHand(self, ground)

    def origin(self, ground: Ground) -> Origin:
        """What the far side must know of this one."""
        root = self.project.root
        subjects = {
            name: os.path.join(".", path.relative_to(root)) if path.is_relative_to(root) else str(path)
            for name, path in ground.subjects.items()
        }
        return Origin("" if self.shipped else str(root), tool_digest(), subjects, determinism(self.cores))

    def expected(self, task: Task, closure: Closure) -> Expected:
        """What a check is made of here, for the far side to compare."""
        source = source_of(task.contract, task.check)
        return Expected(
            self._place_of(source.path),
            source.attacks,
            source.data,
            source.module,
            source.ids,
            closure.digest,
            tuple((file.path, file.sha256) for file in closure.files),
        )

    def _place_of(self, module: Path) -> tuple[str, str]:
        if module.is_relative_to(self.project.root):
            return PROJECT, module.relative_to(self.project.root).as_posix()
        homes = [Path(entry) for entry in sys.path if entry and module.is_relative_to(entry)]
        if not homes:
            return INSTALLED, str(module)
        return INSTALLED, module.relative_to(max(homes, key=lambda home: len(home.parts))).as_posix()


class _FarHand:
    """One actor at a time, for checks of one device class and subject; its worker keeps the subjects that it built."""

    def __init__(self, place: Cluster, ground: Ground) -> None:
        self.place, self.ground = place, ground
        self.actor: Any = None
        self.placed = False
        self.stopped = False
        self.task: Task | None = None
        self.waiting: Progress = lambda *_: None
        self.lock = threading.Lock()

    def attempt(self, task: Task, progress: Progress) -> Attempt:
        """An attempt, made again once if its worker is lost on the way."""
        begun, started = time.monotonic(), now()
        self.task, self.waiting = task, progress
        losses: list[str] = []
        while len(losses) < TRIES and not self.stopped:
            try:
                if problem := self._hire(task.cell.device):  # before the clock of the attempt runs
                    return _error(task, problem, started, begun)
                return attempt(task, self, self.ground, None, progress)
            except LostWorkerError as lost:
                self._drop()
                losses.append(str(lost))
                progress("", 0, 0, f"lost its worker ({lost})")
        reason = f"its worker was lost {len(losses)} times: {'; then '.join(losses)}" if losses else "stopped"
        return _error(task, reason, started, begun)

    def ask(self, request: Request, timeout: float, progress: Callable[[int, int, str], None]) -> Answer:
        """The far worker's answer; its log becomes that of the request. Raises LostWorkerError."""
        assert self.task is not None, "an attempt is being made"
        expected = self.place.expected(self.task, self.ground.closures[self.task.key])
        line = request_line(replace(request, subjects={}))
        try:
            asked = self.actor.ask.remote(line, timeout, expected)
            line, log = self._wait(asked, lambda: self._alive(self.actor, progress))
        except _StoppedError:
            return Answer(Outcome.ERROR, reason="stopped")
        request.log.write_bytes(log)
        answer = read_event(line)
        assert isinstance(answer, Answer), "an outpost answers with an answer"
        return answer

    def stop(self) -> None:
        self.stopped = True
        with self.lock:
            if self.actor is not None:
                self.actor.stop.remote()

    def close(self) -> None:
        """Let the worker end by itself, with all that its checks left running, before its actor is taken away."""
        if self.actor is not None and self.placed:
            with suppress(self.place.ray.exceptions.RayError):
                self.place.ray.get(self.actor.close.remote(), timeout=FAREWELL)
        self._drop()

    def _hire(self, device: DeviceClass) -> str:
        """Have an actor, once the cluster has found a place for one. Why it cannot run anything, or ""."""
        if self.placed:
            return ""
        ray = self.place.ray
        actor = (
            ray.remote(Outpost)
            .options(**needs(device, self.place.cores), max_concurrency=4, max_restarts=0)
            .remote(device.value, self.place.origin(self.ground))
        )
        with self.lock:
            self.actor = actor
        try:
            facts = self._wait(actor.ready.remote(), _Patience(self.place, device, self.waiting).look)
        except _StoppedError:
            return "stopped"
        problem = str(facts["problem"] or facts["why_not"])
        if problem:
            self._drop()
        self.placed = not problem
        return problem

    def _wait(self, answer: Any, meanwhile: Callable[[], None]) -> Any:
        """The value of what an actor was asked. Raises LostWorkerError, and _StoppedError when this run is stopped."""
        ray = self.place.ray
        try:
            while not ray.wait([answer], timeout=LOOK)[0]:
                if self.stopped:
                    raise _StoppedError
                meanwhile()
            return ray.get(answer)
        except ray.exceptions.RayTaskError:
            raise  # a fault of pv's own far side: a bug
        except ray.exceptions.RayError as error:
            if self.stopped:
                raise _StoppedError from None
            raise LostWorkerError(cause(error)) from None

    def _alive(self, actor: Any, progress: Callable[[int, int, str], None]) -> None:
        """Tell what the far side tells. Raises LostWorkerError when it says nothing for too long."""
        ray = self.place.ray
        try:
            said = ray.get(actor.said.remote(), timeout=SILENCE)
        except ray.exceptions.GetTimeoutError:
            raise LostWorkerError(f"no sign of life for {SILENCE:g} s") from None
        if tuple(said) != (0, 0, ""):
            progress(*said)

    def _drop(self) -> None:
        with self.lock:
            actor, self.actor, self.placed = self.actor, None, False
        if actor is not None:
            self.place.ray.kill(actor)


def _error(task: Task, reason: str, started: str, begun: float) -> Attempt:
    nothing = Answer(Outcome.ERROR, reason=reason)
    return Attempt(task, Judged(Verdict.ERROR, reason, ""), started, time.monotonic() - begun, nothing)


class _StoppedError(Exception):
    """The run is stopped; nobody waits for an answer."""


@dataclass
class _Patience:
    """Waits for a place in the cluster as long as it has any for this device class."""

    place: Cluster
    device: DeviceClass
    progress: Progress
    absent_since: float = 0.0

    def look(self) -> None:
        """Raises LostWorkerError when no machine offers the device any more."""
        self.progress("", 0, 0, f"waits for a machine with {self.device.value} that is free")
        if any(offers(node["Resources"], self.device) for node in self.place.nodes()):
            self.absent_since = 0.0
            return
        self.absent_since = self.absent_since or time.monotonic()
        if time.monotonic() - self.absent_since > ABSENT:
            raise LostWorkerError(f"no machine of the cluster offers {resource_of(self.device)} any more")


def merged(device: DeviceClass, reports: Iterable[DeviceReport]) -> DeviceReport:
    """The first report of a machine that has the device, else why not."""
    known = list(reports)
    if here := [report for report in known if report.present]:
        return here[0]
    if known:
        return replace(known[0], why_not=f"no machine of the cluster has it; one says: {known[0].why_not}")
    how = (
        "" if device in (DeviceClass.CPU, DeviceClass.CUDA) else '; start Ray there with --resources="$(pv env --ray)"'
    )
    return DeviceReport(device, why_not=f"no machine of the cluster offers {resource_of(device)}{how}")


def _survey(names: list[str]) -> list[dict[str, Any]]:
    """Run on a machine of the cluster: its reports of device classes, as plain data."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # Ray hides all cards from what holds none
        del os.environ["CUDA_VISIBLE_DEVICES"]
    reports = present(DeviceClass(name) for name in names).values()
    return [{**asdict(report), "device": report.device.value, "cards": ()} for report in reports]
