"""Source of a check module and new names of ids -> the same source with those ids in its registrations, else untouched.

Two readers: `pv mv`, which gives a check its claim's new id, and the source closure, which reads the module under the
ids that its claims were first made with, so that a rename makes no evidence stale.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from typing import NamedTuple

API = ("pv.falsify", "pv.falsify.api")
DECORATORS = ("falsifier", "harness")
_LITERAL = re.compile(r"""[rRuU]?(?P<quote>'''|\"\"\"|'|")(?P<text>[^\\]*?)(?P=quote)""", re.DOTALL)
_LINE_END = re.compile(r"\r\n|\r|\n")


class Registered(NamedTuple):
    """An id in a registration, and where its characters stand in the text; `end` is -1 for one written in pieces."""

    id: str
    start: int
    end: int


def renamed(source: bytes, names: Mapping[str, str]) -> bytes:
    """The module with every registered id that is a key of `names` replaced. What cannot be parsed stays as it is."""
    text, encoding = _decoded(source)
    if text is None:
        return source
    for found in sorted(registered(text), key=lambda each: each.start, reverse=True):
        if found.id in names and found.end >= 0:
            text = text[: found.start] + names[found.id] + text[found.end :]
    return text.encode(encoding)


def registered(text: str) -> tuple[Registered, ...]:
    """Every id that `@falsifier` and `@harness` of the module register, in file order."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    names = {local: dotted for statement in tree.body for local, dotted in _imported(statement)}
    starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
    found = []
    for node in ast.walk(tree):
        for decorator in getattr(node, "decorator_list", ()):
            literal = _id_of(decorator, names)
            if literal is not None:
                found.append(_placed(text, starts, literal))
    return tuple(sorted(found, key=lambda each: each.start))


def text_of(source: bytes) -> str | None:
    """The module's text with its line ends as they are; None where its bytes are no text."""
    return _decoded(source)[0]


def _decoded(source: bytes) -> tuple[str | None, str]:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        return source.decode(encoding), encoding
    except (SyntaxError, UnicodeDecodeError):
        return None, ""


def _id_of(decorator: ast.expr, names: Mapping[str, str]) -> ast.Constant | None:
    """The literal that names the claim in `@falsifier("…")` or `@harness(id="…")`."""
    if not isinstance(decorator, ast.Call):
        return None
    module, _, word = _dotted(decorator.func, names).rpartition(".")
    if module not in API or word not in DECORATORS:
        return None
    given = [*decorator.args[:1], *(keyword.value for keyword in decorator.keywords if keyword.arg == "id")]
    literal = given[0] if given else None
    return literal if isinstance(literal, ast.Constant) and isinstance(literal.value, str) else None


def _placed(text: str, starts: list[int], literal: ast.Constant) -> Registered:
    start = _offset(text, starts, literal.lineno, literal.col_offset)
    end = _offset(text, starts, literal.end_lineno or 0, literal.end_col_offset or 0)
    match = _LITERAL.fullmatch(text, start, end)
    if match is None or match["text"] != literal.value:
        return Registered(literal.value, start, -1)  # type: ignore[arg-type]  # a text: `_id_of` looked
    return Registered(match["text"], match.start("text"), match.end("text"))


def _offset(text: str, starts: list[int], line: int, column: int) -> int:
    """ast counts columns in UTF-8 bytes."""
    start = starts[line - 1]
    end = starts[line] if line < len(starts) else len(text)
    return start + len(text[start:end].encode("utf-8")[:column].decode("utf-8"))


def _dotted(node: ast.expr, names: Mapping[str, str]) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return ""
    return ".".join([names[node.id], *reversed(parts)])


def _imported(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """(local name, dotted name) of what a statement at the top of the module imports."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            first = alias.name.partition(".")[0]
            yield alias.asname or first, alias.name if alias.asname else first
    elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
        yield from ((alias.asname or alias.name, f"{statement.module}.{alias.name}") for alias in statement.names)
    elif isinstance(statement, ast.If | ast.Try):
        for inner in statement.body:
            yield from _imported(inner)
