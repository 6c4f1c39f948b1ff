"""Vocabularies in a GGUF file's metadata: what is sound becomes a tokenizer, what is odd a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pv.model.errors import TokenizerError
from pv.model.gguf_tokenizer import NORMALIZER, build, vocabulary_in
from pv.model.tokenizer import Tokenizer

SOUND: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": ["a", "b", "Ġ", "ab", "Ġab", "<|end|>", "<keep>", "[PAD7]"],
    "tokenizer.ggml.token_type": np.array([1, 1, 1, 1, 1, 3, 4, 5], np.int32),
    "tokenizer.ggml.merges": ["a b", "Ġ ab"],
    "tokenizer.ggml.eos_token_id": 5,
}


def read(**changes: Any) -> Tokenizer:
    """`model` stands for tokenizer.ggml.model, and so on; None drops a key."""
    metadata = dict(SOUND)
    for name, value in changes.items():
        key = NORMALIZER if name == "normalizer" else f"tokenizer.{'' if name == 'chat_template' else 'ggml.'}{name}"
        metadata[key] = value
        if value is None:
            del metadata[key]
    return build(vocabulary_in(metadata, "x.gguf"), "x.gguf")


def test_merges_and_kinds_are_followed() -> None:
    tokenizer = read()
    assert tokenizer.encode("ab ab<|end|>a<keep>") == [3, 4, 5, 0, 6]
    assert tokenizer.decode([3, 4, 5, 0, 6]) == "ab aba<keep>"  # control tokens are not text
    assert tokenizer.stops == {5}


def test_every_end_token_of_the_file_is_a_stop() -> None:
    assert read(eot_token_id=6, eom_token_id=0).stops == {0, 5, 6}


def test_a_file_that_says_that_nothing_is_added_is_read() -> None:
    assert read(add_bos_token=False, add_eos_token=False).encode("ab") == [3]


def test_without_kinds_all_tokens_are_usual_ones() -> None:
    assert read(token_type=None).encode("ab") == [3]


def test_qwen2_normalizes_to_nfc_unless_the_file_says_otherwise() -> None:
    tokens = ["e", "Ã", "©", "Ì", "ģ", "Ã©"]
    plain = {"tokens": tokens, "token_type": None, "merges": ["Ã ©"], "eos_token_id": None}
    assert read(**plain).encode("e\u0301") == [5]
    assert read(**plain, normalizer="none").encode("e\u0301") == [0, 3, 4]
    assert read(**plain, pre="gpt-2").encode("e\u0301") == [0, 3, 4]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "llama"}, r"expected tokenizer.ggml.model to be 'gpt2' \(byte-level BPE\) in x.gguf, got 'llama'"),
        ({"model": None}, "got None"),
        ({"pre": "llama-bpe"}, "expected tokenizer.ggml.pre among qwen2, gpt-2 in x.gguf, got 'llama-bpe'"),
        ({"pre": None}, "got 'default'"),
        ({"tokens": None}, "expected a list of strings for tokenizer.ggml.tokens in x.gguf, found NoneType"),
        ({"tokens": np.arange(3)}, "found ndarray"),
        ({"merges": None}, "expected a list of strings for tokenizer.ggml.merges"),
        ({"merges": ["a z"]}, "expected a merge of two tokens into a third in x.gguf, got 'a z'"),
        ({"merges": ["ab"]}, "expected a merge of two tokens into a third"),
        ({"merges": ["b a"]}, "expected a merge of two tokens into a third"),
        ({"token_type": np.ones(3, np.int32)}, "expected a token type for each of 8 tokens in x.gguf, got 3"),
        ({"token_type": np.array([1, 1, 1, 1, 1, 9, 4, 5])}, r"unknown type 9 of token '<\|end\|>' in x.gguf"),
        ({"token_type": 3}, "expected an array of integers for tokenizer.ggml.token_type in x.gguf, got int"),
        ({"token_type": np.ones(8, np.float32)}, "an array of integers for .* got float32"),
        ({"token_type": ["1"] * 8}, "an array of integers for .* got list"),
        ({"model": np.arange(2)}, "expected tokenizer.ggml.model to be 'gpt2'"),
        ({"pre": np.arange(2)}, "expected tokenizer.ggml.pre among qwen2, gpt-2"),
        ({"add_bos_token": True}, "tokenizer.ggml.add_bos_token is set in x.gguf, and pv adds no token.*--tokens"),
        ({"add_eos_token": True}, "tokenizer.ggml.add_eos_token is set"),
        ({"add_bos_token": np.arange(2)}, "tokenizer.ggml.add_bos_token is set"),
        ({"eos_token_id": 8}, "expected the ids of end tokens below 8 in x.gguf, got 8"),
        ({"eos_token_id": "5"}, "got '5'"),
        ({"normalizer": "NFKC"}, "to be 'NFC' or 'none' in x.gguf, got 'NFKC'"),
    ],
)
def test_an_odd_vocabulary_is_a_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TokenizerError, match=words):
        read(**changes)


def test_a_token_that_occurs_twice_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"token 'a' occurs twice in x.gguf, as 0 and 1"):
        read(tokens=["a", "a", "Ġ", "ab", "Ġab", "<|end|>", "<keep>", "[PAD7]"], merges=[])
