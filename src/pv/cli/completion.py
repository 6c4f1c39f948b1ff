"""`pv completion SHELL`: the script that makes a shell complete commands, options, ids and codes."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.option("--program", default="pv", show_default=True, help="Complete this name (`provable` is the other one).")
def completion(shell: str, program: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      pv completion bash >> ~/.bashrc
      pv completion zsh > ~/.zfunc/_pv
      pv completion fish > ~/.config/fish/completions/pv.fish
    """
    from pv.cli.main import pv

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"expected one of {', '.join(SHELLS)}, found {shell}")
    # Click reads the variable of the name that its main() was given, which is `pv` under either name.
    click.echo(found(pv, {}, program, "_PV_COMPLETE").source())
