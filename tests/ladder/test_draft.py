"""Small edits of YAML: whatever is written is read back as that very thing, by two readers, and nothing else moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.document.prove import proves
from pv.document.reader import parse
from pv.ladder.draft import Draft, Unsafe, flow, quoted, render

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["yes", "No", "1.0", "1e3", "~", "null", "", " a", "a ", "- a", "a: b", "a #b", "#", "'", '"', "\\", "\n", "\t",
     "\x85", "\u2028", "\ufeff", "%", "@", "`", "&a", "*a", "!t", "|", ">", "0x1F", "017", "12:30:00", "2026-11-20",
     "1.2.3", "sha256:" + "a" * 64, "=", "<<", "é", "🎉", "\x00", "\x1b", "\x7f"]
)  # fmt: skip


def read(text: str):
    return parse(text.encode(), "x.yaml").data


def proven(draft: Draft) -> str:
    document = draft.document
    after = document.encode(draft.text())
    proves(document.content, after, draft.data, draft.lines)
    return after.decode()


def draft_of(text: str) -> Draft:
    return Draft(parse(text.encode(), "x.yaml"))


@given(texts, st.sampled_from(["plain", "single", "double"]))
def test_a_quoted_text_is_read_back_as_that_text(text, style):
    assert read(f"a: {quoted(text, style)}\n") == {"a": text}
    assert read(f"a: [{quoted(text, style)}, {quoted(text, style)}]\n") == {"a": [text, text]}
    assert read(f"- {quoted(text, style)}\n") == [text]


@given(st.lists(texts, max_size=4))
def test_a_list_in_brackets_is_read_back(items):
    assert read(f"a: {flow(items)}\n") == {"a": items}


@given(texts, st.lists(texts.map(lambda t: t * 8), min_size=1, max_size=4))
def test_what_is_rendered_is_read_back_by_both_readers(text, items):
    draft = draft_of("a:\n  - id: x  # c\n    # d\n    z: 1\n")
    draft.insert_after(("a", 0, "id"), [("one", text), ("many", items), ("deep", {"k": text, "l": items})])
    after = proven(draft)
    assert read(after)["a"][0] == {"id": "x", "z": 1, "one": text, "many": items, "deep": {"k": text, "l": items}}


@given(
    st.lists(texts.filter(bool), min_size=1, max_size=4, unique=True),
    st.lists(texts.filter(bool), max_size=5, unique=True),
    st.booleans(),
)
def test_a_list_becomes_the_other_list(before, after, block):
    body = "".join(f"\n    - {quoted(item, 'double')}" for item in before) if block else f" {flow(before)}"
    draft = draft_of(f"x:\n  a:{body}\n  b: 1  # stays\n")
    draft.set_list(("x", "a"), after)
    assert read(proven(draft)) == {"x": {"a": after, "b": 1}}


def test_items_that_stay_keep_their_quotes_and_comments():
    draft = draft_of("a:\n  - 'one'  # first\n  - two\n  - \"three\"\nb: [ 'p',  q ]\n")
    draft.set_list(("a",), ["one", "2", "three", "four"])
    draft.set_list(("b",), ["p", "q", "r"])
    assert proven(draft) == ('a:\n  - \'one\'  # first\n  - "2"\n  - "three"\n  - "four"\nb: [\'p\', q, "r"]\n')


@pytest.mark.parametrize(
    ("text", "loc", "reason"),
    [
        ("a: [b, # c\n  d]\n", ("a",), "may hold comments"),
        ("a: &x [b]\nc: *x\n", ("a",), "used again elsewhere"),
        ("a: &x [b]\nc: *x\n", ("c",), "an alias"),
        ("a: !!seq [b]\n", ("a",), "a tag"),
        ("a:\n  - |\n    b\n", ("a",), "block scalar"),
        ("a:\n  -\n    b\n", ("a",), "on a line each"),
        ("a:\n  - b: 1\n", ("a",), "single value"),
    ],
)
def test_a_list_that_cannot_be_set_safely_is_refused(text, loc, reason):
    with pytest.raises(Unsafe, match=reason):
        draft_of(text).set_list(loc, ["x", "y"])


def test_a_key_that_is_there_is_not_written_twice():
    with pytest.raises(Unsafe, match="there already"):
        draft_of("a:\n  id: x\n  b: 1\n").insert_after(("a", "id"), [("b", "2")])


def test_a_fork_that_fails_leaves_no_trace():
    draft = draft_of("a:\n  id: x\n  b: &y 1\n")
    fork = draft.fork()
    fork.replace(("a", "id"), "z")
    with pytest.raises(Unsafe):
        fork.replace(("a", "b"), "2")
    assert draft.text() == "a:\n  id: x\n  b: &y 1\n"
    assert draft.data == {"a": {"id": "x", "b": 1}}


def test_nothing_replaced_is_no_edit():
    draft = draft_of("a: 'x'\n")
    draft.replace(("a",), "x")
    assert draft.edits == []


def test_lines_are_short_where_they_can_be():
    assert render("k", ["a"], "  ") == ['  k: ["a"]']
    assert render("k", ["a" * 60, "b" * 60], "  ") == ["  k:", f'    - "{"a" * 60}"', f'    - "{"b" * 60}"']


def test_mixed_line_ends_follow_the_line_they_are_written_after():
    draft = draft_of("a:\r\n  id: x\r\n  b: 1\nc: 2\n")
    draft.insert_after(("a", "id"), [("n", "1")])
    draft.insert_after(("c",), [("m", "1")])
    assert proven(draft) == 'a:\r\n  id: x\r\n  n: "1"\r\n  b: 1\nc: 2\nm: "1"\n'
