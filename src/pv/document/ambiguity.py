"""Plain scalars and comments -> the places that readers of YAML 1.1 and 1.2, or a reader and its author, read apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from pv.diagnostics.model import Span
from pv.document.scalars import OLD_BOOLEANS

Loc = tuple[str | int, ...]


class Ambiguity(NamedTuple):
    """One place. `kind` names the reason (see KINDS), `fix` is a spelling that all readers agree on, or empty."""

    kind: str
    text: str
    fix: str
    loc: Loc
    is_key: bool
    span: Span


# What each kind means to the two readers. A rule decides which of them matter, and where.
KINDS: dict[str, str] = {
    "boolean word": "a boolean in YAML 1.1, text in YAML 1.2",
    "exponent": "text in YAML 1.1, a number in YAML 1.2",
    "sexagesimal": "a number to the base of 60 in YAML 1.1, text in YAML 1.2",
    "leading zero": "an octal number in YAML 1.1, a decimal one in YAML 1.2",
    "octal": "text in YAML 1.1, an octal number in YAML 1.2",
    "underscore": "a number in YAML 1.1, text in YAML 1.2",
    "binary": "a number in YAML 1.1, text in YAML 1.2",
    "signed hexadecimal": "a number in YAML 1.1, text in YAML 1.2",
    "point first": "text to a common reader of YAML 1.1, a number in YAML 1.2",
    "date": "a date in YAML 1.1, text in YAML 1.2",
    "merge key": "the keys of another mapping in YAML 1.1, a key called `<<` in YAML 1.2",
    "number as text": "a number whose last digits are lost: 1.10 is 1.1",
    "cut": "the author's text up to ` #`, where a comment begins",
}

_DATE = re.compile(
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
    r"(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?))?)?\Z"
)
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+\Z")
_OCTAL = re.compile(r"0o[0-7]+\Z")
_SIGNED_HEX = re.compile(r"[-+]0x[0-9a-fA-F_]+\Z")
_POINT_FIRST = re.compile(r"[-+]\.[0-9]+\Z")
_BINARY = re.compile(r"[-+]?0b[01_]+\Z")
_EXPONENT = re.compile(r"(?P<sign>[-+]?)(?P<whole>[0-9]*)(?P<point>\.?)(?P<rest>[0-9]*)[eE](?P<power>[-+]?[0-9]+)\Z")
_UNDERSCORE = re.compile(
    r"[-+]?(?:0x[0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?)\Z"
)
_TRAILING_ZERO = re.compile(r"[-+]?[0-9]+\.[0-9]*0\Z")

# A comment that touches its `#` ("issue #123", "#[test]"); rulers and headings ("#---", "##") are comments.
_TOUCHING = re.compile(r"#[\w\[({<\"'`@$&*!?/\\]")
_PAIRS = (("(", ")"), ("[", "]"), ("{", "}"))
_QUOTES = ("`", '"')
_CLOSINGS = (*(closing for _, closing in _PAIRS), *_QUOTES)
_FROM_HASH = re.compile(r"#[^\r\n]*")  # begins with a character that the engine can search for


@lru_cache(maxsize=4096)  # the same few numbers stand in thousands of files
def judge(text: str) -> tuple[str, str] | None:
    """The kind of a plain scalar that readers disagree on, and a spelling they agree on; None for the others."""
    if text in OLD_BOOLEANS:
        return "boolean word", f'"{text}"'
    if _DATE.match(text):
        return "date", f'"{text}"'
    if _SEXAGESIMAL.match(text):
        return "sexagesimal", f'"{text}"'
    if _LEADING_ZERO.match(text):
        return "leading zero", ""
    if _OCTAL.match(text):
        return "octal", str(int(text, 0))
    if _BINARY.match(text):
        return "binary", f'"{text}"'
    if _SIGNED_HEX.match(text):
        return "signed hexadecimal", f'"{text}"'
    if _POINT_FIRST.match(text):
        return "point first", f"{text[0]}0{text[1:]}"
    exponent = _EXPONENT.match(text)
    if exponent and any(exponent[part] for part in ("whole", "rest")):
        return _exponent(exponent)
    if "_" in text and _UNDERSCORE.match(text):
        plain = text.replace("_", "")
        return "underscore", plain if judge(plain) is None else ""
    if _TRAILING_ZERO.match(text) and str(float(text)) != text:
        return "number as text", f'"{text}"'
    return None


def _exponent(match: re.Match[str]) -> tuple[str, str] | None:
    """YAML 1.1 wants a point in the mantissa, a digit between it and a sign, and a sign in the exponent."""
    power = match["power"]
    bare_point = match["sign"] and not match["whole"]
    if match["point"] and power[0] in "+-" and not bare_point:
        return None
    sign = "" if power[0] in "+-" else "+"
    return "exponent", f"{match['sign']}{match['whole'] or '0'}.{match['rest'] or '0'}e{sign}{power}"


def trailing_comments(text: str) -> Iterator[tuple[int, str]]:
    """The comments behind something on their line that may be the rest of it: where that ends, and the comment."""
    if " #" not in text and "\t#" not in text:
        return  # one file in nine has such a comment; the others need no second look at each `#`
    for match in _FROM_HASH.finditer(text):
        end = match.start()
        while end and text[end - 1] in " \t":
            end -= 1
        if end in (0, match.start()) or text[end - 1] in "\r\n":
            continue  # at the beginning of its line, or inside a word
        comment = match.group()
        if _TOUCHING.match(comment) or any(closing in comment for closing in _CLOSINGS):
            yield end, comment


def is_cut(value: str, comment: str) -> bool:
    """Whether `comment` seems to be the rest of the plain scalar `value`.

    It seems so when the comment touches its `#`, or when the value leaves a bracket or a quote open that the comment
    closes.
    """
    if not value or value[0] in "'\"|>":
        return False
    if _TOUCHING.match(comment):
        return True
    if any(value.count(a) > value.count(b) and comment.count(b) > comment.count(a) for a, b in _PAIRS):
        return True
    return any(value.count(quote) % 2 and comment.count(quote) % 2 for quote in _QUOTES)
