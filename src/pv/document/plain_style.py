"""Text in the plain block style -> what libyaml's events would build, in 0.6 of their time; any other -> None.

Contracts are written in a small part of YAML: keys that are words, block collections, brackets on one line, quoted and
plain scalars, block scalars. For such a text the objects that PyYAML makes for each event (two marks, a tuple, the
event) take several times as long as libyaml's parsing. So it is read line by line, by a grammar in which every line has
one meaning: 161 of 162 real files, with their places, in 0.6 of the time of the events: a fifth of a cold `pv
validate`.

This is no second parser of YAML: at the first line outside of the grammar it gives up, and libyaml reads the whole, or
refuses it. What the grammar takes is YAML and means the same to libyaml; tests hold it to that, to the last offset, on
real files, on mutations of them, and on random lines.
"""

from __future__ import annotations

import re
from collections import deque
from itertools import islice
from typing import Any, Final, NamedTuple

from pv.document.build import CLOSE, OPEN_MAP, OPEN_SEQUENCE, Built
from pv.document.limits import Limits
from pv.document.scalars import NUMERIC_STARTS, SHORT, WORDS, resolve_plain

_LARGEST: Final = 1 << 18  # characters; a larger text is no contract, and must not be read twice
_LONGEST_FOLDED: Final = 4000  # characters of a scalar over several plain lines, which are joined one by one
# Every line matches: its indent, dash and key; then a quoted text, a text that needs no second look, or the rest.
_LINE: Final = re.compile(
    r"( *)(- +)?+(?:([A-Za-z_][A-Za-z0-9_.-]{0,99}+):(?: ++|$))?+"  # a key has 1,024 characters at most
    rf'(?:"([^"\\\n]++)"|([A-Za-z(][^:#\n]{{{SHORT - 1},}}+)|(.*+))(?:\n|\Z)',
    re.MULTILINE,
)
_NO_PLAIN_START: Final = frozenset("?:,[]{}&*!|>'\"%@`#")  # of a `-` it depends on what follows
_QUOTED: Final = re.compile(r"""("(?:[^"\\]|\\["\\nt])*+"|'[^']*+(?:''[^']*+)*+')(?: +#.*| *)(?:$|\Z)""", re.MULTILINE)
_ESCAPED: Final = {r"\n": "\n", r"\t": "\t", r"\"": '"', "\\\\": "\\"}
_ESCAPE: Final = re.compile(r"""\\["\\nt]""")
_BREAKS_AND_BLANKS: Final = re.compile(r" *\n([ \n]*)")  # between quotes, blanks at both ends of a line mean nothing
_BLOCK_HEADER: Final = re.compile(r"([|>])(-?) *\n( +)(?=[^ \n])")
# In brackets: one of their signs, a key, a quoted text, or words. Whatever fits nowhere else ends the plain style.
_FLOW: Final = re.compile(
    r' *(?:([\[\]{},])|([A-Za-z_][\w.-]{0,99}+): |("[^"\\]*")|([\w./-]+(?: +[\w./-]+)*))', re.ASCII
)


