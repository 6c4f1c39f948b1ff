"""Tensors of a forward -> a few figures each, with the sample they were taken over; ten slots for each layer.

A figure without its sample misleads: a standard deviation over seven tokens divided by one over the last token alone
once gave a ratio of 18 where equal samples gave 1.2. So statistics of all tokens and of the last token are two types,
and two statistics are divided only when their samples are the same.

The slots are those of contract trace-ffn-sub-block-v1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pv.model.stages import Stage

if TYPE_CHECKING:
    from pv.backends.protocol import Tap

FIGURES = ("mean", "std", "minimum", "maximum", "zero_share")


class SampleError(ValueError):
    """Statistics of different samples were to be compared; says which samples."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures of one tensor over one sample. Of elements that are finite; `nan` and `infinite` count the others.

    `count`: elements in the sample; `positions`: how many tokens they belong to. Standard deviation of a population.
    """

    count: int
    positions: int
    mean: float
    std: float
    minimum: float
    maximum: float
    nan: int
    infinite: int
    zero_share: float  # of all elements

    @property
    def blank(self) -> bool:
        """Every element is zero: what a buffer holds that nobody wrote."""
        return self.zero_share == 1.0


@dataclass(frozen=True, slots=True)
class AllTokens(Statistics):
    """Over every token of the forward."""


@dataclass(frozen=True, slots=True)
class LastToken(Statistics):
    """Over the last token alone."""


Sample = TypeVar("Sample", AllTokens, LastToken)


def all_tokens(values: NDArray[np.float32]) -> AllTokens:
    """Statistics of a (T, width) tensor over its T tokens. Raises ValueError for an empty one."""
    return AllTokens(*_figures(values), **_counts(values))


def last_token(values: NDArray[np.float32]) -> LastToken:
    """Statistics of the last row of a (T, width) tensor. Raises ValueError for an empty one."""
    last = values[-1:]
    return LastToken(*_figures(last), **_counts(last))


def ratio(one: Sample, other: Sample, figure: str = "std") -> float:
    """`one`'s figure divided by `other`'s. Infinite where only the divisor is zero, 1 where both are.

    Raises SampleError unless both are of one kind of sample with equal counts and positions.
    """
    if figure not in FIGURES:
        raise ValueError(f"expected a figure of {', '.join(FIGURES)}, got {figure!r}")
    require_same_sample(one, other)
    over, under = getattr(one, figure), getattr(other, figure)
    if under == 0:
        return 1.0 if over == 0 else float("inf")
    return float(over / under)


def require_same_sample(one: Statistics, other: Statistics) -> None:
    """Raise SampleError unless two statistics were taken over samples of one kind and one size.

    Figures are of finite elements, so one that is not finite makes a sample smaller.
    """
    sides = [(type(s).__name__, s.positions, s.count, s.nan + s.infinite) for s in (one, other)]
    if sides[0] != sides[1]:
        words = " and ".join(
            f"{kind} ({positions} positions, {count} elements" + (f", {lost} not finite)" if lost else ")")
            for kind, positions, count, lost in sides
        )
        raise SampleError(f"statistics of different samples cannot be compared: {words}")


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """The ten slots of one layer; None where the backend gave nothing."""

    layer: int
    attn_norm: Slot
    """Input of attention, normed: (T, H). Contract trace-ffn-sub-block-v1."""
    qkv: Slot
    """q, k and v side by side, after the bias: (T, (Hq + 2 Hkv) D). Contract trace-ffn-sub-block-v1."""
    attn_out: Slot
    """Attention after the output projection, before the residual: (T, H). Contract trace-ffn-sub-block-v1."""
    ffn_norm: Slot
    """Input of the feed-forward block, normed: (T, H). Contract trace-ffn-sub-block-v1."""
    ffn_gate: Slot
    """Gate product: (T, F). Contract trace-ffn-sub-block-v1."""
    ffn_up: Slot
    """Up product: (T, F). Contract trace-ffn-sub-block-v1."""
    ffn_silu: Slot
    """silu(gate): (T, F). Contract trace-ffn-sub-block-v1."""
    ffn_swigl: Slot
    """silu(gate) · up: (T, F). Contract trace-ffn-sub-block-v1."""
    ffn_out: Slot
    """Down product, before the residual: (T, H). Contract trace-ffn-sub-block-v1."""
    output: Slot
    """The layer's result, after the residual: (T, H). Contract trace-ffn-sub-block-v1."""

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Slots without data, with the reason: not given, or all zeros, which is what an unwritten buffer holds."""
        return tuple(
            f"{name}: not given by the backend" if slot is None else f"{name}: all {slot.all.count} values are zero"
            for name in SLOTS
            if (slot := getattr(self, name)) is None or slot.all.blank
        )


@dataclass(frozen=True, slots=True)
class SlotStatistics:
    """One slot, over all tokens and over the last one."""

    all: AllTokens
    last: LastToken


Slot = SlotStatistics | None

# Slot -> the stage it is taken from; the order is that of the forward and of the printed lines.
SLOTS: Mapping[str, Stage] = {
    "attn_norm": Stage.ATTN_NORM,
    "qkv": Stage.QKV_BIAS,
    "attn_out": Stage.ATTN_OUT,
    "ffn_norm": Stage.FFN_NORM,
    "ffn_gate": Stage.FFN_GATE,
    "ffn_up": Stage.FFN_UP,
    "ffn_silu": Stage.FFN_SILU,
    "ffn_swigl": Stage.FFN_SWIGL,
    "ffn_out": Stage.FFN_OUT,
    "output": Stage.POST_FFN_RESIDUAL,
}
SLOT_OF = {stage: slot for slot, stage in SLOTS.items()}


class StatisticsTap:
    """A `pv.backends.protocol.Tap` that keeps figures and no tensors, for the ten slots of the layers asked for."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self._layers = layers
        self._taken: dict[tuple[int, str], SlotStatistics] = {}

    def wants(self, stage: Stage, layer: int | None) -> bool:
        """Whether this stage fills a slot of a layer that was asked for."""
        return stage in SLOT_OF and layer in self._layers

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        """Reduce a (T, width) tensor to its figures. Raises ValueError when a slot is given twice."""
        if layer is None or stage not in SLOT_OF:
            raise ValueError(f"{stage} of layer {layer} fills no slot")
        key = (layer, SLOT_OF[stage])
        if key in self._taken:
            raise ValueError(f"{stage} of layer {layer} was given twice")
        self._taken[key] = SlotStatistics(all_tokens(values), last_token(values))

    def result(self) -> tuple[LayerStatistics, ...]:
        """The slots of every layer asked for, in order; what was not given is None."""
        return tuple(
            LayerStatistics(layer, **{slot: self._taken.get((layer, slot)) for slot in SLOTS}) for layer in self._layers
        )


