"""What every backend is: it opens a model into a session; a session serves logits and, where asked, taps.

No import of torch here: `pv.trace` and `pv.parity` are written against these types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pv.model.taps import Graft, Tap

if TYPE_CHECKING:
    import numpy as np

    from pv.model.spec import ModelSpec

__all__ = ["BackendError", "DeviceFacts", "Graft", "Session", "Tap"]


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What is known about the device a session runs on."""

    backend: str  # cpu, cuda, wgpu
    device_class: str  # cpu, cuda, vulkan, vulkan-sw, metal
    name: str  # the adapter's own name
    driver: str = ""
    memory_bytes: int = 0
    software: bool = False
    details: Mapping[str, str] = field(default_factory=dict)


class BackendError(Exception):
    """A backend cannot serve: `reason` is one line fit for stderr; `hint` says what to do next."""

    def __init__(self, backend: str, reason: str, hint: str = "") -> None:
        super().__init__(f"{backend}: {reason}" + (f" ({hint})" if hint else ""))
        self.backend, self.reason, self.hint = backend, reason, hint


class Session(Protocol):
    """One model loaded on one device with one KV cache. Prefill and decode are the same path that `pv run` uses."""

    spec: ModelSpec
    facts: DeviceFacts

    @property
    def position(self) -> int:
        """How many tokens the KV cache holds."""
        ...

    def prefill(self, tokens: Sequence[int], tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Append tokens to an empty cache; logits of the last position, float32, shape (V,)."""
        ...

    def decode(self, token: int, tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Append one token; logits of its position, float32, shape (V,)."""
        ...

    def reset(self) -> None:
        """Empty the KV cache."""
        ...

    def close(self) -> None:
        """Free the device's memory. The session is unusable afterwards."""
        ...
