"""A project on disk, and `pv` called in it as a user would call it."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent, indent
from typing import NamedTuple

import pytest

from pv.cli.main import main

CHECKS_HEADER = """\
import os
import signal
import time
from contextlib import contextmanager

from pv.falsify import Blocked, Control, Inconclusive, falsifier, harness, measure

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


class Ran(NamedTuple):
    """A finished command."""

    code: int
    out: str
    err: str


class House:
    """A project folder; contracts and checks are written by the test that needs them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("contracts", "falsifiers"):
            (root / folder).mkdir(parents=True)
        (root / "pyproject.toml").write_text('[tool.pv]\nprofile = "strict"\n')

    def contract(self, stem: str, *entries: str, status: str = "ACTIVE") -> Path:
        """`entries` are YAML of one claim each, without indentation."""
        head = f"""\
        metadata:
          version: 1.0.0
          status: {status}
          kind: schema
          created: "2026-11-20"
          author: somebody
          description: a contract of {stem}
          references: ["nothing"]
        equations:
          e: {{formula: "a = b", domain: "numbers", invariants: ["a is b"]}}
        proof_obligations:
          - {{id: PO-1, type: invariant, property: "a is b"}}
        falsification_tests:
        """
        text = dedent(head) + "".join(_item(entry) for entry in entries)
        path = self.root / "contracts" / f"{stem}.yaml"
        path.write_text(text, "utf-8")
        return path

    @staticmethod
    def claim(claim: str, *more: str, threshold: str = '{op: "==", value: 1}') -> str:
        """YAML of one claim with one threshold `m`; `more` are further lines of it."""
        lines = [
            f"id: {claim}",
            "rule: a rule",
            "prediction: it holds",
            "if_fails: the world is otherwise",
            "binds_to: e",
            "thresholds:",
            f"  m: {threshold}",
            *more,
        ]
        return "\n".join(lines)

    def checks(self, stem: str, **bodies: str) -> Path:
        """One check for each id (with `_` for `-`); a body may be several lines and may use `defect`."""
        text = CHECKS_HEADER
        for name, body in bodies.items():
            decorator, _, code = body.rpartition("@@")
            claim = name.replace("_", "-")
            control = 'Control("broken", plant=broken, breaks="m")'
            text += f'@falsifier("{claim}", level="live", controls=[{control}]{decorator})\ndef {name.lower()}(ctx):\n'
            text += indent(dedent(code).strip("\n"), "    ") + "\n\n\n"
        path = self.root / "falsifiers" / f"{stem.replace('-', '_')}.py"
        path.write_text(text, "utf-8")
        return path


def _item(entry: str) -> str:
    first, *rest = entry.splitlines()
    return "\n".join([f"  - {first}", *(f"    {line}" for line in rest), ""])


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """An empty project that we stand in."""
    made = House(tmp_path / "house")
    monkeypatch.chdir(made.root)
    return made


@pytest.fixture
def pv(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Call `pv` in this process; gives exit code, stdout and stderr."""

    def pv(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["pv", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Ran(int(ended.value.code or 0), out, err)

    return pv


@pytest.fixture
def earned(house, pv):
    """One contract of three claims; the first one was run and survived."""
    house.contract(
        "x-v1",
        house.claim("FALSIFY-X-001", "status: UNBOUND"),
        house.claim("FALSIFY-X-002", "requires: {cells: [{device: cpu, subject: code}, {device: cuda, subject: t}]}"),
        house.claim("FALSIFY-X-003", "blocked_on: [model-1]"),
    )
    check = "return measure('m', not defect)"
    house.checks("x-v1", FALSIFY_X_001=check, FALSIFY_X_002=check)
    house.pristine = (house.root / "contracts" / "x-v1.yaml").read_text()
    assert pv("falsify", "--id", "FALSIFY-X-001").code == 0
    return house
