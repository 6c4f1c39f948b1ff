"""The static cache of a CUDA session: it can take over what a smaller one held."""

from __future__ import annotations

from pv.model.cache import StaticCache


class DecodeCache(StaticCache):
    """`StaticCache` that grows by replacement: a recorded graph points into one set of buffers for good."""

    def take_over(self, old: StaticCache) -> None:
        """Copy the tokens that a cache of smaller capacity holds, and its position."""
        held = old.length
        self._buffer[:, :, :, :held] = old._buffer[:, :, :, :held]
        self.position.copy_(old.position)
        self.advance_host(held - self.length)

    def step_back(self) -> None:
        """Forget the last token: its slot is written again by the next one."""
        self.position -= 1
        self.advance_host(-1)
