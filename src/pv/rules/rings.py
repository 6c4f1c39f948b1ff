"""Who waits for whom -> the rings among them, each once, in time that grows with the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def rings(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """For every knot of names that lead back to themselves, one shortest ring, beginning with its smallest name.

    Names that are no key of `graph` lead nowhere. Knots come in the order of their smallest names.
    """
    found = []
    for knot in _knots(graph):
        members = set(knot)
        start = min(knot)
        if len(knot) > 1 or start in graph[start]:
            found.append(_shortest(graph, start, members))
    return sorted(found)


def _shortest(graph: Mapping[str, Sequence[str]], start: str, members: set[str]) -> list[str]:
    """The shortest way from `start` back to itself inside its knot, where there is one."""
    came_from: dict[str, str] = {}
    queue = [start]
    for name in queue:  # grows while it is walked
        for following in graph[name]:
            if following == start:
                way = [name]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if following in members and following not in came_from:
                came_from[following] = name
                queue.append(following)
    raise ValueError(f"expected a way from {start!r} back to itself")


def _knots(graph: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The strongly connected components (Tarjan 1972), without recursion: chains may be long."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    trail: list[str] = []
    on_trail: set[str] = set()
    knots: list[list[str]] = []
    for root in graph:
        if root in number:
            continue
        number[root] = lowest[root] = len(number)
        trail.append(root)
        on_trail.add(root)
        stack = [(root, iter(graph[root]))]
        while stack:
            name, following = stack[-1]
            for other in following:
                if other not in graph:
                    continue
                if other not in number:
                    number[other] = lowest[other] = len(number)
                    trail.append(other)
                    on_trail.add(other)
                    stack.append((other, iter(graph[other])))
                    break
                if other in on_trail:
                    lowest[name] = min(lowest[name], number[other])
            else:
                stack.pop()
                if stack:
                    lowest[stack[-1][0]] = min(lowest[stack[-1][0]], lowest[name])
                if lowest[name] == number[name]:
                    at = _last(trail, name)
                    knots.append(trail[at:])
                    on_trail.difference_update(trail[at:])
                    del trail[at:]
    return knots


def _last(trail: Sequence[str], name: str) -> int:
    """The place of `name`, looked for from the end, where it mostly is."""
    at = len(trail) - 1
    while trail[at] != name:
        at -= 1
    return at
