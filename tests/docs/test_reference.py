"""The pages of docs/reference/ are what the code says now."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import click
import pytest

from pv.cli.exit_codes import ExitCode
from pv.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_pages_are_current(reference, capsys):
    assert reference.main(["--check"]) == 0, f"{capsys.readouterr().err}run `make reference`"


def test_a_page_that_is_not_current_is_named_and_mended(reference, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    monkeypatch.setattr(reference, "PAGES", {"codes.md": reference.exit_codes})
    (tmp_path / "codes.md").write_text("of yesterday")
    (tmp_path / "gone.md").write_text("of a part that is no more")
    assert reference.main(["--check"]) == 1
    assert (tmp_path / "codes.md").read_text() == "of yesterday"
    said = capsys.readouterr().err
    assert "codes.md is not current" in said
    assert "gone.md is not of this program" in said
    assert reference.main([]) == 0
    assert (tmp_path / "codes.md").read_text().startswith(reference.HEAD)


def test_every_exit_code_and_every_option_is_told(reference):
    codes = reference.exit_codes()
    assert all(f"| {int(code)} | `{code.name}` |" in codes for code in ExitCode)
    commands = reference.commands()
    for path, command in reference.command_tree():
        assert f" {path}\n" in commands
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[-1] in commands.split(f" {path}\n", 1)[1]
    assert {path.split()[1] for path, _ in reference.command_tree()} == set(COMMANDS)


def test_hidden_options_stay_hidden(reference):
    """`--plant` is for the gate's own tests and for a tutorial, which tells it."""
    assert "--plant" not in reference.commands()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a <b> c < d", "a &lt;b> c < d"),
        ("`a <b>` and <c>", "`a <b>` and &lt;c>"),
    ],
)
def test_words_are_no_html(reference, text, shown):
    assert reference._words(text) == shown


@pytest.mark.parametrize(
    ("comment", "shape"),
    [
        ("(T, (Hq + 2 Hkv) D), before the bias; q", ("`(T, (Hq + 2 Hkv) D)`", "before the bias; q")),
        ("(V,), whole model", ("`(V,)`", "whole model")),
        ("same", ("same", "")),
    ],
)
def test_a_shape_is_read_from_its_comment(reference, comment, shape):
    assert reference._shape(comment) == shape


def test_kinds_of_fields(reference):
    assert reference.kind({"anyOf": [{"type": "string"}, {"type": "null"}]}) == "text"
    assert reference.kind({"type": "array", "items": {"enum": ["a", "b"]}}) == "list of `a`, `b`"
    assert reference.kind({"$ref": "#/$defs/Requires"}) == "[`requires`](#requires)"
    entry = reference.kind({"type": "array", "items": {"$ref": "#/$defs/CellShape"}})
    assert entry == "list, each [an entry of requires.cells](#an-entry-of-requirescells)"
    assert reference.kind({}) == "anything"


def test_every_extra_says_what_it_is_for(reference):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(reference.EXTRAS) == set(project["optional-dependencies"])
    assert f"pip install {project['name']}" in reference.extras()


def test_every_meaning_of_the_claim_is_told(reference):
    """An entry of falsification_tests is what people write by hand: no field of it without a word."""
    for title, least in (("A contract", 15), ("An entry of falsification_tests", 20)):
        part = reference.contract().split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
        rows = [line for line in part.splitlines() if line.startswith("| `")]
        assert len(rows) >= least
        assert not [row for row in rows if row.endswith("|  |")]
