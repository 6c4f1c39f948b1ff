"""Choosing an adapter: Vulkan alone, hardware before software, a wish by name, and sentences when there is none."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pv.backends.protocol import BackendError
from pv.backends.wgpu_blocks import LAYOUTS
from pv.backends.wgpu_device import Device, Region, facts_of, pick_adapter, sources, vulkan_adapters


def adapter(name: str, kind: str, api: str = "Vulkan") -> SimpleNamespace:
    info = {"device": name, "adapter_type": kind, "backend_type": api, "description": "driver 1"}
    return SimpleNamespace(info=info, limits={"max-storage-buffer-binding-size": 1 << 27})


CARD, SOFT = adapter("NVIDIA H200", "DiscreteGPU"), adapter("llvmpipe", "CPU")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("", CARD), ("hardware", CARD), ("software", SOFT), ("h200", CARD), ("LLVM", SOFT)],
)
def test_the_first_that_fits_is_taken(wanted, expected):
    assert pick_adapter([CARD, SOFT], wanted) is expected


def test_hardware_comes_before_software_and_opengl_not_at_all(monkeypatch):
    twin, inner = adapter("NVIDIA H200", "DiscreteGPU", "OpenGL"), adapter("Iris", "IntegratedGPU")
    gpu = SimpleNamespace(enumerate_adapters_sync=lambda: [SOFT, twin, inner, CARD])
    monkeypatch.setattr("pv.backends.wgpu_device._vulkan_only", lambda: gpu)
    assert vulkan_adapters() == [CARD, inner, SOFT]


def test_no_adapter_is_a_sentence_with_a_way_out():
    with pytest.raises(
        BackendError, match=r"no Vulkan adapter found \(install a Vulkan driver; scripts/install-vulkan.sh"
    ):
        pick_adapter([])


def test_a_wish_that_nothing_fulfils_names_what_there_is():
    with pytest.raises(BackendError, match=r"no Vulkan adapter fits PV_WGPU_ADAPTER='hardware'; found 'llvmpipe'"):
        pick_adapter([SOFT], "hardware")


def test_software_is_called_software():
    assert facts_of(SOFT).device_class == "vulkan-sw"
    assert facts_of(SOFT).software
    assert facts_of(CARD).device_class == "vulkan"
    assert not facts_of(CARD).software


def test_opengl_is_refused():
    with pytest.raises(BackendError, match="expected a Vulkan adapter, got OpenGL: llvmpipe"):
        Device(adapter("llvmpipe", "CPU", "OpenGL"))


def test_every_shader_states_its_constants():
    whole = {
        "add", "append", "bias", "context", "embedding", "matmul", "matvec", "multiply", "quantize", "rmsnorm", "rope",
        "scores", "silu", "softmax", "blocks_embedding", "blocks_matmul", "blocks_matvec",
    }  # fmt: skip
    texts = sources()
    parts = {"common", "blocks", "blocks_q5"} | {f"blocks_{kind.lower()}" for kind in LAYOUTS}
    assert set(texts) == whole | parts
    for name in whole:
        assert "Constants:" in texts[name], name
        assert "fn main(" in texts[name], name
    assert "struct Step" in texts["common"]


def test_importing_the_backend_imports_no_wgpu():
    code = "import sys, pv.backends.wgpu_session, pv.parity.defects; print('wgpu' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"


def test_a_machine_without_the_package_gets_a_sentence():
    code = (
        "import sys; sys.modules['wgpu'] = None\n"
        "from pv.backends.wgpu_device import vulkan_adapters\n"
        "from pv.backends.protocol import BackendError\n"
        "try:\n"
        "    vulkan_adapters()\n"
        "except BackendError as problem:\n"
        "    print(problem)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("wgpu: the wgpu package cannot be used")
    assert "pip install wgpu" in done.stdout


@pytest.mark.usefixtures("vulkan")
def test_opening_a_device_prints_nothing():
    code = "from pv.backends.wgpu_device import Device; Device().close()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.usefixtures("vulkan")
@pytest.mark.parametrize("size", [100, 256, 1024, 5000])
def test_what_waits_in_host_memory_is_bounded_however_small_the_writes(monkeypatch, size):
    """wgpu keeps a copy of everything written until the next submit: 30 GB of weights must not pile up there."""
    monkeypatch.setattr("pv.backends.wgpu_device.UPLOAD_BYTES", 1024)
    device = Device()
    waiting, most = 0, 0
    write, submit = device.queue.write_buffer, device.queue.submit

    def counted_write(buffer, offset, data):
        nonlocal waiting, most
        waiting += len(data)
        most = max(most, waiting)
        write(buffer, offset, data)

    def counted_submit(commands):
        nonlocal waiting
        waiting = 0
        submit(commands)

    device.queue.write_buffer, device.queue.submit = counted_write, counted_submit
    region = device.allocate("weights", 1 << 16)
    sent = np.random.default_rng(0).integers(0, 256, 4 * size, dtype=np.uint8)
    for at in range(20):
        device.write(Region(region.buffer, 64 * at, 1 << 15), sent[:size])
    device.write(region, sent)
    assert most < 2 * 1024
    assert device.read(region).view(np.uint8)[: 4 * size].tobytes() == sent.tobytes()
    device.close()
