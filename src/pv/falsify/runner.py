"""A plan -> attempts, made in worker processes by a few threads; preconditions first, one at a time on a card."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pv.contract.project import Project
from pv.contract.vocabulary import Cell, Verdict
from pv.evidence.closure import Closure
from pv.falsify.attempt import Attempt, Ground, blocked, inconclusive
from pv.falsify.devices import Devices
from pv.falsify.loader import Stated
from pv.falsify.places import Hand, Here, Place
from pv.falsify.planning import Key, Task
from pv.falsify.protocol import stated_in
from pv.falsify.reading import FoundCheck

Standing = Callable[[Key, Cell], str]  # why a claim that is not in this run does not survive in a cell; "" when it does


class Listener(Protocol):
    """Hears of a run while it goes on. Called from several threads, one at a time for `finished`."""

    def started(self, task: Task) -> None: ...

    def progress(self, task: Task, control: str, done: int, total: int, what: str) -> None: ...

    def finished(self, attempt: Attempt) -> None: ...


@dataclass(frozen=True, slots=True)
class Finished:
    """The attempts of a run, in the order of the plan; `interrupted` when Ctrl-C ended it early."""

    attempts: tuple[Attempt, ...]
    interrupted: bool = False


def run(
    tasks: Sequence[Task],
    found: Sequence[FoundCheck],
    devices: Devices,
    project: Project,
    listener: Listener,
    *,
    standing: Standing,
    jobs: int = 1,
    seed: int = 0,
    place: Place | None = None,
    closures: Mapping[Key, Closure] | None = None,
) -> Finished:
    """Make every attempt. `found` are all checks of the project; `listener.finished` is called in this very thread.

    `place` is where they run, None for this machine; `closures` is the source that each claim's check must be made of
    there. After Ctrl-C or a termination signal the workers are killed and what was finished is returned: its evidence
    counts.
    """
    ground = Ground(project.root, project.subjects, _stated(found), seed, closures or {})
    jobs = min(max(1, jobs), max(1, len(tasks)))
    crew = _Crew(tasks, ground, place or Here(devices, jobs), standing, listener, jobs)
    attempts: dict[Task, Attempt] = {}
    with _interrupts(crew.interrupt):
        try:
            for one in crew.work():
                attempts[one.task] = one
                listener.finished(one)
        finally:
            crew.stop()
    return Finished(tuple(attempts[task] for task in tasks if task in attempts), crew.interrupted)


@contextmanager
def _interrupts(note: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or termination signal is only noted: no record is left half made. A second one raises."""

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        note()

    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread alone
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stated(found: Sequence[FoundCheck]) -> Mapping[Path, tuple[tuple[str, Stated], ...]]:
    by_module: dict[Path, list[FoundCheck]] = {}
    for check in found:
        by_module.setdefault(check.path, []).append(check)
    return {path: stated_in(checks) for path, checks in by_module.items()}


Group = tuple[str, str]  # (device class, subject): what a worker is kept for


def group_of(task: Task) -> Group:
    """Tasks of one group may share a worker, and with it the subjects that it has built."""
    return task.cell.device.value, task.cell.subject


