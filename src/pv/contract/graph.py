"""Contracts -> the graph of what they build on (`depends_on`) and what their claims are about (`binds_to`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import PurePosixPath
from typing import Any

from pv.contract.claims import Claim, Contract

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Graph:
    """`contracts` by stem, in the order given; of two files with one stem the first counts."""

    contracts: Mapping[str, Contract]

    @staticmethod
    def of(contracts: Iterable[Contract]) -> Graph:
        by_stem: dict[str, Contract] = {}
        for contract in contracts:
            by_stem.setdefault(contract.id, contract)
        return Graph(by_stem)

    @cached_property
    def depends(self) -> Mapping[str, tuple[str, ...]]:
        """Stem -> the stems that it names, known or not, each once."""
        return {
            stem: tuple(dict.fromkeys(stem_of(name) for name in contract.metadata.depends_on))
            for stem, contract in self.contracts.items()
        }

    @cached_property
    def unknown(self) -> Mapping[str, tuple[str, ...]]:
        """Name of a contract that is nowhere here -> the contracts that depend on it."""
        askers: dict[str, list[str]] = {}
        for stem, names in self.depends.items():
            for name in names:
                if name not in self.contracts:
                    askers.setdefault(name, []).append(stem)
        return {name: tuple(stems) for name, stems in askers.items()}

    def order(self) -> list[str]:
        """The known stems, each after all that it depends on. Raises graphlib.CycleError where there is a ring."""
        known = {stem: [name for name in names if name in self.contracts] for stem, names in self.depends.items()}
        return list(TopologicalSorter(known).static_order())

    def dependents(self, stems: Iterable[str]) -> tuple[str, ...]:
        """Every contract that depends on one of `stems`, directly or not, without these; nearest first."""
        start = set(stems)
        reached: dict[str, None] = {}
        pending = list(start)
        for stem in pending:  # grows while it is walked
            for other, names in self.depends.items():
                if stem in names and other not in start and other not in reached:
                    reached[other] = None
                    pending.append(other)
        return tuple(reached)

    def waiting_for(self, claims: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Every (stem, claim id) that has one of `claims` as precondition, directly or not, without these."""
        start = set(claims)
        reached: dict[tuple[str, str], None] = {}
        pending = list(start)
        for stem, claim_id in pending:  # grows while it is walked
            for claim in self.contracts[stem].claims:
                key = stem, claim.id
                if claim_id in claim.precondition and key not in start and key not in reached:
                    reached[key] = None
                    pending.append(key)
        return tuple(reached)


def stem_of(name: str) -> str:
    """`contracts/x-v1.yaml`, `x-v1.yaml` and `x-v1` name one contract."""
    last = PurePosixPath(name).name
    return next((last.removesuffix(suffix) for suffix in SUFFIXES if last.endswith(suffix)), last)


def bindings(contract: Contract) -> dict[str, tuple[str, ...]]:
    """Equation or obligation -> the claims bound to it, in file order; also those that nothing is bound to."""
    named = [*contract.equations, *(o.id for o in contract.obligations if o.id)]
    return {target: tuple(c.id for c in contract.claims if target in c.binds_to) for target in named}


def unbound_names(contract: Contract, claim: Claim) -> tuple[str, ...]:
    """What a claim says it is bound to and the contract does not have."""
    return tuple(name for name in claim.binds_to if name not in contract.targets)


# --- as text ----------------------------------------------------------------------------------------------------------


def as_text(graph: Graph, order: Iterable[str], *, claims: bool) -> str:
    """Contracts in `order`, each with what it depends on and, with `claims`, what its claims are about."""
    return "\n".join(line for stem in order for line in _text(graph, stem, claims))


