"""A GPU session and a way to open another -> a session that outlives its device: what it was fed is fed again there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pv.backends.protocol import BackendError, DeviceFacts, Graft, Session, Tap
from pv.backends.registry import close

if TYPE_CHECKING:
    import numpy as np

    from pv.model.spec import ModelSpec

Failed = Callable[[BackendError, int], None]  # why, and how many tokens had been fed before


class EnduringSession:
    """Serves from `first` until a pass of it raises BackendError, then from `another`, which computes the prefix anew.

    Tokens that were handed out stay what they were: only logits that no one has seen come from the other session. What
    that one raises is raised. `failed` is told before it is opened. Implements `pv.backends.protocol.Session`.
    """

    def __init__(self, first: Session, another: Callable[[], Session], failed: Failed) -> None:
        self.spec: ModelSpec = first.spec
        self.facts: DeviceFacts = first.facts  # of the session that serves now
        self._session = first
        self._another: Callable[[], Session] | None = another  # None once it serves
        self._failed = failed
        self._fed: list[int] = []

    @property
    def position(self) -> int:
        return self._session.position

    def prefill(self, tokens: Sequence[int], tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Append `tokens` to an empty cache; logits of the last position, float32, (V,)."""
        return self._pass(tokens, lambda session: session.prefill(tokens, tap, graft))

    def decode(self, token: int, tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Append one token; logits of its position, float32, (V,)."""
        return self._pass([token], lambda session: session.decode(token, tap, graft))

    def reset(self) -> None:
        """Empty the KV cache."""
        self._fed.clear()
        self._session.reset()

    def close(self) -> None:
        """Free the device's memory."""
        self._session.close()

    def _pass(self, tokens: Sequence[int], work: Callable[[Session], np.ndarray]) -> np.ndarray:
        try:
            logits = work(self._session)
        except BackendError as problem:
            another, self._another = self._another, None
            if another is None:
                raise
            logits = work(self._moved(another, problem))
        self._fed += tokens
        return logits

    def _moved(self, another: Callable[[], Session], problem: BackendError) -> Session:
        """The other session, holding what was fed so far."""
        self._failed(problem, len(self._fed))
        close(self._session)  # in a thread that may be abandoned: what failed may hang
        self._session = another()
        self.facts = self._session.facts
        if self._fed:
            self._session.prefill(self._fed)
        return self._session
