"""The tape of a built document -> places, read off where somebody asks; only the way to the place is looked at."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, NamedTuple

from pv.diagnostics.model import Span
from pv.document.build import ALIAS, CLOSE, OPEN_MAP, OPEN_SEQUENCE, Built, Properties

Loc = tuple[str | int, ...]

_PROPERTIES = re.compile(r"(?:[&!]\S*(?:[ \t]*(?:#[^\r\n]*)?(?:\r\n|\r|\n)?)*)+")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_STYLES: Final = {"'": "single", '"': "double", "|": "literal", ">": "folded"}
_NO_PROPERTIES: Final = Properties("", "")
_NOWHERE: Final = -1


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


class Node(NamedTuple):
    """One place; offsets count characters."""

    at: int  # index on the tape: of the entry, or of what the alias there stands for
    start: int
    end: int
    value_start: int  # after the anchor and the tag
    anchor: str
    tag: str
    alias: str  # the alias that stands here, or `<<` for what a merge key brings
    key: tuple[int, int] | None  # where its key stands, for the value of a mapping
    flow: bool  # a collection in brackets


class Duplicate(NamedTuple):
    """A key that occurs twice in one mapping: offsets of both."""

    key: str
    first: tuple[int, int]
    again: tuple[int, int]


class Lines:
    """Offsets -> lines and columns. A line ends at LF, CRLF or CR, as YAML 1.2 has it."""

    def __init__(self, text: str) -> None:
        if "\r" in text:
            self.starts = [0, *(match.end() for match in _LINE_BREAK.finditer(text))]
        else:
            lengths = map((1).__add__, map(len, text.split("\n")))
            self.starts = [0, *accumulate(lengths)][:-1]

    def span(self, start: int, end: int) -> Span:
        """The span of `text[start:end]`."""
        line, end_line = bisect_right(self.starts, start), bisect_right(self.starts, end)
        return Span(start, end, line, start - self.starts[line - 1] + 1, end_line, end - self.starts[end_line - 1] + 1)


class _Child(NamedTuple):
    key: int  # index of its key, or _NOWHERE for an item of a sequence
    value: int
    merged: bool


_ROOT: Final = _Child(_NOWHERE, 0, False)


class Places:
    """The places of a document, by location. A collection is looked at once, when it is first entered."""

    def __init__(self, text: str, built: Built) -> None:
        self._text = text
        self._built = built
        self._tape = built.tape
        self._children: dict[int, dict[str | int, _Child]] = {}

    def path(self, loc: Loc) -> list[Node]:
        """The nodes from the root along the longest existing prefix of `loc`."""
        return [self._node(child) for child in self._steps(loc)]

    def extent(self, loc: Loc, *, key: bool) -> tuple[int, int]:
        """Start and end of the value at `loc`, or of its key; of the nearest ancestor's key where it is absent."""
        steps = self._steps(loc)
        last = steps[-1]
        return self._extent(last.key if last.key != _NOWHERE and (key or len(steps) <= len(loc)) else last.value)

    def children(self, index: int) -> dict[str | int, _Child]:
        """What the collection at `index` of the tape holds, by key or position; empty for a scalar."""
        known = self._children.get(index)
        if known is None:
            known = self._children[index] = self._look_into(index)
        return known

    def walk(self) -> Iterator[tuple[Loc, Node]]:
        """Every node with its location, in document order; what an alias or a merge key shares comes once."""
        stack: list[tuple[Loc, Node]] = [((), self._node(_ROOT))]
        while stack:
            loc, node = stack.pop()
            yield loc, node
            if node.alias:
                continue
            inner = [((*loc, part), child) for part, child in self.children(node.at).items() if not child.merged]
            stack.extend((at, self._node(child)) for at, child in reversed(inner))

    def loc_of(self, index: int) -> Loc:
        """The location of the entry at `index` of the tape; that of its value for a key."""
        loc: Loc = ()
        at = 0
        while at != index:
            at, part = self._towards(at, index)
            loc = (*loc, part)
            if at > index:  # it was the key of this value
                break
        return loc

    def duplicates(self) -> list[Duplicate]:
        """The keys that occur again in the same mapping."""
        found = []
        for index, code in self.entries():
            if code != OPEN_MAP:
                continue
            first: dict[str, tuple[int, int]] = {}
            for child in self._own_children(index):
                name, place = self._key_text(child.key), self._extent(child.key)
                if name in first:
                    found.append(Duplicate(name, first[name], place))
                first.setdefault(name, place)
        return sorted(found, key=lambda each: each.again)

    def entries(self) -> Iterator[tuple[int, int]]:
        """Each entry of the tape: its index, and its code (0 or more for a scalar)."""
        index, size = 0, len(self._tape)
        while index < size:
            code = self._tape[index]
            yield index, code
            index += 2 if code >= 0 or code == CLOSE else 3

    def style(self, node: Node) -> str:
        """How the scalar at `node` is written."""
        return _STYLES.get(self._text[node.value_start : node.end][:1], "plain")

    def bare(self, index: int) -> tuple[int, int]:
        """Start and end of the scalar at `index`, without its anchor and tag."""
        start, end = self._extent(index)
        return (self._after_properties(start, end) if start in self._built.properties else start), end

    def _steps(self, loc: Loc) -> list[_Child]:
        steps = [_ROOT]
        for part in loc:
            child = self.children(self._target(steps[-1].value)).get(part)
            if child is None:
                break
            steps.append(child)
        return steps

    def _look_into(self, index: int) -> dict[str | int, _Child]:
        code = self._tape[index]
        if code == OPEN_SEQUENCE:
            return dict(enumerate(self._own_children(index)))
        if code != OPEN_MAP:
            return {}
        found: dict[str | int, _Child] = {}
        sources: list[int] = []
        for child in self._own_children(index):
            name = self._key_text(child.key)
            if name == "<<" and self._tape[child.key] not in self._built.disguised:
                sources += self._merged_from(child.value)
            found[name] = child  # of duplicates the last one stands, as in the data
        for source in sources:
            for part, child in self.children(source).items():
                found.setdefault(part, child._replace(merged=True))
        return found

    def _own_children(self, index: int) -> Iterator[_Child]:
        is_map = self._tape[index] == OPEN_MAP
        at, close = index + 3, self._tape[index + 2]
        while at < close:
            key = _NOWHERE
            if is_map:
                key, at = at, at + 2
            yield _Child(key, at, False)
            at = self._after(at)

    def _after(self, index: int) -> int:
        """The index that follows the whole node at `index`."""
        code = self._tape[index]
        if code >= 0:
            return index + 2
        return index + 3 if code == ALIAS else self._tape[index + 2] + 2

    def _merged_from(self, index: int) -> list[int]:
        target = self._target(index)
        if self._tape[target] == OPEN_SEQUENCE:
            return [self._target(child.value) for child in self._own_children(target)]
        return [target]

    def _target(self, index: int) -> int:
        return self._built.targets.get(index, index)

    def _towards(self, index: int, wanted: int) -> tuple[int, str | int]:
        """The child of the collection at `index` that is, holds or names the entry at `wanted`."""
        for part, child in self.children(index).items():
            if child.merged:
                continue
            if wanted in (child.key, child.value) or child.value < wanted < self._after(child.value):
                return child.value, part
        # The entry belongs to a key that a later, equal one replaced.
        for place, child in enumerate(self._own_children(index)):
            if child.key <= wanted < self._after(child.value):
                return child.value, self._key_text(child.key) if child.key != _NOWHERE else place
        raise LookupError(f"the entry {wanted} is not inside the collection at {index}")

    def _key_text(self, index: int) -> str:
        start, end = self._extent(index)
        disguised = self._built.disguised.get(start)
        return " ".join(self._text[start:end].split("\n")) if disguised is None else disguised

    def _extent(self, index: int) -> tuple[int, int]:
        """Start and end of the node at `index`."""
        code = self._tape[index]
        if code >= 0:
            start, end = code, self._tape[index + 1]
        elif code == ALIAS:
            start, end = self._tape[index + 1], self._tape[index + 2]
        else:
            start, end = self._tape[index + 1], self._tape[self._tape[index + 2] + 1]
        # The parser's ranges run on over blank lines after a block scalar, and over the blank after a bare anchor.
        while end > start and self._text[end - 1] in " \t\r\n":
            end -= 1
        return start, end

    def _node(self, child: _Child) -> Node:
        start, end = self._extent(child.value)
        target = self._target(child.value)
        alias = self._text[start + 1 : end] if target != child.value else "<<" if child.merged else ""
        anchor, tag = self._built.properties.get(start, _NO_PROPERTIES) if target == child.value else _NO_PROPERTIES
        value_start = self._after_properties(start, end) if anchor or tag else start
        key = None if child.key == _NOWHERE else self._extent(child.key)
        opening = {OPEN_MAP: "{", OPEN_SEQUENCE: "["}.get(self._tape[child.value])
        flow = opening is not None and self._text[value_start : value_start + 1] == opening
        return Node(target, start, end, value_start, anchor, tag, alias, key, flow)

    def _after_properties(self, start: int, end: int) -> int:
        written = _PROPERTIES.match(self._text, start)
        return min(written.end(), end) if written else start
