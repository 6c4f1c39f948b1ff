"""An attempt and the facts of its run -> the evidence record of it."""

from __future__ import annotations

import hashlib
import subprocess
import uuid
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pv
from pv.contract.project import Project
from pv.contract.vocabulary import DeviceClass, Verdict
from pv.evidence import statement
from pv.evidence.closure import Closure
from pv.evidence.digests import claim_digest
from pv.evidence.record import Environment, Record
from pv.evidence.rejudge import contradictions
from pv.evidence.statement import StatementError
from pv.falsify.attempt import Attempt
from pv.falsify.devices import DeviceReport
from pv.falsify.environment import environment_beside
from pv.falsify.judge import Judged
from pv.falsify.planning import Task


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What all records of one run share. `commit` is "" where there is no git; `dirty` was so when the run began."""

    run_id: str
    seed: int = 0
    commit: str = ""
    dirty: bool = False


def run_facts(project: Project, seed: int) -> RunFacts:
    """A new run's facts; asks git twice, and does without it."""
    commit = _git(project.root, "rev-parse", "HEAD")
    dirty = bool(commit) and bool(_git(project.root, "status", "--porcelain", "--untracked-files=no"))
    return RunFacts(str(uuid.uuid4()), seed, commit, dirty)


def record_of(
    attempt: Attempt, facts: RunFacts, closure: Closure, project: Project, *, device: DeviceReport | None, previous: str
) -> Record:
    """The record of an attempt, not yet written. `previous` is the digest of the cell's last record."""
    task, answer = attempt.task, attempt.answer
    return Record(
        claim_id=task.claim.id,
        contract_id=task.contract.id,
        contract_path=_relative(task.contract.path, project.root),
        contract_version=task.contract.metadata.version,
        cell=task.cell,
        level=task.check.level,
        verdict=attempt.judged.verdict,
        reason=attempt.judged.reason,
        predicted=task.claim.prediction,
        observed=attempt.judged.branch,
        measurements=attempt.measurements,
        controls=attempt.controls,
        attacks=task.check.attacks,
        claim_digest=claim_digest(task.contract, task.claim),
        closure_digest=closure.digest,
        closure=closure.files,
        bound=answer.bound if answer else (),
        tool_version=pv.__version__,
        tool_digest=tool_digest(),
        environment=_environment(attempt, device),
        seed=facts.seed if answer and answer.seeded else None,
        started_at=attempt.started_at,
        duration_seconds=round(attempt.seconds, 3),
        command=command(task, facts.seed),
        run_id=facts.run_id,
        entry_point=task.check.entry_point,
        oracle=answer.oracle if answer else None,
        exhausted=answer.exhausted if answer else None,
        notes=answer.notes if answer else (),
        missing=attempt.missing,
        git_commit=facts.commit,
        git_dirty=facts.dirty,
        previous=previous,
    )


def unwritable(record: Record) -> str:
    """Why a record cannot be kept: a value that JSON cannot carry, or figures that deny its verdict. "" when it can."""
    try:
        statement.to_bytes(record)
    except StatementError as why:
        return str(why)
    return next(contradictions(record), "")


def without_figures(attempt: Attempt, wrong: str) -> Attempt:
    """The attempt as an ERROR that says what was wrong with its record; nothing that it measured is kept."""
    judged = Judged(Verdict.ERROR, f"what it measured cannot go on record: {wrong}", "")
    answer = attempt.answer and replace(
        attempt.answer, measurements=(), notes=(), bound=(), missing=(), oracle=None, exhausted=None
    )
    return replace(attempt, judged=judged, answer=answer, measurements=(), controls=(), missing=())


def command(task: Task, seed: int = 0) -> str:
    """The command that runs this task again, and no other cell of the claim than it must."""
    words = ["pv", "falsify", "--id", task.claim.id]
    cells = task.claim.required_cells
    if task.cell not in cells or len(cells) > 1:
        words += ["--device", task.cell.device.value]
    if sum(cell.device is task.cell.device for cell in cells) > 1 or task.cell not in cells:
        words += ["--subject", task.cell.subject]
    return " ".join([*words, *(["--seed", str(seed)] if seed else [])])


@cache
def tool_digest() -> str:
    """`sha256:…` over every source file of this pv: whatever ran and judged is told apart."""
    root = Path(pv.__file__).parent
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".wgsl", ".json") and p.is_file()):
        total.update(f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _environment(attempt: Attempt, device: DeviceReport | None) -> Environment:
    """The worker's own facts; of a worker that died or never ran, those seen beside it."""
    if attempt.answer is not None and attempt.answer.environment.python:
        return attempt.answer.environment
    if device is None or device.device is DeviceClass.CPU:
        return environment_beside()
    return environment_beside(device=device.name, driver=device.driver)


def _relative(path: Path, root: Path) -> str:
    path = path.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
