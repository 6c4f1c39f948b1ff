"""The value that every finding is: a code, a place, what was expected, what was found, what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How much a diagnostic weighs. `off` is only ever a profile's setting, never a diagnostic's severity."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    OFF = "off"


class Span(NamedTuple):
    """A half-open range of a text. Offsets count characters from 0; lines and columns count from 1."""

    start: int
    end: int
    line: int
    column: int
    end_line: int
    end_column: int


class TextEdit(NamedTuple):
    """Replace `text[start:end]` (character offsets) by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding.

    `message` is the sentence; `expected` and `found` are its two halves where they exist; `where` names the place in
    the file's own terms ("falsification_tests[4] (FALSIFY-CPU-GPU-005)"); `help` says what to do next; `edits` is the
    mechanical fix that `pv validate --fix` applies.
    """

    code: str
    severity: Severity
    path: str
    message: str
    span: Span | None = None
    expected: str = ""
    found: str = ""
    where: str = ""
    help: str = ""
    edits: tuple[TextEdit, ...] = field(default=())