@dataclass
class _Board:
    """Which tasks wait, run and are done. Every method holds the lock; `take` waits until something can be taken."""

    waiting: list[Task]
    standing: Standing
    place: Place
    running: dict[int, Task] = field(default_factory=dict)  # by thread
    done: dict[Key, list[Attempt]] = field(default_factory=dict)
    stopped: bool = False
    change: threading.Condition = field(default_factory=threading.Condition)

    def take(self, prefer: Group | None) -> Task | None:
        """The next task for a thread whose worker serves `prefer`; None when there is nothing more to do."""
        with self.change:
            while not self.stopped and self.waiting:
                ready = [task for task in self.waiting if self._ready(task)]
                if ready:
                    task = self._best(ready, prefer)
                    self.waiting.remove(task)
                    self.running[threading.get_ident()] = task
                    return task
                if not self.running:  # a circle of preconditions: each waits for the other
                    return self._first_of_circle()
                self.change.wait()
            return None

    def finish(self, made: Attempt) -> None:
        with self.change:
            self.running.pop(threading.get_ident(), None)
            self.done.setdefault(made.task.key, []).append(made)
            self.change.notify_all()

    def stop(self) -> None:
        with self.change:
            self.stopped = True
            self.change.notify_all()

    def unmet(self, task: Task) -> tuple[str, str] | None:
        """The first precondition of a task that does not survive, and why; None when all do."""
        with self.change:
            for name in task.claim.precondition:
                why = self._why_not((task.contract.id, name), task.cell)
                if why:
                    return name, why
        return None

    def _why_not(self, key: Key, cell: Cell) -> str:
        """Judged in the same cell where it was tried there, else by all of its cells."""
        if any(task.key == key for task in (*self.waiting, *self.running.values())):
            return "the two wait for each other"
        made = self.done.get(key)
        if made is None:
            return self.standing(key, cell)
        here = [one for one in made if one.task.cell == cell] or made
        bad = [one for one in here if one.verdict is not Verdict.SURVIVED]
        return f"{bad[0].verdict.value} on {bad[0].task.cell}" if bad else ""

    def _ready(self, task: Task) -> bool:
        if not task.missing and not self.place.room(task, self.running.values()):
            return False
        wanted = {(task.contract.id, name) for name in task.claim.precondition}
        return not any(other.key in wanted for other in (*self.waiting, *self.running.values()))

    def _best(self, ready: Sequence[Task], prefer: Group | None) -> Task:
        """One of the worker's own group, else of a group that nobody serves, else the first."""
        served = {group_of(task) for task in self.running.values()}
        own = [task for task in ready if group_of(task) == prefer]
        fresh = [task for task in ready if group_of(task) not in served]
        return (own or fresh or list(ready))[0]

    def _first_of_circle(self) -> Task:
        task = self.waiting.pop(0)
        self.running[threading.get_ident()] = task
        return task


class _Crew:
    """The threads, each with a hand of its own."""

    def __init__(
        self,
        tasks: Sequence[Task],
        ground: Ground,
        place: Place,
        standing: Standing,
        listener: Listener,
        jobs: int,
    ) -> None:
        self.board = _Board(list(tasks), standing, place)
        self.ground, self.place, self.listener = ground, place, listener
        self.interrupted = False
        # A SimpleQueue: a signal handler may put into it while the very same thread waits for it.
        self.results: queue.SimpleQueue[Attempt | BaseException | None] = queue.SimpleQueue()
        self.hands: set[Hand] = set()
        self.threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(jobs)]

    def work(self) -> Iterator[Attempt]:
        """Every attempt as it is finished, also those finished before an interrupt was heard.

        Raises what went wrong in the machinery itself.
        """
        for thread in self.threads:
            thread.start()
        alive = len(self.threads)
        while alive:
            result = self.results.get()
            if result is None:
                alive -= 1
            elif isinstance(result, KeyboardInterrupt):
                self.interrupted = True
                self.stop()
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result

    def interrupt(self) -> None:
        """Heard by `work` in its turn."""
        self.results.put(KeyboardInterrupt())

    def stop(self) -> None:
        """Kill what runs and wait for the threads."""
        self.board.stop()
        for hand in list(self.hands):
            hand.stop()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    def _serve(self) -> None:
        hand: Hand | None = None
        group: Group | None = None
        try:
            while (task := self.board.take(group)) is not None:
                if hand is None or group != group_of(task):
                    self._dismiss(hand)
                    hand, group = self._hire(), group_of(task)
                made = self._make(task, hand)
                self.board.finish(made)
                if not self.board.stopped:  # killed in the middle: no evidence of anything
                    self.results.put(made)
        except BaseException as error:  # handed to the main thread, which reports it
            self.results.put(error)
        finally:
            self._dismiss(hand)
            self.results.put(None)

    def _make(self, task: Task, hand: Hand) -> Attempt:
        if task.missing:
            return blocked(task)
        unmet = self.board.unmet(task)
        if unmet:
            return inconclusive(task, *unmet)
        self.listener.started(task)
        return hand.attempt(task, lambda *said: self.listener.progress(task, *said))

    def _hire(self) -> Hand:
        hand = self.place.hire(self.ground)
        self.hands.add(hand)
        if self.board.stopped:
            hand.stop()
        return hand

    def _dismiss(self, hand: Hand | None) -> None:
        if hand is not None:
            hand.close()
            self.hands.discard(hand)
