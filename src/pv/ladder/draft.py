"""Small changes to a YAML document, each as a text edit and as the same change of its data; what is unsafe is refused.

Nothing here knows of claims. A draft only collects; `pv.document.prove` judges the result as a whole.
"""

from __future__ import annotations

import copy
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pv.diagnostics.model import Span, TextEdit
from pv.document.edits import apply
from pv.document.reader import Document
from pv.document.scalars import resolve_plain

Loc = tuple[str | int, ...]
Block = str | Sequence[str] | Mapping[str, Any]  # what an inserted key may hold

WIDTH = 120  # a list that fits on such a line is written on one
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_UNPRINTABLE = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")  # JSON prints them, YAML does not
_LINE_END = re.compile(r"\r\n|\r|\n")
_INDENT = re.compile(r" *(?:- +)*")
_ITEM = re.compile(r"(?P<lead> *- +)\S.*")


class Unsafe(Exception):  # noqa: N818 - it says what is the case
    """The place cannot be edited without risk to something else. `reason` says why, `line` where."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.line = reason, line


class Draft:
    """Edits of one document, and its data as it will be."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.data: Any = copy.deepcopy(document.data)
        self.edits: list[TextEdit] = []
        self.lines: set[int] = set()
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(document.text))]

    def text(self) -> str:
        """The edited text."""
        return apply(self.document.text, self.edits)

    def fork(self) -> Draft:
        """A copy to try edits on."""
        other = Draft(self.document)
        other.data, other.edits, other.lines = copy.deepcopy(self.data), list(self.edits), set(self.lines)
        return other

    def adopt(self, other: Draft) -> None:
        """Take over a fork whose edits all went well."""
        self.data, self.edits, self.lines = other.data, other.edits, other.lines

    def replace(self, loc: Loc, value: str) -> None:
        """Give the scalar at `loc` another text, in its own quotes. Raises Unsafe."""
        self._check_alone(loc)
        span, style = self._scalar(loc)
        self._edit(span, quoted(value, style))
        self._put(loc, value)

    def insert_after(self, anchor: Loc, entries: Iterable[tuple[str, Block]]) -> None:
        """Write new keys on the lines after the one of the scalar at `anchor`, as its siblings. Raises Unsafe."""
        parent = anchor[:-1]
        self._check_insertable(parent)
        scalar = self.document.scalar(anchor)
        if scalar is None or scalar.style in ("literal", "folded") or scalar.span.line != scalar.span.end_line:
            raise Unsafe("the entry has no single-line value to write after", self._line(anchor))
        key = self._key(anchor)
        if key.line != scalar.span.line:
            raise Unsafe("the key and its value stand on different lines", key.line)
        self._insert(scalar.span.end_line, self._indent(key), parent, entries)

    def insert_below(self, loc: Loc, entries: Iterable[tuple[str, Block]]) -> None:
        """Write new keys at the top of the block mapping at `loc`, under its own key's line. Raises Unsafe."""
        self._check_insertable(loc)
        header = self._key(loc)
        places = self.document.keys(loc)
        if not places or places[0][1].line <= header.line:
            raise Unsafe("the mapping does not begin on a line of its own", header.line)
        if not self._is_bare_header(header):
            raise Unsafe("something stands between the key and its mapping", header.line)
        self._insert(header.line, self._indent(places[0][1]), loc, entries)

    def set_list(self, loc: Loc, items: Sequence[str]) -> None:
        """Make the list of texts at `loc` these items. Items that stay keep their line, quotes and comments.

        A single text becomes a list when more than one is wanted. Raises Unsafe.
        """
        self._check_alone(loc)
        current = self.document.get(loc)
        if isinstance(current, list):
            self._set_sequence(loc, current, list(items))
        elif len(items) == 1:
            self.replace(loc, items[0])
        else:
            span, _ = self._scalar(loc)
            self._edit(span, flow(items))
            self._put(loc, list(items))

    def insert_item(self, loc: Loc, index: int, item: str | Mapping[str, Block]) -> None:
        """Add an item to the block list at `loc`, as its first or its last. Raises Unsafe."""
        items = self.document.get(loc)
        collection = self.document.collection(loc)
        if collection is None or collection.flow or collection.alias or collection.anchor or collection.tag:
            raise Unsafe("the list is in brackets, an alias, or has an anchor or a tag", self._line(loc))
        neighbour = 0 if index == 0 else len(items) - 1
        first = self._first_line((*loc, neighbour))
        lead = _ITEM.fullmatch(self._line_text(first))
        if lead is None:
            raise Unsafe("the items do not begin on a line each", first)
        lines = _item_lines(lead["lead"], item)
        self._insert_lines(first - 1 if index == 0 else self._last_line((*loc, neighbour)), lines)
        _at(self.data, loc).insert(index, plain(item))

    def insert_key(self, loc: Loc, index: int, key: str, value: Block) -> None:
        """Add a key to the block mapping at `loc`, as its first or its last. Raises Unsafe."""
        self._check_insertable(loc)
        places = self.document.keys(loc)
        neighbour, span = places[0] if index == 0 else places[-1]
        indent = self._indent(span)
        source = self.document.text[span.start : span.end]
        style = {'"': "double", "'": "single"}.get(source[:1], "plain")
        written = quoted(key, style)
        if resolve_plain(key) != key and style == "plain":
            raise Unsafe("the keys are numbers to some readers", span.line)
        lines = render(written, value, indent)
        self._insert_lines(span.line - 1 if index == 0 else self._last_line((*loc, neighbour)), lines)
        _at(self.data, loc)[key] = plain(value)

    def insert_literal_line(self, loc: Loc, index: int, line: str) -> None:
        """Add a line to the literal block at `loc`, before its line `index` (from 0). Raises Unsafe."""
        first, indent, lines = self._literal(loc)
        self._insert_lines(first + index - 1, [indent + line])
        self._put(loc, "\n".join([*lines[:index], line, *lines[index:]]))

    def replace_literal_line(self, loc: Loc, index: int, line: str) -> None:
        """Give line `index` (from 0) of the literal block at `loc` another text. Raises Unsafe."""
        first, indent, lines = self._literal(loc)
        start, _ = self._line_bounds(first + index)
        end = start + len(self._line_text(first + index))
        self.edits.append(TextEdit(start, end, indent + line))
        self.lines.add(first + index)
        self._put(loc, "\n".join([*lines[:index], line, *lines[index + 1 :]]))

    def line_of(self, loc: Loc) -> int:
        """The line where the value at `loc` begins."""
        return self._line(loc)

    # --- sequences ---

    def _set_sequence(self, loc: Loc, current: list[Any], items: list[str]) -> None:
        if current == items:
            return
        collection = self.document.collection(loc)
        if collection is None or collection.alias or collection.anchor or collection.tag:
            raise Unsafe("the list is an alias, or has an anchor or a tag", self._line(loc))
        if collection.flow:
            self._set_flow(loc, collection.span, items)
        elif current:
            self._set_block(loc, current, items)
        self._put(loc, items)

    def _set_flow(self, loc: Loc, span: Span, items: list[str]) -> None:
        written = self.document.text[span.start : span.end]
        if span.line != span.end_line and "#" in written:
            raise Unsafe("the list in brackets runs over lines that may hold comments", span.line)
        kept = {value: self._source((*loc, i)) for i, value in enumerate(self.document.get(loc))}
        self._edit(span, "[" + ", ".join(kept.get(item) or quoted(item, "double") for item in items) + "]")

    def _set_block(self, loc: Loc, current: list[Any], items: list[str]) -> None:
        """Replace what differs in place; add lines after the last, or take the last ones away."""
        spans = [self._scalar((*loc, i))[0] for i in range(len(current))]
        first, last = spans[0], spans[-1]
        lead = _ITEM.fullmatch(self._line_text(last.line))
        if lead is None or any(self._line_text(s.line)[: s.column - 1].strip() != "-" for s in spans):
            raise Unsafe("the items do not stand on a line each", first.line)
        for index, item in enumerate(items[: len(current)]):
            if item != current[index]:
                self._edit(spans[index], quoted(item, self._style((*loc, index))))
        if len(items) > len(current):
            added = [f"{lead['lead']}{quoted(item, 'double')}" for item in items[len(current) :]]
            self._insert_lines(last.line, added)
        if not items:
            self._write_empty(loc)
        for span in spans[len(items) :]:
            self._remove_line(span)

    def _write_empty(self, loc: Loc) -> None:
        """`key:` -> `key: []`, for a list whose item lines all go."""
        key = self._key(loc)
        if not self._is_bare_header(key):
            raise Unsafe("something stands between the key and its list", key.line)
        colon = self.document.text.index(":", key.end) + 1
        self.edits.append(TextEdit(colon, colon, " []"))
        self.lines.add(key.line)

    def _remove_line(self, span: Span) -> None:
        text = self._line_text(span.line)
        if text[span.end_column - 1 :].strip():
            raise Unsafe("a comment stands on a line that would have to go", span.line)
        start = span.start - (span.column - 1)
        end = self._line_end(span.line)
        self.edits.append(TextEdit(start, end, ""))
        self.lines.add(span.line)

    # --- places ---

    def _scalar(self, loc: Loc) -> tuple[Span, str]:
        """The span and style of a scalar that may be replaced."""
        scalar = self.document.scalar(loc)
        if scalar is None:
            raise Unsafe("expected a single value here", self._line(loc))
        wrong = (
            (scalar.alias, f"the value is reached through the alias or merge {scalar.alias!r}"),
            (scalar.anchor, f"the value has the anchor {scalar.anchor!r}"),
            (scalar.tag, f"the value has the tag {scalar.tag!r}"),
            (scalar.style in ("literal", "folded"), "the value is a block scalar"),
            (scalar.span.line != scalar.span.end_line, "the value runs over several lines"),
            (scalar.span.start == scalar.span.end, "the value is empty"),
        )
        for holds, reason in wrong:
            if holds:
                raise Unsafe(reason, scalar.span.line)
        return scalar.span, scalar.style

    def _literal(self, loc: Loc) -> tuple[int, str, list[str]]:
        """The first line of a literal block's text, its indentation, and its lines."""
        scalar = self.document.scalar(loc)
        if scalar is None or scalar.style != "literal" or scalar.alias or scalar.anchor or scalar.tag:
            raise Unsafe("expected a literal block (`|`) without anchor or tag", self._line(loc))
        lines = scalar.text.split("\n")
        first = scalar.span.line + 1
        while not self._line_text(first).strip() and lines[0].strip():
            first += 1
        text = self._line_text(first)
        indent = text[: len(text) - len(text.lstrip(" "))]
        if any(self._line_text(first + i) != (indent + line if line else "") for i, line in enumerate(lines[:-1])):
            raise Unsafe("the lines of the block are not plainly indented", first)
        return first, indent, lines

    def _first_line(self, loc: Loc) -> int:
        span = self.document.span(loc)
        if span is None or not self._line_text(span.line)[: span.column - 1].strip() == "-":
            raise Unsafe("the item does not begin on the line of its dash", self._line(loc))
        return span.line

    def _last_line(self, loc: Loc) -> int:
        """The last line of the value at `loc` that says something."""
        span = self.document.span(loc)
        if span is None:
            raise Unsafe("the value cannot be found")
        end = len(self.document.text[: span.end].rstrip())
        return bisect_right(self._starts, max(end - 1, span.start))

    def _style(self, loc: Loc) -> str:
        scalar = self.document.scalar(loc)
        return scalar.style if scalar else "double"

    def _source(self, loc: Loc) -> str:
        """The characters of a scalar as they stand; "" where it cannot be moved."""
        scalar = self.document.scalar(loc)
        if scalar is None or scalar.alias or scalar.anchor or scalar.tag or scalar.span.line != scalar.span.end_line:
            return ""
        return self.document.text[scalar.span.start : scalar.span.end]

    def _check_alone(self, loc: Loc) -> None:
        """Nothing on the way to `loc` may be used again elsewhere: an edit would change that place too."""
        for length in range(1, len(loc) + 1):
            around = self.document.collection(loc[:length])
            if around is not None and around.anchor and f"*{around.anchor}" in self.document.text:
                raise Unsafe(f"it is used again elsewhere, as *{around.anchor}", around.span.line)

    def _check_insertable(self, loc: Loc) -> None:
        self._check_alone(loc)
        mapping = self.document.collection(loc)
        if mapping is None or mapping.kind != "mapping":
            raise Unsafe("expected a mapping here", self._line(loc))
        if mapping.alias:
            raise Unsafe(f"the entry is reached through the alias or merge {mapping.alias!r}", mapping.span.line)
        if mapping.flow:
            raise Unsafe("the entry is written in braces, where no line can be added", mapping.span.line)
        if mapping.tag:
            raise Unsafe(f"the entry has the tag {mapping.tag!r}", mapping.span.line)

    def _key(self, loc: Loc) -> Span:
        span = self.document.span(loc, key=True)
        if span is None:
            raise Unsafe("the key cannot be found")
        return span

    def _is_bare_header(self, key: Span) -> bool:
        rest = self._line_text(key.line)[key.end_column - 1 :].strip()
        return rest.startswith(":") and (rest[1:].strip() == "" or rest[1:].lstrip().startswith("#"))

    def _indent(self, key: Span) -> str:
        before = self._line_text(key.line)[: key.column - 1]
        if not _INDENT.fullmatch(before):
            raise Unsafe("the key does not stand at the beginning of its line", key.line)
        return " " * len(before)

    def _line(self, loc: Loc) -> int:
        span = self.document.span(loc)
        return span.line if span else 0

    def _line_text(self, line: int) -> str:
        start, end = self._line_bounds(line)
        return self.document.text[start:end].rstrip("\r\n")

    def _line_bounds(self, line: int) -> tuple[int, int]:
        end = self._starts[line] if line < len(self._starts) else len(self.document.text)
        return self._starts[line - 1], end

    def _line_end(self, line: int) -> int:
        return self._line_bounds(line)[1]

    # --- edits ---

    def _edit(self, span: Span, text: str) -> None:
        if self.document.text[span.start : span.end] != text:
            self.edits.append(TextEdit(span.start, span.end, text))
            self.lines.update(range(span.line, span.end_line + 1))

    def _insert(self, line: int, indent: str, parent: Loc, entries: Iterable[tuple[str, Block]]) -> None:
        target = _at(self.data, parent)
        lines: list[str] = []
        for key, value in entries:
            if key in target:
                raise Unsafe(f"the key `{key}` is there already", line)
            lines += render(key, value, indent)
            target[key] = plain(value)
        self._insert_lines(line, lines)

    def _insert_lines(self, line: int, lines: Sequence[str]) -> None:
        if not lines:
            return
        start, end = self._line_bounds(line)
        here = _LINE_END.search(self.document.text, start, end)
        newline = here.group() if here else self.document.newline
        text = newline.join(lines)
        self.edits.append(TextEdit(end, end, f"{text}{newline}" if here else f"{newline}{text}"))
        self.lines.add(line)

    def _put(self, loc: Loc, value: Any) -> None:
        _at(self.data, loc[:-1])[loc[-1]] = value


