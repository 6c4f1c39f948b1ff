"""A wrong tensor beside the right one -> what it looks like, in words: scaled, shifted, another stage, another head …

Each hypothesis says how the right tensor would look if it held; one is reported when it explains nearly all of the
error. They are hints for a person: the verdict never depends on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pv.compare.metrics import F64

EXPLAINED = 0.05  # a hypothesis holds when it leaves less than this share of the error


class Widths(NamedTuple):
    """Heads side by side in the last axis, where there are any: how many, and how wide."""

    heads: int
    head_dim: int


def diagnose(
    found: NDArray[np.float32],
    expected: NDArray[np.float32],
    *,
    heads: Widths | None = None,
    siblings: Mapping[str, NDArray[np.float32]] | None = None,
) -> tuple[str, ...]:
    """What `found` looks like beside `expected`, both (T, width) or (Hq, T, S); "" hypotheses are left out.

    `siblings`: other tensors it might have been mistaken for, by name; those of another shape are ignored.
    """
    x, r = found.astype(np.float64), expected.astype(np.float64)
    if not np.isfinite(x).all():
        return (_first_odd(found),)
    error = float(np.linalg.norm(x - r))
    if error == 0:
        return ()
    words = [
        word for word, guess in _guesses(x, r, heads, siblings or {}) if np.linalg.norm(x - guess) < EXPLAINED * error
    ]
    return (*words[:1], *_place(x, r, heads))


def concentration(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Share of the error in the worst tenth of the channels (at least one): 0.1 when spread, 1 when in one block.

    Taken of the squared error and of the error relative to each channel's own size; the smaller counts. Rounding errs
    most where values are large, quantized weights err alike everywhere: neither is concentrated in both ways.
    """
    width = found.shape[-1]
    x, r = (v.reshape(-1, width).astype(np.float64) for v in (found, expected))
    with np.errstate(all="ignore"):
        error, size = ((x - r) ** 2).sum(axis=0), (r * r).sum(axis=0)
        if not np.isfinite(error).all():
            return 1.0
        shares = (_top_tenth(error), _top_tenth(error / (size + 1e-3 * size.mean() + 1e-300)))
    return min(shares)


