"""Keys and values of the tokens seen so far -> what the next token attends to.

A cache answers two questions of the forward: where the new tokens stand (`positions`), and what they see (`append`,
`visible`). `GrowingCache` serves eager sessions; `StaticCache` has fixed shapes and its position in a tensor, so that
a CUDA graph can replay the very same forward.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from pv.model.spec import ModelSpec


class Seen(NamedTuple):
    """Keys and values to attend to, each (Hkv, S, D)."""

    keys: torch.Tensor
    values: torch.Tensor


class Cache(Protocol):
    """What the forward asks of a cache. `length` counts the tokens held before the current call of the forward."""

    @property
    def length(self) -> int:
        """Tokens held, as the host knows it."""
        ...

    def positions(self, count: int) -> torch.Tensor:
        """Positions of the next `count` tokens, (count,) int64 on the device."""
        ...

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> Seen:
        """Store (Hkv, T, D) of one layer at the current position; return all that this layer may look at."""
        ...

    def visible(self, positions: torch.Tensor) -> torch.Tensor:
        """(T, S) bool: token at `positions[t]` sees slot s iff s <= positions[t]."""
        ...

    def advance(self, count: int) -> None:
        """Count the tokens of this call in, after the last layer."""
        ...


class GrowingCache:
    """A cache that doubles its buffers as needed and hands out exactly the filled part."""

    def __init__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype, capacity: int = 64) -> None:
        self._spec, self._device, self._dtype = spec, device, dtype
        self._length = 0
        self._buffer = self._allocate(min(capacity, spec.context))

    def _allocate(self, capacity: int) -> torch.Tensor:
        shape = (self._spec.layers, 2, self._spec.kv_heads, capacity, self._spec.head_dim)
        return torch.empty(shape, device=self._device, dtype=self._dtype)

    @property
    def length(self) -> int:
        return self._length

    def positions(self, count: int) -> torch.Tensor:
        return torch.arange(self._length, self._length + count, device=self._device)

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` tokens in all; what is held is copied."""
        if capacity <= self._buffer.shape[3]:
            return
        grown = self._allocate(min(max(capacity, 2 * self._buffer.shape[3]), self._spec.context))
        grown[:, :, :, : self._length] = self._buffer[:, :, :, : self._length]
        self._buffer = grown

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> Seen:
        end = self._length + keys.shape[-2]
        self._buffer[layer, 0, :, self._length : end] = keys
        self._buffer[layer, 1, :, self._length : end] = values
        return Seen(self._buffer[layer, 0, :, :end], self._buffer[layer, 1, :, :end])

    def visible(self, positions: torch.Tensor) -> torch.Tensor:
        return causal(positions, self._length + len(positions))

    def advance(self, count: int) -> None:
        self._length += count

    def reset(self) -> None:
        """Forget all tokens; the buffers stay."""
        self._length = 0


class StaticCache:
    """Fixed buffers and a position that lives in a tensor: every decode step has the same shapes and the same kernels.

    Attention runs over all `capacity` slots, the unfilled ones masked; they are zeroed, since 0 · NaN is NaN.
    """

    def __init__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype, capacity: int) -> None:
        shape = (spec.layers, 2, spec.kv_heads, capacity, spec.head_dim)
        self.capacity = capacity
        self._buffer = torch.zeros(shape, device=device, dtype=dtype)
        self.position = torch.zeros((), device=device, dtype=torch.int64)
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    def positions(self, count: int) -> torch.Tensor:
        return self.position + torch.arange(count, device=self.position.device)

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> Seen:
        at = self.positions(keys.shape[-2])
        self._buffer[layer, 0].index_copy_(-2, at, keys)
        self._buffer[layer, 1].index_copy_(-2, at, values)
        return Seen(self._buffer[layer, 0], self._buffer[layer, 1])

    def visible(self, positions: torch.Tensor) -> torch.Tensor:
        return causal(positions, self.capacity)

    def advance(self, count: int) -> None:
        """Device and host together. A graph captures the device's half; its replayer calls `advance_host`."""
        self.position += count
        self.advance_host(count)

    def advance_host(self, count: int) -> None:
        """Only the host's count: after a graph replay has moved the device's."""
        self._length += count

    def reset(self) -> None:
        """Forget all tokens; the buffers are zeroed."""
        self._buffer.zero_()
        self.position.zero_()
        self._length = 0


def causal(positions: torch.Tensor, slots: int) -> torch.Tensor:
    """(T, slots) bool: slot s is visible to the token at positions[t] iff s <= positions[t]."""
    return torch.arange(slots, device=positions.device) <= positions.unsqueeze(-1)