def _text(graph: Graph, stem: str, claims: bool) -> Iterator[str]:
    contract = graph.contracts[stem]
    names = [name if name in graph.contracts else f"{name} (unknown)" for name in graph.depends[stem]]
    yield f"{stem}  ->  {', '.join(names)}" if names else stem
    if not claims:
        return
    bound = bindings(contract)
    width = max(map(len, bound), default=0)
    for target, ids in bound.items():
        yield f"  {target:{width}}  <-  {', '.join(ids) or 'nothing'}"
    for claim in contract.claims:
        if strangers := unbound_names(contract, claim):
            yield f"  {claim.id} is bound to {', '.join(strangers)} (unknown)"


def as_dot(graph: Graph, order: Iterable[str], *, claims: bool) -> str:
    """Graphviz: contracts are boxes, equations and obligations stand in them, arrows point at what is needed."""
    lines = ["digraph contracts {", "  rankdir=LR; node [shape=box, fontname=sans-serif]; compound=true;"]
    for stem in order:
        lines.append(f"  {_dot(stem)};")
        for name in graph.depends[stem]:
            lines.append(f"  {_dot(stem)} -> {_dot(name)};")
        for claim, target in _edges(graph.contracts[stem]) if claims else ():
            lines.append(f"  {_dot(stem, claim)} [shape=ellipse, label={_quoted(claim)}];")
            lines.append(f"  {_dot(stem, target)} [shape=plaintext, label={_quoted(target)}];")
            lines.append(f"  {_dot(stem, claim)} -> {_dot(stem, target)} -> {_dot(stem)} [style=dotted];")
    lines += [f"  {_dot(name)} [style=dashed, label={_quoted(f'{name} (unknown)')}];" for name in graph.unknown]
    return "\n".join([*dict.fromkeys(lines), "}"])


def as_mermaid(graph: Graph, order: Iterable[str], *, claims: bool) -> str:
    """Mermaid's flowchart, as GitHub draws it in Markdown."""
    numbers: dict[tuple[str, ...], str] = {}

    def node(*parts: str) -> str:
        return numbers.setdefault(parts, f"n{len(numbers)}")

    lines = []
    for stem in order:
        lines.append(f"  {node(stem)}[{_mermaid(stem)}]")
        lines += [f"  {node(stem)} --> {node(name)}" for name in graph.depends[stem]]
        for claim, target in _edges(graph.contracts[stem]) if claims else ():
            lines.append(f"  {node(stem, claim)}([{_mermaid(claim)}])")
            lines.append(f"  {node(stem, target)}>{_mermaid(target)}]")
            lines.append(f"  {node(stem, claim)} -.-> {node(stem, target)}")
            lines.append(f"  {node(stem, target)} -.- {node(stem)}")
    lines += [f"  {node(name)}[{_mermaid(f'{name} (unknown)')}]:::unknown" for name in graph.unknown]
    return "\n".join(["flowchart LR", *dict.fromkeys(lines), "  classDef unknown stroke-dasharray: 4 4"])


def as_data(graph: Graph, order: Iterable[str]) -> list[dict[str, Any]]:
    """The same for programs, contract by contract."""
    return [
        {
            "id": stem,
            "path": graph.contracts[stem].path.as_posix(),
            "depends_on": list(graph.depends[stem]),
            "unknown": [name for name in graph.depends[stem] if name not in graph.contracts],
            "targets": sorted(graph.contracts[stem].targets),
            "claims": [
                {
                    "id": claim.id,
                    "binds_to": list(claim.binds_to),
                    "unknown": list(unbound_names(graph.contracts[stem], claim)),
                    "precondition": list(claim.precondition),
                }
                for claim in graph.contracts[stem].claims
            ],
        }
        for stem in order
    ]


def _edges(contract: Contract) -> Iterator[tuple[str, str]]:
    for claim in contract.claims:
        for target in claim.binds_to:
            yield claim.id, target


def _dot(*parts: str) -> str:
    return _quoted("/".join(parts))


def _quoted(text: str) -> str:
    """A quoted identifier of Graphviz: only the quote and a backslash before it are special."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'


def _mermaid(text: str) -> str:
    return '"' + text.replace("#", "#35;").replace('"', "#quot;").replace("\n", " ") + '"'
