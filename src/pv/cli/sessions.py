"""Which session a command looks into: a backend as it is, or one with a defect planted for a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pv.backends.protocol import Session
    from pv.model.open import Model

BANNER = "pv: TEST ONLY: the defect {name!r} is planted in the {backend} backend; nothing of this run may be believed"


def open_session(model: Model, backend: str, dtype: str = "float32") -> Session:
    """The session of one backend, ungated: looking into it is how one learns why the gate rejects it."""
    from pv.backends.registry import BACKENDS, opener

    if backend not in BACKENDS:
        raise click.UsageError(f"expected a backend of {', '.join(BACKENDS)}, got {backend!r}")
    if dtype == "float64":
        import torch

        from pv.backends.cpu import open_cpu

        return open_cpu(model.weights.dequantized(), dtype=torch.float64)
    return opener(backend)(model.weights)


def open_suspect(model: Model, backend: str, plant: str | None) -> Session:
    """A backend with a planted defect where a test asks for one, which a banner tells. Raises UsageError."""
    if plant is None:
        return open_session(model, backend)
    click.echo(BANNER.format(name=plant, backend=backend), err=True)
    if "@" in plant:
        from pv.trace.grafts import PlantedSession

        return PlantedSession(open_session(model, backend), scaled_at(plant))
    from pv.parity.defects import DEFECTS

    if plant not in DEFECTS:
        raise click.UsageError(f"unknown defect {plant!r}, expected STAGE@LAYER*FACTOR or one of {', '.join(DEFECTS)}")
    if backend == "cpu":  # the torch defects, run by the same code on the CPU
        return DEFECTS[plant].open("cuda", model.weights, device="cpu")
    return DEFECTS[plant].open(backend, model.weights)


def scaled_at(text: str) -> Callable[[Any, int | None, Any], Any]:
    """`ffn_gate@3*1.05` -> a graft that multiplies that stage of that layer. Raises SelectionError and UsageError."""
    from pv.model.stages import FIRST_LAYER_ONLY, WHOLE_MODEL
    from pv.trace.stages import parse_stage

    name, _, rest = text.partition("@")
    layer_text, _, factor_text = rest.partition("*")
    stage = parse_stage(name)
    try:
        layer, factor = int(layer_text), float(factor_text or 1.05)
    except ValueError:
        raise click.UsageError(f"expected STAGE@LAYER*FACTOR such as ffn_gate@3*1.05, got {text!r}") from None
    anywhere = stage in WHOLE_MODEL or stage in FIRST_LAYER_ONLY

    def plant(at: Any, of_layer: int | None, x: Any) -> Any:
        return x * factor if at is stage and (anywhere or of_layer == layer) else x

    return plant
