"""Set before any test imports torch."""

from __future__ import annotations

import os

# Two OpenMP threads that spin for each other collapse (10 to 30 times slower) beside another busy process.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
