"""The vocabulary inside a GGUF file <-> a `tokenizers` tokenizer: byte-level BPE, as Qwen2 and GPT-2 have it.

A GGUF file holds tokens, their kinds and merges, and only the *name* of the rule that splits text before merging. So
the rules that pv knows stand in a table here, and a tokenizer that follows another is refused, never approximated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from gguf.constants import Keys
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from pv.model.errors import TokenizerError
from pv.model.tokenizer import Tokenizer

# The published patterns of the two tokenizers. `tokenizer.ggml.pre` -> what splits the text.
PATTERNS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
NORMALIZER = "pv.tokenizer.normalizer"  # our own key: the format has no word for it, and Qwen2's own normalizes to NFC
STOP_KEYS = (Keys.Tokenizer.EOS_ID, Keys.Tokenizer.EOT_ID, Keys.Tokenizer.EOM_ID)


class Kind(IntEnum):
    """ggml's token types, as far as byte-level BPE uses them."""

    NORMAL = 1
    CONTROL = 3  # special: found in text, left out of decoded text
    USER_DEFINED = 4  # found in text before merging, kept in decoded text
    UNUSED = 5  # rows of the embedding beyond the vocabulary


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer."""

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    pre: str
    normalizer: str  # "NFC" or "none"
    stops: tuple[int, ...]  # in the order of STOP_KEYS
    chat_template: str | None


def vocabulary_in(metadata: Mapping[str, Any], where: str) -> Vocabulary:
    """The tokenizer's part of the metadata. Raises TokenizerError when it is missing, odd, or of another family."""
    family = metadata.get(Keys.Tokenizer.MODEL)
    if not isinstance(family, str) or family != "gpt2":
        raise TokenizerError(
            f"expected {Keys.Tokenizer.MODEL} to be 'gpt2' (byte-level BPE) in {where}, got {family!r}"
        )
    tokens, merges = (_strings(metadata, key, where) for key in (Keys.Tokenizer.LIST, Keys.Tokenizer.MERGES))
    for key in (Keys.Tokenizer.ADD_BOS, Keys.Tokenizer.ADD_EOS):
        if metadata.get(key, False) is not False:
            raise TokenizerError(f"{key} is set in {where}, and pv adds no token to a text", "give --tokens instead")
    kinds = _kinds(metadata, len(tokens), where)
    if len(kinds) != len(tokens):
        raise TokenizerError(f"expected a token type for each of {len(tokens)} tokens in {where}, got {len(kinds)}")
    stops = tuple(metadata[key] for key in STOP_KEYS if key in metadata)
    wrong = [stop for stop in stops if type(stop) is not int or not 0 <= stop < len(tokens)]
    if wrong:
        raise TokenizerError(f"expected the ids of end tokens below {len(tokens)} in {where}, got {wrong[0]!r}")
    pre = str(metadata.get(Keys.Tokenizer.PRE, "default"))
    template = metadata.get(Keys.Tokenizer.CHAT_TEMPLATE)
    return Vocabulary(
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        merges=tuple(merges),
        pre=pre,
        normalizer=str(metadata.get(NORMALIZER, "NFC" if pre == "qwen2" else "none")),
        stops=stops,
        chat_template=template if isinstance(template, str) else None,
    )


def build(vocabulary: Vocabulary, where: str) -> Tokenizer:
    """A tokenizer from what a file says. Raises TokenizerError for a splitting rule that pv does not know."""
    if vocabulary.pre not in PATTERNS:
        raise TokenizerError(
            f"expected {Keys.Tokenizer.PRE} among {', '.join(PATTERNS)} in {where}, got {vocabulary.pre!r}",
            "another rule would give other tokens; use the model's directory",
        )
    if vocabulary.normalizer not in {"NFC", "none"}:
        raise TokenizerError(f"expected {NORMALIZER} to be 'NFC' or 'none' in {where}, got {vocabulary.normalizer!r}")
    ids = _ids(vocabulary, where)
    merges = [_pair(merge, ids, where) for merge in vocabulary.merges]
    fast = FastTokenizer(models.BPE(vocab=ids, merges=merges))
    split = pre_tokenizers.Split(Regex(PATTERNS[vocabulary.pre]), behavior="isolated")
    fast.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    fast.decoder = decoders.ByteLevel()
    if vocabulary.normalizer == "NFC":
        fast.normalizer = normalizers.NFC()
    _add_tokens(fast, vocabulary, where)
    settings: dict[str, Any] = {}
    if vocabulary.chat_template is not None:
        settings["chat_template"] = vocabulary.chat_template
    if vocabulary.stops:
        settings["eos_token"] = vocabulary.tokens[vocabulary.stops[0]]
    return Tokenizer(fast, vocabulary.stops, settings)


