"""docs/report.md: its figures and examples are the program's; its commands are run by test_pages."""

from __future__ import annotations

from pv.report import html, notes, trend
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "report.md"


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
