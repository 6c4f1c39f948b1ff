"""The words of a contract as types: statuses, verdicts, device classes, levels, costs, cells."""

from __future__ import annotations

import re
from enum import Enum, StrEnum
from functools import cached_property
from typing import NamedTuple

# MAJOR.MINOR.PATCH, with a pre-release and a build where there are any (semver.org).
SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"
)


class Status(StrEnum):
    """The ladder, lowest rung first; FALSIFIED stands off the ladder."""

    UNBOUND = "UNBOUND"
    BLOCKER_FIXTURE_ABSENT = "BLOCKER_FIXTURE_ABSENT"
    PARTIAL_ALGORITHM_LEVEL = "PARTIAL_ALGORITHM_LEVEL"
    FUNCTIONAL = "FUNCTIONAL"
    DISCHARGED = "DISCHARGED"
    FALSIFIED = "FALSIFIED"

    @cached_property
    def rung(self) -> int:
        """Height on the ladder; -1 for FALSIFIED."""
        return -1 if self is Status.FALSIFIED else list(Status).index(self)


class Verdict(StrEnum):
    """What one run of a check in one cell came to."""

    SURVIVED = "SURVIVED"
    BLOCKED = "BLOCKED"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    VACUOUS = "VACUOUS"
    FALSIFIED = "FALSIFIED"

    @cached_property
    def badness(self) -> int:
        """Order of 'worst over cells': SURVIVED < BLOCKED < INCONCLUSIVE < ERROR < VACUOUS < FALSIFIED."""
        return list(Verdict).index(self)


class DeviceClass(StrEnum):
    """Kinds of device a claim may be about. `vulkan-sw` (a software driver) never satisfies `vulkan`."""

    CPU = "cpu"
    CUDA = "cuda"
    VULKAN = "vulkan"
    VULKAN_SW = "vulkan-sw"
    METAL = "metal"


class Level(StrEnum):
    """`algorithm`: formula or synthetic only. `live`: the public entry point, on real files or a trained model."""

    ALGORITHM = "algorithm"
    LIVE = "live"


class Cost(StrEnum):
    """When a check is run: `--all` takes quick ones; operator-cost checks run only by `--id`."""

    QUICK = "quick"
    SLOW = "slow"
    DEVICE = "device"
    OPERATOR = "operator"


class ClaimKind(StrEnum):
    """`outcome`: how the world is. `guard`: that a defect is detected, reported and routed around."""

    OUTCOME = "outcome"
    GUARD = "guard"


class Cell(NamedTuple):
    """Where a claim is tried: a device class and a subject (`code`, `tiny-teacher`, `synthetic:7b`, `model-1`)."""

    device: DeviceClass
    subject: str

    def __str__(self) -> str:
        return f"{self.device.value} · {self.subject}"


DEFAULT_CELL = Cell(DeviceClass.CPU, "code")


class Bump(Enum):
    """What a change asks of the version; ordered."""

    NONE = 0
    PATCH = 1
    MINOR = 2
    MAJOR = 3
