"""The canonical form is that of the package `rfc8785`, byte for byte and refusal for refusal."""

from __future__ import annotations

from enum import StrEnum

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from pv.evidence.canonical import dumps


class Word(StrEnum):
    """A text that is not plainly a text."""

    ONE = 'o"n\\e'


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**55), 2**55),
    st.floats(),
    st.floats(1e-8, 1e-3),
    st.floats(1e14, 1e23),
    st.text(),
    st.text(st.characters(codec=None), max_size=3),
    st.sampled_from([Word.ONE, "\ud800", "\x7f\u2028", b"bytes", -0.0, 5e-324, 1e21, 1e-6, 9007199254740993.0]),
)
keys = st.text(max_size=4) | st.sampled_from(["\U0001f600", "\ue000", "\ufb33", "€", Word.ONE, 1, None])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5) | st.tuples(inner, inner),
    max_leaves=25,
)


def told(form, value) -> bytes | str:
    try:
        return form(value)
    except rfc8785.CanonicalizationError as error:
        return f"{type(error).__name__}: {error}"


@given(values)
@example({"\U0001f600": 1, "\ufb33": 2})  # as UTF-16 the first comes first, as characters the second
@example([1e-7, 1e-6, 123456789012345680000.0, 1e21, -0.0, 0.0, 5.0, -1.5e-9])
@example(float("nan"))
@example({"a": {"b": ['\x00\x1f\x7f"\\/\b\f\n\r\t']}})
@example("\ud800")
@example(2**53)
@example(["\ud800", 2**53])  # of two reasons the first
def test_it_is_what_the_package_writes_or_refuses(value):
    assert told(dumps, value) == told(rfc8785.dumps, value)


@pytest.mark.parametrize("value", [{}, [], (), "", 0, -1, True, None, {"b": [], "a": {}}])
def test_the_easy_ones_need_no_call_of_the_package(value, monkeypatch):
    expected = rfc8785.dumps(value)
    monkeypatch.setattr(rfc8785, "dumps", None)
    assert dumps(value) == expected
