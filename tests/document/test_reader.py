"""What a document says and where: on real files, on random ones, and on files made to do harm."""

from __future__ import annotations

import math
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_yaml import Written, documents
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor

from pv.diagnostics.model import Severity
from pv.document import events, reader
from pv.document.limits import Limits, Unreadable
from pv.document.positions import Lines, Loc
from pv.document.reader import Document, parse, read


class DatesAreText(SafeConstructor):
    """ruamel's safe constructor, less its dates: pv leaves them as they are written."""


DatesAreText.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def by_ruamel(text: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = DatesAreText
    return yaml.load(text)


def equal(a: Any, b: Any) -> bool:
    """Equal in values and types; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def refusal(content: bytes, **limits: int) -> Any:
    with pytest.raises(Unreadable) as caught:
        parse(content, "x.yaml", Limits(**limits))
    diagnostic = caught.value.diagnostic
    assert diagnostic.severity == Severity.ERROR
    assert diagnostic.path == "x.yaml"
    return diagnostic


def locations(data: Any, loc: Loc = ()) -> list[Loc]:
    found = [loc]
    if isinstance(data, dict):
        for key, value in data.items():
            found += locations(value, (*loc, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            found += locations(value, (*loc, index))
    return found


def slice_says_its_value(document: Document, loc: Loc) -> bool:
    """The text of a span, read on its own at its own column, is the value."""
    span, value = document.span(loc), document.get(loc)
    assert span is not None
    text = document.text[span.start : span.end]
    # A span ends with the last character of a block scalar, not with the line end that belongs to its value.
    again = parse((" " * (span.column - 1) + text + "\n").encode(), "slice").data if text.strip() else None
    return equal(again, value)


def test_every_real_file_reads_as_ruamel_reads_it(corpus: list[Path]) -> None:
    for path in corpus:
        document = read(path)
        assert equal(document.data, by_ruamel(document.text)), path


def test_every_span_of_a_real_file_points_at_its_value(corpus: list[Path]) -> None:
    for path in corpus[::4]:
        document = read(path)
        for loc in locations(document.data):
            value = document.get(loc)
            if isinstance(value, (dict, list)) or "\n" in str(value):
                continue
            span = document.span(loc)
            assert span is not None
            text = document.text[span.start : span.end]
            assert parse(text.encode(), "slice").data == value if text else value is None, (path, loc)


@settings(max_examples=150, deadline=None)
@given(documents())
def test_a_random_document_says_what_was_written(written: Written) -> None:
    document = parse(written.text.encode(), "random")
    assert equal(document.data, written.data)
    assert document.problems == ()


@settings(max_examples=100, deadline=None)
@given(documents())
def test_a_random_document_reads_as_ruamel_reads_it(written: Written) -> None:
    # The two differ by design: the core schema of YAML 1.2 knows no underscores in numbers and no base two.
    assume("1_000" not in written.text and "0b11" not in written.text)
    assert equal(parse(written.text.encode(), "random").data, by_ruamel(written.text))


@settings(max_examples=100, deadline=None)
@given(documents())
def test_every_span_of_a_random_document_says_its_value(written: Written) -> None:
    document = parse(written.text.encode(), "random")
    for loc in locations(document.data):
        assert slice_says_its_value(document, loc), loc
        if loc and isinstance(loc[-1], str):
            key = document.span(loc, key=True)
            assert key is not None
            assert parse(f"{{{document.text[key.start : key.end]}: 1}}".encode(), "key").data == {loc[-1]: 1}


@settings(max_examples=60, deadline=None)
@given(documents())
def test_lines_and_columns_agree_with_the_offsets(written: Written) -> None:
    document = parse(written.text.encode(), "random")
    lines = written.text.replace("\r\n", "\n").split("\n")
    for loc in locations(document.data):
        span = document.span(loc)
        assert span is not None
        first = document.text[span.start : span.end].replace("\r\n", "\n").split("\n")[0]
        assert lines[span.line - 1][span.column - 1 :].startswith(first)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=60)
    | st.text(st.sampled_from("ab:-[]{},&*!|>'\"%@`#? \t\n\r\\<~1."), max_size=60).map(str.encode)
)
def test_any_bytes_are_a_document_or_one_diagnostic(content: bytes) -> None:
    try:
        document = parse(content, "any")
    except Unreadable as refused:
        diagnostic = refused.diagnostic
    else:
        diagnostic = None
    if diagnostic is not None:
        assert diagnostic.code in {f"PV{number}" for number in range(101, 114)}
        return
    for loc in locations(document.data):
        document.span(loc)
        document.scalar(loc)
    assert document.problems is not None
    assert document.ambiguities() is not None


def test_strings_keep_their_source_text() -> None:
    document = parse(
        b"version: 1.10\nid: 007\nbig: 1e3\ndone: True\nwhen: 2026-04-28\nnone: ~\nempty:\nq: 'a''b'\n", "x"
    )
    texts = {key: document.source_text((key,)) for key in document.data}
    assert texts == {
        "version": "1.10",
        "id": "007",
        "big": "1e3",
        "done": "True",
        "when": "2026-04-28",
        "none": "~",
        "empty": "",
        "q": "a'b",
    }
    assert document.data["version"] == 1.1
    assert document.data["when"] == "2026-04-28"
    assert document.source_text(()) is None
    assert document.source_text(("absent", 3)) is None


def test_the_source_text_of_shared_and_merged_values() -> None:
    text = b"a: &a {v: 1.10, w: 0x1F}\nb: *a\nc: {<<: *a, w: 2.50}\nd: [&n 1.00, *n]\n"
    document = parse(text, "x")
    assert [document.source_text(loc) for loc in (("b", "v"), ("c", "v"), ("c", "w"), ("d", 1))] == ["1.10"] * 2 + [
        "2.50",
        "1.00",
    ]


def test_a_scalar_tells_how_it_is_written() -> None:
    text = "p: word\ns: 'x'\nd: \"y\"\nl: |\n  a\nf: >-\n  b\nt: !!str 1.10\na: &n v\nr: *n\n"
    document = parse(text.encode(), "x")
    info = {key: document.scalar((key,)) for key in document.data}
    assert [info[key].style for key in "psdlf"] == ["plain", "single", "double", "literal", "folded"]
    assert (info["t"].text, info["t"].tag, info["t"].style) == ("1.10", "tag:yaml.org,2002:str", "plain")
    assert (info["a"].anchor, info["a"].alias) == ("n", "")
    assert (info["r"].text, info["r"].alias) == ("v", "n")
    assert text[info["r"].span.start : info["r"].span.end] == "*n"
    assert text[info["t"].span.start : info["t"].span.end] == "!!str 1.10"
    assert document.scalar(()) is None
    assert document.scalar(("nowhere",)) is None


def test_what_is_reached_through_an_alias_or_a_merge_says_so() -> None:
    document = parse(b"a: &a {x: {y: 1}}\nb: *a\nc: {<<: *a}\n", "x")
    assert document.data["c"] == {"x": {"y": 1}}
    assert document.scalar(("a", "x", "y")).alias == ""
    assert document.scalar(("b", "x", "y")).alias == "a"
    assert document.scalar(("c", "x", "y")).alias == "<<"


def test_a_block_collection_ends_with_its_last_value() -> None:
    text = "a:\n  b:\n  - x: |\n      y\n\n  # about c\n  c: [1,\n    2]  # two\n\n# the end\nd:\n"
    document = parse(text.encode(), "x")
    ends = {loc: document.span(loc) for loc in [("a", "b"), ("a", "b", 0), ("a",), ("a", "c"), ("d",)]}
    shown = {loc: text[: span.end].split("\n")[-1] for loc, span in ends.items() if span is not None}
    assert shown == {
        ("a", "b"): "      y",
        ("a", "b", 0): "      y",
        ("a",): "    2]",
        ("a", "c"): "    2]",
        ("d",): "d:",
    }


def test_a_collection_tells_whether_it_is_in_brackets() -> None:
    document = parse(b"a: {b: [c: 1]}\nd:\n- e: 1\n", "x")
    flows = {loc: document.collection(loc).flow for loc in [("a",), ("a", "b"), ("a", "b", 0), ("d",), ("d", 0), ()]}
    assert flows == {("a",): True, ("a", "b"): True, ("a", "b", 0): True, ("d",): False, ("d", 0): False, (): False}
    assert document.collection(("d",)).kind == "sequence"
    assert document.collection(("a", "b", 0, "c")) is None


def test_an_absent_place_is_shown_at_the_nearest_one() -> None:
    text = "metadata:\n  version: '1'\nitems:\n- id: a\n  x: 1\n"
    document = parse(text.encode(), "x")

    def shown(*loc: str | int) -> str:
        span = document.span(loc)
        assert span is not None
        return text[span.start : span.end]

    assert shown("metadata", "description") == "metadata"
    assert shown("items", 0, "rule") == "id: a\n  x: 1"
    assert shown("metadata", "version", "list[str]") == "version"
    assert shown("nothing") == text.rstrip("\n")


def test_keys_come_with_their_places() -> None:
    document = parse(b"b: 1\na:\n  c: 2\n", "x")
    assert [(name, span.line, span.column) for name, span in document.keys(())] == [("b", 1, 1), ("a", 2, 1)]
    assert [name for name, _ in document.keys(("a",))] == ["c"]
    assert document.keys(("b",)) == ()


def test_a_byte_order_mark_and_crlf_are_kept_and_do_not_shift_places() -> None:
    content = b"\xef\xbb\xbfa: 1\r\nb: \xc3\xa9\r\n"
    document = parse(content, "x")
    assert (document.bom, document.newline, document.data) == (True, "\r\n", {"a": 1, "b": "é"})
    span = document.span(("b",))
    assert (span.line, span.column, document.text[span.start : span.end]) == (2, 4, "é")
    assert document.encode(document.text) == content
    assert parse(b"a: 1", "x").newline == "\n"


@pytest.mark.parametrize("text", ["a: 1\n", "- \n- \n", "# c\na:\n", "x", "[]", "{a: , b: }"])
def test_the_root_and_empty_values_have_a_span(text: str) -> None:
    document = parse(text.encode(), "x")
    for loc in locations(document.data):
        span = document.span(loc)
        assert 0 <= span.start <= span.end <= len(text)


# --- problems of documents that can be read ---


def test_a_duplicate_key_names_both_places() -> None:
    document = parse(b"a:\n  b: 1\n  c: 2\n  b: 3\n", "x.yaml")
    (problem,) = document.problems
    assert (problem.code, problem.severity) == ("PV111", Severity.ERROR)
    assert problem.message == "the key 'b' occurs twice in one mapping, first at line 2"
    assert (problem.span.line, problem.span.column) == (4, 3)


def test_three_equal_keys_are_two_findings_and_equal_keys_of_two_mappings_none() -> None:
    assert len(parse(b"a: 1\na: 2\na: 3\n", "x").problems) == 2
    assert parse(b"- {a: 1}\n- {a: 1}\n", "x").problems == ()
    assert [p.code for p in parse(b"1: a\n'1': b\n", "x").problems] == ["PV111", "PV114"]


@pytest.mark.parametrize("key", ["1", "true", "~", "1.5", "0x10"])
def test_a_key_that_is_no_text_is_taken_as_text_and_reported(key: str) -> None:
    document = parse(f"{key}: v\n".encode(), "x")
    assert document.data == {key: "v"}
    (problem,) = document.problems
    assert (problem.code, problem.severity, problem.span.column) == ("PV114", Severity.WARNING, 1)


def test_old_line_separators_and_directives_are_reported() -> None:
    assert [p.code for p in parse("a: 'x\u2028y'\nb: 'c\x85d'\n".encode(), "x").problems] == ["PV116", "PV116"]
    assert [p.code for p in parse(b"%YAML 1.1\n---\na: yes\n", "x").problems] == ["PV117"]
    assert parse(b"%YAML 1.2\n---\na: yes\n", "x").problems == ()
    assert parse(b"%YAML 1.1\n---\na: yes\n", "x").data == {"a": "yes"}


def test_merges_follow_the_order_of_the_merge_type() -> None:
    text = b"a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 0\nd: {'<<': 1}\n"
    document = parse(text, "x")
    assert document.data["c"] == {"x": 0, "y": 1, "z": 2}
    assert document.data["d"] == {"<<": 1}
    assert "<<" not in document.data["c"]


def test_aliases_share_what_they_name() -> None:
    document = parse(b"a: &a [1, 2]\nb: *a\n", "x")
    assert document.data["a"] is document.data["b"]


# --- refusals ---


def test_100_000_nested_brackets_are_refused_in_milliseconds() -> None:
    bombs = [opening * 100_000 for opening in (b"[", b"{", b"- ", b"? ", b"[a, ", b"{a: ")] + [
        b"- " * 60 + b"[" * 100_000
    ]
    for bomb in bombs:
        started = time.process_time()
        assert refusal(bomb).code in ("PV107", "PV112"), bomb[:10]
        assert time.process_time() - started < 0.1
    assert refusal(b"[" * 100_000).message == "the document nests deeper than 64 collections"
    assert refusal(b"[" * 100_000).span.column == 65


def test_the_depth_limit_is_exact() -> None:
    parse(b"[" * 64 + b"]" * 64, "x")
    assert refusal(b"[" * 65 + b"]" * 65).code == "PV107"
    assert refusal(b"[[[]]]", depth=2).code == "PV107"


def test_an_alias_bomb_is_refused_and_never_expanded() -> None:
    lines = [b"a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)]
    started = time.process_time()
    diagnostic = refusal(b"\n".join(lines))
    assert diagnostic.code == "PV108"
    assert "aliases" in diagnostic.message
    assert time.process_time() - started < 0.5


def test_a_bomb_of_merge_keys_is_refused() -> None:
    lines = [b"a: &a {" + b", ".join(b"k%d: 1" % n for n in range(1000)) + b"}"]
    lines += [b"m%d: {<<: *a}" % n for n in range(2000)]
    assert refusal(b"\n".join(lines)).code == "PV108"


def test_a_chain_of_aliases_cannot_nest_deeper_than_the_limit() -> None:
    lines = [b"a0: &a0 [[[[[[[[[[x]]]]]]]]]]"]
    lines += [b"a%d: &a%d [[[[[[[[[[*a%d]]]]]]]]]]" % (n, n, n - 1) for n in range(1, 9)]
    assert refusal(b"\n".join(lines)).code == "PV107"
    assert parse(b"\n".join(lines[:6]), "x").data["a5"][0][0] is not None


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=9))
def test_the_counted_size_and_height_are_those_of_the_expanded_data(shape: list[tuple[int, int, int]]) -> None:
    """Following every alias visits what the limits count: compare with a walk that does so."""
    lines = []
    for number, (width, height, target) in enumerate(shape):
        inner = f"*a{target % number}" if number else "x"
        body = "[" * height + ", ".join([inner] * width) + "]" * height if height else inner
        lines.append(f"- &a{number} [{body}]")
    content = "\n".join(lines).encode()
    data = parse(content, "x").data
    height = _height(data)
    assert refusal(content, depth=height - 1).code == "PV107"
    parse(content, "x", Limits(depth=height))


def _height(data: Any) -> int:
    return 1 + max(map(_height, data), default=0) if isinstance(data, list) else 0


def test_dense_files_are_refused_before_they_cost_seconds() -> None:
    started = time.process_time()
    assert refusal(b"- a\n" * 3_000_000).code == "PV108"
    assert refusal(b"[" + b"a," * 3_000_000).code == "PV108"
    assert time.process_time() - started < 3  # two of them, on a busy machine


@pytest.mark.parametrize(
    ("content", "code", "words", "line", "column"),
    [
        (b"", "PV106", "found none: the file is empty", 1, 1),
        (b"# only a comment\n", "PV106", "found none", 1, 1),
        (b"a: 1\n---\nb: 2\n", "PV106", "a second one begins here", 2, 1),
        (b"a: 1\n--- \n", "PV106", "a second one begins here", 2, 1),
        (b"a: caf\xe9\n", "PV103", "expected UTF-8, found the byte 0xE9", 1, 7),
        ("a: é\n".encode("utf-16"), "PV103", "byte order mark of UTF-16", 1, 1),
        (b"a: \xed\xa0\x80\n", "PV103", "expected UTF-8", 1, 4),
        (b"a: b\0c\n", "PV104", "a NUL character in the text", 1, 5),
        (b"a: b\x1bc\n", "PV104", "the control character U+001B", 1, 5),
        (b"\0", "PV104", "a NUL character", 1, 1),
        (b"a:\n\t- 1\n", "PV105", "a value cannot begin with a tab", 2, 1),
        (b"a: b: c\n", "PV105", "mapping values are not allowed", 1, 5),
        (b"a: [1, 2\nb: 3\n", "PV105", "did not find expected ',' or ']'", 2, 2),
        (b"a: 'x\n", "PV105", "unexpected end of stream", 2, 1),
        (b"a: @x\n", "PV105", "a value cannot begin with `@`", 1, 4),
        (b"a: *nope\n", "PV109", "names no anchor", 1, 4),
        (b"a: &a [1, *a]\n", "PV109", "inside its own anchor", 1, 11),
        (b"a: &a {b: {c: *a}}\n", "PV109", "inside its own anchor", 1, 15),
        (b"a: !!python/object/apply:os.system ['x']\n", "PV110", "nothing was executed", 1, 4),
        (b"a: !!python/name:os.system\n", "PV110", "!!python/name:os.system", 1, 4),
        (b"a: !custom x\n", "PV110", "!custom", 1, 4),
        (b"a: !!binary aGk=\n", "PV110", "!!binary", 1, 4),
        (b"a: !!set {x}\n", "PV110", "!!set", 1, 4),
        (b"a: !!int x\n", "PV110", "the tag !!int does not fit 'x'", 1, 4),
        (b"[1, 2]: x\n", "PV112", "a key must be a scalar", 1, 1),
        (b"? {a: 1}\n: x\n", "PV112", "a key must be a scalar", 1, 3),
        (b"a: &a x\n*a : y\n", "PV112", "a key must be a scalar", 2, 1),
        (b"a: {<<: 1}\n", "PV113", "takes a mapping", 1, 11),
    ],
)
def test_each_refusal_is_one_diagnostic_with_a_place(
    content: bytes, code: str, words: str, line: int, column: int
) -> None:
    diagnostic = refusal(content)
    assert (diagnostic.code, words in diagnostic.message) == (code, True), diagnostic
    assert (diagnostic.span.line, diagnostic.span.column) == (line, column), diagnostic


def test_no_tag_runs_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for body in (f"!!python/object/apply:os.mkdir ['{mark}']", f"!!python/object/new:os.mkdir ['{mark}']"):
        refusal(f"a: {body}\n".encode())
    assert not mark.exists()


def test_core_tags_say_what_a_scalar_is() -> None:
    text = b"a: !!str 1.10\nb: !!float 3\nc: !!int '4'\nd: ! 12\ne: ! \"13\"\n"
    text += b"f: !!map {x: 1}\ng: !!seq [1]\nh: !!bool true\ni: !!null ''\n"
    data = parse(text, "x").data
    assert data == {"a": "1.10", "b": 3.0, "c": 4, "d": "12", "e": "13", "f": {"x": 1}, "g": [1], "h": True, "i": None}
    assert isinstance(data["b"], float)


def test_a_file_of_tag_directives_is_refused_at_once() -> None:
    started = time.process_time()
    assert refusal(b"".join(b"%%TAG !a%d! x\n" % n for n in range(200_000)) + b"---\na: 1\n").code == "PV110"
    assert time.process_time() - started < 0.5


def test_a_large_file_is_refused_by_its_size_alone(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)  # sparse: reading it would still take its size in memory
    started = time.process_time()
    with pytest.raises(Unreadable) as caught:
        read(path)
    assert caught.value.diagnostic.code == "PV102"
    assert caught.value.diagnostic.message == "expected at most 16,777,216 bytes, found 104,857,600"
    assert time.process_time() - started < 0.05
    assert refusal(b"a: 1234567", size=5).code == "PV102"


def test_what_is_no_regular_file_is_refused_by_its_kind(tmp_path: Path) -> None:
    (tmp_path / "dir.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket.yaml"))
    os.symlink(tmp_path / "loop.yaml", tmp_path / "loop.yaml")
    said = {}
    for name in ("dir.yaml", "pipe.yaml", "socket.yaml", "loop.yaml", "none.yaml", "null\0.yaml"):
        with pytest.raises(Unreadable) as caught:
            read(tmp_path / name, display=name)
        assert caught.value.diagnostic.code == "PV101"
        assert caught.value.diagnostic.path == name
        said[name] = caught.value.diagnostic.message
    server.close()
    assert said["dir.yaml"] == "expected a regular file, found a directory"
    assert said["pipe.yaml"] == "expected a regular file, found a pipe"
    assert "socket" in said["socket.yaml"] or "cannot be opened" in said["socket.yaml"]
    assert said["none.yaml"] == "there is no such file"
    assert "cannot be opened" in said["loop.yaml"]
    with pytest.raises(Unreadable) as caught:
        read(Path("/dev/zero"))
    assert caught.value.diagnostic.message == "expected a regular file, found a device"


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="only Linux has files whose size is said to be 0")
def test_a_file_that_says_it_is_empty_is_read_whole() -> None:
    version = Path("/proc/version")
    assert version.stat().st_size == 0
    assert reader._read_bytes(version, "x", Limits()) == version.read_bytes()
    with pytest.raises(Unreadable, match="PV102"):
        read(version, limits=Limits(size=10))


def test_an_unreadable_file_is_one_diagnostic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text("a: 1\n")

    def denied(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(Unreadable) as caught:
        read(path)
    assert (caught.value.diagnostic.code, caught.value.diagnostic.message) == (
        "PV101",
        "cannot be opened: Permission denied",
    )


# --- the fallback ---


def test_the_pure_parser_gives_the_same_documents(corpus: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files = corpus[::20]
    fast = [read(path) for path in files]
    monkeypatch.setattr(events, "CParser", None)
    for path, document in zip(files, fast, strict=True):
        slow = read(path)
        assert equal(slow.data, document.data)
        for loc in locations(document.data):
            assert slow.span(loc) == document.span(loc), (path, loc)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"a: !!python/name:os.x",
        b"a: b\0",
        b"a: 1\n---\nb: 1",
        b"",
        b"a: *b",
        b'a: "\\ud800"',
        b"a: b: c",
    ],
)
def test_the_pure_parser_refuses_the_same_files(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    code = refusal(content).code
    monkeypatch.setattr(events, "CParser", None)
    assert refusal(content).code == code


def test_the_missing_binding_is_said_once_on_stderr() -> None:
    code = (
        "import sys; sys.modules['yaml._yaml'] = None\n"
        "from pv.document.reader import parse\n"
        "for _ in range(3): print(parse(b'a: &x 1', 'x').data)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "{'a': 1}\n" * 3
    assert run.stderr.count("no libyaml binding") == 1


def test_reading_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "ruamel", "filelock", "jsonschema", "pydantic", "difflib"}
    code = f"import sys, pv.document.reader; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@given(st.text("ab\n\r", max_size=60), st.data())
def test_places_are_the_same_counted_or_looked_up(text, data):
    """The first places of a file are counted, the others looked up in a table of its lines."""
    counted, looked_up = Lines(text), Lines(text)
    looked_up._few = 0
    for _ in range(12):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, len(text)))
        assert counted.span(start, end) == looked_up.span(start, end)
    line, column = looked_up.span(len(text), len(text))[2:4]
    assert line == len(re.split(r"\r\n|\r|\n", text))
    assert column == len(re.split(r"\r\n|\r|\n", text)[-1]) + 1
