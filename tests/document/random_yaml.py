"""Random data, written as YAML in every style that the data allows: what the property tests read back."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from hypothesis import strategies as st

from pv.document.scalars import resolve_plain

# Words that are plain scalars anywhere, in a flow collection and as a key too.
WORD = re.compile(r"[A-Za-zé日_][A-Za-z0-9é日_./-]*(?: [A-Za-z0-9é日_./-]+)*\Z")
NUMBERS = ["0", "-7", "12345678901234567890", "1.10", "1e-3", "-2.5E+3", "0x1F", "0o17", ".5", "017", ".inf", "-.INF"]
CONSTANTS = ["null", "~", "true", "False", "NULL", "TRUE"]
AMBIGUOUS = ["yes", "Off", "2026-04-28", "12:30:00", "1_000", "0b11", "n"]


class Written(NamedTuple):
    """YAML and the data that it says."""

    text: str
    data: Any


def _texts() -> st.SearchStrategy[str]:
    letters = st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\x85\u2028\u2029\ufeff")
    odd = st.text(letters, max_size=12)
    near = st.text(st.sampled_from("ab 1:#-'\"\\{}[],&*!|>%@`\t\n.é日🎉?"), max_size=12)
    return odd | near | st.sampled_from(["", " ", "a: b", "x # y", "- a", "yes", "1.10", "null", "a\nb\n", "\n", "<<"])


def _leaf(draw: st.DrawFn, *, flow: bool) -> tuple[str, Any]:
    kind = draw(st.sampled_from(["plain", "number", "constant", "ambiguous", "single", "double", "double"]))
    if kind == "number":
        source = draw(st.sampled_from(NUMBERS))
        return source, resolve_plain(source)
    if kind == "constant":
        source = draw(st.sampled_from(CONSTANTS))
        return source, resolve_plain(source)
    if kind == "ambiguous":
        source = draw(st.sampled_from(AMBIGUOUS))
        return source, source
    text = draw(_texts())
    if kind == "plain" and WORD.match(text) and isinstance(resolve_plain(text), str):
        return text, text
    if kind == "single" and text.isprintable():
        return "'" + text.replace("'", "''") + "'", text
    plainly = draw(st.booleans())  # YAML has no surrogate pairs, so JSON's own escapes will not do beyond U+FFFF
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() and (plainly or c.isascii()) else _escape(c) for c in quoted), text


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _key(draw: st.DrawFn, taken: set[str]) -> tuple[str, str]:
    source, value = _leaf(draw, flow=True)
    if not isinstance(value, str) or value in taken or len(source) > 60 or source == "<<":
        value = f"k{len(taken)}"
        source = value
    taken.add(value)
    return source, value


def _flow(draw: st.DrawFn, depth: int) -> tuple[str, Any]:
    kind = draw(st.sampled_from(["leaf", "leaf", "map", "list"])) if depth else "leaf"
    if kind == "leaf":
        return _leaf(draw, flow=True)
    size = draw(st.integers(0, 3))
    pad = draw(st.sampled_from(["", " "]))
    if kind == "list":
        items = [_flow(draw, depth - 1) for _ in range(size)]
        return "[" + pad + ", ".join(text for text, _ in items) + pad + "]", [value for _, value in items]
    taken: set[str] = set()
    pairs = [(_key(draw, taken), _flow(draw, depth - 1)) for _ in range(size)]
    inner = ", ".join(f"{key[0]}: {value[0]}" for key, value in pairs)
    return "{" + pad + inner + pad + "}", {key[1]: value[1] for key, value in pairs}


def _literal(draw: st.DrawFn, indent: int) -> tuple[str, str]:
    words = draw(
        st.lists(st.sampled_from(["a", "b c", "# not a comment", "é: 日", "- x", "x  y"]), min_size=1, max_size=3)
    )
    chomp, end = draw(st.sampled_from([("", "\n"), ("-", "")]))
    pad = " " * indent
    return f"|{chomp}\n" + "\n".join(pad + word for word in words), "\n".join(words) + end


def _block(draw: st.DrawFn, depth: int, indent: int) -> tuple[str, Any]:
    """A block collection whose lines are indented by `indent`, without the indentation of the first one."""
    size = draw(st.integers(1, 4))
    pad = "\n" + " " * indent
    lines, is_map = [], draw(st.booleans())
    data: Any = {} if is_map else []
    taken: set[str] = set()
    for _ in range(size):
        comment = draw(st.sampled_from(["", "", "  # note", " # b: c"]))
        if is_map:
            source, name = _key(draw, taken)
            step = draw(st.integers(1, 4))
            text, value, own_line = _value(draw, depth, indent + step)
            gap = (comment + "\n" + " " * (indent + step)) if own_line else " "
            lines.append(f"{source}:{gap}{text}{'' if own_line or text.startswith('|') else comment}")
            data[name] = value
        else:
            text, value, own_line = _value(draw, depth, indent + 2)
            lines.append(f"- {text}{'' if own_line or text.startswith('|') else comment}")
            data.append(value)
        if draw(st.integers(0, 5)) == 0:
            lines[-1] += "\n" + " " * indent + "# a comment of its own"
    return pad.join(lines), data


def _value(draw: st.DrawFn, depth: int, indent: int) -> tuple[str, Any, bool]:
    kind = draw(st.sampled_from(["leaf", "leaf", "flow", "literal", "block", "block"])) if depth else "leaf"
    if kind == "block":
        return *_block(draw, depth - 1, indent), True
    if kind == "literal":
        return *_literal(draw, indent), False
    return *(_flow(draw, 2) if kind == "flow" else _leaf(draw, flow=False)), False


@st.composite
def documents(draw: st.DrawFn) -> Written:
    """A document of block and flow collections, scalars in all styles, comments, and any of the line ends."""
    text, data = _block(draw, 3, 0)
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    head = draw(st.sampled_from(["", "# head\n", "---\n", "\n\n"]))
    tail = draw(st.sampled_from(["\n", "\n\n# end\n", "\n...\n", "" if "|" not in text else "\n"]))
    return Written((head + text + tail).replace("\n", newline), data)
