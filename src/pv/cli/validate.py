"""`pv validate`: contracts -> findings -> exit code."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TextIO

import click

from pv import __version__
from pv.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pv.contract.load import Discovery, Loaded
    from pv.contract.project import Project
    from pv.diagnostics.model import Diagnostic
    from pv.diagnostics.render import Look
    from pv.rules.facts import FactsByClaim
    from pv.rules.validation import Validation

# Below this many files reading them costs less than a folder on the disk of somebody who only wanted an answer.
REMEMBER_FROM = 100


class Options(NamedTuple):
    """What the command line asked for."""

    paths: tuple[str, ...]
    output_format: str
    output_file: Path | None
    profile: str | None
    fail_on: str
    exit_zero: bool
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    against: str | None
    cache: bool
    colour: str


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, type=click.Path(path_type=str))
@click.option(
    "--output-format",
    type=click.Choice(["text", "json", "sarif", "github", "junit"]),
    default="text",
    show_default=True,
    help="Of the findings on standard output.",
)
@click.option("--output-file", type=click.Path(path_type=Path, dir_okay=False), help="Write the findings there.")
@click.option("--profile", type=click.Choice(["strict", "compat"]), envvar="PV_PROFILE", help="Which severities hold.")
@click.option(
    "--fail-on", type=click.Choice(["error", "warning", "never"]), default="error", show_default=True,
    help="The least severity that makes the exit code 1.",
)  # fmt: skip
@click.option("--exit-zero", is_flag=True, help="Exit 0 whatever is found (not when nothing was looked at).")
@click.option("--select", multiple=True, metavar="CODES", help="Only codes that begin so; comma-separated, repeatable.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Not codes that begin so; comma-separated, repeatable.")
@click.option("--against", metavar="REF", help="Compare versions with this git revision.")
@click.option("--fix", is_flag=True, help="Apply the mechanical fixes, then look again.")
@click.option("--watch", is_flag=True, help="Look again whenever a file changes, until Ctrl-C.")
@click.option("--no-cache", is_flag=True, help="Read every file, remember nothing.")
@click.option(
    "--color", "colour", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True,
    help="NO_COLOR and FORCE_COLOR are honoured under auto.",
)  # fmt: skip
@click.pass_context
def validate(
    ctx: click.Context, paths: tuple[str, ...], output_format: str, output_file: Path | None, profile: str | None,
    fail_on: str, exit_zero: bool, select: tuple[str, ...], ignore: tuple[str, ...], against: str | None, fix: bool,
    watch: bool, no_cache: bool, colour: str,
) -> None:  # fmt: skip
    """Check contracts: their shape, what they refer to, and whether their statuses were earned.

    PATHS are files or folders; without any, the `contracts` of [tool.pv]. Runs no code from a contract and no check.

    \b
    Exit codes: 0 no error, 1 findings, 2 usage or settings, 3 pv failed, 5 nothing was looked at.

    \b
    Examples:
      pv validate
      pv validate contracts/x-v1.yaml --profile strict
      pv validate contracts --output-format sarif --output-file pv.sarif
      pv validate --against origin/main
      pv validate --fix
    """
    options = Options(
        paths, output_format, output_file, profile, fail_on, exit_zero, _codes(select), _codes(ignore), against,
        not no_cache, colour,
    )  # fmt: skip
    if watch:
        watch_and_repeat(options, fix=fix)
    # One look allocates a lot, frees it at once and makes no cycles: looking for some costs a hundredth of the time
    # while it lasts, and three hundredths more when the interpreter ends.
    gc.disable()
    atexit.register(gc.freeze)
    ctx.exit(int(run(options, fix=fix)))


def run(options: Options, *, fix: bool = False) -> ExitCode:
    """One look at the contracts: findings on standard output, the code for the shell."""
    from pv.contract.load import discover

    project = project_of(options)
    if fix:
        fixed = _fix(options, project)
        click.echo(fixed, err=True)
    discovery = discover(options.paths, project)
    validation = _validated(options, project, discovery)
    with _output(options.output_file) as stream:
        _report(options, validation, stream)
    if validation.left_out:
        click.echo(f"{validation.left_out} YAML files that are no contracts were left out", err=True)
    return _exit_code(options, validation)


def project_of(options: Options) -> Project:
    """The project that the paths lie in (their common folder), else that of the working directory.

    Raises click.UsageError for a setting that cannot be used.
    """
    from pv.contract.project import ConfigError, find

    try:
        return find(_common_folder(options.paths), {"profile": options.profile})
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def _common_folder(paths: Sequence[str]) -> Path:
    existing = [os.path.abspath(path) for path in paths if os.path.lexists(path)]
    try:
        return Path(os.path.commonpath(existing)) if existing else Path.cwd()
    except ValueError:  # different drives
        return Path.cwd()


def _validated(options: Options, project: Project, discovery: Discovery) -> Validation:
    from pv.rules import validation
    from pv.rules.cache import Cache

    remember = options.cache and len(discovery.files) >= REMEMBER_FROM
    misfits: list[Diagnostic] = []
    found = validation.validate(
        discovery,
        project,
        lambda project, loaded: evidence_facts(project, loaded, misfits, whole=not options.paths),
        Cache.open(project) if remember else Cache.off(),
        whole=not options.paths,
    )
    diagnostics = [*found.diagnostics, *misfits]
    if options.against is not None:
        diagnostics += _history(options.against, discovery, project)
    chosen = options.select or options.ignore
    kept = tuple(each for each in diagnostics if _wanted(each, options)) if chosen else tuple(diagnostics)
    modules = {each.path: _source(project.root / each.path) for each in misfits}
    return validation.Validation(kept, found.outlines, found.left_out, {**modules, **found.texts})


def _source(path: Path) -> str:
    """The text of a check module, for the excerpt; "" where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def evidence_facts(
    project: Project, loaded: Sequence[Loaded], misfits: list[Diagnostic], *, whole: bool
) -> FactsByClaim:
    """What the records and the checks on disk say of the claims. Nothing is run and no check is imported.

    Adds to `misfits` what is wrong between checks and contracts. Only a strict project's contracts are all here.
    """
    from pv.contract.project import Profile
    from pv.evidence.facts import facts_for
    from pv.falsify.discovery import find_checks
    from pv.falsify.fit import misfits as found

    checks = find_checks(project)
    misfits += found(checks, loaded, whole=whole and project.profile is Profile.STRICT)
    return facts_for(project, loaded, checks)