def build(text: str, limits: Limits) -> Built | None:
    """What `text` says; None where it is not in the plain style, or beyond the limits.

    Long on purpose, like `pv.document.build.build`: a call for each line would cost as much as all that is done here.
    """
    # Tabs, carriage returns, other ends of lines, marks and controls are told apart, or refused, by libyaml.
    if len(text) > _LARGEST or not text.replace("\n", " ").isprintable():
        return None
    tape: list[int] = []
    note = tape.append
    texts: dict[tuple[int, Any], str] = {}
    plains: list[int] = []
    duplicates = False
    collections = 0

    root: list[Any] = []
    container: Any = root  # the innermost open collection, and whether it is a mapping
    in_map = False
    margin = -1  # the column of its keys or dashes
    opened = 0  # the index of its entry
    outer: list[tuple[Any, bool, int, int]] = []
    key = ""
    waiting = True  # the next line may be the value of `key`; of the document, at first
    end = 0  # of the last scalar, where block collections end too
    following = 0  # where the next line begins
    continued = -1  # where a line begins that would go on with a plain scalar
    value: Any

    rows = zip(text.split("\n"), _LINE.findall(text), strict=False)  # the pattern may match once more, at the very end
    for line, (indent, dash, word, quoted, sure, rest) in rows:
        at = following
        following = at + len(line) + 1
        column = len(indent)
        if not word and not dash:
            if column == len(line) or rest[:1] == "#":
                continue  # blank, or a comment
            if at != continued or column <= margin:
                return None
            value = _continuation(container[key if in_map else -1], line)
            if value is None:
                return None
            container[key if in_map else -1] = value
            tape[-1] = end = at + len(line.rstrip(" "))
            continued = following
            continue

        if waiting or column != margin or in_map == (dash != ""):
            # The line opens something, leaves the value before it empty, or closes something.
            if waiting:
                waiting = False
                if column > margin or (dash and in_map and column == margin):
                    if len(outer) >= limits.depth:
                        return None
                    new: Any = [] if dash else {}
                    if in_map:
                        container[key] = new
                    else:
                        container.append(new)
                    outer.append((container, in_map, margin, opened))
                    container, in_map, margin, opened = new, not dash, column, len(tape)
                    tape += (OPEN_SEQUENCE if dash else OPEN_MAP, at + column, 0)  # until it closes
                    collections += 1
                else:
                    container[key] = None
                    texts[id(container), key] = ""
                    plains.append(len(tape))
                    tape += (end, end)
            while column < margin or (column == margin and not dash and not in_map):
                tape[opened + 2] = len(tape)
                tape += (CLOSE, end)
                container, in_map, margin, opened = outer.pop()
            if column != margin or in_map == (dash != ""):
                return None
        if word:
            start = at + column
            if dash:  # a mapping whose first key stands behind the dash
                if len(outer) >= limits.depth:
                    return None
                new = {}
                container.append(new)
                outer.append((container, False, margin, opened))
                margin += len(dash)
                start += len(dash)
                container, in_map, opened = new, True, len(tape)
                tape += (OPEN_MAP, start, 0)
                collections += 1
            elif word in container:
                duplicates = True
            if word in WORDS:
                return None
            key = word
            end = start + len(word)
            note(start)
            note(end)

        # The value behind the key or the dash.
        if quoted:
            value = quoted
            end = following - 1
            note(end - len(quoted) - 2)
            note(end)
        elif sure:
            if sure[-1] == " ":
                return None
            value = sure
            continued = following
            end = following - 1
            note(end - len(sure))
            note(end)
        elif not rest or rest[0] == "#":
            if not word:
                return None
            waiting = True
            end += 1  # behind the colon: the place of a value that is not there
            continue
        else:
            first, start = rest[0], following - 1 - len(rest)
            if first == '"' or first == "'" or first == "|" or first == ">":
                read = (_block if first in "|>" else _quoted)(text, start, margin)
                if read is None:
                    return None
                value, end, following, skipped = read
                deque(islice(rows, skipped), 0)
                tape += (start, end)
            elif first == "[" or first == "{":
                flow = _flow(rest, start, limits.depth - len(outer), tape, texts, plains)
                if flow is None:
                    return None
                value, end, more = flow
                collections += more
            elif first in _NO_PLAIN_START or (first == "-" and rest[1:2] in ("", " ")):
                return None
            else:
                if " #" in rest:
                    rest = rest[: rest.index(" #")]
                else:
                    continued = following
                rest = rest.rstrip(" ")
                if rest[-1] == ":" or ": " in rest:
                    return None
                value = rest
                if (len(rest) < SHORT and rest in WORDS) or first in NUMERIC_STARTS:
                    plains.append(len(tape))
                    value = resolve_plain(rest)
                    if value is not rest:
                        texts[id(container), key if in_map else len(container)] = rest
                end = start + len(rest)
                note(start)
                note(end)
        if in_map:
            container[key] = value
        else:
            container.append(value)
    if not root:
        return None
    if waiting:
        container[key] = None
        texts[id(container), key] = ""
        plains.append(len(tape))
        tape += (end, end)
    while outer:
        tape[opened + 2] = len(tape)
        tape += (CLOSE, end)
        container, in_map, margin, opened = outer.pop()
    # A scalar takes two places on the tape and is one node, a collection five and two.
    if (len(tape) - 5 * collections) // 2 + 2 * collections > limits.nodes:
        return None
    return Built(root[0], tape, texts, plains, {}, {}, {}, [], duplicates)


def _continuation(said: Any, line: str) -> str | None:
    """The plain scalar that was read last, with one more line; None where that is not its meaning."""
    more = line.strip(" ")
    if said.__class__ is not str or not SHORT <= len(said) <= _LONGEST_FOLDED:
        return None
    if " #" in more or ": " in more or more[-1] == ":":
        return None
    return f"{said} {more}"


class _Read(NamedTuple):
    """A scalar that may take several lines: value, end, where the next line begins, how many more lines it took."""

    value: str
    end: int
    following: int
    skipped: int


