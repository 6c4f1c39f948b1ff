"""The command tree as data: from the live program, from the registry contract, and as the text of that contract.

`python falsifiers/_cli.py` prints the `commands:` section of contracts/pv-cli-commands-v1.yaml for the live tree: paste
it there after a command or an option has changed on purpose, and say so in the contract's changelog.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml

REGISTRY = "contracts/pv-cli-commands-v1.yaml"


class Surface(NamedTuple):
    """What a user can write after one command: its arguments and options, each as one text."""

    arguments: tuple[str, ...]
    options: tuple[str, ...]


Tree = dict[str, Surface]  # "pv evidence show" -> its surface


class Difference(NamedTuple):
    """Between the live tree and the registry: commands only there, commands only here, parameters that differ."""

    unregistered: list[str]
    missing: list[str]
    changed: list[str]


def live_tree() -> Tree:
    """The commands of the running program, groups and their members, in the order of `pv --help`."""
    from pv.cli.main import pv

    tree: Tree = {}
    _walk(pv, "pv", click.Context(pv, info_name="pv"), tree)
    return tree


def registered_tree(project: Path) -> Tree:
    """The commands as the registry contract lists them; read without pv."""
    data = yaml.safe_load((project / REGISTRY).read_text("utf-8"))
    return {
        name: Surface(tuple(said.get("arguments", ())), tuple(said.get("options", ())))
        for name, said in data["commands"].items()
    }


def registered_codes(project: Path) -> Mapping[int, str]:
    """Exit code -> name, as the registry contract lists them."""
    data = yaml.safe_load((project / REGISTRY).read_text("utf-8"))
    return {int(code): str(name) for name, code in data["exit_codes"].items()}


def difference(live: Tree, registered: Tree) -> Difference:
    """Both ways."""
    changed = []
    for name in sorted(live.keys() & registered.keys()):
        here, there = set(sum(live[name], ())), set(sum(registered[name], ()))
        changed += [f"{name} {parameter}: not registered" for parameter in sorted(here - there)]
        changed += [f"{name} {parameter}: registered, not there" for parameter in sorted(there - here)]
    return Difference(sorted(live.keys() - registered.keys()), sorted(registered.keys() - live.keys()), changed)


def as_yaml(tree: Tree) -> str:
    """The `commands:` section of the registry."""
    lines = ["commands:"]
    for name, surface in tree.items():
        lines.append(f"  {name}:")
        for word, parameters in surface._asdict().items():
            if parameters:
                lines.append(f"    {word}:")
                lines += [f"      - {json.dumps(parameter, ensure_ascii=False)}" for parameter in parameters]
        if not any(surface):
            lines[-1] += " {}"
    return "\n".join(lines)


def _walk(command: click.Command, name: str, context: click.Context, tree: Tree) -> None:
    arguments = tuple(_argument(p) for p in command.params if isinstance(p, click.Argument))
    options = tuple(sorted(_option(p) for p in command.params if isinstance(p, click.Option)))
    tree[name] = Surface(arguments, options)
    if isinstance(command, click.Group):
        for member in command.list_commands(context):
            found = command.get_command(context, member)
            if found is not None and not found.hidden:
                _walk(found, f"{name} {member}", click.Context(found, context, member), tree)


def _argument(argument: click.Argument) -> str:
    """`PATHS...`, `[MODEL]`, `SHELL bash|zsh|fish`."""
    shown = f"{(argument.name or '').upper()}{'...' if argument.nargs == -1 else ''}"
    return f"{shown if argument.required else f'[{shown}]'}{_values(argument)}"


def _option(option: click.Option) -> str:
    """`--all`, `-j/--jobs INTEGER`, `--id TEXT, repeatable`, `--output-format text|json|junit`."""
    names = "/".join([*sorted(option.opts, key=lambda word: (word.startswith("--"), word)), *option.secondary_opts])
    value = "" if option.is_flag else _values(option) or f" {_kind(option.type)}"
    return f"{names}{value}{', repeatable' if option.multiple else ''}{', required' if option.required else ''}"


def _values(parameter: click.Parameter) -> str:
    choices: Any = getattr(parameter.type, "choices", None) or getattr(parameter.type, "words", None)
    return f" {'|'.join(map(str, choices))}" if choices else ""


def _kind(kind: click.ParamType[Any]) -> str:
    """Files and folders are paths to whoever types them; ranges are numbers."""
    word = kind.name.split()[0].upper()
    return {"FILE": "PATH", "FILENAME": "PATH", "DIRECTORY": "PATH"}.get(word, word)


if __name__ == "__main__":
    print(as_yaml(live_tree()))
