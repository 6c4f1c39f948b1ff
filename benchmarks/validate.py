"""CPU time of `pv validate` against PyYAML's C loader with the same models, in one run, whole processes, side by side.

    python benchmarks/validate.py [--copies 2400] [--rounds 5] [--json]

The baseline is one Python process that loads every file with `yaml.CSafeLoader` and validates the data with the very
pydantic models of pv: it has no positions, no rules, no output. `pv validate --no-cache` reads the same files with
positions, applies every rule, looks across files and writes its findings. Figures are user plus system time of the
child; the cases take turns, and the least of the rounds is shown: other work on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
PV = [sys.executable, "-m", "pv"]
BASELINE = """
import sys, yaml
from pathlib import Path
from pydantic import ValidationError
from pv.contract.models import ContractFile
wrong = 0
for path in sorted(Path(sys.argv[1]).rglob("*.yaml")):
    data = yaml.load(path.read_bytes(), yaml.CSafeLoader)
    try:
        ContractFile.model_validate(data)
    except ValidationError:
        wrong += 1
"""
TARGETS = {"cold / baseline": 0.85, "corpus": 0.35, "help": 0.15, "warm": 0.25}


def main() -> int:
    """Print the table; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--same-ids", action="store_true", help="leave the ids as they are: thousands of them collide")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not CORPUS.is_dir():
        print(f"the corpus of real contracts is not at {CORPUS}", file=sys.stderr)
        return 5
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "contracts")
        size = copy_corpus(folder, arguments.copies, same_ids=arguments.same_ids)
        figures = measure(folder, arguments.rounds)
    figures["cold / baseline"] = figures["cold"] / figures["baseline"]
    if arguments.json:
        print(json.dumps({"files": arguments.copies, "bytes": size, **figures}))
    else:
        print_table(figures, arguments.copies, size)
    return int(any(figures[name] > target for name, target in TARGETS.items()))


def copy_corpus(folder: Path, copies: int, *, same_ids: bool) -> int:
    """Write `copies` distinct variations of the corpus files; returns the bytes written.

    A round of the corpus keeps its inner references: names of files, wherever they occur, get the number of the round.
    """
    folder.mkdir()
    (folder.parent / ".git").mkdir()  # a project without settings, as other people's are
    sources = sorted(CORPUS.rglob("*.yaml"))
    stems = re.compile("|".join(sorted({rf"\b{re.escape(source.stem)}\b" for source in sources}, reverse=True)))
    written = 0
    for number in range(copies):
        source, turn = sources[number % len(sources)], number // len(sources)
        text = stems.sub(rf"\g<0>-{turn:02}", source.read_text("utf-8"))
        if not same_ids:
            text = re.sub(r"^(\s*-\s+id:\s+[\"']?[\w-]+)", rf"\1-{turn:02}", text, flags=re.MULTILINE)
        content = f"{text.rstrip()}\n# copy {number}\n".encode()
        place = folder / source.parent.name / f"{source.stem}-{turn:02}.yaml"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
        written += len(content)
    return written


def measure(folder: Path, rounds: int) -> dict[str, float]:
    """Least CPU seconds of each case."""
    quiet = ["--output-file", os.devnull]
    cases = {
        "baseline": [sys.executable, "-c", BASELINE, str(folder)],
        "cold": [*PV, "validate", str(folder), "--no-cache", *quiet],
        "corpus": [*PV, "validate", str(CORPUS), "--no-cache", *quiet],
        "help": [*PV, "--help"],
        "warm": [*PV, "validate", str(folder), *quiet],
    }
    cpu_seconds(cases["warm"])  # fills the cache
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, command in cases.items():
            taken[name].append(cpu_seconds(command))
    return {name: min(seconds) for name, seconds in taken.items()}


def cpu_seconds(command: list[str]) -> float:
    """User plus system time of a child, which must not crash."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONHASHSEED": "0"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr.decode()}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def print_table(figures: dict[str, float], copies: int, size: int) -> None:
    """One line for each case, with its target where it has one."""
    print(f"{copies} files, {size / 1e6:.1f} MB; CPU seconds, whole process, least of the rounds")
    words = {
        "baseline": "CSafeLoader and the same models",
        "cold": "pv validate --no-cache",
        "cold / baseline": "",
        "warm": "pv validate, everything remembered",
        "corpus": "pv validate on the corpus, --no-cache",
        "help": "pv --help",
    }
    for name, meaning in words.items():
        target = TARGETS.get(name)
        verdict = "" if target is None else f"  target {target}: {'met' if figures[name] <= target else 'MISSED'}"
        print(f"{name:16} {figures[name]:6.3f}  {meaning}{verdict}")


if __name__ == "__main__":
    sys.exit(main())
