"""Prepared weights -> a `Session` on any torch device, through the one forward of `pv.model.forward`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from pv.backends.protocol import BackendError, DeviceFacts, Graft, Tap
from pv.model.cache import GrowingCache
from pv.model.errors import ContextError
from pv.model.forward import copied, forward
from pv.model.operators import REFERENCE, Operators
from pv.model.rope import RopeTables
from pv.model.spec import ModelSpec
from pv.model.weights import Prepared

Result = TypeVar("Result")


class TorchSession:
    """One model on one torch device with one growing KV cache; implements `pv.backends.protocol.Session`."""

    def __init__(self, weights: Prepared, facts: DeviceFacts, operators: Operators = REFERENCE) -> None:
        self.spec: ModelSpec = weights.spec
        self.facts = facts
        self._weights: Prepared | None = weights
        self._operators = operators
        self._cache = GrowingCache(weights.spec, weights.device, weights.dtype)
        self._rope = self._tables(64)

    @property
    def position(self) -> int:
        return self._cache.length

    def prefill(self, tokens: Sequence[int], tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Append `tokens` to an empty cache; logits of the last position, float32, (V,). Raises ContextError."""
        self._want_empty()
        return self._advance(tokens, tap, graft)

    def prefill_all(self, tokens: Sequence[int], tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Like `prefill`, with the logits of every position, float32, (T, V): what a divergence over a text needs."""
        self._want_empty()
        return self._advance(tokens, tap, graft, all_positions=True)

    def decode(self, token: int, tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Append one token; logits of its position, float32, (V,). Raises ContextError."""
        return self._advance([token], tap, graft)

    def reset(self) -> None:
        """Empty the KV cache; its memory stays for the next prompt."""
        self._cache.reset()

    def close(self) -> None:
        """Let go of weights and cache. Any later call raises BackendError."""
        self._weights = None
        self._cache = GrowingCache(self.spec, torch.device("cpu"), torch.float32, capacity=1)

    def _want_empty(self) -> None:
        if self.position:
            raise ContextError(f"expected an empty cache for a prefill, got {self.position} tokens", "call reset()")

    def _advance(
        self, tokens: Sequence[int], tap: Tap | None, graft: Graft | None, *, all_positions: bool = False
    ) -> np.ndarray:
        if self._weights is None:
            raise BackendError(self.facts.backend, "the session is closed", "open the model again")
        weights, end = self._weights, self.position + len(tokens)
        check_tokens(self.spec, tokens, self.position)
        if weights.device.type == "cpu":
            want_memory(self.spec, len(tokens), end)

        def work() -> np.ndarray:
            self._reserve(end)
            ids = torch.tensor(list(tokens), dtype=torch.int64, device=weights.device)
            logits = forward(
                weights, ids, self._rope, cache=self._cache, operators=self._operators, tap=tap, graft=graft,
                all_positions=all_positions,
            )  # fmt: skip
            return copied(logits)

        with torch.inference_mode():
            return in_words(self.facts.backend, work)

    def _reserve(self, length: int) -> None:
        """Room for `length` tokens in the cache and in the RoPE tables."""
        self._cache.reserve(length)
        if length > self._rope.length:
            self._rope = self._tables(2 * length)

    def _tables(self, length: int) -> RopeTables:
        weights = self._weights
        if weights is None:
            raise BackendError(self.facts.backend, "the session is closed", "open the model again")
        return RopeTables.build(self.spec, min(length, self.spec.context), weights.device, weights.dtype)


def check_tokens(spec: ModelSpec, tokens: Sequence[int], position: int) -> None:
    """Raise ContextError unless `tokens` are ids of this vocabulary and fit behind `position` into the context."""
    if not tokens:
        raise ContextError("expected at least one token, got none", "give a prompt")
    wrong = next((token for token in tokens if not 0 <= token < spec.vocab), None)
    if wrong is not None:
        raise ContextError(f"expected token ids below {spec.vocab} (the vocabulary), got {wrong}", "another tokenizer?")
    if position + len(tokens) > spec.context:
        raise ContextError(
            f"expected at most {spec.context} tokens (the model's context), got {position + len(tokens)}"
        )


def want_memory(spec: ModelSpec, count: int, seen: int) -> None:
    """Raise BackendError before the scores of a long prompt drive the machine out of memory.

    Attention holds three (Hq, T, S) tensors at once: scores, masked scores, softmax. Linux kills a process that
    writes more than there is, instead of refusing it; where the system does not tell, nothing is checked.
    """
    needed, free = 3 * 4 * spec.heads * count * seen, free_memory()
    if free is not None and needed > free:
        reason = f"a prompt of {count} tokens needs {needed / 2**30:.1f} GiB for its attention scores"
        raise BackendError("cpu", f"{reason}, {free / 2**30:.1f} GiB are free", "a shorter prompt?")


def free_memory() -> int | None:
    """Bytes that the system could give now, as Linux estimates it; None elsewhere."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def in_words(backend: str, work: Callable[[], Result]) -> Result:
    """Run; turn an allocation failure into BackendError, let everything else pass."""
    try:
        return work()
    except torch.OutOfMemoryError as problem:
        raise BackendError(
            backend, f"out of device memory: {str(problem).splitlines()[0]}", "a smaller model?"
        ) from None
    except (MemoryError, RuntimeError) as problem:
        if not isinstance(problem, MemoryError) and "allocate memory" not in str(problem):
            raise
        raise BackendError(backend, f"out of memory: {str(problem).splitlines()[0]}", "a shorter prompt?") from None
