"""wgpu -> one Vulkan device with buffers, kernels, waits that end, and every failure turned into a `BackendError`.

Vulkan is required: the OpenGL twin of an adapter is refused. A software adapter (Mesa's lavapipe) is accepted and
called software. `PV_WGPU_ADAPTER` picks among several: `hardware`, `software`, or a part of an adapter's name.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from pv.backends.protocol import BackendError, DeviceFacts

BACKEND = "wgpu"
WATCHDOG_SECONDS = 120.0
UPLOAD_BYTES = 64 << 20  # written at most before a submit: wgpu keeps a copy of them until then
GUARD_FLOATS = 1024  # on each side of a guarded buffer, as llama.cpp's test-backend-ops does
GUARD_BITS = 0x7FC5A5A5  # a quiet NaN of our own: read by mistake it poisons the result, overwritten it is missed
_BINDING = re.compile(r"@binding\((\d+)\)\s+var<(storage, read_write|storage, read|uniform)>")


class Tuning(NamedTuple):
    """How work is cut. `matvec`, `blocks` (the same of quantized weights), `reduce`: (lanes side by side, teams in a
    workgroup); `rows`, `block_rows`: rows a team takes at once; `splits`: parts of the keys summed side by side;
    `first`, `batch`: dispatches in the first submit and in one at most, doubled in between, so that a GPU starts early.
    """

    matvec: tuple[int, int]
    rows: int
    blocks: tuple[int, int]
    block_rows: int
    reduce: tuple[int, int]
    splits: int
    first: int
    batch: int


# A GPU wants coalesced lanes and many bytes in flight; a software driver wants few lanes, since barriers cost it dearly
# (decoding the tiny teacher on lavapipe: 6.7 ms with these, 10.7 ms with one lane, 27 ms with the GPU's).
HARDWARE = Tuning(
    matvec=(128, 1), rows=1, blocks=(32, 4), block_rows=2, reduce=(256, 1), splits=8, first=8, batch=64
)  # fmt: skip
SOFTWARE = Tuning(
    matvec=(8, 4), rows=4, blocks=(8, 4), block_rows=4, reduce=(1, 8), splits=1, first=1 << 30, batch=1 << 30
)  # fmt: skip


class Region(NamedTuple):
    """A part of a device buffer, in bytes. `fence`: sentinels behind it, inside what a shader can reach."""

    buffer: Any  # wgpu has no types for mypy
    offset: int
    size: int
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Kernel:
    """A compiled shader with its explicit layout (an automatic one would drop bindings that a shader does not use)."""

    name: str
    pipeline: Any
    layout: Any
    bindings: int


class Guarded(NamedTuple):
    """A buffer with sentinels before and behind its data."""

    name: str
    region: Region


def vulkan_adapters() -> list[Any]:
    """All Vulkan adapters, best first: discrete, integrated, virtual, software. Raises BackendError without wgpu."""
    gpu = _vulkan_only()
    with _translated("looking for adapters"), _runtime_folder():
        found = [a for a in gpu.enumerate_adapters_sync() if a.info.get("backend_type") == "Vulkan"]
    order = {"DiscreteGPU": 0, "IntegratedGPU": 1, "Unknown": 2, "CPU": 3}
    return sorted(found, key=lambda adapter: order.get(adapter.info.get("adapter_type", ""), 2))


def facts_of(adapter: Any) -> DeviceFacts:
    """What an adapter says of itself."""
    info = adapter.info
    software = info.get("adapter_type") == "CPU"
    return DeviceFacts(
        backend=BACKEND,
        device_class="vulkan-sw" if software else "vulkan",
        name=str(info.get("device", "")),
        driver=str(info.get("description", "")),
        software=software,
        details={
            "api": str(info.get("backend_type", "")),
            "adapter_type": str(info.get("adapter_type", "")),
            "max_binding_bytes": str(adapter.limits.get("max-storage-buffer-binding-size", 0)),
        },
    )


def pick_adapter(adapters: Sequence[Any], wanted: str = "") -> Any:
    """The adapter to use. `wanted`: `hardware`, `software`, part of a name, or "" for the best. Raises BackendError."""
    if not adapters:
        raise BackendError(
            BACKEND,
            "no Vulkan adapter found",
            "install a Vulkan driver; scripts/install-vulkan.sh brings a software one",
        )
    for adapter in adapters:
        facts = facts_of(adapter)
        if (
            not wanted
            or wanted == ("software" if facts.software else "hardware")
            or wanted.lower() in facts.name.lower()
        ):
            return adapter
    names = ", ".join(repr(facts_of(a).name) for a in adapters)
    raise BackendError(BACKEND, f"no Vulkan adapter fits PV_WGPU_ADAPTER={wanted!r}; found {names}")


class Device:
    """One open device: it makes buffers and kernels, submits, waits with a watchdog, and knows its limits."""

    def __init__(self, adapter: Any | None = None, *, watchdog: float = WATCHDOG_SECONDS) -> None:
        self.adapter = adapter or pick_adapter(vulkan_adapters(), os.environ.get("PV_WGPU_ADAPTER", ""))
        self.facts = facts_of(self.adapter)
        if self.facts.details["api"] != "Vulkan":
            raise BackendError(
                BACKEND, f"expected a Vulkan adapter, got {self.facts.details['api']}: {self.facts.name}"
            )
        self.tuning = SOFTWARE if self.facts.software else HARDWARE
        self.watchdog = watchdog
        with _translated("opening the device"):
            self._device = self.adapter.request_device_sync(required_limits=_limits(self.adapter))
        self.queue = self._device.queue
        limits = self._device.limits
        self.max_binding: int = min(limits["max-storage-buffer-binding-size"], limits["max-buffer-size"]) // 256 * 256
        self.max_groups: int = limits["max-compute-workgroups-per-dimension"]
        self._kernels: dict[tuple[object, ...], Kernel] = {}
        self._waiter: _Waiter | None = None
        self._readback: Any = None
        self._waiting = 0  # bytes written since the last submit: wgpu keeps a copy of them
        self._stash: Region | None = None

    # -- buffers ----------------------------------------------------------------------------------------------

    def allocate(self, name: str, size: int, *, uniform: bool = False, guard: bool = False) -> Region:
        """A zeroed buffer of `size` bytes; `guard`: sentinels before it and, within a shader's reach, behind it."""
        import wgpu

        usage = wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.COPY_SRC
        usage |= wgpu.BufferUsage.UNIFORM if uniform else wgpu.BufferUsage.STORAGE
        size = max(16, (size + 15) // 16 * 16)
        fence = 4 * GUARD_FLOATS if guard else 0
        if size + fence > self.max_binding:
            raise BackendError(BACKEND, f"{name} needs {size} bytes, more than one binding of {self.max_binding} holds")
        with _translated(f"allocating {size / 2**20:.1f} MiB for {name}"):
            buffer = self._device.create_buffer(label=name, size=size + 2 * fence, usage=usage)
        region = Region(buffer, fence, size, fence)
        if guard:
            fences = np.full(GUARD_FLOATS, GUARD_BITS, np.uint32)
            self.write(Region(buffer, 0, fence), fences)
            self.write(Region(buffer, fence + size, fence), fences)
        return region

    def write(self, region: Region, values: np.ndarray) -> None:
        """Copy a C-contiguous array into the region's beginning, in pieces that never pile up in host memory."""
        data = memoryview(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
        if len(data) > region.size:
            raise BackendError(BACKEND, f"expected at most {region.size} bytes for a buffer, got {len(data)}")
        with _translated("writing to the device"):
            for at in range(0, len(data), UPLOAD_BYTES):
                piece = data[at : at + UPLOAD_BYTES]
                self.queue.write_buffer(region.buffer, region.offset + at, piece)
                self._waiting += len(piece)
                if self._waiting >= UPLOAD_BYTES:
                    # Reading four bytes back waits for the copies. (The queue's own promise cannot be used: the
                    # callback of `on_submitted_work_done_async` in wgpu-py 0.32 is not of the type that its library
                    # declares.)
                    self.read(Region(region.buffer, region.offset + at, 4, 0))

    def read(self, region: Region) -> np.ndarray:
        """The region's bytes as float32, after all that was submitted. Waits at most `watchdog` seconds."""
        with _translated("reading from the device"):
            encoder = self._device.create_command_encoder()
            target = self.readback(region.size)
            encoder.copy_buffer_to_buffer(region.buffer, region.offset, target, 0, region.size)
            self.submit([encoder.finish()])
            return self.fetch(target, region.size)

    def readback(self, size: int) -> Any:
        """The one mappable buffer, grown to at least `size` bytes."""
        import wgpu

        if self._readback is None or self._readback.size < size:
            usage = wgpu.BufferUsage.MAP_READ | wgpu.BufferUsage.COPY_DST
            with _translated(f"allocating {size / 2**20:.1f} MiB to read back"):
                self._readback = self._device.create_buffer(label="readback", size=max(size, 1 << 16), usage=usage)
        return self._readback

    def fetch(self, target: Any, size: int) -> np.ndarray:
        """The first `size` bytes of the mappable buffer as float32, copied, once the device has written them."""
        import wgpu

        self._wait_for(target.map_async(wgpu.MapMode.READ, 0, size))
        try:
            return np.frombuffer(target.read_mapped(0, size, copy=True), np.float32)
        finally:
            target.unmap()

    # -- work -------------------------------------------------------------------------------------------------

    def kernel(self, name: str, source: str, constants: Mapping[str, int | float]) -> Kernel:
        """A shader compiled with its constants; the same shader with the same constants is compiled once."""
        key = (source, *sorted(constants.items()))
        if key not in self._kernels:
            with _translated(f"compiling {name}.wgsl"):
                self._kernels[key] = self._compile(name, _declared(constants) + source)
        return self._kernels[key]

    def _compile(self, name: str, source: str) -> Kernel:
        import wgpu

        kinds = {"uniform": "uniform", "storage, read": "read-only-storage", "storage, read_write": "storage"}
        entries = [
            {"binding": int(n), "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": kinds[kind]}}
            for n, kind in _BINDING.findall(source)
        ]
        layout = self._device.create_bind_group_layout(entries=entries)
        pipeline = self._device.create_compute_pipeline(
            label=name,
            layout=self._device.create_pipeline_layout(bind_group_layouts=[layout]),
            compute={"module": self._device.create_shader_module(label=name, code=source), "entry_point": "main"},
        )
        return Kernel(name, pipeline, layout, len(entries))

    def bind(self, kernel: Kernel, regions: Sequence[Region]) -> Any:
        """A bind group over the regions in the order of the bindings; a region's fence belongs to its binding."""
        if len(regions) != kernel.bindings:
            raise BackendError(
                BACKEND, f"{kernel.name}.wgsl has {kernel.bindings} bindings, got {len(regions)} buffers"
            )
        entries = [
            {"binding": n, "resource": {"buffer": r.buffer, "offset": r.offset, "size": r.size + r.fence}}
            for n, r in enumerate(regions)
        ]
        with _translated(f"binding {kernel.name}"):
            return self._device.create_bind_group(layout=kernel.layout, entries=entries)

    def encoder(self) -> Any:
        """A fresh command encoder."""
        return self._device.create_command_encoder()

    def submit(self, commands: Sequence[Any]) -> None:
        """Hand command buffers to the queue, behind all that was written."""
        with _translated("submitting work"):
            self.queue.submit(list(commands))
        self._waiting = 0

    def _wait_for(self, promise: Any) -> None:
        """Wait for a promise in a thread that may be abandoned: a driver that hangs must not hang us."""
        waiter = self._waiter or _Waiter()
        self._waiter = None  # a waiter that hangs is not asked again
        if not waiter.wait(promise, self.watchdog):
            raise BackendError(BACKEND, f"the device gave no answer within {self.watchdog:g} s", "the driver may hang")
        self._waiter = waiter
        if waiter.problem is not None:
            raise waiter.problem

    def stash(self, size: int) -> Region:
        """The one buffer for captured tensors that wait to be read, grown to at least `size` bytes."""
        if self._stash is None or self._stash.size < size:
            self._stash = self.allocate("captured tensors", size)
        return self._stash

    def overwritten(self, guarded: Sequence[Guarded]) -> list[str]:
        """Which of these buffers have changed sentinels: a kernel wrote outside its tensor."""
        damaged = []
        for name, region in guarded:
            for at, side in ((region.offset - region.fence, "before"), (region.offset + region.size, "behind")):
                if (self.read(Region(region.buffer, at, region.fence)).view(np.uint32) != GUARD_BITS).any():
                    damaged.append(f"{side} {name}")
        return damaged

    def close(self) -> None:
        """Free the device. Never raises: it is called on the way out of failures too."""
        if self._waiter is not None:
            self._waiter.stop()
            self._waiter = None
        try:
            self._device.destroy()
        except Exception as problem:  # a lost device cannot be closed in order, and nobody can do anything about it
            logging.getLogger(__name__).debug("closing the device: %s", problem)


class _Waiter:
    """A thread that waits for one promise after another. Kept, since starting one costs as much as a small dispatch."""

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self._promises: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done = threading.Semaphore(0)
        threading.Thread(target=self._run, name="pv-wgpu-wait", daemon=True).start()

    def wait(self, promise: Any, seconds: float) -> bool:
        """Whether the promise was kept or broken in time; `problem` says which."""
        self._promises.put(promise)
        return self._done.acquire(timeout=seconds)

    def stop(self) -> None:
        """Let the thread end once it has nothing to wait for."""
        self._promises.put(None)

    def _run(self) -> None:
        while (promise := self._promises.get()) is not None:
            try:
                promise.sync_wait()
                self.problem = None
            except Exception as problem:
                self.problem = problem
            self._done.release()


@lru_cache(maxsize=1)
def sources() -> Mapping[str, str]:
    """Name -> text of every shader and every part of one, as the files have them."""
    folder = resources.files("pv.backends") / "shaders"
    return {f.name.removesuffix(".wgsl"): f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(".wgsl")}


def _declared(constants: Mapping[str, int | float]) -> str:
    """Constants in front of a shader: floats as f32, integers as u32."""
    return "".join(
        f"const {name}: f32 = {value!r};\n" if isinstance(value, float) else f"const {name}: u32 = {value}u;\n"
        for name, value in constants.items()
    )


def _limits(adapter: Any) -> dict[str, int]:
    """The adapter's own limits for what we use: the defaults would cap a binding at 128 MiB."""
    wanted = (
        "max-storage-buffer-binding-size",
        "max-buffer-size",
        "max-compute-invocations-per-workgroup",
        "max-compute-workgroup-size-x",
        "max-compute-workgroup-size-y",
        "max-compute-workgroup-storage-size",
    )
    return {name: adapter.limits[name] for name in wanted}


@lru_cache(maxsize=1)
def _vulkan_only() -> Any:
    """`wgpu.gpu`, its instance told to look at Vulkan alone: probing OpenGL costs time and prints noise on stderr."""
    try:
        import wgpu
        from wgpu.backends.wgpu_native.extras import set_instance_extras
    except (ImportError, OSError) as problem:
        raise BackendError(BACKEND, f"the wgpu package cannot be used: {problem}", "pip install wgpu") from problem
    logging.getLogger("wgpu").addHandler(logging.NullHandler())  # its errors reach the user as our one line
    logging.getLogger("wgpu").propagate = False
    with suppress(RuntimeError):  # somebody has made the instance already; the adapters are filtered anyway
        set_instance_extras(backends=["Vulkan"])
    return wgpu.gpu


@contextmanager
def _runtime_folder() -> Iterator[None]:
    """A runtime folder for the drivers, which look for a display server and print errors on stderr without one."""
    if os.environ.get("XDG_RUNTIME_DIR"):
        yield
        return
    os.environ["XDG_RUNTIME_DIR"] = tempfile.gettempdir()
    try:
        yield
    finally:
        del os.environ["XDG_RUNTIME_DIR"]


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn what wgpu raises into a BackendError that says what was being done."""
    import wgpu

    try:
        yield
    except BackendError:
        raise
    except wgpu.GPUOutOfMemoryError as problem:
        raise BackendError(
            BACKEND, f"out of device memory while {doing}", "use a smaller model, or --no-gpu"
        ) from problem
    except (wgpu.GPUError, RuntimeError, ValueError, OSError) as problem:
        raise BackendError(BACKEND, f"failed while {doing}: {_first_line(problem)}") from problem


def _first_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(problem).__name__
