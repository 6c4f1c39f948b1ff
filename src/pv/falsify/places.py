"""Where attempts are made: worker processes on this machine, each with at most one graphics card of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Protocol

from pv.contract.vocabulary import DeviceClass
from pv.falsify.attempt import Attempt, Ground, attempt
from pv.falsify.cards import Cards
from pv.falsify.devices import Card, DeviceReport, Devices
from pv.falsify.environment import determinism
from pv.falsify.planning import GPUS, Task
from pv.falsify.workers import Worker

Progress = Callable[[str, int, int, str], None]  # control ("" in the healthy run), done, total, what


class Hand(Protocol):
    """Makes attempts of one group (device class, subject), one after the other, keeping the subjects that it built."""

    def attempt(self, task: Task, progress: Progress) -> Attempt: ...

    def close(self) -> None: ...

    def stop(self) -> None:
        """Give up at once; called from another thread than `attempt`."""


class Place(Protocol):
    """Where checks run. `room`: whether a task could run now beside those that do."""

    def room(self, task: Task, running: Collection[Task]) -> bool: ...

    def hire(self, ground: Ground) -> Hand: ...


class Here:
    """This machine, serving `jobs` checks side by side."""

    def __init__(self, devices: Devices, jobs: int) -> None:
        self.devices, self.cards = devices, Cards(devices)
        self.threads = max(1, (os.cpu_count() or 1) // max(1, jobs))

    def room(self, task: Task, running: Collection[Task]) -> bool:
        """One check at a time on a graphics card; Vulkan and Metal choose their card, so they run alone on all."""
        if task.cell.device not in GPUS:
            return True
        busy = [other for other in running if other.cell.device in GPUS]
        if task.cell.device is DeviceClass.CUDA and all(other.cell.device is DeviceClass.CUDA for other in busy):
            return len(busy) < max(1, len(self.cards.cards))
        return not busy

    def hire(self, ground: Ground) -> Hand:
        return _HereHand(self, ground)


class _HereHand:
    """One worker process, started anew when the card that it saw is taken and another one is free."""

    def __init__(self, place: Here, ground: Ground) -> None:
        self.place, self.ground = place, ground
        self.card: Card | None = None
        self.worker = Worker(determinism(place.threads))
        self.stopped = False

    def attempt(self, task: Task, progress: Progress) -> Attempt:
        """Waits for a card until this run is stopped; then the worker, which is stopped too, answers for itself."""
        device = task.cell.device
        with self.place.cards.held(
            device, lambda why: progress("", 0, 0, why), lambda: self.stopped, prefer=self.card
        ) as card:
            self._see(card)
            return attempt(task, self.worker, self.ground, self._report(device), progress)

    def close(self) -> None:
        self.worker.close()

    def stop(self) -> None:
        self.stopped = True
        self.worker.stop()

    def _see(self, card: Card | None) -> None:
        """Let the worker see this card alone, where there are several."""
        if card == self.card:
            return
        self.card = card
        if card is not None and len(self.place.cards.cards) > 1:
            self.worker.close()
            self.worker.environment["CUDA_VISIBLE_DEVICES"] = card.visible

    def _report(self, device: DeviceClass) -> DeviceReport | None:
        report = self.place.devices.get(device)
        return replace(report, name=self.card.name) if report and self.card and self.card.name else report
