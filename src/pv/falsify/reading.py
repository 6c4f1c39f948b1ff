"""Source text of one check module -> the checks it registers, by syntax alone: nothing is imported.

The arguments of `@falsifier`, `@harness` and `Control` must be literals; `attacks` may also be names that the module
imports. Whatever is not written out is a diagnostic with its place.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pv.contract.vocabulary import Cost, DeviceClass, Level
from pv.diagnostics.model import Diagnostic, Severity, Span
from pv.evidence.source_meaning import statements

if TYPE_CHECKING:
    from pv.contract.claims import Family

UNREADABLE, NOT_LITERAL, NO_CONTROL = "PV350", "PV351", "PV355"

API = ("pv.falsify", "pv.falsify.api")
FAMILY_OF_DECORATOR: Mapping[str, Family] = {"falsifier": "falsifier", "harness": "harness"}
DECORATOR_WORDS = ("id", "level", "controls", "attacks", "data", "cost", "timeout", "bound")
CONTROL_WORDS = ("name", "plant", "breaks", "cells")
DEFAULT_TIMEOUT = 300.0
FILE_START = Span(0, 0, 1, 1, 1, 1)

Words = TypeVar("Words", bound=StrEnum)


class FoundControl(NamedTuple):
    """A control as its source states it; `plant` is code and stays unread."""

    name: str
    breaks: str
    cells: tuple[str, ...]

    def applies_to(self, device: DeviceClass) -> bool:
        """Whether the defect makes sense on this device. A software Vulkan driver runs what Vulkan runs."""
        names = {device.value} | ({DeviceClass.VULKAN.value} if device is DeviceClass.VULKAN_SW else set())
        return not self.cells or not names.isdisjoint(self.cells)


@dataclass(frozen=True, slots=True)
class FoundCheck:
    """One registration found in source. `module` is the file's stem; `display` its path from the project root."""

    id: str
    module: str
    path: Path
    display: str
    function: str
    family: Family
    level: Level
    cost: Cost | None  # None: the contract's `cost` holds
    bound: int | None  # of a harness
    timeout: float  # seconds, for each run: the healthy one and every control
    controls: tuple[FoundControl, ...]
    attacks: tuple[str, ...]
    data: tuple[str, ...]
    span: Span
    from_plugin: bool = False

    @property
    def entry_point(self) -> str:
        """`falsifiers/pv_self_v1.py:no_torn_file`, as records name a check."""
        return f"{self.display}:{self.function}"

    @property
    def place(self) -> str:
        """`falsifiers/pv_self_v1.py:12`."""
        return f"{self.display}:{self.span.line}"

    def controls_for(self, device: DeviceClass) -> tuple[FoundControl, ...]:
        """The controls that make sense on this device."""
        return tuple(control for control in self.controls if control.applies_to(device))


class Reading(NamedTuple):
    """What one file holds."""

    stem: str
    display: str
    checks: tuple[FoundCheck, ...]
    problems: tuple[Diagnostic, ...]


def read_module(path: Path, display: str, *, from_plugin: bool = False) -> Reading:
    """The checks of one module; a file that is no Python source is a problem, not an exception."""
    try:
        source = path.read_bytes().decode("utf-8-sig")
        tree = ast.parse(source, filename=str(path))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        return Reading(path.stem, display, (), (_unreadable(display, error),))
    reader = _Reader(path, display, source, from_plugin)
    reader.visit(tree)
    return Reading(path.stem, display, tuple(reader.checks), tuple(reader.problems))


def _unreadable(display: str, error: BaseException) -> Diagnostic:
    line = getattr(error, "lineno", None) or 1
    column = getattr(error, "offset", None) or 1
    return Diagnostic(
        UNREADABLE,
        Severity.ERROR,
        display,
        f"the check module cannot be read: {error}",
        Span(0, 0, line, column, line, column),
        expected="Python source in UTF-8",
        help="mend the file; its checks are not seen until then",
    )


class _NotLiteralError(Exception):
    """A part of a registration that is not written out, with its place."""

    def __init__(self, node: ast.AST, expected: str) -> None:
        super().__init__(expected)
        self.node = node
        self.expected = expected


class _Point(NamedTuple):
    offset: int
    column: int


