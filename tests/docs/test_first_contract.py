"""The tutorial is run as it stands: its files are written, its commands called, its output compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import follow

PAGE = Path(__file__).parent.parent.parent / "docs" / "first-contract.md"


def test_the_tutorial_works_as_written(tmp_path):
    assert follow(PAGE, tmp_path) == 8
    assert "status: FUNCTIONAL" in (tmp_path / "contracts/variance-v1.yaml").read_text()


def test_a_page_that_promises_too_much_is_seen(tmp_path):
    wrong = tmp_path / "page.md"
    wrong.write_text(PAGE.read_text().replace("0.004657866", "0.000000001"))
    with pytest.raises(AssertionError, match="is not in"):
        follow(wrong, tmp_path)
