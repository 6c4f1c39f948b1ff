"""Conflict markers: what pv wrote on both sides is decided, alike in either order; every other text is left alone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.ladder.conflicts import has_conflicts, resolve

HEAD = "metadata:\n  version: 1.0.0\n  description: d\nfalsification_tests:\n  - id: A-1\n    prediction: p\n"
SHA = ["sha256:" + letter * 64 for letter in "ab"]


def conflict(ours: str, theirs: str, base: str | None = None) -> str:
    middle = f"||||||| base\n{base}" if base is not None else ""
    return f"<<<<<<< HEAD\n{ours}{middle}=======\n{theirs}>>>>>>> other\n"


def settled(ours: str, theirs: str, around: str = HEAD) -> str | None:
    """What a conflict after the head comes to, in both orders; None where it is left."""
    one, other = (resolve(around + conflict(*sides), "x.yaml") for sides in ((ours, theirs), (theirs, ours)))
    assert one.text.removeprefix(around) == other.text.removeprefix(around) or one.left
    assert bool(one.left) == bool(other.left)
    return None if one.left else one.text.removeprefix(around)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("    status: FUNCTIONAL\n", "    status: FALSIFIED\n"),
        ("    status: UNBOUND\n", f"    status: FUNCTIONAL\n    evidence: [{SHA[0]}]\n"),
        (f"    evidence: {SHA[0]}\n", f"    evidence:\n      - {SHA[0]}\n      - {SHA[1]}\n"),
        ('    last_verified: "2026-11-20"\n', '    last_verified: "2026-11-21"\n'),
        (
            '    functional_evidence:\n      - "cpu · code · 2026-11-20 · m 1 · pv falsify --id A-1"\n',
            '    functional_evidence: ["cuda · code · 2026-11-21 · m 1 · pv falsify --id A-1"]\n',
        ),
        ("    algorithm_evidence:\n      file_paths: [a.py]\n", "    algorithm_evidence:\n      file_paths: [b.py]\n"),
        ("    formerly: [X-1]\n    status: UNBOUND\n", "    status: FUNCTIONAL\n"),
        ("    algorithm_evidence: {notes: blocked on x}\n", "    algorithm_evidence: {notes: missing on cpu}\n"),
    ],
)
def test_what_pv_writes_is_decided(ours, theirs):
    assert settled(ours, theirs) == max(ours, theirs, key=lambda side: (side.count("\n"), side))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("    rule: one\n", "    rule: another\n"),
        ("    status: UNBOUND\n    rule: one\n", "    status: FUNCTIONAL\n    rule: another\n"),
        ("    status: UNBOUND\n", "    status: FUNCTIONAL\n    rule: new\n"),
        ("    functional_evidence: [mine]\n", "    functional_evidence: [yours]\n"),
        ("    algorithm_evidence: {notes: mine}\n", "    algorithm_evidence: {notes: yours}\n"),
        ("    evidence: [a note]\n", f"    evidence: [{SHA[0]}]\n"),
        ("    # mine\n", "    # yours\n"),
        ("    formerly: [X-1]\n", "    formerly: [X-2]\n"),
        ("    formerly: [X-1]\n", "    formerly: [X-1, X-2]\n"),
        ("    thresholds: {m: {op: '==', value: 1}}\n", "    thresholds: {m: {op: '==', value: 2}}\n"),
        ("    status: [\n", "    status: UNBOUND\n"),
    ],
)
def test_what_people_write_is_left(ours, theirs):
    assert settled(ours, theirs) is None


def test_common_lines_within_a_conflict_may_be_anybodys():
    common = "    rule: the same\n"
    assert (
        settled("    status: UNBOUND\n" + common, "    status: FALSIFIED\n" + common)
        == "    status: UNBOUND\n" + common
    )


def test_a_one_line_entry_is_peoples():
    text = "metadata: {version: 1.0.0}\nfalsification_tests:\n"
    ours, theirs = (f"  - {{id: A-1, status: {word}}}\n" for word in ("UNBOUND", "FUNCTIONAL"))
    assert settled(ours, theirs, text) is None


def test_every_line_of_a_changelog_is_kept_in_its_order():
    for lines, newest_first in ((['"1.1.0: x"', '"1.0.0: made"'], True), (['"1.0.0: made"', '"1.1.0: x"'], False)):
        head = "metadata:\n  version: 1.1.0\n  changelog:\n"
        old = "".join(f"    - {line}\n" for line in lines)
        ours, theirs = '    - "1.2.0: pv: b"\n', '    - "1.2.0: pv: a"\n    - "1.1.1: c"\n'
        new = ['    - "1.2.0: pv: b"\n', '    - "1.2.0: pv: a"\n', '    - "1.1.1: c"\n']
        before, after = (head, old) if newest_first else (head + old, "")
        found = resolve(before + conflict(ours, theirs) + after, "x")
        assert not found.left
        assert found.text == before + "".join(new if newest_first else reversed(new)) + after


def test_a_base_section_says_nothing():
    text = HEAD + conflict("    status: FUNCTIONAL\n", "    status: UNBOUND\n", base="    rule: other\n")
    assert resolve(text, "x").text == HEAD + "    status: UNBOUND\n"


def test_the_places_that_are_left_are_told_as_they_stand_and_nothing_is_half_done():
    text = (
        HEAD
        + conflict("    status: UNBOUND\n", "    status: FUNCTIONAL\n")
        + conflict("    rule: a\n", "    rule: b\n")
    )
    found = resolve(text, "x")
    assert found.resolved == 1
    assert found.left == (HEAD.count("\n") + 6,)
    assert text.splitlines()[found.left[0] - 1] == "<<<<<<< HEAD"
    assert found.claims == {"A-1"}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_ends_stay(newline):
    text = (HEAD + conflict("    status: UNBOUND\n", "    status: FUNCTIONAL\n")).replace("\n", newline)
    assert resolve(text, "x").text == (HEAD + "    status: UNBOUND\n").replace("\n", newline)


@given(st.lists(st.sampled_from(["<<<<<<< a", "=======", ">>>>>>> b", "||||||| c", "a: 1", "", "  - b"]), max_size=12))
def test_half_of_a_conflict_is_a_text_like_any_other(lines):
    text = "\n".join(lines)
    found = resolve(text, "x")
    if not has_conflicts(text):
        assert found == (type(found)(text, 0))
    elif found.left:
        assert found.text.count("\n") <= text.count("\n")
    else:
        assert not has_conflicts(found.text)


def test_many_marks_take_no_time():
    started = time.process_time()
    assert not resolve("<<<<<<< a\n" * 100_000, "x").left
    assert not resolve("<<<<<<< a\n=======\n" * 50_000, "x").left
    assert time.process_time() - started < 2
