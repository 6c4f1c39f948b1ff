"""The sample project as fixtures, one that tests may change and the story of an untouched one; and a Chromium."""

from __future__ import annotations

import pytest

from pv.report.story import Story
from tests.report import browser as browsers
from tests.report.samples import Town, town


@pytest.fixture
def made(tmp_path) -> Town:
    """The sample project, for this test alone."""
    return town(tmp_path / "town")


@pytest.fixture(scope="session")
def story(tmp_path_factory) -> Story:
    """What there is to tell of the sample project."""
    return town(tmp_path_factory.mktemp("told") / "town").story


@pytest.fixture(scope="module")
def browser():
    """A started Chromium; skipped aloud where there is none."""
    yield from browsers.started()
