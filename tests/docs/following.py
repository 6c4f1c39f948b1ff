"""Steps of a page -> done as its reader would do them, in scratch folders; what is shown is compared with what came."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.docs.pages import Command, Mark, Step, steps
from tests.docs.worlds import IDENTITY, WORLDS

SECONDS = 600
VULKAN = "a Vulkan driver"
WARM = "teacher"  # the world whose commands load torch
PROGRAMS = {"pv": "-P -m pv", "python": ""}
INSTALLS = re.compile(r"(?:^|[;&|] *|-m )(?:sudo )?(?:pip3? install|apt-get|make|uv)\b")
_TIMES = re.compile(r"\d+(?:\.\d+)? ?s\b")
_ELISION = re.compile(r"\.\.\.|…")
# pytest learns of the plugin from an installation; a checkout that was installed before it had one does not know it.
_PLUGIN = "-p pv.falsify.pytest_plugin -p no:cacheprovider"


class Done(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


class BrokenPromiseError(AssertionError):
    """The page promises what the program does not do."""


def present(device: str) -> bool:
    """Whether this machine has a device of the class (`vulkan-sw` is no `vulkan`)."""
    return device in _devices()


def _is_here(what: str) -> bool:
    """Whether a module can be imported, or there is a driver."""
    if what == VULKAN:
        return present("vulkan") or present("vulkan-sw")
    return importlib.util.find_spec(what) is not None


@cache
def _devices() -> frozenset[str]:
    from pv.falsify.devices import present as reports

    return frozenset(str(name) for name, report in reports().items() if report.present)


class Reader:
    """Follows pages in one scratch folder. Every world is made once, and kept from step to step."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.ran: Counter[Mark] = Counter()
        self.blocked = 0
        self.left_out: Counter[str] = Counter()  # commands, by what they need and this machine lacks

    def folder(self, world: str) -> Path:
        """The folder of a world, made at its first use. Raises KeyError for a name that is none."""
        place = self.scratch / world
        if not place.exists():
            WORLDS[world](place)
        return place

    def follow(self, page: Path, *, upto: Mark = Mark.QUICK) -> None:
        """Do what the page says; slow steps with `upto=Mark.SLOW`, all with Mark.GPU. Raises BrokenPromiseError."""
        marks = list(Mark)[: list(Mark).index(upto) + 1]
        for step in steps(page.read_text("utf-8"), str(page)):
            try:
                self._do(step, marks)
            except BrokenPromiseError as broken:
                raise BrokenPromiseError(f"{page}:{step.line}: {broken}") from None

    def prepare(self, step: Step) -> None:
        """Write or change the file that a step is about, if it is about one."""
        folder = self.folder(step.world)
        if step.write:
            path = folder / step.write[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.write[1], "utf-8")
        elif step.replace:
            _replace(folder / step.replace[0], *step.replace[1:])

    def _do(self, step: Step, marks: Iterable[Mark]) -> None:
        self.prepare(step)
        folder = self.folder(step.world)
        if step.needs and not _is_here(step.needs):
            self.left_out[step.needs] += len(step.commands)
        elif step.mark is Mark.GPU and not present(step.detail):
            for command in step.commands:
                _hold_blocked(command, self.run(command.line, folder))
                self.blocked += 1
        elif step.mark in marks:
            for command in step.commands:
                hold(command, self.run(command.line, folder))
                self.ran[step.mark] += 1

    def run(self, line: str, folder: Path) -> Done:
        """Run one line in the folder, in bash; a plain `pv …` of the engine in this process, where torch is loaded."""
        if INSTALLS.search(line):
            raise BrokenPromiseError(f"{line!r} would change this machine: say `not run: installs from an index`")
        if folder.name == WARM and (words := _plain(line))[:1] == ["pv"]:
            return _called(words[1:], folder)
        return _in_a_shell(line, folder, self._programs())

    def _programs(self) -> Path:
        """A folder with `pv` and `python`, both of the interpreter of the tests."""
        place = self.scratch / "bin"
        if not place.exists():
            place.mkdir()
            for name, options in PROGRAMS.items():
                program = place / name
                program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {options} "$@"\n')
                program.chmod(0o755)
        return place


def hold(command: Command, done: Done) -> None:
    """The exit code, and every line shown, in order; lines shown side by side come side by side, `...` apart."""
    if done.code != command.code:
        raise BrokenPromiseError(
            f"{command.line}\nexpected exit {command.code}, came {done.code}\n{done.out}{done.err}"
        )
    out, err = _lines(done.out), _lines(done.err)
    for run in _runs(command.lines):
        out_after, err_after = _after(run, out), _after(run, err)
        if out_after is None and err_after is None:
            shown = "\n".join(run)
            raise BrokenPromiseError(f"{command.line}\nexpected\n{shown}\nin this order, came\n{done.out}{done.err}")
        out, err = (out_after, err) if out_after is not None else (out, err_after or [])


def _hold_blocked(command: Command, done: Done) -> None:
    """Without its device a command says what is missing and exits 4."""
    if done.code != 4 or not re.search(
        r"BLOCKED|unavailable|without CUDA|no NVIDIA|no .*adapter|software", done.out + done.err
    ):
        raise BrokenPromiseError(
            f"{command.line}\nexpected exit 4 and what is missing, came {done.code}\n{done.out}{done.err}"
        )


def _runs(lines: Iterable[str]) -> list[list[str]]:
    """Shown lines, cut where a line of dots stands; empty ones mean nothing."""
    runs: list[list[str]] = [[]]
    for line in lines:
        if line.strip() in {"...", "…"}:
            runs.append([])
        elif line.strip():
            runs[-1].append(line)
    return [run for run in runs if run]


def _lines(text: str) -> list[str]:
    return [_TIMES.sub("T s", line.rstrip()) for line in text.splitlines() if line.strip()]


def _after(run: list[str], came: list[str]) -> list[str] | None:
    """What came after the first place where the run stands, or None."""
    patterns = [_pattern(line) for line in run]
    for start in range(len(came) - len(run) + 1):
        if all(pattern.search(line) for pattern, line in zip(patterns, came[start:], strict=False)):
            return came[start + len(run) :]
    return None


def _pattern(line: str) -> re.Pattern[str]:
    """A shown line as a pattern: `...` within it stands for anything."""
    parts = _ELISION.split(_TIMES.sub("T s", line.rstrip()))
    return re.compile(".*".join(re.escape(part) for part in parts))


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    if old not in text:
        raise BrokenPromiseError(f"{old!r} is not in {path.name}")
    path.write_text(text.replace(old, new), "utf-8")


def _plain(line: str) -> list[str]:
    """The words of a command that needs no shell, else none."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = shlex.split(line, comments=True)
    return words if list(lexer) == words and not set("$`*") & set(line) else []


def _in_a_shell(line: str, folder: Path, programs: Path) -> Done:
    env = {**os.environ, **IDENTITY, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    env |= {"PYTEST_ADDOPTS": _PLUGIN, "COLUMNS": "120"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _called(arguments: list[str], folder: Path) -> Done:
    from click.testing import CliRunner

    from pv.cli.main import pv

    with contextlib.chdir(folder):
        done = CliRunner().invoke(pv, arguments, env={"COLUMNS": "120"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise BrokenPromiseError(f"pv {shlex.join(arguments)}\n{done.output}") from done.exception
    return Done(done.exit_code, done.stdout, done.stderr)
