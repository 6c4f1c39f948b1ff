"""What the judge lets pass and what it stops: every kind of collateral damage, planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from random_yaml import Written, documents

from pv.diagnostics.model import TextEdit
from pv.document.edits import apply
from pv.document.prove import NotProven, proves
from pv.document.reader import parse, read

BEFORE = """\
# head
metadata:
  version: "1.0.0"   # moved by hand

# ---- claims ----
claims:
  - id: A
    status: UNBOUND   # waiting for a device
    note: >
      folded
      text
  # belongs to B
  - id: B
    status: UNBOUND
"""
DATA: dict[str, Any] = {
    "metadata": {"version": "1.0.0"},
    "claims": [
        {"id": "A", "status": "UNBOUND", "note": "folded text\n"},
        {"id": "B", "status": "UNBOUND"},
    ],
}
STATUS_LINE = 8


def flipped(**added: Any) -> dict[str, Any]:
    claims = [DATA["claims"][0] | {"status": "FUNCTIONAL"} | added, DATA["claims"][1]]
    return DATA | {"claims": claims}


def refused(after: str, intended: Any, lines: list[int], before: str = BEFORE) -> str:
    with pytest.raises(NotProven) as caught:
        proves(before.encode(), after.encode(), intended, lines)
    return caught.value.reason


def test_the_intended_change_is_proven() -> None:
    after = BEFORE.replace("status: UNBOUND   #", "status: FUNCTIONAL   #")
    proves(BEFORE.encode(), after.encode(), flipped(), [STATUS_LINE])


def test_lines_added_after_an_allowed_one_are_proven() -> None:
    line = "    status: FUNCTIONAL   # waiting for a device\n    evidence: ['sha256:1']\n"
    after = BEFORE.replace("    status: UNBOUND   # waiting for a device\n", line)
    proves(BEFORE.encode(), after.encode(), flipped(evidence=["sha256:1"]), [STATUS_LINE])


@pytest.mark.parametrize(("newline", "bom"), [("\r\n", b""), ("\n", b"\xef\xbb\xbf"), ("\r\n", b"\xef\xbb\xbf")])
def test_line_ends_and_the_byte_order_mark_are_part_of_the_proof(newline: str, bom: bytes) -> None:
    before = bom + BEFORE.replace("\n", newline).encode()
    after = bom + BEFORE.replace("UNBOUND   #", "FUNCTIONAL   #").replace("\n", newline).encode()
    proves(before, after, flipped(), [STATUS_LINE])
    with pytest.raises(NotProven, match="nothing to do with the edit"):
        proves(before, after.removeprefix(bom).replace(b"\r\n", b"\n"), flipped(), [STATUS_LINE])


def test_the_last_line_may_gain_its_line_end() -> None:
    proves(b"a: 1\nb: 2", b"a: 1\nb: 2\nc: 3\n", {"a": 1, "b": 2, "c": 3}, [2])
    proves(b"b: 2\n", b"a: 1\nb: 2\n", {"a": 1, "b": 2}, [0])


def test_a_comment_on_the_edited_line_may_not_be_lost() -> None:
    after = BEFORE.replace("status: UNBOUND   # waiting for a device", "status: FUNCTIONAL")
    assert "waiting for a device" in refused(after, flipped(), [STATUS_LINE])


def test_a_comment_may_not_be_made_by_an_edit() -> None:
    after = BEFORE.replace("UNBOUND   #", "FUNCTIONAL # new #")
    assert "comments would change" in refused(after, flipped(), [STATUS_LINE])
    with pytest.raises(NotProven, match="was to be added and is not there"):
        proves(BEFORE.encode(), BEFORE.encode(), DATA, [], new_comments=["# 1.0.1: x"])
    proves(BEFORE.encode(), BEFORE.encode() + b"# 1.0.1: x\n", DATA, [14], new_comments=["# 1.0.1: x"])


def test_another_line_may_not_change_even_in_its_spaces() -> None:
    after = BEFORE.replace("UNBOUND   #", "FUNCTIONAL   #").replace('"1.0.0"   #', '"1.0.0" #')
    assert refused(after, flipped(), [STATUS_LINE]) == "a line would change that has nothing to do with the edit"
    assert "nothing to do with" in refused(BEFORE + "\n", DATA, [])
    assert "nothing to do with" in refused(BEFORE.removesuffix("\n"), DATA, [3])


def test_lines_may_not_change_places() -> None:
    before = "a: 1\nb: 2\nc: 3\n"
    assert "nothing to do with" in refused("b: 2\na: 1\nc: 3\n", {"a": 1, "b": 2, "c": 3}, [3], before)


@pytest.mark.parametrize("wrong", ["FUNCTIONL", "'FUNCTIONAL '", "[FUNCTIONAL]", "1"])
def test_the_data_must_be_the_intended_one(wrong: str) -> None:
    after = BEFORE.replace("UNBOUND   #", f"{wrong}   #")
    assert "$.claims[0].status: expected 'FUNCTIONAL'" in refused(after, flipped(), [STATUS_LINE])


def test_types_count() -> None:
    assert "expected 1, found True" in refused("a: true\n", {"a": 1}, [1], "a: 2\n")
    assert "expected 1, found 1.0" in refused("a: 1.0\n", {"a": 1}, [1], "a: 2\n")
    proves(b"a: 2\n", b"a: .nan\n", {"a": float("nan")}, [1])


def test_an_edit_through_an_alias_changes_two_places_and_is_refused() -> None:
    before = "a: &s UNBOUND\nb: *s\n"
    assert "$.b" in refused("a: &s FUNCTIONAL\nb: *s\n", {"a": "FUNCTIONAL", "b": "UNBOUND"}, [1], before)


def test_an_inserted_key_that_is_there_already_is_refused() -> None:
    after = BEFORE.replace("    note:", "    status: X\n    note:")
    assert "occurs twice" in refused(after, flipped(), [STATUS_LINE])


def test_a_result_that_is_no_yaml_is_refused() -> None:
    assert "PV105" in refused(BEFORE.replace("UNBOUND   #", "'   #"), flipped(), [STATUS_LINE])
    assert refused_bytes(b"a: \xe9\n") == "it is not UTF-8 at byte 3"
    assert "PV107" in refused_bytes(b"a: " + b"[" * 5000)


def refused_bytes(after: bytes) -> str:
    with pytest.raises(NotProven) as caught:
        proves(b"a: 1\n", after, {"a": 1}, [1])
    return caught.value.reason


def test_a_comment_swallowed_by_a_block_scalar_is_noticed() -> None:
    before = "a: x\n# note\nb: y\n"
    assert refused("a: |\n  x\n# note\nb: y\n", {"a": "x", "b": "y"}, [1], before)
    assert "comments would change" in refused("a: x\nb: y\n", {"a": "x", "b": "y"}, [2], before)


@pytest.mark.parametrize(
    "text",
    [
        "1: x\ntrue: y\n~: z\n",
        "a: &a {x: 1.10}\nb: {<<: *a, y: 2}\nc: *a\nd: &s yes\ne: *s\n",
        "d: 2026-04-28\nt: 12:30:00\nu: 1_000\nb: 0b11\nz: 017\no: 0o17\nh: -0x1F\n",
        "f: .5e3\ng: -.5\nh: 1e3\ni: +1\nj: 1.\nk: .inf\nl: .nan\n",
        "h: !!str 1.10\ni: !!float 3\nk: ! 'x'\nl: !!int '4'\n",
        "l: yes\nm: =\nn: <<\n",
        'q: |+\n  a\n\n\nr: >-\n  a\n  b\n\n  c\ns: "a\\\n  b\\x41\\a"\n',
        "%YAML 1.1\n---\na: yes\n",
        "{a: 1,\n # c\n b: 2} # d\n",
    ],
)
def test_files_with_unusual_scalars_can_be_proven(text: str) -> None:
    proves(text.encode(), text.encode(), parse(text.encode(), "x").data, [])


@settings(max_examples=60, deadline=None)
@given(documents())
def test_the_judge_reads_random_documents_as_the_reader_does(written: Written) -> None:
    content = written.text.encode()
    proves(content, content, written.data, [])


def test_every_real_file_is_its_own_proof(corpus: list[Path]) -> None:
    for path in corpus[::6]:
        document = read(path)
        proves(document.content, document.content, document.data, [])


def _insert_after_first_id(path: Path) -> None:
    """Put `status: UNBOUND` after the id of the first claim, and prove it."""
    document = read(path)
    claims = document.data.get("falsification_tests") or [{}]
    span = document.span(("falsification_tests", 0, "id"))
    key = document.span(("falsification_tests", 0, "id"), key=True)
    if "id" not in claims[0] or "status" in claims[0] or span is None or key is None:
        return
    line_end = document.text.index("\n", span.end)
    new = f"{document.newline}{' ' * (key.column - 1)}status: UNBOUND"
    at = line_end - 1 if document.text[line_end - 1] == "\r" else line_end
    after = document.encode(apply(document.text, [TextEdit(at, at, new)]))
    first = dict(claims[0]) | {"status": "UNBOUND"}
    intended = document.data | {"falsification_tests": [first, *claims[1:]]}
    proves(document.content, after, intended, [span.line])
    assert parse(after, "x").data == intended


def test_an_inserted_line_is_proven_in_real_files(corpus: list[Path]) -> None:
    for path in corpus[::8]:
        _insert_after_first_id(path)


@pytest.mark.slow
def test_an_inserted_line_is_proven_in_every_real_file(corpus: list[Path]) -> None:
    for path in corpus:
        _insert_after_first_id(path)
