"""The `pv` program: a click group that imports a command's module only when that command is used."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from typing import NamedTuple

import click

from pv import __version__
from pv.cli.exit_codes import ExitCode


class Entry(NamedTuple):
    """Where a command lives (`module:attribute`) and the line that `pv --help` shows without importing it."""

    target: str
    help: str
    section: str


ENGINE = "Engine"
COMMANDS: dict[str, Entry] = {
    "init": Entry("pv.cli.init:init", "Prepare a project: settings and editor support.", "Begin"),
    "new": Entry("pv.cli.new:new", "Write a contract or a falsifier that works at once.", "Begin"),
    "env": Entry("pv.cli.env:env", "What this machine has, and why something is not there.", "Begin"),
    "validate": Entry("pv.cli.validate:validate", "Check contracts: shape, references, statuses.", "Check"),
    "falsify": Entry("pv.cli.falsify:falsify", "Run the code that tries to break claims.", "Check"),
    "gate": Entry("pv.cli.gate:gate", "May this be merged? What CI asks.", "Check"),
    "replay": Entry("pv.cli.replay:replay", "Run a record again and compare every figure.", "Check"),
    "status": Entry("pv.cli.status:status", "Where every claim stands, the tally, ship percentages.", "Look"),
    "list": Entry("pv.cli.list_:list_", "List falsifiers by contract, status, device.", "Look"),
    "explain": Entry("pv.cli.explain:explain", "Explain a rule code or a falsifier.", "Look"),
    "why-not": Entry("pv.cli.why_not:why_not", "What is missing for a rung.", "Look"),
    "report": Entry("pv.cli.report:report", "One page of everything: HTML, or Markdown for a pull request.", "Look"),
    "trend": Entry("pv.cli.trend:trend", "A claim's measurements over time, and what moved.", "Look"),
    "matrix": Entry("pv.cli.matrix:matrix", "Contracts over devices and subjects.", "Look"),
    "graph": Entry("pv.cli.graph:graph", "What depends on what, and what a change touches.", "Look"),
    "diff": Entry("pv.cli.diff:diff", "Compare two contracts, captures, tensors or models.", "Evidence and change"),
    "settle": Entry("pv.cli.settle:settle", "Write the statuses that the records support.", "Evidence and change"),
    "verify": Entry("pv.cli.verify:verify", "Re-judge every record offline; run nothing.", "Evidence and change"),
    "evidence": Entry(
        "pv.cli.evidence:evidence", "Show, carry, sign and prune evidence records.", "Evidence and change"
    ),
    "retract": Entry("pv.cli.retract:retract", "Invalidate a record, with a reason.", "Evidence and change"),
    "mv": Entry("pv.cli.mv:mv", "Rename a claim or a contract; its evidence comes along.", "Evidence and change"),
    "schema": Entry("pv.cli.schema:schema", "Print or write the JSON Schemas.", "Evidence and change"),
    "run": Entry("pv.cli.run:run", "Generate text with a model.", ENGINE),
    "trace": Entry("pv.cli.trace:trace", "Capture the tensors of a forward, or its statistics.", ENGINE),
    "bisect": Entry("pv.cli.bisect:bisect", "Find the stage where two forwards part.", ENGINE),
    "parity": Entry("pv.cli.parity:parity", "Compare a GPU backend with the CPU; measure the gate's power.", ENGINE),
    "kld": Entry("pv.cli.kld:kld", "Divergence of two models over a text.", ENGINE),
    "model": Entry("pv.cli.model:model", "Look at, convert and make models.", ENGINE),
    "distill": Entry("pv.cli.distill:distill", "Distil a teacher into a student.", ENGINE),
    "completion": Entry("pv.cli.completion:completion", "Shell completion script.", "Shell"),
}


class LazyGroup(click.Group):
    """Resolves a command by the table above; help texts come from the table, so help imports nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=3)
            hint = f" Did you mean {' or '.join(near)}?" if near else " `pv --help` lists the commands."
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(n, e.help) for n, e in COMMANDS.items() if e.section == section])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, "-V", "--version", prog_name="pv")
def pv() -> None:
    """Keep claims about machine-learning code honest.

    A claim is a falsifier in a YAML contract. `pv validate` checks contracts; `pv falsify` runs the code that tries to
    break their claims and writes the status that the run earned; `pv gate` is the question that CI asks.

    \b
    New here?  pv init; pv new contract NAME; pv falsify --all
    """


def _collect_seldom(command: list[str]) -> None:
    """Let the garbage collector look less often at the many small values of a contract command, which hold no circles:
    a fifth less time over thousands of contracts, measured, and none at the end, where it looks for what the process
    gives back anyway. The engine's tensors are worth the usual looks.
    """
    if command and command[0] in COMMANDS and COMMANDS[command[0]].section != ENGINE:
        gc.set_threshold(100_000, 20, 50)
        atexit.register(gc.freeze)


def main() -> None:
    """Entry point of the console scripts: Ctrl-C is 130, a closed pipe is quiet, a bug is 3 with a traceback."""
    # Read by OpenMP when torch loads: threads that spin for each other collapse (30 times slower, measured) beside
    # another busy process; threads that sleep do not. Children inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _collect_seldom(sys.argv[1:2])
    try:
        result = pv.main(standalone_mode=False, prog_name="pv")
        sys.exit(result if isinstance(result, int) else ExitCode.OK)  # click returns the code of `ctx.exit(code)`
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(ExitCode.OK)
    except Exception:
        import traceback

        traceback.print_exc()
        click.echo("pv: this is a bug in pv; please report the lines above.", err=True)
        sys.exit(ExitCode.FAILURE)
