"""The bytes of a GGUF file -> what they announce: metadata, tensors and where their data lies; all of it checked.

Nothing is believed before it is compared with the file's size: counts, lengths, dimensions, offsets. So a damaged or
hostile file ends in a sentence, and never in an allocation larger than the file. The `gguf` package's own reader
trusts counts and offsets, and makes two array views for each token (6 s for a vocabulary of 151,936, where this takes
0.2 s); its constants are used here, its writer by `gguf_write`, and its reader is what the tests compare with.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType

from pv.model.errors import FormatError, WeightsError

MAGIC, VERSIONS = b"GGUF", (2, 3)
KEY_LIMIT, NAME_LIMIT, DIMENSION_LIMIT = 65535, 64, 4  # the format's own
SCALARS: dict[int, struct.Struct] = {
    GGUFValueType.UINT8: struct.Struct("<B"), GGUFValueType.INT8: struct.Struct("<b"),
    GGUFValueType.UINT16: struct.Struct("<H"), GGUFValueType.INT16: struct.Struct("<h"),
    GGUFValueType.UINT32: struct.Struct("<I"), GGUFValueType.INT32: struct.Struct("<i"),
    GGUFValueType.FLOAT32: struct.Struct("<f"), GGUFValueType.BOOL: struct.Struct("<?"),
    GGUFValueType.UINT64: struct.Struct("<Q"), GGUFValueType.INT64: struct.Struct("<q"),
    GGUFValueType.FLOAT64: struct.Struct("<d"),
}  # fmt: skip
CUT = "is the file complete?"

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file. `shape` is row-major, (rows, columns): the file has it the other way round."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int  # in the file
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header. Arrays of numbers are numpy arrays, arrays of strings lists."""

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]


def read_header(path: Path) -> Header:
    """Read and check. Raises FormatError when it is no GGUF file that pv reads, WeightsError when it is damaged."""
    try:
        size = path.stat().st_size
        if size < 24:
            raise WeightsError(f"expected a GGUF file of at least 24 bytes at {path}, got {size}", CUT)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Cursor(data, path))
    except OSError as problem:
        raise FormatError(f"cannot read {path}: {problem.strerror}") from None


