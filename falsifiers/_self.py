"""Ground of the checks of pv itself: scratch projects, the public command in them, defects planted in that command.

The command runs in processes of its own, as users run it, so a defect is planted through `sitecustomize`: a few lines
that replace a real function before the command starts, in it and in every process that it starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pv
from pv.falsify import Completed, Inconclusive

SOURCE = str(Path(pv.__file__).parent.parent)
_planted: dict[str, str] = {}  # variables of the processes that this worker starts

CONTRACT = """\
metadata:
  version: 1.0.0
  status: ACTIVE
  kind: schema
  created: "2026-11-20"
  author: somebody
  description: a scratch contract
  references: ["nothing"]
equations:
  e: {formula: "a = b", domain: "numbers", invariants: ["a is b"]}
falsification_tests:
"""

CHECKS = """\
import os, signal, sys, time
from contextlib import contextmanager
from pv.falsify import Control, falsifier, measure

defect = False

@contextmanager
def broken(ctx):
    global defect
    defect = True
    try:
        yield
    finally:
        defect = False

"""

GOOD = "return measure('m', not defect)"


def planted(code: str) -> Callable[[Any], contextlib.AbstractContextManager[None]]:
    """A control's `plant`: `code` runs at the start of every process that is started under it."""

    @contextlib.contextmanager
    def plant(context: Any) -> Iterator[None]:
        folder = context.scratch / "planted"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(dedent(code), "utf-8")
        _planted["PYTHONPATH"] = os.pathsep.join((str(folder), SOURCE))
        try:
            yield
        finally:
            _planted.clear()

    return plant


def variables() -> dict[str, str]:
    """The environment of a process that a check starts itself."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PV_")}
    return {**inherited, "PYTHONPATH": SOURCE, **_planted}


class House:
    """A scratch project: contracts, checks, and `pv` in it."""

    def __init__(self, context: Any, name: str = "house") -> None:
        self.context = context
        self.root: Path = context.scratch / name
        for folder in ("contracts", "falsifiers"):
            (self.root / folder).mkdir(parents=True)
        (self.root / "pyproject.toml").write_text('[tool.pv]\nprofile = "strict"\n')

    def write(self, **bodies: str) -> None:
        """One claim and one check for each `FALSIFY_…` keyword, whose value is the body of the check."""
        contract, checks = CONTRACT, CHECKS
        for name, code in bodies.items():
            claim = name.replace("_", "-")
            contract += entry(claim)
            checks += registration(claim) + f"def {name.lower()}(ctx):\n{indent(dedent(code).strip(), '    ')}\n\n"
        self.contract.write_text(contract, "utf-8")
        (self.root / "falsifiers" / "x_v1.py").write_text(checks, "utf-8")

    @property
    def contract(self) -> Path:
        return self.root / "contracts" / "x-v1.yaml"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    def pv(self, *arguments: str) -> Completed:
        """The public command in this project, under the planted defect if there is one."""
        done: Completed = self.context.run_pv(*arguments, env=_planted, cwd=self.root)
        return done

    def pv_as_it_is(self, *arguments: str) -> Completed:
        """The public command without any planted defect, to prepare what a defective one is then shown."""
        done: Completed = self.context.run_pv(*arguments, cwd=self.root)
        return done

    def python(self, script: Path, *arguments: str) -> str:
        """A script in a process of its own; its standard output. Raises Inconclusive when it fails."""
        done = subprocess.run(
            [sys.executable, "-P", str(script), *arguments],
            cwd=self.root,
            env=variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Inconclusive(f"{script.name} ended with exit code {done.returncode}: {done.stderr[-500:]}")
        return done.stdout

    def statuses(self) -> dict[str, str]:
        """Claim id -> status as the file says it, read without pv."""
        return statuses_in(self.contract.read_text("utf-8"))

    def results(self, done: Completed) -> dict[str, str]:
        """Claim id -> verdict, from the JSON that `pv falsify` printed. Raises Inconclusive when there is none."""
        try:
            data = json.loads(done.stdout)
        except ValueError:
            raise Inconclusive(f"expected JSON on stdout, found {done.stdout[:200]!r}; {done.stderr[-300:]}") from None
        return {one["id"]: one["verdict"] for one in data["results"]}


def entry(claim: str, threshold: str = '{op: "==", value: 1}', status: str = "UNBOUND") -> str:
    """The YAML of one claim with the threshold `m`."""
    return (
        f"  - id: {claim}\n"
        f"    rule: a rule of {claim}\n"
        f"    prediction: it holds of {claim}\n"
        "    if_fails: it does not\n"
        "    binds_to: e\n"
        f"    thresholds: {{m: {threshold}}}\n"
        f"    status: {status}\n"
    )


def registration(claim: str, control: str = 'Control("broken", plant=broken, breaks="m")', more: str = "") -> str:
    """The decorator of one check."""
    return f'@falsifier("{claim}", level="live", controls=[{control}]{more})\n'


def statuses_in(text: str) -> dict[str, str]:
    """Claim id -> status, from the text of a contract; by pattern, so that no reader under test is trusted."""
    found = re.findall(r"^  - id: (\S+)$(.*?)(?=^  - id: |\Z)", text, re.MULTILINE | re.DOTALL)
    return {claim: re.findall(r"^    status: (\S+)$", body, re.MULTILINE)[0] for claim, body in found}


def heads_in(text: str) -> dict[str, list[str]]:
    """Claim id -> hex digests that its entry points to."""
    found = re.findall(r"^  - id: (\S+)$(.*?)(?=^  - id: |\Z)", text, re.MULTILINE | re.DOTALL)
    return {claim: re.findall(r"sha256:([0-9a-f]{64})", body) for claim, body in found}


def replaced(path: Path, before: str, after: str) -> None:
    """Edit a file by hand. Raises Inconclusive when there is nothing to edit."""
    text = path.read_text("utf-8")
    if before not in text:
        raise Inconclusive(f"expected {before!r} in {path.name}, so that it could be edited")
    path.write_text(text.replace(before, after, 1), "utf-8")


def must(done: Completed, code: int) -> Completed:
    """The ground of a check: a command that must end so for anything to be measured."""
    if done.returncode != code:
        called = f"pv {' '.join(done.args)}"
        raise Inconclusive(f"expected {called} to exit {code}, found {done.returncode}: {done.stderr[-500:]}")
    return done
