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
from collections.abc import Iterator
from typing import NamedTuple

_SILENT = frozenset({tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER})
_MARKS = {tokenize.NEWLINE: "\n", tokenize.INDENT: "\x01", tokenize.DEDENT: "\x02"}
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
        text = _decode(source)
        stream = "\0".join(_tokens(text, _docstrings(ast.parse(text), text.split("\n"))))
    except (SyntaxError, ValueError, UnicodeDecodeError, RecursionError, MemoryError):
        return hashlib.sha256(source).hexdigest()
    return hashlib.sha256(stream.encode("utf-8", "surrogatepass")).hexdigest()


def imports(source: bytes) -> tuple[ImportLine, ...]:
    """Every import of the module, also those inside functions; none where it cannot be parsed."""
    try:
        tree = ast.parse(_decode(source))
    except (SyntaxError, ValueError, UnicodeDecodeError, RecursionError, MemoryError):
        return ()
    found: dict[ImportLine, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(dict.fromkeys(ImportLine(0, alias.name, ()) for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found[ImportLine(node.level, node.module or "", names)] = None
    return tuple(found)


def _decode(source: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    return source.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def _docstrings(tree: ast.Module, lines: list[str]) -> list[tuple[Place, Place]]:
    """Where the docstrings of the module, its classes and functions stand, in file order."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    spans = []
    for node in ast.walk(tree):
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
        name = tokenize.tok_name[token.type]
        if name.endswith("STRING_START"):
            opened = opened if depth else token.start
            depth += 1
        elif name.endswith("STRING_END"):
            depth -= 1
            if not depth:
                yield tokenize.STRING, _slice(lines, opened, token.end), opened
        elif not depth:
            yield token.type, token.string, token.start


def _slice(lines: list[str], start: Place, end: Place) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    middle = lines[start[0] : end[0] - 1]
    return "\n".join([lines[start[0] - 1][start[1] :], *middle, lines[end[0] - 1][: end[1]]])
