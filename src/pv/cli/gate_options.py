"""The start gate's options, shared by the commands that serve tokens, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pv.backends.protocol import Session
    from pv.backends.registry import Choice, Open
    from pv.model.open import Model
    from pv.model.weights import Weights

Command = TypeVar("Command", bound=Callable[..., Any])
BANNER = "pv: TEST ONLY: the defect {name!r} is planted in the {backend} backend; nothing of this run may be believed"


@dataclass(frozen=True, slots=True)
class Start:
    """How `pv run` comes to a session. `plants`: planted defects by backend, for tests."""

    steps: int | None = None
    enabled: bool = True
    remember: bool = True
    detail: bool = False
    receipt: Path | None = None
    dtype: str = "float32"
    plants: tuple[tuple[str, str], ...] = ()

    def serve(self, model: Model, prompt: Sequence[int], choice: Choice, say: Callable[[str], None]) -> Session:
        """The session that serves `prompt`; the receipt is written where asked. Raises BackendError, OSError."""
        from pv.parity.receipt import Receipt
        from pv.parity.start import GateOptions, serve, steps_from

        remember = self.remember and not self.plants
        options = GateOptions(steps_from(os.environ, self.steps), self.enabled, remember, self.detail)
        for backend, name in self.plants:
            say(BANNER.format(name=name, backend=backend))
        receipt = Receipt()

        def write() -> None:
            if self.receipt is not None:
                receipt.write(self.receipt)

        try:
            return serve(
                model.weights, prompt, choice, options,
                say=say, digest=lambda: model.digest, open_backend=self._opener(), receipt=receipt, later=write,
            )  # fmt: skip
        finally:
            write()

    def _opener(self) -> Open | None:
        """What stands in for the table's openers: planted defects, or CUDA in half precision; None for neither."""
        if self.plants:
            from pv.parity.defects import planted_opener

            return planted_opener(dict(self.plants))
        return None if self.dtype == "float32" else _open_in_half


def gate_options(command: Command) -> Command:
    """Add the gate's options to a command, which hands them to `start_of` as one mapping."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def start_of(given: Mapping[str, Any], choice: Choice, *, detail: bool) -> Start:
    """The parsed options as a `Start`. Raises UsageError for a defect that does not exist."""
    plants = tuple(planted(text) for text in given["plant_defect"])
    return Start(
        steps=given["parity_steps"],
        enabled=not given["no_gate"],
        remember=not given["fresh"],
        detail=detail,
        receipt=given["receipt"],
        dtype=given["dtype"],
        plants=() if choice.no_gpu else plants,
    )


def planted(text: str) -> tuple[str, str]:
    """`BACKEND=DEFECT` -> both names. Raises UsageError for what does not exist."""
    from pv.backends.registry import BACKENDS
    from pv.parity.defects import DEFECTS

    backend, _, name = text.partition("=")
    if backend not in BACKENDS or name not in DEFECTS:
        raise click.UsageError(f"expected BACKEND=DEFECT, got {text!r}; defects are {', '.join(DEFECTS)}")
    return backend, name


def _open_in_half(name: str, weights: Weights) -> Session:
    """CUDA in bfloat16; the other backends compute in float32 only."""
    from pv.backends.registry import opener

    if name != "cuda":
        return opener(name)(weights)
    import torch

    from pv.backends.cuda import CudaOptions, open_cuda

    return open_cuda(weights, CudaOptions(dtype=torch.bfloat16))


_OPTIONS: Sequence[Callable[[Any], Any]] = (
    click.option(
        "--parity-steps", type=click.IntRange(1, 16), help="Steps of the start gate.  [default: PV_PARITY_STEPS, or 3]"
    ),
    click.option("--no-gate", is_flag=True, help="Serve a GPU without comparing it with the CPU; this is printed."),
    click.option("--fresh", is_flag=True, help="Compare even if the very same comparison was accepted before."),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="How CUDA computes; the other backends compute in float32.",
    ),
    click.option("--receipt", type=click.Path(path_type=Path), help="Write how the backend was chosen, as JSON."),
    click.option("--plant-defect", multiple=True, hidden=True, metavar="BACKEND=DEFECT", help="For tests only."),
)
