"""How training speeds up over the GPUs of one host, and whether it stays the same training.

    python benchmarks/distill_scaling.py [--processes 1 2 4] [--steps 40] [--tiny] [--out FILE.json]

Each row is `pv distill`'s own training under torch's launcher (`torchrun`), on made-up rows of Zipf-distributed tokens:

- strong: the recipe's batch (128 rows of 512 tokens), shared by N processes. The losses of every step and the
  validation loss are compared with those of one process: the same training, up to the order of sums in bfloat16.
- weak: 128 rows for each process. Another training, so only its speed is told.

The rate is taken between looks at the loss (every ten steps on a card, each waits for the device), from the second look
on, so that compiling is left out. What follows the last step (checkpoint, digests, model file) is left out as well, as
nothing of it is timed. Runs that fit beside each other on the cards run at the same time. `--tiny` is the same on CPU
processes, in seconds, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from tokenizers import Tokenizer, models

from pv.distill.config import DistillConfig
from pv.distill.corpus import EOS, Data
from pv.distill.train import train

TEACHER = {"hidden": 1536, "layers": 16, "heads": 12, "kv_heads": 4, "head_dim": 128, "ffn": 5120}
TINY = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 128}


class Run(NamedTuple):
    """One training: `rows` sequences in each optimiser step, over all `processes`."""

    kind: str
    processes: int
    rows: int


def data_in(folder: Path, vocab: int, length: int, rows: int) -> Data:
    """Rows of tokens drawn by Zipf's law from a fixed seed, and a tokenizer of so many made-up words."""
    words = {EOS: 0} | {f"w{i}": i for i in range(1, vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=EOS))
    tokenizer.save(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(0)
    shares = 1.0 / np.arange(1, vocab + 1)
    drawn = rng.choice(vocab, size=(rows + 32, length + 1), p=shares / shares.sum()).astype(np.int32)
    parts = {"teacher": drawn[:rows], "student": drawn[:1], "validation": drawn[rows:]}
    return Data(folder, folder / "tokenizer.json", vocab, parts, "zipf-0")


def config_of(run: Run, folder: Path, tiny: bool) -> DistillConfig:
    return DistillConfig.model_validate(
        {
            "student": TINY if tiny else TEACHER,
            "output_dir": folder / f"{run.kind}-{run.processes}",
            "corpus": {"paths": ["."]},
            "train_on": "teacher",
            "alpha": 0.0,
            "batch_size": run.rows,
            "micro_batch": 4 if tiny else 64,
            "learning_rate": 3e-3 if tiny else 6e-4,
            "sequence_length": 32 if tiny else 512,
            "precision": "float32" if tiny else "bfloat16",
            "compile": not tiny,
            "device": "cpu" if tiny else "cuda",
            "checkpoint_every": 10_000,
            "loss_chunk": 64 if tiny else 8192,
            "optimizer": {"schedule": "constant"},
        }
    )


def worker(run: Run, folder: Path, steps: int, tiny: bool) -> None:
    """One process of a run; the first writes what it saw to result.json."""
    config = config_of(run, folder, tiny)
    own = folder / f"data-{run.kind}-{run.processes}-{os.environ.get('RANK', '0')}"
    own.mkdir()
    data = data_in(own, 300 if tiny else 16_384, config.sequence_length, steps * run.rows)
    looks: list[tuple[int, float]] = []

    def progress(what: str, done: int, total: int) -> None:
        looks.append((done, time.perf_counter()))

    with (
        patch("pv.distill.checkpoint.save"),
        patch("pv.distill.checkpoint.optimizer_state_sha", return_value=""),
        patch("pv.distill.train.save_model", side_effect=lambda folder, *_: folder.mkdir(parents=True)),
    ):
        result = train(config, data, progress)
    if os.environ.get("RANK", "0") == "0":
        history = json.loads((config.output_dir / "epoch-001/history.json").read_text())["rows"]
        told = {
            "rate": rate_of(looks, run.rows * config.sequence_length),
            "losses": [row[1] for row in history],
            "validation": result.metadata["val_loss"],
            "seconds": result.metadata["wall_seconds"],
            "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if not tiny else 0.0,
            "device": "cpu" if tiny else torch.cuda.get_device_name(),
        }
        (config.output_dir / "result.json").write_text(json.dumps(told))


def rate_of(looks: list[tuple[int, float]], tokens_per_step: int) -> float:
    """Tokens a second between the second look and the last before the epoch is closed."""
    (first, began), (last, ended) = looks[1], looks[-1]
    return (last - first) * tokens_per_step / (ended - began)


def launched(run: Run, cards: list[int], folder: Path, given: argparse.Namespace) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(run.processes)]
    command += [__file__, "--worker", *map(str, run), "--folder", str(folder), "--steps", str(given.steps)]
    command += ["--tiny"] * given.tiny
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, cards))} if cards else {}
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **visible})


