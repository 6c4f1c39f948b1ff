"""The tutorial is run as it stands: its files are written, its commands called, its output compared."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "first-contract.md"
STEP = re.compile(
    r"<!-- file: (?P<file>\S+) -->\n```\w+\n(?P<content>.*?)```"
    r'|<!-- replace: (?P<place>\S+): "(?P<old>[^"]+)" -> "(?P<new>[^"]+)" -->'
    r"|```console\n(?P<console>.*?)```",
    re.DOTALL,
)
TIMES = re.compile(r"\d+\.\d s")


def commands(block: str) -> list[tuple[str, int, list[str]]]:
    """(command, expected exit code, lines of output that must appear in this order)."""
    found: list[tuple[str, int, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            command, _, comment = line[2:].partition("   # exit ")
            found.append((command, int(comment or 0), []))
        else:
            found[-1][2].append(line)
    return found


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    assert program == "pv"
    return subprocess.run(
        [sys.executable, "-P", "-m", "pv", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


def follow(folder: Path) -> int:
    """Do what the page says. Returns how many commands were run."""
    ran = 0
    for step in STEP.finditer(PAGE.read_text(encoding="utf-8")):
        if step["file"]:
            path = folder / step["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step["content"], encoding="utf-8")
        elif step["place"]:
            path = folder / step["place"]
            text = path.read_text(encoding="utf-8")
            assert step["old"] in text
            path.write_text(text.replace(step["old"], step["new"]), encoding="utf-8")
        else:
            for command, code, lines in commands(step["console"]):
                done = run(command, folder)
                ran += 1
                assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
                output = TIMES.sub("T s", done.stdout)
                for line in lines:
                    assert TIMES.sub("T s", line) in output, f"{command}: {line!r} is not in\n{done.stdout}"
    return ran


def test_the_tutorial_works_as_written(tmp_path):
    assert follow(tmp_path) == 8
    assert "status: FUNCTIONAL" in (tmp_path / "contracts/variance-v1.yaml").read_text()


def test_a_page_that_promises_too_much_is_seen(tmp_path, monkeypatch):
    wrong = tmp_path / "page.md"
    wrong.write_text(PAGE.read_text().replace("0.004657866", "0.000000001"))
    monkeypatch.setattr(sys.modules[__name__], "PAGE", wrong)
    with pytest.raises(AssertionError, match="is not in"):
        follow(tmp_path)
