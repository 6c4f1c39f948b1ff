"""Events -> plain data, and a tape of offsets from which positions are made when somebody asks for one.

One loop, no recursion, and as little work for each event as can be: most files are sound and most places in them are
never looked up. The tape holds, in document order, `start, end` of a scalar; `OPEN_MAP, start` or `OPEN_SEQUENCE,
start`; `CLOSE, end`; `ALIAS, start, end` (character offsets).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from pv.document.limits import Limits
from pv.document.scalars import MERGE, NUMERIC_STARTS, SHORT, WORDS, Scalar, resolve_plain

OPEN_MAP: Final = -1
OPEN_SEQUENCE: Final = -2
CLOSE: Final = -3
ALIAS: Final = -4

# The tags of the core schema, which say what a node is without building anything foreign.
TAG: Final = "tag:yaml.org,2002:"
_SCALAR_TAGS: Final = frozenset(TAG + name for name in ("str", "int", "float", "bool", "null"))


class Refused(Exception):  # noqa: N818 - named like `Unreadable`, which it becomes
    """The events ask for something that pv does not do. Becomes an `Unreadable` with a place."""

    def __init__(self, code: str, message: str, start: int, end: int, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.start, self.end, self.hint = code, message, start, end, hint


class Properties(NamedTuple):
    """What a node carries besides its value, kept for the few nodes that carry something."""

    anchor: str
    tag: str


class Plain(NamedTuple):
    """A plain scalar that is a number, a constant, or a word that readers of YAML 1.1 take for one."""

    start: int
    end: int
    text: str


class OddKey(NamedTuple):
    """A key that YAML reads as a number, a boolean or null; its text is the key."""

    start: int
    end: int
    text: str


class Built(NamedTuple):
    """What one pass over the events leaves."""

    data: Any
    tape: list[int]
    keys: list[str]  # one for each mapping key, in document order
    texts: dict[tuple[int, Any], str]  # (id of container, key or index) -> source text of a value that is not text
    properties: dict[int, Properties]  # by start offset of the node
    plains: list[Plain]
    odd_keys: list[OddKey]
    duplicates: bool


class _Missing:
    """No key is waiting for its value."""

    __slots__ = ()


_NO_KEY: Final = _Missing()


def build(get_event: Callable[[], Any], limits: Limits) -> Built:
    """Read one document whose stream and document have begun. Raises Refused, or the parser's yaml.YAMLError."""
    tape: list[int] = []
    keys: list[str] = []
    texts: dict[tuple[int, Any], str] = {}
    plains: list[Plain] = []
    odd_keys: list[OddKey] = []
    duplicates = False
    anchors = _Anchors(limits)
    properties = anchors.properties
    note, depth = tape.append, limits.depth

    root: list[Any] = []
    container: Any = root  # the innermost open collection
    in_map = False
    key: Any = _NO_KEY
    outer: list[tuple[Any, bool]] = []
    for _ in range(limits.nodes):
        event = get_event()
        kind = event.__class__
        if kind is ScalarEvent:
            value = text = event.value
            start = event.start_mark.index
            end = event.end_mark.index
            note(start)
            note(end)
            plain, quoted = event.implicit
            if plain:
                if (len(text) < SHORT and text in WORDS) or text[0] in NUMERIC_STARTS:
                    plains.append(Plain(start, end, text))
                    value = _second_look(event, start, end, is_key=in_map and key is _NO_KEY)
            elif not quoted:
                value = _tagged_scalar(event)
                properties[start] = Properties(event.anchor or "", event.tag or "!")
            if event.anchor is not None:
                anchors.scalar(event.anchor, event.tag, start, value, text)
            if not in_map:
                if value is not text:
                    texts[id(container), len(container)] = text
                container.append(value)
            elif key is _NO_KEY:
                if value.__class__ is not str and value is not MERGE:
                    odd_keys.append(OddKey(start, end, text))
                    value = text
                if value in container:
                    duplicates = True
                keys.append(text)
                key = value
            else:
                if value is not text:
                    texts[id(container), key] = text
                container[key] = value
                key = _NO_KEY
        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            is_map = kind is MappingStartEvent
            start = event.start_mark.index
            note(OPEN_MAP if is_map else OPEN_SEQUENCE)
            note(start)
            if len(outer) >= depth:
                raise _too_deep(depth, start, event.end_mark.index)
            if event.tag is not None:
                _check_collection_tag(event, is_map)
                properties[start] = Properties(event.anchor or "", event.tag)
            new: Any = {} if is_map else []
            if event.anchor is not None:
                anchors.open(event.anchor, event.tag, start, new, len(outer), len(tape))
            if not in_map:
                container.append(new)
            elif key is _NO_KEY:
                raise _complex_key(start, event.end_mark.index)
            else:
                container[key] = new
                key = _NO_KEY
            outer.append((container, in_map))
            container, in_map = new, is_map
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            note(CLOSE)
            note(event.end_mark.index)
            if in_map and MERGE in container:
                _merge(container, texts, event.end_mark.index)
            if anchors.seen:
                anchors.close(container, len(outer), len(tape))
            container, in_map = outer.pop()
        elif kind is AliasEvent:
            start, end = event.start_mark.index, event.end_mark.index
            tape += (ALIAS, start, end)
            value, alias_text = anchors.follow(event.anchor, start, end, len(outer), len(tape))
            if not in_map:
                if alias_text is not None:
                    texts[id(container), len(container)] = alias_text
                container.append(value)
            elif key is _NO_KEY:
                raise _complex_key(start, end)
            else:
                if alias_text is not None:
                    texts[id(container), key] = alias_text
                container[key] = value
                key = _NO_KEY
        else:
            raise TypeError(f"expected a node event, got {event!r}")
        if not outer:
            return Built(root[0], tape, keys, texts, properties, plains, odd_keys, duplicates)
    raise _too_many(limits.nodes, tape[-2] if tape[-2] >= 0 else tape[-1], tape[-1])


