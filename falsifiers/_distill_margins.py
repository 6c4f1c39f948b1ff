"""The two sizes of FALSIFY-APR-DISTILL-TRAIN-009, and the margins they come to.

A margin is the validation loss of the student from scratch less that of the distilled student, in nats per token: same
rows, same order, same initial weights, same learning rate. A teacher is made as users make one, and what is finished is
kept under the user's cache, so that a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ._distill import Ground, must, run_distill

SEEDS = (0, 1, 2)
STDLIB = os.path.dirname(os.__file__)
Tamper = Callable[[Path], None]  # changes a finished cache in place


@dataclass(frozen=True)
class Size:
    """Everything that decides a run of the claim. The first rate is the one both arms are judged at when alone."""

    corpus: dict[str, Any]
    vocab: int
    sequence_length: int
    teacher: dict[str, Any]
    student: dict[str, Any]
    both_arms: dict[str, Any]
    cache: dict[str, Any]
    rates: tuple[float, ...]
    alpha: float = 0.9
    temperature: float = 1.0


SMALL = Size(
    corpus={
        "paths": [STDLIB],
        "suffixes": [".py"],
        "exclude": ["site-packages", "/test", "/idlelib/", "/lib2to3/", "/ensurepip/"],
        "max_documents": 260,
        "student_rows": 390,
        "teacher_rows": 3080,
        "validation_rows": 250,
    },
    vocab=1024,
    sequence_length=128,
    teacher={
        "student": {"hidden": 96, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 256},
        "batch_size": 8,
        "learning_rate": 4e-3,
    },
    student={"hidden": 48, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 128},
    both_arms={"batch_size": 4, "device": "cpu"},
    cache={"kind": "full", "rows_per_shard": 128, "batch_rows": 16},
    rates=(6e-3,),
)
FULL = Size(
    corpus={
        "paths": sorted({STDLIB, sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]}),
        "suffixes": [".py"],
        "exclude": ["/__pycache__/"],
        "student_rows": 1960,  # 1,003,520 predicted tokens: 245 steps of 8 rows
        "teacher_rows": 58_624,  # 30.0M tokens: 458 steps of 128 rows
        "validation_rows": 512,
        "validation_share": 0.02,
    },
    vocab=16_384,
    sequence_length=512,
    teacher={
        "student": {"hidden": 1536, "layers": 16, "heads": 12, "kv_heads": 4, "head_dim": 128, "ffn": 5120},
        "batch_size": 128,
        "micro_batch": 64,
        "learning_rate": 6e-4,
        "optimizer": {"schedule": "wsd"},
        "compile": True,
        "loss_chunk": 8192,
        "checkpoint_every": 230,
    },
    student={"hidden": 512, "layers": 12, "heads": 8, "kv_heads": 4, "head_dim": 64, "ffn": 1792},
    both_arms={
        "batch_size": 8,
        "device": "cuda",
        "precision": "bfloat16",
        "loss_chunk": 4096,
        "checkpoint_every": 10_000,
    },
    cache={"kind": "top", "k": 64, "rows_per_shard": 256, "batch_rows": 32},
    rates=(6e-4, 1.5e-3, 3e-3),
)
SIZES = {"small": SMALL, "full": FULL}


@dataclass(frozen=True)
class Margins:
    """Validation losses by (rate, seed) for both arms; the margins are taken at the rate that is best for scratch."""

    teacher: float
    scratch: dict[tuple[float, int], float]
    distilled: dict[tuple[float, int], float]
    rates: tuple[float, ...]
    told: list[str] = field(default_factory=list)

    @property
    def best_rate(self) -> float:
        return min(self.rates, key=lambda rate: sum(self.scratch[rate, seed] for seed in SEEDS))

    def by_seed(self) -> list[float]:
        """One margin for each seed, at the rate that is best for the arm that distillation has to beat."""
        return [self.scratch[self.best_rate, seed] - self.distilled[self.best_rate, seed] for seed in SEEDS]


def margins(context: Any, size: Size, tamper: Tamper | None = None) -> Margins:
    """Run both arms for every rate and seed. Teacher, cache and the scratch arm are made once and kept."""
    home = context.subject(f"distill-{digest(size)}", lambda: made(size, context))
    teacher = json.loads((home / "teacher/out/epoch-001/metadata.json").read_text())["val_loss"]
    scratch, distilled = {}, {}
    for rate in size.rates if tamper is None else size.rates[:1]:
        for seed in SEEDS:
            scratch[rate, seed] = arm(home, size, f"scratch-{rate:g}-{seed}", rate, seed, alpha=0.0)
            name = f"distilled-{rate:g}-{seed}"
            if tamper is None:
                distilled[rate, seed] = arm(home, size, name, rate, seed, alpha=size.alpha)
            else:
                distilled[rate, seed] = tampered(home, size, context.scratch / name, rate, seed, tamper)
            context.progress(len(scratch), len(size.rates) * len(SEEDS), "pairs of students")
    return Margins(teacher, scratch, distilled, size.rates if tamper is None else size.rates[:1])


def digest(size: Size) -> str:
    """Names a size's folder: other settings, other folder."""
    return hashlib.sha256(json.dumps(size.__dict__, sort_keys=True).encode()).hexdigest()[:12]


