"""Requests of a run elsewhere -> answers, made by a worker process here: the far side of `pv.falsify.cluster`.

Takes and gives bytes and plain data, and knows nothing of the engine that carries them. Before anything runs it proves
that this machine has the same pv and, for each check, the same source as the machine that keeps the records.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from pv.contract.project import ConfigError, find
from pv.contract.vocabulary import DeviceClass
from pv.evidence.closure import CheckSource, Closure, Sources, by_path
from pv.falsify.attempt import read_log
from pv.falsify.cards import Cards
from pv.falsify.devices import Devices, present
from pv.falsify.environment import environment_beside, host
from pv.falsify.placeless import answer_without_places, log_without_places
from pv.falsify.protocol import Answer, Outcome, Request, answer_line, read_request
from pv.falsify.records import tool_digest
from pv.falsify.workers import Worker

PROJECT, INSTALLED = "project", "installed"
NAMED = 5  # differing files that a message names


class Origin(NamedTuple):
    """What the machine that keeps the records says of itself. `root` is "" where it sent its files along."""

    root: str
    tool: str
    subjects: Mapping[str, str]
    variables: Mapping[str, str]


class Expected(NamedTuple):
    """Where a check stands, as (PROJECT or INSTALLED, path below it), and the source that it must be made of."""

    module: tuple[str, str]
    attacks: tuple[str, ...]
    data: tuple[str, ...]
    first_module: str
    ids: tuple[tuple[str, str], ...]
    digest: str
    files: tuple[tuple[str, str], ...]


class Outpost:
    """One worker process here, for checks on one device class. Methods may be called from several threads."""

    def __init__(self, device: str, origin: Sequence[Any]) -> None:
        self.device, self.origin = DeviceClass(device), Origin(*origin)
        self.root = Path(self.origin.root) if self.origin.root else Path.cwd()
        self.worker = Worker(self.origin.variables)
        self.telling: tuple[int, int, str] = (0, 0, "")
        self.stopped = False
        self.lock = threading.Lock()
        self._devices: Devices | None = None
        self._proven: dict[str, str] = {}

    def ready(self) -> dict[str, str]:
        """The device here, or `problem`: why nothing can be run."""
        problem = self._unfit()
        report = {} if problem else asdict(self._reports()[self.device])
        return {"problem": problem, **{name: str(report.get(name, "")) for name in ("name", "driver", "why_not")}}

    def said(self) -> tuple[int, int, str]:
        """The latest progress: done, total, what. That it answers at all is the sign of life."""
        return self.telling

    def ask(self, line: bytes, timeout: float, expected: Sequence[Any]) -> tuple[bytes, bytes]:
        """Run one request: its answer, as a line of the protocol, and its log."""
        with self.lock:
            self.telling = (0, 0, "")
            home = Path(tempfile.mkdtemp(prefix="pv-far-"))
            try:
                answer, log = self._run(read_request(line), timeout, Expected(*expected), home)
            finally:
                shutil.rmtree(home, ignore_errors=True)
        if not answer.environment.python:  # the worker died before it could tell
            report = self._reports()[self.device]
            on_gpu = self.device is not DeviceClass.CPU
            seen = environment_beside(device=report.name, driver=report.driver) if on_gpu else environment_beside()
            answer = replace(answer, environment=seen)
        return answer_line(answer), log

    def stop(self) -> None:
        """End what runs, at once, and start nothing more."""
        self.stopped = True
        self.worker.stop()

    def close(self) -> None:
        """Let the worker go, with whatever its checks left running."""
        self.stop()
        with self.lock:
            self.worker.close()

    def _run(self, request: Request, timeout: float, expected: Expected, home: Path) -> tuple[Answer, bytes]:
        module = self._module(*expected.module)
        if problem := self._unlike(expected, module):
            return Answer(Outcome.ERROR, reason=problem), b""
        scratch, log = home / "scratch", home / "log"
        scratch.mkdir()
        log.touch()
        report = self._reports()[self.device]
        on_gpu = self.device is not DeviceClass.CPU
        request = replace(
            request,
            module=module,
            project=self.root,
            scratch=scratch,
            log=log,
            subjects=self._subjects(),
            device=report.name if on_gpu else "",
            driver=report.driver if on_gpu else "",
        )
        with Cards(self._reports()).held(self.device, lambda why: self._tell(0, 0, why), lambda: self.stopped):
            answer = self.worker.ask(request, timeout, self._tell)
        return answer_without_places(answer, request), log_without_places(read_log(log), request)

    def _tell(self, done: int, total: int, what: str) -> None:
        self.telling = (done, total, what)

    def _reports(self) -> Devices:
        if self._devices is None:
            cards = {DeviceClass.CUDA} if self.device is not DeviceClass.CPU else set()
            self._devices = present({self.device, DeviceClass.CPU} | cards)
        return self._devices

    def _unfit(self) -> str:
        """Why this machine cannot serve that run; "" when it can."""
        here = host()
        if not self.root.is_dir():
            return f"host {here} has no folder {self.root}; check the project out there, or take --ray-ship"
        if tool_digest() != self.origin.tool:
            return (
                f"host {here} has another pv than this one: expected {self.origin.tool[:19]}, found "
                f"{tool_digest()[:19]} at {Path(__file__).parent.parent}; install the same one, or take --ray-ship"
            )
        try:
            find(self.root)
        except ConfigError as wrong:
            return f"host {here}: {wrong}"
        return ""

    def _module(self, kind: str, name: str) -> Path:
        if kind == PROJECT:
            return self.root / name
        found = [Path(entry) / name for entry in sys.path if (Path(entry) / name).is_file()]
        return found[0] if found else Path(name)

    def _unlike(self, expected: Expected, module: Path) -> str:
        """How the source of a check differs from what is expected; "" when it does not. Asked once for each source."""
        if expected.digest not in self._proven:
            source = CheckSource(
                module,
                tuple(expected.attacks),
                tuple(expected.data),
                expected.first_module,
                tuple((now, first) for now, first in expected.ids),
            )
            found = Sources(self.root).closure(source)
            self._proven[expected.digest] = difference(expected, found) if found.digest != expected.digest else ""
        problem = self._proven[expected.digest]
        return problem and f"host {host()}, {self.root}: {problem}"

    def _subjects(self) -> dict[str, Path]:
        """Subjects as this machine has them: by its own settings, else where the run's machine has them."""
        own = find(self.root).subjects
        given = {name: self._localised(path) for name, path in self.origin.subjects.items()}
        return {**given, **{name: path for name, path in own.items() if path.exists() or name not in given}}

    def _localised(self, path: str) -> Path:
        """A path below the run's project, given as `./…`, below ours."""
        return self.root / path if path.startswith(f".{os.sep}") else Path(path)


def difference(expected: Expected, found: Closure) -> str:
    """Which files of a check's source are other ones here."""
    wanted, here = dict(expected.files), by_path(found.files)
    lines = [f"{name} is not there" for name in wanted if name not in here]
    lines += [f"{name} is another one" for name in wanted if name in here and here[name] != wanted[name]]
    lines += [f"{name} is there, too" for name in here if name not in wanted]
    more = f" and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    return (
        f"its source differs from that of the run: {'; '.join(lines[:NAMED])}{more}; "
        "bring both to the same commit, or take --ray-ship"
    )
