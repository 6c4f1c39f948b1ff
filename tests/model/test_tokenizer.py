"""Text and ids: round trips, streams that never break a character, stop ids, chat templates, damaged files."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from pv.model.errors import TokenizerError
from pv.model.synthetic import byte_tokenizer
from pv.model.tokenizer import TextStream, Tokenizer, read_tokenizer

Edit = Callable[[str, Callable[[bytes], bytes]], Path]
BYTES = Tokenizer(FastTokenizer.from_str(json.dumps(byte_tokenizer(300))))


@given(st.text())
def test_bytes_round_trip(text: str) -> None:
    ids = BYTES.encode(text)
    assert ids == list(text.encode())
    assert BYTES.decode(ids) == text


@given(st.lists(st.integers(0, 299), max_size=30))
def test_a_stream_joins_to_the_decoded_whole(ids: list[int]) -> None:
    stream = TextStream(BYTES)
    assert "".join([*(stream.push(token) for token in ids), stream.finish()]) == BYTES.decode(ids)


def test_a_character_of_four_bytes_comes_in_one_piece() -> None:
    stream = TextStream(BYTES)
    assert [stream.push(token) for token in "a😀b".encode()] == ["a", "", "", "", "😀", "b"]
    assert stream.finish() == ""


def test_an_unfinished_character_comes_at_the_end() -> None:
    stream = TextStream(BYTES)
    assert [stream.push(token) for token in b"x\xf0\x9f"] == ["x", "", ""]
    assert stream.finish() == "\ufffd"


def test_undecodable_bytes_of_the_command_line_are_one_sentence() -> None:
    with pytest.raises(TokenizerError, match="expected a prompt in valid Unicode"):
        BYTES.encode("\udcff")


@pytest.mark.parametrize(
    ("generation", "config", "settings", "stops"),
    [
        ({"eos_token_id": [5, 6]}, {"eos_token_id": 7}, {"eos_token": "a"}, {5, 6}),
        ({}, {"eos_token_id": 7}, {"eos_token": "a"}, {7}),
        ({}, {"eos_token_id": None}, {"eos_token": "a"}, {97}),
        ({}, {}, {"eos_token": {"content": "b"}}, {98}),
        ({}, {}, {"eos_token": "absent"}, set()),
        ({}, {}, {}, set()),
    ],
)
def test_stop_ids_come_from_the_file_that_says_it_best(
    generation: dict[str, Any], config: dict[str, Any], settings: dict[str, Any], stops: set[int], tmp_path: Path
) -> None:
    files = {"generation_config": generation, "config": config, "tokenizer_config": settings}
    for name, data in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer.json").write_text(json.dumps(byte_tokenizer(300)))
    assert read_tokenizer(tmp_path, 300).stops == stops


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda b: b[: len(b) // 2], "expected JSON in"),
        (lambda b: b + b"}", "expected JSON in"),
        (lambda b: b"", "expected JSON in"),
        (lambda b: b"[" * 100_000, "expected JSON in"),
        (lambda b: b"{}", "expected a tokenizer in"),
        (lambda b: b.replace(b'"BPE"', b'"XPE"'), "expected a tokenizer in"),
        (lambda b: b.replace(b'"merges": []', b'"merges": [["a"]]'), "expected a tokenizer in"),
    ],
)
def test_a_damaged_file_is_one_sentence(damage: Callable[[bytes], bytes], sentence: str, edit: Edit) -> None:
    directory = edit("tokenizer.json", damage)
    with pytest.raises(TokenizerError, match=sentence):
        read_tokenizer(directory, 300)


def test_a_missing_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"expected a file at .*tokenizer\.json, found none"):
        read_tokenizer(tmp_path, 300)


def test_ids_beyond_the_model_are_refused(nano_directory: Path) -> None:
    with pytest.raises(TokenizerError, match=r"expected ids below 299 .*, got 299"):
        read_tokenizer(nano_directory, 299)


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)


def test_the_chat_template_is_the_models_own(nano_copy: Path) -> None:
    pytest.importorskip("jinja2")
    (nano_copy / "chat_template.jinja").write_text(TEMPLATE)
    assert read_tokenizer(nano_copy, 300).chat("Hi") == "<user>Hi<answer>"
    (nano_copy / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ eos_token }}!", "eos_token": "a"})
    )
    assert read_tokenizer(nano_copy, 300).chat("Hi") == "a!"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [(None, "no chat template"), ("{% for %}", "template fails"), ("{{ ''.__class__.__mro__[1] }}", "template fails")],
)
def test_a_template_that_is_absent_broken_or_hostile_is_one_sentence(template: str | None, sentence: str) -> None:
    pytest.importorskip("jinja2")
    with pytest.raises(TokenizerError, match=sentence):
        Tokenizer(BYTES.fast, settings={"chat_template": template}).chat("Hi")


def test_a_missing_jinja2_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("jinja2"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TokenizerError, match="need jinja2, which is not installed"):
        Tokenizer(BYTES.fast, settings={"chat_template": TEMPLATE}).chat("Hi")
