"""Our forward against Transformers' eager one: same weights, same threads, interleaved in one run.

`python benchmarks/forward.py [--shape 0.5b] [--threads 1]` prints a table; exit 1 when a median ratio exceeds 1.1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else two threads collapse beside another busy process

import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from pv.backends.cpu import open_cpu
from pv.model.spec import ModelSpec, config_from_spec, named_shape
from pv.model.synthetic import Recipe, build
from pv.model.weights import Weights, hf_names

BOUND = 1.1


@dataclass(frozen=True, slots=True)
class Row:
    """One measured work: medians in milliseconds and their ratio, over interleaved pairs."""

    shape: str
    work: str
    ours_ms: float
    transformers_ms: float
    ratio: float
    pairs: int
    threads: int


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", help="named shape; repeatable (tiny, 28-small)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for shape in options.shape or ["tiny", "28-small"] for row in measure(shape, options.pairs)]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(table(rows))
    return int(any(row.ratio > BOUND for row in rows))


def measure(shape: str, pairs: int) -> list[Row]:
    """Prefill of 64 and of 256 tokens, and a decode step behind 64, of one shape."""
    spec = named_shape(shape)
    weights = build(Recipe(spec))
    theirs, session = transformers_model(weights), open_cpu(weights)
    rows = []
    for length in (64, 256):
        ids = [(7 * i + 3) % spec.vocab for i in range(length)]

        def ours(ids: list[int] = ids) -> None:
            session.reset()
            session.prefill(ids)

        def eager(ids: list[int] = ids) -> None:
            theirs(torch.tensor([ids]), past_key_values=DynamicCache(), logits_to_keep=1)

        rows.append(compared(shape, f"prefill of {length}", ours, eager, pairs))
    rows.append(compared(shape, "decode step behind 64", *decoders(spec, session, theirs), 4 * pairs))
    return rows


def decoders(spec: ModelSpec, session: Any, theirs: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """One more token on each side, both behind the same 64."""
    ids, cache = [(5 * i + 1) % spec.vocab for i in range(64)], DynamicCache()
    session.reset()
    session.prefill(ids)
    theirs(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1)

    def eager() -> None:
        theirs(torch.tensor([[7]]), past_key_values=cache, logits_to_keep=1)

    return lambda: session.decode(7), eager


def transformers_model(weights: Weights) -> Any:
    """Transformers' Qwen2 with the same weights, eager attention, float32."""
    config = Qwen2Config(**config_from_spec(weights.spec), attn_implementation="eager")
    model = Qwen2ForCausalLM(config).eval()
    names = hf_names(weights.spec)
    model.load_state_dict({names[n]: w.dense() for n, w in weights.tensors.items()}, strict=False)
    model.tie_weights()
    return model


def compared(shape: str, work: str, ours: Callable[[], None], eager: Callable[[], None], pairs: int) -> Row:
    """Time the two in turn, so that a busy machine burdens both; the ratio is the median of the pairs' ratios."""
    times = []
    with torch.inference_mode():
        for _ in range(2):
            seconds(ours)
            seconds(eager)
        for _ in range(pairs):
            times.append((seconds(ours), seconds(eager)))
    mine, other = ([pair[side] for pair in times] for side in (0, 1))
    ratio = median(a / b for a, b in times)
    return Row(shape, work, 1e3 * median(mine), 1e3 * median(other), ratio, pairs, torch.get_num_threads())


def seconds(work: Callable[[], None]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| shape | work | pv, ms | Transformers eager, ms | ratio | pairs | threads |", "|" + " --- |" * 7]
    for r in rows:
        times = f"{r.ours_ms:.2f} | {r.transformers_ms:.2f} | {r.ratio:.2f}"
        lines.append(f"| {r.shape} | {r.work} | {times} | {r.pairs} | {r.threads} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
