"""A contract and its claims -> the argument that its evidence makes, in the words of GSN (Goal Structuring Notation).

The contract is the top goal, argued over its obligations. Each obligation is a goal, supported by the claims bound to
it; a claim is argued by attack (the strategy: try to break it where it is required) and rests on solutions, the records
that decide its cells. A goal with nothing below it is undeveloped. Claims bound to equations only are argued under
those; claims bound to nothing, under the contract itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pv.contract.claims import Contract, equation_name, text_of
from pv.contract.vocabulary import Status
from pv.report.story import CellStory, ClaimStory, ContractStory, by_target, short


class Kind(StrEnum):
    """The elements of GSN that occur."""

    GOAL = "Goal"
    STRATEGY = "Strategy"
    SOLUTION = "Solution"
    CONTEXT = "Context"
    ASSUMPTION = "Assumption"
    JUSTIFICATION = "Justification"


@dataclass(frozen=True, slots=True)
class Node:
    """One element, and what supports or explains it. `claim` is the claim that it stands for, `record` the record.

    `undeveloped`: a goal that nothing supports, or a solution that does not hold.
    """

    kind: Kind
    name: str
    text: str
    below: tuple[Node, ...] = ()
    claim: ClaimStory | None = None
    record: str = ""
    undeveloped: bool = False


def argument(one: ContractStory) -> Node:
    """The whole argument of one contract."""
    contract = one.contract
    bound = by_target(contract, one.claims)
    goals_of = _Goals()
    obligations = [(o.id, o.property, o.formal) for o in contract.obligations if o.id]
    argued = {claim.claim.id for name, _, _ in obligations for claim in bound[name]}
    goals = [_goal(name, text, formal, goals_of(bound[name])) for name, text, formal in obligations]
    formulas = dict(equations(contract))
    for name in contract.equations:
        rest = [claim for claim in bound[name] if claim.claim.id not in argued]
        if rest:
            argued |= {claim.claim.id for claim in rest}
            goals.append(_goal(name, text_of(formulas[name].get("formula")), "", goals_of(rest)))
    goals += goals_of([claim for claim in one.claims if claim.claim.id not in argued])
    over = "argue over every obligation, then over the claims that no obligation covers"
    strategy = Node(Kind.STRATEGY, "S", over, tuple(goals), undeveloped=not goals)
    context = [Node(Kind.CONTEXT, "C", f"{name}: {text_of(item.get('formula'))}") for name, item in formulas.items()]
    context += [Node(Kind.CONTEXT, "C", f"reference: {reference}") for reference in contract.metadata.references]
    return Node(Kind.GOAL, contract.id, contract.metadata.description, (*context, strategy), undeveloped=not goals)


def equations(contract: Contract) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and data of each equation, in file order; data that is no mapping is a bare formula."""
    found = contract.data.get("equations")
    named = (
        found.items() if isinstance(found, Mapping) else ((equation_name(i, e), e) for i, e in enumerate(found or ()))
    )
    for name, item in named:
        yield str(name), item if isinstance(item, Mapping) else {"formula": text_of(item)}


def undeveloped(node: Node) -> list[Node]:
    """Every undeveloped goal at or below a node, the outermost first."""
    return [
        *([node] if node.undeveloped and node.kind is Kind.GOAL else []),
        *(u for n in node.below for u in undeveloped(n)),
    ]


class _Goals:
    """Claims -> their goals; a claim that several goals rest on is argued at the first of them."""

    def __init__(self) -> None:
        self._argued: set[int] = set()

    def __call__(self, claims: Sequence[ClaimStory]) -> list[Node]:
        return [self._one(claim) for claim in claims]

    def _one(self, claim: ClaimStory) -> Node:
        goal = _claim_goal(claim)
        if id(claim) in self._argued:
            return replace(goal, text="argued above", below=())
        self._argued.add(id(claim))
        return goal


def _goal(name: str, text: str, formal: str, claims: Sequence[Node]) -> Node:
    justification = (Node(Kind.JUSTIFICATION, "J", formal),) if formal else ()
    return Node(Kind.GOAL, name, text, (*justification, *claims), undeveloped=not claims)


def _claim_goal(one: ClaimStory) -> Node:
    claim = one.claim
    assumptions = [Node(Kind.ASSUMPTION, "A", f"{name} survives") for name in claim.precondition]
    solutions = [_solution(cell) for cell in one.cells if cell.record]
    missing = [str(cell.state.cell) for cell in one.cells if cell.state.required and not cell.record]
    way = f"argue by attack: {one.check.place} tries to break it" if one.check else "no check attacks it"
    where = f"; no record on {', '.join(missing)}" if missing else ""
    strategy = Node(Kind.STRATEGY, "S", way + where, tuple(solutions))
    supported = one.status.rung >= Status.PARTIAL_ALGORITHM_LEVEL.rung
    text = claim.prediction or claim.rule
    return Node(Kind.GOAL, claim.id, text, (*assumptions, strategy), claim=one, undeveloped=not supported)


def _solution(cell: CellStory) -> Node:
    record, state = cell.record, cell.state
    if record is None:
        raise ValueError(f"expected a record on {state.cell}, found none")
    caught = sum(control.caught for control in record.controls)
    settled = f"; {state.settled_by}" if state.settled_by else ""
    stale = f"; stale: {state.stale}" if state.stale else ""
    text = (
        f"{record.verdict.value} on {state.cell} at level {record.level.value}, "
        f"{caught} of {len(record.controls)} planted defects caught{settled}{stale}"
    )
    return Node(Kind.SOLUTION, short(record.digest), text, record=record.digest, undeveloped=cell.red)
