"""The project's check folder and installed plugins -> every registered check; nothing is imported.

A module belongs to the contract whose stem it carries, with `-` and `.` written as `_`. The worker that imports the
module later compares its own view with this one (`pv.falsify.loader`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pv.contract.project import module_name
from pv.diagnostics.model import Diagnostic, Severity
from pv.falsify.reading import FoundCheck, FoundControl, Reading, read_module

if TYPE_CHECKING:
    from pv.contract.project import Project

__all__ = ["Checks", "FoundCheck", "FoundControl", "find_checks", "find_in", "module_name"]

ENTRY_POINTS = "pv.falsifiers"
DUPLICATE = "PV352"


@dataclass(frozen=True)
class Checks:
    """Every check of a project, and what is wrong with the modules themselves (before any contract is looked at).

    `modules` maps the stems of the project's own modules to their display paths.
    """

    found: tuple[FoundCheck, ...] = ()
    problems: tuple[Diagnostic, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_claim(self) -> Mapping[tuple[str, str], FoundCheck]:
        """(module stem, claim id) -> the first registration."""
        return {(check.module, check.id): check for check in reversed(self.found)}

    def of(self, contract_id: str, claim_id: str) -> FoundCheck | None:
        """The check of a claim, or None."""
        return self.by_claim.get((module_name(contract_id), claim_id))


def find_checks(project: Project) -> Checks:
    """Every check of the project's `falsifiers` folder and of installed packages that declare `pv.falsifiers`."""
    plugins = [read_module(path, display, from_plugin=True) for path, display in _plugin_modules()]
    return _collected(_own(project.falsifiers, project.root), plugins)


def find_in(folder: Path, root: Path) -> Checks:
    """The checks of the modules in `folder` alone. A missing folder has none."""
    return _collected(_own(folder, root), [])


def _own(folder: Path, root: Path) -> list[Reading]:
    inside = folder.is_relative_to(root)
    return [
        read_module(path, path.relative_to(root).as_posix() if inside else path.as_posix()) for path in _modules(folder)
    ]


def _modules(folder: Path) -> list[Path]:
    """Files that begin with an underscore are helpers, not check modules."""
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith("_")) if folder.is_dir() else []


def _collected(own: Sequence[Reading], plugins: Sequence[Reading]) -> Checks:
    readings = [*own, *plugins]
    found = tuple(check for reading in readings for check in reading.checks)
    problems = [problem for reading in readings for problem in reading.problems]
    return Checks(found, (*problems, *_duplicates(found)), {reading.stem: reading.display for reading in own})


def _duplicates(found: Iterable[FoundCheck]) -> Iterator[Diagnostic]:
    first: dict[tuple[str, str], FoundCheck] = {}
    for check in found:
        earlier = first.setdefault((check.module, check.id), check)
        if earlier is not check:
            yield Diagnostic(
                DUPLICATE,
                Severity.ERROR,
                check.display,
                f"{check.id} has two checks: {earlier.function} at {earlier.place}, {check.function} at {check.place}",
                check.span,
                expected="one check for each claim",
                where=check.function,
                help="remove one, or measure both in one check",
            )


def _plugin_modules() -> Iterator[tuple[Path, str]]:
    """Source files of packages that declare the entry-point group, found without importing any of them.

    They are displayed from where they were installed (`package/claims/x_v1.py`): a record names no machine's folders.
    """
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS):
        located = _locate(entry.module)
        base = entry.module.replace(".", "/")
        if located is not None and located.name == "__init__.py":
            yield from ((path, f"{base}/{path.name}") for path in _modules(located.parent))
        elif located is not None:
            yield located, f"{base}.py"


def _locate(module: str) -> Path | None:
    """The source file of a dotted module name. Only its first part is asked of the import system: that runs no code."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for base in spec.submodule_search_locations or ():
        stem = Path(base, *rest)
        for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None
