"""A session and a prompt -> tokens, greedy or sampled, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pv.model.errors import ModelError
from pv.model.spec import ModelSpec


class Speaker(Protocol):
    """What generation needs of a session (`pv.backends.protocol.Session` has more)."""

    spec: ModelSpec

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits (V,) after all of `tokens`."""
        ...

    def decode(self, token: int) -> np.ndarray:
        """Logits (V,) after one more."""
        ...


class NotFiniteError(ModelError):
    """The logits hold NaN or infinity: whatever token were chosen, it would mean nothing."""

    damaged = True


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen: temperature 0 takes the largest logit, else a seeded draw from the `top_p` nucleus."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ModelError(f"expected a temperature of at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ModelError(f"expected top_p above 0 and at most 1, got {self.top_p}")


class Step(NamedTuple):
    """One token, and why no other follows: "" while it goes on, else `stop`, `length` or `context`."""

    token: int
    end: str


def generate(
    session: Speaker,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling | None = None,
    stops: frozenset[int] = frozenset(),
) -> Iterator[Step]:
    """Tokens after `prompt`, on an empty session; a stop token is the last one, and is handed out too.

    Raises ContextError for a prompt that does not fit, NotFiniteError for logits that are no numbers.
    """
    sampling = sampling or Sampling()
    random = np.random.default_rng(sampling.seed)
    room = session.spec.context - len(prompt)
    logits = session.prefill(prompt)
    for count in range(1, max_tokens + 1):
        token = choose(logits, sampling, random)
        end = "stop" if token in stops else "length" if count == max_tokens else "context" if count > room else ""
        yield Step(token, end)
        if end:
            return
        logits = session.decode(token)


def choose(logits: np.ndarray, sampling: Sampling, random: np.random.Generator) -> int:
    """The next token of (V,) logits. Raises NotFiniteError. A tie goes to the lowest id."""
    if not np.isfinite(logits).all():
        bad = int(np.flatnonzero(~np.isfinite(logits))[0])
        raise NotFiniteError(
            f"expected finite logits, got {logits[bad]} at token {bad}", "`pv trace` shows where it starts"
        )
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    scaled = logits.astype(np.float64) / sampling.temperature
    chances = np.exp(scaled - scaled.max())
    order = np.argsort(-chances, kind="stable")
    total = np.cumsum(chances[order] / chances.sum())
    kept = int(np.searchsorted(total, sampling.top_p, side="left")) + 1  # the smallest set that reaches top_p
    total = total[:kept]
    drawn = np.searchsorted(total, random.random() * total[-1], side="right")
    return int(order[min(int(drawn), len(total) - 1)])
