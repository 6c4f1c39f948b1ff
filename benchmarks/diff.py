"""How fast `pv diff` reads two captures, beside a plain numpy subtraction of the same memory-mapped files.

`python benchmarks/diff.py [--width 4096] [--megabytes 256]` prints a table; exit 1 when the diff reaches less than half
of the subtraction's memory bandwidth, by the clock. Beside it: the same ratio by CPU time, which other programs disturb
less; the peak of memory that a diff of two captures needs, in a process of its own; and the speed with every byte
verified against its sha256 first, as the command does unless told not to.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from pv.compare.tensors import TensorRef, diff_tensor, judge_by
from pv.compare.thresholds import THRESHOLDS, Kind
from pv.trace.aprt import open_aprt, sha256_of, write_aprt

BOUND = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """One width: bytes of both sides a second, in GB, and the medians of the rounds' ratios."""

    width: int
    megabytes: float
    subtract: float
    diff: float
    verified: float
    ratio: float
    cpu_ratio: float
    peak_megabytes: float
    rounds: int


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, action="append", help="of a row; repeatable (3584, 4096, 18944)")
    parser.add_argument("--megabytes", type=int, default=256, help="of each side")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)  # reference, test, width
    options = parser.parse_args()
    if options.peak:
        print(peak_of(Path(options.peak[0]), Path(options.peak[1]), int(options.peak[2])))
        return 0
    rows = [measure(width, options.megabytes, options.rounds) for width in options.width or [3584, 4096, 18944]]
    print(json.dumps([asdict(row) for row in rows]) if options.json else table(rows))
    return int(any(row.ratio < BOUND for row in rows))


def measure(width: int, megabytes: int, rounds: int) -> Row:
    """Subtract, diff and verify two files in turn."""
    count = megabytes * 250_000 // width * width
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="pv-bench-") as folder:
        reference, test = Path(folder) / "reference.bin", Path(folder) / "test.bin"
        values = rng.standard_normal(count, dtype=np.float32)
        write_aprt(reference, 0, values)
        values += np.float32(1e-6) * rng.standard_normal(count, dtype=np.float32)
        write_aprt(test, 0, values)
        del values

        def subtract() -> None:
            open_aprt(test).values - open_aprt(reference).values

        def compared() -> None:
            diff_tensor(ref(reference, width), ref(test, width), judge_by(THRESHOLDS[Kind.CUDA]))

        def verified() -> None:
            sha256_of(reference)
            sha256_of(test)
            compared()

        times = []
        for at in range(rounds + 1):
            found = [cost(work) for work in (subtract, compared, verified)]
            if at:
                times.append(found)
        command = [sys.executable, __file__, "--peak", str(reference), str(test), str(width)]
        peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    speeds = [median(8 * count / 1e9 / t[i].wall for t in times) for i in range(3)]
    ratio = median(s.wall / d.wall for s, d, _ in times)
    cpu_ratio = median(s.cpu / d.cpu for s, d, _ in times)
    return Row(width, 4 * count / 1e6, speeds[0], speeds[1], speeds[2], ratio, cpu_ratio, peak, rounds)


def ref(path: Path, width: int) -> TensorRef:
    """An APRT file as rows of `width`."""
    opened = open_aprt(path)
    return TensorRef("x", None, 0, None, (opened.values.size // width, width), lambda: opened)


def peak_of(reference: Path, test: Path, width: int) -> float:
    """The largest resident size of this process, in megabytes, after a diff."""
    diff_tensor(ref(reference, width), ref(test, width), judge_by(THRESHOLDS[Kind.CUDA]))
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would count the parent's pages too
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


class Cost(NamedTuple):
    """Seconds of one call: on the clock, and of the processor."""

    wall: float
    cpu: float


def cost(work: Callable[[], object]) -> Cost:
    """What one call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    head: tuple[str, ...] = (
        "width",
        "MB a side",
        "numpy subtraction, GB/s",
        "diff, GB/s",
        "diff with sha256, GB/s",
        "ratio",
        "bound",
    )
    head += ("CPU ratio", "process peak, MB")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in rows:
        speeds = f"{r.subtract:.1f} | {r.diff:.1f} | {r.verified:.1f} | {r.ratio:.2f}"
        lines.append(
            f"| {r.width} | {r.megabytes:.0f} | {speeds} | {BOUND} | {r.cpu_ratio:.2f} | {r.peak_megabytes:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