def _quoted(text: str, start: int, margin: int) -> _Read | None:
    """The quoted scalar that begins at `start`; None where it has another escape than the four of everyday."""
    match = _QUOTED.match(text, start)
    if match is None:
        return None
    value, end = match[1][1:-1], match.end(1)
    lines = value.split("\n")
    if "\\" in value and text[start] == '"':
        if len(lines) > 1:
            return None
        value = _ESCAPE.sub(lambda found: _ESCAPED[found[0]], value)
    if len(lines) > 1:
        indents = [len(line) - len(line.lstrip(" ")) for line in lines[1:] if line.strip(" ")]
        if min(indents, default=margin + 1) <= margin:
            return None
        value = _BREAKS_AND_BLANKS.sub(_folded, value)
    return _Read(value.replace("''", "'") if text[start] == "'" else value, end, match.end() + 1, len(lines) - 1)


def _block(text: str, start: int, margin: int) -> _Read | None:
    """The block scalar whose header stands at `start`; None where its first line is empty."""
    header = _BLOCK_HEADER.match(text, start)
    if header is None:
        return None
    style, strip, indentation = header.groups()
    if len(indentation) <= margin:
        return None
    at, size = header.start(3), len(text)
    lines: list[str] = []
    while at < size:
        stop = text.find("\n", at)
        if stop < 0:
            return None  # where the file ends inside of it
        line = text[at:stop]
        if line.startswith(indentation):
            lines.append(line[len(indentation) :])
        elif line.strip(" "):
            break
        else:
            lines.append("")
        at = stop + 1
    skipped = len(lines)
    while not lines[-1]:
        lines.pop()
    value = "\n".join(lines) if style == "|" else _folded_block(lines)
    return _Read(value + ("" if strip else "\n"), at, at, skipped)


def _folded_block(lines: list[str]) -> str:
    """The lines of a folded scalar; a line end beside a deeper line is kept (YAML 1.2.2, 8.1.3)."""
    pieces, before, breaks = [lines[0]], lines[0], 1
    for line in lines[1:]:
        if not line:
            breaks += 1
            continue
        kept = breaks if before[0] == " " or line[0] == " " else breaks - 1
        pieces += ("\n" * kept or " ", line)
        before, breaks = line, 1
    return "".join(pieces)


def _folded(match: re.Match[str]) -> str:
    """A line end between two lines of text is a blank; of several, all but the first are kept."""
    return "\n" * match[1].count("\n") or " "


class _Flow(NamedTuple):
    """A collection in brackets: its value, its end, and how many collections it is."""

    value: Any
    end: int
    collections: int


def _flow(
    rest: str, start: int, room: int, tape: list[int], texts: dict[tuple[int, Any], str], plains: list[int]
) -> _Flow | None:
    """The collection in brackets that is all of `rest`, noted on the tape; None where it is more than plain.

    `start` is the place of `rest` in the text, `room` how deep it may nest.
    """
    root: list[Any] = []
    container: Any = root
    in_map, opened, collections, at = False, 0, 0, 0
    outer: list[tuple[Any, bool, int]] = []
    key = ""
    ready = True  # an item may come here, or (in a mapping, while there is no key) a key
    while True:
        match = _FLOW.match(rest, at)
        if match is None:
            return None
        at = match.end()
        sign, word, quoted, text = match.groups("")
        if sign == "]" or sign == "}":
            # A bracket that closes ends an item, or follows the one that opened; it leaves no comma and no key behind.
            if key or in_map != (sign == "}") or (ready and container):
                return None
            tape[opened + 2] = len(tape)
            tape += (CLOSE, start + at)
            container, in_map, opened = outer.pop()
            ready = False
            if outer:
                continue
            return None if rest[at:].strip(" ") else _Flow(root[0], start + at, collections)
        if sign == ",":
            if ready:
                return None
            ready = True
            continue
        if not ready or (in_map and not key and not word):
            return None
        if word:
            if not in_map or key or word in container or word in WORDS:
                return None
            key = word
            tape += (start + match.start(2), start + match.end(2))
            continue
        value: Any
        if sign:
            if len(outer) >= room:
                return None
            value = [] if sign == "[" else {}
        elif quoted:
            value = quoted[1:-1]
            tape += (start + match.start(3), start + at)
        elif text == "-" or text[:2] == "- ":
            return None  # a dash before a blank opens a block, which stands in no bracket
        else:
            value = text
            if (len(text) < SHORT and text in WORDS) or text[0] in NUMERIC_STARTS:
                plains.append(len(tape))
                value = resolve_plain(text)
                if value is not text:
                    texts[id(container), key if in_map else len(container)] = text
            tape += (start + match.start(4), start + at)
        if in_map:
            container[key] = value
        else:
            container.append(value)
        key, ready = "", False
        if sign:
            outer.append((container, in_map, opened))
            container, in_map, opened, ready = value, sign == "{", len(tape), True
            tape += (OPEN_MAP if in_map else OPEN_SEQUENCE, start + at - 1, 0)
            collections += 1
