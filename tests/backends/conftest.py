"""Ground of the backend tests: small models, a software Vulkan device where there is one, taps that keep everything."""

from __future__ import annotations

import os
from typing import NoReturn

import numpy as np
import pytest

from pv.backends.protocol import BackendError
from pv.model.spec import named_shape
from pv.model.stages import Stage
from pv.model.synthetic import Recipe, build
from pv.model.weights import Weights


class Everything:
    """A tap that keeps every tensor, in order."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[Stage, int | None], np.ndarray] = {}

    def wants(self, stage: Stage, layer: int | None) -> bool:
        return True

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        self.tensors[stage, layer] = values


@pytest.fixture(scope="session")
def nano() -> Weights:
    return build(Recipe(named_shape("nano"), seed=3))


@pytest.fixture
def everything() -> type[Everything]:
    return Everything


def _absent(what: str) -> NoReturn:
    """Skip aloud; where a machine with a GPU is promised (`make test-gpu`), fail."""
    if os.environ.get("PV_REQUIRE_GPU"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def vulkan() -> None:
    """A Vulkan adapter for the wgpu backend: the software one where there is one, else a card; or skip aloud."""
    from pv.backends.wgpu_device import facts_of, vulkan_adapters

    try:
        classes = {facts_of(adapter).device_class for adapter in vulkan_adapters()}
    except BackendError as absent:
        _absent(f"no Vulkan here: {absent}")
    if not classes:
        _absent("no Vulkan adapter here; scripts/install-vulkan.sh brings a software one")
    os.environ["PV_WGPU_ADAPTER"] = "software" if "vulkan-sw" in classes else "hardware"
