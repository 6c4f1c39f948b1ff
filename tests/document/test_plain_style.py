"""What is read line by line is what libyaml's events say, to the last offset; and what is not plain is left to them."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from random_yaml import Written, documents

from pv.document import events, plain_style, reader
from pv.document.build import Built, build
from pv.document.limits import LIMITS, Limits, Unreadable


def by_events(text: str) -> Built:
    """What the parser's events say; it must take the text to its end, as one document."""
    get_event = events.events(text.encode())
    assert [type(get_event()), type(get_event())] == [yaml.StreamStartEvent, yaml.DocumentStartEvent]
    built = build(get_event, LIMITS)
    assert [type(get_event()), type(get_event())] == [yaml.DocumentEndEvent, yaml.StreamEndEvent], text
    return built


def containers(data: Any, loc: tuple[str | int, ...] = ()) -> dict[int, tuple[str | int, ...]]:
    """The identity of every collection, and where it is."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    found = {id(data): loc}
    for part, value in items:
        if isinstance(value, dict | list):
            found |= containers(value, (*loc, part))
    return found


def comparable(built: Built) -> dict[str, object]:
    """All that was built, with places for identities. NaN is one value in a `repr`, and 1 is not 1.0 or True."""
    where = containers(built.data)
    texts = {(*where[container], part): text for (container, part), text in built.texts.items() if container in where}
    return {**built._asdict(), "data": repr(built.data), "texts": texts, "tape": list(built.tape)}


def check(text: str) -> bool:
    """Whether `text` is read line by line; then it must be YAML, and say what its events say."""
    built = plain_style.build(text, LIMITS)
    if built is None:
        return False
    assert comparable(built) == comparable(by_events(text)), text
    return True


def test_real_files_are_read_so_and_say_the_same(corpus: list[Path]):
    """All but one, whose block scalar begins with an empty line."""
    others = [path.name for path in corpus if not check(path.read_text("utf-8"))]
    assert len(others) <= 0.02 * len(corpus), others


PLAIN = [
    "a: text that\n  goes on  \nb: c\n", "a: 1\n", "a:\n", "a:   \n", "a:\nb:\n", "a: # c\n", "a: text # c\n",
    "a: text of more words\n", "a: 'it''s' # c\n", 'a: ""\n', 'a: "q"\nb: "a longer text"', "- a\n- b: c\n  d: e\n",
    "a:\n- b\n- c\nd: e\n", "a:\n  - b\nc: d\n", "a:\n  b:\n    c: d\ne: f\n", "-   a: 1\n    b: 2\n",
    "a: yes\nb: 017\nc: 1e-3\nd: ~\ne: <<\nf: 1.10\n", "a: .nan\n", "a: |\n  text\n   deeper\n\n  more\n\n\nb: c\n",
    "a: |-\n  text\n", "a: >\n  one\n  two\n\n  three\nb: 1\n", "a: >-\n  one  \n  two\n# c\nb: 1\n",
    "a:\n- |\n  x\n- y\n", "a: 'one\n  two\n\n  three '\n", 'a: "one\n  two"\nb: c\n',
    "a: text that\n  goes on  \n  and on\nb: c\n", "- text that\n  goes - on\n", "a: [b, \"c d\", 1.10, yes]\n",
    "a: []\n", "a: {}\n", "a: {b: c}\n", "a: [[b], [], {}]\n", 'a: {op: "<=", value: 1.0e-6}\n',
    "a: {cells: [{device: cpu, subject: code}, {device: cuda, subject: \"synthetic:7b\"}]}\n", "- {a: 1.10, b:  yes}\n",
    "a: { b: null , c: [ 1, ~x ] }\nd: e\n".replace("~x", "-x"), "- a: {b: {c: {d: [1]}}}  \n  b: 2\n", "a: {b: \"\"}",
    "a: {b: c  d - e, f: 1 2}\n", "a: http://x.y/z\n", "a: b:c\n", "a: -1\nb: --x\n", "a: 1\na: 2\n", "\n# c\n\na: 1\n",
    "a: é\nb: \"日本\"\n", "_x.y-z: 1\n", "a: (x, y) -> {z}\n", "a: text, \"quoted\" and [more]\n",
    "a: 12345678901234567890\n", "a:\n  # c\n  b: 1\n # d\n",
]  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_plain(text):
    assert check(text)


# Every one is YAML that a looser grammar would read wrongly, or no YAML at all.
NOT_PLAIN = [
    "", "\n", "# c\n", "text\n", "a: b: c\n", "a: b:\n", "a: &x b\n", "a: *x\n", "a: !t b\n",
    "a: [b\n  c]\n", "a: [b: c]\n", "a: [- ]\n",
    "a: [b, ]\n", "a: [b,]\n", "a: {b}\n", "a: {b: }\n", "a: {b: c, b: d}\n", "a: {b: c, }\n", "a: {yes: c}\n",
    "a: {1: c}\n", 'a: {"b": c}\n', "a: [b, - c]\n", "a: {b: c} d\n", "a: {b: c} # d\n", "a: {b: [c}]\n",
    "a: [b, c: d]\n", "a: {b: {c: d}\n", "a: {b:c}\n", "a: {b: &x c}\n", "a: {b: *x}\n", "a: [,b]\n", "a: [b]]\n",
    "a: {b: , c: d}\n", "a: {? b: c}\n", "a: {b: 'c'}\n", "a: [[b]\n", "a: {b: |}\n", "a: {b: c:}\n", "a: [<<]\n",
    "a: {b : c}\n", "a: {b: c: d}\n", 'a: {b: "c"d}\n', 'a: {b: "c\\n"}\n', "a: {<<: b}\n", "a: {b: c,\n d: e}\n",
    'a: "\\x41"\n', 'a: "b\\n\n  c"\n', 'a: "b" c\n', 'a: "b\n',
    "a: 'b\n", "a: |2\n   b\n", "a: |+\n  b\n", "a: |\n\n  b\n", "a: |\n", "a: | # c\n  b\n", "a: |\n  b", "'a': b\n",
    '"a": b\n', "1: b\n", "on: b\n", "null: b\n", "<<: b\n", "k v: b\n", "? a\n: b\n", "- - a\n", "-\n  a\n", "- \n",
    "-\n", "a:\n  text\n", "a:\n  'text'\n", "a: b\n  c: d\n", "a: short\n\n  more\n", "a: words of text\n\n  more\n",
    "a: words of text # c\n  more\n", "a: words of text\n  more: x\n", "a: words of text\n  more # c\n",
    "a: yes\n  no\n", "a: 12\n  13\n", "a: words of text\nmore\n", "  a: 1\n b: 2\n", "a: 1\n- b\n", "- a\nb: 1\n",
    "a:\n    b: 1\n  c: 2\n", "--- \na: b\n", "---\na: b\n", "a: b\n---\nc: d\n", "a: b\n...\n",
    "%YAML 1.2\n---\na: b\n", "a: @b\n", "a: `b`\n", "a: %b\n", "a: ? b\n", "a: - b\n", "a: -\n", "a: ,b\n", "a: ]b\n",
    "a:\tb\n", "a: b\r\n", "a: b\x85c\n", "a: b\u2028c\n", "\ufeffa: b\n", "a: x\x01y\n", "a: x\x7fy\n", "a: x\x85y\n",
    "a: \ue000\n", "a: b\x00\n", "a: long words of text  \n", 'a: ["b\\n"]\n', "a: 'one\ntwo'\n",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_PLAIN)
def test_what_is_left_to_the_events(text):
    assert plain_style.build(text, LIMITS) is None


def test_a_key_that_libyaml_takes_for_none_is_left_to_it():
    assert check("a" * 100 + ": b\n")
    assert plain_style.build("a" * 101 + ": b\n", LIMITS) is None
    with pytest.raises(yaml.YAMLError):
        by_events("a" * 1025 + ": b\n")


KEYS = ["a", "b", "long_key", "x-y", "on", "null", "1", "k v", '"q"', "<<"]
VALUES = [
    "yes", "word", "several words of text", "a: b", "x #c", "several words # c", '"q"', '""', '"a long text"',
    '"a" # c', '"a" b', '"a"b', '"a"#b', "'it''s'", "''", "'open", '"open', "|", ">", "|-", ">-", "|+", "|2", "| # c",
    "[a, b]", '[a, "b c"]', "[]", "[a", "[ 1, -2 ]", "[a,]", "[-]", "{}", "{a: b}", "- x", "- - x", "&a b", "*a",
    "!t x", "!!str 1", "? x", ": x", "#c", "-", "-1", "--x", "1e3", "017", "12:30:00", "2026-01-01", "1.10", "a:",
    "a:b", "<<", "~", "...", "---", "%x", "@x", "a'b", 'a"b', '"a\\nb"', "end'", 'end"', "'", 'tail" ', "é ü",
    "trailing  ", ".5", ".inf", "0x1F", "(in brackets)", "'a' 'b'", "x'' y'", "text:more", "a :b",
]  # fmt: skip
ENDS = ["", " ", "  "]
key = st.sampled_from(KEYS)
value = st.sampled_from(VALUES)
line = st.one_of(
    st.builds("{}: {}".format, key, value),
    st.builds("{}:{}".format, key, st.sampled_from(ENDS)),
    st.builds("- {}".format, value),
    st.builds("{}{}: {}".format, st.sampled_from(["- ", "-   "]), key, value),
    value,
    st.sampled_from(["", "# comment: x"]),
)
indent = st.sampled_from([0, 0, 0, 1, 2, 2, 2, 4, 4]).map(" ".__mul__)
lines = st.lists(st.builds("{}{}".format, indent, line), max_size=8).map("\n".join)
texts = st.builds("{}{}".format, lines, st.sampled_from(["\n", "", "\n\n"]))


@settings(max_examples=600)
@given(texts)
def test_random_lines_mean_what_the_events_say(text):
    check(text)


body = st.lists(
    st.sampled_from(["", " ", "  ", "   ", "  a", "  b ", "   c", "    d", "  # e", " f", "  -  g", "  h: i"]),
    max_size=7,
)


@settings(max_examples=400)
@given(
    st.sampled_from(["a: {}{}\n", "- {}{}\n", "a:\n- {}{}\n", "- a: {}{}\n"]),
    st.sampled_from(["|", ">", "|-", ">-"]),
    body,
    texts,
)
def test_random_block_scalars_mean_what_the_events_say(frame, header, lines, rest):
    check(frame.format(header, "\n".join(["", *lines])) + rest)


SCALARS = [
    "b",
    "yes",
    "1.10",
    "-1",
    ".5",
    "-",
    "a/b-c.d",
    '"q: x, [y]"',
    '""',
    "'s'",
    "x y",
    "~",
    "<<",
    "c#d",
    "é",
    "e:f",
]
inner = st.recursive(
    st.sampled_from(SCALARS),
    lambda item: st.one_of(
        st.builds(
            "[{}{}".format, st.lists(item, max_size=3).map(", ".join), st.sampled_from(["]", "]", " ]", ",]", "}"])
        ),
        st.builds(
            "{}{}{}".format,
            st.just("{"),
            st.lists(
                st.builds("{}{}{}".format, st.sampled_from(["a", "b", "c-d", "on", "1", '"q"']),
                          st.sampled_from([": ", ": ", ":  ", ":", " : "]), item),
                max_size=3,
            ).map(", ".join),
            st.sampled_from(["}", "}", " }", ", }", "]"]),
        ),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=600)
@given(
    st.sampled_from(["a: {}\n", "- {}\n", "- a: {}\n  b: c\n"]), inner, st.sampled_from(["", " ", "  ", " # c", " x"])
)
def test_random_collections_in_brackets_mean_what_the_events_say(frame, inside, behind):
    check(frame.format(inside + behind))


def test_many_random_brackets_are_plain_enough_to_be_compared():
    """Without a floor the test above would hold for a reader that always gives up."""
    dice = random.Random(3)

    def item(depth: int) -> str:
        if depth == 0 or dice.random() < 0.4:
            return dice.choice([*SCALARS[:9], "x - y", "1  2"])
        items = [item(depth - 1) for _ in range(dice.randint(0, 3))]
        if dice.random() < 0.5:
            return f"[{', '.join(items)}]"
        return "{" + ", ".join(f"k{at}: {one}" for at, one in enumerate(items)) + "}"

    assert sum(check(f"a: [{item(3)}]\n") for _ in range(600)) > 400


quoted = st.lists(
    st.sampled_from(
        ["a", "''", '\\"', "\\\\", "\\n", "\\t", "\\x41", "\\", "\n", "\n ", " \n  ", "\n\n  ", "#", " ", ": "]
    )
).map("".join)


@settings(max_examples=400)
@given(
    st.sampled_from(["a: {}\n", "- {}\n", "- a: {}\n  b: c\n"]),
    st.sampled_from("'\""),
    quoted,
    st.sampled_from(["", " # c", "#", " x"]),
)
def test_random_quoted_scalars_mean_what_the_events_say(frame, quote, inner, behind):
    check(frame.format(quote + inner + quote + behind))


@settings(max_examples=200)
@given(documents())
def test_random_documents_mean_what_the_events_say(written: Written):
    check(written.text)


def test_many_random_lines_are_plain_enough_to_be_compared():
    """Without a floor the two tests above would hold for a reader that always gives up."""
    dice, plain = random.Random(1), 0
    for _ in range(3000):
        pieces = []
        for _ in range(dice.randint(1, 6)):
            lead = dice.choice(["- ", "", "  "]) + dice.choice(["a: ", "b: ", "c: "])
            pieces.append(lead + dice.choice(VALUES) + dice.choice(["\n", "\n", "\n  more of it\n"]))
        plain += check("".join(pieces))
    assert plain > 150


def test_mutations_of_real_files_mean_what_the_events_say(corpus: list[Path]):
    dice, plain = random.Random(2), 0
    sources = [text for path in corpus if len(text := path.read_text("utf-8")) < 6000]
    for _ in range(400):
        lines = dice.choice(sources).split("\n")
        at = dice.randrange(len(lines))
        lines[at : at + dice.choice([0, 1, 1])] = [
            dice.choice(
                [" " + lines[at], lines[at][1:], "", lines[at] + " " + dice.choice(VALUES), dice.choice(VALUES)]
            )
        ]
        plain += check("\n".join(lines))
    assert plain > 100


def test_the_reader_asks_no_parser_about_a_plain_text(monkeypatch):
    monkeypatch.setattr(reader, "events", None)
    document = reader.parse(b"a: 1\nb: [x]\n", "x.yaml")
    assert document.data == {"a": 1, "b": ["x"]}
    assert document.span(("b", 0)) == (9, 10, 2, 5, 2, 6)


@pytest.mark.parametrize(
    ("text", "limits", "code"),
    [
        ("a:\n b:\n  c:\n   d: 1\n", Limits(depth=3), "PV107"),
        ("- a:\n  - b: 1\n", Limits(depth=3), "PV107"),
        ("a:\n- b: [c]\n", Limits(depth=3), "PV107"),
        ("a: 1\nb: 2\n", Limits(nodes=5), "PV108"),
    ],
)
def test_limits_hold(text, limits, code):
    assert plain_style.build(text, LIMITS) is not None
    assert plain_style.build(text, limits) is None
    with pytest.raises(Unreadable) as caught:
        reader.parse(text.encode(), "x.yaml", limits)
    assert caught.value.diagnostic.code == code
    roomy = Limits(depth=limits.depth + 1) if code == "PV107" else Limits(nodes=limits.nodes + 1)
    assert plain_style.build(text, roomy) is not None


@pytest.mark.parametrize(
    "text",
    [
        "a: words of text\n" + "  more\n" * 37_000,
        "a: '" + "b\n  " * 60_000 + "'\n",
        "a: " + "'" * 250_000 + "\n",
        "a: |\n" + "  x\n" * 60_000,
        "a: " + "[" * 250_000 + "\n",
        "a: [" + "b, " * 80_000 + "b\n",
        "- " * 120_000 + "\n",
        "a: " + " " * 250_000 + "b\n",
        "a: |\n" + "\n" * 250_000,
        "- a: |\n" * 30_000,
    ],
    ids=lambda text: text[:8].replace("\n", "/"),
)
def test_no_text_takes_longer_than_it_would_without(text):
    assert len(text) < 1 << 18
    began = time.process_time()
    plain_style.build(text, LIMITS)
    assert time.process_time() - began < 0.5