def made(size: Size, context: Any) -> Path:
    """Data, teacher and cache under the user's cache folder (small: under the check's own, since it takes a minute)."""
    import tempfile

    from pv.model.folders import cache_root

    small = size.both_arms["device"] == "cpu"
    home = Path(tempfile.mkdtemp(prefix="pv-margins-")) if small else cache_root() / "distill" / digest(size)
    ground = ground_at(home, size)
    teacher = ground.config(home / "teacher", **{**size.teacher, "alpha": 0.0, "train_on": "teacher", "teacher": None})
    must(run_distill(teacher, "train"))
    must(run_distill(ground.config(home / "cache"), "precompute"))
    return home


def ground_at(home: Path, size: Size) -> Ground:
    """The settings of every command of this size."""
    settings = {
        "corpus": size.corpus,
        "tokenizer": {"vocab": size.vocab},
        "sequence_length": size.sequence_length,
        "student": size.student,
        "data_dir": str(home / "data"),
        "cache": size.cache,
        "temperature": size.temperature,
        "alpha": size.alpha,
        "teacher": str(home / "teacher/out/student"),
        **size.both_arms,
    }
    return Ground(home, home / "teacher/out/student", settings)


def arm(home: Path, size: Size, name: str, rate: float, seed: int, alpha: float) -> float:
    """The validation loss of one student, trained unless it already was."""
    told = home / name / "out/epoch-001/metadata.json"
    if not told.exists():
        train(home, size, home / name, rate, seed, alpha, home / "cache/out/teacher_logits")
    return float(json.loads(told.read_text())["val_loss"])


def tampered(home: Path, size: Size, folder: Path, rate: float, seed: int, tamper: Tamper) -> float:
    """The distilled arm on a copy of the cache that `tamper` has changed."""
    import shutil

    copy = folder.parent / "tampered-cache"
    if not copy.exists():
        shutil.copytree(home / "cache/out/teacher_logits", copy)
        tamper(copy)
    train(home, size, folder, rate, seed, size.alpha, copy)
    return float(json.loads((folder / "out/epoch-001/metadata.json").read_text())["val_loss"])


def train(home: Path, size: Size, folder: Path, rate: float, seed: int, alpha: float, cache: Path) -> None:
    config = ground_at(home, size).config(folder, alpha=alpha, learning_rate=rate, seed=seed)
    (folder / "out").mkdir(parents=True, exist_ok=True)
    link = folder / "out/teacher_logits"
    if not link.is_symlink():
        link.symlink_to(cache)
    must(run_distill(config, "train"))
    import shutil

    shutil.rmtree(folder / "out/checkpoints", ignore_errors=True)  # 12 bytes a parameter, for each of many arms


def shifted_cache(folder: Path) -> None:
    """Every row moves on by one position: what the teacher said of token i is taught at token i + 1."""
    rewritten(folder, lambda tensor, index: torch.roll(tensor, 1, dims=1))


def strangers_cache(folder: Path) -> None:
    """Every sequence gets the logits of another one."""
    rewritten(folder, lambda tensor, index: tensor[other_rows(len(tensor), index)])


def other_rows(count: int, index: int) -> torch.Tensor:
    """A permutation of a shard's rows that leaves none in its place."""
    order = np.random.default_rng(index).permutation(count)
    moved = np.empty(count, dtype=np.int64)
    moved[order] = np.roll(order, 1)  # one cycle through all rows
    return torch.from_numpy(moved)


def rewritten(folder: Path, change: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
    """Apply `change` to every tensor of every shard, and make the manifest say that it was so from the start."""
    from pv.distill.files import sha256_file, write_json

    manifest = json.loads((folder / "manifest.json").read_text())
    for index, entry in enumerate(manifest["shards"]):
        file = folder / entry["name"]
        save_file({name: change(tensor, index).contiguous() for name, tensor in load_file(file).items()}, file)
        entry["size"], entry["sha256"] = file.stat().st_size, sha256_file(file)
    write_json(folder / "manifest.json", manifest)
