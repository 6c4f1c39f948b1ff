"""Everything about GPUs, on a machine that has one: correctness, power, speed, and the falsifiers, into one folder.

    PYTHONPATH=src python3 scripts/device_check.py --out $OUT [--parts env,tiny,falsify,power,speed] [--minutes 9]

Each step is a process of its own with a time limit, so that one failure does not lose the rest. In $OUT:
`summary.txt`, `results.json` (exit codes and seconds), `records.zip` (what `pv evidence export` wrote), tables as
JSON and Markdown, and `logs.tar.gz`. The working tree is changed (records, statuses): run it on a copy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TEACHER = "fixtures/tiny-teacher"
PV = [sys.executable, "-P", "-m", "pv"]
OURS = ["--id", "FALSIFY-CPU-GPU-*", "--id", "FALSIFY-MODEL-1-SHIP-CPU-*", "--id", "KH-MODEL-1-SHIP-CPU-*"]


class Step(NamedTuple):
    """A command, its time limit in seconds, variables of its own, and the file that takes its stdout ("" for the
    log).
    """

    name: str
    command: list[str]
    limit: float
    variables: dict[str, str] = {}  # noqa: RUF012 - read only
    stdout: str = ""


HARDWARE = {"PV_WGPU_ADAPTER": "hardware"}
ASK = ["run", TEACHER, "--prompt", "What is 2+2?", "--max-tokens", "16"]


def steps(out: Path) -> dict[str, list[Step]]:
    """All steps by part, in the order of their worth."""
    speed = [sys.executable, "benchmarks/gpu.py"]
    return {
        "env": [
            Step("card", ["nvidia-smi"], 30),
            Step("pv env", [*PV, "env"], 120),
        ],
        "tiny": [
            Step("run cuda", [*PV, *ASK, "--require", "cuda", "--verbose"], 120),
            Step("run wgpu", [*PV, *ASK, "--require", "wgpu", "--verbose"], 120, HARDWARE),
            Step("run both defective", [*PV, *ASK, "--plant-defect", "cuda=argmax-kept", "--plant-defect",
                                        "wgpu=argmax-kept"], 180, HARDWARE),
            Step("run without a GPU", [*PV, *ASK, "--no-gpu", "--verbose"], 120),
            Step("deep cuda", [*PV, "parity", TEACHER, "--deep", "--json", "--backend", "cuda"], 240, {},
            "deep-cuda.json"), Step("deep wgpu", [*PV, "parity", TEACHER, "--deep", "--json", "--backend", "wgpu"],
            240, HARDWARE,
                 "deep-wgpu.json"),
            Step("kernels", [sys.executable, "-m", "pytest", "-q", "-m", "gpu or not gpu", "-p", "no:cacheprovider",
                             "-o", "addopts=--import-mode=importlib", "tests/backends"], 300),
        ],
        "falsify": [
            *(
                Step(
                    f"falsify teacher on {device}",
                    [*PV, "falsify", *OURS, "--device", device, "--subject", "tiny-teacher", "--subject", "code",
                     "--allow-blocked", "-j", "3"],
                    300,
                )
                for device in ("cpu", "cuda", "vulkan")
            ),
            Step("falsify 7b", [*PV, "falsify", *OURS, "--subject", "synthetic:7b", "--allow-blocked"], 200),
            Step("falsify slots", [*PV, "falsify", "--id", "FALSIFY-SUB-FFN-004", "--allow-blocked"], 90),
            Step("export", [*PV, "evidence", "export", str(out / "records.zip")], 60),
        ],
        "power": [
            Step(
                f"power {name}",
                [*PV, "parity", "power", TEACHER, "--backend", name, "--output-format", "markdown",
                 "--save", str(out / f"power-{name}.json")],
                300, HARDWARE, f"power-{name}.md",
            )
            for name in ("cuda", "wgpu")
        ],
        "speed": [
            Step("speed 7b", [*speed, "--parts", "limit,cuda,bf16,wgpu,gate,blocks", "--json",
                              str(out / "speed-7b.json")], 420, HARDWARE),
            Step("speed tiny", [*speed, "--shape", "tiny", "--parts", "cuda,wgpu", "--json", str(out /
            "speed-tiny.json")],
                 120, HARDWARE),
        ],
        "peers": [
            Step("products", [*speed, "--parts", "matvec", "--json", str(out / "products.json")], 240),
            Step("transformers", [*speed, "--parts", "hf", "--json", str(out / "transformers.json")], 300),
        ],
    }  # fmt: skip


def run(step: Step, out: Path, logs: Path, left: float) -> dict[str, object]:
    """Run one step within its limit and what is left of the whole; its log is kept whatever happens."""
    limit, began = min(step.limit, left), time.monotonic()
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))}
    log = logs / f"{step.name.replace(' ', '-')}.log"
    with log.open("wb") as err:
        target = (out / step.stdout).open("wb") if step.stdout else err
        try:
            done = subprocess.run(
                step.command, cwd=ROOT, env={**os.environ, **variables, **step.variables}, stdin=subprocess.DEVNULL,
                stdout=target, stderr=err if step.stdout else subprocess.STDOUT, timeout=limit, check=False,
            )  # fmt: skip
            code: int | str = done.returncode
        except subprocess.TimeoutExpired:
            code = f"killed after {limit:.0f} s"
        except OSError as problem:
            code = str(problem)
        finally:
            if step.stdout:
                target.close()
    seconds = round(time.monotonic() - began, 1)
    tail = log.read_text("utf-8", "replace").splitlines()[-12:]
    print(f"== {step.name}: {code}, {seconds} s", *(f"   {line[:200]}" for line in tail), sep="\n", flush=True)
    return {"step": step.name, "exit": code, "seconds": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out")))
    parser.add_argument("--parts", default="env,tiny,falsify,power,speed")
    parser.add_argument("--minutes", type=float, default=9.0, help="of all steps together")
    asked = parser.parse_args()
    out: Path = asked.out.resolve()
    logs = out / "log"
    logs.mkdir(parents=True, exist_ok=True)
    deadline, results = time.monotonic() + 60 * asked.minutes, []
    known = steps(out)
    for part in asked.parts.split(","):
        for step in known[part]:
            left = deadline - time.monotonic()
            if left < 5:
                results.append({"step": step.name, "exit": "not started: out of time", "seconds": 0})
                continue
            results.append(run(step, out, logs, left))
            (out / "results.json").write_text(json.dumps(results, indent=2))
    if "falsify" in asked.parts and not (out / "records.zip").exists():
        results.append(run(known["falsify"][-1], out, logs, 60.0))  # whatever was earned before time ran out
    lines = [f"{r['exit']!s:>24}  {r['seconds']!s:>7} s  {r['step']}" for r in results]
    (out / "summary.txt").write_text("\n".join(lines) + "\n")
    with tarfile.open(out / "logs.tar.gz", "w:gz") as archive:
        archive.add(logs, "log")
    for path in logs.iterdir():
        path.unlink()
    logs.rmdir()
    print("\n".join(lines))
    return 0 if all(r["exit"] == 0 for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
