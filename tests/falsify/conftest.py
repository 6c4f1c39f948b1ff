"""Small real projects: a pyproject, contracts, check modules, all written by the test that uses them."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

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

    def write(self, name: str, body: str, *, header: str = HEADER) -> Path:
        path = self.folder / f"{name}.py"
        path.write_text(header + dedent(body), "utf-8")
        return path


@pytest.fixture
def checks(tmp_path: Path) -> Checks:
    return Checks(tmp_path)
