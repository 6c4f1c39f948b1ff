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

from tests.docs.test_first_contract import PAGE, STEP, commands  # noqa: E402 - the reader of the page lives there

IMAGES = ROOT / "docs" / "images"
FLIP, FINDING = "pv falsify --id FALSIFY-VARIANCE-001", "pv validate"


def main() -> None:
    shown: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for step in STEP.finditer(PAGE.read_text(encoding="utf-8")):
            if step["file"]:
                path = Path(folder, step["file"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step["content"], encoding="utf-8")
            elif step["place"]:
                path = Path(folder, step["place"])
                path.write_text(path.read_text().replace(step["old"], step["new"]))
            else:
                for command, _, _ in commands(step["console"]):
                    if command == FLIP and FLIP not in shown:
                        commit(folder)  # against a commit, any number of runs is one version bump
                    text = run(command, folder)
                    shown.setdefault(command, []).append(text)
    broken, mended = shown[FLIP][:2]
    draw("flip", [(FLIP, broken), ("$EDITOR mylib/stats.py", ""), (FLIP, mended)])
    draw("finding", [("$EDITOR contracts/variance-v1.yaml    # status: DISCHARGED", ""), (FINDING, shown[FINDING][0])])


def run(command: str, folder: str) -> str:
    arguments = command.split()[1:]
    done = subprocess.run(
        [sys.executable, "-m", "pv", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout


def commit(folder: str) -> None:
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
