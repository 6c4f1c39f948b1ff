"""Rows, a cache of teacher logits and a student -> a trained student, a checkpoint at a time.

The teacher is never imported or run here: what it said is in the cache. The order of the rows depends on the seed, the
epoch and the position alone, the rate on the step alone; so a run that was killed and goes on ends in the same bytes
as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from pv.distill import checkpoint
from pv.distill.cache import LogitsCache
from pv.distill.checkpoint import Progressed, Sums
from pv.distill.config import ConfigError, DistillConfig
from pv.distill.corpus import Data, Progress, end_token
from pv.distill.files import replace_file, write_json
from pv.distill.precompute import CACHE_FOLDER, expected_fields, teacher_sha256
from pv.distill.student import Student, pick_device, starting_point
from pv.model.spec import ModelSpec, config_from_spec
from pv.model.weights import hf_names

HISTORY = ("step", "total_loss", "kl_loss", "ce_loss")
LOOK_EVERY = 10  # steps between looks at the loss on a GPU, where each look waits for the device


class NotFiniteError(Exception):
    """The loss became NaN or infinite. `step` and `rows` say at which batch; the last good checkpoint stands."""

    def __init__(self, step: int, rows: Sequence[int], kept: str) -> None:
        super().__init__(
            f"the loss is not finite at step {step} (rows {', '.join(map(str, rows))}); training stopped, "
            f"{kept}; lower learning_rate, or look at those rows"
        )
        self.step, self.rows = step, tuple(rows)


class UnchangedError(Exception):
    """After training every tensor equals the one it started from: nothing was learnt, and a copy is not passed off."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to. `metadata` is what stands in the last epoch's metadata.json."""

    student: Path
    metadata: dict[str, Any]
    steps: int


def train(config: DistillConfig, data: Data, progress: Progress = lambda *_: None) -> Trained:
    """Train until `epochs` are done, going on from the newest checkpoint under `output_dir`.

    Raises ConfigError, CacheError, CheckpointError, NotFiniteError and UnchangedError, each with the next step.
    """
    workers = Workers.join()
    device = pick_device(config)
    # On a card the deterministic kernels cost speed and a bound on the difference is promised instead (docs).
    torch.use_deterministic_algorithms(device.type == "cpu")
    rows = data.part(config.train_on)
    _check_batches(config, len(rows), workers)
    cache = _open_cache(config, data)
    spec, start = starting_point(config, data.vocab)
    student = Student(
        spec,
        start,
        precision=config.precision,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        seed=config.seed,
    ).to(device)
    optimizer = make_optimizer(config, student)
    run = run_digest(config, data, cache)
    folder = config.output_dir / "checkpoints"
    state = checkpoint.restore(folder, run, student.trainable(), optimizer) or Progressed(run)
    loop = _Loop(config, data, student, optimizer, cache, workers, device, folder, progress)
    with workers:
        metadata = loop.run(state)
        if workers.first:
            refuse_unchanged(student, start)
            save_model(config.output_dir / "student", student, data.tokenizer)
        workers.wait()
    return Trained(config.output_dir / "student", metadata, loop.steps_in_all)


def run_digest(config: DistillConfig, data: Data, cache: LogitsCache | None) -> str:
    """What decides the result: settings, data and teacher's logits, but not where it is written or how often saved."""
    free = {"output_dir", "data_dir", "teacher", "checkpoint_every", "device", "compile", "corpus", "tokenizer"}
    told = config.model_dump(mode="json", exclude=free)
    told |= {"data": data.digest, "cache": cache.sha256 if cache else ""}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def make_optimizer(config: DistillConfig, student: Student) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, as norms and biases have nothing to shrink toward."""
    o = config.optimizer
    matrices = [p for p in student.trainable().values() if p.dim() >= 2]
    vectors = [p for p in student.trainable().values() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    on_card = next(student.parameters()).is_cuda
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.learning_rate, betas=o.betas, eps=o.eps, fused=on_card or None
    )


def learning_rate(config: DistillConfig, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear warm-up, then cosine, or flat with a linear end (WSD)."""
    o, peak = config.optimizer, config.learning_rate
    warmup = max(1, round(o.warmup_share * steps)) if o.warmup_share else 0
    if step < warmup:
        return peak * (step + 1) / warmup
    if o.schedule == "constant":
        return peak
    if o.schedule == "wsd":
        decay = max(1, round(o.decay_share * steps))
        return peak * min(1.0, (steps - step) / decay)
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (o.final_share + (1 - o.final_share) * 0.5 * (1 + math.cos(math.pi * share)))


