"""CPU time of the commands that a team runs all day, over a project of thousands of contracts: one process each.

    python benchmarks/scale.py [--contracts 2400] [--claims 10000] [--rounds 3] [--commands "status,gate"] [--json]

The project is made here: contracts with equations, obligations and falsifiers that have thresholds, a check module for
each contract, one sound record for each claim, statuses settled from them, and a branch that changed one contract. Its
records hold made-up measurements, written by the code that writes real ones. Figures are user plus system time of the
command and its children; the commands take turns and the median of the rounds is shown. `first` is the very first
call, with no cache of anything.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pv.contract.load import load_all
from pv.contract.project import Project, find
from pv.evidence.ledger import Ledger
from pv.evidence.record import Environment
from pv.evidence.settle import settle
from pv.falsify.api import Measurement
from pv.falsify.attempt import Attempt
from pv.falsify.discovery import find_checks
from pv.falsify.environment import environment
from pv.falsify.judge import control_record, judge, threshold_record, verdict
from pv.falsify.planning import Task
from pv.falsify.protocol import Answer, Outcome
from pv.falsify.records import record_of, run_facts

COMMANDS = {
    "validate": ["validate"],
    "status": ["status"],
    "list": ["list"],
    "gate": ["gate", "--against", "main", "--changed"],
    "report": ["report", "-o", "report.html"],
    "report md": ["report", "--format", "md", "-o", "report.md"],
}
PYPROJECT = """\
[tool.pv]
profile = "strict"
contracts = ["contracts/*.yaml"]
falsifiers = "falsifiers"
evidence = "evidence"
"""
CONTRACT = """\
metadata:
  version: 1.0.0
  created: "2026-01-01"
  author: benchmark
  kind: pattern
  description: Kernel {number} agrees with its reference.
  references: ["benchmark"]
equations:
  agreement:
    formula: "|f(x) - g(x)| <= e"
    domain: "x in R^n"
    invariants: ["the difference is bounded"]
proof_obligations:
  - id: PO-{number:04}
    type: bound
    property: the difference is bounded
    applies_to: agreement
falsification_tests:
"""
CLAIM = """\
  - id: FALSIFY-K{number:04}-{claim:03}
    rule: kernel {number} agrees with its reference at size {claim}
    prediction: the worst difference at size {claim} is at most 1e-6
    test: falsifiers/{module}.py
    if_fails: the kernel is wrong at size {claim}
    binds_to: [agreement, "PO-{number:04}"]
    requires: {{cells: [{{device: cpu, subject: code}}]}}
    thresholds:
      worst_difference: {{op: "<=", value: 1.0e-6}}
      cases: {{op: ">", value: 0}}
"""
MODULE = """\
from contextlib import contextmanager

from pv.falsify import Control, falsifier, measure


wrong = 0.0


@contextmanager
def off(ctx):
    global wrong
    wrong = 1.0
    try:
        yield
    finally:
        wrong = 0.0

"""
CHECK = """
@falsifier(
    "FALSIFY-K{number:04}-{claim:03}",
    level="live",
    controls=[Control("off", plant=off, breaks="worst_difference")],
)
def size_{claim}(ctx):
    return [measure("worst_difference", {claim}e-8 + wrong), measure("cases", {claim})]

"""


def main() -> int:
    """Make the project, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contracts", type=int, default=2400)
    parser.add_argument("--claims", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--keep", metavar="FOLDER", help="make the project there, or use the one that is there")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix="pv-scale-")).absolute()
    try:
        if not (folder / "pyproject.toml").exists():
            begun = time.monotonic()
            make(folder, arguments.contracts, arguments.claims)
            print(f"made in {time.monotonic() - begun:.0f} s", file=sys.stderr)
        figures = measure(folder, arguments.commands.split(","), arguments.rounds)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)
    if arguments.json:
        print(json.dumps({"contracts": arguments.contracts, "claims": arguments.claims, **figures}))
    else:
        print(f"{arguments.contracts} contracts, {arguments.claims} falsifiers with a record each; CPU seconds")
        print(f"{'command':12} {'first':>7} {'again':>7}")
        for name, (first, again) in figures.items():
            print(f"{name:12} {first:7.2f} {again:7.2f}")
    return 0


