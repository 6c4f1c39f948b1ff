"""What a complete capture costs beside the same forward and one copy of its files to the disk, interleaved in one run.

The copy is the least that anybody pays who keeps these tensors: each folder made, each file created under its name and
written in one piece from values that already lie in memory. Nothing is hashed, checked or forced to the platter; a
capture forces nothing either, so both leave their bytes in the system's page cache.

The ratio that is judged is of wall time: capture / (forward + copy), median over rounds. A capture writes and hashes in
a second thread, so it needs a second core that is idle; `others` says how much of all cores other programs took
meanwhile. The ratio of CPU time, of all threads together, stands beside it and is not judged: sha256 adds 0.1 to 0.4.

`python benchmarks/capture.py [--shape 0.5b] [--tokens 64] [--threads 1] [--place DIR]` prints a table; exit 1 when a
ratio of wall times exceeds 1.3.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else two threads collapse beside another busy process

import numpy as np
import torch
from numpy.typing import NDArray

from pv.backends.cpu import open_cpu
from pv.model.spec import named_shape
from pv.model.synthetic import Recipe, build
from pv.trace.aprt import encode_header
from pv.trace.capture import Origin, capture
from pv.trace.plan import ExpectedFile, make_plan
from pv.trace.stages import parse_stages

BOUND = 1.3
ORIGIN = Origin("pv", "synthetic", "", "sha256:0", "F32", {"backend": "cpu"})


class Cost(NamedTuple):
    """Seconds of one call: on the clock, and of all cores together."""

    wall: float
    cpu: float


class Round(NamedTuple):
    """The three, measured one after the other."""

    forward: Cost
    copy: Cost
    capture: Cost

    def ratio(self, of: Callable[[Cost], float]) -> float:
        """Capture in units of forward and copy."""
        return of(self.capture) / (of(self.forward) + of(self.copy))


@dataclass(frozen=True, slots=True)
class Row:
    """One shape at one place: median milliseconds of wall time, and the median of the rounds' ratios."""

    shape: str
    place: str
    tokens: int
    megabytes: float
    files: int
    forward_ms: float
    copy_ms: float
    capture_ms: float
    ratio: float
    cpu_ratio: float
    others: float  # share of all cores that other programs took
    rounds: int


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", help="named shape; repeatable (tiny, 28-small, 0.5b)")
    parser.add_argument("--place", action="append", help="folder to write to; repeatable (the temporary folder)")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        measure(shape, options.tokens, options.rounds, place)
        for shape in options.shape or ["tiny", "28-small", "0.5b"]
        for place in options.place or [tempfile.gettempdir()]
    ]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(table(rows))
    return int(any(row.ratio > BOUND for row in rows))


def measure(shape: str, count: int, rounds: int, place: str) -> Row:
    """Forward, copy and capture in turn, `rounds` times, each on fresh names below `place`."""
    spec = named_shape(shape)
    session = open_cpu(build(Recipe(spec)))
    tokens = [(7 * i + 3) % spec.vocab for i in range(count)]
    plan = make_plan(parse_stages("all"), spec)
    files = plan.files(spec, count)
    random = np.random.default_rng(0)
    tensors = [(file, random.standard_normal(file.shape, np.float32)) for file in files]
    found = []
    with tempfile.TemporaryDirectory(prefix="pv-bench-", dir=place) as folder:
        busy = Busy()
        for at in range(rounds + 2):
            base = Path(folder, str(at))
            base.mkdir()
            session.reset()
            forward = cost(session.prefill, tokens)
            copied = cost(copy, tensors, base / "copy")
            session.reset()
            captured = cost(capture, session, tokens, plan, base / "capture", ORIGIN)
            emptied(base)
            if at > 1:  # the first two warm up
                found.append(Round(forward, copied, captured))
        others = busy.others()
    forward_ms, copy_ms, capture_ms = (1e3 * median(one[i].wall for one in found) for i in range(3))
    return Row(
        shape, place, count, sum(file.size for file in files) / 1e6, len(files), forward_ms, copy_ms, capture_ms,
        median(one.ratio(lambda cost: cost.wall) for one in found),
        median(one.ratio(lambda cost: cost.cpu) for one in found), others, rounds,
    )  # fmt: skip


def copy(tensors: Sequence[tuple[ExpectedFile, NDArray[np.float32]]], target: Path) -> None:
    """One plain copy of a capture's files: create, write, close."""
    for parent in sorted({(target / file.path).parent for file, _ in tensors}):
        parent.mkdir(parents=True, exist_ok=True)
    for file, values in tensors:
        with open(f"{target}/{file.path}", "xb", buffering=0) as out:
            out.write(encode_header(file.layer, values.size))
            out.write(values.data)


def emptied(folder: Path) -> None:
    """Give the bytes back and keep the names: ext4 creates files slowly for seconds after many were deleted."""
    for path in folder.rglob("*.bin"):
        os.truncate(path, 0)


def cost(work: Callable[..., object], *arguments: object) -> Cost:
    """What one call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work(*arguments)
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


class Busy:
    """How much of all cores other programs take, from now on; NaN where the system does not tell."""

    def __init__(self) -> None:
        self._start = (time.perf_counter(), self._used())

    def others(self) -> float:
        """Their share since the start, 0 to 1."""
        wall, used = time.perf_counter() - self._start[0], self._used() - self._start[1]
        return max(0.0, used / wall / (os.cpu_count() or 1))

    def _used(self) -> float:
        try:
            words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        except OSError:
            return float("nan")
        user, nice, system, _, _, irq, soft_irq, steal = map(int, words[1:9])
        return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:2])


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    head = (
        "shape",
        "files",
        "MB",
        "place",
        "forward, ms",
        "copy, ms",
        "capture, ms",
        "ratio",
        "bound",
        "CPU",
        "others",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in rows:
        times = f"{r.forward_ms:.1f} | {r.copy_ms:.1f} | {r.capture_ms:.1f} | {r.ratio:.2f}"
        lines.append(
            f"| {r.shape} | {r.files} | {r.megabytes:.1f} | {r.place} | {times} | {BOUND} | {r.cpu_ratio:.2f} "
            f"| {r.others:.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
