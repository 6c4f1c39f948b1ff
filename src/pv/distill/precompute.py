"""A frozen teacher and prepared rows -> its logits on disk, byte for byte the same each time on the same machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pv.distill.cache import (
    FORMAT,
    CacheError,
    Fingerprint,
    Shard,
    differences,
    encode_full,
    encode_top,
    read_manifest,
    shard_name,
    verify_shard,
    write_manifest,
)
from pv.distill.config import ConfigError, DistillConfig
from pv.distill.corpus import Data, Progress
from pv.distill.files import replace_file, sha256_file
from pv.distill.student import Student, load_student, pick_device

CACHE_FOLDER = "teacher_logits"


def precompute(config: DistillConfig, data: Data, progress: Progress = lambda *_: None) -> Path:
    """Write `output_dir/teacher_logits`, going on after the last good shard of an earlier try. Returns the folder.

    Raises ConfigError without a teacher, CacheError when the folder holds the logits of another run.
    """
    if config.teacher is None:
        raise ConfigError("teacher: expected a local model directory, found none; precompute needs one")
    folder = config.output_dir / CACHE_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    device = pick_device(config)
    fingerprint = Fingerprint(
        **expected_fields(config, data, teacher_sha256(config.teacher)),
        format=FORMAT,
        rows_per_shard=config.cache.rows_per_shard,
        batch_rows=config.cache.batch_rows,
        precision=config.precision,
        device=device_name(device),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )
    shards = _done_before(folder, fingerprint)
    rows = data.part(config.train_on)
    wanted = range(0, len(rows), config.cache.rows_per_shard)
    if len(shards) < len(wanted):
        teacher = load_student(config.teacher, config.precision).to(device).eval()
        _check_vocabulary(teacher, data, config.teacher)
        for index in range(len(shards), len(wanted)):
            part = rows[wanted[index] : wanted[index] + config.cache.rows_per_shard]
            shards.append(_write_shard(folder, index, part, teacher, config, device))
            write_manifest(folder, fingerprint, shards, complete=False)
            progress("teacher logits", min(len(rows), wanted[index] + len(part)), len(rows))
    write_manifest(folder, fingerprint, shards, complete=True)
    return folder


def expected_fields(config: DistillConfig, data: Data, teacher: str | None) -> dict[str, Any]:
    """The fields of a fingerprint that make a cache this run's own. None: the teacher is gone, its digest unknown."""
    top = config.cache.kind == "top"
    fields: dict[str, Any] = {
        "data_digest": data.digest,
        "part": config.train_on,
        "rows": len(data.part(config.train_on)),
        "sequence_length": config.sequence_length,
        "vocab": data.vocab,
        "kind": config.cache.kind,
        "k": config.cache.k if top else 0,
        "temperature": config.temperature if top else 0.0,
    }
    return fields if teacher is None else {"teacher_sha256": teacher, **fields}


def teacher_sha256(folder: Path) -> str:
    """Digest over the configuration and every weight file of a model directory. Raises ConfigError without any."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
    if not any(file.suffix == ".safetensors" for file in files):
        raise ConfigError(f"teacher: expected a model directory with safetensors weights, found none in {folder}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def device_name(device: torch.device) -> str:
    """The card's own name, or the CPU's instruction set: what the rounding of a product depends on."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu {torch.backends.cpu.get_cpu_capability()}"
    )


def _check_vocabulary(teacher: Student, data: Data, folder: Path) -> None:
    if teacher.spec.vocab != data.vocab:
        raise CacheError(
            f"expected one vocabulary, found {data.vocab} tokens in {data.tokenizer} and {teacher.spec.vocab}"
            f" in {folder}; logits are never padded: a zero logit is a real probability"
        )


def _done_before(folder: Path, fingerprint: Fingerprint) -> list[Shard]:
    """The good shards at the start of an earlier, unfinished or finished run of the very same settings."""
    manifest = read_manifest(folder)
    if manifest is None:
        return []
    if differs := differences(asdict(fingerprint), manifest["fingerprint"]):
        raise CacheError(
            f"{folder} holds the logits of another run:\n  "
            + "\n  ".join(differs)
            + "\nremove the folder, or choose another output_dir"
        )
    good: list[Shard] = []
    for entry in manifest["shards"]:
        if verify_shard(folder, entry):
            break
        good.append(Shard(**entry))
    return good


def _write_shard(
    folder: Path, index: int, rows: np.ndarray, teacher: Student, config: DistillConfig, device: torch.device
) -> Shard:
    pieces = list(_encoded(rows, teacher, config, device))
    place = folder / shard_name(index)
    temporary = place.with_suffix(".tmp")
    save_file({name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}, temporary)
    replace_file(temporary, place)
    return Shard(place.name, len(rows), place.stat().st_size, sha256_file(place))


@torch.no_grad()
def _encoded(
    rows: np.ndarray, teacher: Student, config: DistillConfig, device: torch.device
) -> Iterator[Mapping[str, Tensor]]:
    """Batches are cut by the row's index in its shard, so that a resumed run multiplies matrices of the same shapes."""
    for start in range(0, len(rows), config.cache.batch_rows):
        batch = torch.from_numpy(rows[start : start + config.cache.batch_rows]).long().to(device)  # (B, S + 1)
        logits = teacher.logits(batch[:, :-1])  # (B, S, V) float32
        if config.cache.kind == "full":
            encoded = encode_full(logits)
        else:
            encoded = encode_top(logits, batch[:, 1:], config.cache.k, config.temperature)
        yield {name: tensor.cpu() for name, tensor in encoded.items()}
