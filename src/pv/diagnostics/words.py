"""Texts from anywhere -> texts that terminals, XML and log files can carry."""

from __future__ import annotations

import codecs
import json
import re
from functools import cache, lru_cache
from typing import TextIO

# Control characters, marks that end or reorder a line, and halves of surrogate pairs: they could repaint a terminal,
# show a reviewer another order than the bytes have, or fail to encode. None of them is printable.
_UNSAFE = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
# What XML 1.0 can hold (production 2), less what `safe` already replaced.
_NOT_XML = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"


def safe(text: str) -> str:
    """`text` with every character that could do harm written as an escape such as `\\x1b`. Line ends and tabs stay."""
    return text if text.isprintable() else _pattern(_UNSAFE).sub(_escape, text)


@lru_cache(maxsize=2048)  # paths, fixes and expectations of thousands of findings are a few hundred texts
def one_line(text: str) -> str:
    """`safe(text)` with its line ends and tabs as spaces."""
    return " ".join(safe(text).split())


def xml_safe(text: str) -> str:
    """`safe(text)` without the characters that XML 1.0 cannot hold even as a reference."""
    return _pattern(_NOT_XML).sub("\ufffd", safe(text))


def put(stream: TextIO, text: str, errors: str = "backslashreplace") -> None:
    """Write `text`; what the stream's encoding cannot say is written as an escape instead of failing."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, errors).decode(encoding))


def put_json(stream: TextIO, data: object) -> None:
    """Write `data` as indented JSON and a line end, in ASCII unless the stream is UTF-8. Refuses NaN."""
    is_utf8 = codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name == "utf-8"
    stream.write(json.dumps(data, ensure_ascii=not is_utf8, indent=2, allow_nan=False) + "\n")


@cache  # not at the top: the set of XML takes 3 ms to compile, a hundredth of a warm call, and only JUnit needs it
def _pattern(characters: str) -> re.Pattern[str]:
    return re.compile(characters)


def _escape(match: re.Match[str]) -> str:
    number = ord(match.group())
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
