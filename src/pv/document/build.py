"""Events -> plain data, and a tape of offsets from which places are read when somebody asks for one.

One loop, no recursion, and as little work for each event as can be: most files are sound and most places in them are
never looked up. The tape holds, in document order (offsets count characters, indices count entries of the tape):

    start, end                                of a scalar, which may be a key; both are 0 or more
    OPEN_MAP or OPEN_SEQUENCE, start, index   where the collection begins, and the index of its CLOSE
    CLOSE, end                                where its last character was
    ALIAS, start, end
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class OddKey(NamedTuple):
    """A key that YAML reads as a number, a boolean or null; its text is the key."""

    start: int
    end: int
    text: str


class Built(NamedTuple):
    """What one pass over the events leaves."""

    data: Any
    tape: Sequence[int]
    texts: dict[tuple[int, Any], str]  # (id of container, key or index) -> source text of a value that is not text
    plains: list[int]  # indices of plain scalars that are a number, a constant, or a word that YAML 1.1 takes for one
    disguised: dict[int, str]  # start -> text of the keys whose source is longer than they: quoted, escaped, anchored
    properties: dict[int, Properties]  # by start of the node
    targets: dict[int, int]  # index of an alias -> index of what it stands for
    odd_keys: list[OddKey]
    duplicates: bool


class _Missing:
    """No key is waiting for its value."""

    __slots__ = ()


_NO_KEY: Final = _Missing()


def build(get_event: Callable[[], Any], limits: Limits) -> Built:
    """Read one document whose stream and document have begun. Raises Refused, or the parser's yaml.YAMLError.

    Long on purpose: a call for each event would cost as much as all that is done here.
    """
    tape: list[int] = []
    texts: dict[tuple[int, Any], str] = {}
    plains: list[int] = []
    disguised: dict[int, str] = {}
    odd_keys: list[OddKey] = []
    duplicates = False
    anchors = _Anchors(limits)
    properties = anchors.properties
    note, depth = tape.append, limits.depth

    root: list[Any] = []
    container: Any = root  # the innermost open collection, and whether it is a mapping
    in_map = False
    opened = 0  # the index of its entry
    key: Any = _NO_KEY
    outer: list[tuple[Any, bool, int]] = []
    start = end = 0
    for count in range(limits.nodes):
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
                    plains.append(len(tape) - 2)
                    value = _second_look(event, start, end, is_key=in_map and key is _NO_KEY)
            elif not quoted:
                value = _tagged_scalar(event)
                properties[start] = Properties(event.anchor or "", event.tag or "!")
            if event.anchor is not None:
                anchors.scalar(event, value, len(tape) - 2)
            if in_map and key is _NO_KEY:
                if value.__class__ is not str and value is not MERGE:
                    odd_keys.append(OddKey(start, end, text))
                    value = text
                if value in container:
                    duplicates = True
                if end - start != len(text):
                    disguised[start] = text
                key = value
                continue
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            mark = event.end_mark.index
            if mark != event.start_mark.index:
                end = mark  # a bracket; a block collection ends where its last value does
            tape[opened + 2] = len(tape)
            note(CLOSE)
            note(end)
            if in_map and MERGE in container:
                _merge(container, texts, end)
            if anchors.seen:
                anchors.close(container, len(outer), count)
            container, in_map, opened = outer.pop()
            if outer:
                continue
            break
        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            start = event.start_mark.index
            if in_map and key is _NO_KEY:
                raise _complex_key(start, event.end_mark.index)
            if len(outer) >= depth:
                raise _too_deep(depth, start, event.end_mark.index)
            is_map = kind is MappingStartEvent
            if event.tag is not None:
                _check_collection_tag(event, is_map)
                properties[start] = Properties(event.anchor or "", event.tag)
            if event.anchor is not None:
                anchors.open(event, len(outer), count, len(tape))
            new: Any = {} if is_map else []
            if in_map:
                container[key] = new
                key = _NO_KEY
            else:
                container.append(new)
            outer.append((container, in_map, opened))
            container, in_map, opened = new, is_map, len(tape)
            note(OPEN_MAP if is_map else OPEN_SEQUENCE)
            note(start)
            note(0)  # until it closes
            continue
        elif kind is AliasEvent:
            start, end = event.start_mark.index, event.end_mark.index
            if in_map and key is _NO_KEY:
                raise _complex_key(start, end)
            value, text = anchors.follow(event, len(outer), count, len(tape))
            tape += (ALIAS, start, end)
        else:
            raise TypeError(f"expected a node event, got {event!r}")
        if in_map:
            if value is not text:
                texts[id(container), key] = text
            container[key] = value
            key = _NO_KEY
        else:
            if value is not text:
                texts[id(container), len(container)] = text
            container.append(value)
            if not outer:
                break
    else:
        raise _too_many(limits.nodes, start, end)
    return Built(root[0], tape, texts, plains, disguised, properties, anchors.targets, odd_keys, duplicates)


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
    text: Any  # the source text of a scalar, the value itself otherwise
    at: int  # index on the tape
    nodes: int  # with aliases expanded
    height: int  # of nested collections, aliases expanded


class _Open(NamedTuple):
    name: str
    at: int  # index on the tape
    before: int  # nodes
    outer_peak: int  # deepest collection so far in what encloses it


class _Anchors:
    """Anchors by name, and the size and height that following their aliases would come to.

    Only documents with an anchor pay: nothing is counted before the first one.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.properties: dict[int, Properties] = {}
        self.targets: dict[int, int] = {}
        self.seen = False
        self._known: dict[str, _Anchored | None] = {}  # None while the anchor's own collection is open
        self._open: dict[int, _Open] = {}  # by depth
        self._expanded = 0  # nodes that aliases stand for, beyond those of the text
        self._peak = 0  # deepest collection since the innermost open anchor began

    def scalar(self, event: Any, value: Any, index: int) -> None:
        self.seen = True
        self.properties[event.start_mark.index] = Properties(event.anchor, event.tag or "")
        self._known[event.anchor] = _Anchored(value, event.value, index, 1, 0)

    def open(self, event: Any, depth: int, count: int, index: int) -> None:
        self.seen = True
        self.properties[event.start_mark.index] = Properties(event.anchor, event.tag or "")
        self._known[event.anchor] = None
        self._open[depth] = _Open(event.anchor, index, count + self._expanded, self._peak)
        self._peak = depth

    def close(self, value: Any, depth: int, count: int) -> None:
        """`depth` collections are open, the one that closes among them."""
        self._peak = max(self._peak, depth)
        opened = self._open.pop(depth - 1, None)
        if opened is not None:
            nodes = count + self._expanded - opened.before
            self._known[opened.name] = _Anchored(value, value, opened.at, nodes, self._peak - depth + 1)
            self._peak = max(self._peak, opened.outer_peak)

    def follow(self, event: Any, depth: int, count: int, index: int) -> tuple[Any, Any]:
        """The value that the alias shares, and its source text where it is a scalar."""
        name, start, end = event.anchor, event.start_mark.index, event.end_mark.index
        if name not in self._known:
            raise Refused("PV109", f"the alias *{name} names no anchor above it", start, end)
        target = self._known[name]
        if target is None:
            raise Refused("PV109", f"the alias *{name} stands inside its own anchor", start, end)
        self.targets[index] = target.at
        self._expanded += target.nodes
        self._peak = max(self._peak, depth + target.height)
        if depth + target.height > self.limits.depth:
            raise _too_deep(self.limits.depth, start, end, "with its aliases followed ")
        if count + self._expanded > self.limits.nodes:
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
