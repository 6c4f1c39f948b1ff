"""Two sets of named tensors -> one finding for each: how it differs, and which bounds that breaks.

Tensors are opened one at a time and read through, so two sets larger than memory can be compared. What stands on one
side only is reported by name; it is never skipped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pv.compare import metrics
from pv.compare.metrics import F32, LogitMetrics, ShapeError, Spread, TensorMetrics, Worst
from pv.compare.thresholds import Breach, Row, Rule, breaches, breaches_of_rules
from pv.model.stages import Stage

# Stages made of few roundings for each element: the distance in units of the last place means something there.
ELEMENT_WISE = frozenset(
    {
        Stage.ATTN_NORM, Stage.QKV_BIAS, Stage.Q_POST_ROPE, Stage.K_POST_ROPE, Stage.POST_ATTN_RESIDUAL, Stage.FFN_NORM,
        Stage.FFN_SILU, Stage.FFN_SWIGL, Stage.POST_FFN_RESIDUAL, Stage.FINAL_NORM,
    }
)  # fmt: skip
# Stages of the residual stream, where one massive channel can hide all others.
RESIDUAL = frozenset({Stage.EMBEDDING, Stage.POST_ATTN_RESIDUAL, Stage.POST_FFN_RESIDUAL})


class OpenTensor(Protocol):
    """Values at hand: flat float32, and a way to say which of them are no longer needed."""

    @property
    def values(self) -> F32:
        """Shape (count,)."""
        ...

    def forget(self, first: int, last: int) -> None:
        """Elements [first, last) have been used."""
        ...


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor that can be opened: its name, what it is, its shape."""

    name: str
    stage: Stage | None
    layer: int | None
    step: int | None
    shape: tuple[int, ...]
    open: Callable[[], OpenTensor]


class Held(NamedTuple):
    """An array in memory as an `OpenTensor`."""

    values: F32

    def forget(self, first: int, last: int) -> None:
        """Memory stays as it is."""


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """What was found of one tensor. `logits` for lm_head; `details` and `largest` where they were asked for."""

    name: str
    stage: Stage | None
    layer: int | None
    step: int | None
    metrics: TensorMetrics
    logits: LogitMetrics | None
    breaches: tuple[Breach, ...]
    largest: tuple[Worst, ...] = ()
    details: Details | None = None

    @property
    def ok(self) -> bool:
        """Whether no bound is broken."""
        return not self.breaches


class Details(NamedTuple):
    """The slower figures. `without_massive`: worst rel_l2 without the largest channels, residual stages only."""

    spread: Spread
    without_massive: float | None


Judge = Callable[[str, "Stage | None", TensorMetrics, "LogitMetrics | None"], tuple[Breach, ...]]


class Unpaired(NamedTuple):
    """Names that stand on one side only."""

    reference_only: tuple[str, ...]
    test_only: tuple[str, ...]


def judge_by(row: Row) -> Judge:
    """The bounds of a row, for stages in a whole forward."""
    return lambda _name, stage, found, logits: breaches(row, stage, found, logits)


def judge_by_rules(rules: Sequence[Rule]) -> Judge:
    """The user's own tolerances; a name that none matches raises UnmatchedError."""
    return lambda name, _stage, found, _logits: breaches_of_rules(rules, name, found)


def judge_identical(
    _name: str, _stage: Stage | None, found: TensorMetrics, _logits: LogitMetrics | None
) -> tuple[Breach, ...]:
    """Any difference in bits is a breach."""
    return () if found.identical else (Breach("difference", found.max_abs, "==", 0.0),)


def unpaired(reference: Mapping[str, TensorRef], test: Mapping[str, TensorRef]) -> Unpaired:
    """What cannot be compared because the other side does not have it."""
    return Unpaired(
        tuple(name for name in reference if name not in test), tuple(name for name in test if name not in reference)
    )


def diff_tensors(
    reference: Mapping[str, TensorRef],
    test: Mapping[str, TensorRef],
    judge: Judge,
    *,
    largest: int = 0,
    details: bool = False,
) -> Iterator[TensorDiff]:
    """A finding for each name on both sides, in the reference's order. Raises ShapeError naming the tensor.

    `largest`: how many of the largest differences to list. `unpaired` says what this leaves out.
    """
    for name, one in reference.items():
        if name in test:
            yield diff_tensor(one, test[name], judge, largest=largest, details=details)


def diff_tensor(
    reference: TensorRef, test: TensorRef, judge: Judge, *, largest: int = 0, details: bool = False
) -> TensorDiff:
    """Compare one tensor. Raises ShapeError when sizes, layers or steps differ; nothing is cut or broadcast."""
    for what in ("shape", "layer", "step"):
        r, t = getattr(reference, what), getattr(test, what)
        if r != t:
            raise ShapeError(
                f"cannot compare {reference.name} with {test.name}: {what} {r} in the reference, {t} in the test"
            )
    r, x = reference.open(), test.open()

    def forget(first: int, last: int) -> None:
        r.forget(first, last)
        x.forget(first, last)

    found = metrics.compare(x.values, r.values, reference.shape, None if details or largest else forget)
    logits = metrics.compare_logits(x.values, r.values) if reference.stage is Stage.LM_HEAD else None
    return TensorDiff(
        reference.name,
        reference.stage,
        reference.layer,
        reference.step,
        found,
        logits,
        judge(reference.name, reference.stage, found, logits),
        tuple(metrics.largest(x.values, r.values, reference.shape, largest)) if largest else (),
        _details(reference, x.values, r.values) if details else None,
    )


def held(
    name: str, values: np.ndarray, stage: Stage | None = None, layer: int | None = None, step: int | None = None
) -> TensorRef:
    """An array in memory as a reference to itself. Values are float32 or are rounded to it."""
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    return TensorRef(name, stage, layer, step, tuple(values.shape), lambda: Held(flat))


def _details(reference: TensorRef, x: F32, r: F32) -> Details:
    without = None
    if reference.stage in RESIDUAL:
        without = metrics.without_massive(metrics.as_rows(x, reference.shape), metrics.as_rows(r, reference.shape))
    return Details(metrics.spread(x, r), without)
