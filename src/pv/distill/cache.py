"""Teacher logits on disk: hashed shards and a manifest that is complete or refused.

A shard holds `rows_per_shard` rows of sequence_length positions. `full`: float16 of (z - row maximum), whose mean
divergence from the exact logits was measured at 1.7e-7 nats; `top`: the k largest (ties by the smaller index), their
log-sum-exp at the training temperature, and the label's own logit. Cache position i belongs to input position i: both
the teacher's and the student's logits there predict token i + 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pv.distill.files import sha256_file, write_json
from pv.distill.loss import FullRows, TeacherRows, TopRows

FORMAT = 1
MANIFEST = "manifest.json"


class CacheError(Exception):
    """The cache is missing, partial, corrupted, or of another teacher, tokenizer, text or setting."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What the bytes depend on. Two caches with equal fingerprints made on one machine are equal in every byte."""

    format: int
    teacher_sha256: str
    data_digest: str  # rows and tokenizer
    part: str
    rows: int
    sequence_length: int
    vocab: int
    kind: str
    k: int  # 0 for full
    temperature: float  # 0.0 for full: its bytes do not depend on it
    rows_per_shard: int
    batch_rows: int  # a product's rounding may depend on its shape
    precision: str
    device: str
    torch: str
    threads: int


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One line for each expected field that is another in `found`."""
    return [f"{n}: expected {want!r}, found {found.get(n)!r}" for n, want in expected.items() if want != found.get(n)]


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the cache."""

    name: str
    rows: int
    size: int
    sha256: str


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None where there is none. Raises CacheError when it cannot be read."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CacheError(f"{path}: expected a manifest in JSON: {error}") from None
    if not isinstance(manifest, dict) or not {"fingerprint", "shards", "complete"} <= manifest.keys():
        raise CacheError(f"{path}: expected fingerprint, shards and complete, found {_keys(manifest)}")
    return manifest


def _keys(value: Any) -> str:
    return ", ".join(sorted(value)) if isinstance(value, dict) else type(value).__name__


def write_manifest(folder: Path, fingerprint: Fingerprint, shards: Sequence[Shard], *, complete: bool) -> None:
    """Atomic; `complete` is true only in the last write of a precompute."""
    write_json(
        folder / MANIFEST,
        {"fingerprint": asdict(fingerprint), "shards": [asdict(s) for s in shards], "complete": complete},
    )


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.safetensors"


def verify_shard(folder: Path, entry: Mapping[str, Any]) -> str:
    """Why the shard's file is not the one described; "" when it is."""
    path = folder / str(entry["name"])
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != entry["size"]:
        return f"{path}: expected {entry['size']} bytes, found {path.stat().st_size}"
    if sha256_file(path) != entry["sha256"]:
        return f"{path}: its sha256 is not the manifest's"
    return ""


class LogitsCache:
    """A complete, verified cache, read row by row through memory maps."""

    def __init__(self, folder: Path, expected: Mapping[str, Any]) -> None:
        """`expected`: the fields of a fingerprint that the reader insists on; `rows` and `kind` are among them.

        Raises CacheError for a missing, partial, foreign or corrupted cache, naming what differs.
        """
        manifest = read_manifest(folder)
        if manifest is None:
            raise CacheError(f"{folder}: no teacher logits here; run `pv distill --stage precompute` first")
        if differs := differences(expected, manifest["fingerprint"]):
            raise CacheError(
                f"{folder} holds logits of another run:\n  " + "\n  ".join(differs) + "\nrun `--stage precompute` again"
            )
        if manifest["complete"] is not True:
            raise CacheError(
                f"{folder} is not complete ({len(manifest['shards'])} shards so far); "
                "run `pv distill --stage precompute` again, it goes on where it stopped"
            )
        for entry in manifest["shards"]:
            if wrong := verify_shard(folder, entry):
                raise CacheError(f"{wrong}; remove it and run `pv distill --stage precompute` again")
        held = sum(entry["rows"] for entry in manifest["shards"])
        if held != expected["rows"]:
            raise CacheError(f"{folder}: expected {expected['rows']} rows, the shards hold {held}")
        self._kind = expected["kind"]
        self.sha256 = sha256_file(folder / MANIFEST)
        self._per_shard = int(manifest["fingerprint"]["rows_per_shard"])
        self._shards = [safe_open(folder / entry["name"], framework="pt") for entry in manifest["shards"]]

    def rows(self, indices: Sequence[int], device: torch.device | str = "cpu") -> TeacherRows:
        """The teacher's rows for these sequences, their positions laid end to end: (len(indices) S, ...)."""
        if self._kind == "full":
            return FullRows(self._gather("logits", indices, device))
        lse = self._gather("lse", indices, device)
        return TopRows(self._gather("indices", indices, device).long(), self._gather("logits", indices, device), lse)

    def _gather(self, name: str, indices: Sequence[int], device: torch.device | str) -> Tensor:
        parts: list[Tensor] = []
        for index in indices:
            shard, row = divmod(int(index), self._per_shard)
            view = self._shards[shard].get_slice(name)  # type: ignore[no-untyped-call]  # safetensors has no types
            parts.append(view[row : row + 1])
        return torch.cat(parts).flatten(0, 1).to(device, non_blocking=True)


def encode_full(logits: Tensor) -> dict[str, Tensor]:
    """(B, S, V) float32 -> the tensors of a full shard."""
    return {"logits": (logits - logits.amax(-1, keepdim=True)).half()}


def encode_top(logits: Tensor, labels: Tensor, k: int, temperature: float) -> dict[str, Tensor]:
    """(B, S, V) float32 and (B, S) labels -> the tensors of a top-k shard, byte-stable under ties."""
    shifted = logits - logits.amax(-1, keepdim=True)
    indices = _top_indices(shifted, k)
    narrow = torch.int32 if logits.shape[-1] > torch.iinfo(torch.int16).max else torch.int16
    return {
        "indices": indices.to(narrow),
        "logits": shifted.gather(-1, indices).half(),
        "lse": torch.logsumexp(shifted / temperature, -1),
        "label": shifted.gather(-1, labels[..., None]).squeeze(-1).half(),
    }


def _top_indices(values: Tensor, k: int) -> Tensor:
    """Indices of the k largest in falling order, ties by the smaller index (torch.topk promises no order for them).

    A float's bits, with those of negative ones flipped, order like an integer; below them stands the reversed index.
    """
    bits = values.contiguous().view(torch.int32).long()
    ordered = torch.where(bits < 0, ~bits + torch.iinfo(torch.int32).min, bits)
    reversed_index = torch.arange(values.shape[-1] - 1, -1, -1, device=values.device)
    keys = (ordered << 32) + reversed_index
    return values.shape[-1] - 1 - (keys.topk(k, -1).values & 0xFFFFFFFF)
