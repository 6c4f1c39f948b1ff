"""A page of the docs -> its steps, done in an empty folder: files written, commands called, output compared."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

STEP = re.compile(
    r"<!-- file: (?P<file>\S+) -->\n```\w+\n(?P<content>.*?)```"
    r'|<!-- replace: (?P<place>\S+): "(?P<old>[^"]+)" -> "(?P<new>[^"]+)" -->'
    r"|```console\n(?P<console>.*?)```",
    re.DOTALL,
)
TIMES = re.compile(r"\d+\.\d+ ?s")
# pytest learns of the plugin from an installation; a checkout that was installed before it had one does not know it.
PLUGIN = "-p pv.falsify.pytest_plugin -p no:cacheprovider"


class Command(NamedTuple):
    """One line to run, the exit code that the page promises, and lines of output that must be there."""

    line: str
    code: int
    lines: tuple[str, ...]


def commands(block: str) -> list[Command]:
    """The commands of one console block; `# exit N` after three spaces says that the exit is not 0."""
    found: list[Command] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            command, _, comment = line[2:].partition("   # exit ")
            found.append(Command(command, int(comment or 0), ()))
        else:
            found[-1] = found[-1]._replace(lines=(*found[-1].lines, line))
    return found


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `pv …` or `python …` as the page's reader would, with the interpreter of the tests."""
    program, *arguments = shlex.split(command)
    start = {"pv": ["-P", "-m", "pv"], "python": []}[program]
    env = {**os.environ, "PYTEST_ADDOPTS": PLUGIN, "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *start, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )


def follow(page: Path, folder: Path) -> int:
    """Do what the page says. Returns how many commands were run; raises AssertionError where it promises too much."""
    ran = 0
    for step in STEP.finditer(page.read_text(encoding="utf-8")):
        if step["file"]:
            path = folder / step["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step["content"], encoding="utf-8")
        elif step["place"]:
            path = folder / step["place"]
            text = path.read_text(encoding="utf-8")
            assert step["old"] in text, f"{step['old']!r} is not in {step['place']}"
            path.write_text(text.replace(step["old"], step["new"]), encoding="utf-8")
        else:
            for command in commands(step["console"]):
                _hold(command, run(command.line, folder))
                ran += 1
    return ran


def _hold(command: Command, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == command.code, f"{command.line}\n{done.stdout}{done.stderr}"
    output = TIMES.sub("T s", done.stdout)
    for line in command.lines:
        assert TIMES.sub("T s", line) in output, f"{command.line}: {line!r} is not in\n{done.stdout}"
