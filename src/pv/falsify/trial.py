"""A choice of claims -> attempts, judged as `pv falsify` judges them and kept nowhere: claims tried inside tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pv.contract.project import Project, find
from pv.contract.vocabulary import Cell, Verdict
from pv.evidence.ledger import Ledger
from pv.falsify.attempt import Attempt
from pv.falsify.judge import bound_text, number_text
from pv.falsify.planning import Key, Task
from pv.falsify.records import command
from pv.falsify.request import Asked, Prepared, prepare
from pv.falsify.runner import run
from pv.falsify.session import standing_on_record

LOG_LINES = 20  # of a crashed check's log, in its explanation


class TrialError(Exception):
    """There is nothing to try, or the checks do not fit their contracts; the message says which and where."""


@dataclass
class Trials:
    """Tries the tasks of a plan one by one, each at most once; a precondition that is in the plan is tried before.

    A check runs in a worker process of its own, exactly as under `pv falsify`; no record is kept, no status moves.
    """

    project: Project
    prepared: Prepared
    seed: int = 0
    made: dict[Task, Attempt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ledger = Ledger.open(self.project, self.prepared.checks)
        self._on_record = standing_on_record(ledger, self.prepared.plan.tasks)

    @staticmethod
    def of(project: Project, asked: Asked, seed: int = 0) -> Trials:
        """Ready to try what is asked for. Raises TrialError where checks and contracts do not fit each other, and
        SelectionError for a selection that is not in the grammar.
        """
        prepared = prepare(project, asked)
        if prepared.refused:
            told = "\n".join(f"{one.path}: {one.code} {one.message}" for one in prepared.refused)
            raise TrialError(
                f"expected checks that fit their contracts, found {len(prepared.refused)} that do not:\n{told}"
            )
        return Trials(project, prepared, seed)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.prepared.plan.tasks

    def attempt(self, task: Task) -> Attempt:
        """What comes of one task of the plan."""
        if task not in self.made:
            run(
                self._with_preconditions(task),
                self.prepared.checks.found,
                self.prepared.devices,
                self.project,
                self,
                standing=self._standing,
                seed=self.seed,
            )
        return self.made[task]

    def _with_preconditions(self, task: Task) -> list[Task]:
        """The task and whatever it waits for, directly or not, that was not tried yet."""
        wanted, pending = {task}, [task]
        while pending:
            one = pending.pop()
            keys = {(one.contract.id, name) for name in one.claim.precondition}
            new = [
                other for other in self.tasks if other.key in keys and other not in wanted and other not in self.made
            ]
            wanted.update(new)
            pending += new
        return [one for one in self.tasks if one in wanted]

    def _standing(self, key: Key, cell: Cell) -> str:
        made = [attempt for attempt in self.made.values() if attempt.task.key == key]
        if not made:
            return self._on_record(key, cell)
        here = [attempt for attempt in made if attempt.task.cell == cell] or made
        bad = [attempt for attempt in here if attempt.verdict is not Verdict.SURVIVED]
        return f"{bad[0].verdict.value} on {bad[0].task.cell}" if bad else ""

    # --- as the runner's listener ---

    def started(self, task: Task) -> None: ...

    def progress(self, task: Task, control: str, done: int, total: int, what: str) -> None: ...

    def finished(self, attempt: Attempt) -> None:
        self.made[attempt.task] = attempt


def attempts(path: Path, *, ids: Sequence[str] = (), seed: int = 0) -> Iterator[Attempt]:
    """Try the claims of the contract at `path` (those of `ids` alone, if any are named) whose checks are quick.

    Raises TrialError where there is nothing to try: a test of nothing must not pass.
    """
    trials = Trials.of(find(path), Asked(paths=(str(path),), ids=tuple(ids)), seed)
    if not trials.tasks:
        raise TrialError(
            f"expected a claim with a quick check in {path}, found none; `pv list {path}` shows its claims"
        )
    for task in trials.tasks:
        yield trials.attempt(task)


def explain(attempt: Attempt) -> str:
    """Why an attempt came to its verdict: measurements against thresholds, controls, how to see it again."""
    claim = attempt.task.claim
    lines = [f"{attempt.verdict.value} {attempt.task}: {attempt.judged.reason}".rstrip(": ")]
    lines += _table(attempt)
    for control in attempt.controls:
        lines.append(f"  control {control.name!r} must break {control.breaks}: {control.observed}")
    if attempt.verdict is Verdict.FALSIFIED and claim.if_fails:
        lines.append(f"  then: {' '.join(claim.if_fails.split())}")
    if attempt.verdict is Verdict.ERROR:
        lines += [f"  | {line}" for line in attempt.log.decode("utf-8", "replace").splitlines()[-LOG_LINES:]]
    return "\n".join([*lines, f"  again: {command(attempt.task)}"])


def _table(attempt: Attempt) -> list[str]:
    rows = [("measurement", "value", "threshold", "margin", "")]
    for one in attempt.measurements:
        bound = bound_text(one.threshold) if one.threshold else "-"
        margin = "-" if one.margin is None else number_text(one.margin)
        rows.append((one.name, f"{number_text(one.value)} {one.unit}", bound, margin, "" if one.passed else "BROKEN"))
    if len(rows) == 1:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