def order(seed: int, epoch: int, rows: int) -> list[int]:
    """The order of an epoch's rows: a function of seed and epoch, so that position is the only state."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator).tolist()


@torch.no_grad()
def validation_loss(student: Student, rows: np.ndarray, device: torch.device, batch_rows: int = 32) -> float:
    """Plain cross-entropy at temperature 1 over every row, in float32, nats per token: comparable between all arms."""
    total, count = torch.zeros((), dtype=torch.float64, device=device), 0
    for start in range(0, len(rows), batch_rows):
        batch = torch.from_numpy(rows[start : start + batch_rows]).long().to(device)
        total += student.cross_entropy_sum(batch[:, :-1], batch[:, 1:]).double()
        count += batch[:, 1:].numel()
    return float(total) / count


def refuse_unchanged(student: Student, start: dict[str, Tensor]) -> None:
    """Raises UnchangedError when no tensor of the trained student differs from its start."""
    if all(torch.equal(tensor.detach().cpu(), start[name].float().cpu()) for name, tensor in student.merged()):
        raise UnchangedError(
            f"expected at least one of {len(start)} tensors to change, found all equal to their start; "
            "nothing was written as a student: check learning_rate and epochs"
        )


def save_model(folder: Path, student: Student, tokenizer: Path, metadata: dict[str, Any] | None = None) -> None:
    """An ordinary model directory (config.json, model.safetensors, tokenizer.json), each file whole or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    names = hf_names(student.spec)
    tensors = {names[name]: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in student.merged()}
    temporary = folder / f"model.safetensors.{os.getpid()}.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    replace_file(temporary, folder / "model.safetensors")
    copy = folder / "tokenizer.json.tmp"
    copy.write_bytes(tokenizer.read_bytes())
    replace_file(copy, folder / "tokenizer.json")
    write_json(folder / "config.json", _config_json(student.spec, tokenizer))
    if metadata is not None:
        write_json(folder / "metadata.json", metadata)


def _config_json(spec: ModelSpec, tokenizer: Path) -> dict[str, Any]:
    end = end_token(Tokenizer.from_file(str(tokenizer)), tokenizer)
    return config_from_spec(spec, "float32", eos_token_id=end)


def _open_cache(config: DistillConfig, data: Data) -> LogitsCache | None:
    """The teacher's logits, or None at alpha 0. A teacher that is still there must be the one that made them."""
    if config.alpha == 0.0:
        return None
    there = config.teacher is not None and config.teacher.is_dir()
    digest = teacher_sha256(config.teacher) if there and config.teacher else None
    return LogitsCache(config.output_dir / CACHE_FOLDER, expected_fields(config, data, digest))


