"""One task and a worker -> an attempt: the healthy run, then every control that fits the cell, then judgement.

Controls are run only after a survival: where the claim is broken, blocked or in doubt, they have nothing to add.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pv.contract.vocabulary import DeviceClass, Verdict
from pv.evidence.closure import Closure
from pv.evidence.record import ControlRecord, MeasurementRecord
from pv.falsify.devices import DeviceReport
from pv.falsify.judge import Judged, MismatchError, control_record, judge, threshold_record, verdict
from pv.falsify.loader import Stated
from pv.falsify.placeless import answer_without_places, log_without_places
from pv.falsify.planning import Key, Task
from pv.falsify.protocol import Answer, Outcome, Request
from pv.falsify.reading import FoundControl

KEPT_LOG = 32 * 2**20  # bytes that are read of a log; of a longer one its beginning and its end

OF_OUTCOME: Mapping[Outcome, Verdict] = {
    Outcome.BLOCKED: Verdict.BLOCKED,
    Outcome.INCONCLUSIVE: Verdict.INCONCLUSIVE,
    Outcome.ERROR: Verdict.ERROR,
}

Progress = Callable[[str, int, int, str], None]  # control ("" in the healthy run), done, total, what


class Asks(Protocol):
    """A worker, as an attempt uses it."""

    def ask(self, request: Request, timeout: float, progress: Callable[[int, int, str], None]) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Ground:
    """What the requests of a run share. `stated`: what source says of the checks of each module.

    `closures`: of which source each claim's check is made, for places that must prove to have the same.
    """

    project: Path
    subjects: Mapping[str, Path]
    stated: Mapping[Path, tuple[tuple[str, Stated], ...]]
    seed: int = 0
    closures: Mapping[Key, Closure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one task. `answer` is the healthy run's, None where it never ran.

    `waits_for` is the precondition that does not survive, "" where that is not the reason.
    """

    task: Task
    judged: Judged
    started_at: str
    seconds: float = 0.0
    answer: Answer | None = None
    measurements: tuple[MeasurementRecord, ...] = ()
    controls: tuple[ControlRecord, ...] = ()
    missing: tuple[str, ...] = ()
    log: bytes = b""
    waits_for: str = ""

    @property
    def verdict(self) -> Verdict:
        return self.judged.verdict


def now() -> str:
    """This moment as records carry it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def blocked(task: Task) -> Attempt:
    """An attempt that was BLOCKED before it started."""
    return Attempt(task, Judged(Verdict.BLOCKED, "; ".join(task.missing), ""), now(), missing=task.missing)


def inconclusive(task: Task, precondition: str, why: str) -> Attempt:
    """An attempt that was not made because a precondition does not survive."""
    reason = f"precondition {precondition} does not survive: {why}"
    return Attempt(task, Judged(Verdict.INCONCLUSIVE, reason, ""), now(), waits_for=precondition)


def attempt(task: Task, worker: Asks, ground: Ground, device: DeviceReport | None, progress: Progress) -> Attempt:
    """Run the check of a task, then its controls, and judge. Never raises for what a check does."""
    started, begun = now(), time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="pv-run-"))
    try:
        bench = _Bench(task, worker, ground, device, home, progress)
        answer = bench.ask("")
        judged, measurements, controls, missing = _judge(bench, answer)
        return Attempt(
            task,
            judged,
            started,
            time.monotonic() - begun,
            answer,
            measurements,
            controls,
            missing,
            bytes(bench.log),
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)


@dataclass
class _Bench:
    """Asks the worker, one empty scratch folder and one log for each run."""

    task: Task
    worker: Asks
    ground: Ground
    device: DeviceReport | None
    home: Path
    progress: Progress
    log: bytearray = field(default_factory=bytearray)

    def ask(self, control: str) -> Answer:
        check, cell = self.task.check, self.task.cell
        number = len(list(self.home.iterdir()))
        scratch, log = self.home / f"{number}", self.home / f"{number}.log"
        scratch.mkdir()
        log.touch()
        on_gpu = self.device is not None and cell.device is not DeviceClass.CPU
        request = Request(
            module=check.path,
            function=check.function,
            claim=check.id,
            stated=self.ground.stated[check.path],
            cell=cell,
            project=self.ground.project,
            scratch=scratch,
            log=log,
            control=control,
            seed=self.ground.seed,
            subjects=dict(self.ground.subjects),
            device=self.device.name if self.device and on_gpu else "",
            driver=self.device.driver if self.device and on_gpu else "",
        )
        answer = self.worker.ask(request, check.timeout, lambda *said: self.progress(control, *said))
        said = log_without_places(read_log(log), request)
        if said:
            self.log += f"== {f'control {control!r}' if control else 'healthy'} ==\n".encode() + said.rstrip() + b"\n"
        shutil.rmtree(scratch, ignore_errors=True)
        return answer_without_places(answer, request)


Judgement = tuple[Judged, tuple[MeasurementRecord, ...], tuple[ControlRecord, ...], tuple[str, ...]]


def _judge(bench: _Bench, answer: Answer) -> Judgement:
    """Judge the healthy run; where it survives, run and judge the controls."""
    thresholds = {name: threshold_record(bound) for name, bound in bench.task.claim.thresholds.items()}
    if answer.outcome is not Outcome.MEASURED:
        return Judged(OF_OUTCOME[answer.outcome], answer.reason, ""), (), (), answer.missing
    try:
        measurements = judge(answer.measurements, thresholds)
    except MismatchError as mismatch:
        return Judged(Verdict.ERROR, str(mismatch), ""), (), (), ()
    if complaint := _exhaustion(bench.task, answer):
        return Judged(Verdict.ERROR, complaint, ""), measurements, (), ()
    controls: list[ControlRecord] = []
    if all(measured.passed for measured in measurements):
        for control in bench.task.check.controls_for(bench.task.cell.device):
            planted = bench.ask(control.name)
            if planted.outcome is Outcome.BLOCKED:
                reason = f"control {control.name!r} is blocked: {planted.reason}"
                return Judged(Verdict.BLOCKED, reason, ""), measurements, tuple(controls), planted.missing
            controls.append(_control(control, planted, bench.task))
    return verdict(measurements, controls), measurements, tuple(controls), ()


def _control(control: FoundControl, planted: Answer, task: Task) -> ControlRecord:
    thresholds = {name: threshold_record(bound) for name, bound in task.claim.thresholds.items()}
    if planted.outcome is not Outcome.MEASURED:
        return control_record(control.name, control.breaks, error=f"{planted.outcome.value}: {planted.reason}")
    try:
        return control_record(control.name, control.breaks, judge(planted.measurements, thresholds))
    except MismatchError as mismatch:
        return control_record(control.name, control.breaks, error=str(mismatch))


def _exhaustion(task: Task, answer: Answer) -> str:
    """A harness must say how many cases it ran, and of which bound."""
    if task.check.bound is None:
        return ""
    if answer.exhausted is None:
        return "a harness must call context.exhaust(bound, cases, complete); it did not"
    if answer.exhausted.bound != task.check.bound:
        return f"expected context.exhaust of the bound {task.check.bound}, found {answer.exhausted.bound}"
    return ""


def read_log(path: Path) -> bytes:
    """The log of a run; of one that is too long its beginning and its end."""
    size = path.stat().st_size
    with path.open("rb") as log:
        if size <= KEPT_LOG:
            return log.read()
        head = log.read(KEPT_LOG // 2)
        log.seek(size - KEPT_LOG // 2)
        return head + f"\n… {size - KEPT_LOG} bytes left out …\n".encode() + log.read()
