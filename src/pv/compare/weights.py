"""Two models' weights -> a finding for each tensor: shape, type, and how the numbers differ once both are float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pv.compare.metrics import TensorMetrics, compare
from pv.model.weights import Weight, Weights


@dataclass(frozen=True, slots=True)
class WeightDiff:
    """One tensor of two models, types as stored. `metrics` is None when it cannot be compared; `problem` says why."""

    name: str
    reference_type: str
    test_type: str
    metrics: TensorMetrics | None
    problem: str = ""

    @property
    def same(self) -> bool:
        """Equal numbers, bit for bit, once both are float32."""
        return self.metrics is not None and self.metrics.identical


def diff_weights(reference: Weights, test: Weights) -> Iterator[WeightDiff]:
    """A finding for each tensor of either model, one at a time. The rows of a matrix are judged apart."""
    names = dict.fromkeys((*reference.tensors, *test.tensors))
    for name in names:
        yield _one(name, reference.tensors.get(name), test.tensors.get(name))


def _one(name: str, reference: Weight | None, test: Weight | None) -> WeightDiff:
    types = (str(reference.type) if reference else "", str(test.type) if test else "")
    if reference is None or test is None:
        return WeightDiff(name, *types, None, f"only in the {'test' if reference is None else 'reference'}")
    if reference.shape != test.shape:
        return WeightDiff(name, *types, None, f"shape {reference.shape} in the reference, {test.shape} in the test")
    return WeightDiff(name, *types, compare(test.dense().numpy(), reference.dense().numpy(), reference.shape))
