"""What a capture is to hold: stages x layers x heads x steps, decided before a model runs.

A plan asks for what it names and for nothing else: a tap built from it is inert everywhere else, so that the memory
of a run grows only by what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from pv.model.stages import FIRST_LAYER_ONLY, WHOLE_MODEL, Stage
from pv.trace.aprt import HEADER
from pv.trace.stages import (
    ATTENTION_MAPS,
    SelectionError,
    StageChoice,
    checked,
    file_layer,
    file_path,
    in_order,
    stage_shape,
)

if TYPE_CHECKING:
    from pv.model.spec import ModelSpec

MAP_BOUND = 256 << 20  # bytes of one attention map (Hq, T, S) that may be captured without naming heads


class ExpectedFile(NamedTuple):
    """A file that the plan promises."""

    path: str  # relative to the capture, posix
    stage: Stage
    layer: int | None
    step: int | None
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of the APRT file."""
        return HEADER.size + 4 * prod(self.shape)


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages in canonical order, layers, heads of attention maps (None: all), prefill or not, decode steps."""

    stages: tuple[Stage, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...] | None = None
    steps: tuple[int, ...] = ()
    prefill: bool = True

    def wants(self, stage: Stage, layer: int | None) -> bool:
        """Whether this stage of this layer is to be captured."""
        if stage not in self.stages:
            return False
        return stage in WHOLE_MODEL or stage in FIRST_LAYER_ONLY or layer in self.layers

    def files(self, spec: ModelSpec, prompt: int) -> tuple[ExpectedFile, ...]:
        """Every file of the capture for a prompt of `prompt` tokens, in computation order."""
        return _files(self, spec, prompt)

    def places(self) -> list[tuple[Stage, int | None]]:
        """(stage, layer) of every tensor of one forward, in computation order."""
        whole = [stage for stage in self.stages if stage in WHOLE_MODEL]
        first = [stage for stage in self.stages if stage in FIRST_LAYER_ONLY]
        inner = [stage for stage in self.stages if stage not in WHOLE_MODEL and stage not in FIRST_LAYER_ONLY]
        return [
            *((stage, 0) for stage in first),
            *((stage, layer) for layer in self.layers for stage in inner),
            *((stage, None) for stage in whole),
        ]


@lru_cache(maxsize=8)  # asked for by every part of a capture, and the same each time
def _files(plan: Plan, spec: ModelSpec, prompt: int) -> tuple[ExpectedFile, ...]:
    rounds: list[tuple[int | None, int, int]] = [(None, prompt, prompt)] if plan.prefill else []
    rounds += [(k, 1, prompt + k) for k in plan.steps]
    heads = None if plan.heads is None else len(plan.heads)
    found = []
    for step, new, seen in rounds:
        shapes = {s: stage_shape(spec, s, new, seen, heads if s in ATTENTION_MAPS else None) for s in plan.stages}
        for stage, layer in plan.places():
            path = file_path(stage, layer, step)
            found.append(ExpectedFile(path, stage, file_layer(stage, layer), step, shapes[stage]))
    return tuple(found)


def make_plan(
    choice: StageChoice,
    spec: ModelSpec,
    *,
    layers: tuple[int, ...] | None = None,
    heads: tuple[int, ...] | None = None,
    steps: tuple[int, ...] = (),
) -> Plan:
    """The plan of a choice for a model. `layers` and `heads` None mean all; whole-model stages have no layer to choose.

    With decode steps the prefill is left out: a plan is of one or of the other.

    The embedding is kept in `layer-0`, once. It is captured whenever it was named; through `all` only with layer 0,
    so that `all --layer 3` writes no other layer. Raises SelectionError for a layer or a head the model does not have.
    """
    kept_layers = checked(layers, spec.layers, "layer")
    kept_heads = None if heads is None else checked(heads, spec.heads, "head")
    stages = choice.stages
    if 0 not in kept_layers:
        stages = in_order(s for s in stages if s not in FIRST_LAYER_ONLY or s in choice.named)
    return Plan(stages, kept_layers, kept_heads, tuple(sorted(set(steps))), prefill=not steps)


def refuse_oversized_maps(plan: Plan, spec: ModelSpec, prompt: int) -> None:
    """Raise SelectionError when an attention map would exceed MAP_BOUND and no heads were named."""
    if plan.heads is not None:
        return
    for file in plan.files(spec, prompt):
        if file.stage in ATTENTION_MAPS and file.size > MAP_BOUND:
            per_head = 4 * file.shape[1] * file.shape[2]
            raise SelectionError(
                f"{file.stage} of {spec.heads} heads over {file.shape[2]} tokens needs {file.size} bytes a layer, more "
                f"than the bound of {MAP_BOUND}; name the heads to keep, {per_head} bytes each, for instance --heads 0"
            )