class _Cursor:
    """A place in the file, and reads that refuse to pass its end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.size, self.at = data, path, len(data), 0

    @property
    def left(self) -> int:
        return self.size - self.at

    def error(self, message: str, hint: str = CUT) -> WeightsError:
        return WeightsError(f"{message} in {self.path}", hint)

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise self.error(f"expected {count} bytes of {what} at byte {self.at}, got {self.left}")
        self.at += count
        return self.data[self.at - count : self.at]

    def scalar(self, form: struct.Struct, what: str) -> Any:
        if form.size > self.left:
            raise self.error(f"expected {form.size} bytes of {what} at byte {self.at}, got {self.left}")
        (value,) = form.unpack_from(self.data, self.at)
        self.at += form.size
        return value

    def text(self, what: str, limit: int | None = None) -> str:
        length = self.scalar(_U64, f"the length of {what}")
        if limit is not None and length > limit:
            raise self.error(f"expected {what} of at most {limit} bytes at byte {self.at}, got {length}")
        raw = self.take(length, what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.error(f"expected UTF-8 for {what}, got {raw[:32]!r} at byte {self.at - length}") from None

    def count(self, what: str, least: int) -> int:
        """A number of things of at least `least` bytes each; more than the rest of the file holds is refused."""
        count = int(self.scalar(_U64, f"the number of {what}"))
        if count * least > self.left:
            raise self.error(f"expected at most {self.left // least} {what} in {self.left} bytes, got {count}")
        return count


def _parse(at: _Cursor) -> Header:
    version = _version(at)
    tensors = at.count("tensors", least=32)  # name 8+0, dimensions 4+8, type 4, offset 8
    entries = at.count("metadata entries", least=13)  # key 8+0, type 4, value 1
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = at.text("a metadata key", KEY_LIMIT)
        if key in metadata:
            raise at.error(f"metadata key {key!r} occurs twice")
        metadata[key] = _value(at, key)
    alignment = _alignment(at, metadata)
    described = [_tensor(at) for _ in range(tensors)]
    start = -(-at.at // alignment) * alignment
    if start > at.size and described:
        raise at.error(f"expected tensor data at byte {start}, but the file ends at byte {at.size}")
    return Header(at.path, version, metadata, _placed(at, described, start, alignment))


def _version(at: _Cursor) -> int:
    magic = at.take(4, "the magic")
    if magic != MAGIC:
        raise FormatError(f"expected a GGUF file at {at.path}, got one that starts with {magic!r}")
    version = int(at.scalar(_U32, "the version"))
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if swapped in VERSIONS:
            raise FormatError(f"{at.path} is a big-endian GGUF file", "convert it with gguf-convert-endian")
        raise FormatError(
            f"expected GGUF version 2 or 3 in {at.path}, got {version}", "write it again with newer tools"
        )
    return version


def _value(at: _Cursor, key: str) -> Any:
    kind = at.scalar(_U32, f"the type of {key!r}")
    if kind == GGUFValueType.STRING:
        return at.text(f"the value of {key!r}")
    if kind in SCALARS:
        return at.scalar(SCALARS[kind], f"the value of {key!r}")
    if kind != GGUFValueType.ARRAY:
        raise at.error(f"expected a metadata type from 0 to {max(GGUFValueType)} for {key!r}, got {kind}")
    inner = at.scalar(_U32, f"the element type of {key!r}")
    if inner == GGUFValueType.STRING:
        return [at.text(f"an element of {key!r}") for _ in range(at.count(f"elements of {key!r}", least=8))]
    if inner not in SCALARS:
        word = "nested arrays are not read" if inner == GGUFValueType.ARRAY else f"got {inner}"
        raise at.error(f"expected an array of numbers or strings for {key!r}; {word}")
    form = SCALARS[inner]
    count = at.count(f"elements of {key!r}", least=form.size)
    return np.frombuffer(at.take(count * form.size, f"the elements of {key!r}"), dtype=np.dtype(form.format))


def _alignment(at: _Cursor, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise at.error(f"expected general.alignment to be a power of two from 8 to {1 << 20}, got {alignment!r}")
    return alignment


def _tensor(at: _Cursor) -> TensorInfo:
    """One description; `start` is still relative to the tensor data."""
    name = at.text("a tensor's name", NAME_LIMIT)
    count = int(at.scalar(_U32, f"the number of dimensions of {name!r}"))
    if not 1 <= count <= DIMENSION_LIMIT:
        raise at.error(f"expected 1 to {DIMENSION_LIMIT} dimensions for {name!r}, got {count}")
    shape = tuple(int(at.scalar(_U64, f"a dimension of {name!r}")) for _ in range(count))[::-1]
    code = int(at.scalar(_U32, f"the type of {name!r}"))
    start = int(at.scalar(_U64, f"the offset of {name!r}"))
    try:
        kind = GGMLQuantizationType(code)
    except ValueError:
        raise at.error(f"unknown type {code} of {name!r}", "a newer `gguf` package may know it") from None
    if min(shape) < 1 or prod(shape) > 8 * at.size:
        raise at.error(f"expected dimensions of {name!r} that fit into {at.size} bytes, got {list(shape)}")
    block, size = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise at.error(f"expected rows of a multiple of {block} values for {name!r} ({kind.name}), got {shape[-1]}")
    return TensorInfo(name, kind, shape, start, prod(shape) // block * size)


def _placed(at: _Cursor, tensors: list[TensorInfo], start: int, alignment: int) -> tuple[TensorInfo, ...]:
    """The tensors with their place in the file: inside it, aligned, one behind the other, none over another."""
    twice = [name for name, count in Counter(tensor.name for tensor in tensors).items() if count > 1]
    if twice:
        raise at.error(f"tensor {twice[0]!r} occurs twice")
    end = start
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        want = -(-end // alignment) * alignment - start
        if tensor.start % alignment:
            raise at.error(
                f"expected the offset of {tensor.name!r} to be a multiple of {alignment}, got {tensor.start}"
            )
        if tensor.start != want:
            fault = "overlaps the tensor before it" if tensor.start < want else "leaves a gap before it"
            raise at.error(f"expected {tensor.name!r} at offset {want}, got {tensor.start}: it {fault}")
        end = start + tensor.start + tensor.nbytes
        if end > at.size:
            raise at.error(
                f"expected {tensor.nbytes} bytes of {tensor.name!r}, got {max(0, at.size + tensor.nbytes - end)}"
            )
    if tensors and at.size - end >= alignment:
        raise at.error(f"expected the file to end near byte {end}, after its last tensor, got {at.size} bytes")
    return tuple(TensorInfo(t.name, t.type, t.shape, start + t.start, t.nbytes) for t in tensors)
