"""Values -> sorted values, by a bitonic network (Batcher 1968): the comparisons are fixed before the data is seen.

That makes it a kernel for hardware that cannot branch, and easy to get wrong: one comparator too few still sorts most
inputs. `sort` therefore looks at its own answer, and serves numpy's where the network's is no sorted permutation.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np


class Stage(NamedTuple):
    """Comparators that touch no wire twice, so that all of them can run at once: wire numbers, smaller value first."""

    low: np.ndarray  # (C,)
    high: np.ndarray  # (C,)


class NetworkDefect(RuntimeWarning):
    """The network's answer was not a sorted permutation of its input; numpy's was served."""


def stages(width: int) -> list[Stage]:
    """The network for `width` wires, a power of two: k(k+1)/2 stages for width 2**k, each of width/2 comparators."""
    if width < 1 or width & (width - 1):
        raise ValueError(f"expected a width that is a power of two, found {width}")
    wires = np.arange(width)
    made = []
    block = 2
    while block <= width:
        distance = block // 2
        while distance:
            first = wires[wires & distance == 0]
            second = first | distance
            falling = first & block != 0  # every other block sorts downwards: the two halves are then bitonic
            made.append(Stage(np.where(falling, second, first), np.where(falling, first, second)))
            distance //= 2
        block *= 2
    return made


def run(network: list[Stage], values: np.ndarray) -> np.ndarray:
    """`values` (…, W) through the network's comparators, along the last axis.

    A comparator swaps or does not: `minimum` and `maximum` may both take the same one of 0.0 and -0.0.
    """
    out = values.copy()  # (…, W)
    for low, high in network:
        a, b = out[..., low], out[..., high]  # (…, C)
        swap = a > b
        out[..., low], out[..., high] = np.where(swap, b, a), np.where(swap, a, b)
    return out


def sort(values: np.ndarray) -> np.ndarray:
    """The values (N,) in rising order, NaN last; integers and floats, the type is kept.

    Raises ValueError for an array of another shape, TypeError for another type. Warns NetworkDefect, and answers by
    numpy, where the network's answer is no sorted permutation of its input.
    """
    if values.ndim != 1:
        raise ValueError(f"expected one axis, found the shape {values.shape}")
    if values.dtype.kind not in "iuf":
        raise TypeError(f"expected integers or floats, found {values.dtype}")
    numbers = values[values == values]
    missing = values[values != values]  # NaN alone differs from itself; a comparator could not place it
    answer = np.concatenate([_by_network(numbers), missing])
    if is_sorted_permutation(answer, values):
        return answer
    said = f"the network of {_width(len(numbers))} wires does not sort; numpy answers"
    warnings.warn(said, NetworkDefect, stacklevel=2)
    return np.sort(values)


def is_sorted_permutation(answer: np.ndarray, values: np.ndarray) -> bool:
    """Whether `answer` rises, NaN last, and holds the very bits of `values`."""
    same = np.array_equal(np.sort(_bits(answer)), np.sort(_bits(values)))
    kept = answer[answer == answer]
    ordered = bool(np.all(kept[:-1] <= kept[1:]))
    return same and ordered and bool(np.all(answer[len(kept) :] != answer[len(kept) :]))


def _by_network(numbers: np.ndarray) -> np.ndarray:
    width = _width(len(numbers))
    padded = np.full(width, _largest(numbers.dtype), numbers.dtype)
    padded[: len(numbers)] = numbers
    return run(stages(width), padded)[: len(numbers)]


def _width(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _largest(dtype: np.dtype) -> float | int:
    return np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
