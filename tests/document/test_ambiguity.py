"""The scalars and comments that two readers take apart: which they are, and which they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pv.document.ambiguity import KINDS, judge
from pv.document.reader import parse, read
from pv.document.scalars import resolve_plain


def kinds(text: str) -> list[tuple[str, str]]:
    return [(found.kind, found.text) for found in parse(text.encode(), "x").ambiguities()]


@pytest.mark.parametrize(
    ("text", "kind", "fix"),
    [
        ("yes", "boolean word", '"yes"'),
        ("Off", "boolean word", '"Off"'),
        ("y", "boolean word", '"y"'),
        ("1e-3", "exponent", "1.0e-3"),
        ("1e3", "exponent", "1.0e+3"),
        ("-2.5E3", "exponent", "-2.5e+3"),
        (".5e3", "exponent", "0.5e+3"),
        ("12:30:00", "sexagesimal", '"12:30:00"'),
        ("1:30", "sexagesimal", '"1:30"'),
        ("017", "leading zero", ""),
        ("0o17", "octal", "15"),
        ("0b11", "binary", '"0b11"'),
        ("-0x1F", "signed hexadecimal", '"-0x1F"'),
        ("-.5", "point first", "-0.5"),
        ("1_000", "underscore", "1000"),
        ("2026-04-28", "date", '"2026-04-28"'),
        ("2026-04-28T10:00:00Z", "date", '"2026-04-28T10:00:00Z"'),
        ("1.10", "number as text", '"1.10"'),
    ],
)
def test_a_scalar_that_readers_disagree_on(text: str, kind: str, fix: str) -> None:
    assert judge(text) == (kind, fix)
    assert kind in KINDS
    (found,) = parse(f"a:\n- {text}\n".encode(), "x").ambiguities()
    assert (found.kind, found.text, found.fix, found.loc, found.is_key) == (kind, text, fix, ("a", 0), False)
    assert (found.span.line, found.span.column) == (2, 3)


@pytest.mark.parametrize(
    "text",
    "1.0e-3|1.5E+10|0|10|1.0|1.5|0x1F|.inf|true|null|~|1.2.3|word|12:75|3 of 4|-x".split("|"),
)
def test_a_scalar_that_readers_agree_on(text: str) -> None:
    assert judge(text) is None
    assert kinds(f"a: {text}\n") == []


def test_quoted_words_are_never_ambiguous() -> None:
    assert kinds("a: 'yes'\nb: \"1e-3\"\nc: |\n  12:30:00\nd: 'issue #12'\n") == []


def test_keys_are_judged_too() -> None:
    (found,) = parse(b"on: 1\n", "x").ambiguities()
    assert (found.kind, found.is_key, found.loc, found.span.column) == ("boolean word", True, ("on",), 1)


def test_a_merge_key_is_ambiguous_once_and_its_target_is_not_repeated() -> None:
    assert kinds("a: &a {v: 1.10}\nb: {<<: *a}\nc: *a\n") == [("number as text", "1.10"), ("merge key", "<<")]


@settings(max_examples=400, deadline=None)
@given(st.text(st.sampled_from("0123456789.eE+-:_xoyn"), min_size=1, max_size=8))
@example("-.5")
@example("+0x1F")
@example(".1_e-56")
@example("+.97E-8")
def test_what_is_judged_sound_means_the_same_to_both_readers(text: str) -> None:
    """PyYAML is a reader of YAML 1.1: where it differs from the core schema of 1.2, the judge must say so."""
    try:
        old = yaml.safe_load(f"- {text}\n")
    except (yaml.YAMLError, ValueError):  # ValueError: a date such as 2000-99-99
        return
    if not isinstance(old, list) or len(old) != 1 or isinstance(old[0], (dict, list)):
        return
    new = resolve_plain(text)
    differs = type(old[0]) is not type(new) or (old[0] != new and old[0] == old[0])
    if differs:
        assert judge(text) is not None, (text, old[0], new)


@pytest.mark.parametrize("spelling", ["1e-3", "1e3", "-2.5E3", ".5e3", "1_000", "0o17", "+.5"])
def test_a_fix_is_read_alike_by_both_readers(spelling: str) -> None:
    verdict = judge(spelling)
    assert verdict is not None
    assert yaml.safe_load(verdict[1]) == resolve_plain(verdict[1])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("a: see issue #123", "see issue #123"),
        ("a: the macro #[test] runs", "the macro #[test] runs"),
        ("a: f(x # y)", "f(x # y)"),
        ("a: the `a # b` operator", "the `a # b` operator"),
        ("- uses #define FOO", "uses #define FOO"),
        ("a: x\t#tag", "x #tag"),
    ],
)
def test_a_value_that_seems_cut_off(line: str, text: str) -> None:
    (found,) = parse(f"{line}\n".encode(), "x").ambiguities()
    assert (found.kind, found.text) == ("cut", text)


@pytest.mark.parametrize(
    "line",
    [
        "a: x # a remark",
        "a: x  # (a remark)",
        "a: x #---- ruler",
        "a: x ##",
        "a: x #",
        "a: '#1' # y",
        "a: # see #12",
        "#a: b #1",
        "a: x#1",
        "a: [1, 2] #1",
    ],
)
def test_a_comment_that_is_one(line: str) -> None:
    assert [kind for kind, _ in kinds(f"k: v\n{line}\n") if kind == "cut"] == []


def test_the_real_files_have_no_comment_taken_for_text(corpus: list[Path]) -> None:
    cut = [(path.name, found.text) for path in corpus for found in read(path).ambiguities() if found.kind == "cut"]
    assert cut == []
