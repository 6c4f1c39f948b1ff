"""Chosen claims, devices and costs -> what is to be run, what is blocked before it starts, and what is left out.

Besides the cells that a claim requires, a check is run where it can earn PARTIAL without the real thing: on the
software Vulkan driver for a Vulkan cell, and on the tiny teacher for a real model that the user has to provide. Such a
cell counts as quick whatever the claim costs, and never satisfies the required one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pv.contract.claims import Claim, Contract
from pv.contract.project import SUBJECT_PREFIX, Project
from pv.contract.vocabulary import Cell, Cost, DeviceClass
from pv.falsify.devices import Devices
from pv.falsify.discovery import Checks
from pv.falsify.reading import FoundCheck
from pv.falsify.selection import Row

GPUS = frozenset({DeviceClass.CUDA, DeviceClass.VULKAN, DeviceClass.METAL})
TINY_TEACHER = "tiny-teacher"
REAL_MODEL = "model-"

Key = tuple[str, str]  # (contract stem, claim id)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One check to be run in one cell. `missing` is not empty where it is BLOCKED before it starts.

    Two tasks are equal when they try the same claim in the same cell.
    """

    contract: Contract
    claim: Claim
    check: FoundCheck
    cell: Cell
    required: bool = True
    missing: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return self.contract.id, self.claim.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and (self.key, self.cell) == (other.key, other.cell)

    def __hash__(self) -> int:  # not of the fields: a contract's data cannot be hashed
        return hash((self.key, self.cell))

    def __str__(self) -> str:
        return f"{self.claim.id} [{self.cell}]"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A cell that was not asked for: its cost is none of those asked for."""

    contract: Contract
    claim: Claim
    cell: Cell
    cost: Cost


@dataclass(frozen=True, slots=True)
class Plan:
    """`tasks` in file order, stand-ins after the required cells; `unchecked` are chosen claims without a check."""

    tasks: tuple[Task, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    unchecked: tuple[Row, ...] = ()


def plan(
    rows: Sequence[Row],
    checks: Checks,
    devices: Devices,
    project: Project,
    *,
    costs: Collection[Cost],
    only_devices: Collection[DeviceClass] = (),
    only_subjects: Collection[str] = (),
) -> Plan:
    """The plan of a run. `only_devices` and `only_subjects` narrow the cells; empty means all."""
    tasks: list[Task] = []
    left_out: list[LeftOut] = []
    unchecked: list[Row] = []
    for row in rows:
        check = checks.of(row.contract.id, row.claim.id)
        if check is None:
            unchecked.append(row)
            continue
        for cell, required in _cells(row.claim, check, devices, project):
            if not _wanted(cell.device, only_devices) or not _wanted(cell.subject, only_subjects):
                continue
            missing = _missing(row.claim, cell, devices, project) if required else ()
            cost = cell_cost(check.cost or row.claim.cost, cell, required=required)
            if missing or cost in costs:
                tasks.append(Task(row.contract, row.claim, check, cell, required, missing))
            else:
                left_out.append(LeftOut(row.contract, row.claim, cell, cost))
    return Plan(tuple(tasks), tuple(left_out), tuple(unchecked))


def devices_needed(rows: Sequence[Row]) -> set[DeviceClass]:
    """The device classes that a run of these claims asks about; probing others would only cost time."""
    needed = {cell.device for row in rows for cell in row.claim.required_cells} | {DeviceClass.CPU}
    needed |= {DeviceClass(name) for row in rows for name in row.claim.blocked_on if name in set(DeviceClass)}
    if needed & GPUS:  # whose cards CUDA alone can name, so that nobody else computes on them meanwhile
        needed.add(DeviceClass.CUDA)
    return needed | ({DeviceClass.VULKAN_SW} if DeviceClass.VULKAN in needed else set())


def cell_cost(cost: Cost, cell: Cell, *, required: bool = True) -> Cost:
    """What running one cell of a claim costs.

    Of a device claim, cells without a real GPU are quick; of a slow claim, those with one are device. A stand-in is
    always quick.
    """
    if not required:
        return Cost.QUICK
    if cost is Cost.DEVICE and cell.device not in GPUS:
        return Cost.QUICK
    if cost is Cost.SLOW and cell.device in GPUS:
        return Cost.DEVICE
    return cost


def _wanted(found: str, wanted: Collection[str]) -> bool:
    return not wanted or found in wanted


def _cells(claim: Claim, check: FoundCheck, devices: Devices, project: Project) -> Iterator[tuple[Cell, bool]]:
    """The required cells, then the stand-ins for them in which some control of the check applies."""
    required = tuple(dict.fromkeys(claim.required_cells))
    yield from ((cell, True) for cell in required)
    for stand_in in dict.fromkeys(_stand_ins(required, devices, project)):
        if stand_in not in required and check.controls_for(stand_in.device):
            yield stand_in, False


def _stand_ins(required: Sequence[Cell], devices: Devices, project: Project) -> Iterator[Cell]:
    software = devices.get(DeviceClass.VULKAN_SW)
    for cell in required:
        if cell.device is DeviceClass.VULKAN and software is not None and software.present:
            yield Cell(DeviceClass.VULKAN_SW, cell.subject)
        if cell.subject.startswith(REAL_MODEL) and _available(TINY_TEACHER, project) and _here(cell.device, devices):
            yield Cell(cell.device, TINY_TEACHER)


def _missing(claim: Claim, cell: Cell, devices: Devices, project: Project) -> tuple[str, ...]:
    """What a required cell lacks here, in words; empty when it can be run."""
    report = devices.get(cell.device)
    device = "" if report is None else report.why_not
    lacking = [f"{cell.device.value}: {device}"] if device else []
    if cell.subject.startswith(REAL_MODEL) and not _available(cell.subject, project):
        lacking.append(_how_to_give(cell.subject))
    unmet = (name for name in claim.blocked_on if name != cell.subject and not _met(name, devices, project))
    return (*lacking, *unmet)


def _met(prerequisite: str, devices: Devices, project: Project) -> bool:
    """Whether something a claim is blocked on is here after all: a device class, or a subject with files."""
    if prerequisite in set(DeviceClass):
        return _here(DeviceClass(prerequisite), devices)
    return _available(prerequisite, project)


def _available(subject: str, project: Project) -> bool:
    path = project.subject(subject)
    return path is not None and path.exists()


def _here(device: DeviceClass, devices: Devices) -> bool:
    report = devices.get(device)
    return report is not None and report.present


def _how_to_give(subject: str) -> str:
    variable = SUBJECT_PREFIX + subject.upper().replace("-", "_")
    return f"{subject}: set {variable}, or {subject} in [tool.pv.subjects], to its path"
