"""A report -> SARIF 2.1.0 for code scanning.

OASIS Static Analysis Results Interchange Format 2.1.0; limits as GitHub's code scanning states them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Final, TextIO
from urllib.parse import quote

from pv.diagnostics.model import Diagnostic, Severity, Span
from pv.diagnostics.render import Look
from pv.diagnostics.report import CodeHelp, Report, details, ordinals
from pv.diagnostics.words import put_json, safe

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MOST_RESULTS: Final = 25_000
FINGERPRINT: Final = "pvFinding/v1"

_LEVELS: Final[dict[Severity, str]] = {
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.INFO: "note",
    Severity.OFF: "none",
}
_WEIGHT: Final[list[Severity]] = [Severity.ERROR, Severity.WARNING, Severity.INFO, Severity.OFF]


def render(report: Report, stream: TextIO, look: Look, environ: Mapping[str, str]) -> None:
    """One SARIF log and a line end."""
    put_json(stream, as_data(report))


def as_data(report: Report) -> dict[str, Any]:
    """The log that is written, as plain data; the heaviest findings stay when there are more than the limit."""
    numbered = list(zip(report.diagnostics, ordinals(report.diagnostics), strict=True))
    numbered.sort(key=lambda pair: _WEIGHT.index(pair[0].severity))  # stable: reading order within a severity
    kept = numbered[:MOST_RESULTS]
    ids = sorted({each.code for each, _ in kept})
    index = {code: number for number, code in enumerate(ids)}
    invocation: dict[str, Any] = {"executionSuccessful": True}
    if len(numbered) > len(kept):
        note = f"{len(numbered) - len(kept)} of {len(numbered)} findings are left out: a run takes {MOST_RESULTS}"
        invocation["toolExecutionNotifications"] = [{"level": "warning", "message": {"text": note}}]
    driver: dict[str, Any] = {"name": "pv", "rules": [_rule(code, report.codes.get(code)) for code in ids]}
    if report.version:
        driver["version"] = report.version
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "invocations": [invocation],
        "columnKind": "unicodeCodePoints",
        "results": [_result(each, number, index[each.code], report.sources) for each, number in kept],
    }
    if report.summary.text:
        run["properties"] = {"summary": safe(report.summary.text)}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: str, known: CodeHelp | None) -> dict[str, Any]:
    title = known.title if known else code
    why = known.why if known and known.why else title
    fix = f"\n\nFix: {known.fix}" if known and known.fix else ""
    return {
        "id": code,
        "shortDescription": {"text": safe(title)},
        "fullDescription": {"text": safe(why)},
        "help": {"text": safe(f"{why}{fix}\n\nMore: pv explain {code}")},
    }


def _result(each: Diagnostic, number: int, rule: int, sources: Mapping[str, str]) -> dict[str, Any]:
    parts = [each.message, *details(each)]
    location = {"artifactLocation": {"uri": _uri(each.path)}, "region": _region(each.span, sources.get(each.path))}
    result: dict[str, Any] = {
        "ruleId": each.code,
        "ruleIndex": rule,
        "level": _LEVELS[each.severity],
        "message": {"text": safe("; ".join(parts))},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {FINGERPRINT: fingerprint(each, number)},
    }
    if each.edits:
        result["fixes"] = [_fix(each)]
    return result


def fingerprint(each: Diagnostic, number: int) -> str:
    """What makes a finding the same one tomorrow: rule, contract id and `where`, not the line it happens to be on."""
    parts = (each.code, PurePath(each.path).stem, each.where, str(number))
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _region(span: Span | None, text: str | None) -> dict[str, Any]:
    if span is None:
        return {"startLine": 1}  # code scanning drops a result without a line
    region: dict[str, Any] = {
        "startLine": max(span.line, 1),
        "startColumn": max(span.column, 1),
        "endLine": max(span.end_line, 1),
        "endColumn": max(span.end_column, 1),
    }
    snippet = "" if text is None else safe(text[span.start : span.end])
    if snippet.strip() and len(snippet) <= 400:
        region["snippet"] = {"text": snippet}
    return region


def _fix(each: Diagnostic) -> dict[str, Any]:
    replacements = [
        {
            "deletedRegion": {"charOffset": edit.start, "charLength": edit.end - edit.start},
            "insertedContent": {"text": safe(edit.text)},
        }
        for edit in each.edits
    ]
    change = {"artifactLocation": {"uri": _uri(each.path)}, "replacements": replacements}
    return {"description": {"text": safe(each.help) or "mechanical fix"}, "artifactChanges": [change]}


def _uri(path: str) -> str:
    if PurePath(path).is_absolute():
        return Path(path).as_uri()
    return quote(PurePath(path).as_posix(), safe="/", errors="backslashreplace") or "."
