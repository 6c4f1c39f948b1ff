"""Plain scalars by the core schema of YAML 1.2.2, section 10.3.2, and the tests of its table."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pv.document.scalars import NUMERIC_STARTS, SHORT, WORDS, resolve_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, None) for word in ("null", "Null", "NULL", "~", "")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, word) for word in ("nULL", "tRUE", "yes", "No", "ON", "off", "y", "N", "<<", "=", "truely", "nul")),
        ("0", 0),
        ("-0", 0),
        ("+12", 12),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0x1F", "-0x1F"),
        ("0b11", "0b11"),
        ("0o8", "0o8"),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5e+3", -500.0),
        ("+1.10", 1.1),
        (".", "."),
        ("-", "-"),
        ("+", "+"),
        ("1e", "1e"),
        ("e3", "e3"),
        ("1.2.3", "1.2.3"),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("+.INF", math.inf),
        ("inf", "inf"),
        ("2026-04-28", "2026-04-28"),
        ("12:30:00", "12:30:00"),
        ("٣", "٣"),  # a digit to Python's \\d, not to YAML
        ("1\n", "1\n"),
    ],
)
def test_a_plain_scalar_resolves_by_the_core_schema(text: str, value: Any) -> None:
    resolved = resolve_plain(text)
    assert (resolved, type(resolved)) == (value, type(value))


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan_is_a_number(text: str) -> None:
    value = resolve_plain(text)
    assert isinstance(value, float)
    assert math.isnan(value)
    assert resolve_plain(".nAn") == ".nAn"


def test_a_number_too_long_for_python_stays_text() -> None:
    digits = "9" * 100_000
    assert resolve_plain(digits) == digits
    assert resolve_plain("0x" + "f" * 100_000) == "0x" + "f" * 100_000
    assert resolve_plain("9" * 3000) == int("9" * 3000)


def test_the_quick_look_misses_no_scalar_that_is_not_text() -> None:
    """The reader looks twice only at SHORT words and at NUMERIC_STARTS."""
    assert all(len(word) < SHORT for word in WORDS)
    for word in ("null", "~", "", "true", "FALSE"):
        assert word in WORDS
    for number in ("1", "-1", "+1", ".5", ".inf", ".nan", "0x1"):
        assert number[0] in NUMERIC_STARTS
