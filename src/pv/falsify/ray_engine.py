"""An address -> a Ray that can be used, and what Ray counts: which resources a check on a device class holds."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pv
from pv.contract.vocabulary import DeviceClass
from pv.falsify.devices import present

LOCAL, AUTO = "local", "auto"
INSTALL = "pip install 'provable-contracts-pv[ray]'"
CONNECT = 10.0  # seconds
OBJECTS = 128 * 2**20  # bytes that a Ray of our own sets aside for objects: answers and logs are small
UNSHIPPED = (".git", ".venv", ".pv", ".pv_cache", "__pycache__")


class ClusterError(Exception):
    """No cluster can be used; the message says what was expected, what was found and what to do."""


@contextmanager
def connected(address: str, root: Path, jobs: int, *, ship: bool = False) -> Iterator[Any]:
    """A cluster to run on: `local` starts one on this machine, `auto` finds the one that this machine belongs to, and
    HOST:PORT is one elsewhere. `ship` sends the project and pv along. Raises ClusterError.
    """
    ray = _ray()
    _see_that_somebody_answers(address)
    options = _of_our_own(jobs) if address == LOCAL else {}
    try:
        ray.init(
            address=address,
            runtime_env=_freight(root) if ship else None,
            log_to_driver=False,
            logging_level="ERROR",
            **options,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(_no_cluster(address, error)) from None
    with redirect_stdout(io.StringIO()):  # Ray prints what befalls its workers; our stdout is data, and we tell it
        try:
            yield ray
        finally:
            ray.shutdown()


def resource_of(device: DeviceClass) -> str:
    """The Ray resource that a device class is counted by: Ray's own for the two that it finds by itself."""
    return {DeviceClass.CPU: "CPU", DeviceClass.CUDA: "GPU"}.get(device, device.value)


def needs(device: DeviceClass, cores: int) -> dict[str, Any]:
    """What an actor for checks on a device class holds."""
    if device is DeviceClass.CPU:
        return {"num_cpus": cores}
    if device is DeviceClass.CUDA:
        return {"num_cpus": cores, "num_gpus": 1}
    return {"num_cpus": cores, "resources": {resource_of(device): 1}}


def offers(resources: Mapping[str, float], device: DeviceClass) -> bool:
    """Whether a machine with these resources has room for at least one check on a device class."""
    return resources.get(resource_of(device), 0) >= 1 and resources.get("CPU", 0) >= 1


def offered() -> dict[str, int]:
    """The resources that Ray does not find by itself, as this machine has them; for `ray start --resources`."""
    reports = present((DeviceClass.VULKAN, DeviceClass.VULKAN_SW, DeviceClass.METAL))
    many = {DeviceClass.VULKAN_SW: os.cpu_count() or 1}  # a software driver is no card: as many as there are cores
    return {device.value: many.get(device, 1) for device, report in reports.items() if report.present}


def cores_each(nodes: Iterable[Mapping[str, Any]], jobs: int) -> int:
    """Cores, and with them threads, for each of `jobs` workers: an even share that fits on every machine."""
    cores = [int(node["Resources"].get("CPU", 0)) for node in nodes]
    smallest = min((count for count in cores if count), default=1)
    return max(1, min(sum(cores) // max(1, jobs), smallest))


def cause(error: BaseException) -> str:
    """What went wrong, in one line: the first of what Ray says, or of what it passes on."""
    origin = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(origin).splitlines() if line.strip()]
    return (lines[0] if lines else type(origin).__name__).rstrip(".")


def _ray() -> Any:
    """Ray, with its reports to its makers off. Raises ClusterError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as absent:
        raise ClusterError(f"--ray needs the package ray, which cannot be imported ({absent}): {INSTALL}") from None
    return ray


def _of_our_own(jobs: int) -> dict[str, Any]:
    """How a Ray of our own is started on this machine; gone again with the run."""
    cores = max(os.cpu_count() or 1, jobs)
    resources = {
        name: max(count, jobs) if name == DeviceClass.VULKAN_SW else count for name, count in offered().items()
    }
    return {
        "include_dashboard": False,
        "num_cpus": cores,
        "object_store_memory": OBJECTS,
        "resources": resources,
    }


def _freight(root: Path) -> dict[str, Any]:
    """What Ray takes along: the project without what git ignores, and pv itself."""
    return {"working_dir": str(root), "py_modules": [str(Path(pv.__file__).parent)], "excludes": list(UNSHIPPED)}


def _see_that_somebody_answers(address: str) -> None:
    """Ray itself would try a silent address for minutes. Raises ClusterError."""
    if address in (LOCAL, AUTO):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ClusterError(f"expected --ray=HOST:PORT, --ray={AUTO} or --ray={LOCAL}, found --ray={address}")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray answers at {address} ({error}); `ray start --head` on that machine prints its address"
        ) from None


def _no_cluster(address: str, error: BaseException) -> str:
    if address == AUTO:
        return (
            f"expected a Ray cluster that this machine belongs to, found none ({cause(error)}); start one with "
            f"`ray start --head`, or take --ray={LOCAL} for one of this run's own"
        )
    return f"cannot use Ray at {address}: {cause(error)}"
