"""`check`: the text of a contract -> its diagnostics, as a project of either profile sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pv.contract.load import load_bytes
from pv.contract.project import Profile, Project
from pv.diagnostics.model import Diagnostic
from pv.rules import table
from pv.rules.facts import Facts

Check = Callable[..., list[Diagnostic]]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project outside of any other."""
    return Project(root=tmp_path, falsifiers=tmp_path / "falsifiers", evidence=tmp_path / "evidence")


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """`check(text, profile="strict", facts={}, configured=False)`; facts are by claim id."""

    def checked(
        text: str, profile: str = "strict", facts: dict[str, Facts] | None = None, *, configured: bool = False
    ) -> list[Diagnostic]:
        project = Project(
            root=tmp_path,
            profile=Profile(profile),
            falsifiers=tmp_path / "falsifiers",
            evidence=tmp_path / "evidence",
            subjects={"model-1": tmp_path / "m"},
            configured=configured,
        )
        loaded = load_bytes(text.encode(), tmp_path / "sample-v1.yaml", project, display="sample-v1.yaml")
        return table.check(loaded, project, {("sample-v1", name): fact for name, fact in (facts or {}).items()})

    return checked


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real contracts beside the repository."""
    folder = Path(__file__).parents[2].parent / "shared" / "corpus"
    if not folder.is_dir():
        pytest.skip(f"the corpus of real contracts is not at {folder}")
    return folder
