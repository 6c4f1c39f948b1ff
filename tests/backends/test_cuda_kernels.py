"""Triton kernels against the operators that they stand for: on a card, or through Triton's interpreter where it is."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from pv.backends import cuda_kernels as kernels
from pv.model import operators as reference
from pv.model.cache import StaticCache
from pv.model.operators import REFERENCE
from pv.model.spec import named_shape
from pv.model.weights import Weight
from dataclasses import replace

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)


def normal(*shape):
    return torch.randn(shape).to(device)


def near(test, expected, bound=1e-5):
    error = float((test - expected).double().norm() / expected.double().norm())
    assert test.shape == expected.shape and error <= bound, error


for rows, inner in ((515, 300), (4, 4), (1, 2049), (64, 512)):
    x, w = normal(1, inner), normal(rows, inner)
    near(kernels.linear(x, Weight.of("w", w)), reference.linear(x, Weight.of("w", w)))
    for cut in (kernels.MatvecCut(1, 256, 4), kernels.MatvecCut(8, 128, 4)):
        near(kernels.matvec(x, w, cut), reference.linear(x, Weight.of("w", w)))
half = Weight.of("w", normal(40, 96).bfloat16())
x = normal(1, 96).bfloat16()
near(kernels.linear(x, half).float(), reference.linear(x, half).float(), 1e-2)
gain = normal(300)
near(kernels.rms_norm(normal(1, 300) * 0 + gain, gain, 1e-6), reference.rms_norm(gain.unsqueeze(0), gain, 1e-6))
q = normal(1, 10 * 24)[:, : 6 * 24].unflatten(-1, (-1, 24))
cos, sin = normal(1, 1, 12), normal(1, 1, 12)
near(kernels.rope(q, cos, sin), reference.rope(q, cos, sin))
q, k = normal(6, 1, 24), normal(2, 100, 24)
near(kernels.scores(q, k), reference.scores(q, k))
scores, visible = normal(6, 1, 100), (torch.arange(100, device=device) <= 37).unsqueeze(0)
near(kernels.softmax(scores, visible), reference.softmax(scores, visible))
assert not kernels.softmax(scores, visible)[..., 38:].any()
weights = reference.softmax(scores, visible)
near(kernels.context(weights, k), reference.context(weights, k))
# anything but one token goes to the reference, bit by bit
for call, arguments in (
    ("linear", (normal(3, 96), Weight.of("w", normal(40, 96)))),
    ("rms_norm", (normal(3, 300), gain, 1e-6)),
    ("scores", (normal(6, 3, 24), k)),
    ("softmax", (normal(6, 3, 100), visible.expand(3, -1))),
    ("context", (normal(6, 3, 100), k)),
    ("rope", (normal(3, 6, 24), normal(3, 1, 12), normal(3, 1, 12))),
):
    assert torch.equal(getattr(kernels, call)(*arguments), getattr(reference, call)(*arguments)), call
spec = named_shape("nano")
ours, theirs = (kind(spec, device, torch.float32, 16) for kind in (kernels.KernelCache, StaticCache))
for _ in range(3):
    keys, values = normal(spec.kv_heads, 1, spec.head_dim), normal(spec.kv_heads, 1, spec.head_dim)
    for cache in (ours, theirs):
        cache.append(1, keys, values)
        cache.advance(1)
assert torch.equal(ours._buffer, theirs._buffer)
planted = replace(REFERENCE, rope=lambda *a: None)
chosen = kernels.decode_operators(planted)
assert chosen.rope is planted.rope and chosen.linear is kernels.linear  # what was planted stays
near(kernels.silu(x.float()), torch.nn.functional.silu(x.float()))

from pv.backends import cuda
from pv.backends.cpu import open_cpu
from pv.backends.cuda_fused import FusedCache, FusedStep, fits
from pv.model.synthetic import Recipe, build


class Everything:
    def wants(self, stage, layer):
        return True

    def take(self, stage, layer, values):
        pass


cuda.FIRST_CAPACITY = 8  # so that the cache grows under the fused step
for spec in (
    named_shape("nano"),
    replace(named_shape("nano"), qkv_bias=False, layers=2),
    replace(named_shape("nano"), head_dim=12, ffn=100, hidden=20, layers=2),
):
    made = build(Recipe(spec))
    session, cpu = cuda.open_cuda(made, device=str(device)), open_cpu(made)
    assert session.facts.details["kernels"] == "triton", session.facts.details  # fused, and bit for bit the same
    assert isinstance(session._fused, FusedStep)
    looked_at = cuda.open_cuda(made, device=str(device))
    ours, theirs = session.prefill([1, 5, 9]), cpu.prefill([1, 5, 9])
    looked_at.prefill([1, 5, 9])
    for token in range(8):
        near(torch.from_numpy(ours), torch.from_numpy(theirs))
        ours, theirs = session.decode(token), cpu.decode(token)
        assert (ours == looked_at.decode(token, tap=Everything())).all()  # one by one, with a tap
    assert session._cache.capacity == 16

# what is promised is computed before anybody but its successor gets it
step = FusedStep(FusedCache(spec, device, torch.float32, 8), kernels.decode_operators())
step.begin()
a, b, w = normal(1, 20), normal(1, 20), Weight.of("layers.0.ffn_gate", normal(100, 20))
total = step.operators.add(a, b)
gate = step.operators.linear(a, w)
assert torch.equal(total, a + b)
smooth = step.operators.silu(gate)
near(gate, a @ w.data.T)
again = step.operators.multiply(b, b)
near(smooth, torch.nn.functional.silu(gate))
assert torch.equal(again, b * b)
weights = step.operators.softmax(normal(4, 1, 8), torch.ones(1, 8, dtype=torch.bool, device=device))
step.settle()
assert float((weights.sum(-1) - 1).abs().max()) < 1e-5
assert not fits(planted) and fits(kernels.decode_operators())
print("kernels right on", device)
"""


def test_kernels_are_the_operators():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed here (it comes with torch's CUDA builds)")
    import torch

    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    import os

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=280, env={**os.environ, **interpret}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("kernels right on")
