"""Comments that silence a code: what they are, which line they govern, and what fails to be one."""

from __future__ import annotations

import pytest

from pv.document.reader import parse


def test_a_comment_after_a_value_governs_its_line() -> None:
    (found,) = parse(b"a: 1\nb: 2  # pv: ignore[PV203] read by another tool\n", "x").suppressions
    assert (found.codes, found.reason, found.line) == (("PV203",), "read by another tool", 2)
    assert (found.span.line, found.span.column) == (2, 7)


def test_a_comment_on_its_own_governs_the_next_line_with_a_value() -> None:
    text = b"# pv: ignore[PV203, PV401] why\r\n\r\n# another remark\r\n  \r\nb: 2\r\n# pv: ignore[PV118] at the end\r\n"
    first, last = parse(text, "x").suppressions
    assert (first.codes, first.reason, first.line, first.span.line) == (("PV203", "PV401"), "why", 5, 1)
    assert (last.line, last.span.line) == (6, 6)


@pytest.mark.parametrize(
    ("comment", "why"),
    [
        ("# pv: ignore", "it names no code"),
        ("# pv: ignore PV203 because", "it names no code"),
        ("# pv: ignore[] because", "'' is no code"),
        ("# pv: ignore[203] because", "'203' is no code"),
        ("# pv: ignore[PV203,] because", "'' is no code"),
        ("# pv: ignore[PV203]", "it gives no reason"),
        ("# pv: ignore[PV203]   ", "it gives no reason"),
    ],
)
def test_a_comment_that_suppresses_nothing_is_a_problem(comment: str, why: str) -> None:
    document = parse(f"a: 1 {comment}\n".encode(), "x")
    assert document.suppressions == ()
    (problem,) = document.problems
    assert problem.code == "PV115"
    assert why in problem.message
    assert (problem.span.line, problem.span.column) == (1, 6)


def test_text_that_looks_like_a_comment_is_none() -> None:
    marker = "# pv: ignore[PV203] x"
    text = f"a: '{marker}'\nb: |\n  {marker}\nc: \"y {marker}\"\n"
    document = parse(text.encode(), "x")
    assert document.suppressions == ()
    assert document.problems == ()


def test_a_document_without_the_words_pays_nothing() -> None:
    assert parse(b"a: 1 # pv:ignore[PV203] not ours\n", "x").suppressions == ()
