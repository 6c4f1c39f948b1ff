"""Two logits vectors whose first tokens differ -> a near tie that rounding may decide, or a wrong token.

A flip always implies that the reference's margin is at most the sum of the two observed errors, so a rule that
compares the margin with the *observed* error cannot fail. The bound here is stated before anything is measured: the
row's `margin`, which is twice the largest accepted error of a logit. A kind without a margin (half precision) is
bounded through its divergence: by Pinsker's inequality |p1 - p2| <= 2 sqrt(KL / 2), with the row's accepted KL.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np

from pv.compare.metrics import log_softmax, top
from pv.compare.thresholds import Row


class Flip(NamedTuple):
    """What the first tokens of two logits vectors say. `margin`: reference logit of its own first token, less that of
    the test's; `bound`: the most that may be; `tolerated`: equal tokens, or a near tie.
    """

    reference: int
    test: int
    margin: float
    bound: float
    tolerated: bool

    @property
    def near_tie(self) -> bool:
        """Whether the tokens differ and rounding may have decided."""
        return self.tolerated and self.reference != self.test


def judge_flip(test: np.ndarray, reference: np.ndarray, row: Row) -> Flip:
    """Compare the first tokens of two (V,) logits vectors by an a-priori bound. NaN is never tolerated.

    Tolerated is a flip only between the two likeliest tokens of both sides whose reference margin is within the bound.
    """
    if not (np.isfinite(test).all() and np.isfinite(reference).all()):
        return Flip(_argmax(reference), _argmax(test), float("nan"), float("nan"), tolerated=False)
    r, x = reference.astype(np.float64), test.astype(np.float64)
    ours, theirs = top(r, 2), top(x, 2)
    first, second = int(ours[0]), int(theirs[0])
    margin, bound = float(r[first] - r[second]), row.margin
    if bound is None:  # judged as probabilities
        chances = np.exp(log_softmax(r))
        margin, bound = float(chances[first] - chances[second]), 2 * sqrt((row.logits.kl or 0.0) / 2)
    close = second in ours and first in theirs and margin <= bound
    return Flip(first, second, margin, bound, tolerated=first == second or bool(close))


def _argmax(values: np.ndarray) -> int:
    """argmax in which a NaN does not win; -1 when all are NaN."""
    return -1 if np.isnan(values).all() else int(np.nanargmax(values))
