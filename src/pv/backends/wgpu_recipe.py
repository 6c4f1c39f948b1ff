"""What a pass is made of: the facts of a step, a dispatch, the recipe of all shaders, and the bench they are made on.

Legend: T new tokens, S slots to attend to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import Any, NamedTuple

import numpy as np

from pv.backends.wgpu_device import Device, Guarded, Kernel, Region, sources
from pv.model.spec import ModelSpec
from pv.model.stages import Stage
from pv.model.weights import Weights

Groups = tuple[int, int, int]


class Step(NamedTuple):
    """The facts of one pass, as the shaders' `Step`: they change from token to token, nothing else does."""

    tokens: int  # T
    start: int  # position of the first new token
    keys: int  # S
    slot: int  # cache slot of the first new token
    capacity: int  # slots of the cache

    def packed(self) -> np.ndarray:
        """As the uniform buffer holds it, padded to 32 bytes."""
        return np.array([*self, 0, 0, 0], np.uint32)


class Place(NamedTuple):
    """Where a stage's tensor lies: columns from `column` on of rows of `stride` floats, or a whole buffer."""

    region: Region
    shape: Callable[[Step], tuple[int, ...]]  # of the stage
    stride: int = 0  # floats in a row of the buffer; 0: the buffer holds nothing else
    column: int = 0

    def floats(self, step: Step) -> int:
        """How many floats of the buffer belong to this step."""
        return step.tokens * self.stride if self.stride else int(np.prod(self.shape(step)))

    def view(self, values: np.ndarray, step: Step) -> np.ndarray:
        """The stage's tensor as a view of the buffer's floats."""
        if not self.stride:
            return values.reshape(self.shape(step))
        width = self.shape(step)[-1]
        return values.reshape(step.tokens, self.stride)[:, self.column : self.column + width]


@dataclass(frozen=True, slots=True)
class Op:
    """One dispatch. `stages`: the tensors that are complete once it is done."""

    kernel: Kernel
    bind_group: Any
    groups: Callable[[Step], Groups]
    layer: int | None
    stages: tuple[tuple[Stage, Place], ...] = ()


Stages = Sequence[tuple[Stage, Place]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the backend is made of. Production uses `RECIPE`; a planted defect is a changed copy of it.

    `sources`: texts of shaders and of their parts, by name. `epsilon`, `scale`: RMSNorm's epsilon and the factor of the
    scores, from the spec. `step`: what the shaders are told of a pass. `keep`: whether a dispatch is made. `weights`:
    the model before upload. `rope`: cosine and sine tables as uploaded. `logits`: the logits as handed out. `begin`:
    called before every pass.
    """

    sources: Mapping[str, str] = field(default_factory=sources)
    epsilon: Callable[[ModelSpec], float] = lambda spec: spec.rms_eps
    scale: Callable[[ModelSpec], float] = lambda spec: 1 / sqrt(spec.head_dim)
    step: Callable[[Step], Step] = lambda step: step
    keep: Callable[[Op, Step], bool] | None = None
    weights: Callable[[Weights], Weights] = lambda weights: weights
    rope: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] = lambda cos, sin: (cos, sin)
    logits: Callable[[np.ndarray, Step], np.ndarray] = lambda logits, _: logits
    begin: Callable[[Step], None] = lambda _: None


RECIPE = Recipe()


class Bench:
    """Makes the buffers and dispatches of one plan: at most `rows` new tokens."""

    def __init__(self, device: Device, recipe: Recipe, rows: int, *, guard: bool = False) -> None:
        self.device, self.recipe, self.rows = device, recipe, rows
        self._guard = guard
        self.guarded: list[Guarded] = []
        self.step = device.allocate("step", 32, uniform=True)

    def buffer(self, name: str, floats: int) -> Region:
        """Room for so many floats, with sentinels around it where asked."""
        region = self.device.allocate(name, 4 * floats, guard=self._guard)
        if self._guard:
            self.guarded.append(Guarded(name, region))
        return region

    def op(
        self,
        parts: str | tuple[str, ...],
        constants: Mapping[str, int | float],
        regions: list[Region],
        groups: Callable[[Step], Groups],
        layer: int | None,
        stages: Stages = (),
    ) -> Op:
        """A dispatch of the shader that consists of `parts`, behind what all shaders share."""
        names = ("common", parts) if isinstance(parts, str) else ("common", *parts)
        source = "".join(self.recipe.sources[name] for name in names)
        kernel = self.device.kernel(names[-1], source, constants)
        return Op(kernel, self.device.bind(kernel, regions), groups, layer, tuple(stages))


def columns(width: int) -> Callable[[Step], Groups]:
    """One invocation for each of `width` columns of each token."""
    return lambda step: (ceil(width / 64), step.tokens, 1)
