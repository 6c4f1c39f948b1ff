"""What can be wrong with a model, as one family of errors: a sentence, and what to do next."""

from __future__ import annotations


class ModelError(Exception):
    """A model cannot be used as asked. `hint` says what to do next; `damaged` tells a broken file from a wrong call."""

    damaged = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message + (f"; {hint}" if hint else ""))
        self.message, self.hint = message, hint


class SpecError(ModelError):
    """`config.json` is missing, unreadable, contradicts itself, or describes a model that pv does not run."""

    damaged = True


class WeightsError(ModelError):
    """The weights are missing, truncated, misshapen, or not the ones that the configuration announces."""

    damaged = True


class QuantError(ModelError):
    """Numbers that a stored type cannot hold: not finite, out of its range, or no whole number of blocks."""


class TokenizerError(ModelError):
    """The tokenizer file is missing, truncated, or does not fit the model."""

    damaged = True


class FormatError(ModelError):
    """The path is no model that pv reads: nothing there, another format, a pickle."""


class ContextError(ModelError):
    """The tokens asked for do not fit the model's context or its vocabulary."""
