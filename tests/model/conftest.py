"""Small models on disk, made once for the room."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pv.model.spec import named_shape
from pv.model.synthetic import Recipe, write_model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_CACHE", str(tmp_path / "pv-cache"))


@pytest.fixture(scope="session")
def nano_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "nano"
    write_model(Recipe(named_shape("nano")), directory)
    return directory


@pytest.fixture
def nano_copy(nano_directory: Path, tmp_path: Path) -> Path:
    """The small model, to be damaged."""
    return Path(shutil.copytree(nano_directory, tmp_path / "nano"))


@pytest.fixture
def edit(nano_copy: Path) -> Callable[[str, Callable[[bytes], bytes]], Path]:
    """Rewrite a file of the copy; returns the copy."""

    def change(name: str, how: Callable[[bytes], bytes]) -> Path:
        path = nano_copy / name
        path.write_bytes(how(path.read_bytes()))
        return nano_copy

    return change
