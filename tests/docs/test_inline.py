"""Commands named in running text: each exists, with every option it is given; files named there exist too."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from pv.cli.main import pv
from tests.docs.pages import ROOT, Mark, blocks, pages, steps

SPAN = re.compile(r"(?<!`)`(?!`)([^`\n]+)`(?!`)")
TREES = ("benchmarks", "contracts", "docs", "examples", "falsifiers", "fixtures", "schemas", "scripts", "src", "tests")
DEFAULTS = {"parity check": "parity teacher"}  # a command that need not be named
PAGES = [str(path) for path in pages()]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    for block in blocks(text):
        text = text.replace(block.text, "")
    return text.replace("```", "")


def spans(text: str) -> list[str]:
    """Inline code outside of fenced blocks."""
    return SPAN.findall(prose(text))


def complaint(line: str) -> str:
    """What is wrong with a `pv …` in running text, or nothing. `…` and `...` stand for more words."""
    try:
        words = [word for word in shlex.split(line.replace("…", " ").replace("...", " ")) if word != "…"][1:]
    except ValueError as error:
        return str(error)
    command: click.Command = pv
    context = click.Context(pv, info_name="pv")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if re.fullmatch(r"[A-Z|]+|\[.*", name):  # `pv COMMAND --help`, `pv model [OPTIONS] …`
            return ""
        below = [command.get_command(context, part) for part in name.split("|")]
        if None in below:
            return f"no command {name!r}"
        command = below[0] or command
        context = click.Context(command, info_name=name, parent=context)
    known = {
        option for parameter in command.get_params(context) for option in (*parameter.opts, *parameter.secondary_opts)
    }
    options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    unknown = [word for word in options if word not in known and word[:2] not in known]
    return f"no option {', '.join(unknown)} of {context.command_path}" if unknown else ""


@pytest.mark.parametrize("name", PAGES)
def test_code_in_running_text_stands_on_one_line(name):
    """Else nobody can copy it, and the tests below would not see it."""
    assert [line for line in prose((ROOT / name).read_text("utf-8")).splitlines() if line.count("`") % 2] == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_waits_to_be_filled_in(name):
    text = prose((ROOT / name).read_text("utf-8"))
    assert re.findall(r"^[A-Z]+(?:_[A-Z]+)*$|\b(?:TODO|FIXME|TBD|XXX)\b", text, re.MULTILINE) == []


@pytest.mark.parametrize("name", PAGES)
def test_commands_in_running_text_exist(name):
    wrong = {
        span: said
        for span in spans((ROOT / name).read_text("utf-8"))
        if re.match(r"pv [\w-]", span) and " | " not in span and (said := complaint(span))
    }
    assert wrong == {}


SCRIPT = re.compile(r"python ((?:benchmarks|scripts|docs|fixtures)/\S+\.py)(.*)")


@pytest.mark.parametrize("name", PAGES)
def test_scripts_in_running_text_exist_with_their_options(name):
    for span in spans((ROOT / name).read_text("utf-8")):
        if match := SCRIPT.match(span):
            source = (ROOT / match[1]).read_text("utf-8")
            for option in re.findall(r"--[a-z-]+", match[2]):
                assert f'"{option}"' in source, f"{name}: {span}"


@pytest.mark.parametrize("name", [name for name in PAGES if name != "docs/reference/commands.md"])
def test_files_in_running_text_exist(name):
    named = re.compile(rf"(?<![\w/.-])(?:{'|'.join(TREES)})/[\w./-]*\w\.(?:py|md|sh|yaml|json|toml|svg|txt)\b")
    text = (ROOT / name).read_text("utf-8")
    found = {match for span in spans(text) for match in named.findall(span)}
    base = (ROOT / name).parent if name.startswith("examples/") else ROOT
    own = set(re.findall(r"<!-- (?:file|replace): (\S+?):? ", text)) | {"falsifiers/my_contract_v1.py"}
    assert {path for path in found - own if not (base / path).exists()} <= of_the_reader(text)


def of_the_reader(text: str) -> set[str]:
    """Files that a page tells the reader to write, or that a command of it writes."""
    return set(re.findall(r"(?:written|extended): (\S+)", text))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pv validate", ""),
        ("pv evidence show RECORD", ""),
        ("pv evidence export|import", ""),
        ("pv COMMAND --help", ""),
        ("pv falsify -j N", ""),
        ("pv falsfy", "no command 'falsfy'"),
        ("pv evidence shw", "no command 'shw'"),
        ("pv validate --strict", "no option --strict of pv validate"),
        ("pv run --no-gpus", "no option --no-gpus of pv run"),
    ],
)
def test_a_command_that_does_not_exist_is_seen(line, said):
    assert complaint(line) == said


def test_spans_are_found_outside_of_blocks(tmp_path):
    assert spans("a `pv x` b\n```text\n`pv y`\n```\n``pv z``\n") == ["pv x"]


def test_every_command_of_the_program_is_run_on_some_page():
    lines = [
        command.line
        for name in PAGES
        for step in steps((ROOT / name).read_text("utf-8"), name)
        for command in step.commands
        if step.mark is not Mark.NEVER
    ]
    context = click.Context(pv, info_name="pv")
    for name in pv.list_commands(context):
        command = pv.get_command(context, name)
        parts = [f"{name} {part}" for part in command.commands] if isinstance(command, click.Group) else [name]
        for path in parts:
            said = DEFAULTS.get(path, path)
            assert any(f"pv {said}" in line for line in lines), f"no page runs `pv {path}`"


def test_the_pages_are_many():
    assert len(PAGES) > 20
    assert Path("docs/index.md") in pages()
