"""A contract, a claim or a file -> the claims whose evidence a change touches, and the contracts built on those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pv.contract.graph import Graph, stem_of
from pv.evidence.ledger import Key, Ledger


@dataclass(frozen=True, slots=True)
class Impact:
    """`claims` speak of the thing itself, `waiting` have one of them as precondition, `contracts` depend on theirs."""

    kind: Literal["contract", "claim", "file"]
    name: str
    claims: tuple[Key, ...]
    waiting: tuple[Key, ...] = ()
    contracts: tuple[str, ...] = ()


def impact_of(name: str, graph: Graph, ledger: Ledger) -> Impact | None:
    """What a change of `name` touches: a contract's stem or file, a claim's id, or the path of a file from here.

    None where it is none of these. Reads source; imports and runs no check.
    """
    path = Path(name).resolve()
    of_file = next((stem for stem, contract in graph.contracts.items() if contract.path.resolve() == path), "")
    stem = of_file or stem_of(name)
    if stem in graph.contracts and (of_file or not path.is_file()):
        claims = tuple((stem, claim.id) for claim in graph.contracts[stem].claims)
        return Impact("contract", stem, claims, (), graph.dependents([stem]))
    claims = tuple((stem, name) for stem, contract in graph.contracts.items() if contract.claim(name))
    if claims:
        return _spread("claim", name, claims, graph)
    if path.is_file():
        shown = path.relative_to(ledger.project.root).as_posix() if path.is_relative_to(ledger.project.root) else name
        return _spread("file", shown, tuple(_resting_on(shown, graph, ledger)), graph)
    return None


def _spread(kind: Literal["claim", "file"], name: str, claims: tuple[Key, ...], graph: Graph) -> Impact:
    waiting = graph.waiting_for(claims)
    stems = dict.fromkeys(stem for stem, _ in (*claims, *waiting))
    return Impact(kind, name, claims, waiting, graph.dependents(stems))


def _resting_on(path: str, graph: Graph, ledger: Ledger) -> Iterator[Key]:
    """Claims whose check reaches the file, or whose records were made from it (a model, a fixture)."""
    for stem, contract in graph.contracts.items():
        for claim in contract.claims:
            closure = ledger.closure(contract, claim)
            reached = closure is not None and any(
                closure.today.get(file.path, file.path) == path for file in closure.files
            )
            if reached or any(path in record.bound for record in ledger.records_of(contract, claim)):
                yield stem, claim.id
