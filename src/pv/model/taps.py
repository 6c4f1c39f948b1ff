"""What looks into a forward: a tap takes copies of tensors, a graft replaces them. No import of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pv.model.stages import Stage

if TYPE_CHECKING:
    import numpy as np


class Tap(Protocol):
    """Where a forward hands out its tensors. Inert unless asked: a stage nobody wants is never copied."""

    def wants(self, stage: Stage, layer: int | None) -> bool:
        """Whether `take` should be called for this stage of this layer (None: whole-model stage)."""
        ...

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        """Receive a float32, C-contiguous copy, shaped as `pv.model.stages` says (T counts the new tokens)."""
        ...


Graft = Callable[[Stage, "int | None", Any], Any]  # (stage, layer, tensor) -> the tensor to go on with
