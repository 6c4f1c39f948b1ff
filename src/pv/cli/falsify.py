"""`pv falsify`: run the checks of chosen claims, write what they earned, say what came of it."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_of, tell_empty

if TYPE_CHECKING:
    from pv.contract.project import Project
    from pv.diagnostics.model import Diagnostic
    from pv.falsify.attempt import Attempt
    from pv.falsify.cluster import Cluster
    from pv.falsify.planning import Task
    from pv.falsify.request import Asked, Prepared
    from pv.falsify.session import Options, Outcome

    Words = click.ParamType[frozenset[str]]
else:
    Words = click.ParamType  # generic only to type checkers before click 8.4

COSTS = ("quick", "slow", "device", "operator")
DEVICES = ("cpu", "cuda", "vulkan", "vulkan-sw", "metal")
TICK = 0.2  # seconds between two repaints of the line that says what is running


class ListOf(Words):
    """A comma-separated list of known words."""

    name = "list"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        found = frozenset(part.strip() for part in str(value).split(",") if part.strip())
        if strangers := sorted(found - set(self.words)):
            self.fail(f"expected some of {', '.join(self.words)}, found {strangers[0]!r}", param, ctx)
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join(self.words)


@click.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--id", "ids", multiple=True, metavar="ID", help="A claim, or a glob of claims; whatever it costs.")
@click.option("--all", "every", is_flag=True, help="Every claim whose check is quick (see --cost).")
@click.option("-k", "words", default="", metavar="EXPR", help="Ids or contracts with these words (and, or, not).")
@click.option("--select", "terms", multiple=True, metavar="TERMS", help="KEY:VALUE; a space is or, a comma is and.")
@click.option("--cost", multiple=True, type=ListOf(*COSTS), help="Run these besides the quick ones.")
@click.option("--failed", is_flag=True, help="Only claims whose last run failed, crashed or was vacuous.")
@click.option("--stale", is_flag=True, help="Only claims whose evidence is stale.")
@click.option("--resume", is_flag=False, flag_value="", metavar="[RUN]", help="Take up an interrupted run.")
@click.option("--device", multiple=True, type=ListOf(*DEVICES), help="Only cells on these device classes.")
@click.option("--subject", multiple=True, metavar="NAME", help="Only cells on these subjects.")
@click.option("--dry-run", is_flag=True, help="Run, but write nothing; print what would be written.")
@click.option("--check", is_flag=True, help="Run, but write nothing; exit 1 if what is written does not hold.")
@click.option("--adopt", is_flag=True, help="Overwrite status words that are not pv's.")
@click.option("--allow-blocked", is_flag=True, help="Exit 0 although something could not be run here.")
@click.option("-j", "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Worker processes.")
@click.option("--ray", "address", is_flag=False, flag_value="auto", metavar="[ADDRESS]", help="Run on a Ray cluster.")
@click.option("--ray-ship", is_flag=True, help="Send the project along to machines that do not have it.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="For checks that draw numbers.")
@click.option("--retry", type=click.Choice(["none"]), default="none", help="No check is run again until it passes.")
@click.option("--output-format", type=click.Choice(["text", "json", "junit"]), default="text", show_default=True)
def falsify(
    paths: tuple[str, ...],
    ids: tuple[str, ...],
    every: bool,
    words: str,
    terms: tuple[str, ...],
    cost: tuple[frozenset[str], ...],
    failed: bool,
    stale: bool,
    resume: str | None,
    device: tuple[frozenset[str], ...],
    subject: tuple[str, ...],
    dry_run: bool,
    check: bool,
    adopt: bool,
    allow_blocked: bool,
    jobs: int,
    address: str | None,
    ray_ship: bool,
    seed: int,
    retry: str,
    output_format: str,
) -> int:
    """Run the code that tries to break claims; write what it earned.

    Each check runs in a worker process: once as things are, then once for every planted defect, which it must catch.
    Records go to the evidence folder, statuses into the contracts. Say what to run: ids, --all, or a selection.

    \b
    --select  status:[<|<=|>|>=]RUNG  device:CLASS  subject:GLOB  cost:COST
              claim:outcome|guard  stale:[no]  result:failed|none|VERDICT
              check:yes|no  contract:GLOB  id:GLOB  binds:GLOB
    \b
    Checks run side by side with -j N, one at a time on each graphics card of this machine; with --ray on the machines
    of a cluster: --ray (the one that this machine belongs to), --ray=HOST:PORT, --ray=local (one of this run's own).

    \b
    Exit codes
      0 everything survived       3 a check crashed, or a write was refused
      1 falsified or vacuous, or  4 something is blocked here
        (--check) out of date     5 nothing was selected
      2 a wrong call            130 interrupted; what was finished counts
    \b
    Examples
      pv falsify --id FALSIFY-APR-TRACE-SAVE-006
      pv falsify --all --allow-blocked --check
      pv falsify --all --cost slow,device -j 2
      pv falsify --all --cost device --ray=head:6379 -j 8
      pv falsify --select status:<FUNCTIONAL,device:cuda --dry-run
    """
    from pv.contract.vocabulary import Cost, DeviceClass
    from pv.falsify.request import Asked
    from pv.falsify.session import Options

    asked = Asked(
        paths,
        ids,
        every,
        words,
        terms,
        frozenset(Cost(word) for group in cost for word in group),
        failed,
        stale,
        resume,
        frozenset(DeviceClass(word) for group in device for word in group),
        frozenset(subject),
    )
    if asked.nothing:
        raise click.UsageError("say what to run: --id ID, --all, -k EXPR, --select TERMS, --failed, --stale, PATHS")
    write = not (check or dry_run)
    project = project_of(paths)
    with _place(address, project, jobs, ship=ray_ship) as place:
        prepared = _prepared(project, asked, place)
        options = Options(jobs, seed, write, drift_only=check, adopt=adopt, resumes=prepared.resumes)
        outcome = run_prepared(project, prepared, options, place)
    code = exit_code(outcome, allow_blocked=allow_blocked, check=check, unsound=len(prepared.unsound))
    _print(outcome, output_format, write=write, code=code)
    if code is ExitCode.NOTHING:
        _tell_nothing(project, prepared, asked)
    return code


def run_prepared(project: Project, prepared: Prepared, options: Options, place: Cluster | None = None) -> Outcome:
    """Run with progress on stderr, here or at a place elsewhere."""
    from pv.falsify.session import falsify as run

    with Talk(len(prepared.plan.tasks)) as talk:
        return run(project, prepared.loaded, prepared.checks, prepared.plan, prepared.devices, talk, options, place)


@contextmanager
def _place(address: str | None, project: Project, jobs: int, *, ship: bool) -> Iterator[Cluster | None]:
    """The cluster at an address; None for this machine. Raises click.UsageError where there is none."""
    if address is None:
        if ship:
            raise click.UsageError("--ray-ship sends the project to a cluster: say which with --ray")
        yield None
        return
    from pv.falsify.cluster import Cluster
    from pv.falsify.ray_engine import ClusterError, connected

    try:
        with connected(address, project.root, jobs, ship=ship) as ray:
            yield Cluster(ray, project, jobs, shipped=ship)
    except ClusterError as wrong:
        raise click.UsageError(str(wrong)) from None


def exit_code(outcome: Outcome, *, allow_blocked: bool = False, check: bool = False, unsound: int = 0) -> ExitCode:
    """What the shell is told; the gravest first. `unsound`: contracts that could not be read, so were not checked."""
    from pv.contract.vocabulary import Verdict

    if outcome.interrupted:
        return ExitCode.INTERRUPTED
    if unsound or outcome.findings:
        return ExitCode.FINDINGS
    verdicts = {result.attempt.verdict for result in outcome.results}
    if Verdict.ERROR in verdicts or outcome.refused:
        return ExitCode.FAILURE
    if check and outcome.changes:
        return ExitCode.FINDINGS
    if not outcome.results:
        return ExitCode.NOTHING
    if verdicts & {Verdict.BLOCKED, Verdict.INCONCLUSIVE} and not allow_blocked:
        return ExitCode.BLOCKED
    return ExitCode.OK


def _prepared(project: Project, asked: Asked, place: Cluster | None = None) -> Prepared:
    """Everything before the first run; what is wrong with the chosen checks ends it here."""
    from pv.falsify.journal import JournalError
    from pv.falsify.request import prepare
    from pv.falsify.selection import SelectionError

    try:
        prepared = prepare(project, asked, place.devices if place else None)
    except (SelectionError, JournalError) as wrong:
        raise click.UsageError(str(wrong)) from None
    for unsound in prepared.unsound:
        click.echo(f"{unsound.display}: not a sound contract, so nothing in it is checked; see `pv validate`", err=True)
    _show(project, [*prepared.refused, *prepared.warned])
    if prepared.refused:
        raise Refused(f"{len(prepared.refused)} of these concern what was asked for; nothing was run")
    return prepared


class Refused(click.ClickException):
    """Checks and contracts do not fit each other."""

    exit_code = ExitCode.FINDINGS


def _show(project: Project, problems: Iterable[Diagnostic]) -> None:
    from pv.diagnostics.render import Format, render

    problems = list(problems)
    if not problems:
        return
    sources = {}
    for path in {problem.path for problem in problems}:
        file = project.root / path
        if file.is_file():
            sources[path] = file.read_text("utf-8", "replace")
    render(problems, sources, Format.TEXT, sys.stderr)


def _tell_nothing(project: Project, prepared: Prepared, asked: Asked) -> None:
    """Why nothing was run."""
    if all(one.contract is None for one in prepared.loaded):
        tell_empty(project, asked.paths)
    elif prepared.plan.left_out:
        costs = ",".join(sorted({left.cost.value for left in prepared.plan.left_out}))
        click.echo(f"nothing was run: what was chosen costs more than --all runs; add --cost {costs}", err=True)
    elif prepared.plan.unchecked:
        first = prepared.plan.unchecked[0]
        claim, stem = first.claim.id, first.contract.id
        click.echo(
            f"nothing was run: no check is registered for what was chosen, {claim} for one; "
            f"`pv new falsifier {claim} --contract {stem}` writes one",
            err=True,
        )
    else:
        click.echo(
            "nothing was run: no claim fits what was asked for; `pv list` shows claims, cells and costs", err=True
        )


def _print(outcome: Outcome, output_format: str, *, write: bool, code: int) -> None:
    from pv.falsify import present

    if output_format == "json":
        click.echo(json.dumps(present.as_data(outcome, write=write, exit_code=code), indent=2, ensure_ascii=False))
    elif output_format == "junit":
        click.echo(present.as_junit(outcome))
    else:
        click.echo(present.as_text(outcome, write=write))
    if output_format != "text":
        click.echo(present.summary(outcome, write=write), err=True)
    if outcome.interrupted:
        click.echo(
            f"interrupted: what was finished counts; go on with `pv falsify --resume {outcome.run_id[:8]}`", err=True
        )


class Talk:
    """Progress on stderr: a line for each finished cell, and on a terminal one that says what is running now.

    `total` is 0 where nobody knows how many there will be.
    """

    def __init__(self, total: int = 0) -> None:
        self.total, self.done = total, 0
        self.running: dict[Task, str] = {}
        self.live = sys.stderr.isatty()
        self.painted = 0.0
        self.lock = threading.Lock()

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._wipe()

    def started(self, task: Task) -> None:
        with self.lock:
            self.running[task] = ""
            self._paint()

    def progress(self, task: Task, control: str, done: int, total: int, what: str) -> None:
        with self.lock:
            under = f" under {control!r}" if control else ""
            self.running[task] = f"{under} {done}/{total} {what}".rstrip()
            self._paint()

    def finished(self, attempt: Attempt) -> None:
        from pv.falsify.present import finished_line

        with self.lock:
            self.done += 1
            self.running.pop(attempt.task, None)
            self._wipe()
            click.echo(f"{self._count()} {finished_line(attempt)}", err=True)

    def _paint(self) -> None:
        if self.live and time.monotonic() - self.painted > TICK:
            self.painted = time.monotonic()
            told = "; ".join(f"{task}{said}" for task, said in self.running.items())
            click.echo(f"\r\x1b[K{self._count()} running {told}"[:200], nl=False, err=True)

    def _count(self) -> str:
        return f"[{self.done}/{self.total}]" if self.total else f"[{self.done}]"

    def _wipe(self) -> None:
        if self.live:
            click.echo("\r\x1b[K", nl=False, err=True)
