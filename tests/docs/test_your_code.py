"""docs/your-code.md is run as it stands."""

from __future__ import annotations

from pathlib import Path

from tests.docs.pages import follow

PAGE = Path(__file__).parent.parent.parent / "docs" / "your-code.md"


def test_the_page_works_as_written(tmp_path):
    assert follow(PAGE, tmp_path) == 14
    assert "status: FUNCTIONAL" in (tmp_path / "contracts/double-v1.yaml").read_text()
