"""Diagnostics -> one of five formats on a stream. Nothing but the format's own text goes there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from importlib import import_module
from typing import Final, NamedTuple, Protocol, TextIO

from pv.diagnostics.model import Diagnostic
from pv.diagnostics.report import CodeHelp, Report, Summary, in_reading_order


class Format(StrEnum):
    """The values of `--output-format`."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"
    JUNIT = "junit"


class Look(NamedTuple):
    """How text for people is laid out; the caller decides (`--color`, NO_COLOR, FORCE_COLOR, COLUMNS)."""

    colour: bool = False
    width: int = 120


class Renderer(Protocol):
    """Writes a report to a stream."""

    def __call__(self, report: Report, stream: TextIO, look: Look, environ: Mapping[str, str]) -> None: ...


# The modules are imported when their format is asked for.
RENDERERS: Final[dict[Format, str]] = {
    Format.TEXT: "pv.diagnostics.text",
    Format.JSON: "pv.diagnostics.json_",
    Format.SARIF: "pv.diagnostics.sarif",
    Format.GITHUB: "pv.diagnostics.github",
    Format.JUNIT: "pv.diagnostics.junit",
}


def render(
    diagnostics: Iterable[Diagnostic],
    sources: Mapping[str, str],
    format: Format | str,  # noqa: A002 - the word that users know
    stream: TextIO,
    *,
    summary: Summary | Mapping[str, object] | str = "",
    files: Iterable[str] = (),
    codes: Mapping[str, CodeHelp] | None = None,
    version: str = "",
    look: Look | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Write `diagnostics` to `stream`.

    `sources` maps a path to its text (for excerpts); `files` are all files that were looked at, so that formats which
    count (JUnit) can name those without findings; `codes` gives the help of a code (SARIF). `environ` is read for
    GITHUB_STEP_SUMMARY alone. Raises ValueError for an unknown format.
    """
    report = Report(
        in_reading_order(diagnostics), sources, _summary(summary), tuple(dict.fromkeys(files)), codes or {}, version
    )
    renderer: Renderer = import_module(RENDERERS[Format(format)]).render
    renderer(report, stream, look or Look(), os.environ if environ is None else environ)


def _summary(given: Summary | Mapping[str, object] | str) -> Summary:
    if isinstance(given, Summary):
        return given
    if isinstance(given, str):
        return Summary(given)
    return Summary(str(given.get("text", "")), {key: value for key, value in given.items() if key != "text"})
