"""What a complete capture costs beside the same forward and one copy of its files to the disk, interleaved in one run.

The copy is what anybody pays who keeps these tensors: each file created, written and closed, nothing hashed or checked.

`python benchmarks/capture.py [--shape 0.5b] [--tokens 64] [--threads 1]` prints a table; exit 1 when a median ratio
of capture / (forward + copy) exceeds 1.3.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else two threads collapse beside another busy process

import torch

from pv.backends.cpu import open_cpu
from pv.model.spec import named_shape
from pv.model.synthetic import Recipe, build
from pv.trace.capture import Origin, capture
from pv.trace.plan import make_plan
from pv.trace.stages import parse_stages

BOUND = 1.3
ORIGIN = Origin("pv", "synthetic", "", "sha256:0", "F32", {"backend": "cpu"})


@dataclass(frozen=True, slots=True)
class Row:
    """One shape: medians in milliseconds, and the median of the rounds' ratios."""

    shape: str
    tokens: int
    megabytes: float
    files: int
    forward_ms: float
    copy_ms: float
    capture_ms: float
    ratio: float
    rounds: int


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", help="named shape; repeatable (tiny, 28-small, 0.5b)")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(shape, options.tokens, options.rounds) for shape in options.shape or ["tiny", "28-small", "0.5b"]]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(table(rows))
    return int(any(row.ratio > BOUND for row in rows))


def measure(shape: str, count: int, rounds: int) -> Row:
    """Forward, copy and capture in turn, `rounds` times."""
    spec = named_shape(shape)
    session = open_cpu(build(Recipe(spec)))
    tokens = [(7 * i + 3) % spec.vocab for i in range(count)]
    plan = make_plan(parse_stages("all"), spec)
    files = plan.files(spec, count)
    content = memoryview(bytearray(max(file.size for file in files)))
    with tempfile.TemporaryDirectory(prefix="pv-bench-") as folder:
        place = Path(folder)

        def forward() -> None:
            session.reset()
            session.prefill(tokens)

        def copy() -> None:
            for file in files:
                target = place / "copy" / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content[: file.size])

        def traced() -> None:
            session.reset()
            capture(session, tokens, plan, place / "capture", ORIGIN)

        times = []
        for at in range(rounds + 2):
            for old in ("capture", "copy"):  # making room is no part of the work
                shutil.rmtree(place / old, ignore_errors=True)
            found = [seconds(work) for work in (forward, copy, traced)]
            if at > 1:  # the first two warm up
                times.append(found)
    forwards, copies, captures = ([1e3 * t[i] for t in times] for i in range(3))
    ratio = median(c / (f + b) for f, b, c in times)
    return Row(
        shape,
        count,
        sum(file.size for file in files) / 1e6,
        len(files),
        median(forwards),
        median(copies),
        median(captures),
        ratio,
        rounds,
    )


def seconds(work: Callable[[], None]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    head = ("shape", "tokens", "files", "MB", "forward, ms", "copy, ms", "capture, ms", "ratio", "bound")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in rows:
        times = f"{r.forward_ms:.1f} | {r.copy_ms:.1f} | {r.capture_ms:.1f} | {r.ratio:.2f}"
        lines.append(f"| {r.shape} | {r.tokens} | {r.files} | {r.megabytes:.1f} | {times} | {BOUND} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