def _check_batches(config: DistillConfig, rows: int, workers: Workers) -> None:
    if rows < config.batch_size:
        raise ConfigError(f"batch_size: expected at most the {rows} rows there are, found {config.batch_size}")
    if config.batch_size % workers.count:
        raise ConfigError(
            f"batch_size: expected a multiple of the {workers.count} processes, found {config.batch_size}"
        )


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes of this training, as torch's own launcher (`torchrun`) started them; one without it."""

    rank: int
    count: int

    @classmethod
    def join(cls) -> Workers:
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return cls(int(os.environ.get("RANK", "0")), count)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def wait(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()


class _Loop:
    """One training: epochs of steps, with looks, checkpoints and validations between them."""

    def __init__(
        self,
        config: DistillConfig,
        data: Data,
        student: Student,
        optimizer: torch.optim.Optimizer,
        cache: LogitsCache | None,
        workers: Workers,
        device: torch.device,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.config, self.data, self.student, self.optimizer = config, data, student, optimizer
        self.cache, self.workers, self.device, self.folder, self.progress = cache, workers, device, folder, progress
        self.rows = data.part(config.train_on)
        self.steps_per_epoch = len(self.rows) // config.batch_size
        self.steps_in_all = self.steps_per_epoch * config.epochs
        self.parameters = student.trainable()
        self.module: Callable[..., Any] = student
        if workers.count > 1:
            self.module = nn.parallel.DistributedDataParallel(student)
        if config.compile:
            student.hidden = torch.compile(student.hidden)  # type: ignore[method-assign]  # the instance's own, compiled
        self.started = time.monotonic()
        self.pending: list[tuple[int, list[int], Tensor]] = []

    def run(self, state: Progressed) -> dict[str, Any]:
        if state.epoch >= self.config.epochs:
            return self._finished(state)
        metadata: dict[str, Any] = {}
        self.before = state.wall_seconds
        self.student.train()
        for epoch in range(state.epoch, self.config.epochs):
            state = self._epoch(epoch, state)
            metadata = self._close_epoch(epoch, state)
            state = replace(state, epoch=epoch + 1, sums=Sums(), wall_seconds=metadata["wall_seconds"])
            self._save(state)
        return metadata

    def _finished(self, state: Progressed) -> dict[str, Any]:
        """An output folder whose training is done: nothing is trained twice."""
        path = self._epoch_folder(state.epoch - 1) / "metadata.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _epoch(self, epoch: int, state: Progressed) -> Progressed:
        perm = order(self.config.seed, epoch, len(self.rows))
        size, first = self.config.batch_size, epoch * self.steps_per_epoch
        for step in range(state.step, first + self.steps_per_epoch):
            at = (step - first) * size
            batch = perm[at : at + size]
            self._step(step, batch)
            due = (step + 1) % self.config.checkpoint_every == 0 and step + 1 < first + self.steps_per_epoch
            if due or len(self.pending) >= (LOOK_EVERY if self.device.type == "cuda" else 1):
                state = self._look(state)
                self.progress(f"epoch {epoch + 1}/{self.config.epochs}", step + 1, self.steps_in_all)
            if due:
                self._save(replace(state, wall_seconds=self._wall()))
        return self._look(state)

    def _step(self, step: int, batch: list[int]) -> None:
        """One optimiser step: the gradient of the mean over all tokens of the step, however it is split."""
        rate = learning_rate(self.config, step, self.steps_in_all)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._gradients(batch)
        nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.optimizer.clip)
        self.optimizer.step()
        self.pending.append((step, batch, losses))

    def _gradients(self, batch: list[int]) -> Tensor:
        """Accumulate gradients over this process's micro-batches. Returns the step's (total, kl, ce), shape (3,)."""
        mine = batch[self.workers.rank :: self.workers.count]
        micro = self.config.micro_batch or len(mine)
        denominator = len(batch) * self.config.sequence_length
        sums = torch.zeros(3, device=self.device)
        pieces = [mine[i : i + micro] for i in range(0, len(mine), micro)]
        for number, piece in enumerate(pieces):
            with self._no_sync_before(number == len(pieces) - 1):
                tokens = torch.from_numpy(self.rows[piece]).long().to(self.device, non_blocking=True)
                losses = self.module(
                    tokens[:, :-1],
                    tokens[:, 1:],
                    self.cache.rows(piece, self.device) if self.cache else None,
                    self.config.alpha,
                    self.config.temperature,
                    denominator,
                    self.config.loss_chunk,
                )
                # DDP averages the gradients of its processes; the denominator already counts the whole step.
                (losses.total * self.workers.count).backward()
            sums += torch.stack((losses.total.detach(), losses.kl, losses.ce)).float()
        if self.workers.count > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def _no_sync_before(self, last: bool) -> Any:
        from contextlib import nullcontext

        if self.workers.count > 1 and not last:
            return self.module.no_sync()  # type: ignore[attr-defined]  # a DistributedDataParallel here
        return nullcontext()

    def _look(self, state: Progressed) -> Progressed:
        """Take the losses of the steps since the last look. Raises NotFiniteError at the first that is not finite."""
        for step, batch, losses in self.pending:
            total, kl, ce = losses.tolist()
            if not math.isfinite(total):
                self.pending = []
                raise NotFiniteError(step, batch, self._kept())
            state = replace(
                state,
                step=step + 1,
                tokens_seen=state.tokens_seen + len(batch) * self.config.sequence_length,
                sums=state.sums.plus(total, kl, ce),
                history=(*state.history, (step, total, kl, ce)),
            )
        self.pending = []
        return state

    def _kept(self) -> str:
        whole = sorted(self.folder.glob("step-*"))
        return f"the last good checkpoint is {whole[-1]}" if whole else "no checkpoint had been written yet"

    def _close_epoch(self, epoch: int, state: Progressed) -> dict[str, Any]:
        total, kl, ce = state.sums.means()
        value = validation_loss(self.student, self.data.part("validation"), self.device)
        metadata: dict[str, Any] = {
            "train_loss": total,
            "val_loss": value,
            "kl_loss": kl,
            "ce_loss": ce,
            "total_loss": total,
            "optimizer_state_sha": checkpoint.optimizer_state_sha(self.parameters, self.optimizer, state.step),
            "wall_seconds": self._wall(),
            "tokens_seen": state.tokens_seen,
        }
        if self.workers.first:
            if not all(math.isfinite(metadata[name]) for name in ("train_loss", "val_loss", "kl_loss", "ce_loss")):
                raise NotFiniteError(state.step, [], self._kept())
            save_model(self._epoch_folder(epoch), self.student, self.data.tokenizer, metadata)
            write_json(self._epoch_folder(epoch) / "history.json", {"columns": HISTORY, "rows": state.history})
        self.workers.wait()
        return metadata

    def _save(self, state: Progressed) -> None:
        if self.workers.first:
            checkpoint.save(self.folder, state, self.parameters, self.optimizer)
        self.workers.wait()

    def _epoch_folder(self, epoch: int) -> Path:
        return self.config.output_dir / f"epoch-{epoch + 1:03d}"

    def _wall(self) -> float:
        return self.before + time.monotonic() - self.started