def describe(tokenizer: Tokenizer, rows: int, chat_template: str | None) -> Vocabulary:
    """What a GGUF file must say of this tokenizer; ids from the vocabulary's end to `rows` are filled with unused ones.

    Raises TokenizerError for anything the format cannot say: another model than byte-level BPE, another splitting
    rule, more than three end tokens.
    """
    data = json.loads(tokenizer.fast.to_str())
    model = data["model"]
    _want_plain_bpe(model)
    if not model["merges"]:
        raise TokenizerError("the tokenizer has no merges, and a GGUF file cannot hold an empty list", "--no-tokenizer")
    added = {token["id"]: token for token in data.get("added_tokens", [])}
    odd = [t["content"] for t in added.values() if t.get("lstrip") or t.get("rstrip") or t.get("single_word")]
    if odd:
        raise TokenizerError(f"the added token {odd[0]!r} takes the space beside it, which a GGUF file cannot say")
    texts = {number: text for text, number in model["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    if texts and max(texts) >= rows:
        raise TokenizerError(f"expected token ids below {rows} (rows of the embedding), got {max(texts)}")
    if len(tokenizer.stops) > len(STOP_KEYS):
        raise TokenizerError(f"expected at most {len(STOP_KEYS)} end tokens, got {len(tokenizer.stops)}")
    return Vocabulary(
        tokens=tuple(texts.get(i, f"[PAD{i}]") for i in range(rows)),
        kinds=tuple(_kind(i, texts, added) for i in range(rows)),
        merges=tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]),
        pre=_rule(data.get("pre_tokenizer")),
        normalizer=_normalizer(data.get("normalizer")),
        stops=tuple(sorted(tokenizer.stops)),
        chat_template=chat_template,
    )


def _kinds(metadata: Mapping[str, Any], count: int, where: str) -> list[int]:
    """The kind of every token; all are normal where the file does not say."""
    kinds = metadata.get(Keys.Tokenizer.TOKEN_TYPE)
    if kinds is None:
        return [Kind.NORMAL] * count
    if not isinstance(kinds, np.ndarray) or kinds.dtype.kind not in "iu":
        got = kinds.dtype if isinstance(kinds, np.ndarray) else type(kinds).__name__
        raise TokenizerError(f"expected an array of integers for {Keys.Tokenizer.TOKEN_TYPE} in {where}, got {got}")
    return [int(kind) for kind in kinds]


def _strings(metadata: Mapping[str, Any], key: str, where: str) -> list[str]:
    value = metadata.get(key)
    if not isinstance(value, list):
        raise TokenizerError(f"expected a list of strings for {key} in {where}, found {type(value).__name__}")
    return value


def _ids(vocabulary: Vocabulary, where: str) -> dict[str, int]:
    """Token -> id, without the unused rows. Raises TokenizerError for a token that stands under two ids."""
    ids: dict[str, int] = {}
    for number, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True)):
        if kind == Kind.UNUSED:
            continue
        if ids.setdefault(text, number) != number:
            raise TokenizerError(f"token {text!r} occurs twice in {where}, as {ids[text]} and {number}")
    return ids


def _pair(merge: str, vocabulary: Mapping[str, int], where: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
        raise TokenizerError(f"expected a merge of two tokens into a third in {where}, got {merge!r}")
    return left, right


def _add_tokens(fast: FastTokenizer, vocabulary: Vocabulary, where: str) -> None:
    """Tell the library which tokens are found in the text as they stand; it keeps the ids that the vocabulary gave."""
    for text, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True):
        if kind in {Kind.NORMAL, Kind.UNUSED}:
            continue
        if kind not in {Kind.CONTROL, Kind.USER_DEFINED}:
            raise TokenizerError(f"unknown type {kind} of token {text!r} in {where}")
        fast.add_tokens([AddedToken(text, special=kind == Kind.CONTROL, normalized=False)])


def _want_plain_bpe(model: Mapping[str, Any]) -> None:
    if model.get("type") != "BPE":
        raise TokenizerError(f"expected a BPE tokenizer, got {model.get('type')!r}", "GGUF files of pv hold no other")
    for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
                "fuse_unk", "ignore_merges"):  # fmt: skip
        if model.get(key):
            raise TokenizerError(f"a BPE tokenizer with {key}={model[key]!r} cannot be said in a GGUF file")


def _rule(pre: Mapping[str, Any] | None) -> str:
    """The name of the splitting rule. Raises TokenizerError when it is none of the table's."""
    steps = (pre or {}).get("pretokenizers", [pre or {}])
    if len(steps) == 1 and steps[0].get("type") == "ByteLevel" and steps[0].get("use_regex"):
        found = PATTERNS["gpt-2"]
    elif [step.get("type") for step in steps] == ["Split", "ByteLevel"] and not steps[1].get("use_regex"):
        found = steps[0].get("pattern", {}).get("Regex", "")
        if steps[0].get("behavior") != "Isolated" or steps[0].get("invert"):
            found = ""
    else:
        found = ""
    names = [name for name, pattern in PATTERNS.items() if pattern == found]
    if not names or any(step.get("add_prefix_space") for step in steps):
        raise TokenizerError(
            f"the tokenizer splits text by a rule that GGUF has no name for among {', '.join(PATTERNS)}"
        )
    return names[0]


def _normalizer(normalizer: Mapping[str, Any] | None) -> str:
    if normalizer is None:
        return "none"
    if normalizer.get("type") == "NFC":
        return "NFC"
    raise TokenizerError(f"expected the normalizer NFC or none, got {normalizer.get('type')!r}")


def _kind(number: int, texts: Mapping[int, str], added: Mapping[int, Mapping[str, Any]]) -> int:
    if number in added:
        return Kind.CONTROL if added[number].get("special") else Kind.USER_DEFINED
    return Kind.NORMAL if number in texts else Kind.UNUSED
