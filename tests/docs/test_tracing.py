"""docs/tracing.md: its rows are those of the table of thresholds; its commands are run by test_pages."""

from __future__ import annotations

from pv.compare.thresholds import THRESHOLDS, Kind
from tests.docs.pages import ROOT


def test_the_rows_of_the_page_are_those_of_the_table():
    text = (ROOT / "docs" / "tracing.md").read_text("utf-8")
    for kind, figures in {Kind.SHADOW: "5e-6 | 1e-4", Kind.ORACLE: "5e-6 | 1e-4", Kind.CUDA: "1e-5 | 1e-3"}.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {kind.value} |"))
        assert figures in row
        local, total = (float(x) for x in figures.split(" | "))
        assert (THRESHOLDS[kind].local.rel_l2, THRESHOLDS[kind].cumulative.rel_l2) == (local, total)
