"""One tensor <-> one APRT file: 12 header bytes, then float32 little-endian values, NaN bits verbatim.

    bytes 0-3   b"APRT"
    bytes 4-7   u32 LE, the layer; 0xFFFFFFFF for a stage of the whole model
    bytes 8-11  u32 LE, the count of elements
    then        count float32 LE values

A file is 12 + 4 count bytes, no more, no less. The stage's name and the shape stand elsewhere (path, manifest), so a
reader of these bytes never depends on them.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC = b"APRT"
WHOLE_MODEL = 0xFFFFFFFF
HEADER = struct.Struct("<4sII")
MAX_COUNT = 0xFFFFFFFF


class AprtError(ValueError):
    """Bytes that are no APRT tensor, or values that cannot become one. Names the file, the expected and the found."""

    def __init__(self, path: os.PathLike[str] | str, problem: str) -> None:
        super().__init__(f"{os.fspath(path)}: {problem}")
        self.path, self.problem = Path(path), problem


@dataclass(frozen=True, slots=True)
class Header:
    """What the first 12 bytes say; `layer` is None for a stage of the whole model."""

    layer: int | None
    count: int

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return HEADER.size + 4 * self.count


class Written(NamedTuple):
    """A file that was written: its size in bytes and the sha256 of all of them, in hex."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class AprtTensor:
    """An open APRT file. `values`: read-only float32, shape (count,), backed by the file and not by memory."""

    path: Path
    layer: int | None
    values: NDArray[np.float32]
    _map: mmap.mmap

    def forget(self, first: int, last: int) -> None:
        """Tell the system that elements [first, last) have been used, so that a stream of them needs little memory."""
        start = -(-(HEADER.size + 4 * first) // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (HEADER.size + 4 * last) // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > start and hasattr(mmap, "MADV_DONTNEED"):  # absent on Windows, where this is only a lost courtesy
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)


def encode_header(layer: int | None, count: int) -> bytes:
    """The 12 bytes before the values. Raises ValueError for a layer or a count that 32 bits cannot carry."""
    if layer is not None and not 0 <= layer < WHOLE_MODEL:
        raise ValueError(f"expected a layer from 0 to {WHOLE_MODEL - 1}, got layer={layer}")
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"expected 1 to {MAX_COUNT} elements, got count={count}")
    return HEADER.pack(MAGIC, WHOLE_MODEL if layer is None else layer, count)


def decode_header(content: bytes, path: os.PathLike[str] | str) -> Header:
    """What the first 12 bytes say. Raises AprtError when there are fewer, or they are not an APRT header."""
    if len(content) < HEADER.size:
        raise AprtError(path, f"truncated: expected a header of {HEADER.size} bytes, found {len(content)} bytes")
    magic, layer, count = HEADER.unpack(content[: HEADER.size])
    if magic != MAGIC:
        raise AprtError(path, f"not an APRT file: expected it to start with {MAGIC!r}, found {magic!r}")
    if count == 0:
        raise AprtError(path, "empty: the header promises 0 elements, and a captured tensor has at least one")
    return Header(None if layer == WHOLE_MODEL else layer, count)


def is_aprt(path: os.PathLike[str] | str) -> bool:
    """Whether a regular file starts with the APRT magic. Never raises for a file that cannot be read."""
    try:
        with _open_regular(path) as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, AprtError):
        return False


def read_header(path: os.PathLike[str] | str) -> Header:
    """The header of a file whose size agrees with it; no value is read. Raises AprtError or OSError."""
    with _open_regular(path) as file:
        return _checked_header(file, path)


def open_aprt(path: os.PathLike[str] | str) -> AprtTensor:
    """Memory-map a file. Its size is compared with its header before anything is allocated.

    Raises AprtError for a file that is no APRT, truncated, oversized or empty, and OSError when it cannot be read.
    """
    with _open_regular(path) as file:
        header = _checked_header(file, path)
        mapped = mmap.mmap(file.fileno(), header.file_size, access=mmap.ACCESS_READ)
    values = np.frombuffer(mapped, dtype="<f4", count=header.count, offset=HEADER.size)
    return AprtTensor(Path(path), header.layer, values, mapped)


def write_aprt(path: os.PathLike[str] | str, layer: int | None, values: NDArray[np.float32]) -> Written:
    """Write values, of any shape, in C order. The file appears whole under its name, or not at all.

    Raises AprtError for values that are not float32 (a conversion would change NaN bits) or have no elements, and
    OSError when the disk is full or the folder cannot be written.
    """
    target = Path(path)
    with _appearing(target) as partial:
        content = write_new(partial, layer, values)
    return Written(target, content.size, content.sha256())


def write_new(path: os.PathLike[str] | str, layer: int | None, values: NDArray[np.float32]) -> Content:
    """Like `write_aprt`, straight under a name that is not taken: for a folder that nobody reads before it is done.

    Returns what was written, not yet hashed.
    """
    if values.dtype != np.float32:
        raise AprtError(path, f"expected float32 values, got {values.dtype}")
    try:
        header = encode_header(layer, values.size)
    except ValueError as error:
        raise AprtError(path, str(error)) from None
    content = Content(header, np.ascontiguousarray(values, dtype="<f4").reshape(-1))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        _write_all(descriptor, header, content.values.data.cast("B"))
    finally:
        os.close(descriptor)
    return content


class Content(NamedTuple):
    """The bytes of a file: its header, then its values, flat and contiguous."""

    header: bytes
    values: NDArray[np.float32]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.header) + self.values.nbytes

    def sha256(self) -> str:
        """sha256 of the file's bytes, in hex. Lets other threads run meanwhile."""
        digest = hashlib.sha256(self.header)
        digest.update(self.values.data.cast("B"))
        return digest.hexdigest()


def sha256_of(path: os.PathLike[str] | str) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_all(descriptor: int, header: bytes, view: memoryview) -> None:
    """Every byte or an OSError: on a nearly full disk the system may take only a part."""
    done = os.writev(descriptor, [header, view]) if hasattr(os, "writev") else os.write(descriptor, header)
    while done < len(header):
        done += os.write(descriptor, header[done:])
    done -= len(header)
    while done < len(view):
        done += os.write(descriptor, view[done:])


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A name beside the target whose file takes the target's name when the block ends well, and vanishes otherwise."""
    partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield partial
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _open_regular(path: os.PathLike[str] | str) -> BinaryIO:
    """Open for reading, refusing what would block or is no file (a pipe, a folder, a device)."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise AprtError(
            path, "expected a regular file, found " + ("a folder" if stat.S_ISDIR(mode) else "a special file")
        )
    return open(path, "rb")


def _checked_header(file: BinaryIO, path: os.PathLike[str] | str) -> Header:
    header = decode_header(file.read(HEADER.size), path)
    size = os.fstat(file.fileno()).st_size
    if size != header.file_size:
        problem = "truncated" if size < header.file_size else "oversized"
        raise AprtError(
            path,
            f"{problem}: expected {header.file_size} bytes for the {header.count} elements that the header promises, "
            f"found {size} bytes",
        )
    return header
