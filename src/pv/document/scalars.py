"""The text of a plain scalar -> its value by the core schema of YAML 1.2.2 (section 10.3.2)."""

from __future__ import annotations

import re
from typing import Final

Scalar = str | int | float | bool | None


class _Merge:
    """The one value that a plain `<<` has while a mapping is being read."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<<"


MERGE: Final = _Merge()


def _spellings(word: str) -> tuple[str, str, str]:
    return word, word.capitalize(), word.upper()


# The words that a YAML 1.2 reader does not take as text.
CONSTANTS: Final[dict[str, Scalar]] = {
    "": None,
    "~": None,
    **dict.fromkeys(_spellings("null"), None),
    **dict.fromkeys(_spellings("true"), True),
    **dict.fromkeys(_spellings("false"), False),
}
# The words that a YAML 1.1 reader takes as a boolean and a YAML 1.2 reader as text.
OLD_BOOLEANS: Final = frozenset(s for word in ("yes", "no", "on", "off", "y", "n") for s in _spellings(word))
# Every word that needs a second look; all are shorter than SHORT characters, which spares the others the look-up.
WORDS: Final = frozenset(CONSTANTS) | OLD_BOOLEANS | {"<<"}
SHORT: Final = 6
# First characters of every number, and of the dates, times and old octals that 1.1 and 1.2 read differently.
NUMERIC_STARTS: Final = frozenset("0123456789+-.")

_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_INFINITY = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z")
_BASED = re.compile(r"0(?:o[0-7]+|x[0-9a-fA-F]+)\Z")
_NAN = frozenset({".nan", ".NaN", ".NAN"})
# CPython refuses to convert longer ones (a guard against quadratic time); they stay text, which no number field takes.
_MOST_DIGITS = 4000


def resolve_plain(text: str) -> Scalar:
    """The value of a plain scalar. Dates, times and `<<` are text."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if text[0] not in NUMERIC_STARTS:
        return text
    return resolve_number(text)


def resolve_number(text: str) -> str | int | float:
    """The number that `text` spells, or `text` itself; for texts that begin with one of NUMERIC_STARTS."""
    if _INTEGER.match(text):
        return int(text) if len(text) < _MOST_DIGITS else text
    if _FLOAT.match(text):
        return float(text)
    if _BASED.match(text):
        return int(text, 0) if len(text) < _MOST_DIGITS else text
    if _INFINITY.match(text):
        return float("-inf" if text[0] == "-" else "inf")
    if text in _NAN:
        return float("nan")
    return text
