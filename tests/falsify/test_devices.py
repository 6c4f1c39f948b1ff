"""Device classes: what is here, and for what is not, the reason and the remedy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pv.contract.vocabulary import DeviceClass
from pv.falsify import devices
from pv.falsify.devices import Card, cards_of, class_of, pick, present, versions

SOFTWARE = {"backend": "Vulkan", "type": "CPU", "name": "llvmpipe", "driver": "Mesa 25"}
INTEGRATED = {"backend": "Vulkan", "type": "IntegratedGPU", "name": "small card", "driver": "1"}
DISCRETE = {"backend": "Vulkan", "type": "DiscreteGPU", "name": "big card", "driver": "2"}
OPENGL = {"backend": "OpenGL", "type": "DiscreteGPU", "name": "big card", "driver": "2"}
METAL = {"backend": "Metal", "type": "IntegratedGPU", "name": "M9", "driver": ""}
VULKAN, SW = DeviceClass.VULKAN, DeviceClass.VULKAN_SW


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [(SOFTWARE, SW), (INTEGRATED, VULKAN), (DISCRETE, VULKAN), (OPENGL, None), (METAL, DeviceClass.METAL)],
)
def test_a_software_driver_is_never_a_vulkan_device(adapter, expected):
    assert class_of(adapter) is expected


@pytest.mark.parametrize(
    ("device", "adapters", "name"),
    [
        (VULKAN, [SOFTWARE, INTEGRATED, DISCRETE], "big card"),
        (SW, [DISCRETE, SOFTWARE], "llvmpipe"),
        (DeviceClass.METAL, [METAL], "M9"),
    ],
)
def test_the_best_adapter_of_a_class_is_named_with_its_driver(device, adapters, name):
    report = pick(device, adapters, "", loader=True)
    assert (report.present, report.name, report.why_not) == (True, name, "")


@pytest.mark.parametrize(
    ("device", "adapters", "failure", "loader", "why"),
    [
        (VULKAN, [], "", False, "no libvulkan.so.1; apt-get install libvulkan1 mesa-vulkan-drivers"),
        (SW, [], "", False, "no libvulkan.so.1; apt-get install libvulkan1 mesa-vulkan-drivers"),
        (VULKAN, [SOFTWARE], "", True, "only a software driver (llvmpipe), which never counts as a Vulkan device"),
        (SW, [DISCRETE], "", True, "no software Vulkan driver; apt-get install libvulkan1 mesa-vulkan-drivers"),
        (VULKAN, [OPENGL], "", True, "the Vulkan loader finds no driver; install the one of the card"),
        (VULKAN, [], "wgpu: OSError: broken", True, "wgpu: OSError: broken"),
        (DeviceClass.METAL, [DISCRETE], "", True, "wgpu finds no Metal adapter"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="names Linux packages")
def test_an_absent_class_says_why_and_what_to_install(device, adapters, failure, loader, why):
    report = pick(device, adapters, failure, loader=loader)
    assert (report.present, report.why_not) == (False, why)


def test_the_processor_is_always_present_and_probing_it_asks_no_driver(monkeypatch):
    monkeypatch.setattr(devices, "_ask", lambda what: pytest.fail(f"asked {what}"))
    report = present([DeviceClass.CPU])
    assert list(report) == [DeviceClass.CPU]
    assert report[DeviceClass.CPU].present
    assert report[DeviceClass.CPU].name


@pytest.mark.parametrize(
    ("probe", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the wgpu probe ended with exit code -11: silent"),
        ("raise OSError('no driver')", "the wgpu probe ended with exit code 1: OSError: no driver"),
        ("print('[1, 2]')", "the wgpu probe said [1, 2]"),
        ("print('hello')", "the wgpu probe ended with exit code 0: silent"),
        ("print('chatter'); print('{\"adapters\": []}')", None),
    ],
)
def test_a_driver_that_crashes_its_probe_is_a_reason(monkeypatch, probe, why):
    real = subprocess.run
    monkeypatch.setattr(devices.subprocess, "run", lambda command, **how: real([sys.executable, "-c", probe], **how))
    devices._ask.cache_clear()
    try:
        answer = devices._ask("wgpu")
    finally:
        devices._ask.cache_clear()
    assert answer == ({"why_not": why} if why else {"adapters": []})


def test_a_driver_that_hangs_is_a_reason(monkeypatch):
    real = subprocess.run
    monkeypatch.setattr(devices, "PROBE_TIMEOUT", 0.2)
    monkeypatch.setattr(devices.subprocess, "run", lambda command, **how: real(["sleep", "30"], **how))
    devices._ask.cache_clear()
    try:
        assert devices._ask("cuda") == {"why_not": "the cuda probe did not answer within 0.2 s"}
    finally:
        devices._ask.cache_clear()


def test_probing_every_class_loads_no_driver_here():
    code = (
        "import sys; from pv.falsify.devices import present; found = present()\n"
        "assert all(r.present != bool(r.why_not) for r in found.values()), found\n"
        "print(len(found), 'torch' in sys.modules, 'wgpu' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["5", "False", "False", "False"]


def test_versions_are_read_without_importing():
    assert versions(["click", "no-such-distribution"])["no-such-distribution"] == ""
    assert versions(["click"])["click"]


CARDS = {
    "cards": [{"index": 0, "name": "a", "identity": "u-0"}, {"index": 2, "name": "c", "identity": "u-2"}]
}  # the second one does not compute


@pytest.mark.parametrize(
    ("variable", "visible"), [(None, ("0", "2")), ("", ("0", "2")), ("4,GPU-b, 7", ("4", "7")), ("4", ("4", "2"))]
)
def test_cards_are_named_as_a_worker_must_be_told_of_them(monkeypatch, variable, visible):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert cards_of(CARDS) == (Card(visible[0], "a", "u-0"), Card(visible[1], "c", "u-2"))
