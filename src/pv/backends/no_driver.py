"""Keep the NVIDIA driver out of a process that asked for no GPU.

The CUDA build of torch loads cuBLAS, and cuBLAS asks the system for `libcuda.so.1` in its constructor: to import torch
is to map the driver, context or not. (Seen with torch 2.11 and CUDA 13.) A driver that crashes when it is mapped is a
reason to say `--no-gpu`, so the promise is kept: an empty library of that very name is loaded first, and the dynamic
loader, which looks among loaded libraries by their SONAME, hands it to whoever asks (dlopen(3), ld.so(8)). It has no
symbol, so everyone finds what a machine without a driver would give.

No import of torch here, nor before `hide_cuda_driver` is called.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

SONAME = b"libcuda.so.1"
MACHINES = {"x86_64": 62, "aarch64": 183}  # ELF's numbers of the processors that CUDA runs on

_held: list[ctypes.CDLL] = []


def hide_cuda_driver() -> bool:
    """Load the empty stand-in, once. False where there is nothing to hide from: no Linux, another processor, too late.

    Too late means that torch, or the driver itself, is in the process already.
    """
    if _held:
        return True
    if sys.platform != "linux" or platform.machine() not in MACHINES or "torch" in sys.modules or _mapped():
        return False
    descriptor = os.memfd_create("pv-no-driver")
    try:
        os.write(descriptor, empty_library(MACHINES[platform.machine()]))
        _held.append(ctypes.CDLL(f"/proc/self/fd/{descriptor}"))
    except OSError:  # a system that refuses anonymous libraries keeps its driver; `pv run` says nothing false about it
        return False
    finally:
        os.close(descriptor)
    return True


def _mapped() -> bool:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            return any("libcuda.so" in line for line in lines)
    except OSError:
        return False


def empty_library(machine: int) -> bytes:
    """A shared object with a name and nothing else (Tool Interface Standard, ELF 1.2; System V ABI, 64 bits)."""
    names = b"\0" + SONAME + b"\0"
    headers = 64 + 3 * 56
    hashes_at = headers
    symbols_at = hashes_at + 16
    names_at = symbols_at + 24
    dynamic_at = -(-(names_at + len(names)) // 8) * 8
    dynamic = b"".join(
        struct.pack("<qQ", tag, value)
        for tag, value in (
            (14, 1),  # DT_SONAME: at 1 in the names
            (4, hashes_at),  # DT_HASH
            (5, names_at),  # DT_STRTAB
            (6, symbols_at),  # DT_SYMTAB
            (10, len(names)),  # DT_STRSZ
            (11, 24),  # DT_SYMENT
            (0, 0),  # DT_NULL
        )
    )
    size = dynamic_at + len(dynamic)
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian, version 1
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)  # 3: a shared object
    readable_writable = 6
    programs = (
        struct.pack("<IIQQQQQQ", 1, readable_writable, 0, 0, 0, size, size, 0x1000),  # PT_LOAD: all of it
        struct.pack(
            "<IIQQQQQQ", 2, readable_writable, dynamic_at, dynamic_at, dynamic_at, len(dynamic), len(dynamic), 8
        ),
        struct.pack("<IIQQQQQQ", 0x6474E551, readable_writable, 0, 0, 0, 0, 0, 16),  # PT_GNU_STACK: not executable
    )
    hashes = struct.pack("<IIII", 1, 1, 0, 0)  # one bucket, one symbol, both null
    body = header + b"".join(programs) + hashes + bytes(24) + names
    return body.ljust(dynamic_at, b"\0") + dynamic
