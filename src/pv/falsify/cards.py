"""The graphics cards of this machine -> one of them, held for the length of one run against every other pv here.

Two checks on one card would spoil what the other measures. A lock is a file of the system's temporary folder, released
by the system when its holder dies; its name is the card's own, so that all processes mean the same card by it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pv.contract.vocabulary import DeviceClass
from pv.falsify.devices import Card, Devices
from pv.falsify.planning import GPUS

PATIENCE = 0.5  # seconds between two looks at whether the run was stopped while it waits for a card

Waits = Callable[[str], None]


class Cards:
    """The cards of one machine, as its device reports tell them."""

    def __init__(self, devices: Devices) -> None:
        report = devices.get(DeviceClass.CUDA)
        present = report is not None and report.present
        self.cards: tuple[Card, ...] = (report.cards or (Card(),)) if report and present else ()

    @contextmanager
    def held(
        self, device: DeviceClass, waits: Waits, stopped: Callable[[], bool] = lambda: False, prefer: Card | None = None
    ) -> Iterator[Card | None]:
        """Hold what a check on `device` must have alone: for CUDA one card, `prefer` if it is free, which is given.

        Vulkan and Metal choose the card themselves, so they take all of them; the processor and software drivers take
        none. Waits, telling `waits` why, until `stopped`; a caller that is stopped gets on without.
        """
        with ExitStack() as kept:
            if device is DeviceClass.CUDA:
                yield self._one(kept, waits, stopped, prefer)
                return
            if device in GPUS:
                for lock in [lock_of(Card()), *(lock_of(card) for card in self.cards if card.identity)]:
                    _wait([lock], waits, stopped, kept)
            yield None

    def _one(self, kept: ExitStack, waits: Waits, stopped: Callable[[], bool], prefer: Card | None) -> Card:
        cards = sorted(self.cards or (Card(),), key=lambda card: card != prefer)
        index = _wait([lock_of(card) for card in cards], waits, stopped, kept)
        return cards[index]


def lock_of(card: Card) -> FileLock:
    """The lock of a card; of one that nobody can name, that of "the" GPU of this machine."""
    name = f"pv-gpu-{card.identity}.lock" if card.identity else "pv-gpu.lock"
    return FileLock(Path(tempfile.gettempdir()) / name, mode=0o666)


def _wait(locks: Sequence[FileLock], waits: Waits, stopped: Callable[[], bool], kept: ExitStack) -> int:
    """Take the first of the locks that is free and leave it to `kept`; its index (0, untaken, when stopped)."""
    while not stopped():
        for index, lock in enumerate(locks):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            kept.callback(lock.release)
            return index
        waits("waits for the GPU, which another pv uses")
        time.sleep(PATIENCE)
    return 0
