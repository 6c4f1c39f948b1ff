"""The graph of contracts: order, dependents, names that are nobody's, and the three ways to draw it."""

from __future__ import annotations

import itertools
import re
from graphlib import CycleError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.contract.claims import Contract, contract_of
from pv.contract.graph import Graph, as_data, as_dot, as_mermaid, as_text, bindings, stem_of, unbound_names

STEMS = "abcdef"


def contract(stem: str, *depends_on: str, claims: tuple[dict[str, Any], ...] = ()) -> Contract:
    data = {
        "metadata": {"version": "1.0.0", "description": "d", "depends_on": list(depends_on)},
        "equations": {"e": {"formula": "x"}, 'q"#': {"formula": "y"}},
        "falsification_tests": list(claims),
    }
    return contract_of(stem, Path(f"contracts/{stem}.yaml"), data)


def claim(claim_id: str, *binds_to: str, precondition: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"id": claim_id, "binds_to": list(binds_to), "precondition": list(precondition)}


@pytest.fixture
def graph() -> Graph:
    return Graph.of(
        [
            contract("c", "b", "contracts/a.yaml"),
            contract("b", "a", "gone-v1"),
            contract(
                "a", claims=(claim("FALSIFY-A-001", "e"), claim("FALSIFY-A-002", "f", precondition=("FALSIFY-A-001",)))
            ),
            contract("a", "c"),  # a second file of that name does not count
        ]
    )


def test_what_is_depended_on_comes_first(graph):
    assert graph.order() == ["a", "b", "c"]
    assert graph.depends == {"c": ("b", "a"), "b": ("a", "gone-v1"), "a": ()}
    assert graph.unknown == {"gone-v1": ("b",)}


def test_dependents_are_found_through_others(graph):
    assert graph.dependents(["a"]) == ("c", "b")
    assert graph.dependents(["c"]) == ()
    assert graph.waiting_for([("a", "FALSIFY-A-001")]) == (("a", "FALSIFY-A-002"),)


@given(st.dictionaries(st.sampled_from(STEMS), st.lists(st.sampled_from(STEMS), max_size=3), max_size=6))
def test_order_respects_every_edge_or_there_is_a_ring(edges):
    graph = Graph.of([contract(stem, *names) for stem, names in edges.items()])
    try:
        order = graph.order()
    except CycleError as ring:
        names = ring.args[1]
        assert all(before in edges[after] for before, after in itertools.pairwise(names))
        return
    assert sorted(order) == sorted(edges)
    assert all(order.index(name) < order.index(stem) for stem in edges for name in edges[stem] if name in edges)
    for stem in edges:
        assert set(graph.dependents([stem])) == {
            other for other in edges if other != stem and _reaches(edges, other, stem)
        }


def _reaches(edges: dict[str, list[str]], start: str, goal: str) -> bool:
    seen, pending = set(), [start]
    while pending:
        name = pending.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            pending += edges.get(name, [])
    return False


@pytest.mark.parametrize("name", ["x-v1", "x-v1.yaml", "contracts/x-v1.yaml", "deep/er/x-v1.yml"])
def test_one_contract_has_several_names(name):
    assert stem_of(name) == "x-v1"


def test_bindings_and_strangers(graph):
    a = graph.contracts["a"]
    assert bindings(a) == {"e": ("FALSIFY-A-001",), 'q"#': ()}
    assert unbound_names(a, a.claims[1]) == ("f",)


def test_text_names_what_nothing_is_bound_to_and_what_is_unknown(graph):
    assert as_text(graph, ["a", "b"], claims=True).splitlines() == [
        "a",
        "  e    <-  FALSIFY-A-001",
        '  q"#  <-  nothing',
        "  FALSIFY-A-002 is bound to f (unknown)",
        "b  ->  a, gone-v1 (unknown)",
        "  e    <-  nothing",
        '  q"#  <-  nothing',
    ]
    assert as_text(graph, ["b"], claims=False) == "b  ->  a, gone-v1 (unknown)"


def test_dot_has_every_edge_and_quotes_what_it_must(graph):
    dot = as_dot(graph, graph.order(), claims=True)
    assert dot.startswith("digraph contracts {")
    assert dot.endswith("}")
    for edge in ('"c" -> "b";', '"c" -> "a";', '"b" -> "gone-v1";', '"a/FALSIFY-A-001" -> "a/e" -> "a"'):
        assert edge in dot
    assert '"gone-v1" [style=dashed' in dot
    odd = as_dot(Graph.of([contract('o"\\', claims=(claim("FALSIFY-O-001", 'q"#'),))]), ['o"\\'], claims=True)
    assert all(re.fullmatch(r'(?:[^"]|"(?:[^"\\]|\\.)*")*', line) for line in odd.splitlines())


def test_mermaid_has_every_edge_and_escapes_quotes(graph):
    lines = as_mermaid(graph, graph.order(), claims=True).splitlines()
    assert lines[0] == "flowchart LR"
    nodes = {found[2]: found[1] for line in lines if (found := re.match(r'  (n\d+)[\[>(]+"([^"]*)"', line))}
    assert f"  {nodes['c']} --> {nodes['b']}" in lines
    assert f"  {nodes['b']} --> {nodes['gone-v1 (unknown)']}" in lines
    assert f"  {nodes['FALSIFY-A-001']} -.-> {nodes['e']}" in lines
    odd = as_mermaid(Graph.of([contract("o", claims=(claim("FALSIFY-O-001", 'q"#'),))]), ["o"], claims=True)
    assert '"q#quot;#35;"' in odd


def test_data_is_complete(graph):
    assert as_data(graph, ["b"]) == [
        {
            "id": "b",
            "path": "contracts/b.yaml",
            "depends_on": ["a", "gone-v1"],
            "unknown": ["gone-v1"],
            "targets": ["e", 'q"#'],
            "claims": [],
        }
    ]
