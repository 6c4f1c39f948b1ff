"""A name is defined where Python defines it, and nowhere else."""

from __future__ import annotations

import pytest

from pv.rules.python_names import defined_in

SOURCE = '''
"""def in_a_docstring(): ..."""
# def in_a_comment(): ...
text = "def in_a_string(): ..."
import os as imported
from os import path

LIMIT: int = 3
A, (B, *C) = 1, (2, 3)
first = second = 0


def function():
    def inner(): ...
    local = 1


async def coroutine(): ...


class Stage(Enum):
    LM_HEAD = "lm_head"
    field: int

    def method(self):
        self.attribute = 1

    class Nested:
        def deep(self): ...


if True:
    def conditional(): ...
else:
    OTHERWISE = 1
try:
    with open("x") as stream:
        WITHIN = 1
except OSError as error:
    FALLBACK = 2
finally:
    LAST = 3
for index in range(3):
    LOOPED = index
match LIMIT:
    case 3:
        MATCHED = 1
'''
DEFINED = {
    "text", "LIMIT", "A", "B", "first", "second", "function", "coroutine", "Stage", "Stage.LM_HEAD", "Stage.field",
    "Stage.method", "Stage.Nested", "Stage.Nested.deep", "conditional", "OTHERWISE", "WITHIN", "FALLBACK", "LAST",
    "LOOPED", "MATCHED",
}  # fmt: skip


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    return path


def test_what_is_defined(module):
    assert defined_in(module).qualified >= DEFINED


@pytest.mark.parametrize(
    "name",
    [
        "in_a_docstring", "in_a_comment", "in_a_string", "inner", "local", "method", "LM_HEAD", "attribute", "imported",
        "path",
    ],
)  # fmt: skip
def test_what_is_not(module, name):
    assert name not in defined_in(module).qualified


def test_a_changed_file_is_read_again(module):
    assert "fresh" not in defined_in(module).qualified
    module.write_text(SOURCE + "\ndef fresh(): ...\n")
    assert "fresh" in defined_in(module).qualified


@pytest.mark.parametrize("content", [b"def broken(:\n", b"\x00\n", b"x = " + b"(" * 5000])
def test_a_file_that_cannot_be_parsed_says_why(tmp_path, content):
    path = tmp_path / "m.py"
    path.write_bytes(content)
    names = defined_in(path)
    assert names.qualified == frozenset()
    assert names.why_not.startswith("is no Python")


def test_a_file_that_is_not_there(tmp_path):
    assert defined_in(tmp_path / "gone.py").why_not.startswith("cannot be read")
