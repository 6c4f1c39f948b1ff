"""Edits applied at once, and patches that other programs can apply."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.diagnostics.model import TextEdit
from pv.document.edits import EditError, apply, unified_diff

TEXTS = st.text(st.sampled_from("ab\r\né日🎉\x85\u2028"), max_size=40)


@st.composite
def edited(draw: st.DrawFn) -> tuple[str, list[TextEdit], str]:
    """A text in pieces, edits of some of them, and the text that they must give, put together piece by piece."""
    pieces = draw(st.lists(TEXTS, max_size=8))
    text, wanted, edits, at = "".join(pieces), "", [], 0
    for piece in pieces:
        end = at + len(piece)
        if draw(st.booleans()):
            new = draw(TEXTS)
            edits.append(TextEdit(at, end, new))
            wanted += new
        else:
            wanted += piece
        at = end
    return text, edits, wanted


@given(edited(), st.randoms())
def test_edits_count_in_the_text_before_any_of_them(case: tuple[str, list[TextEdit], str], random: object) -> None:
    text, edits, wanted = case
    assert apply(text, edits) == wanted
    shuffled = [edit for edit in edits if edit.start != edit.end]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert apply(text, shuffled) == apply(text, [edit for edit in edits if edit.start != edit.end])


@given(TEXTS)
def test_no_edits_change_nothing(text: str) -> None:
    assert apply(text, []) == text
    assert unified_diff("a.yaml", text, text) == ""


def test_insertions_at_one_place_keep_their_order() -> None:
    assert apply("ab", [TextEdit(1, 1, "1"), TextEdit(1, 1, "2"), TextEdit(1, 2, "B")]) == "a12B"
    assert apply("", [TextEdit(0, 0, "x")]) == "x"


@pytest.mark.parametrize(
    "edits",
    [
        [TextEdit(0, 2, "x"), TextEdit(1, 3, "y")],
        [TextEdit(0, 3, "x"), TextEdit(1, 1, "y")],
        [TextEdit(1, 2, "x"), TextEdit(1, 2, "x")],
    ],
)
def test_overlapping_edits_are_refused(edits: list[TextEdit]) -> None:
    with pytest.raises(EditError, match="two edits overlap"):
        apply("abc", edits)
    with pytest.raises(EditError, match="two edits overlap"):
        apply("abc", edits[::-1])


@pytest.mark.parametrize("edit", [TextEdit(-1, 0, ""), TextEdit(0, 4, ""), TextEdit(2, 1, "")])
def test_edits_outside_the_text_are_refused(edit: TextEdit) -> None:
    with pytest.raises(EditError, match="expected an edit within 0 to 3"):
        apply("abc", [edit])


def test_a_diff_of_crlf_keeps_the_carriage_returns() -> None:
    diff = unified_diff("c/a.yaml", "a: 1\r\nb: 2\r\n", "a: 1\r\nb: 3\r\n")
    assert diff == "--- a/c/a.yaml\n+++ b/c/a.yaml\n@@ -1,2 +1,2 @@\n a: 1\r\n-b: 2\r\n+b: 3\r\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a\nb\nc\n", "a\nX\nc\n"),
        ("a\r\nb\r\nc", "a\r\nb\r\nc\r\nd"),
        ("a\nb", "a\nb\n"),
        ("a\x85b\n\u2028c\n", "a\x85b\nc\n"),
        ("".join(f"{n}\n" for n in range(50)), "".join(f"{n}\n" for n in range(50) if n not in (3, 40))),
    ],
)
def test_git_applies_the_diff(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(old.encode())
    patch = unified_diff("f.yaml", old, new).encode()
    command = ["git", "apply", "--whitespace=nowarn", "-"]
    subprocess.run(
        command,
        input=patch,
        cwd=tmp_path,
        check=True,
        env={"PATH": "/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
    )
    assert path.read_bytes() == new.encode()