def _history(revision: str, discovery: Discovery, project: Project) -> Iterator[Diagnostic]:
    from pv.contract.load import load

    for path in discovery.files:
        yield from _history_of(load(path, project), revision, project)


def _history_of(new: Loaded, revision: str, project: Project) -> list[Diagnostic]:
    """What the versions of one contract say of its changes since the revision; nothing where it is new."""
    from pv.contract.load import load_at
    from pv.contract.revisions import RevisionError
    from pv.rules.table import check_history

    if new.contract is None:
        return []
    try:
        old = load_at(revision, new.contract, project)
    except RevisionError as error:
        raise click.UsageError(str(error)) from error
    return [] if old is None else list(check_history(old, new, project))


def _codes(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(code.strip().upper() for text in given for code in text.split(",") if code.strip())


def _wanted(diagnostic: Diagnostic, options: Options) -> bool:
    selected = not options.select or diagnostic.code.startswith(options.select)
    return selected and not (options.ignore and diagnostic.code.startswith(options.ignore))


def _exit_code(options: Options, validation: Validation) -> ExitCode:
    from pv.diagnostics.model import Severity

    if not validation.outlines:
        return ExitCode.NOTHING
    failing = {"error": (Severity.ERROR,), "warning": (Severity.ERROR, Severity.WARNING), "never": ()}[options.fail_on]
    found = any(validation.count(severity) for severity in failing)
    return ExitCode.FINDINGS if found and not options.exit_zero else ExitCode.OK


# ------------------------------------------------------------------------------------------ output


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
    except OSError as error:
        raise click.FileError(str(path), error.strerror or str(error)) from error


def _report(options: Options, validation: Validation, stream: TextIO) -> None:
    from pv.diagnostics.render import render
    from pv.diagnostics.report import CodeHelp, Summary
    from pv.rules.table import BY_CODE
    from pv.rules.validation import as_counts

    named = {each.code for each in validation.diagnostics}
    for_people = options.output_format == "text"
    render(
        validation.diagnostics,
        validation.texts,
        options.output_format,
        stream,
        summary=Summary("\n".join(_last_lines(validation)), {} if for_people else as_counts(validation)),
        files=[outline.display for outline in validation.outlines],
        codes={code: CodeHelp(rule.title, rule.why, rule.fix) for code, rule in BY_CODE.items() if code in named},
        version=__version__,
        look=_look(options.colour, stream),
    )


def _last_lines(validation: Validation) -> list[str]:
    """The denominator; before it, for one file, the two lines that users of the reference look for."""
    from pv.diagnostics.model import Severity
    from pv.rules.validation import summary

    lines = []
    if len(validation.outlines) == 1:
        errors = validation.count(Severity.ERROR)
        lines.append(f"{errors} error(s), {validation.count(Severity.WARNING)} warning(s)")
        if not errors:
            noun = _NOUNS.get(validation.outlines[0].artifact, "Contract")
            lines.append(f"{noun} is valid.")
    return [*lines, summary(validation)]


_NOUNS: Mapping[str, str] = {
    "contract": "Contract",
    "binding": "Binding registry (kind: binding)",
    "publish-manifest": "Publish manifest (kind: publish-manifest)",
}


def _look(colour: str, stream: IO[str]) -> Look:
    import shutil

    from pv.diagnostics.render import Look

    if colour == "auto":
        forced, forbidden = os.environ.get("FORCE_COLOR"), os.environ.get("NO_COLOR")
        on = bool(forced) or (not forbidden and stream.isatty() and os.environ.get("TERM") != "dumb")
    else:
        on = colour == "always"
    return Look(on, shutil.get_terminal_size((120, 24)).columns)


# ------------------------------------------------------------------------------------------ --fix


def _fix(options: Options, project: Project) -> str:
    """Apply what is mechanical; says how much was done. A file that would end with more errors is left alone."""
    from pv.contract.load import concerns_us, discover, load

    discovery = discover(options.paths, project)
    fixes, files = 0, 0
    for path in discovery.files:
        loaded = load(path, project)
        if loaded.document is not None and (path in discovery.explicit or concerns_us(loaded)):
            done = _fix_one(loaded, options, project)
            fixes, files = fixes + done, files + bool(done)
    return f"{fixes} fixes in {files} files" if fixes else "nothing to fix"


def _fix_one(loaded: Loaded, options: Options, project: Project) -> int:
    """How many fixes were written to the file."""
    from pv.contract.load import load_bytes
    from pv.diagnostics.model import Severity, TextEdit
    from pv.document import edits, files
    from pv.rules.table import check_file

    document = loaded.document
    if document is None:
        return 0
    before = [*check_file(loaded, project).diagnostics]
    if options.against is not None:
        before += _history_of(loaded, options.against, project)
    chosen: list[TextEdit] = []
    for diagnostic in before:
        if _wanted(diagnostic, options) and diagnostic.edits and not _overlap(chosen, diagnostic.edits):
            chosen += diagnostic.edits
    if not chosen:
        return 0
    content = document.encode(edits.apply(document.text, chosen))
    after = check_file(load_bytes(content, loaded.path, project), project).diagnostics
    new = {each.code for each in after if each.severity is Severity.ERROR} - {each.code for each in before}
    if new:
        click.echo(f"{loaded.display}: not fixed, the fixes would lead to {', '.join(sorted(new))}", err=True)
        return 0
    try:
        files.compare_and_swap(loaded.path, document.sha256, content)
    except files.NotWritten as error:
        click.echo(str(error), err=True)
        return 0
    return len(chosen)


def _overlap(chosen: Sequence[tuple[int, int, str]], edits: Sequence[tuple[int, int, str]]) -> bool:
    return any(start < end_ and start_ < end for start_, end_, _ in chosen for start, end, _ in edits)


# ------------------------------------------------------------------------------------------ --watch


def watch_and_repeat(options: Options, *, fix: bool) -> None:
    """Look again whenever a file of the selection, its settings or its evidence changes. Ends with Ctrl-C."""
    from pv.cli.watching import wait_for_a_change

    previous: dict[Path, tuple[int, int]] | None = None
    while True:
        state = _state_of(options)
        if state != previous:
            previous = state
            click.clear()
            code = run(options, fix=fix)
            click.echo(f"exit code {int(code)}; watching {len(state)} files, Ctrl-C ends", err=True)
            continue  # something may have changed meanwhile
        wait_for_a_change({path.parent for path in state} | {project_of(options).evidence})


def _state_of(options: Options) -> dict[Path, tuple[int, int]]:
    """(time of change, size) of everything that the answer depends on."""
    from pv.contract.load import discover

    project = project_of(options)
    files = [
        *discover(options.paths, project).files,
        project.root / "pyproject.toml",
        *project.falsifiers.glob("*.py"),
        *project.evidence.glob("*/*.json"),
    ]
    found = {}
    for path in files:
        with contextlib.suppress(OSError):
            facts = path.stat()
            found[path] = (facts.st_mtime_ns, facts.st_size)
    return found
