"""How fast a 500M teacher and a 50M student train on a card: tokens a second and the share of the bfloat16 peak.

    python benchmarks/distill_gpu.py [--steps 12] [--peak 989e12]

Operations of a step: 6 for each parameter and token, and causal attention, forward and backward. Each variant trains on
random tokens, which are as much work as any others. The share is of the datasheet's dense bfloat16 peak.
"""

from __future__ import annotations

import argparse
import time

import torch

from pv.distill.config import ShapeConfig
from pv.distill.loss import TopRows
from pv.distill.student import Student, initial_tensors, spec_of

TEACHER = ShapeConfig(hidden=1536, layers=16, heads=12, kv_heads=4, head_dim=128, ffn=5120)
STUDENT = ShapeConfig(hidden=512, layers=12, heads=8, kv_heads=4, head_dim=64, ffn=1792)
VOCAB, LENGTH = 16_384, 512


def flops_per_token(student: Student) -> float:
    spec = student.spec
    parameters = sum(p.numel() for p in student.parameters())
    return 6.0 * parameters + 6.0 * spec.layers * spec.q_width * LENGTH


def teacher_rows(tokens: int, device: torch.device) -> TopRows:
    """Made-up rows of the shape of a top-64 cache."""
    logits = torch.randn(tokens, 64, device=device).sort(-1, descending=True).values
    return TopRows(
        torch.randint(0, VOCAB, (tokens, 64), device=device).sort(-1).values, logits, logits.logsumexp(-1) + 0.1
    )


def speed(
    shape: ShapeConfig, rows: int, micro: int, *, compiled: bool, alpha: float, chunk: int, steps: int
) -> tuple[float, float, float]:
    """(tokens a second, operations a second, peak memory in GiB) of whole optimiser steps, after three to warm up."""
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    spec = spec_of(shape, VOCAB, LENGTH)
    student = Student(spec, initial_tensors(spec, 0), precision="bfloat16").to(device)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    if compiled:
        student.hidden = torch.compile(student.hidden)  # type: ignore[method-assign]  # as the training loop does
    teacher = teacher_rows(micro * LENGTH, device) if alpha else None
    batches = torch.randint(0, VOCAB, (rows, LENGTH + 1), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for start in range(0, rows, micro):
            batch = batches[start : start + micro]
            losses = student(batch[:, :-1], batch[:, 1:], teacher, alpha, 1.0, rows * LENGTH, chunk)
            losses.total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    rate = steps * rows * LENGTH / (time.perf_counter() - started)
    return rate, rate * flops_per_token(student), torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--peak", type=float, default=989e12, help="operations a second of dense bfloat16")
    given = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"{'variant':52} {'tokens/s':>10} {'of peak':>8} {'GiB':>7}")
    for name, shape, rows, micro, compiled, alpha, chunk in (
        ("teacher 500M, compiled, 64 x 512, chunk 8192", TEACHER, 128, 64, True, 0.0, 8192),
        ("teacher 500M, compiled, 128 x 512, chunk 16384", TEACHER, 128, 128, True, 0.0, 16384),
        ("teacher 500M, eager, 64 x 512, chunk 8192", TEACHER, 128, 64, False, 0.0, 8192),
        ("student 50M, eager, 8 x 512, from scratch", STUDENT, 8, 8, False, 0.0, 4096),
        ("student 50M, eager, 8 x 512, distilled (top 64)", STUDENT, 8, 8, False, 0.9, 4096),
        ("student 50M, compiled, 8 x 512, distilled (top 64)", STUDENT, 8, 8, True, 0.9, 4096),
    ):
        rate, operations, memory = speed(
            shape, rows, micro, compiled=compiled, alpha=alpha, chunk=chunk, steps=given.steps
        )
        print(f"{name:52} {rate:10,.0f} {operations / given.peak:8.1%} {memory:7.1f}", flush=True)


if __name__ == "__main__":
    main()
