"""Plain data -> its RFC 8785 bytes: the package `rfc8785` for all that is hard, and no call of it for all that is easy.

A project of ten thousand claims has millions of texts, lists and mappings, which the package writes one byte string at
a time. Here they are joined as text, a quarter of the time. Numbers with an exponent, and whatever else is not plainly
JSON, are the package's to write or to refuse; a property test holds the two to the same bytes and the same refusals.
"""

from __future__ import annotations

from json.encoder import encode_basestring as _quoted
from typing import Any

import rfc8785

_MOST = 2**53 - 1  # the largest integer that every JSON reader keeps
_CONSTANTS = {None: "null", True: "true", False: "false"}


def dumps(value: Any) -> bytes:
    """The canonical bytes of `value`. Raises rfc8785.CanonicalizationError for what JSON cannot carry."""
    try:
        return _text(value).encode()
    except (UnicodeEncodeError, rfc8785.CanonicalizationError):  # the package says what is wrong first
        content: bytes = rfc8785.dumps(value)
        return content


def _text(value: Any) -> str:
    kind = value.__class__
    if kind is str:
        return _quoted(value)
    if kind is dict:
        if _sorts_plainly(value):
            return "{" + ",".join([f"{_quoted(key)}:{_text(value[key])}" for key in sorted(value)]) + "}"
    elif kind is list or kind is tuple:
        return "[" + ",".join([_text(item) for item in value]) + "]"
    elif kind is int:
        if -_MOST <= value <= _MOST:
            return str(value)
    elif kind is float:
        digits = repr(value)
        if value != 0 and "e" not in digits and "n" not in digits:  # neither 1e-07, nan nor inf
            return digits.removesuffix(".0")
    elif value is None or kind is bool:
        return _CONSTANTS[value]
    text: str = rfc8785.dumps(value).decode()
    return text


def _sorts_plainly(mapping: dict[Any, Any]) -> bool:
    """Whether the keys sort alike as characters and as UTF-16, which RFC 8785 asks for; False where one is no text."""
    try:
        return "".join(mapping).isascii()
    except TypeError:
        return False
