"""What 12 header bytes cannot carry: `manifest.json` of a capture <-> `Manifest`.

The manifest is written last, so a folder that has one is complete; it names every file with its shape, size and
sha256, so missing, extra, truncated, swapped and altered files are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from pv.model.stages import Stage
from pv.trace.aprt import HEADER
from pv.trace.stages import LAYOUTS, file_path

SCHEMA = "pv-capture-v1"
NAME = "manifest.json"
_LARGEST = 64 << 20  # bytes; a manifest of 17 files for each of 1,000 layers and 100 steps is smaller


class CaptureError(Exception):
    """A capture cannot be read or written. Says what was expected, what was found and where; `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message + (f"; {hint}" if hint else ""))
        self.message, self.hint = message, hint


class DamagedError(CaptureError):
    """A file of a capture is missing, truncated, swapped or altered, or its manifest contradicts itself."""


class WriteError(CaptureError):
    """The system refused a write: no room, no permission."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One tensor of a capture. `first` and `last`: positions of its tokens, half-open; `size` in bytes."""

    path: str  # relative to the capture, posix
    stage: Stage
    layer: int | None  # None for a whole-model stage
    step: int | None  # None for the prefill, else the number of the decode step, from 1
    shape: tuple[int, ...]
    layout: str  # what the axes are; see `pv.trace.stages`
    first: int
    last: int
    size: int
    sha256: str  # of the whole file, as `sha256sum` prints it
    nan: int = 0
    infinite: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a capture but its values."""

    source: str  # "pv": our own forward, on a backend; "hf": Transformers' own model
    model: str  # name of the model's folder or file
    model_path: str  # where it was, for the next command; identity is the digest
    model_digest: str
    tokens: tuple[int, ...]  # the prompt's
    decoded: tuple[int, ...]  # tokens fed at the decode steps up to the last one captured
    backend: Mapping[str, Any]  # DeviceFacts
    dtype: str  # in which the model computed
    weights: str  # types of the weights, for instance "F16", "Q4_K, F32"
    layers: tuple[int, ...]
    heads: tuple[int, ...] | None  # heads kept of attention maps; None: all
    spec: Mapping[str, Any]
    files: tuple[FileEntry, ...]
    left_out: tuple[str, ...] = ()  # stages that this source does not give, and no more is claimed
    flags: tuple[str, ...] = ()  # what a reader should know: non-finite values, files identical across layers
    prompt: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA

    @property
    def quantized(self) -> bool:
        """Whether any weight is stored in blocks of codes."""
        return bool(re.search(r"\bI?Q\d", self.weights))


def dumps(manifest: Manifest) -> str:
    """The manifest as JSON text, one line for each file."""
    data = {name: getattr(manifest, name) for name in Manifest.__slots__ if name != "files"}
    files = [json.dumps({name: getattr(entry, name) for name in FileEntry.__slots__}) for entry in manifest.files]
    head = json.dumps(data, indent=1)
    return head[: head.rindex("\n}")] + ',\n "files": [\n  ' + ",\n  ".join(files) + "\n ]\n}\n"


def read(folder: Path) -> Manifest:
    """The manifest of a capture. Raises CaptureError when there is none, or it is not one of ours."""
    path = folder / NAME
    try:
        if path.stat().st_size > _LARGEST:
            raise DamagedError(f"expected a manifest of at most {_LARGEST} bytes at {path}, got {path.stat().st_size}")
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CaptureError(
            f"no complete capture at {folder}: expected {NAME} there, found none",
            "a capture that was cut short has none; run `pv trace` again",
        ) from None
    except OSError as error:
        raise DamagedError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"expected JSON in {path}, got something else: {error}") from None
    return _checked(data, path)


def _checked(data: Any, path: Path) -> Manifest:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise DamagedError(f"expected a manifest of schema {SCHEMA!r} in {path}, got {found!r}")
    try:
        entries = tuple(_entry(item, path) for item in data["files"])
        manifest = Manifest(
            **{k: v for k, v in data.items() if k in Manifest.__slots__}
            | {
                "files": entries,
                "tokens": _integers(data["tokens"]),
                "decoded": _integers(data["decoded"]),
                "layers": _integers(data["layers"]),
                "heads": None if data["heads"] is None else _integers(data["heads"]),
                "left_out": tuple(map(str, data["left_out"])),
                "flags": tuple(map(str, data["flags"])),
                "weights": str(data["weights"]),
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"the manifest {path} is damaged: {type(error).__name__}: {error}") from None
    paths = [entry.path for entry in entries]
    if len(set(paths)) != len(paths):
        raise DamagedError(f"the manifest {path} is damaged: it names a file twice")
    return manifest


def _entry(item: Mapping[str, Any], path: Path) -> FileEntry:
    stage = Stage(item["stage"])
    layer, step = _optional_integer(item["layer"]), _optional_integer(item["step"])
    entry = FileEntry(
        path=str(item["path"]),
        stage=stage,
        layer=layer,
        step=step,
        shape=_integers(item["shape"]),
        layout=str(item["layout"]),
        first=int(item["first"]),
        last=int(item["last"]),
        size=int(item["size"]),
        sha256=str(item["sha256"]),
        nan=int(item["nan"]),
        infinite=int(item["infinite"]),
    )
    # The path follows from the rest; one that does not could lead out of the capture.
    if entry.path != file_path(stage, layer, step):
        raise DamagedError(f"the manifest {path} is damaged: {stage} of layer {layer} cannot stand at {entry.path!r}")
    if not entry.shape or min(entry.shape) < 1 or entry.size != HEADER.size + 4 * prod(entry.shape):
        raise DamagedError(f"the manifest {path} is damaged: {entry.path} of shape {entry.shape}, {entry.size} bytes")
    if len(entry.shape) != len(LAYOUTS[stage].split(",")):
        raise DamagedError(f"the manifest {path} is damaged: {entry.path} has {len(entry.shape)} axes")
    return entry


def _integers(values: Sequence[Any]) -> tuple[int, ...]:
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"expected a list of integers, got {values!r:.80}")
    return tuple(values)


def _optional_integer(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise TypeError(f"expected a number or null, got {value!r}")
    return value
