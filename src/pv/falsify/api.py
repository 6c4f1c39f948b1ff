"""What the author of a check writes: `@falsifier`, `@harness`, `Control`, and a function that measures.

A check attacks one claim and returns measurements; it never judges. The decorators only attach a registration to the
function. `pv` finds ids, levels, costs and control names by reading the source (`pv.falsify.discovery`), so they must
be literals; the worker that imports the module compares both views and fails when they differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pv.contract.vocabulary import Cell, Cost, Level


@dataclass(frozen=True, slots=True)
class Measurement:
    """One observed number. Booleans are measured as 0 or 1. `n`: how many observations it stands for."""

    name: str
    value: float
    unit: str = "1"
    n: int = 1


def measure(name: str, value: float | int | bool, *, unit: str = "1", n: int = 1) -> Measurement:
    """A measurement; booleans become 0 or 1. Raises ValueError for an empty name or n < 1."""
    if not name or n < 1:
        raise ValueError(f"expected a name and n >= 1, got name={name!r}, n={n}")
    return Measurement(name, float(value), unit, n)


@dataclass(frozen=True, slots=True)
class Control:
    """A planted defect. `plant(context)` is a context manager under which the same check must break `breaks`.

    `name`: what is broken, in words. `breaks`: the measurement whose threshold must fail; only that counts as caught.
    `cells`: device classes in which the defect makes sense; empty means all.
    """

    name: str
    plant: Callable[[Context], Any] = field(compare=False)
    breaks: str = ""
    cells: tuple[str, ...] = ()


class Blocked(Exception):  # noqa: N818 - it is a verdict, not an error
    """Raised by a check: something the cell needs is absent. `missing` names it; nothing is claimed or lost."""

    def __init__(self, *missing: str) -> None:
        super().__init__("; ".join(missing))
        self.missing = missing


class Inconclusive(Exception):  # noqa: N818 - likewise
    """Raised by a check: a precondition of its measurement does not hold, so the number would mean nothing."""


class Context(Protocol):
    """What the runner hands to a check. One per run of a check in a cell (and one more per control)."""

    cell: Cell
    project: Path  # the project's root folder
    scratch: Path  # empty, private to this run, removed after it
    control: str  # name of the planted control, "" in the healthy run

    @property
    def seed(self) -> int:
        """The run's seed. Reading it marks the record as seeded."""
        ...

    def subject(self, kind: str, build: Callable[[], Any]) -> Any:
        """The subject built once per worker and kept: `build()` is called the first time `kind` is asked for."""
        ...

    def subject_path(self, name: str | None = None) -> Path:
        """Path of the cell's (or a named) subject from `[tool.pv.subjects]` or `PV_SUBJECT_<NAME>`; else Blocked."""
        ...

    def run_pv(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        cwd: Path | None = None,
    ) -> Completed:
        """Run the public `pv` command of this very installation as a user would; stdout and stderr are captured.

        In the project's root, or in `cwd`.
        """
        ...

    def bind(self, path: Path) -> None:
        """The result depends on this file (a fixture, a model): its digest goes into the record."""
        ...

    def note(self, text: str) -> None:
        """A line for the record and the report."""
        ...

    def agree(self, oracle: str, version: str, agreed: bool) -> None:
        """What an independent oracle said of the same input in this run."""
        ...

    def exhaust(self, bound: int, cases: int, complete: bool) -> None:
        """For a bounded proof: how many cases were run and whether that was all of the bound."""
        ...

    def progress(self, done: int, total: int, what: str = "") -> None:
        """For the progress line; throttled."""
        ...


def passes(test: Callable[..., Any], *arguments: Any, **named: Any) -> bool:
    """Whether a test's function comes through: an assertion (or `pytest.fail`) in it is the measurement, not a crash.

    Measure the result as 0 or 1. A `pytest.skip` in it is Blocked; whatever else it raises is an ERROR of the check.
    """
    pytest = sys.modules.get("pytest")  # a test that skips or fails by pytest's words has imported it
    failed: tuple[type[BaseException], ...] = (AssertionError, *((pytest.fail.Exception,) if pytest else ()))
    skipped: tuple[type[BaseException], ...] = (pytest.skip.Exception,) if pytest else ()
    try:
        test(*arguments, **named)
    except failed:
        return False
    except skipped as why:
        raise Blocked(str(why)) from None
    return True


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished command."""

    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


CheckFunction = Callable[[Any], "Measurement | Sequence[Measurement]"]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Registration:
    """What a decorator attached to a function, as `function.__pv__`."""

    id: str
    level: Level
    cost: Cost | None  # None: the contract's `cost` holds
    controls: tuple[Control, ...]
    attacks: tuple[str, ...]
    data: tuple[str, ...]  # further files of the closure (globs from the project root), such as shaders and fixtures
    bound: int | None  # for a harness
    timeout: float  # seconds


def falsifier(
    id: str,  # noqa: A002 - the contract's own word
    *,
    level: str,
    controls: Sequence[Control],
    attacks: Sequence[Any] = (),
    data: Sequence[str] = (),
    cost: str | None = None,
    timeout: float = 300.0,
) -> Callable[[F], F]:
    """Register a function as the check of `id`. `attacks`: the functions under attack (objects or dotted names)."""
    return _register(id, level, controls, attacks, data, cost, timeout, None)


def harness(
    id: str,  # noqa: A002 - the contract's own word
    *,
    bound: int,
    level: str = "algorithm",
    controls: Sequence[Control],
    attacks: Sequence[Any] = (),
    data: Sequence[str] = (),
    cost: str | None = None,
    timeout: float = 300.0,
) -> Callable[[F], F]:
    """Register a function as the bounded proof `KH-…`; it must call `context.exhaust` with the count of cases."""
    return _register(id, level, controls, attacks, data, cost, timeout, bound)


def _register(
    id: str,  # noqa: A002
    level: str,
    controls: Sequence[Control],
    attacks: Sequence[Any],
    data: Sequence[str],
    cost: str | None,
    timeout: float,
    bound: int | None,
) -> Callable[[F], F]:
    def attach(function: F) -> F:
        names = tuple(a if isinstance(a, str) else f"{a.__module__}.{a.__qualname__}" for a in attacks)
        registration = Registration(
            id, Level(level), Cost(cost) if cost else None, tuple(controls), names, tuple(data), bound, timeout
        )
        function.__pv__ = (*getattr(function, "__pv__", ()), registration)  # type: ignore[attr-defined]  # our mark
        return function

    return attach
