"""The text of a page -> its steps: files to write, commands to run, and blocks that are not run, with the reason.

Comments of the page steer it, each on a line of its own before the block that it is about:

    <!-- in: WORLD -->             from here on, commands run in that world (tests/docs/worlds.py); `empty` at the start
    <!-- file: PATH -->            the block is a file of the reader's
    <!-- replace: PATH: "OLD" -> "NEW" -->   what the page tells the reader to change by hand
    <!-- slow -->                  run under the mark `slow` only
    <!-- gpu: cuda|vulkan -->      run under the mark `gpu`; without that device it must be BLOCKED, which is asserted
    <!-- needs: MODULE -->         left out, and told as skipped, where an extra is not installed; or `a Vulkan driver`
    <!-- not run: REASON -->       REASON is one of `REASONS`
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
COMMANDS = ("sh", "bash", "shell", "console")

# Why a block of commands is not run. A closed list: a new reason is a decision, not a comment.
REASONS = {
    "installs from an index": "it changes the machine and needs the network; `make run` is what CI and `make test` do",
    "needs several hosts": "machines that see each other",
    "takes minutes on a GPU": "a measurement; the page shows what it came to",
    "signs in public": "an identity and the network; what is signed is entered in a public log",
}

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\s*$")
_COMMENT = re.compile(r"^ *<!-- (?P<key>in|file|replace|slow|gpu|needs|not run)(?:: (?P<value>.+?))? -->\s*$")
_REPLACE = re.compile(r'(?P<path>\S+): "(?P<old>.+)" -> "(?P<new>.*)"')


class Mark(StrEnum):
    """When a step is done."""

    QUICK = "quick"
    SLOW = "slow"
    GPU = "gpu"
    NEVER = "not run"


class Command(NamedTuple):
    """One command, the exit code that the page promises, and the lines of output that it shows."""

    line: str
    code: int = 0
    lines: tuple[str, ...] = ()


class Step(NamedTuple):
    """One thing that the page does: exactly one of `write`, `replace` and `commands` is there."""

    line: int  # of the page, from 1
    world: str
    write: tuple[str, str] | None = None  # path, content
    replace: tuple[str, str, str] | None = None  # path, old, new
    commands: tuple[Command, ...] = ()
    mark: Mark = Mark.QUICK
    detail: str = ""  # the device of GPU, the reason of NEVER
    needs: str = ""  # a module, or `a Vulkan driver`


class Block(NamedTuple):
    """A fenced block: the line of its fence, its language, its text without the fence's indentation."""

    line: int
    language: str
    text: str


class PageError(ValueError):
    """A page that cannot be followed: an unclosed block, a directive without its block, an unknown reason."""


def pages() -> tuple[Path, ...]:
    """Every page that a reader may follow, relative to the root; generated reference pages included."""
    found = [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "examples").glob("*/README.md")),
    ]
    return tuple(path.relative_to(ROOT) for path in found)


def steps(text: str, page: str = "page") -> tuple[Step, ...]:
    """The steps of a page, in its order. Raises PageError with page and line."""
    return tuple(_steps(text.splitlines(), page))


def blocks(text: str, page: str = "page") -> Iterator[Block]:
    """Every fenced block of a page."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        number += 1
        if opened:
            end = _end(lines, number, page)
            yield Block(number, opened["language"], textwrap.dedent("\n".join([*lines[number:end], ""])))
            number = end + 1


def commands(text: str) -> tuple[Command, ...]:
    """The commands of one block. `# exit N` after three spaces says that the exit is not 0.

    With a prompt (`$ `) in front, lines without one are the output of the command before; without any prompt every line
    is a command. A backslash at the end of a line takes up the next.
    """
    lines = text.replace("\\\n", " ").splitlines()
    prompted = any(line.startswith("$ ") for line in lines)
    found: list[Command] = []
    for line in lines:
        if line.startswith("$ ") or not prompted:
            if not line.strip() or line.startswith("#"):
                continue
            command, _, code = line.removeprefix("$ ").partition("   # exit ")
            found.append(Command(command.strip(), int(re.match(r"\d+", code)[0]) if code else 0))
        elif not found:
            raise PageError(f"expected a command before the output {line!r}")
        else:
            found[-1] = found[-1]._replace(lines=(*found[-1].lines, line))
    return tuple(found)


def _end(lines: list[str], start: int, page: str) -> int:
    for number in range(start, len(lines)):
        if lines[number].strip() == "```":
            return number
    raise PageError(f"{page}:{start}: expected the end of the block that begins here")


def _steps(lines: list[str], page: str) -> Iterator[Step]:
    world, waiting, number = "empty", {}, 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if comment := _COMMENT.match(line):
            key, value = comment["key"], comment["value"] or ""
            if key == "in":
                world = value
            elif key == "replace":
                yield Step(number, world, replace=_replacement(value, f"{page}:{number}"))
            else:
                waiting[key] = value
        elif opened := _FENCE.match(line):
            end = _end(lines, number, page)
            text = textwrap.dedent("\n".join([*lines[number:end], ""]))
            if step := _step(number, world, opened["language"], text, waiting, f"{page}:{number}"):
                yield step
            waiting, number = {}, end + 1
        elif line.strip() and waiting:
            raise PageError(f"{page}:{number}: expected a block after `{', '.join(waiting)}`, found {line!r}")
    if waiting:
        raise PageError(f"{page}:{number}: expected a block after `{', '.join(waiting)}`, found the end")


def _step(line: int, world: str, language: str, text: str, said: dict[str, str], place: str) -> Step | None:
    if "file" in said:
        return Step(line, world, write=(said["file"], text))
    if language not in COMMANDS:
        if said:
            raise PageError(f"{place}: `{', '.join(said)}` is about a block of commands, this one is {language!r}")
        return None
    if "not run" in said:
        if said["not run"] not in REASONS:
            raise PageError(f"{place}: expected a reason of {', '.join(REASONS)}; found {said['not run']!r}")
        return Step(line, world, commands=commands(text), mark=Mark.NEVER, detail=said["not run"])
    mark = Mark.GPU if "gpu" in said else Mark.SLOW if "slow" in said else Mark.QUICK
    return Step(
        line, world, commands=commands(text), mark=mark, detail=said.get("gpu", ""), needs=said.get("needs", "")
    )


def _replacement(value: str, place: str) -> tuple[str, str, str]:
    match = _REPLACE.fullmatch(value)
    if match is None:
        raise PageError(f'{place}: expected `replace: PATH: "OLD" -> "NEW"`, found {value!r}')
    return match["path"], match["old"], match["new"]
