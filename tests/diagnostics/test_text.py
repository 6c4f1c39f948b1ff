"""The text that people read: its exact shape, and its excerpts of lines that are hard to show."""

from __future__ import annotations

import io
import re
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pv.diagnostics import text, words
from pv.diagnostics.model import Diagnostic, Severity, Span, TextEdit
from pv.diagnostics.render import Format, Look, render

SOURCE = """\
falsification_tests:

  - id: FALSIFY-CPU-GPU-005
    rule: a rule
    statsu: FUNCTIONAL
"""


def place(source: str, words: str) -> Span:
    start = source.index(words)
    end = start + len(words)

    def at(offset: int) -> tuple[int, int]:
        return source.count("\n", 0, offset) + 1, offset - (source.rfind("\n", 0, offset) + 1) + 1

    return Span(start, end, *at(start), *at(end))


def rendered(*diagnostics: Diagnostic, source: str = SOURCE, summary: str = "", **look: object) -> str:
    out = io.StringIO()
    render(diagnostics, {"c.yaml": source}, Format.TEXT, out, summary=summary, look=Look(**look), environ={})  # type: ignore[arg-type]
    return out.getvalue()


def error(words: str, source: str = SOURCE, **fields: object) -> Diagnostic:
    return Diagnostic("PV203", Severity.ERROR, "c.yaml", "a message", place(source, words), **fields)  # type: ignore[arg-type]


def test_a_finding_has_all_its_parts() -> None:
    finding = Diagnostic(
        "PV203",
        Severity.ERROR,
        "c.yaml",
        "unknown key `statsu`, did you mean `status`?",
        place(SOURCE, "statsu"),
        expected="one of: id, status, binds_to",
        where="falsification_tests[0] (FALSIFY-CPU-GPU-005)",
        help="rename the key",
        edits=(TextEdit(0, 0, ""),),
    )
    assert (
        rendered(finding, summary="1 contract, 1 falsifier; 1 error(s), 0 warning(s)")
        == """\
c.yaml:5:5  PV203 error  unknown key `statsu`, did you mean `status`?
   3 |   - id: FALSIFY-CPU-GPU-005
   4 |     rule: a rule
   5 |     statsu: FUNCTIONAL
     |     ^^^^^^ expected one of: id, status, binds_to
   = in   falsification_tests[0] (FALSIFY-CPU-GPU-005)
   = fix  rename the key (`pv validate --fix`)      = why  pv explain PV203

1 contract, 1 falsifier; 1 error(s), 0 warning(s)
"""
    )


def test_a_finding_about_a_whole_file_has_no_excerpt() -> None:
    finding = Diagnostic("PV101", Severity.ERROR, "d.yaml", "there is no such file", found="nothing")
    assert (
        rendered(finding)
        == """\
d.yaml  PV101 error  there is no such file
   = found nothing
   = why  pv explain PV101

"""
    )


def test_findings_come_by_file_and_place_and_equal_ones_once() -> None:
    late, early = error("statsu"), error("rule: a")
    other = Diagnostic("PV101", Severity.ERROR, "a.yaml", "there is no such file")
    text = rendered(late, other, early, late)
    assert re.findall(r"^(\S+)  PV", text, re.MULTILINE) == ["a.yaml", "c.yaml:4:5", "c.yaml:5:5"]


def test_a_span_of_several_lines_is_underlined_on_its_first() -> None:
    text = rendered(error("rule: a rule\n    statsu"))
    assert "   4 |     rule: a rule\n     |     ^^^^^^^^^^^^\n" in text


def test_an_empty_span_gets_one_caret() -> None:
    span = Span(len("falsification_tests:"), len("falsification_tests:"), 1, 21, 1, 21)
    text = rendered(Diagnostic("PV203", Severity.ERROR, "c.yaml", "m", span))
    assert "   1 | falsification_tests:\n     |                     ^\n" in text


def test_a_span_past_the_end_of_the_text_is_no_crash() -> None:
    for span in (Span(999, 999, 99, 1, 99, 1), Span(10, 500, 1, 11, 1, 400), Span(0, 0, 6, 1, 6, 1)):
        assert "PV203 error" in rendered(Diagnostic("PV203", Severity.ERROR, "c.yaml", "m", span))


def cells(text: str) -> int:
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def caret_is_under(text: str, words: str) -> bool:
    lines = text.split("\n")
    number = next(n for n, line in enumerate(lines) if re.match(r" +\| +\^", line))
    above, below = lines[number - 1], lines[number]
    start, carets = below.index("^"), below.count("^")
    at = above.index(words)
    return cells(above[:at]) == start and cells(words) == carets


