"""safetensors files, one or sharded -> memory-mapped weights; weights -> a safetensors file, tensor by tensor.

The header is checked here before any tensor is touched: it must describe the file exactly, byte by byte, so that a
truncated, padded or lying file is refused in a sentence and nothing larger than the file is ever allocated.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pv.model.errors import FormatError, WeightsError
from pv.model.folders import whole_file
from pv.model.spec import ModelSpec, read_json
from pv.model.weights import TYPE_OF_DTYPE, Weight, Weights, expected_shapes, hf_names

HEADER_LIMIT = 100_000_000  # the format's own
DTYPE_NAMES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
              "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}  # fmt: skip
NEVER_WEIGHTS = ("rotary_emb.inv_freq",)  # buffers that old checkpoints carry; the spec decides them


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: dtype in the format's word, shape, and its bytes counted from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> tuple[Entry, ...]:
    """The tensors of a safetensors file, in the order of their bytes. Raises WeightsError unless they fill it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 0 < length <= min(size - 8, HEADER_LIMIT):
                raise WeightsError(f"expected a safetensors header in {path}, got length {length} in {size} bytes", CUT)
            header = file.read(length)
    except OSError as problem:
        raise WeightsError(f"cannot read {path}: {problem.strerror}") from None
    entries = sorted(
        (_entry(n, d, path) for n, d in _objects(header, path)), key=lambda entry: (entry.start, entry.end)
    )
    _want_exact(entries, size - 8 - length, path)
    return tuple(entries)


CUT = "is the file complete?"


def _objects(header: bytes, path: Path) -> Iterator[tuple[str, Any]]:
    """Name and description of each tensor; a name that occurs twice is refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise WeightsError(f"a name occurs twice in the header of {path}")
        return dict(pairs)

    try:
        data = json.loads(header, object_pairs_hook=unique)
    except (ValueError, RecursionError) as problem:
        raise WeightsError(f"expected JSON in the header of {path}: {problem}", CUT) from None
    if not isinstance(data, dict):
        raise WeightsError(f"expected a JSON object in the header of {path}, got {type(data).__name__}")
    yield from ((name, described) for name, described in data.items() if name != "__metadata__")


def _entry(name: str, described: Any, path: Path) -> Entry:
    """One tensor's description, its numbers checked against one another."""
    described = described if isinstance(described, dict) else {}
    dtype, shape, offsets = (described.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2 and isinstance(dtype, str)):
        raise WeightsError(f"expected dtype, shape and data_offsets of {name!r} in {path}, got {described}")
    if dtype not in ITEM_BYTES:
        raise WeightsError(f"unknown dtype {dtype!r} of {name!r} in {path}")
    start, end = offsets
    if end - start != prod(shape) * ITEM_BYTES[dtype]:
        want = prod(shape) * ITEM_BYTES[dtype]
        raise WeightsError(f"expected {want} bytes for {name!r} {dtype}{shape}, got {end - start} in {path}")
    return Entry(name, dtype, tuple(shape), start, end)


def _naturals(value: Any) -> bool:
    """Whether `value` is a list of integers that a file position or a dimension can be."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _want_exact(entries: list[Entry], data_bytes: int, path: Path) -> None:
    """Raise unless the tensors lie one behind the other, from the first byte of the data to the last."""
    at = 0
    for entry in entries:
        if entry.start != at:
            raise WeightsError(f"expected {entry.name!r} at byte {at} of the data, got {entry.start} in {path}")
        at = entry.end
    if at != data_bytes:
        fate = "truncated" if data_bytes < at else "too long"
        raise WeightsError(f"expected {at} bytes of data in {path}, got {data_bytes}: the file is {fate}", CUT)


def shard_files(directory: Path) -> list[Path]:
    """The weight files of a model directory. Raises FormatError or WeightsError when there are none, or not all."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in directory.glob(pattern))
        if pickles:
            raise FormatError(f"{directory} holds pickled weights ({pickles[0]}), which can run code", PICKLE_WAYS_OUT)
        raise FormatError(f"expected model.safetensors or its index in {directory}, found neither", "is it a model?")
    return [directory / name for name in sorted(set(_weight_map(index).values()))]


