"""A path or bytes -> a `Document`: text, plain data, and the place of everything in it."""

from __future__ import annotations

import errno
import os
import re
import stat
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pv.diagnostics.model import Diagnostic, Severity, Span
from pv.document import ambiguity, plain_style
from pv.document.ambiguity import Ambiguity
from pv.document.build import CLOSE, Built, Refused, build
from pv.document.events import events
from pv.document.limits import LIMITS, Limits, Unreadable
from pv.document.positions import Lines, Loc, Node, Places, ScalarInfo
from pv.document.suppressions import MARKER, Malformed, Suppression, find_suppressions

__all__ = [
    "LIMITS",
    "Ambiguity",
    "CollectionInfo",
    "Document",
    "Limits",
    "Loc",
    "ScalarInfo",
    "Suppression",
    "Unreadable",
    "parse",
    "read",
]

_BOM = b"\xef\xbb\xbf"
_FIRST_BREAK = re.compile(r"\r\n|\r|\n")
# libyaml compares each %TAG directive with all before it; a file of them would take hours.
_MOST_DIRECTIVES = 32
_OLD_BREAKS = "\x85\u2028\u2029"
_VERSION_DIRECTIVE = re.compile(r"%YAML[ \t]+(?P<version>\S+)")


class CollectionInfo(NamedTuple):
    """How a collection is written; `flow` also when something around it is in brackets."""

    kind: str  # mapping, sequence
    flow: bool
    tag: str
    anchor: str
    alias: str
    span: Span