def _top_tenth(by_channel: F64) -> float:
    total = by_channel.sum()
    if total == 0:
        return 0.0
    return float(np.sort(by_channel)[-max(1, by_channel.size // 10) :].sum() / total)


def _guesses(
    x: F64, r: F64, heads: Widths | None, siblings: Mapping[str, NDArray[np.float32]]
) -> Iterator[tuple[str, F64]]:
    """(what it would be, how the right tensor would look then), the plainest first."""
    yield "all zeros", np.zeros_like(r)
    yield "the sign is turned", -r
    for name, other in siblings.items():
        if other.shape == r.shape:
            yield f"it is {name}", other.astype(np.float64)
    scale = float((x * r).sum() / (r * r).sum()) if r.any() else 1.0
    yield f"scaled by {scale:.6g}", scale * r
    shift = float((x - r).mean())
    yield f"shifted by {shift:.6g}", r + shift
    rows = r.reshape(-1, r.shape[-1])
    fits = (x.reshape(rows.shape) * rows).sum(1) / np.maximum((rows * rows).sum(1), 1e-300)
    yield "each position scaled by a factor of its own", (fits[:, None] * rows).reshape(r.shape)
    for by in (1, -1):
        yield f"channels moved by {by}", np.roll(r, by, axis=-1)
    if r.ndim == 2 and r.shape[0] > 1:
        yield "a row is added to every position", r + (x - r).mean(axis=0)
        for by in (1, -1):
            yield f"positions moved by {by}", np.roll(r, by, axis=0)
    if r.ndim == 3:
        yield from _map_guesses(x, r)
    elif heads is not None and r.shape[-1] == heads.heads * heads.head_dim:
        yield from _head_guesses(x, r, heads)


def _map_guesses(x: F64, r: F64) -> Iterator[tuple[str, F64]]:
    """Of attention maps (Hq, T, S)."""
    if r.shape[1] == r.shape[2]:
        yield "queries and keys are exchanged", np.swapaxes(r, 1, 2)
    order = _best_order(x.reshape(len(x), -1), r.reshape(len(r), -1))
    yield f"heads are in the order {_few(order)}", r[order]


def _head_guesses(x: F64, r: F64, heads: Widths) -> Iterator[tuple[str, F64]]:
    """Of heads side by side: permuted heads, and the two layouts of rotary pairs."""
    split = r.reshape(len(r), heads.heads, heads.head_dim)
    turned = x.reshape(split.shape)
    order = _best_order(
        np.swapaxes(turned, 0, 1).reshape(heads.heads, -1), np.swapaxes(split, 0, 1).reshape(heads.heads, -1)
    )
    yield f"heads are in the order {_few(order)}", split[:, order].reshape(r.shape)
    pairs = split.reshape(*split.shape[:2], 2, -1)
    yield "rotary halves are interleaved", np.swapaxes(pairs, -1, -2).reshape(r.shape)
    halves = split.reshape(*split.shape[:2], -1, 2)
    yield "interleaved rotary pairs are taken as halves", np.swapaxes(halves, -1, -2).reshape(r.shape)
    z, w = _complex_pairs(x, heads), _complex_pairs(r, heads)
    other_angle = np.abs(w) * np.exp(1j * np.angle(z))
    flat = np.concatenate((other_angle.real, other_angle.imag), axis=-1).reshape(r.shape)
    yield "rotary pairs have the right length and another angle: another base or another position", flat
    lengths = [np.linalg.norm(v, axis=-1, keepdims=True) for v in (turned, split)]
    redirected = turned * (lengths[1] / np.maximum(lengths[0], 1e-300))
    yield "heads have the right length and another direction: another kind of rotation", redirected.reshape(r.shape)


def _complex_pairs(x: F64, heads: Widths) -> NDArray[np.complex128]:
    """Rotary pairs (d, d + D/2) of every head as complex numbers, (T, heads, D/2)."""
    low, high = np.split(x.reshape(len(x), heads.heads, heads.head_dim), 2, axis=-1)
    return low + 1j * high


def _best_order(x: F64, r: F64) -> NDArray[np.intp]:
    """For each row of x the row of r that it is most like."""
    unit = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300) for v in (x, r)]
    best: NDArray[np.intp] = np.argmax(unit[0] @ unit[1].T, axis=1)
    return best


def _place(x: F64, r: F64, heads: Widths | None) -> list[str]:
    """Where the error sits, when it does not sit everywhere."""
    words = _mask(x, r) if x.ndim == 3 else []
    squared = (x - r) ** 2
    channels = squared.reshape(-1, squared.shape[-1]).sum(axis=0)
    places = [("channel", channels)]
    if x.ndim == 3:
        places = [
            ("head", squared.sum(axis=(1, 2))),
            ("query", squared.sum(axis=(0, 2))),
            ("key", squared.sum(axis=(0, 1))),
        ]
    elif x.ndim == 2:
        places.append(("token", squared.sum(axis=1)))
        if heads is not None and channels.size == heads.heads * heads.head_dim:
            places.append(("head", channels.reshape(heads.heads, -1).sum(axis=1)))
    for name, sums in places:
        wrong = np.flatnonzero(sums > 1e-6 * sums.max())
        if sums.size > 1 and wrong.size < 0.5 * sums.size:
            words.append(f"only in {name}{'s' if wrong.size > 1 else ''} {_few(wrong)}")
    return words


def _mask(x: F64, r: F64) -> list[str]:
    """Of an attention map: keys that are looked at and should not be, and the other way round."""
    words = []
    if ((x != 0) & (r == 0)).any():
        words.append("not zero where it should be: masked keys are looked at")
    if ((x == 0) & (r != 0)).any():
        words.append("zero where it should not be: keys are not looked at")
    return words


def _first_odd(found: NDArray[np.float32]) -> str:
    at = np.argwhere(~np.isfinite(found))
    return f"{len(at)} values are not finite, the first at {at[0].tolist()}: {found[tuple(at[0])]}"


def _few(numbers: NDArray[np.intp]) -> str:
    """`3`, `4-35`, `1, 5, 9, …`."""
    values = [int(n) for n in numbers]
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}-{values[-1]}"
    return ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")
