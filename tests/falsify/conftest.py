"""Small real projects: a pyproject, contracts, check modules, all written by the test that uses them."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pv.contract.claims import Contract, contract_of

HEADER = """\
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


class Checks:
    """A `falsifiers` folder that tests write into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "falsifiers"
        self.folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def contract(stem: str, *entries: dict[str, Any], harnesses: tuple[dict[str, Any], ...] = ()) -> Contract:
        """A contract in memory."""
        data = {
            "metadata": {"version": "1.0.0", "description": "d"},
            "falsification_tests": list(entries),
            "kani_harnesses": list(harnesses),
        }
        return contract_of(stem, Path(f"contracts/{stem}.yaml"), data)

    @staticmethod
    def entry(
        claim: str, *, thresholds: tuple[str, ...] = ("m",), cells: tuple[tuple[str, str], ...] = (), **more: Any
    ) -> dict[str, Any]:
        """A falsifier whose measurements must all equal 1."""
        written = {"id": claim, "prediction": "p", "if_fails": "f", **more}
        written["thresholds"] = {name: {"op": "==", "value": 1} for name in thresholds}
        if cells:
            written["requires"] = {"cells": [{"device": device, "subject": subject} for device, subject in cells]}
        return written

    @staticmethod
    def registration(
        claim: str, function: str = "check", *, level: str = "live", more: str = "", cells: str = "()"
    ) -> str:
        """A decorator with one control that breaks `m`, to stand before a function."""
        control = f'Control("broken", plant=broken, breaks="m", cells={cells})'
        return f'@falsifier("{claim}", level="{level}", controls=[{control}]{more})\n'

    def write(self, name: str, body: str, *, header: str = HEADER) -> Path:
        path = self.folder / f"{name}.py"
        path.write_text(header + dedent(body), "utf-8")
        return path


@pytest.fixture
def checks(tmp_path: Path) -> Checks:
    return Checks(tmp_path)
