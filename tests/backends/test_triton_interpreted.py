"""The tests of the block kernels once more, by Triton's interpreter: what a machine without a card can see of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = ("test_triton_quant.py", "test_triton_prompt.py", "test_quant_step.py")
FILES = [Path(__file__).with_name(name) for name in NAMES]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed (it comes with CUDA)")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_block_kernels_are_right_when_interpreted(file: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:xdist", str(file)],
        capture_output=True, text=True, timeout=1100, env=environment, cwd=file.parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout or "100%" in done.stdout
