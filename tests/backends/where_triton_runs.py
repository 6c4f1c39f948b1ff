"""Imported by test modules of Triton's kernels, before anything that needs Triton: where nothing can run them, it skips
the module aloud, or fails where a machine with a GPU is promised.

They run on a card (`make test-gpu`), and without one in Triton's interpreter, which `test_triton_interpreted.py` asks
for.
"""

from __future__ import annotations

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
    if os.environ.get("PV_REQUIRE_GPU"):
        pytest.fail("a CUDA card is required here, for Triton to compile for", pytrace=False)
    pytest.skip("Triton compiles for a card, and there is none here", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MARKS = [
    pytest.mark.gpu,
    # The interpreter computes lanes that a card masks, and numpy says that they divide by zero or overflow.
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]
