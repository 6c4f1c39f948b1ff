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
# A file has three findings on average: for fewer than a dozen, counting line ends is quicker than a table of them.
_FEW: Final = 8
_STYLES: Final = {"'": "single", '"': "double", "|": "literal", ">": "folded"}
_NO_PROPERTIES: Final = Properties("", "")


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
        self._text = text
        self._starts: list[int] = []
        self._few = 0 if "\r" in text else _FEW  # places that are still found by counting

    def span(self, start: int, end: int) -> Span:
        """The span of `text[start:end]`."""
        if self._few:
            self._few -= 1
            text = self._text
            line = text.count("\n", 0, start) + 1
            column, end_column = start - text.rfind("\n", 0, start), end - text.rfind("\n", 0, end)
            return Span(start, end, line, column, line + text.count("\n", start, end), end_column)
        starts = self._starts or self._table()
        line, end_line = bisect_right(starts, start), bisect_right(starts, end)
        return Span(start, end, line, start - starts[line - 1] + 1, end_line, end - starts[end_line - 1] + 1)

    def _table(self) -> list[int]:
        if "\r" in self._text:
            self._starts = [0, *(match.end() for match in _LINE_BREAK.finditer(self._text))]
        else:
            lengths = map((1).__add__, map(len, self._text.split("\n")))
            self._starts = [0, *accumulate(lengths)][:-1]
        return self._starts


class _Step(NamedTuple):
    """One step of a way into the document."""

    value: int  # index on the tape; the entry before that of a mapping's value is its key
    keyed: bool
    merged: bool  # the value stands elsewhere: a `<<` brings it


_ROOT: Final = _Step(0, False, False)


class Places:
    """The places of a document, by location. A collection is looked at once, when it is first entered."""

    def __init__(self, text: str, built: Built) -> None:
        self._text = text
        self._built = built
        self._tape = built.tape
        self._children: dict[int, dict[str | int, int]] = {}
        self._merged: set[tuple[int, int]] = set()  # collection and value

    def path(self, loc: Loc) -> list[Node]:
        """The nodes from the root along the longest existing prefix of `loc`."""
        return [self._node(step) for step in self._steps(loc)]

    def extent(self, loc: Loc, *, key: bool) -> tuple[int, int]:
        """Start and end of the value at `loc`, or of its key; of the nearest ancestor's key where it is absent."""
        at = value = 0
        keyed = False
        absent = False
        for part in loc:
            child = self.children(at).get(part)
            if child is None:
                absent = True
                break
            at, value, keyed = self._target(child), child, isinstance(part, str)
        return self._extent(value - 2 if keyed and (key or absent) else value)

    def children(self, index: int) -> dict[str | int, int]:
        """The values that the collection at `index` of the tape holds, by key or position; empty for a scalar."""
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
            steps = [(part, self._step(node.at, part, value)) for part, value in self.children(node.at).items()]
            stack.extend(((*loc, part), self._node(step)) for part, step in reversed(steps) if not step.merged)

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
            for value in self._own(index):
                name, place = self._key_text(value), self._extent(value - 2)
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

    def _steps(self, loc: Loc) -> list[_Step]:
        steps, at = [_ROOT], 0
        for part in loc:
            child = self.children(at).get(part)
            if child is None:
                break
            steps.append(self._step(at, part, child))
            at = self._target(child)
        return steps

    def _step(self, collection: int, part: str | int, value: int) -> _Step:
        return _Step(value, isinstance(part, str), (collection, value) in self._merged)

    def _look_into(self, index: int) -> dict[str | int, int]:
        code = self._tape[index]
        if code == OPEN_SEQUENCE:
            return dict(enumerate(self._own(index)))
        if code != OPEN_MAP:
            return {}
        found: dict[str | int, int] = {}
        sources: list[int] = []
        for value in self._own(index):
            name = self._key_text(value)
            if name == "<<" and self._tape[value - 2] not in self._built.disguised:
                sources += self._merged_from(value)
            found[name] = value  # of duplicates the last one stands, as in the data
        for source in sources:
            for part, value in self.children(source).items():
                if part not in found:
                    found[part] = value
                    self._merged.add((index, value))
        return found

    def _own(self, index: int) -> Iterator[int]:
        """The values that stand in the collection at `index` itself; a key, if any, is two entries before its value."""
        tape = self._tape
        skip = 2 if tape[index] == OPEN_MAP else 0
        at, close = index + 3 + skip, tape[index + 2]
        while at < close:
            yield at
            code = tape[at]
            at = skip + (at + 2 if code >= 0 else at + 3 if code == ALIAS else tape[at + 2] + 2)

    def _after(self, index: int) -> int:
        """The index that follows the whole node at `index`."""
        code = self._tape[index]
        if code >= 0:
            return index + 2
        return index + 3 if code == ALIAS else self._tape[index + 2] + 2

    def _merged_from(self, index: int) -> list[int]:
        target = self._target(index)
        if self._tape[target] == OPEN_SEQUENCE:
            return [self._target(value) for value in self._own(target)]
        return [target]

    def _target(self, index: int) -> int:
        return self._built.targets.get(index, index)

    def _towards(self, index: int, wanted: int) -> tuple[int, str | int]:
        """The value in the collection at `index` that is, holds or belongs to the entry at `wanted`."""
        keyed = 2 if self._tape[index] == OPEN_MAP else 0
        for place, value in enumerate(self._own(index)):
            if value - keyed <= wanted < self._after(value):
                return value, self._key_text(value) if keyed else place
        raise LookupError(f"the entry {wanted} is not inside the collection at {index}")

    def _key_text(self, value: int) -> str:
        start = self._tape[value - 2]
        disguised = self._built.disguised.get(start)
        if disguised is not None:
            return disguised
        text = self._text[start : self._tape[value - 1]]
        return text.replace("\n", " ") if "\n" in text else text  # a fold that leaves the length as it was

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

    def _node(self, step: _Step) -> Node:
        start, end = self._extent(step.value)
        target = self._target(step.value)
        alias = self._text[start + 1 : end] if target != step.value else "<<" if step.merged else ""
        anchor, tag = self._built.properties.get(start, _NO_PROPERTIES) if target == step.value else _NO_PROPERTIES
        value_start = self._after_properties(start, end) if anchor or tag else start
        key = self._extent(step.value - 2) if step.keyed else None
        opening = {OPEN_MAP: "{", OPEN_SEQUENCE: "["}.get(self._tape[step.value])
        flow = opening is not None and self._text[value_start : value_start + 1] == opening
        return Node(target, start, end, value_start, anchor, tag, alias, key, flow)

    def _after_properties(self, start: int, end: int) -> int:
        written = _PROPERTIES.match(self._text, start)
        return min(written.end(), end) if written else start
