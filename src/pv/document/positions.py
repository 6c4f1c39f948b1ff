"""The tape of a built document -> a tree of places, made once and only for documents that somebody asks about."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

from pv.diagnostics.model import Span
from pv.document.build import ALIAS, CLOSE, OPEN_MAP, OPEN_SEQUENCE, Built, Properties

Loc = tuple[str | int, ...]

_PROPERTIES = re.compile(r"(?:[&!]\S*(?:[ \t]*(?:#[^\r\n]*)?(?:\r\n|\r|\n)?)*)+")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_STYLES = {"'": "single", '"': "double", "|": "literal", ">": "folded"}
_NO_PROPERTIES = Properties("", "")


class ScalarInfo(NamedTuple):
    """How a scalar is written. `span` includes its anchor and tag; of a scalar that is an alias it is the alias.

    `alias` is the first alias on the way from the root (`<<` for a merge key): an edit there changes another place too.
    """

    text: str  # unquoted, as the author meant it; the source text of a plain scalar
    style: str  # plain, single, double, literal, folded
    tag: str
    anchor: str
    alias: str
    span: Span


class Node:
    """One place: character offsets, and the children of a collection."""

    __slots__ = ("alias", "anchor", "children", "end", "flow", "key", "merged", "start", "tag", "value_start")

    def __init__(self, start: int, end: int, properties: Properties, value_start: int) -> None:
        self.start = start
        self.end = end
        self.anchor, self.tag = properties
        self.value_start = value_start  # after the anchor and the tag
        self.children: dict[Any, Node] | None = None
        self.flow = False  # a collection in brackets
        self.key: tuple[int, int] | None = None  # where its key stands, for the value of a mapping
        self.alias = ""
        self.merged = False  # a second entry for a place that a `<<` brings


class Duplicate(NamedTuple):
    """A key that occurs twice in one mapping: offsets of both."""

    key: str
    first: tuple[int, int]
    again: tuple[int, int]


class Lines:
    """Offsets -> lines and columns. A line ends at LF, CRLF or CR, as YAML 1.2 has it."""

    def __init__(self, text: str) -> None:
        self.starts = [0, *(match.end() for match in _LINE_BREAK.finditer(text))]

    def span(self, start: int, end: int) -> Span:
        """The span of `text[start:end]`."""
        line, end_line = bisect_right(self.starts, start), bisect_right(self.starts, end)
        return Span(start, end, line, start - self.starts[line - 1] + 1, end_line, end - self.starts[end_line - 1] + 1)


class Tree:
    """The places of a document, by location."""

    def __init__(self, text: str, built: Built) -> None:
        self.text = text
        self.duplicates: list[Duplicate] = []
        self._properties = built.properties
        self._anchors: dict[str, Node] = {}
        self.root = self._grow(built.tape, iter(built.keys))

    def find(self, loc: Loc) -> Node | None:
        """The node at `loc`, or None."""
        nodes = self.path(loc)
        return nodes[-1] if len(nodes) == len(loc) + 1 else None

    def path(self, loc: Loc) -> list[Node]:
        """The nodes from the root along the longest existing prefix of `loc`."""
        nodes = [self.root]
        for part in loc:
            child = (nodes[-1].children or {}).get(part)
            if child is None:
                break
            nodes.append(child)
        return nodes

    def walk(self) -> Iterator[tuple[Loc, Node]]:
        """Every node with its location, in document order; what an alias or a merge shares comes once."""
        stack: list[tuple[Loc, Node]] = [((), self.root)]
        while stack:
            loc, node = stack.pop()
            yield loc, node
            if node.children and not node.alias:
                inner = [(part, child) for part, child in node.children.items() if not child.merged]
                stack.extend(((*loc, part), child) for part, child in reversed(inner))

    def _grow(self, tape: list[int], keys: Iterator[str]) -> Node:
        holder = Node(0, 0, _NO_PROPERTIES, 0)
        holder.children = {}
        open_nodes: list[tuple[Node, bool]] = []  # with whether it is a mapping
        parent, in_map = holder, False
        key: str | None = None
        key_place = (0, 0)
        index, size = 0, len(tape)
        while index < size:
            code = tape[index]
            if code == CLOSE:
                self._close(parent, tape[index + 1], in_map)
                parent, in_map = open_nodes.pop()
                index += 2
                continue
            if code >= 0:
                start, end = code, tape[index + 1]
                index += 2
                if in_map and key is None:
                    key, key_place = next(keys), (start, end)
                    if start in self._properties:
                        self._scalar(start, end)  # a key may be anchored
                    continue
                child = self._scalar(start, end)
            elif code == ALIAS:
                child = self._alias(tape[index + 1], tape[index + 2])
                index += 3
            else:
                child = self._open(tape[index + 1])
                index += 2
            self._attach(parent, child, key, key_place)
            key = None
            if code in (OPEN_MAP, OPEN_SEQUENCE):
                open_nodes.append((parent, in_map))
                parent, in_map = child, code == OPEN_MAP
        return holder.children[0]

    def _attach(self, parent: Node, child: Node, key: str | None, key_place: tuple[int, int]) -> None:
        children = parent.children
        if children is None:
            raise ValueError("expected a collection to attach to, found a scalar")
        if key is None:
            children[len(children)] = child
            return
        child.key = key_place
        earlier = children.get(key)
        if earlier is not None and earlier.key is not None:
            self.duplicates.append(Duplicate(key, earlier.key, key_place))
        children[key] = child

    def _scalar(self, start: int, end: int) -> Node:
        node = self._node(start, end)
        if self.text[node.value_start : node.value_start + 1] in ("|", ">"):
            # libyaml's range runs on over trailing blank lines, which belong to the value only when it says `+`.
            node.end = node.value_start + len(self.text[node.value_start : end].rstrip())
        elif node.value_start >= end:
            node.end = start + len(self.text[start:end].rstrip())
            node.value_start = node.end
        return node

    def _open(self, start: int) -> Node:
        node = self._node(start, start)
        node.children = {}
        return node

    def _close(self, node: Node, end: int, is_map: bool) -> None:
        brackets = "{}" if is_map else "[]"
        node.flow = self.text[node.value_start : node.value_start + 1] == brackets[0] and (
            self.text[end - 1 : end] == brackets[1]
        )
        if node.flow or not node.children:
            node.end = end
        else:  # the parser ends a block collection where the next token begins
            node.end = max(
                child.end if not child.key else max(child.end, child.key[1]) for child in node.children.values()
            )
        if is_map and node.children:
            self._fold_merge(node)

    def _alias(self, start: int, end: int) -> Node:
        name = self.text[start + 1 : end].strip()
        target = self._anchors[name]
        node = Node(start, end, _NO_PROPERTIES, start)
        node.children, node.alias = target.children, name
        return node

    def _node(self, start: int, end: int) -> Node:
        properties = self._properties.get(start)
        if properties is None:
            return Node(start, end, _NO_PROPERTIES, start)
        written = _PROPERTIES.match(self.text, start)
        node = Node(start, end, properties, written.end() if written else start)
        if properties.anchor:
            self._anchors[properties.anchor] = node
        return node

    def _fold_merge(self, node: Node) -> None:
        """Give the keys that a plain `<<` brings a place: the one they are merged from."""
        children = node.children or {}
        merge = children.get("<<")
        if merge is None or merge.key is None or self.text[merge.key[0] : merge.key[1]] != "<<":
            return
        sources = [merge]
        if merge.children and 0 in merge.children:
            sources = list(merge.children.values())
        for source in sources:
            for key, child in (source.children or {}).items():
                if key not in children:
                    children[key] = _merged(child)


def _merged(child: Node) -> Node:
    copy = Node(child.start, child.end, Properties(child.anchor, child.tag), child.value_start)
    copy.children, copy.key, copy.flow, copy.alias = child.children, child.key, child.flow, child.alias or "<<"
    copy.merged = True
    return copy


def style_of(text: str, node: Node) -> str:
    """How the scalar at `node` is written."""
    return (
        _STYLES.get(text[node.value_start : node.value_start + 1], "plain") if node.value_start < node.end else "plain"
    )
