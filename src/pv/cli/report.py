"""`pv report`: contracts and records -> one HTML file, or Markdown for a pull request."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_of, tell_empty

if TYPE_CHECKING:
    from pv.contract.project import Project
    from pv.report.story import Story

DEFAULT = "pv-report.html"
STDOUT = "-"


@click.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help=f"Where to; {STDOUT} is stdout.  [default: {DEFAULT} for html, stdout for md]",
)
@click.option("--format", "kind", type=click.Choice(["html", "md"]), default="html", show_default=True)
def report(paths: tuple[str, ...], output: str | None, kind: str) -> int:
    """Write where every claim stands, with its measurements, evidence and history, as one page.

    html: one file that needs no network, for a browser. md: compact Markdown for a pull request. The same tree gives
    the same bytes. Reads records and source; runs nothing. The HTML needs the extra `report`.

    \b
    Exit codes: 0, 2 a wrong call or no jinja2, 3 the file could not be written, 5 no contract.
    Examples:
      pv report
      pv report --output public/contracts.html contracts/
      pv report --format md >> "$GITHUB_STEP_SUMMARY"
    """
    project = project_of(paths)
    story = _story(project, paths)
    for path in story.standing.unsound:
        click.echo(f"{path}: not a sound contract, so its claims are not counted; see `pv validate {path}`", err=True)
    if not story.contracts:
        tell_empty(project, paths)
        return ExitCode.NOTHING
    content = _html(story) if kind == "html" else _markdown(story)
    return _write(content, output or (DEFAULT if kind == "html" else STDOUT), story)


def _story(project: Project, paths: tuple[str, ...]) -> Story:
    from pv import __version__
    from pv.contract.load import load_all
    from pv.evidence.ledger import Ledger
    from pv.falsify.discovery import find_checks
    from pv.report.story import gather

    checks = find_checks(project)
    return gather(project, load_all(paths, project), Ledger.open(project, checks), checks, __version__)


def _html(story: Story) -> str:
    try:
        from pv.report import html
    except ModuleNotFoundError as absent:
        if absent.name not in ("jinja2", "markupsafe"):
            raise
        raise click.UsageError(
            f"an HTML report needs the package {absent.name}, which is not installed: "
            "pip install 'provable-contracts-pv[report]', or take --format md"
        ) from None
    return html.page(story)


def _markdown(story: Story) -> str:
    from pv.report import markdown

    return markdown.page(story)


def _write(content: str, output: str, story: Story) -> int:
    from pv.document.files import NotWritten, replace_atomically

    data = content.encode()
    if output == STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return ExitCode.OK
    path = Path(output)
    try:
        if path.is_dir():
            raise NotWritten(path, "it is a folder", f"name a file in it: {path / DEFAULT}")
        replace_atomically(path, data)
    except NotWritten as refused:
        click.echo(str(refused), err=True)
        return ExitCode.FAILURE
    claims, contracts = len(story.claims), len(story.contracts)
    click.echo(f"{path}: {claims} claims in {contracts} contracts, {len(data):,} bytes", err=True)
    return ExitCode.OK