class Document:
    """One YAML document as it stands in its file. Immutable; places are worked out when they are first asked for.

    `path` is the name for people, `content` the bytes, `text` the characters without a byte order mark (all offsets
    count in it), `data` plain dicts, lists, str, int, float, bool and None. A location is a tuple of keys and indices.
    """

    def __init__(self, path: str, content: bytes, text: str, built: Built) -> None:
        self.path = path
        self.content = content
        self.text = text
        self.data = built.data
        self._built = built

    def __repr__(self) -> str:
        return f"Document({self.path!r}, {len(self.content)} bytes)"

    @property
    def bom(self) -> bool:
        """Whether the file begins with a byte order mark."""
        return self.content.startswith(_BOM)

    @cached_property
    def sha256(self) -> str:
        """Digest of the bytes, in hexadecimal."""
        import hashlib  # not at the top: loading OpenSSL costs 2 ms, and validating without a cache needs no digest

        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def newline(self) -> str:
        """The first line end of the file, which new lines should copy; LF for a file of one line."""
        match = _FIRST_BREAK.search(self.text)
        return match.group() if match else "\n"

    def encode(self, text: str) -> bytes:
        """`text` as bytes of this file: UTF-8, with the byte order mark where the file has one."""
        return (_BOM if self.bom else b"") + text.encode()

    def span(self, loc: Loc, *, key: bool = False) -> Span | None:
        """The place of the value at `loc`, or of its key; where it is absent, of the nearest existing ancestor.

        An ancestor is shown by its key where it has one, since its value may run over many lines. None only when the
        document itself is absent from the text (never, for a document that was read).
        """
        return self._lines.span(*self._places.extent(loc, key=key))

    def scalar(self, loc: Loc) -> ScalarInfo | None:
        """How the scalar at `loc` is written, or None where there is no scalar."""
        nodes = self._nodes(loc)
        text = self.source_text(loc)
        if nodes is None or text is None:
            return None
        node = nodes[-1]
        via = next((step.alias for step in nodes if step.alias), "")
        return ScalarInfo(text, self._places.style(node), node.tag, node.anchor, via, self._span_of(node))

    def collection(self, loc: Loc) -> CollectionInfo | None:
        """How the mapping or sequence at `loc` is written, or None where there is none."""
        nodes = self._nodes(loc)
        value = self.get(loc)
        if nodes is None or not isinstance(value, (dict, list)):
            return None
        node = nodes[-1]
        via = next((step.alias for step in nodes if step.alias), "")
        kind = "mapping" if isinstance(value, dict) else "sequence"
        return CollectionInfo(kind, any(n.flow for n in nodes), node.tag, node.anchor, via, self._span_of(node))

    def get(self, loc: Loc, default: Any = None) -> Any:
        """The value at `loc`."""
        value = self.data
        for part in loc:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return default
        return value

    def source_text(self, loc: Loc) -> str | None:
        """What the scalar at `loc` says in the file, unquoted: "1.10" for `version: 1.10`; None where none stands."""
        absent = object()
        value = self.get(loc, absent)
        if isinstance(value, str):
            return value
        if value is absent or isinstance(value, (dict, list)):
            return None
        if not loc:
            start, end = self._places.bare(0)
            return self.text[start:end]
        return self._built.texts.get((id(self.get(loc[:-1])), loc[-1]))

    def keys(self, loc: Loc = ()) -> tuple[tuple[str, Span], ...]:
        """The keys of the mapping at `loc`, each with its place, in the order of the file."""
        nodes = self._nodes(loc)
        if nodes is None or not isinstance(self.get(loc), dict):
            return ()
        inner = [(str(part), self._places.path((*loc, part))[-1].key) for part in self.get(loc)]
        return tuple((name, self._lines.span(*place)) for name, place in inner if place is not None)

    @cached_property
    def problems(self) -> tuple[Diagnostic, ...]:
        """What is wrong with the document though it could be read: keys twice, keys that are no text, and the like."""
        built = self._built
        found: list[Diagnostic] = []
        if built.duplicates:
            found += [self._duplicate(each.key, each.first, each.again) for each in self._places.duplicates()]
        found += [self._odd_key(odd.start, odd.end, odd.text) for odd in built.odd_keys]
        found += [
            self._problem(
                "PV115", f"this comment suppresses nothing: {bad.why}", bad.span, "give the codes and a reason"
            )
            for bad in self._suppressions[1]
        ]
        if any(character in self.text for character in _OLD_BREAKS):
            found += [self._old_break(match) for match in re.finditer(f"[{_OLD_BREAKS}]", self.text)]
        directive = _VERSION_DIRECTIVE.match(self.text)
        if directive and directive["version"] != "1.2":
            place = self._lines.span(directive.start(), directive.end())
            message = f"the directive asks for YAML {directive['version']}; the document is read as YAML 1.2"
            found.append(self._problem("PV117", message, place, "remove the directive"))
        return tuple(found)

    @property
    def suppressions(self) -> tuple[Suppression, ...]:
        """The comments `# pv: ignore[CODE] reason`."""
        return self._suppressions[0]

    def ambiguities(self, skip: frozenset[str] = frozenset()) -> tuple[Ambiguity, ...]:
        """Scalars that readers of YAML 1.1 and 1.2 read apart, and values cut off by ` #`, in the order of the file.

        Kinds in `skip` are left out before anybody works out where they stand, which is what takes time.
        """
        found = [each for index in self._suspects(skip) if (each := self._ambiguous(index, skip)) is not None]
        found += [self._cut(index, comment) for index, comment in self._cut_short()]
        return tuple(sorted(found, key=lambda each: each.span.start))

    @cached_property
    def _places(self) -> Places:
        return Places(self.text, self._built)

    @cached_property
    def _lines(self) -> Lines:
        return Lines(self.text)

    @cached_property
    def _suppressions(self) -> tuple[tuple[Suppression, ...], tuple[Malformed, ...]]:
        if MARKER not in self.text:
            return (), ()
        return find_suppressions(self.text, self._lines.span, self._in_scalar)

    def _in_scalar(self, offset: int) -> bool:
        starts = self._scalar_starts
        nearest = bisect_right(starts, (offset, len(self._built.tape))) - 1
        return nearest >= 0 and offset < self._built.tape[starts[nearest][1] + 1]

    @cached_property
    def _scalar_starts(self) -> list[tuple[int, int]]:
        """(start, index on the tape) of every scalar, in the order of the text."""
        return [(code, index) for index, code in self._places.entries() if code >= 0]

    def _nodes(self, loc: Loc) -> list[Node] | None:
        nodes = self._places.path(loc)
        return nodes if len(nodes) == len(loc) + 1 else None

    def _span_of(self, node: Node) -> Span:
        return self._lines.span(node.start, node.end)

    def _suspects(self, skip: frozenset[str]) -> list[int]:
        """The plain scalars that deserve a second look; most are numbers that every reader takes alike."""
        if self._built.properties:
            return self._built.plains  # an anchor or a tag stands before the text
        text, tape = self.text, self._built.tape
        return [
            index
            for index in self._built.plains
            if (word := text[tape[index] : tape[index + 1]]) == "<<"
            or ((verdict := ambiguity.judge(word)) is not None and verdict[0] not in skip)
        ]

    def _ambiguous(self, index: int, skip: frozenset[str]) -> Ambiguity | None:
        start, end = self._places.bare(index)
        text = self.text[start:end]
        verdict = ("merge key", "") if text == "<<" else ambiguity.judge(text)
        if verdict is None or verdict[0] in skip:
            return None
        loc = self._places.loc_of(index)
        key = self._places.path(loc)[-1].key
        is_key = key is not None and key[1] == end
        if text == "<<" and not is_key:
            return None
        return Ambiguity(verdict[0], text, verdict[1], loc, is_key, self._lines.span(start, end))

    def _cut_short(self) -> list[tuple[int, str]]:
        """Indices of the plain scalars that seem to be cut off by a comment, with the comment."""
        suspects = dict(ambiguity.trailing_comments(self.text))
        if not suspects:
            return []
        tape, found, index = self._built.tape, [], 0
        while index < len(tape):  # `Places.entries`, without a generator between: half the time
            code = tape[index]
            if code >= 0 and (comment := suspects.get(tape[index + 1])) is not None:
                start, end = self._places.bare(index)
                if ambiguity.is_cut(self.text[start:end], comment):
                    found.append((index, comment))
            index += 2 if code >= 0 or code == CLOSE else 3
        return found

    def _cut(self, index: int, comment: str) -> Ambiguity:
        start, end = self._places.bare(index)
        loc = self._places.loc_of(index)
        return Ambiguity("cut", f"{self.text[start:end]} {comment}", "", loc, False, self._lines.span(start, end))

    def _problem(
        self, code: str, message: str, span: Span, hint: str, severity: Severity = Severity.WARNING
    ) -> Diagnostic:
        return Diagnostic(code, severity, self.path, message, span, help=hint)

    def _duplicate(self, key: str, first: tuple[int, int], again: tuple[int, int]) -> Diagnostic:
        line = self._lines.span(*first).line
        message = f"the key {key!r} occurs twice in one mapping, first at line {line}"
        return self._problem("PV111", message, self._lines.span(*again), "rename or remove one of them", Severity.ERROR)

    def _odd_key(self, start: int, end: int, text: str) -> Diagnostic:
        message = f"the key {text!r} is a number, a boolean or null to some readers; its text is taken as the key"
        return self._problem("PV114", message, self._lines.span(start, end), "quote the key")

    def _old_break(self, match: re.Match[str]) -> Diagnostic:
        message = f"U+{ord(match.group()):04X} ends a line in YAML 1.1 and is an ordinary character in YAML 1.2"
        return self._problem("PV116", message, self._lines.span(*match.span()), "use a line feed or a space")