def quoted(text: str, style: str) -> str:
    """The text as a scalar in this style; double quotes where the style cannot carry it as a text."""
    if style == "single" and text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    if style == "plain" and _PLAIN.fullmatch(text) and resolve_plain(text) == text and text.lower() not in _OLD_WORDS:
        return text
    if style == "plain" and _NUMBERS.fullmatch(text):
        return text
    return _UNPRINTABLE.sub(lambda m: f"\\u{ord(m.group()):04x}", json.dumps(text, ensure_ascii=False))


_NUMBERS = re.compile(r"\d+\.\d+\.\d+|\d{4}-\d\d-\d\d|sha256:[0-9a-f]{64}")  # plain texts to a YAML 1.2 reader
_OLD_WORDS = frozenset({"y", "n", "yes", "no", "on", "off"})


def flow(items: Sequence[str]) -> str:
    """A list in brackets."""
    return "[" + ", ".join(quoted(item, "double") for item in items) + "]"


def render(key: str, value: Block, indent: str) -> list[str]:
    """The lines of a new key: a text or a short list on one, a long list with an item on each, a mapping below."""
    if isinstance(value, str):
        return [f"{indent}{key}: {quoted(value, 'plain' if _PLAIN.fullmatch(value) else 'double')}"]
    if isinstance(value, Mapping):
        inner = [line for name, part in value.items() for line in render(name, part, indent + "  ")]
        return [f"{indent}{key}:", *inner]
    line = f"{indent}{key}: {flow(value)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"{indent}{key}:", *(f"{indent}  - {quoted(item, 'double')}" for item in value)]


def _item_lines(lead: str, item: str | Mapping[str, Block]) -> list[str]:
    """The lines of a list item; of a mapping, the first key stands beside the dash."""
    if isinstance(item, str):
        return [f"{lead}{quoted(item, 'double')}"]
    inner = [line for key, value in item.items() for line in render(key, value, " " * len(lead))]
    return [lead + inner[0].lstrip(" "), *inner[1:]]


def plain(value: Block) -> Any:
    """An inserted value as a reader will see it."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return list(value)


def _at(data: Any, loc: Loc) -> Any:
    for part in loc:
        data = data[part]
    return data