# --- the project ------------------------------------------------------------------------------------------------------


def make(folder: Path, contracts: int, claims: int) -> None:
    """A settled project on a branch that changed one contract."""
    for name in ("contracts", "falsifiers"):
        (folder / name).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / ".gitignore").write_text(".pv_cache\nreport.*\n")
    for number in range(contracts):
        count = claims // contracts + (number < claims % contracts)
        write(folder, number, count)
    project = find(folder)
    record_all(project)
    loaded = load_all((), project)
    settle(project, loaded, find_checks(project), write=True)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "all of it")
    git(folder, "checkout", "-q", "-b", "work")
    changed = folder / "contracts/kernel-0000-v1.yaml"
    changed.write_text(changed.read_text().replace("Kernel 0 agrees", "Kernel 0 always agrees"))
    commit(folder, "a change")
    shutil.rmtree(folder / ".pv_cache", ignore_errors=True)


def write(folder: Path, number: int, claims: int) -> None:
    """One contract and its check module."""
    module = f"kernel_{number:04}_v1"
    numbers = range(1, claims + 1)
    entries = "".join(CLAIM.format(number=number, claim=claim, module=module) for claim in numbers)
    (folder / f"contracts/kernel-{number:04}-v1.yaml").write_text(CONTRACT.format(number=number) + entries)
    checks = "".join(CHECK.format(number=number, claim=claim) for claim in numbers)
    (folder / f"falsifiers/{module}.py").write_text(MODULE + checks)


def record_all(project: Project) -> None:
    """A record of every claim, as `pv falsify` would keep it."""
    checks = find_checks(project)
    ledger = Ledger.open(project, checks)
    facts, machine = run_facts(project, 0), environment()
    for one in load_all((), project):
        if one.contract is None:
            raise SystemExit(f"{one.display}: {one.diagnostics}")
        for claim in one.contract.claims:
            found, closure = checks.of(one.contract.id, claim.id), ledger.closure(one.contract, claim)
            if found is None or closure is None:
                raise SystemExit(f"no check of {claim.id}: {checks.problems[:3]}")
            task = Task(one.contract, claim, found, claim.required_cells[0])
            ledger.store.add(
                record_of(attempted(task, machine), facts, closure, project, device=None, previous=""), None
            )


def attempted(task: Task, machine: Environment) -> Attempt:
    """What a survival with its control caught leaves behind."""
    thresholds = {name: threshold_record(bound) for name, bound in task.claim.thresholds.items()}
    size = int(task.claim.id[-3:])
    measured = judge([Measurement("worst_difference", size * 1e-8), Measurement("cases", size)], thresholds)
    planted = judge([Measurement("worst_difference", 1.0), Measurement("cases", size)], thresholds)
    controls = [control_record("off", "worst_difference", planted)]
    answer = Answer(Outcome.MEASURED, environment=machine, seconds=0.01)
    return Attempt(
        task, verdict(measured, controls), "2026-01-01T00:00:00.000000Z", 0.01, answer, measured, tuple(controls)
    )


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost", "commit", "-qm", message)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


# --- the measurement --------------------------------------------------------------------------------------------------


def measure(folder: Path, names: list[str], rounds: int) -> dict[str, tuple[float, float]]:
    """Command -> CPU seconds of its first call, and the median of the later ones."""
    first = {}
    for name in names:
        shutil.rmtree(folder / ".pv_cache", ignore_errors=True)
        first[name] = cpu_seconds(folder, name)
    again: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            again[name].append(cpu_seconds(folder, name))
    return {name: (first[name], statistics.median(again[name])) for name in names}


def cpu_seconds(folder: Path, name: str) -> float:
    """User plus system time of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "pv", *COMMANDS[name]],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pv {name} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