class _Reader:
    """Collects the registrations of one module."""

    def __init__(self, path: Path, display: str, source: str, from_plugin: bool) -> None:
        self.path, self.display, self.from_plugin = path, display, from_plugin
        self.lines = source.splitlines(keepends=True)
        self.starts = list(accumulate(map(len, self.lines), initial=0))  # offset of each line, and of the end
        self.names: dict[str, str] = {}  # local name -> dotted name it was imported as
        self.checks: list[FoundCheck] = []
        self.problems: list[Diagnostic] = []

    def visit(self, tree: ast.Module) -> None:
        for statement in tree.body:
            self.names.update(_imported_names(statement))
        top = {id(statement) for statement in tree.body}
        for node in statements(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for decorator in node.decorator_list:
                    self._decorator(node, decorator, at_top=id(node) in top)

    def _decorator(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, decorator: ast.expr, *, at_top: bool
    ) -> None:
        family = self._family(decorator.func if isinstance(decorator, ast.Call) else decorator)
        if family is None:
            return
        try:
            if not isinstance(decorator, ast.Call):
                raise _NotLiteralError(decorator, f"@{family}(…) with the claim's id and controls")
            if not at_top or not isinstance(node, ast.FunctionDef):
                raise _NotLiteralError(node, "a plain function at the top of the module")
            self._add(node.name, decorator, family)
        except _NotLiteralError as wrong:
            self.problems.append(self._not_literal(wrong))

    def _family(self, called: ast.expr) -> Family | None:
        module, _, word = self._dotted(called).rpartition(".")
        return FAMILY_OF_DECORATOR.get(word) if module in API else None

    def _add(self, function: str, call: ast.Call, family: Family) -> None:
        words = _words(call, DECORATOR_WORDS, positional=1)
        cost = words.get("cost")
        check = FoundCheck(
            id=_text(words.get("id"), call, "the claim's id"),
            module=self.path.stem,
            path=self.path,
            display=self.display,
            function=function,
            family=family,
            level=Level.ALGORITHM if family == "harness" and "level" not in words else _word(Level, words, call),
            cost=None if cost is None or _is_none(cost) else _word(Cost, words, call),
            bound=_whole(words.get("bound"), call) if family == "harness" else None,
            timeout=_seconds(words["timeout"]) if "timeout" in words else DEFAULT_TIMEOUT,
            controls=self._controls(words.get("controls")),
            attacks=tuple(self._attack(item) for item in _items(words.get("attacks"), "functions under attack")),
            data=tuple(_text(item, item, "a path or glob") for item in _items(words.get("data"), "paths")),
            span=self._span(call),
            from_plugin=self.from_plugin,
        )
        self.checks.append(check)
        if not check.controls:
            self.problems.append(self._no_control(check, words.get("controls", call)))

    def _controls(self, node: ast.expr | None) -> tuple[FoundControl, ...]:
        controls = tuple(self._control(item) for item in _items(node, "Control(…)"))
        names = [control.name for control in controls]
        if node is not None and (twice := sorted({name for name in names if names.count(name) > 1})):
            raise _NotLiteralError(node, f"one control for each name; {', '.join(map(repr, twice))} is used twice")
        return controls

    def _control(self, node: ast.expr) -> FoundControl:
        if not isinstance(node, ast.Call) or self._dotted(node.func) not in {f"{module}.Control" for module in API}:
            raise _NotLiteralError(node, 'Control("what is broken", plant=…, breaks="measurement")')
        words = _words(node, CONTROL_WORDS, positional=len(CONTROL_WORDS))
        if "plant" not in words:
            raise _NotLiteralError(node, "plant=…, the context manager that plants the defect")
        cells = tuple(_text(item, item, "a device class") for item in _items(words.get("cells"), "device classes"))
        if strangers := set(cells) - set(DeviceClass):
            raise _NotLiteralError(words["cells"], f"device classes among {', '.join(DeviceClass)}, not {strangers}")
        return FoundControl(
            _text(words.get("name"), node, "the control's name"),
            _text(words.get("breaks"), node, "breaks=, the measurement that the defect must break,"),
            cells,
        )

    def _attack(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
            return node.value
        if dotted := self._dotted(node):
            return dotted
        raise _NotLiteralError(node, "an imported function, or its dotted name as text")

    def _dotted(self, node: ast.expr) -> str:
        """`aprt.write` -> `pv.trace.aprt.write` after `from pv.trace import aprt`; "" when it is no imported name."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.names:
            return ""
        return ".".join([self.names[node.id], *reversed(parts)])

    def _span(self, node: ast.AST) -> Span:
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        end_line, end_column = getattr(node, "end_lineno", line), getattr(node, "end_col_offset", column)
        start, end = self._point(line, column), self._point(end_line, end_column)
        return Span(start.offset, end.offset, line, start.column, end_line, end.column)

    def _point(self, line: int, column: int) -> _Point:
        # ast counts columns in UTF-8 bytes; spans count characters
        before = self.starts[min(line - 1, len(self.lines))]
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        characters = len(text.encode()[:column].decode(errors="ignore"))
        return _Point(before + characters, characters + 1)

    def _not_literal(self, wrong: _NotLiteralError) -> Diagnostic:
        return Diagnostic(
            NOT_LITERAL,
            Severity.ERROR,
            self.display,
            f"the registration of a check must be written out: expected {wrong.expected}",
            self._span(wrong.node),
            expected=wrong.expected,
            found=ast.unparse(wrong.node).partition("\n")[0][:80],
            help="pv reads registrations from source without running it; write the value as a literal",
        )

    def _no_control(self, check: FoundCheck, node: ast.AST) -> Diagnostic:
        return Diagnostic(
            NO_CONTROL,
            Severity.ERROR,
            self.display,
            f"the check of {check.id} has no negative control, so nothing shows that it can fail",
            self._span(node),
            expected="at least one Control(…)",
            where=check.function,
            help="plant a defect that the check must catch",
        )


def _imported_names(node: ast.stmt) -> dict[str, str]:
    names: dict[str, str] = {}
    if isinstance(node, ast.Import):
        for alias in node.names:
            first = alias.name.partition(".")[0]
            names[alias.asname or first] = alias.name if alias.asname else first
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    elif isinstance(node, ast.If | ast.Try):  # `if TYPE_CHECKING:` and guarded imports
        for inner in node.body:
            names |= _imported_names(inner)
    return names


def _words(call: ast.Call, allowed: tuple[str, ...], *, positional: int) -> dict[str, ast.expr]:
    """The arguments of a call by name; `positional`: how many of `allowed` may be given by position."""
    words: dict[str, ast.expr] = {}
    for position, argument in enumerate(call.args):
        if position >= positional or isinstance(argument, ast.Starred):
            raise _NotLiteralError(argument, f"arguments by name from {allowed[positional - 1]!r} on")
        words[allowed[position]] = argument
    for keyword in call.keywords:
        if keyword.arg not in allowed:
            raise _NotLiteralError(keyword.value, f"one of the keywords {', '.join(allowed)}")
        words[keyword.arg] = keyword.value
    return words


def _items(node: ast.expr | None, what: str) -> list[ast.expr]:
    if node is None:
        return []
    if not isinstance(node, ast.List | ast.Tuple) or any(isinstance(item, ast.Starred) for item in node.elts):
        raise _NotLiteralError(node, f"a list of {what}, written out")
    return node.elts


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _text(node: ast.expr | None, place: ast.AST, expected: str) -> str:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or not node.value:
        raise _NotLiteralError(node or place, f"{expected} as literal text")
    return node.value


def _word(words: type[Words], given: Mapping[str, ast.expr], place: ast.AST) -> Words:
    name = words.__name__.lower()
    node = given.get(name)
    value = _text(node, place, name)
    if value not in set(words):
        raise _NotLiteralError(node or place, f"{name} to be one of {', '.join(words)}")
    return words(value)


def _whole(node: ast.expr | None, place: ast.AST) -> int:
    if not isinstance(node, ast.Constant) or type(node.value) is not int or node.value < 1:
        raise _NotLiteralError(node or place, "bound=N, a whole number of at least 1")
    return node.value


def _seconds(node: ast.expr) -> float:
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise _NotLiteralError(node, "timeout=SECONDS, a number above 0")
    return float(value)
