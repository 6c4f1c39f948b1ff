"""A sound contract to vary, the corpus of real ones, and a project to load them in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pv.contract.load import Loaded, load_bytes
from pv.contract.project import Profile, Project
from tests.contract.samples import SOUND


@pytest.fixture
def sound() -> str:
    """The text of a contract with nothing to complain about."""
    return SOUND


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Loaded]:
    """`read(text, profile="compat")`: the text as a loaded contract called `sample-v1`."""

    def loaded(text: str, profile: str = "compat") -> Loaded:
        project = Project(root=tmp_path, profile=Profile(profile))
        return load_bytes(text.encode(), tmp_path / "sample-v1.yaml", project, display="sample-v1.yaml")

    return loaded


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real contracts beside the repository."""
    folder = Path(__file__).parents[2].parent / "shared" / "corpus"
    if not folder.is_dir():
        pytest.skip(f"the corpus of real contracts is not at {folder}")
    return folder
