"""What checks of several contracts stand on: the cell's backend and adapter, and a truth as a measurement."""

from __future__ import annotations

from typing import Any

from pv.falsify import Measurement, measure


def backend_of(context: Any) -> str:
    """The backend that drives the cell's device."""
    return {"cuda": "cuda", "cpu": "cpu"}.get(context.cell.device.value, "wgpu")


def adapter_variables(context: Any) -> dict[str, str]:
    """The variable that makes wgpu take the kind of Vulkan driver that the cell is about; nothing for other devices."""
    adapter = {"vulkan": "hardware", "vulkan-sw": "software"}.get(context.cell.device.value)
    return {"PV_WGPU_ADAPTER": adapter} if adapter else {}


def holds(name: str, value: bool, n: int = 1) -> Measurement:
    """A truth as a measurement."""
    return measure(name, bool(value), unit="bool", n=n)
