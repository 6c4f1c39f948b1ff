"""Python source -> sha256 of what it says: comments, docstrings, blank lines and spacing do not count.

Made from tokens, not from `ast.dump`, whose text changes with Python's version; the digest of a file is the same under
every supported Python (frozen by test vectors). Imports nothing but the standard library.
"""

from __future__ import annotations

import ast
import hashlib
import io
import sys
import tokenize
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

_SILENT = frozenset({tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER})
_STARTS = frozenset(kind for kind, name in tokenize.tok_name.items() if name.endswith("STRING_START"))
_ENDS = frozenset(kind for kind, name in tokenize.tok_name.items() if name.endswith("STRING_END"))
_MARKS = {tokenize.NEWLINE: "\n", tokenize.INDENT: "\x01", tokenize.DEDENT: "\x02"}
BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # where statements hold statements, in file order
Place = tuple[int, int]  # line from 1, column in characters from 0
_NOWHERE: tuple[Place, Place] = ((sys.maxsize, 0), (sys.maxsize, 0))  # after every token


class ImportLine(NamedTuple):
    """One import: `level` dots, the module after them, and the names taken from it (empty for `import module`)."""

    level: int
    module: str
    names: tuple[str, ...]


def meaning(source: bytes) -> str:
    """Hex sha256 of the module's tokens; of the raw bytes where this Python cannot read it."""
    try:
        text, tree = _parsed(source)
        stream = "\0".join(_tokens(text, _docstrings(tree, text.split("\n"))))
    except (SyntaxError, ValueError, UnicodeDecodeError, RecursionError, MemoryError):
        return hashlib.sha256(source).hexdigest()
    return hashlib.sha256(stream.encode("utf-8", "surrogatepass")).hexdigest()


def imports(source: bytes) -> tuple[ImportLine, ...]:
    """Every import of the module, also those inside functions; none where it cannot be parsed."""
    try:
        _, tree = _parsed(source)
    except (SyntaxError, ValueError, UnicodeDecodeError, RecursionError, MemoryError):
        return ()
    found: dict[ImportLine, None] = {}
    for node in statements(tree):
        if isinstance(node, ast.Import):
            found.update(dict.fromkeys(ImportLine(0, alias.name, ()) for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found[ImportLine(node.level, node.module or "", names)] = None
    return tuple(found)


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and every statement in the order of `ast.walk`, without the expressions, which are most of a tree."""
    pending: deque[ast.AST] = deque([tree])
    while pending:
        node = pending.popleft()
        yield node
        for name in BLOCKS:
            pending.extend(getattr(node, name, ()))


@lru_cache(maxsize=1)  # a file is asked for its meaning, then for its imports
def _parsed(source: bytes) -> tuple[str, ast.Module]:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    text = source.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    return text, ast.parse(text)


def _docstrings(tree: ast.Module, lines: list[str]) -> list[tuple[Place, Place]]:
    """Where the docstrings of the module, its classes and functions stand, in file order."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    spans = []
    for node in statements(tree):
        if not isinstance(node, holders) or not node.body or not isinstance(node.body[0], ast.Expr):
            continue
        value = node.body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            start = value.lineno, _column(lines, value.lineno, value.col_offset)
            end = value.end_lineno or 0, _column(lines, value.end_lineno or 0, value.end_col_offset or 0)
            spans.append((start, end))
    return sorted(spans)


def _column(lines: list[str], line: int, offset: int) -> int:
    """ast counts columns in UTF-8 bytes, tokenize in characters."""
    return len(lines[line - 1].encode("utf-8")[:offset].decode("utf-8"))


def _tokens(text: str, docstrings: list[tuple[Place, Place]]) -> Iterator[str]:
    """The tokens that count. A docstring takes the end of its line with it."""
    after_docstring = False
    upcoming = iter(docstrings)
    first, last = next(upcoming, _NOWHERE)
    for kind, string, start in _whole_strings(text):
        if kind in _SILENT:
            continue
        while start >= last:
            first, last = next(upcoming, _NOWHERE)
        if start >= first:
            after_docstring = True
            continue
        if not (after_docstring and kind == tokenize.NEWLINE):
            yield _MARKS.get(kind, string)
        after_docstring = False


def _whole_strings(text: str) -> Iterator[tuple[int, str, Place]]:
    """Tokens, with an f-string as one piece of source, as Python 3.11 reads it; later versions split it."""
    lines = text.split("\n")
    depth, opened = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = token.type
        if kind in _STARTS:
            opened = opened if depth else token.start
            depth += 1
        elif kind in _ENDS:
            depth -= 1
            if not depth:
                yield tokenize.STRING, _slice(lines, opened, token.end), opened
        elif not depth:
            yield kind, token.string, token.start


def _slice(lines: list[str], start: Place, end: Place) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    middle = lines[start[0] : end[0] - 1]
    return "\n".join([lines[start[0] - 1][start[1] :], *middle, lines[end[0] - 1][: end[1]]])