def collect(forward: Callable[[Tap], Any], layers: tuple[int, ...]) -> tuple[LayerStatistics, ...]:
    """Statistics of one forward. `forward` runs a session with the tap it is given, for instance a prefill."""
    tap = StatisticsTap(layers)
    forward(tap)
    return tap.result()


def as_data(statistics: Statistics) -> dict[str, Any]:
    """Plain data for JSON, the kind of sample included; what is not finite is a word."""
    data: dict[str, Any] = {"sample": "all" if isinstance(statistics, AllTokens) else "last"}
    for field in fields(statistics):
        value = getattr(statistics, field.name)
        data[field.name] = value if isinstance(value, int) or isfinite(value) else str(value)
    return data


def _figures(values: NDArray[np.float32]) -> tuple[int, int, float, float, float, float]:
    if values.ndim != 2 or not values.size:
        raise ValueError(f"expected a tensor of (tokens, width), got shape {values.shape}")
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        nan = float("nan")
        return values.size, values.shape[0], nan, nan, nan, nan
    return (
        values.size, values.shape[0],
        float(finite.mean()), float(finite.std()), float(finite.min()), float(finite.max()),
    )  # fmt: skip


def _counts(values: NDArray[np.float32]) -> dict[str, Any]:
    return {
        "nan": int(np.isnan(values).sum()),
        "infinite": int(np.isinf(values).sum()),
        "zero_share": float((values == 0).mean()),
    }
