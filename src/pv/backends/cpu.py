"""Weights -> the reference session: plain torch, float32, on the CPU. No GPU module is imported, no driver touched."""

from __future__ import annotations

import os
import platform

import torch

from pv.backends.protocol import DeviceFacts
from pv.backends.torch_session import TorchSession
from pv.model.operators import REFERENCE, Operators
from pv.model.weights import Weights, prepare


def open_cpu(weights: Weights, operators: Operators = REFERENCE, dtype: torch.dtype = torch.float32) -> TorchSession:
    """A session on the CPU. `dtype=torch.float64` is the shadow run that measures float32's own rounding.

    Float types are widened to `dtype`; block types keep their blocks and go through their own product.
    """
    return TorchSession(prepare(weights, "cpu", dtype), cpu_facts(), operators)


def cpu_facts() -> DeviceFacts:
    """The processor's name as the system tells it, the memory, and torch's threads."""
    return DeviceFacts(
        backend="cpu",
        device_class="cpu",
        name=_processor(),
        driver=f"torch {torch.__version__}",
        memory_bytes=_memory(),
        details={"threads": str(torch.get_num_threads())},
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            return next(names, platform.machine())
    except OSError:  # not Linux
        return platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
