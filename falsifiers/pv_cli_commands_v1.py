"""The command line is what its registry says: every command, every option, every exit code, both ways."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from pv.cli import main as program
from pv.cli.exit_codes import ExitCode
from pv.cli.main import LazyGroup, main
from pv.falsify import Control, Measurement, falsifier, measure

from ._cli import difference, live_tree, registered_codes, registered_tree
from ._self import GOOD, House, planted

# --- 001: the tree ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_more_command(ctx: Any) -> Iterator[None]:
    """Somebody adds a command and tells nobody."""
    program.COMMANDS["shout"] = program.COMMANDS["env"]
    try:
        yield
    finally:
        del program.COMMANDS["shout"]


@contextlib.contextmanager
def one_command_less(ctx: Any) -> Iterator[None]:
    """A command goes away under its users."""
    kept = dict(program.COMMANDS)
    del program.COMMANDS["verify"]
    try:
        yield
    finally:
        program.COMMANDS.clear()
        program.COMMANDS.update(kept)


@contextlib.contextmanager
def one_option_renamed(ctx: Any) -> Iterator[None]:
    """`--allow-blocked` of `pv falsify` becomes `--permit-blocked`."""
    command = program.pv.get_command(click.Context(program.pv), "falsify")
    assert command is not None
    option = next(parameter for parameter in command.params if parameter.name == "allow_blocked")
    kept, option.opts = option.opts, ["--permit-blocked"]
    try:
        yield
    finally:
        option.opts = kept


@falsifier(
    "FALSIFY-PV-CLI-001",
    level="live",
    controls=[
        Control("a command that nobody registered", plant=one_more_command, breaks="unregistered"),
        Control("a registered command is gone", plant=one_command_less, breaks="missing"),
        Control("an option is renamed", plant=one_option_renamed, breaks="changed"),
    ],
    attacks=[LazyGroup],
    data=["src/pv/cli/*.py"],  # not the contract: pv writes into it what this very check earns
)
def the_tree_is_the_registry(ctx: Any) -> list[Measurement]:
    """The live click tree, walked to its leaves, against the registry contract."""
    live, registered = live_tree(), registered_tree(ctx.project)
    found = difference(live, registered)
    for kind, names in found._asdict().items():
        for name in names[:20]:
            ctx.note(f"{kind}: {name}")
    return [
        measure("unregistered", len(found.unregistered), unit="commands", n=len(live)),
        measure("missing", len(found.missing), unit="commands", n=len(registered)),
        measure("changed", len(found.changed), unit="parameters", n=sum(len(a) + len(o) for a, o in live.values())),
        measure("commands", len(live), unit="commands"),
    ]


# --- 002: the exit codes ----------------------------------------------------------------------------------------------

ALWAYS_WELL = """
    import sys
    import pv.cli.main as program

    real = program.main

    def cheerful():
        try:
            real()
        except SystemExit:
            sys.exit(0)

    program.main = cheerful
"""
CRASH = "os.kill(os.getpid(), signal.SIGKILL)"
BLOCKED = "from pv.falsify import Blocked\nraise Blocked('a fixture')"
INTERRUPT = "os.kill(os.getppid(), signal.SIGINT)\ntime.sleep(30)"


@falsifier(
    "FALSIFY-PV-CLI-002",
    level="live",
    controls=[Control("every command ends well", plant=planted(ALWAYS_WELL), breaks="wrong")],
    attacks=[main, ExitCode],
    timeout=120,
)
def exit_codes_mean_what_is_registered(ctx: Any) -> list[Measurement]:
    """Each exit code brought about once through the public command; and the enumeration against the registry."""
    registered = registered_codes(ctx.project)
    house = House(ctx)
    house.write(FALSIFY_X_001=GOOD, FALSIFY_X_003=CRASH, FALSIFY_X_004=BLOCKED, FALSIFY_X_130=INTERRUPT)
    (house.root / "unsound.yaml").write_text("metadata: 1\n")
    calls = {
        "OK": ["falsify", "--id", "FALSIFY-X-001"],
        "FINDINGS": ["validate", "unsound.yaml"],
        "USAGE": ["no-such-command"],
        "FAILURE": ["falsify", "--id", "FALSIFY-X-003"],
        "BLOCKED": ["falsify", "--id", "FALSIFY-X-004"],
        "NOTHING": ["list", "-k", "nothing"],
        "INTERRUPTED": ["falsify", "--id", "FALSIFY-X-130"],
    }
    wrong = []
    for name, call in calls.items():
        code = house.pv(*call).returncode
        if registered.get(code) != name:
            wrong.append(name)
            ctx.note(f"pv {' '.join(call)} exits {code}, registered as {registered.get(code, 'nothing')}, not {name}")
    live = {code.value: code.name for code in ExitCode}
    return [
        measure("wrong", len(wrong), unit="codes", n=len(calls)),
        measure("tried", len(calls), unit="codes"),
        measure("unregistered", len(set(live.items()) ^ set(registered.items())), unit="codes"),
    ]
