"""`pytest --pv`: the claims of a project's contracts -> test items; each is tried as `pv falsify` tries it.

A survival passes, a broken claim and a check that proves nothing fail, a crash is an error, and what cannot run here is
skipped and said again at the end. Nothing is written: no record, no status. Without `--pv` this module only adds its
options; it is loaded into every pytest of the environment, so everything else is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest._code.code import ExceptionInfo, TerminalRepr

    from pv.falsify.attempt import Attempt
    from pv.falsify.planning import Task
    from pv.falsify.request import Asked
    from pv.falsify.trial import Trials

TRIALS: pytest.StashKey[Trials] = pytest.StashKey()


class _ToldError(Exception):
    """An attempt that is no survival; the message is its explanation, shown without a traceback."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pv", "claims of contracts (pv)")
    group.addoption("--pv", action="store_true", help="try the claims of the project's contracts; writes nothing")
    group.addoption(
        "--pv-select", action="append", default=[], metavar="TERMS", help="only these claims: `pv falsify --select`"
    )
    group.addoption(
        "--pv-cost",
        action="append",
        default=[],
        metavar="COST",
        help="besides the quick ones: slow, device or operator",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Where no path is named, the contracts stand beside the test paths of the settings."""
    if config.option.pv and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args += [str(path) for path in _contracts(config) if not _below(path, config.args)]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Plan the trials; what is wrong with checks or options ends the session before anything runs."""
    if not session.config.option.pv:
        return
    from pv.contract.project import ConfigError, find
    from pv.falsify.selection import SelectionError
    from pv.falsify.trial import TrialError, Trials

    try:
        session.config.stash[TRIALS] = Trials.of(find(session.config.invocation_params.dir), _asked(session.config))
    except (ConfigError, SelectionError, TrialError, ValueError) as wrong:
        raise pytest.UsageError(f"--pv: {wrong}") from None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> ContractFile | None:
    """A contract of the project, with its planned claims."""
    trials = parent.config.stash.get(TRIALS, None)
    if trials is None or not any(task.contract.path.resolve() == file_path.resolve() for task in trials.tasks):
        return None
    return ContractFile.from_parent(parent, path=file_path)


class ContractFile(pytest.File):
    """One contract; its items are the planned cells of its claims, in file order."""

    def collect(self) -> Iterator[ClaimItem]:
        for task in self.config.stash[TRIALS].tasks:
            if task.contract.path.resolve() == self.path.resolve():
                yield ClaimItem.from_parent(self, name=f"{task.claim.id}[{task.cell}]", task=task)


class ClaimItem(pytest.Item):
    """One claim in one cell. It is tried in `setup`, so that a crash is reported as an error and not as a failure."""

    attempt: Attempt | None = None

    def __init__(self, *, task: Task, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]  # pytest's own keywords, passed on as they are
        self.task = task

    def setup(self) -> None:
        from pv.contract.vocabulary import Verdict
        from pv.falsify.trial import explain

        self.attempt = self.config.stash[TRIALS].attempt(self.task)
        if self.attempt.log:
            self.add_report_section("setup", "log of the check", self.attempt.log.decode("utf-8", "replace"))
        if self.attempt.verdict is Verdict.ERROR:
            raise _ToldError(explain(self.attempt))

    def runtest(self) -> None:
        from pv.contract.vocabulary import Verdict
        from pv.falsify.trial import explain

        attempt = self.attempt
        assert attempt is not None, "pytest runs setup before the test"
        known = self.task.claim.known_failing
        if attempt.verdict is Verdict.BLOCKED or attempt.waits_for:
            pytest.skip(f"{attempt.verdict.value}: {attempt.judged.reason}")
        if attempt.verdict is Verdict.FALSIFIED and known is not None:
            pytest.xfail(f"known failing since {known.since}: {known.reason} (owner: {known.owner})")
        if attempt.verdict is not Verdict.SURVIVED:
            raise _ToldError(explain(attempt))
        if known is not None:
            raise _ToldError(f"{self.task.claim.id} is known_failing in {self.parent} but survives; remove the entry")

    def repr_failure(self, excinfo: ExceptionInfo[BaseException], *rest: object, **more: object) -> str | TerminalRepr:
        if isinstance(excinfo.value, _ToldError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        check = self.task.check
        return check.path, check.span.line - 1, f"{self.task}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What was asked for and did not run, each with its reason: a skip nobody reads hides a broken promise."""
    trials = config.stash.get(TRIALS, None)
    if trials is None:
        return
    from pv.contract.vocabulary import Verdict

    lines = [
        f"{attempt.verdict.value} {attempt.task}: {attempt.judged.reason}"
        for attempt in trials.made.values()
        if attempt.verdict in (Verdict.BLOCKED, Verdict.INCONCLUSIVE)
    ]
    plan = trials.prepared.plan
    lines += [f"left out: {left.claim.id} [{left.cell}], with --pv-cost {left.cost.value}" for left in plan.left_out]
    lines += [f"no check: {row.claim.id} in {row.contract.path.name}" for row in plan.unchecked]
    if lines:
        terminalreporter.section("pv: claims that were not tried")
        for line in lines:
            terminalreporter.write_line(line)


def _asked(config: pytest.Config) -> Asked:
    from pv.contract.vocabulary import Cost
    from pv.falsify.request import Asked

    words = [word for given in config.option.pv_cost for word in given.split(",")]
    terms = tuple(config.option.pv_select)
    return Asked(every=True, terms=terms, costs=frozenset(Cost(word) for word in words))


def _contracts(config: pytest.Config) -> tuple[Path, ...]:
    from pv.contract.load import discover
    from pv.contract.project import find

    return discover((), find(config.invocation_params.dir)).files


def _below(path: Path, places: list[str]) -> bool:
    """Whether pytest comes to `path` anyway."""
    return any(path.resolve().is_relative_to(Path(place.partition("::")[0]).resolve()) for place in places)
