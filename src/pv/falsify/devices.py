"""This machine -> which device classes it has, and for each that it lacks, why and what to install.

Drivers are asked in child processes: a broken one may crash, hang or print, and neither torch nor wgpu is ever loaded
into the process that reads contracts.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from pv.contract.vocabulary import DeviceClass
from pv.falsify.environment import cpu

PROBE_TIMEOUT = 120.0  # seconds; the first start of a CUDA driver may take half a minute
VULKAN_DRIVERS = "apt-get install libvulkan1 mesa-vulkan-drivers"


@dataclass(frozen=True, slots=True)
class Card:
    """One graphics card: `visible` is what CUDA_VISIBLE_DEVICES says in a process that shall see no other card.

    `identity` is the same in every process of the machine, whatever that process sees: the card's UUID.
    """

    visible: str = ""
    name: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One device class here: `name` and `driver` as the driver tells them, or `why_not`, with what to do about it.

    `cards` are all that CUDA can compute on, in its own order; `name` is that of the first.
    """

    device: DeviceClass
    name: str = ""
    driver: str = ""
    why_not: str = ""
    cards: tuple[Card, ...] = ()

    @property
    def present(self) -> bool:
        return not self.why_not


Devices = Mapping[DeviceClass, DeviceReport]


def present(wanted: Iterable[DeviceClass] = tuple(DeviceClass)) -> Devices:
    """A report for each wanted device class, in the order of the vocabulary; each is probed once per process."""
    chosen = sorted(set(wanted), key=list(DeviceClass).index)
    probes = {DeviceClass.CUDA: _cuda, DeviceClass.CPU: _cpu}
    with ThreadPoolExecutor(max_workers=2) as pool:  # the two drivers start side by side
        waiting = {device: pool.submit(probes.get(device, _of_wgpu), device) for device in chosen}
        return {device: report.result() for device, report in waiting.items()}


def _cpu(device: DeviceClass) -> DeviceReport:
    return DeviceReport(device, cpu())


def _cuda(device: DeviceClass) -> DeviceReport:
    if sys.platform == "darwin":
        return DeviceReport(device, why_not="CUDA does not exist on macOS")
    if sys.platform == "linux" and not any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/dxg")):
        return DeviceReport(device, why_not="no NVIDIA device here (no /dev/nvidiactl)")
    if util.find_spec("torch") is None:
        return DeviceReport(device, why_not="torch is not installed; install a CUDA build of it")
    answer = _ask("cuda")
    if answer.get("name"):
        return DeviceReport(device, str(answer["name"]), str(answer["driver"]), cards=cards_of(answer))
    return DeviceReport(device, why_not=str(answer["why_not"]))


def cards_of(answer: Mapping[str, Any]) -> tuple[Card, ...]:
    """The cards that the CUDA probe lists, under the names that CUDA_VISIBLE_DEVICES has for them here.

    Where that variable narrows what we see, CUDA counts along its entries.
    """
    seen = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    return tuple(
        Card(
            seen[int(card["index"])] if int(card["index"]) < len(seen) else str(card["index"]),
            str(card["name"]),
            str(card["identity"]),
        )
        for card in answer.get("cards", ())
    )


def _of_wgpu(device: DeviceClass) -> DeviceReport:
    if util.find_spec("wgpu") is None:
        return DeviceReport(device, why_not="wgpu is not installed; pip install 'provable-contracts-pv[gpu]'")
    if device is DeviceClass.METAL and sys.platform != "darwin":
        return DeviceReport(device, why_not="Metal exists on macOS only")
    answer = _adapters()
    return pick(device, answer.get("adapters", []), str(answer.get("why_not", "")), loader=_vulkan_loader())


def pick(device: DeviceClass, adapters: list[dict[str, str]], failure: str, *, loader: bool) -> DeviceReport:
    """The best adapter of a class among those that wgpu lists, or why there is none. `loader`: libvulkan is here."""
    fitting = [adapter for adapter in adapters if class_of(adapter) is device]
    if fitting:
        best = min(fitting, key=lambda adapter: adapter["type"] != "DiscreteGPU")
        return DeviceReport(device, best["name"], best["driver"])
    if failure:
        why = failure
    elif device is DeviceClass.METAL:
        why = "wgpu finds no Metal adapter"
    elif not loader and sys.platform == "linux":
        why = f"no libvulkan.so.1; {VULKAN_DRIVERS}"
    elif software := [adapter for adapter in adapters if class_of(adapter) is DeviceClass.VULKAN_SW]:
        why = f"only a software driver ({software[0]['name']}), which never counts as a Vulkan device"
    elif device is DeviceClass.VULKAN_SW:
        why = f"no software Vulkan driver; {VULKAN_DRIVERS}"
    else:
        why = "the Vulkan loader finds no driver; install the one of the card"
    return DeviceReport(device, why_not=why)


def class_of(adapter: Mapping[str, str]) -> DeviceClass | None:
    """The device class of an adapter as wgpu describes it; None for what is none of ours (OpenGL)."""
    if adapter["backend"] == "Metal":
        return DeviceClass.METAL
    if adapter["backend"] == "Vulkan":
        return DeviceClass.VULKAN_SW if adapter["type"] == "CPU" else DeviceClass.VULKAN
    return None


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Installed versions, "" for what is not installed; nothing is imported."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _adapters() -> dict[str, Any]:
    with _ADAPTERS:  # the classes of Vulkan are asked for side by side; one probe answers them all
        return _ask("wgpu")


_ADAPTERS = threading.Lock()


@cache
def _ask(what: str) -> dict[str, Any]:
    """Run a probe in a child; its last line of output is JSON. A child that fails is a reason, never an exception."""
    command = [sys.executable, "-P", "-m", "pv.falsify.probe", what]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=False)
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"why_not": f"the {what} probe did not answer within {PROBE_TIMEOUT:g} s"}
    except (ValueError, IndexError):
        said = done.stderr.strip().splitlines()
        return {"why_not": f"the {what} probe ended with exit code {done.returncode}: {said[-1] if said else 'silent'}"}
    return answer if isinstance(answer, dict) else {"why_not": f"the {what} probe said {answer!r}"}


def _vulkan_loader() -> bool:
    return ctypes.util.find_library("vulkan") is not None
