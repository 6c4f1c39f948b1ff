"""The exit codes of every command: one table, documented in docs/, each with a test."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a finished `pv` tells the shell."""

    OK = 0
    FINDINGS = 1  # errors in a contract, or a claim was falsified
    USAGE = 2  # the call or the configuration is off
    FAILURE = 3  # a check crashed, a write was refused, or pv itself failed
    BLOCKED = 4  # something asked for cannot run here (`--allow-blocked` makes it 0)
    NOTHING = 5  # nothing was selected: zero files or zero checks is never success
    INTERRUPTED = 130  # Ctrl-C
