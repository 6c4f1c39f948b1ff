"""A report -> GitHub workflow commands, within the caps, with the whole list in the step's summary.

GitHub shows at most 10 error and 10 warning annotations of a step and drops the rest in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TextIO

from pv.diagnostics.model import Diagnostic, Severity
from pv.diagnostics.render import Look
from pv.diagnostics.report import Report, details
from pv.diagnostics.words import one_line, put, safe

MOST_OF_A_KIND: Final = 10
MOST_SUMMARY_BYTES: Final = 900_000  # a step's summary is dropped whole above 1 MiB

_COMMANDS: Final[dict[Severity, str]] = {
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.INFO: "notice",
    Severity.OFF: "debug",
}
# Characters that Markdown or HTML would act on, as references to themselves.
_MARKUP: Final = str.maketrans({character: f"&#{ord(character)};" for character in "&<>\\`*_{}[]|~@"})


def render(report: Report, stream: TextIO, look: Look, environ: Mapping[str, str]) -> None:
    """Annotations, the summary, and as the last line how many findings are not among the annotations."""
    shown: list[Diagnostic] = []
    for severity in (Severity.ERROR, Severity.WARNING, Severity.INFO):
        shown += [each for each in report.diagnostics if each.severity == severity][:MOST_OF_A_KIND]
    for each in shown:
        put(stream, annotation(each) + "\n")
    if report.summary.text:
        put(stream, safe(report.summary.text) + "\n")
    where = _write_step_summary(report, environ.get("GITHUB_STEP_SUMMARY", ""))
    left = len(report.diagnostics) - len(shown)
    if left:
        put(stream, f"{left} more {where}\n")


def annotation(each: Diagnostic) -> str:
    """One workflow command."""
    properties = {"file": each.path}
    if each.span is not None:
        properties |= {"line": str(each.span.line), "endLine": str(each.span.end_line)}
        if each.span.line == each.span.end_line:  # columns are refused on annotations of several lines
            properties |= {"col": str(each.span.column), "endColumn": str(each.span.end_column)}
    properties["title"] = each.code
    fields = ",".join(f"{name}={_escape_property(safe(value))}" for name, value in properties.items())
    text = "\n".join([each.message, *details(each)])
    return f"::{_COMMANDS[each.severity]} {fields}::{_escape(safe(text))}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape(text).replace(":", "%3A").replace(",", "%2C")


def _write_step_summary(report: Report, path: str) -> str:
    """Append the whole list to the step's summary; say where the rest of the findings is."""
    if not path:
        return "are not shown: GITHUB_STEP_SUMMARY is not set, and a step shows 10 of a kind"
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(step_summary(report))
    except OSError as error:
        return f"are not shown: the step summary cannot be written ({error.strerror})"
    return "in the step summary"


def step_summary(report: Report) -> str:
    """A table in Markdown of every finding, cut before GitHub would drop it."""
    lines = ["### pv", "", _cell(report.summary.text), ""]
    if not report.diagnostics:
        return "\n".join(lines) + "\n"
    lines += ["| place | code | severity | message |", "| --- | --- | --- | --- |"]
    size = sum(len(line.encode()) + 1 for line in lines)
    for number, each in enumerate(report.diagnostics):
        line = "" if each.span is None else f":{each.span.line}"
        row = f"| {_cell(each.path)}{line} | {each.code} | {each.severity} | {_cell(each.message)} |"
        size += len(row.encode()) + 1
        if size > MOST_SUMMARY_BYTES:
            lines += ["", f"{len(report.diagnostics) - number} more do not fit here; ask for `--output-format json`."]
            break
        lines.append(row)
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text as a cell of a table: on one line, and no markup."""
    return one_line(text).translate(_MARKUP)
