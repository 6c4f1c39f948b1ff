"""Reading YAML with positions against PyYAML's fast loader without: CPU time of whole processes, side by side.

    python benchmarks/read_yaml.py [--copies 2400] [--rounds 5] [--corpus DIR]

Distinct copies of real contracts (each ends in a comment of its own) are read cold by one process for each program. The
programs take turns, and the least CPU time (user and system, of the process and nothing else) of each is shown: other
work on the machine only ever adds. `models` rows add the same pydantic models to both sides. Data and positions of the
two readers are compared in tests, not here.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1].parent / "shared" / "corpus"

HEAD = """
import pathlib, sys
paths = [pathlib.Path(name) for name in sorted(pathlib.Path(sys.argv[1]).glob("*.yaml"))]
"""
FAST = HEAD + "import yaml\ndocs = [yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader) for path in paths]\n"
OURS = HEAD + "from pv.document.reader import read\ndocs = [read(path) for path in paths]\n"
MODELS = """
from pv.contract.models import ContractFile
def shaped(data):
    try:
        return ContractFile.model_validate(data)
    except ValueError as error:
        return error
"""
PROGRAMS = {
    "CSafeLoader": FAST,
    "pv.document": OURS,
    "pv.document, ten places": OURS
    + "for doc in docs: [doc.span(('falsification_tests', n, 'id')) for n in range(10)]\n",
    "pv.document, ambiguities": OURS + "for doc in docs: doc.ambiguities(), doc.problems\n",
    "CSafeLoader + models": FAST + MODELS + "kept = [shaped(doc) for doc in docs]\n",
    "pv.document + models": OURS + MODELS + "kept = [shaped(doc.data) for doc in docs]\n",
}


def make_copies(corpus: Path, count: int, folder: Path) -> int:
    """Write `count` distinct copies into `folder`; return their bytes."""
    sources = [path.read_bytes() for path in sorted(corpus.glob("*/*.yaml"))]
    if not sources:
        raise SystemExit(f"no *.yaml below {corpus}; name another folder with --corpus")
    total = 0
    for number in range(count):
        content = sources[number % len(sources)].rstrip(b"\n") + b"\n# copy %d\n" % number
        (folder / f"{number:05}.yaml").write_bytes(content)
        total += len(content)
    return total


def cpu_seconds(program: str, folder: Path) -> float:
    """User and system time of one process that runs `program`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print a table: seconds, megabytes a second, and the ratio to the loader without positions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pv-bench-") as name:
        folder = Path(name)
        size = make_copies(options.corpus, options.copies, folder)
        best = dict.fromkeys(PROGRAMS, float("inf"))
        for _ in range(options.rounds):
            for label, program in PROGRAMS.items():
                best[label] = min(best[label], cpu_seconds(program, folder))
    print(f"{options.copies} files, {size / 1e6:.1f} MB, least of {options.rounds} rounds, CPU time of whole processes")
    for label, seconds in best.items():
        base = best["CSafeLoader + models" if "models" in label else "CSafeLoader"]
        print(f"{label:26} {seconds:6.2f} s  {size / 1e6 / seconds:6.1f} MB/s  {seconds / base:5.2f}")


if __name__ == "__main__":
    main()