def measured(runs: list[Run], folder: Path, given: argparse.Namespace) -> dict[Run, dict[str, Any]]:
    """All runs, beside each other where the cards suffice. A run that fails is told and left out."""
    cards = 0 if given.tiny else torch.cuda.device_count()
    results: dict[Run, dict[str, Any]] = {}
    waiting = list(runs)
    while waiting:
        group = [waiting.pop(0)]
        used = group[0].processes
        while waiting and not given.tiny and used + waiting[0].processes <= cards:
            used += waiting[0].processes
            group.append(waiting.pop(0))
        first, started = 0, []
        for run in group:
            mine = [] if given.tiny else list(range(first, first + run.processes))
            started.append((run, launched(run, mine, folder, given)))
            first += run.processes
        for run, process in started:
            if process.wait(timeout=600):
                print(f"{run}: exit {process.returncode}", flush=True)
            else:
                results[run] = json.loads((folder / f"{run.kind}-{run.processes}" / "result.json").read_text())
                print(f"{run}: {results[run]['rate']:,.0f} tokens a second", file=sys.stderr, flush=True)
                keep(results, given.out)
    return results


def keep(results: dict[Run, dict[str, Any]], file: Path | None) -> None:
    """Written after each run, so that one that hangs does not take the others along."""
    if file:
        told = {f"{run.kind}-{run.processes}": found for run, found in results.items()}
        file.write_text(json.dumps(told, indent=1), encoding="utf-8")


def table(results: dict[Run, dict[str, Any]]) -> str:
    one = next((told for run, told in results.items() if run.processes == 1), None)
    lines = ["| batch | processes | tokens a second | speed-up | efficiency | worst step's loss | validation loss |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | --- | --- |"]
    for run, told in results.items():
        gain = told["rate"] / one["rate"] if one else float("nan")
        worst, validation = "", ""
        if one and run.kind == "strong":
            worst = f"{max(abs(a - b) for a, b in zip(told['losses'], one['losses'], strict=True)):.2g} off"
            validation = f"{told['validation']:.5f} ({told['validation'] - one['validation']:+.2g})"
        lines.append(
            f"| {run.kind}, {run.rows} rows | {run.processes} | {told['rate']:,.0f} | {gain:.2f} |"
            f" {gain / run.processes:.0%} | {worst} | {validation} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps of each run, at least 30 on a card")
    parser.add_argument("--tiny", action="store_true", help="a small model on CPU processes")
    parser.add_argument("--weak", type=int, nargs="*", default=[], help="process counts that also get a grown batch")
    parser.add_argument("--out", type=Path, help="write every number here as JSON")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        kind, processes, rows = given.worker
        worker(Run(kind, int(processes), int(rows)), given.folder, given.steps, given.tiny)
        return
    rows = 8 if given.tiny else 128
    runs = [Run("strong", n, rows) for n in given.processes] + [Run("weak", n, rows * n) for n in given.weak]
    with tempfile.TemporaryDirectory(prefix="pv-scaling-") as folder:
        results = measured(runs, Path(folder), given)
    first = next(iter(results.values()), None)
    print(f"{first['device']}, torch {torch.__version__}\n" if first else "every run failed")
    print(table(results))
    if len(results) < len(runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
