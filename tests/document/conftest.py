"""The corpus of real files, where it lies beside the checkout, and a writer of random YAML."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `random_yaml`: importlib mode adds no directory

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"


@pytest.fixture(scope="session")
def corpus() -> list[Path]:
    """All files of the corpus."""
    files = sorted(CORPUS.glob("*/*.yaml"))
    if not files:
        pytest.skip(f"the corpus of real contracts is not at {CORPUS}")
    return files
