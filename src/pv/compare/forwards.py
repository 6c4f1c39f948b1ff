"""Two forwards of the same tokens -> a finding for each stage of each layer: where they part, and how far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pv.compare.tensors import Judge, TensorDiff, TensorRef, Unpaired, diff_tensor, held
from pv.model.stages import FIRST_LAYER_ONLY, Stage

if TYPE_CHECKING:
    import numpy as np

    from pv.model.taps import Tap

Forward = Callable[["Tap"], object]  # runs a session with the tap it is given, for instance a prefill


@dataclass(frozen=True, slots=True)
class ForwardDiff:
    """A finding for each tensor that both forwards gave, in the order of the test's; and what one side alone gave."""

    found: tuple[TensorDiff, ...]
    unpaired: Unpaired

    @property
    def ok(self) -> bool:
        """Whether no bound is broken and nothing stands alone."""
        return all(diff.ok for diff in self.found) and not any(self.unpaired)


def diff_forwards(reference: Forward, test: Forward, judge: Judge) -> ForwardDiff:
    """Run both, the reference first, and compare every stage of the second as it arrives.

    The reference's tensors are held in memory (float32, all stages of all layers), the test's one at a time. Raises
    ShapeError when a stage differs in shape, and whatever the forwards raise.
    """
    kept = _Kept()
    reference(kept)
    compared = _Compared(kept.tensors, judge)
    test(compared)
    return ForwardDiff(tuple(compared.found), Unpaired(tuple(kept.tensors), tuple(compared.alone)))


def name_of(stage: Stage, layer: int | None) -> str:
    """`layer-3/ffn_gate`, `lm_head`: as in a capture."""
    kept = 0 if stage in FIRST_LAYER_ONLY else layer
    return str(stage) if kept is None else f"layer-{kept}/{stage}"


class _Kept:
    """A tap that holds everything."""

    def __init__(self) -> None:
        self.tensors: dict[str, TensorRef] = {}

    def wants(self, stage: Stage, layer: int | None) -> bool:
        return True

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        name = name_of(stage, layer)
        self.tensors[name] = held(name, values, stage, layer)


class _Compared:
    """A tap that compares with what was kept, and lets go of it."""

    def __init__(self, reference: dict[str, TensorRef], judge: Judge) -> None:
        self.found: list[TensorDiff] = []
        self.alone: list[str] = []
        self._reference, self._judge = reference, judge

    def wants(self, stage: Stage, layer: int | None) -> bool:
        return True

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        name = name_of(stage, layer)
        kept = self._reference.pop(name, None)
        if kept is None:
            self.alone.append(name)
        else:
            self.found.append(diff_tensor(kept, held(name, values, stage, layer), self._judge))
