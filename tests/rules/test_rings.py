"""Rings are found once each, and long chains are no trouble."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.rules.rings import rings


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({}, []),
        ({"a": ["b"], "b": ["c"], "c": []}, []),
        ({"a": ["nowhere"]}, []),
        ({"a": ["a"]}, [["a"]]),
        ({"b": ["a"], "a": ["b"]}, [["a", "b"]]),
        ({"a": ["b", "c"], "b": ["a"], "c": ["d"], "d": ["c"]}, [["a", "b"], ["c", "d"]]),
        ({"a": ["b"], "b": ["c"], "c": ["a", "b"]}, [["a", "b", "c"]]),
        ({"x": ["a"], "a": ["b"], "b": ["a"]}, [["a", "b"]]),
    ],
)
def test_by_example(graph, found):
    assert rings(graph) == found


names = st.sampled_from("abcdef")


@given(st.dictionaries(names, st.lists(names, max_size=4)))
def test_a_ring_is_a_way_back_and_none_is_missed(graph):
    found = rings(graph)
    for ring in found:
        assert all(after in graph[name] for name, after in zip(ring, [*ring[1:], ring[0]], strict=True))
        assert ring[0] == min(ring)
    on_a_ring = {name for name in graph if reaches(graph, name, name)}
    together = {frozenset(o for o in on_a_ring if reaches(graph, n, o) and reaches(graph, o, n)) for n in on_a_ring}
    assert len(found) == len(together)
    assert all(any(set(ring) <= knot for knot in together) for ring in found)


def reaches(graph, start, goal) -> bool:
    seen, queue = set(), list(graph.get(start, ()))
    while queue:
        name = queue.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            queue.extend(graph.get(name, ()))
    return False


def test_long_chains_and_large_rings():
    count = 20_000
    chain = {str(n): [str(n + 1)] for n in range(count)}
    began = time.process_time()
    assert rings(chain) == []
    (ring,) = rings({**chain, str(count): ["0"]})
    assert len(ring) == count + 1
    assert time.process_time() - began < 5
