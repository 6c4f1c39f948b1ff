"""Markdown for a pull request: what it says, how long it gets, and that texts stay texts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.report import markdown
from tests.report.test_html import hostile_story


@pytest.fixture(scope="module")
def page(story) -> str:
    return markdown.page(story)


def test_the_reds_come_first_with_measurement_stage_and_record(page):
    lines = page.splitlines()
    assert lines[0] == "### Contracts: 0+1 of 6 claims"
    assert "Ship `SHIP`: **20.0 %** (1 of 5); not there: `absent-v1`." in lines
    row = next(line for line in lines if line.startswith("| `FALSIFY-PARITY-001`"))
    assert "`cosine = 0.41, expected >= 0.99`<br>`stage ffn_up of layer 2`" in row
    assert "'a planted defect' was not caught" in page


def test_what_stands_apart_is_folded(page):
    titles = re.findall(r"<summary>(.*)</summary>", page)
    assert titles == [
        "Known failing: 1",
        "Drifting: 1",
        "Blocked: 1",
        "Without a check: 1",
        "Written otherwise than earned: 4",
        "2 contracts",
        "Device matrix",
    ]
    assert page.count("<details>") == page.count("</details>") == len(titles)
    assert "| `parity-v1` | `1.10` | 0+1 | 5 | 2 falsified, 1 blocked, 1 unbound |  |" in page


def test_every_table_has_as_many_cells_in_every_row(page):
    bare = re.sub(r"\\\|", "", page)
    tables = re.findall(r"(?:^\|.*\n)+", bare, re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_long_lists_end_with_how_many_more(story, monkeypatch):
    monkeypatch.setattr(markdown, "MOST", 1)
    page = markdown.page(story)
    assert "and 1 more" in page  # of two reds
    assert "and 3 more" in page  # of four written otherwise
    assert "FALSIFY-WORDS-001" not in page.split("<details>")[0]


def outside_code(text: str) -> str:
    """What is left of Markdown without its code spans."""
    return re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", text)


def test_hostile_texts_stay_in_code_spans(tmp_path):
    rest = outside_code(markdown.page(hostile_story(tmp_path)).replace("\\|", ""))
    for bad in ("<script", "<img", "javascript:", "onerror"):
        assert bad not in rest
    assert "`" not in rest


@given(st.text(min_size=1))
def test_any_text_is_one_code_span_on_one_line(text):
    span = markdown.code(text, 10_000)
    assert "\n" not in span
    assert outside_code(span.replace("\\|", "!")) == ""
    assert "|" not in span.replace("\\|", "")


def test_a_long_text_is_cut():
    assert markdown.code("x" * 500) == f"`{'x' * (markdown.LONGEST - 1)}…`"


def test_nothing_broken_is_said(tmp_path):
    from tests.report.samples import Town

    made = Town(tmp_path / "town")
    made.tell("FALSIFY-WORDS-001", {"words": 5})
    assert "Nothing is broken." in markdown.page(made.story)
