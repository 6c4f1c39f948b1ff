"""`python -m pv.falsify.probe cuda|wgpu`: a driver -> what it has, as JSON on the last line of stdout."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any


def main(what: str) -> None:
    """Print what the driver says, or `why_not`."""
    answer: dict[str, Any]
    try:
        answer = cuda() if what == "cuda" else wgpu()
    except Exception as error:  # a driver may raise anything; the reason is the answer
        answer = {"why_not": f"{what}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    print(json.dumps(answer))


def cuda() -> dict[str, Any]:
    """Every CUDA device that computes; name and compute capability of the first one, and the driver."""
    import torch

    if torch.version.cuda is None:
        return {"why_not": f"torch {torch.__version__} is a CPU build; install a CUDA build"}
    if not torch.cuda.is_available():
        return {"why_not": f"torch {torch.__version__} sees no usable CUDA device (driver {_driver() or 'unknown'})"}
    cards, failure = [], None
    for index in range(torch.cuda.device_count()):
        try:
            cards.append(_card(index))
        except Exception as error:  # a listed device that cannot compute is not present
            failure = failure or error
    if failure and not cards:
        raise failure
    return {"name": cards[0]["name"], "driver": _driver(), "cards": cards}


def _card(index: int) -> dict[str, Any]:
    """One card after it has computed. `identity`: its UUID, where this torch tells it."""
    import torch

    torch.zeros(1, device=f"cuda:{index}").add_(1).item()
    facts: Any = torch.cuda.get_device_properties(index)
    identity = str(getattr(facts, "uuid", "") or f"device-{index}")
    return {"index": index, "name": f"{facts.name} (sm_{facts.major}{facts.minor})", "identity": identity}


def wgpu() -> dict[str, Any]:
    """Every adapter that wgpu lists: backend, type, name, driver."""
    import wgpu as library

    adapters = [adapter.info for adapter in library.gpu.enumerate_adapters_sync()]
    return {
        "adapters": [
            {
                "backend": str(info.get("backend_type", "")),
                "type": str(info.get("adapter_type", "")),
                "name": str(info.get("device", "")),
                "driver": str(info.get("description", "")),
            }
            for info in adapters
        ]
    }


def _driver() -> str:
    """Version of the NVIDIA driver; torch does not tell it."""
    try:
        said = Path("/proc/driver/nvidia/version").read_text("utf-8", "replace")
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", said)
        if found:
            return found.group()
    except OSError:
        pass
    try:
        import pynvml

        pynvml.nvmlInit()
        said = pynvml.nvmlSystemGetDriverVersion()
        return said.decode() if isinstance(said, bytes) else str(said)
    except Exception:  # absent, or no permission: a version that we cannot tell
        return ""


if __name__ == "__main__":
    main(sys.argv[1])
