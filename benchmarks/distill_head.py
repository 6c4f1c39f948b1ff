"""The chunked loss head against the naive one: time and peak memory, side by side, each in a process of its own.

    python benchmarks/distill_head.py [--tokens 4096] [--hidden 512] [--vocab 16384]

Peak memory is how far the resident set grew over its size with the inputs in place (Linux: VmHWM, reset first).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = {"alpha": 0.9, "temperature": 2.0}


def measure(kind: str, tokens: int, hidden: int, vocab: int) -> dict[str, float]:
    import torch

    from pv.distill.loss import FullRows, distillation_loss

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(tokens, hidden, generator=generator).requires_grad_(True)
    w = (torch.randn(vocab, hidden, generator=generator) * 0.02).requires_grad_(True)
    labels = torch.randint(0, vocab, (tokens,), generator=generator)
    teacher = (torch.randn(tokens, vocab, generator=generator) * 2).half()

    def naive() -> torch.Tensor:
        z = h @ w.t()
        T, a = SETTINGS["temperature"], SETTINGS["alpha"]
        log_p, log_q = torch.log_softmax(teacher.float() / T, -1), torch.log_softmax(z / T, -1)
        kl = T * T * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        return a * kl + (1 - a) * torch.nn.functional.cross_entropy(z, labels)

    def chunked() -> torch.Tensor:
        return distillation_loss(h, w, labels, FullRows(teacher), **SETTINGS).total

    run = {"naive": naive, "chunked": chunked}[kind]
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    started = time.process_time()
    loss = run()
    loss.backward()
    seconds = time.process_time() - started
    return {
        "seconds": seconds,
        "peak_mib": resident("VmHWM") - before,
        "loss": float(loss),
        "grad": float(h.grad.norm() + w.grad.norm()),
    }


def resident(field: str) -> float:
    """A size from /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 4096), ("hidden", 512), ("vocab", 16384)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", choices=["naive", "chunked"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.only, given.tokens, given.hidden, given.vocab)))
        return
    found = {}
    for kind in ("naive", "chunked"):
        command = [sys.executable, __file__, "--only", kind]
        command += [f"--{name}={getattr(given, name)}" for name in ("tokens", "hidden", "vocab")]
        found[kind] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        one = found[kind]
        print(f"{kind:8} {one['seconds']:6.2f} s CPU {one['peak_mib']:8.0f} MiB  loss {one['loss']:.6f}")
    print(
        f"chunked is {found['naive']['seconds'] / found['chunked']['seconds']:.2f} times faster"
        f" and {found['naive']['peak_mib'] / found['chunked']['peak_mib']:.1f} times smaller"
    )


if __name__ == "__main__":
    main()