def read(path: Path, *, display: str | None = None, limits: Limits = LIMITS) -> Document:
    """Read the file at `path`; `display` is its name in diagnostics. Raises Unreadable."""
    shown = str(path) if display is None else display
    return parse(_read_bytes(path, shown, limits), shown, limits)


def parse(content: bytes, display: str, limits: Limits = LIMITS) -> Document:
    """The document that `content` holds. Raises Unreadable with one diagnostic; executes nothing."""
    if len(content) > limits.size:
        raise _too_large(display, len(content), limits)
    body = content[len(_BOM) :] if content.startswith(_BOM) else content
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(display, body, error) from None
    try:
        built = _build_only_document(body, text, limits)
    except (yaml.YAMLError, Refused) as error:
        from pv.document import syntax  # not at the top: sound files never need it

        problem = syntax.explain(error, text)
        place = Lines(text).span(problem.start, problem.end)
        raise _unreadable(problem.code, display, problem.message, problem.hint, place) from None
    return Document(display, content, text, built)


def _build_only_document(body: bytes, text: str, limits: Limits) -> Built:
    if b"%TAG" in body and len(re.findall(r"^%TAG", text, re.MULTILINE)) > _MOST_DIRECTIVES:
        raise Refused("PV110", f"more than {_MOST_DIRECTIVES} %TAG directives", 0, 0, "contracts need no tags")
    plain = plain_style.build(text, limits)
    if plain is not None:
        return plain
    get_event = events(body)
    get_event()  # the stream begins
    begin = get_event()
    if not isinstance(begin, yaml.DocumentStartEvent):
        raise Refused("PV106", "expected one YAML document, found none: the file is empty", 0, 0, "write a mapping")
    built = build(get_event, limits)
    get_event()  # the document ends
    after = get_event()
    if not isinstance(after, yaml.StreamEndEvent):
        start, end = after.start_mark.index, after.end_mark.index
        raise Refused("PV106", "expected one YAML document, a second one begins here", start, end, "split the file")
    return built


