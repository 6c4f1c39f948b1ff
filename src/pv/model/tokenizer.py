"""`tokenizer.json` -> token ids and back; a stream of ids -> text that never breaks a character."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from pv.model.errors import TokenizerError
from pv.model.spec import read_json

REPLACEMENT = "\ufffd"


class Tokenizer:
    """Text <-> ids, the ids that end an answer, and the chat template where the model has one."""

    def __init__(
        self, fast: FastTokenizer, stops: Iterable[int] = (), settings: Mapping[str, Any] | None = None
    ) -> None:
        self._fast = fast
        self.stops = frozenset(stops)
        self._settings = dict(settings or {})

    @property
    def fast(self) -> FastTokenizer:
        """The `tokenizers` object itself, for those who write another format."""
        return self._fast

    @property
    def chat_template(self) -> str | None:
        """The model's chat template as it is written, for those who write another format."""
        template = self._settings.get("chat_template")
        return template if isinstance(template, str) else None

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self._fast.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        """Text -> ids; special tokens written out in the text become themselves."""
        try:
            text.encode()
        except UnicodeEncodeError:  # lone surrogates: bytes of the command line that are no UTF-8
            raise TokenizerError("expected a prompt in valid Unicode, got undecodable bytes") from None
        return list(self._fast.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> text, without special tokens; undecodable bytes become U+FFFD."""
        return str(self._fast.decode(list(ids)))

    @property
    def has_chat(self) -> bool:
        """Whether the model brings a chat template."""
        return isinstance(self._settings.get("chat_template"), str)

    def chat(self, prompt: str) -> str:
        """The prompt as one user's turn in the model's own chat template. Raises TokenizerError when it has none."""
        template = self.chat_template
        if template is None:
            raise TokenizerError(
                "the model has no chat template (chat_template in tokenizer_config.json)", "drop --chat"
            )
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise TokenizerError("chat templates need jinja2, which is not installed", "pip install jinja2") from None
        turns = [{"role": "user", "content": prompt}]
        try:
            environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            return environment.from_string(template).render(messages=turns, add_generation_prompt=True, **self._words())
        except TemplateError as problem:
            raise TokenizerError(f"the model's chat template fails: {problem}") from None

    def _words(self) -> dict[str, str]:
        """The special tokens that templates name."""
        wanted = ("bos_token", "eos_token", "pad_token")
        return {key: _text_of(self._settings.get(key)) for key in wanted if self._settings.get(key)}


class TextStream:
    """Ids one by one -> text piece by piece. The pieces joined equal `decode` of all ids.

    A character of several bytes may be spread over tokens: its bytes are held back until it is complete.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """The text that is certain after this token; maybe none."""
        self._held.append(token)
        text = self._tokenizer.decode(self._held)
        return "" if text.endswith(REPLACEMENT) else self._release(text)

    def finish(self) -> str:
        """What was held back, as it is."""
        return self._release(self._tokenizer.decode(self._held))

    def _release(self, text: str) -> str:
        self._held.clear()
        return text


def read_tokenizer(directory: Path, vocab: int) -> Tokenizer:
    """The tokenizer of a model directory. Raises TokenizerError when it is missing, damaged or larger than `vocab`."""
    path = directory / "tokenizer.json"
    data = read_json(path, TokenizerError)
    try:
        fast = FastTokenizer.from_str(json.dumps(data))
    except Exception as problem:  # the library raises bare Exception
        raise TokenizerError(f"expected a tokenizer in {path}: {problem}", "is the file complete?") from None
    settings = _optional(directory / "tokenizer_config.json")
    template = directory / "chat_template.jinja"
    if "chat_template" not in settings and template.exists():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    tokenizer = Tokenizer(fast, _stops(directory, fast, settings), settings)
    if tokenizer.size > vocab:
        raise TokenizerError(f"expected ids below {vocab} (the model's vocabulary), got {tokenizer.size - 1} in {path}")
    return tokenizer


def _stops(directory: Path, fast: FastTokenizer, settings: Mapping[str, Any]) -> set[int]:
    """Ids that end an answer: generation_config.json says it best, then config.json, then the tokenizer's own word."""
    for name in ("generation_config.json", "config.json"):
        found = _optional(directory / name).get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        if found is not None and all(type(item) is int for item in ids):
            return set(ids)
    word = fast.token_to_id(_text_of(settings.get("eos_token")))
    return set() if word is None else {word}


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path, TokenizerError) if path.exists() else {}


def _text_of(token: Any) -> str:
    """A special token is written as text, or as a mapping with its content."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
