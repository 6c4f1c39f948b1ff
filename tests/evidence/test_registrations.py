"""Ids in registrations are replaced there and nowhere else; and back again to the very same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.evidence.registrations import registered, renamed
from pv.evidence.source_meaning import meaning

MODULE = '''\
"""FALSIFY-X-001 is attacked here: naïve, but honest."""
import pv.falsify as pf
from pv.falsify import falsifier as attack, harness

OTHER = "FALSIFY-X-001"


@attack("FALSIFY-X-001", level="live", controls=[pf.Control("FALSIFY-X-001", plant=None, breaks="m")])
@pf.falsifier(  'FALSIFY-X-002'  , level="live", controls=[])
def ä(ctx): return OTHER == "FALSIFY-X-001"  # FALSIFY-X-001


@harness(id=r"""KH-X-001""", bound=3, controls=[])
def b(ctx): ...


def falsifier(name): return lambda f: f
@falsifier("FALSIFY-X-001")
def c(ctx): ...
'''


def ids(text):
    return [each.id for each in registered(text)]


def test_only_the_literal_of_the_registration_is_replaced():
    after = renamed(MODULE.encode(), {"FALSIFY-X-001": "FALSIFY-NEW-7"}).decode()
    assert after == MODULE.replace('@attack("FALSIFY-X-001"', '@attack("FALSIFY-NEW-7"')


def test_every_way_to_write_a_registration():
    text = MODULE.replace("def falsifier(name)", "def other(name)").replace("@falsifier(", "@other(")
    names = {"FALSIFY-X-002": "A", "KH-X-001": "B"}
    after = renamed(text.encode(), names).decode()
    assert "@pf.falsifier(  'A'  ," in after
    assert 'id=r"""B"""' in after
    assert ids(after) == ["FALSIFY-X-001", "A", "B"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_marks_stay(newline, start):
    source = start + MODULE.replace("\n", newline).encode()
    after = renamed(source, {"FALSIFY-X-001": "N-1"})
    assert after == source.replace(b'@attack("FALSIFY-X-001"', b'@attack("N-1"')


def test_another_encoding_stays():
    source = ("# -*- coding: latin-1 -*-\n" + MODULE).encode("latin-1")
    assert renamed(source, {"KH-X-001": "N"}) == source.replace(b"KH-X-001", b"N")


@pytest.mark.parametrize("literal", ['"FALSIFY-" "X-001"', '"FALSIFY-\\x58-001"', 'f"FALSIFY-X-001"', "NAME"])
def test_an_id_in_pieces_is_left_alone(literal):
    source = f"from pv.falsify import falsifier\n\n@falsifier({literal})\ndef a(ctx): ...\n".encode()
    assert renamed(source, {"FALSIFY-X-001": "N"}) == source


@pytest.mark.parametrize("source", [b"def (", b"\xff\xfe\x00", b"# coding: nonsense\n", b""])
def test_what_is_no_module_is_left_alone(source):
    assert renamed(source, {"FALSIFY-X-001": "N"}) == source


ID = st.from_regex(r"[A-Z][A-Z0-9-]{0,12}", fullmatch=True)


@given(old=ID, new=ID, quote=st.sampled_from(["'", '"', "'''", '"""']), blanks=st.sampled_from(["", " ", "\n    "]))
def test_there_and_back_is_the_same_module(old, new, quote, blanks):
    """The law that keeps evidence fresh: read under its first id, a renamed module means what it meant."""
    text = f"from pv.falsify import falsifier\n\n@falsifier({blanks}{quote}{old}{quote}{blanks})\ndef a(ctx): ...\n"
    there = renamed(text.encode(), {old: new})
    assert ids(there.decode()) == [new]
    assert renamed(there, {new: old}) == text.encode()
    assert (meaning(there) == meaning(text.encode())) == (old == new)
