"""A parser's error -> one sentence, a place and a way out."""

from __future__ import annotations

import re
from typing import NamedTuple

import yaml

from pv.document.build import Refused

# What the parser says (a part of its sentence) -> what usually caused it and what to do.
_HINTS: tuple[tuple[str, str], ...] = (
    ("mapping values are not allowed", "a `: ` inside an unquoted value, or wrong indentation: quote the value"),
    ("could not find expected ':'", "a line that is neither `key: value` nor indented under one; check the line above"),
    ("did not find expected key", "wrong indentation, or an unquoted value that begins with a quote: quote it whole"),
    ("did not find expected '-' indicator", "an item of this list is indented differently from the others"),
    ("did not find expected ',' or ']'", "close the bracket, or quote a value that contains one"),
    ("did not find expected ',' or '}'", "close the brace, or quote a value that contains one"),
    ("did not find expected node content", "a value is missing between two separators"),
    ("found unexpected end of stream", "a quote is never closed"),
    ("found unexpected document indicator", "a quote is never closed before this line"),
    (
        "found unknown escape character",
        "in double quotes a backslash begins an escape: double it, or use single quotes",
    ),
    ("found undefined tag handle", "`!` begins a tag: quote the value"),
    ("did not find expected alphabetic or numeric character", "`*` and `&` begin an alias or anchor: quote the value"),
    ("did not find expected whitespace or line break", "quote the value"),
    ("did not find expected <document start>", "a second document or stray text after the first one"),
    ("found incompatible YAML document", "write `%YAML 1.2`, or no directive"),
    ("block sequence entries are not allowed", "put the list on its own line, indented under its key"),
    ("block mapping entries are not allowed", "put the mapping on its own line, indented under its key"),
    ("found invalid Unicode character escape code", "half of a surrogate pair is no character"),
)
_CANNOT_START = "found character that cannot start any token"
_TAB_WORDS = ("found a tab character", "found a tab")
# What YAML 1.2 lets a text contain (5.1), the byte order mark excepted.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class SyntaxProblem(NamedTuple):
    """What is wrong with the text, as fields of a diagnostic."""

    code: str
    message: str
    start: int
    end: int
    hint: str


def explain(error: yaml.YAMLError | Refused, text: str) -> SyntaxProblem:
    """The diagnostic's fields for whatever stopped the parser."""
    if isinstance(error, Refused):
        return SyntaxProblem(error.code, error.message, error.start, error.end, error.hint)
    conflict = _conflict(text)
    if conflict >= 0:
        hint = "`pv settle` resolves what pv wrote on both sides; what people wrote there is for you to join"
        return SyntaxProblem("PV105", "a merge left its conflict here", conflict, conflict + 7, hint)
    forbidden = _FORBIDDEN.search(text)
    if forbidden is not None and not isinstance(error, yaml.MarkedYAMLError):
        name = f"U+{ord(forbidden.group()):04X}"
        kind = "a NUL character" if forbidden.group() == "\0" else f"the control character {name}"
        return SyntaxProblem("PV104", f"{kind} in the text", forbidden.start(), forbidden.end(), "remove it")
    if not isinstance(error, yaml.MarkedYAMLError):
        return SyntaxProblem("PV105", _sentence(str(error)), 0, 0, "")
    mark = error.problem_mark or error.context_mark
    at = min(mark.index, len(text)) if mark is not None else 0
    said = error.problem or error.context or "not YAML"
    return SyntaxProblem("PV105", _message(said, error, text, at), at, min(at + 1, len(text)), _hint(said, text, at))


def _conflict(text: str) -> int:
    """Where the first conflict of a merge begins; -1 where there is none."""
    start = 0 if text.startswith("<<<<<<< ") else text.find("\n<<<<<<< ") + 1
    if not text.startswith("<<<<<<< ", start):
        return -1
    middle = text.find("\n=======", start)
    return start if middle >= 0 and text.find("\n>>>>>>>", middle) >= 0 else -1


def _message(said: str, error: yaml.MarkedYAMLError, text: str, at: int) -> str:
    if _CANNOT_START in said:
        return f"a value cannot begin with {_name(text[at : at + 1])}"
    context = ""
    if error.context and error.context_mark is not None and error.context not in said:
        context = f" {error.context} that began at line {error.context_mark.line + 1}"
    return _sentence(said + context)


def _hint(said: str, text: str, at: int) -> str:
    if text[at : at + 1] == "\t" or any(words in said for words in _TAB_WORDS):
        return "indent with spaces"
    if _CANNOT_START in said:
        return "quote the value"
    return next((hint for words, hint in _HINTS if words in said), "")


def _name(character: str) -> str:
    return {"\t": "a tab", "": "nothing"}.get(character, f"`{character}`")


def _sentence(words: str) -> str:
    return " ".join(words.split())