@pytest.mark.parametrize(
    "line",
    [
        "日本語: x BAD y",
        "é́combining: BAD",
        "🎉🎉: BAD",
        "\ttab\tx: BAD",
        "a\u200bb: BAD",
        "ｆｕｌｌ: BAD",
        "x\x1b[31m: BAD",
    ],
)
def test_the_caret_stands_under_the_words_whatever_is_before_them(line: str) -> None:
    assert caret_is_under(rendered(error("BAD", line), source=line), "BAD")


def test_a_tab_is_shown_as_spaces_since_terminals_differ_on_its_width() -> None:
    text = rendered(error("BAD", "\ta:\tBAD"), source="\ta:\tBAD")
    assert "   1 |     a:    BAD\n     |           ^^^\n" in text
    assert "c.yaml:1:5" in text


def test_wide_words_are_underlined_in_full() -> None:
    assert caret_is_under(rendered(error("日本", "a: 日本 b"), source="a: 日本 b"), "日本")


def test_a_long_line_is_clipped_around_the_caret() -> None:
    source = "k: " + "left " * 100 + "BAD" + " right" * 100
    text = rendered(error("BAD", source), source=source, width=80)
    assert caret_is_under(text, "BAD")
    assert all(cells(line) <= 80 for line in text.split("\n"))
    line = next(line for line in text.split("\n") if "BAD" in line and "|" in line)
    assert line.startswith("   1 | …")
    assert line.endswith("…")


def test_a_long_line_whose_words_come_early_begins_at_its_beginning() -> None:
    source = "k: BAD" + " right" * 100
    text = rendered(error("BAD", source), source=source, width=80)
    assert "   1 | k: BAD right" in text
    assert caret_is_under(text, "BAD")


@given(
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=300),
    st.integers(0, 300),
    st.integers(0, 9),
    st.integers(30, 120),
)
@example("0" * 23, 23, 0, 30)
def test_no_line_is_a_crash_or_too_long(line: str, start: int, size: int, width: int) -> None:
    start = min(start, len(line))
    end = min(start + size, len(line))
    finding = Diagnostic("PV203", Severity.ERROR, "c.yaml", "m", Span(start, end, 1, start + 1, 1, end + 1))
    excerpt = rendered(finding, source=line, width=width).split("\n")[1:3]
    assert all(cells(row) <= width for row in excerpt), excerpt
    assert "^" in excerpt[1]


def test_nothing_can_repaint_the_terminal() -> None:
    evil = "\x1b[2J\x07\u202e\x9b31m"
    finding = Diagnostic(
        "PV203", Severity.ERROR, f"{evil}.yaml", evil, place(f"a: {evil}", evil), evil, evil, evil, evil
    )
    out = io.StringIO()
    render([finding], {f"{evil}.yaml": f"a: {evil}"}, "text", out, summary=evil, environ={})
    assert not set(out.getvalue()) & set("\x1b\x07\u202e\x9b")
    assert "\\x1b[2J\\x07\\u202e\\x9b31m" in out.getvalue()


def test_a_message_of_several_lines_stays_one() -> None:
    finding = Diagnostic("PV203", Severity.ERROR, "c.yaml", "one\n  two\tthree", where="x\ny")
    assert "one two three\n   = in   x y\n" in rendered(finding)


def test_colours_come_only_when_asked_for_and_take_nothing_away() -> None:
    plain, coloured = rendered(error("statsu")), rendered(error("statsu"), colour=True)
    assert "\x1b" not in plain
    assert "\x1b[1;31mPV203 error\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_a_stream_that_cannot_say_a_character_gets_an_escape() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    render([Diagnostic("PV1", Severity.ERROR, "é.yaml", "日")], {}, "text", stream, environ={})
    stream.flush()
    assert raw.getvalue().startswith(b"\\xe9.yaml  PV1 error  \\u65e5\n")


LINES = st.text(st.sampled_from("ab \t—é日🎉\u0301\u200b\x07≤"), max_size=40) | st.text(
    st.sampled_from("ab — ≤é"), max_size=40
)


@given(LINES, st.integers(0, 45), st.integers(0, 45), st.integers(20, 60))
def test_a_line_that_fits_is_clipped_as_any_other(line, start, end, room):
    """The short way for lines with a cell for each character gives what the way for all lines gives."""
    assert text._clip(line, start, end, room) == text._clipped(text._Row(line), start, end, room)


def test_a_printable_text_has_nothing_unsafe():
    """`safe` searches only texts that are not printable."""
    unsafe = re.compile(words._UNSAFE)
    assert [c for c in map(chr, range(sys.maxunicode + 1)) if c.isprintable() and unsafe.match(c)] == []