def _second_look(event: Any, start: int, end: int, *, is_key: bool) -> Any:
    text: str = event.value
    # libyaml reports `! "12"` and `! 12` as plain and untagged, yet the bare tag makes both text: it shows in the
    # style, or in a range longer than the text.
    if event.style or (event.anchor is None and end - start != len(text)):
        return text
    if text == "<<" and is_key:
        return MERGE
    return resolve_plain(text)


def _tagged_scalar(event: Any) -> Scalar:
    """The value of a scalar with an explicit tag of the core schema; other tags would construct an object."""
    tag, text = event.tag, event.value
    start, end = event.start_mark.index, event.end_mark.index
    if tag is None or tag in ("!", TAG + "str"):
        return str(text)
    if tag not in _SCALAR_TAGS:
        raise _foreign_tag(tag, start, end)
    value = resolve_plain(text)
    if tag == TAG + "float" and value.__class__ is int:
        return float(text)
    fits = {"int": int, "float": float, "bool": bool, "null": type(None)}[tag.removeprefix(TAG)]
    if value.__class__ is not fits:
        raise Refused("PV110", f"the tag !!{tag.removeprefix(TAG)} does not fit {text[:40]!r}", start, end)
    return value


def _check_collection_tag(event: Any, is_map: bool) -> None:
    if event.tag not in ("!", TAG + ("map" if is_map else "seq")):
        raise _foreign_tag(event.tag, event.start_mark.index, event.end_mark.index)


def _merge(mapping: dict[Any, Any], texts: dict[tuple[int, Any], str], end: int) -> None:
    """Fold `<<: *other` or `<<: [*a, *b]` into `mapping`; its own keys win, then the earlier source."""
    sources = mapping.pop(MERGE)
    for source in sources if isinstance(sources, list) else [sources]:
        if not isinstance(source, dict):
            raise Refused("PV113", "a merge key `<<` takes a mapping or a list of mappings", end, end)
        for key, value in source.items():
            if key not in mapping:
                mapping[key] = value
                if (id(source), key) in texts:
                    texts[id(mapping), key] = texts[id(source), key]


class _Anchored(NamedTuple):
    value: Any
    text: str | None  # source text, of a scalar that is not text
    nodes: int  # with aliases expanded
    height: int  # of nested collections, aliases expanded


class _Open(NamedTuple):
    name: str
    nodes: int  # before it
    outer_peak: int  # deepest collection so far in what encloses it


class _Anchors:
    """Anchors by name, and the size and height that following their aliases would come to.

    Only documents with an anchor pay: nothing is counted before the first one.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.properties: dict[int, Properties] = {}
        self.seen = False
        self._known: dict[str, _Anchored | None] = {}  # None while the anchor's own collection is open
        self._open: dict[int, _Open] = {}  # by depth
        self._expanded = 0  # nodes that aliases stand for, beyond those on the tape
        self._peak = 0  # deepest collection since the innermost open anchor began

    def scalar(self, name: str, tag: str | None, start: int, value: Any, text: str) -> None:
        self.seen = True
        self.properties[start] = Properties(name, tag or "")
        self._known[name] = _Anchored(value, None if value is text else text, 1, 0)

    def open(self, name: str, tag: str | None, start: int, value: Any, depth: int, tape: int) -> None:
        self.seen = True
        self.properties[start] = Properties(name, tag or "")
        self._known[name] = None
        self._open[depth] = _Open(name, tape // 2 + self._expanded, self._peak)
        self._peak = depth

    def close(self, value: Any, depth: int, tape: int) -> None:
        """`depth` collections are open, the one that closes among them."""
        self._peak = max(self._peak, depth)
        opened = self._open.pop(depth - 1, None)
        if opened is not None:
            nodes = tape // 2 + self._expanded - opened.nodes
            self._known[opened.name] = _Anchored(value, None, nodes, self._peak - depth + 1)
            self._peak = max(self._peak, opened.outer_peak)

    def follow(self, name: str, start: int, end: int, depth: int, tape: int) -> tuple[Any, str | None]:
        """The value that `*name` shares, and its source text where it is a scalar that is not text."""
        if name not in self._known:
            raise Refused("PV109", f"the alias *{name} names no anchor above it", start, end)
        target = self._known[name]
        if target is None:
            raise Refused("PV109", f"the alias *{name} stands inside its own anchor", start, end)
        self._expanded += target.nodes
        self._peak = max(self._peak, depth + target.height)
        if depth + target.height > self.limits.depth:
            raise _too_deep(self.limits.depth, start, end, "with its aliases followed ")
        if tape // 2 + self._expanded > self.limits.nodes:
            raise _too_many(self.limits.nodes, start, end, "with its aliases followed ")
        return target.value, target.text


def _too_deep(depth: int, start: int, end: int, how: str = "") -> Refused:
    return Refused("PV107", f"the document nests {how}deeper than {depth} collections", start, end)


def _too_many(nodes: int, start: int, end: int, how: str = "") -> Refused:
    return Refused("PV108", f"the document has {how}more than {nodes:,} nodes", start, end)


def _complex_key(start: int, end: int) -> Refused:
    return Refused("PV112", "a key must be a scalar, not a collection or an alias", start, end)


def _foreign_tag(tag: str, start: int, end: int) -> Refused:
    shown = f"!!{tag.removeprefix(TAG)}" if tag.startswith(TAG) else tag
    return Refused(
        "PV110",
        f"the tag {shown[:80]} would construct an object; nothing was executed",
        start,
        end,
        "contracts are plain data: remove the tag",
    )
