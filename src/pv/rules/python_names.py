"""A Python file -> the names it defines, by parsing: functions, classes, methods, constants, members, tests.

A name in a comment, in a string, or in somebody else's class is not defined here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ast


class Names(NamedTuple):
    """What a file defines, as qualified names ("Tape.read", "Stage.LM_HEAD", "test_bits"); or why nobody can tell."""

    qualified: frozenset[str]
    why_not: str = ""


def defined_in(path: Path) -> Names:
    """The names that the Python file at `path` defines. Read once for each version of the file."""
    try:
        facts = path.stat()
    except OSError as error:
        return Names(frozenset(), f"cannot be read: {error.strerror}")
    return _defined(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=512)
def _defined(path: Path, changed: int, size: int) -> Names:
    import ast  # few contracts cite Python

    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        return Names(frozenset(), f"cannot be read: {error.strerror}")
    except (SyntaxError, ValueError, RecursionError) as error:
        return Names(frozenset(), f"is no Python that can be parsed: {error}")
    return Names(frozenset(_names(tree.body, "")))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    """Names bound at the level of a module or a class, also under `if`, `try`, `with` and loops."""
    import ast

    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from _names(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign):
            yield from (prefix + name for target in node.targets for name in _targets(target))
        elif isinstance(node, ast.AnnAssign):
            yield from (prefix + name for name in _targets(node.target))
        else:
            yield from _names(list(_statements(node)), prefix)


def _statements(node: ast.stmt) -> Iterator[ast.stmt]:
    """The statements directly inside a compound statement; a `type` statement binds its name and has none."""
    import ast

    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            yield from child.body


def _targets(target: ast.expr) -> Iterator[str]:
    import ast

    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Tuple | ast.List):
        for item in target.elts:
            yield from _targets(item)
