"""The public commands in this process, so that a planted defect reaches the very code that a user's command runs."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

import click


class Called(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


def call(*arguments: object) -> Called:
    """`pv ARGUMENTS…` in this process; a refusal is a code and a sentence, a crash is a crash of the check."""
    from pv.cli.main import pv as command

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command.main([str(a) for a in arguments], standalone_mode=False, prog_name="pv")
        except click.ClickException as refused:
            return Called(refused.exit_code, out.getvalue(), err.getvalue() + refused.format_message())
    return Called(int(code or 0), out.getvalue(), err.getvalue())


def must(called: Called) -> Called:
    """A step that is not under test has to work."""
    if called.code:
        raise RuntimeError(f"exit {called.code}: {called.err}{called.out}")
    return called