PICKLE_WAYS_OUT = "convert it with Transformers: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file of an index; files are plain names beside it."""
    table = read_json(index, WeightsError).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise WeightsError(f"expected a weight_map in {index}, got {type(table).__name__}")
    for name, file in table.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise WeightsError(f"expected the name of a safetensors file for {name!r} in {index}, got {file!r}")
        if not (index.parent / file).exists():
            raise WeightsError(f"{index} names {file}, which is missing", "is the download complete?")
    return table


def load_weights(directory: Path, spec: ModelSpec) -> Weights:
    """All weights of a model directory, memory-mapped. Raises WeightsError or FormatError; see `Weights.checked`."""
    files = shard_files(directory)
    if len(files) > 1:
        _want_indexed(directory / "model.safetensors.index.json", files)
    ours = {theirs: name for name, theirs in hf_names(spec).items()}
    found = [weight for path in files for weight in _mapped(path, ours)]
    return Weights.checked(spec, _without_tied_copy(spec, found), str(directory))


def _want_indexed(index: Path, files: Iterable[Path]) -> None:
    """Raise unless every tensor is in the shard that the index names, and no shard holds another."""
    listed = set(_weight_map(index).items())
    stored = {(entry.name, path.name) for path in files for entry in read_header(path)}
    for name, file in sorted(listed ^ stored):
        where = "only in the index" if (name, file) in listed else "not in the index"
        raise WeightsError(f"tensor {name!r} of {file} is {where} ({index})")


def _mapped(path: Path, ours: Mapping[str, str]) -> Iterator[Weight]:
    """Every tensor of a file under our names; one that we do not know keeps its own, so that it can be reported."""
    entries = [entry for entry in read_header(path) if not entry.name.endswith(NEVER_WEIGHTS)]
    wrong = next((entry for entry in entries if entry.dtype not in DTYPE_NAMES), None)
    if wrong is not None:
        readable = ", ".join(DTYPE_NAMES)
        raise WeightsError(f"expected one of {readable} for {wrong.name!r} in {path}, got {wrong.dtype}")
    try:
        with safe_open(path, framework="pt") as file:
            for entry in entries:
                yield Weight.of(ours.get(entry.name, entry.name), file.get_tensor(entry.name))
    except SafetensorError as problem:
        raise WeightsError(f"cannot read {path}: {problem}") from None


def _without_tied_copy(spec: ModelSpec, found: list[Weight]) -> list[Weight]:
    """Some tools store the head of a tied model a second time: dropped when it is the same, an error when it is not."""
    by_name = {weight.name: weight for weight in found}
    head, embedding = by_name.get("lm_head.weight"), by_name.get("embedding")
    if not spec.tied or head is None or embedding is None:
        return found
    if head.shape != embedding.shape or not torch.equal(head.data, embedding.data):
        raise WeightsError("tie_word_embeddings is true, but lm_head.weight differs from the embedding")
    return [weight for weight in found if weight is not head]


def save_weights(path: Path, spec: ModelSpec, weights: Iterable[Weight], dtype: torch.dtype) -> None:
    """Write float weights in `dtype` under Transformers' names, one at a time, whole or not at all.

    `weights` come in the order of `expected_shapes` (as `Weights.tensors` and `synthetic.tensors` have them), so that
    a model larger than memory can be written from a generator. Raises WeightsError, or OSError from the disk.
    """
    names, word = hf_names(spec), str(TYPE_OF_DTYPE[dtype])
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in expected_shapes(spec).items():
        size = prod(shape) * dtype.itemsize
        header[names[name]] = {"dtype": word, "shape": list(shape), "data_offsets": [at, at + size]}  # type: ignore[dict-item]
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    with whole_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for weight, (name, shape) in zip(weights, expected_shapes(spec).items(), strict=True):
            if (weight.name, weight.shape) != (name, shape):
                raise WeightsError(f"expected {name!r} {shape} next, got {weight.name!r} {weight.shape}")
            values = weight.dense().to(device="cpu", dtype=dtype).contiguous()
            file.write(values.view(torch.uint8).numpy().data)
