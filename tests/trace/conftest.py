"""A small random model and what captures of it need; built once."""

from __future__ import annotations

import pytest

from pv.backends.cpu import open_cpu
from pv.model.spec import SHAPES
from pv.model.synthetic import Recipe, build
from pv.trace.capture import Origin

NANO = SHAPES["nano"]


@pytest.fixture(scope="session")
def weights():
    return build(Recipe(NANO, seed=3))


@pytest.fixture
def session(weights):
    return open_cpu(weights)


@pytest.fixture(scope="session")
def origin():
    return Origin("pv", "nano", "nano", "sha256:" + "0" * 64, "F32", {"backend": "cpu"})
