"""`pv gate`: may this be merged? Every section of the answer, and an exit code for CI."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pv import __version__
from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_here

if TYPE_CHECKING:
    from pv.falsify.gate import GateReport

MARKS = {"passed": "ok  ", "debt": "debt", "unknown": "?   ", "failed": "FAIL"}


@click.command()
@click.option("--against", metavar="REF", default="", help="Compare meanings and versions with this git reference.")
@click.option("--release", is_flag=True, help="Refuse debt and whatever could not be known.")
@click.option("--no-run", is_flag=True, help="Run no check; judge what is written only.")
@click.option("--changed", is_flag=True, help="Of the quick checks, run only those that the branch concerns.")
@click.option("--allow-blocked", is_flag=True, help="Exit 0 although something could not be run here.")
@click.option("-j", "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Worker processes.")
@click.option(
    "--output-format",
    type=click.Choice(["text", "json", "sarif", "github", "junit"]),
    default="text",
    show_default=True,
)
def gate(
    against: str, release: bool, no_run: bool, changed: bool, allow_blocked: bool, jobs: int, output_format: str
) -> int:
    """Judge the project as CI does: contracts (strict), records, versions, statuses, quick and stale checks, debt.

    Writes nothing. With --changed (for trees with thousands of checks) a quick check is run only if its contract
    differs from --against, its claim is known to fail, or its evidence is stale or absent. Debt (stale evidence whose
    device is not here) and unknowns are listed and pass; --release refuses them. On GitHub, a summary goes to the
    step's page too.

    \b
    Exit codes: 0 may be merged, 1 may not, 2 a wrong call, 4 something asked for cannot run here.

    \b
    Examples:
      pv gate --against origin/main
      pv gate --against origin/main --output-format github
      pv gate --against origin/main --changed -j 4
      pv gate --release
    """
    from pv.cli.falsify import Talk
    from pv.contract.revisions import RevisionError
    from pv.falsify.gate import Wanted
    from pv.falsify.gate import gate as judge

    if changed and not against:
        raise click.UsageError("--changed needs a reference to tell what changed: add --against REF")
    try:
        with Talk(0) as talk:
            report = judge(project_here(), Wanted(against, release, not no_run, jobs, changed), talk)
    except RevisionError as wrong:
        raise click.UsageError(str(wrong)) from None
    _print(report, output_format)
    if step := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(step).open("a", encoding="utf-8") as page:
            page.write(as_markdown(report))
    if report.failed:
        return ExitCode.FINDINGS
    return ExitCode.BLOCKED if report.blocked and not allow_blocked else ExitCode.OK


def _print(report: GateReport, output_format: str) -> None:
    if output_format == "json":
        click.echo(json.dumps(as_data(report), indent=2, ensure_ascii=False))
        return
    from pv.diagnostics.render import Look, render
    from pv.diagnostics.report import CodeHelp, Summary
    from pv.evidence.verify import CODES as OF_RECORDS
    from pv.falsify.gate import CODES
    from pv.rules.table import BY_CODE

    helps = {code: CodeHelp(e.title, e.why, e.fix) for code, e in {**OF_RECORDS, **CODES}.items()}
    helps |= {code: CodeHelp(rule.title, rule.why, rule.fix) for code, rule in BY_CODE.items()}
    lines = "\n".join(as_lines(report))
    render(
        report.diagnostics,
        report.texts,
        output_format,
        sys.stdout,
        summary=Summary(lines if output_format == "text" else "", {"sections": len(report.sections)}),
        files=sorted(report.texts),
        codes={d.code: helps[d.code] for d in report.diagnostics if d.code in helps},
        version=__version__,
        look=Look(),
    )
    if output_format != "text":
        click.echo(lines, err=True)


def as_lines(report: GateReport) -> Iterator[str]:
    """One line a section, then what is blocked, then the verdict."""
    for section in report.sections:
        yield f"{MARKS[section.standing.value]}  {section.name:10} {section.summary}"
        yield from (f"                  {note}" for note in section.notes)
    yield from (f"blocked  {line}" for line in report.blocked)
    yield verdict(report)


def verdict(report: GateReport) -> str:
    """The last line."""
    owed = [section.name for section in report.sections if section.standing.value in ("debt", "unknown")]
    tail = f" (owed or unknown: {', '.join(owed)})" if owed else ""
    if report.failed:
        failed = [section.name for section in report.sections if section.standing.value == "failed"]
        return f"gate: closed: {', '.join(failed)}{tail}" if failed else f"gate: closed to a release{tail}"
    return f"gate: open{tail}"


def as_data(report: GateReport) -> dict[str, object]:
    """The same for programs."""
    return {
        "open": not report.failed,
        "release": report.release,
        "blocked": list(report.blocked),
        "sections": [
            {
                "name": section.name,
                "standing": section.standing.value,
                "summary": section.summary,
                "notes": list(section.notes),
                "findings": [
                    {
                        "code": d.code,
                        "severity": d.severity.value,
                        "path": d.path,
                        "line": d.span.line if d.span else None,
                        "message": d.message,
                        "help": d.help,
                    }
                    for d in section.diagnostics
                ],
            }
            for section in report.sections
        ],
    }


def as_markdown(report: GateReport) -> str:
    """A page that a reviewer can read: a table of the sections, then every finding."""
    lines = [f"### pv {verdict(report)}", "", "| section | | |", "| --- | --- | --- |"]
    for section in report.sections:
        lines.append(f"| {section.name} | {section.standing.value} | {_cell(section.summary)} |")
    for section in report.sections:
        found = [*section.diagnostics]
        if found or section.notes:
            lines += ["", f"**{section.name}**", ""]
            lines += [f"- {_cell(note)}" for note in section.notes]
        for d in found:
            place = f"{d.path}:{d.span.line}" if d.span else d.path
            lines.append(f"- `{d.code}` {d.severity.value} `{place}`: {_cell(d.message)}")
    if report.blocked:
        lines += ["", "**blocked here**", "", *(f"- {_cell(line)}" for line in report.blocked)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
