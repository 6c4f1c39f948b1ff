"""Statuses -> the tally (`20+36`), and whether a contract is COMPLETE or BOUND."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pv.contract.vocabulary import Status

SHIPPABLE = (Status.FUNCTIONAL, Status.DISCHARGED)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many claims stand on which rung. Blocked, unbound and falsified ones are listed apart, never counted in."""

    discharged: int = 0
    functional: int = 0
    partial: int = 0
    blocked: int = 0
    unbound: int = 0
    falsified: int = 0

    @staticmethod
    def of(statuses: Iterable[Status]) -> Tally:
        """Count them."""
        count = Counter(statuses)
        return Tally(
            count[Status.DISCHARGED],
            count[Status.FUNCTIONAL],
            count[Status.PARTIAL_ALGORITHM_LEVEL],
            count[Status.BLOCKER_FIXTURE_ABSENT],
            count[Status.UNBOUND],
            count[Status.FALSIFIED],
        )

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.discharged + other.discharged,
            self.functional + other.functional,
            self.partial + other.partial,
            self.blocked + other.blocked,
            self.unbound + other.unbound,
            self.falsified + other.falsified,
        )

    def __str__(self) -> str:
        """`20+36`: discharged, and functional or partial."""
        return f"{self.discharged}+{self.functional + self.partial}"

    @property
    def total(self) -> int:
        """Every claim, also those that are not counted in."""
        return self.discharged + self.functional + self.partial + self.blocked + self.unbound + self.falsified

    @property
    def shippable(self) -> int:
        """Claims at FUNCTIONAL or better."""
        return self.discharged + self.functional

    @property
    def complete(self) -> bool:
        """Every claim is discharged, and there is one."""
        return self.total > 0 and self.discharged == self.total

    @property
    def apart(self) -> str:
        """`2 blocked, 1 unbound`: what is not counted in; "" where there is nothing."""
        named = ((self.falsified, "falsified"), (self.blocked, "blocked"), (self.unbound, "unbound"))
        return ", ".join(f"{count} {word}" for count, word in named if count)