def _read_bytes(path: Path, shown: str, limits: Limits) -> bytes:
    # Opening a pipe would wait for a writer, so the kind of the file is looked up on the open descriptor.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise _unreadable("PV101", shown, _why_not_open(path, error), "name a regular file that you may read") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            message = f"expected a regular file, found {_kind_of_file(facts.st_mode)}"
            raise _unreadable("PV101", shown, message, "name a regular file")
        if facts.st_size > limits.size:
            raise _too_large(shown, facts.st_size, limits)
        content = b""
        while len(content) <= limits.size:  # it may grow while we read; parse() refuses the excess
            chunk = os.read(descriptor, max(facts.st_size, 65_535) + 1)  # some file systems say 0
            if not chunk:
                break
            content += chunk
        return content
    except OSError as error:
        raise _unreadable("PV101", shown, f"cannot be read: {error.strerror or error}", "") from None
    finally:
        os.close(descriptor)


def _why_not_open(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"no file can have this name: {error}"
    if error.errno == errno.ENOENT:
        return "there is no such file"
    if path.is_dir():
        return "expected a regular file, found a directory"
    return f"cannot be opened: {error.strerror}"


def _kind_of_file(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def _unreadable(code: str, display: str, message: str, hint: str, span: Span | None = None) -> Unreadable:
    return Unreadable(Diagnostic(code, Severity.ERROR, display, message, span, help=hint))


def _too_large(display: str, size: int, limits: Limits) -> Unreadable:
    message = f"expected at most {limits.size:,} bytes, found {size:,}"
    return _unreadable("PV102", display, message, "split the file, or take it out of the selection")


def _not_utf8(display: str, body: bytes, error: UnicodeDecodeError) -> Unreadable:
    readable = body[: error.start].decode()
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        message, hint = "expected UTF-8, found a byte order mark of UTF-16", "convert the file to UTF-8"
    else:
        message = f"expected UTF-8, found the byte 0x{body[error.start]:02X}"
        hint = "convert the file, for instance with `iconv -f LATIN1 -t UTF-8`"
    place = Lines(readable).span(len(readable), len(readable))
    return _unreadable("PV103", display, message, hint, place)
