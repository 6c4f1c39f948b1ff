"""Standings -> contract x cell: the lowest rung, how many claims hold it up, and how fresh the evidence is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pv.contract.vocabulary import Cell, DeviceClass, Status
from pv.evidence.standing import ContractStanding, ProjectStanding
from pv.ladder.entitlement import CellState
from pv.ladder.tally import SHIPPABLE
from pv.report import terminal

# The words of a narrow table.
SHORT: Mapping[Status, str] = {
    Status.UNBOUND: "UNBOUND",
    Status.BLOCKER_FIXTURE_ABSENT: "BLOCKED",
    Status.PARTIAL_ALGORITHM_LEVEL: "PARTIAL",
    Status.FUNCTIONAL: "FUNCTIONAL",
    Status.DISCHARGED: "DISCHARGED",
    Status.FALSIFIED: "FALSIFIED",
}
LEGEND = (
    "each cell: the lowest rung of the claims there, those at FUNCTIONAL or better of all; (in brackets): claims that "
    "ran there though none requires the cell"
)
_DEVICES = list(DeviceClass)


@dataclass(frozen=True, slots=True)
class Place:
    """Where some claims stand in one cell. `required`: at least one of them requires it."""

    rung: Status
    shippable: int
    total: int
    stale: int
    never_ran: int
    required: bool
    verified_at: str  # the oldest of the records that decide; "" where none does

    def __str__(self) -> str:
        """`FUNCTIONAL 8/9, 2 stale`; in brackets where no claim requires the cell."""
        asides = [(self.stale, "stale"), (self.never_ran, "never ran")]
        told = [f"{SHORT[self.rung]} {self.shippable}/{self.total}", *(f"{n} {word}" for n, word in asides if n)]
        text = ", ".join(told)
        return text if self.required else f"({text})"


@dataclass(frozen=True, slots=True)
class Line:
    """One contract, or one claim of it, over the cells; a cell is absent where it has nothing to say there."""

    contract_id: str
    claim_id: str  # "" for the whole contract
    places: Mapping[Cell, Place]

    @property
    def name(self) -> str:
        """What the line is about."""
        return self.claim_id or self.contract_id


@dataclass(frozen=True, slots=True)
class Matrix:
    """Lines over cells; the cells are in the order of the device classes, then by subject."""

    cells: tuple[Cell, ...]
    lines: tuple[Line, ...]


def matrix(standing: ProjectStanding, *, claims: bool = False) -> Matrix:
    """The matrix of a project: a line for each contract that has claims, or for each claim."""
    return matrix_of(standing.contracts, claims=claims)


def matrix_of(contracts: Sequence[ContractStanding], *, claims: bool = False) -> Matrix:
    """The same of some contracts."""
    lines = [line for one in contracts for line in _lines(one, claims) if line.places]
    cells = {cell for line in lines for cell in line.places}
    return Matrix(tuple(sorted(cells, key=lambda c: (_DEVICES.index(c.device), c.subject))), tuple(lines))


def as_text(found: Matrix, width: int) -> str:
    """Aligned columns under device and subject; where a line would be wider than `width`, the columns go on below."""
    name = max((len(line.name) for line in found.lines), default=0)
    blocks: list[list[list[str]]] = []
    block: list[list[str]] = []
    used = name
    for cell in found.cells:
        column = [cell.device.value, cell.subject, *(_said(line, cell) for line in found.lines)]
        needed = 2 + max(map(len, column))
        if block and used + needed > width:
            blocks.append(block)
            block, used = [], name
        block.append(column)
        used += needed
    blocks += [block] if block else []
    names = ["", "", *(line.name for line in found.lines)]
    texts = ["\n".join(terminal.table(list(zip(names, *one, strict=True)), indent="")) for one in blocks]
    return "\n\n".join([*texts, f"({LEGEND})"])


def as_data(standing: ProjectStanding) -> dict[str, Any]:
    """Every contract and every claim of it, for programs."""
    return {
        "contracts": [
            {
                "id": one.contract.id,
                "cells": _cells_data(whole.places),
                "claims": [{"id": line.claim_id, "cells": _cells_data(line.places)} for line in _lines(one, True)],
            }
            for one in standing.contracts
            for whole in _lines(one, False)
        ]
    }


def _lines(one: ContractStanding, claims: bool) -> list[Line]:
    if claims:
        return [Line(one.contract.id, claim.claim.id, _places(claim.entitlement.cells)) for claim in one.claims]
    return [Line(one.contract.id, "", _places(state for claim in one.claims for state in claim.entitlement.cells))]


def _places(states: Iterable[CellState]) -> dict[Cell, Place]:
    by_cell: dict[Cell, list[CellState]] = {}
    for state in states:
        by_cell.setdefault(state.cell, []).append(state)
    return {cell: _place(found) for cell, found in by_cell.items()}


def _place(states: Sequence[CellState]) -> Place:
    """Where some claims require the cell, those alone decide it."""
    required = [state for state in states if state.required]
    counting = required or states
    return Place(
        rung=min((state.rung for state in counting), key=lambda status: status.rung),
        shippable=sum(state.rung in SHIPPABLE for state in counting),
        total=len(counting),
        stale=sum(bool(state.stale) for state in counting),
        never_ran=sum(state.verdict is None for state in counting),
        required=bool(required),
        verified_at=min((state.verified_at for state in counting if state.verified_at), default=""),
    )


def _said(line: Line, cell: Cell) -> str:
    place = line.places.get(cell)
    return "-" if place is None else str(place)


def _cells_data(places: Mapping[Cell, Place]) -> list[dict[str, Any]]:
    return [
        {
            "device": cell.device.value,
            "subject": cell.subject,
            "rung": place.rung.value,
            "shippable": place.shippable,
            "total": place.total,
            "stale": place.stale,
            "never_ran": place.never_ran,
            "required": place.required,
            "oldest": place.verified_at,
        }
        for cell, place in places.items()
    ]
