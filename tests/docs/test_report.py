"""docs/report.md: its commands are run in the sample project, and give the lines that the page shows."""

from __future__ import annotations

from pathlib import Path

from pv.report import html, notes, trend
from tests.docs.pages import STEP, commands, run
from tests.report.samples import town

PAGE = Path(__file__).parent.parent.parent / "docs" / "report.md"


def test_the_commands_do_what_the_page_shows(tmp_path):
    folder = town(tmp_path / "town").root
    ran = 0
    for step in STEP.finditer(PAGE.read_text("utf-8")):
        for command in commands(step["console"]):
            done = run(command.line, folder)
            assert done.returncode == command.code, done.stderr
            for line in command.lines:
                assert line in done.stdout, f"{command.line}: {line!r} is not in\n{done.stdout}"
            ran += 1
    assert ran == 6
    assert (folder / "pv-report.html").exists()
    assert (folder / "public.html").exists()


def test_the_page_s_examples_of_notes_are_drawn():
    rows = [line.split("`")[1] for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    examples = [row for row in rows if ": " in row]
    assert len(examples) == 3
    assert all(isinstance(part, notes.Chart) for part in notes.parts(examples))
    assert notes.guilty(["the guilty stage is ffn_up of layer 2, layer-2/ffn_up"]) == ("ffn_up of layer 2",)


def test_the_page_s_figures_are_the_program_s():
    text = " ".join(PAGE.read_text("utf-8").split())
    assert f"up to {html.LAZY_ABOVE} claims" in text
    assert f"beyond {html.LONGEST:,} characters" in text
    assert (trend.ENOUGH, trend.DEVIATIONS, trend.ROUNDING) == (5, 5.0, 1e-9)
