"""Run the tutorial in an empty folder and draw what a terminal shows of it: docs/images/finding.svg and flip.svg.

python docs/make_images.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.docs.following import Reader  # noqa: E402 - the reader of pages lives there
from tests.docs.pages import steps  # noqa: E402 - likewise

PAGE = ROOT / "docs" / "first-contract.md"
IMAGES = ROOT / "docs" / "images"
FLIP, FINDING = "pv falsify --id FALSIFY-VARIANCE-001", "pv validate"


def main() -> None:
    shown: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        reader = Reader(Path(scratch))
        folder = reader.folder("empty")
        for step in steps(PAGE.read_text("utf-8"), PAGE.name):
            for command in step.commands:
                if command.line == FLIP and FLIP not in shown:
                    commit(folder)  # against a commit, any number of runs is one version bump
                shown.setdefault(command.line, []).append(reader.run(command.line, folder).out)
            reader.prepare(step)
    broken, mended = shown[FLIP][:2]
    draw("flip", [(FLIP, broken), ("$EDITOR mylib/stats.py", ""), (FLIP, mended)])
    draw("finding", [("$EDITOR contracts/variance-v1.yaml    # status: DISCHARGED", ""), (FINDING, shown[FINDING][0])])


def commit(folder: Path) -> None:
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def draw(name: str, scenes: list[tuple[str, str]]) -> None:
    console = Console(record=True, width=118, file=open("/dev/null", "w"))  # noqa: SIM115 - lives as long as we do
    for command, output in scenes:
        console.print(Text(f"$ {command}", style="bold green"))
        for line in output.splitlines():
            indent = len(line) - len(line.lstrip())  # a picture keeps no leading blanks but these
            shown = "\N{NO-BREAK SPACE}" * indent + line.lstrip()
            console.print(Text(shown, style=style_of(line)), overflow="fold", soft_wrap=False)
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{name}.svg").write_text(console.export_svg(title="pv", theme=MONOKAI))


def style_of(line: str) -> str:
    if "FALSIFIED FALSIFY" in line or " error" in line or "^^^" in line:
        return "bold red"
    return "bold cyan" if "->" in line else ""


if __name__ == "__main__":
    main()
