"""Path of a check module -> the module, imported in a worker under a private name and compared with its source.

The folder of the checks becomes a private package, so that helpers beside a module are imported relatively
(`from ._support import planted`) and no check module can shadow an installed one. The project's own packages are found
as `python -m pytest` finds them: from its root or `src/`, behind everything that is installed.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pv.falsify.api import Registration

PRIVATE = "_pv_checks_"


class LoadError(Exception):
    """The module cannot be imported, or what it registers is not what its source says."""


class Stated(NamedTuple):
    """What source says of one registration; compared field by field with the live one."""

    id: str
    level: str
    cost: str | None
    bound: int | None
    timeout: float
    controls: tuple[tuple[str, str, tuple[str, ...]], ...]
    attacks: tuple[str, ...]
    data: tuple[str, ...]


class Loaded(NamedTuple):
    """A check ready to be called."""

    function: Callable[..., Any]
    registration: Registration


def load(path: Path, function: str, stated: Sequence[tuple[str, Stated]], claim_id: str) -> Loaded:
    """Import the module at `path` and return the check of `claim_id`.

    `stated` are all registrations that source shows for this module, as (function name, what it says). Raises LoadError
    when the two views differ in any of them, or an attacked function does not exist; whatever the module itself raises
    on import comes through.
    """
    module = import_privately(path)
    live = dict(_registrations(module))
    _compare(path, {(name, said.id): said for name, said in stated}, live)
    registration = live[function, claim_id]
    if missing := [complaint for attack in registration.attacks if (complaint := _unresolved(attack))]:
        raise LoadError(f"{path.name}, {function}: {'; '.join(missing)}")
    return Loaded(getattr(module, function), registration)


def make_importable(root: Path) -> None:
    """Put the project's `src/` and root at the end of `sys.path`: code that is not installed can be checked too."""
    for folder in (root / "src", root):
        if folder.is_dir() and str(folder) not in sys.path:
            sys.path.append(str(folder))


def import_privately(path: Path) -> ModuleType:
    """The module at `path`, a member of the private package of its folder. Writes no byte code into the project."""
    folder = path.resolve().parent
    package = PRIVATE + hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    if package not in sys.modules:
        parent = ModuleType(package, f"The checks in {folder}.")
        parent.__path__ = [str(folder)]
        parent.__spec__ = importlib.machinery.ModuleSpec(package, None, is_package=True)
        parent.__spec__.submodule_search_locations = parent.__path__
        sys.modules[package] = parent
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return importlib.import_module(f"{package}.{path.stem}")
    finally:
        sys.dont_write_bytecode = before


def stated_of(registration: Registration) -> Stated:
    """A live registration in the shape that source is read into."""
    return Stated(
        registration.id,
        registration.level.value,
        registration.cost.value if registration.cost else None,
        registration.bound,
        registration.timeout,
        tuple((control.name, control.breaks, tuple(control.cells)) for control in registration.controls),
        registration.attacks,
        registration.data,
    )


def _registrations(module: ModuleType) -> Iterator[tuple[tuple[str, str], Registration]]:
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) == module.__name__:
            for registration in getattr(value, "__pv__", ()):
                yield (name, registration.id), registration


def _compare(
    path: Path, stated: Mapping[tuple[str, str], Stated], live: Mapping[tuple[str, str], Registration]
) -> None:
    complaints = [f"{name} registers {claim} only when imported" for name, claim in live if (name, claim) not in stated]
    complaints += [f"{name} registers {claim} only in source" for name, claim in stated if (name, claim) not in live]
    for key in stated.keys() & live.keys():
        said, found = stated[key], stated_of(live[key])
        complaints += [
            f"{key[0]} ({key[1]}): {field} in source {getattr(said, field)!r}, when imported {getattr(found, field)!r}"
            for field in Stated._fields
            if getattr(said, field) != getattr(found, field)
        ]
    if complaints:
        raise LoadError(
            f"{path.name} does not register what its source says: {'; '.join(sorted(complaints))}. "
            "Write registrations as plain decorators, and import an attacked function from where it is defined."
        )


def _unresolved(dotted: str) -> str:
    """Why a dotted name names nothing; "" when it names something."""
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        module = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(f"{error.name}.")):
                continue
            raise  # the module exists; something that it needs does not
        for name in parts[split:]:
            if not hasattr(found, name):
                return f"attack {dotted!r}: {'.'.join(parts[:split])} has no {'.'.join(parts[split:])!r}"
            found = getattr(found, name)
        return ""
    return f"attack {dotted!r}: no module of that name"
