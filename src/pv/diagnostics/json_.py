"""A report -> JSON for programs. The shape is stable: fields are added, never renamed or removed.

    {"format": "pv-diagnostics", "formatVersion": 1, "tool": {"name": "pv", "version": "…"},
     "diagnostics": [{"code", "severity", "path", "message", "span", "expected", "found", "where", "help", "edits"}],
     "summary": {"text", "files", "errors", "warnings", "infos", …}}

`span` is null or {"start", "end", "line", "column", "endLine", "endColumn"}: offsets count characters from 0, without a
byte order mark; lines and columns count from 1; the end is exclusive. `edits` are {"start", "end", "text"}. `summary`
has whatever else the command counted. Halves of surrogate pairs are written as escapes: decoders differ on them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TextIO

from pv.diagnostics.model import Diagnostic, Severity
from pv.diagnostics.render import Look
from pv.diagnostics.report import Report
from pv.diagnostics.words import put_json

FORMAT_VERSION = 1

_SURROGATE = re.compile("[\ud800-\udfff]")


def render(report: Report, stream: TextIO, look: Look, environ: Mapping[str, str]) -> None:
    """One JSON object and a line end."""
    put_json(stream, _clean(as_data(report)))


def as_data(report: Report) -> dict[str, Any]:
    """The object that is written, as plain data."""
    counted = {
        "files": len(report.by_file()),
        "errors": report.count(Severity.ERROR),
        "warnings": report.count(Severity.WARNING),
        "infos": report.count(Severity.INFO),
    }
    return {
        "format": "pv-diagnostics",
        "formatVersion": FORMAT_VERSION,
        "tool": {"name": "pv", "version": report.version},
        "diagnostics": [_diagnostic(each) for each in report.diagnostics],
        "summary": {"text": report.summary.text, **counted, **report.summary.counts},
    }


def _diagnostic(each: Diagnostic) -> dict[str, Any]:
    span = each.span
    return {
        "code": each.code,
        "severity": each.severity.value,
        "path": each.path,
        "message": each.message,
        "span": None
        if span is None
        else {
            "start": span.start,
            "end": span.end,
            "line": span.line,
            "column": span.column,
            "endLine": span.end_line,
            "endColumn": span.end_column,
        },
        "expected": each.expected,
        "found": each.found,
        "where": each.where,
        "help": each.help,
        "edits": [{"start": edit.start, "end": edit.end, "text": edit.text} for edit in each.edits],
    }


def _clean(value: Any) -> Any:
    """`value` without what JSON or UTF-8 cannot hold: lone surrogates become escapes, NaN and infinity strings."""
    if isinstance(value, str):
        return _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {_clean(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value
