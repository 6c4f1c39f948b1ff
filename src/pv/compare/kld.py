"""Two sources of logits over the same tokens -> how far their next-token distributions are apart.

The reference's logits stay float32 over the whole vocabulary (a 16-bit copy once hid errors for a year: ik_llama.cpp
#325); probabilities are formed in float64. Every share carries its count and a Wilson bound.

Legend: T positions of a window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, isfinite, sqrt
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pv.compare.metrics import log_softmax

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Logits = Callable[[Sequence[int]], F32]  # (T,) tokens -> (T, V) logits, one row after each token

_ROWS = 64  # positions turned to float64 at a time: a vocabulary of 150,000 stays below 100 MB


class KldError(ValueError):
    """The two sides cannot be compared, or one of them gives no numbers."""


class Share(NamedTuple):
    """`hits` of `of`, and the interval that holds the true share with 95 % confidence (Wilson 1927)."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        return self.hits / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper Wilson bound; never outside [0, 1], and honest at 0 and at all hits."""
        z = NormalDist().inv_cdf(0.975)
        n, p = self.of, self.value
        centre, spread = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low, high = (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)
        return (low if self.hits else 0.0), (high if self.hits < self.of else 1.0)  # exact at both ends


class Flip(NamedTuple):
    """A position whose first token differs. `margin`: how far the reference's first logit leads the other's choice."""

    position: int  # in the text's tokens
    reference: int
    test: int
    margin: float


@dataclass(frozen=True, slots=True, eq=False)
class Divergence:
    """KL(reference || test) in nats after every token of a text, and what it comes to."""

    kl: F64  # (positions,)
    one_minus_cosine: F64  # (positions,), of the log-probabilities
    flips: tuple[Flip, ...]
    perplexity_reference: float  # NaN when no position has a next token, infinite beyond float64
    perplexity_test: float

    @property
    def positions(self) -> int:
        return int(self.kl.size)

    @property
    def same_top1(self) -> Share:
        return Share(self.positions - len(self.flips), self.positions)

    def near_ties(self, margin: float) -> tuple[Flip, ...]:
        """The flips that are near ties by a bound fixed beforehand; the others are real."""
        return tuple(flip for flip in self.flips if flip.margin < margin)

    def as_json(self) -> dict[str, Any]:
        """Everything but the positions one by one; flips are listed."""
        median, p99, p999 = (float(q) for q in np.quantile(self.kl, [0.5, 0.99, 0.999]))
        low, high = self.same_top1.interval
        return {
            "positions": self.positions,
            "kl_mean": float(self.kl.mean()),
            "kl_median": median,
            "kl_p99": p99,
            "kl_p999": p999,
            "kl_max": float(self.kl.max()),
            "kl_max_at": int(self.kl.argmax()),
            "one_minus_cosine_mean": float(self.one_minus_cosine.mean()),
            "one_minus_cosine_max": float(self.one_minus_cosine.max()),
            "same_top1": self.same_top1.value,
            "same_top1_hits": self.same_top1.hits,
            "same_top1_low": low,
            "same_top1_high": high,
            "perplexity_reference": _or_none(self.perplexity_reference),
            "perplexity_test": _or_none(self.perplexity_test),
            "flips": [flip._asdict() for flip in self.flips],
        }


def divergence(windows: Iterable[Sequence[int]], reference: Logits, test: Logits) -> Divergence:
    """Run both sides over windows of tokens, each window from an empty cache, and compare every position.

    Raises KldError when a side's vocabulary differs from the other's, when logits are not finite, or when there is no
    window.
    """
    parts: list[_Part] = []
    start = 0
    for window in windows:
        left, right = reference(window), test(window)
        _want_comparable(left, right, len(window), start)
        parts += [_part(left, right, window, at, start) for at in range(0, len(window), _ROWS)]
        start += len(window)
    if not parts:
        raise KldError("expected at least one token of text, got none")
    told = sum(part.told for part in parts)
    return Divergence(
        kl=np.concatenate([part.kl for part in parts]),
        one_minus_cosine=np.concatenate([part.lost for part in parts]),
        flips=tuple(flip for part in parts for flip in part.flips),
        perplexity_reference=_perplexity(sum(part.nll_reference for part in parts), told),
        perplexity_test=_perplexity(sum(part.nll_test for part in parts), told),
    )


def cut(tokens: Sequence[int], length: int) -> list[Sequence[int]]:
    """Tokens in windows of `length`, the last one shorter."""
    return [tokens[start : start + length] for start in range(0, len(tokens), length)]


def _perplexity(nll: float, told: int) -> float:
    """exp of the mean; NaN when no position has a next token, infinite where a broken model's logits leave float64."""
    try:
        return exp(nll / told) if told else float("nan")
    except OverflowError:
        return float("inf")


def _or_none(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if isfinite(value) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    kl: F64
    lost: F64
    flips: tuple[Flip, ...]
    nll_reference: float
    nll_test: float
    told: int  # positions whose next token is known


def _part(left: F32, right: F32, window: Sequence[int], at: int, start: int) -> _Part:
    """Rows `at` to `at + _ROWS` of one window; `start` is the window's place in the text."""
    x, y = left[at : at + _ROWS].astype(np.float64), right[at : at + _ROWS].astype(np.float64)
    p, q = log_softmax(x), log_softmax(y)
    best, other = x.argmax(axis=1), y.argmax(axis=1)
    rows = np.flatnonzero(best != other)
    following = np.asarray(window[at + 1 : at + 1 + len(p)], dtype=np.int64)
    known = np.arange(following.size)
    return _Part(
        kl=np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0),  # rounding can leave -1e-18
        lost=_one_minus_cosine(p, q),
        flips=tuple(
            Flip(start + at + int(r), int(best[r]), int(other[r]), float(x[r, best[r]] - x[r, other[r]])) for r in rows
        ),
        nll_reference=float(-p[known, following].sum()),
        nll_test=float(-q[known, following].sum()),
        told=int(following.size),
    )


def _one_minus_cosine(p: F64, q: F64) -> F64:
    """1 - cosine of each row, from the difference of unit vectors: 1 - dot would lose it below 1e-16."""
    unit = p / np.linalg.norm(p, axis=1, keepdims=True) - q / np.linalg.norm(q, axis=1, keepdims=True)
    lost: F64 = np.square(unit).sum(axis=1) / 2
    return lost


def _want_comparable(left: F32, right: F32, count: int, start: int) -> None:
    if left.shape[-1] != right.shape[-1]:
        raise KldError(f"expected one vocabulary, got {left.shape[-1]} and {right.shape[-1]} tokens")
    for side, logits in (("reference", left), ("test", right)):
        if logits.shape[0] != count:
            raise KldError(f"expected logits after each of {count} tokens, got {logits.shape[0]} from the {side}")
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            raise KldError(f"expected finite logits, the {side}'s are not after token {start + int(finite.argmin())}")
