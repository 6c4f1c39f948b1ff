"""Ground of the parity tests: a small model, its CPU session, and sessions that answer what a test wants."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pv.backends.cpu import open_cpu
from pv.backends.protocol import BackendError, DeviceFacts, Session
from pv.model.spec import ModelSpec, named_shape
from pv.model.synthetic import Recipe, build
from pv.model.weights import Weights

TOKENS = [3, 141, 59, 26, 53]


@pytest.fixture(autouse=True)
def no_shared_memory(tmp_path, monkeypatch) -> None:
    """No verdict of one test is remembered in another, or in the user's cache."""
    monkeypatch.setenv("PV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PV_PARITY_STEPS", raising=False)


@pytest.fixture(scope="session")
def nano() -> Weights:
    return build(Recipe(named_shape("nano"), seed=3))


@pytest.fixture
def cpu(nano) -> Session:
    return open_cpu(nano)


class Altered:
    """The CPU's own answers, changed: `change(logits, step)`; it claims to be a GPU."""

    def __init__(self, weights: Weights, change: Callable[[np.ndarray, int], object], backend: str = "wgpu") -> None:
        self._inner = open_cpu(weights)
        self._change = change
        self._step = 0
        self.spec: ModelSpec = weights.spec
        self.facts = DeviceFacts(backend, "vulkan" if backend == "wgpu" else "cuda", "a card", "driver 1")
        self.fed: list[object] = []
        self.closed = 0

    @property
    def position(self) -> int:
        return self._inner.position

    def prefill(self, tokens: Sequence[int], tap: object = None, graft: object = None) -> np.ndarray:
        self._step = 0
        self.fed.append(list(tokens))
        return self._change(self._inner.prefill(tokens), 0)  # type: ignore[return-value]

    def decode(self, token: int, tap: object = None, graft: object = None) -> np.ndarray:
        self._step += 1
        self.fed.append(token)
        return self._change(self._inner.decode(token), self._step)  # type: ignore[return-value]

    def reset(self) -> None:
        self._inner.reset()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def altered() -> type[Altered]:
    return Altered


@pytest.fixture(scope="session")
def vulkan() -> None:
    """A Vulkan adapter for the wgpu backend: the software one where there is one, else a card; or skip aloud."""
    from pv.backends.wgpu_device import facts_of, vulkan_adapters

    try:
        classes = {facts_of(adapter).device_class for adapter in vulkan_adapters()}
    except BackendError as absent:
        pytest.skip(f"no Vulkan here: {absent}")
    if not classes:
        pytest.skip("no Vulkan adapter here; scripts/install-vulkan.sh brings a software one")
    os.environ["PV_WGPU_ADAPTER"] = "software" if "vulkan-sw" in classes else "hardware"
