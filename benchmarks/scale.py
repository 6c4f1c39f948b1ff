"""CPU time of the commands that a team runs all day, over a project of thousands of contracts: one process each.

    python benchmarks/scale.py [--contracts 2400] [--claims 10000] [--rounds 3] [--commands "status,gate"] [--json]

The project is made here: contracts with equations, obligations and falsifiers that have thresholds, a check module for
each contract, one sound record for each claim, the statuses that `pv settle` writes for them, and a branch that changed
one contract. Its records hold made-up measurements, in the bytes that real ones have. Figures are user plus system time
of the command and its children; the commands take turns and the median of the rounds is shown. `first` is the very
first call, with no cache of anything.
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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pv.contract.load import load_all
from pv.contract.project import Project, find
from pv.evidence import statement
from pv.evidence.ledger import Ledger
from pv.evidence.record import Environment
from pv.evidence.settle import settle
from pv.evidence.store import relative_name
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
  version: {version}
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
{settled}    rule: kernel {number} agrees with its reference at size {claim}
    prediction: the worst difference at size {claim} is at most 1e-6
    test: falsifiers/{module}.py
    if_fails: the kernel is wrong at size {claim}
    binds_to: [agreement, "PO-{number:04}"]
    requires: {{cells: [{{device: cpu, subject: code}}]}}
    thresholds:
      worst_difference: {{op: "<=", value: 1.0e-6}}
      cases: {{op: ">", value: 0}}
"""
SETTLED = """\
    status: FUNCTIONAL
    last_verified: "2026-01-01"
    evidence: ["{digest}"]
    algorithm_evidence:
      file_paths: ["falsifiers/{module}.py"]
      function_names: ["size_{claim}"]
      invariants_enforced: ["worst_difference <= 1e-06", "cases > 0"]
    functional_evidence:
      - "cpu · code · 2026-01-01 · worst_difference {difference:.7g}, cases {claim} · pv falsify --id {id}"
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
    for name in ("contracts", "falsifiers", "evidence"):
        (folder / name).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / ".gitignore").write_text(".pv_cache\nreport.*\n")
    counts = [claims // contracts + (number < claims % contracts) for number in range(contracts)]
    for number, count in enumerate(counts):
        write_checks(folder, number, count)
        write_contract(folder, number, count)
    project = find(folder)
    digests = record_all(project)
    for number, count in enumerate(counts):
        write_contract(folder, number, count, digests)
    plans = settle(project, load_all((), project), find_checks(project), write=False)
    if len(plans) != contracts or any(plan.changes or plan.refused for plan in plans):
        raise SystemExit(f"`pv settle` would write something else into {sum(plan.changes for plan in plans)} contracts")
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "all of it")
    git(folder, "checkout", "-q", "-b", "work")
    changed = folder / "contracts/kernel-0000-v1.yaml"
    changed.write_text(changed.read_text().replace("Kernel 0 agrees", "Kernel 0 always agrees"))
    commit(folder, "a change")
    shutil.rmtree(folder / ".pv_cache", ignore_errors=True)


def write_checks(folder: Path, number: int, claims: int) -> None:
    """The check module of one contract."""
    checks = "".join(CHECK.format(number=number, claim=claim) for claim in range(1, claims + 1))
    (folder / f"falsifiers/kernel_{number:04}_v1.py").write_text(MODULE + checks)


def write_contract(folder: Path, number: int, claims: int, digests: Mapping[str, str] | None = None) -> None:
    """One contract; with the digests of its records, as it stands when they are settled."""
    module = f"kernel_{number:04}_v1"
    text = CONTRACT.format(number=number, version="1.1.0" if digests else "1.0.0")
    for claim in range(1, claims + 1):
        name = f"FALSIFY-K{number:04}-{claim:03}"
        more = {"claim": claim, "module": module, "id": name, "difference": claim * 1e-8}
        settled = SETTLED.format(digest=digests[name], **more) if digests else ""
        text += CLAIM.format(number=number, claim=claim, module=module, settled=settled)
    (folder / f"contracts/kernel-{number:04}-v1.yaml").write_text(text, "utf-8")


def record_all(project: Project) -> dict[str, str]:
    """A record of every claim, as `pv falsify` would keep it but for the waiting until it is on disk: id -> digest."""
    digests = {}
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
            record = record_of(attempted(task, machine), facts, closure, project, device=None, previous="")
            content = statement.to_bytes(record)
            path = project.evidence / relative_name(replace(record, digest=statement.digest(content)))
            path.parent.mkdir()
            path.write_bytes(content + b"\n")
            digests[claim.id] = statement.digest(content)
    return digests


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
