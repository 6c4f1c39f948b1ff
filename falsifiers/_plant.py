"""Ways to plant a defect for the length of a block: in this process, in its tables and variables, in its children.

A defect that no option of a command can plant reaches the processes that a check starts through a `sitecustomize`:
a few lines that Python runs before anything else, there and in every process that they start.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar

Held = TypeVar("Held")


@contextlib.contextmanager
def patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """`owner.name` is `replacement` inside the block."""
    healthy = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, healthy)


@contextlib.contextmanager
def changed_entries(table: MutableMapping[Any, Any], changes: Mapping[Any, Any]) -> Iterator[None]:
    """Inside the block the table has these entries in place of its own."""
    healthy = {key: table[key] for key in changes}
    table.update(changes)
    try:
        yield
    finally:
        table.update(healthy)


@contextlib.contextmanager
def holding(variable: ContextVar[Held], value: Held) -> Iterator[None]:
    """The variable has this value inside the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextlib.contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """A variable of this process and of those it starts, inside the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def child_start(context: Any, code: str) -> Iterator[None]:
    """Inside, every Python child runs `code` before anything else; blocks within blocks add theirs."""
    folder: Path = context.scratch / "planted"
    folder.mkdir(exist_ok=True)
    file = folder / "sitecustomize.py"
    earlier = file.read_text("utf-8") if file.exists() else ""
    file.write_text(f"{earlier}\n{dedent(code)}", "utf-8")
    places = (str(folder), os.environ.get("PYTHONPATH"))
    with environment_variable("PYTHONPATH", os.pathsep.join(filter(None, places))):
        try:
            yield
        finally:
            file.write_text(earlier, "utf-8")


@contextlib.contextmanager
def child_patch(context: Any, module: str, code: str) -> Iterator[None]:
    """Inside, every Python child runs `code` right after `module` was imported, with that module as `m`."""
    with child_start(context, _AFTER_IMPORT.format(module=module, code=code)):
        yield


def in_children(code: str) -> Callable[[Any], contextlib.AbstractContextManager[None]]:
    """A control's `plant`: `code` runs at the start of every process that the check starts."""
    return lambda context: child_start(context, code)


_AFTER_IMPORT = """
import importlib.abc, importlib.machinery, sys


class _Patcher(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != {module!r}:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None:
            return None
        healthy = spec.loader.exec_module

        def patched(module):
            healthy(module)
            exec({code!r}, {{"m": module}})

        spec.loader.exec_module = patched
        return spec


sys.meta_path.insert(0, _Patcher())
"""
