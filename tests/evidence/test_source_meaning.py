"""What counts of a Python file, and that every supported Python counts the same."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.evidence import source_meaning
from pv.evidence.source_meaning import ImportLine, imports, meaning

VECTORS = Path(__file__).parent / "vectors" / "source_meaning.json"
SOURCE = '''\
"""Module."""
import os  # a comment


class Shape:
    """Class."""

    sides = 4  # four

    def area(self, x: float) -> float:
        """Method."""
        return x * self.sides


def greet(name):
    "Docstring in single quotes."
    text = f"hello {name!r:>{len(name)}} {'x' if name else f'{name}'}"
    return text + "a string # not a comment" + \\
        """not a docstring"""
'''

SAME = [
    ('"""Module."""\n', ""),
    ('"""Module."""', '"""Other words,\nover lines."""'),
    ('    """Class."""\n', ""),
    ('        """Method."""\n', '        """Méthode 数 — ü."""\n'),
    ('    "Docstring in single quotes."\n', ""),
    ("  # a comment", ""),
    ("  # four", "    # vier"),
    ("import os", "\n\n# lines\n\nimport os"),
    ("x * self.sides", "x  *  self.sides"),
    ("x * self.sides\n", "x * self.sides   \n"),
    ("\n", "\r\n"),
    ("    ", "        "),
]
OTHER = [
    ("sides = 4", "sides = 5"),
    ("x: float", "x: int"),
    ("x * self.sides", "x + self.sides"),
    ("import os", "import sys"),
    ("hello {name!r", "hallo {name!r"),
    ("{name!r:", "{name!s:"),
    ("f'{name}'", "f'{text}'"),
    ("a string # not", "a string # hardly"),
    ('"""not a docstring"""', '"""nothing"""'),
    ("        return x", "        if x:\n            pass\n        return x"),
]


@pytest.mark.parametrize(("old", "new"), SAME)
def test_comments_docstrings_and_spacing_do_not_count(old, new):
    assert old in SOURCE
    assert meaning(SOURCE.replace(old, new).encode()) == meaning(SOURCE.encode())


@pytest.mark.parametrize(("old", "new"), OTHER)
def test_code_counts(old, new):
    assert old in SOURCE
    assert meaning(SOURCE.replace(old, new).encode()) != meaning(SOURCE.encode())


def test_a_docstring_after_letters_of_several_bytes_is_found():
    assert meaning("class Ééé: 'doc'; x = 1\n".encode()) == meaning("class Ééé: 'other'; x = 1\n".encode())


def test_indentation_counts():
    assert meaning(b"if a:\n    b()\n    c()\n") != meaning(b"if a:\n    b()\nc()\n")


def test_line_ends_count():
    assert meaning(b"a\n(b)\n") != meaning(b"a(b)\n")


def test_a_byte_order_mark_and_another_encoding_do_not_count():
    text = "name = 'é'\n"
    cookie = "# -*- coding: latin-1 -*-\n"
    assert meaning(b"\xef\xbb\xbf" + text.encode()) == meaning(text.encode())
    assert meaning((cookie + text).encode("latin-1")) == meaning(text.encode())


@pytest.mark.parametrize("source", [b"def (", b"\xff\xfe\x00", b"'''", b"x = 1\n\x00", b"(" * 500])
def test_what_this_python_cannot_read_counts_by_its_bytes(source):
    assert meaning(source) != meaning(source + b" ")
    assert imports(source) == ()


@given(st.text(st.characters(exclude_characters="\r\n\\\"'\x00", exclude_categories=["Cs"]), max_size=30))
def test_any_comment_and_any_docstring_leaves_the_meaning_alone(words):
    for old, new in (("# four", f"# {words}"), ('"""Method."""', f'"""{words}."""')):
        assert meaning(SOURCE.replace(old, new).encode()) == meaning(SOURCE.encode())


def test_imports_are_found_everywhere():
    source = b"""
import a.b as c, d
from . import e
from ..f.g import h, i as j
from k import *
def late():
    import m
    if True:
        from n import o
"""
    assert set(imports(source)) == {
        ImportLine(0, "a.b", ()), ImportLine(0, "d", ()), ImportLine(1, "", ("e",)), ImportLine(2, "f.g", ("h", "i")),
        ImportLine(0, "k", ("*",)), ImportLine(0, "m", ()), ImportLine(0, "n", ("o",)),
    }  # fmt: skip


def test_the_digests_are_frozen():
    """Worked examples. If this fails, every record in the world goes stale."""
    for vector in json.loads(VECTORS.read_text()):
        assert meaning(vector["source"].encode()) == vector["sha256"], vector["source"]


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_supported_python_counts_the_same(version):
    python = _interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine: the digests of this one were checked above")
    program = (
        "import json, runpy, sys\n"
        "module = runpy.run_path(sys.argv[1])\n"
        "vectors = json.load(open(sys.argv[2], encoding='utf-8'))\n"
        "print(json.dumps([module['meaning'](v['source'].encode()) for v in vectors]))\n"
    )
    done = subprocess.run(
        [python, "-I", "-c", program, source_meaning.__file__, str(VECTORS)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [vector["sha256"] for vector in json.loads(VECTORS.read_text())]


def _interpreter(version: str) -> str | None:
    """A Python of that version that really starts (a version manager's shim may be there without one)."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(root.glob(f"{version}.*/bin/python")))]
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        candidates = [sys.executable]
    starts = [c for c in candidates if c and subprocess.run([c, "-c", ""], capture_output=True).returncode == 0]
    return starts[0] if starts else None


NESTED = """\
import asyncio

def outer():
    if 1:
        class A: ...
    elif 2:
        def b(): ...
    else:
        async def c(): ...
    for _ in ():
        def d(): ...
    else:
        def e(): ...
    while 0:
        def f(): ...
    else:
        def g(): ...
    try:
        def h(): ...
    except ValueError:
        def i(): ...
    else:
        def j(): ...
    finally:
        def k(): ...
    with open("x"):
        def l(): ...
    match 1:
        case 1:
            def m():
                class N:
                    def o(self): ...
    try:
        ...
    except* ValueError:
        def p(): ...
    async def q():
        async for _ in x:
            def r(): ...
        async with x:
            def s(): ...
"""


@pytest.mark.parametrize(
    "source", [NESTED, *(path.read_text() for path in Path(source_meaning.__file__).parent.glob("*.py"))]
)
def test_every_definition_is_met_in_the_order_of_a_walk_over_everything(source):
    tree = ast.parse(source)
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    every = [node for node in ast.walk(tree) if isinstance(node, definitions)]
    assert [node for node in source_meaning.statements(tree) if isinstance(node, definitions)] == every
    assert len(every) == 20 or source is not NESTED
