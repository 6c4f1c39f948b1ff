"""This process -> the facts about it that a second run is compared with. Loads neither torch nor numpy."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pv.evidence.record import Environment

# Only these: a whole environment holds secrets.
VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "VK_ICD_FILENAMES",
    "WGPU_BACKEND_TYPE",
)


def determinism(threads: int) -> dict[str, str]:
    """Variables for a worker: fixed thread counts, no spinning between parallel regions, reproducible cuBLAS."""
    count = str(max(1, threads))
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }


def environment(*, device: str = "", driver: str = "") -> Environment:
    """The facts as they are now, to be called in the worker after the run. `device`, `driver`: "" on the CPU."""
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        host=host(),
        cpu=cpu(),
        threads=int(os.environ.get("OMP_NUM_THREADS", "0") or 0),
        torch=_version("torch"),
        numpy=_version("numpy"),
        device=device,
        driver=driver,
        flags=dict(_flags()),
    )


def environment_beside(*, device: str = "", driver: str = "") -> Environment:
    """The facts as another process on this machine sees them, of a worker that died or never ran.

    How many threads it had, nobody can say: this process has its own variables for that, and so has Ray's.
    """
    facts = environment(device=device, driver=driver)
    flags = {name: value for name, value in facts.flags.items() if not name.endswith("_NUM_THREADS")}
    return replace(facts, threads=0, flags=flags)


def host() -> str:
    """A name for this machine that says nothing about it: a prefix of a sha256.

    Of the machine id where there is one. Containers may have none, or a fresh one each time; for those, of the
    hardware: two equal machines then count as one, which can only withhold a rung, never grant one.
    """
    for path in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        try:
            identity = path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if identity and identity != "uninitialized" and not _in_container():
            return _prefix(identity)
    return _prefix(f"{platform.machine()} {cpu()} {os.cpu_count()} {_memory_gib()}")


def cpu() -> str:
    """The processor's own name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _in_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _memory_gib() -> int:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)


def _prefix(text: str) -> str:
    return hashlib.sha256(f"pv host {text}".encode()).hexdigest()[:16]


def _version(distribution: str) -> str:
    loaded = sys.modules.get(distribution)
    if loaded is not None and getattr(loaded, "__version__", None):
        return str(loaded.__version__)
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _flags() -> Iterator[tuple[str, str]]:
    for name in VARIABLES:
        if os.environ.get(name):
            yield name, os.environ[name]
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "are_deterministic_algorithms_enabled"):
        yield "torch.deterministic", str(torch.are_deterministic_algorithms_enabled())
        yield "torch.matmul_precision", str(torch.get_float32_matmul_precision())
        yield "torch.threads", str(torch.get_num_threads())
        yield "torch.tf32_matmul", str(torch.backends.cuda.matmul.allow_tf32)
        yield "torch.tf32_cudnn", str(torch.backends.cudnn.allow_tf32)
        yield "torch.cudnn_benchmark", str(torch.backends.cudnn.benchmark)
        if torch.cuda.is_initialized():  # asked only then: a check on the processor opens no device
            yield "cuda.card", _card(torch.cuda.get_device_properties(torch.cuda.current_device()))


def _card(facts: Any) -> str:
    """Where the card sits, as `nvidia-smi` writes its bus; "unknown" to a torch that does not tell."""
    try:
        return f"{facts.pci_domain_id:08X}:{facts.pci_bus_id:02X}:{facts.pci_device_id:02X}.0"
    except AttributeError:
        return "unknown"
