"""Triton kernels against the operators that they stand for: on a card, or through Triton's interpreter where it is."""

from __future__ import annotations

import importlib.util
import os
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
    for cut in (kernels.MatvecCut(1, 256, 4), kernels.MatvecCut(8, 128, 4), kernels.MatvecCut(2, 4096, 4)):
        near(kernels.matvec(x, w, cut), reference.linear(x, Weight.of("w", w)))
for cuts in kernels.CUTS.values():  # a norm is summed in the same order alone and before either product
    assert cuts.qkv.warps == cuts.gate_up.warps
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

from pv.backends import cuda, cuda_fused
from pv.backends.cpu import open_cpu
from pv.backends.cuda_fused import FusedCache, FusedStep, fits
from pv.model.synthetic import Recipe, build


class Everything:
    def wants(self, stage, layer):
        return True

    def take(self, stage, layer, values):
        pass


cuda.FIRST_CAPACITY = cuda_fused.ATTENTION_SLOTS = 8  # so that the cache grows under both kinds of attention
for spec, dtype in (
    (replace(named_shape("nano"), layers=2), torch.float32),
    (replace(named_shape("nano"), layers=1), torch.float16),  # the interpreter cuts bfloat16 off where a card rounds
    (replace(named_shape("nano"), qkv_bias=False, layers=1), torch.float32),
    (replace(named_shape("nano"), head_dim=12, ffn=100, hidden=20, layers=1), torch.float32),
):
    made, options = build(Recipe(spec)), cuda.CudaOptions(dtype=dtype)
    session, cpu = cuda.open_cuda(made, options, device=str(device)), open_cpu(made, dtype=dtype)
    assert session.facts.details["kernels"] == "triton", session.facts.details  # fused, and bit for bit the same
    assert isinstance(session._fused, FusedStep)
    looked_at = cuda.open_cuda(made, options, device=str(device))
    ours, theirs = session.prefill([1, 5, 9]), cpu.prefill([1, 5, 9])
    looked_at.prefill([1, 5, 9])
    for token in range(8):
        near(torch.from_numpy(ours), torch.from_numpy(theirs), 1e-5 if dtype == torch.float32 else 3e-2)
        ours, theirs = session.decode(token), cpu.decode(token)
        assert (ours == looked_at.decode(token, tap=Everything())).all()  # one by one, with a tap
    assert session._cache.capacity == 16

# what is promised is computed before anybody but its successor gets it
step = FusedStep(FusedCache(spec, device, torch.float32, 8), kernels.decode_operators())
op, one = step.operators, kernels.decode_operators()
a, b, gain = normal(1, 20), normal(1, 20), normal(20)
w = {n: Weight.of(f"layers.0.{n}", normal(20 if n in ("attn_out", "ffn_down") else 60, 20))
     for n in ("qkv", "attn_out", "ffn_gate", "ffn_up", "ffn_down")}
normed = one.rms_norm(a, gain, 1e-6)


def ends_with(*operators):
    assert step._waiting(*operators), step._promised


step.begin()
h = op.rms_norm(a, gain, 1e-6)
ends_with("rms_norm")
total = op.add(h, b)  # the sum of a norm: nobody's successor
ends_with()
assert torch.equal(h, normed) and torch.equal(total, normed + b)
h = op.rms_norm(a, gain, 1e-6)
qkv = op.linear(h, w["qkv"])
biased = op.add(qkv, normal(60))
ends_with("rms_norm", "linear", "add")
op.scores(normal(4, 1, 12), normal(2, 8, 12))  # no rotation came
ends_with("scores")
assert torch.equal(qkv, one.linear(normed, w["qkv"])) and not torch.equal(biased, qkv)
gate = op.linear(op.rms_norm(a, gain, 1e-6), w["ffn_gate"])
other = op.linear(b, w["ffn_up"])  # of another input
ends_with()
assert torch.equal(gate, one.linear(normed, w["ffn_gate"])) and torch.equal(other, one.linear(b, w["ffn_up"]))
h = op.rms_norm(a, gain, 1e-6)
gate, up = op.linear(h, w["ffn_gate"]), op.linear(h, w["ffn_up"])
active = op.silu(gate)
ends_with("rms_norm", "linear", "linear", "silu")
product = op.multiply(active, gate)  # not with up
assert torch.equal(active, one.silu(gate)) and torch.equal(product, active * gate)
assert torch.equal(up, one.linear(normed, w["ffn_up"]))
h = op.rms_norm(a, gain, 1e-6)
gate, up = op.linear(h, w["ffn_gate"]), op.linear(h, w["ffn_up"])
product = op.multiply(op.silu(gate), up)
ends_with()
assert torch.equal(product, one.silu(one.linear(normed, w["ffn_gate"])) * one.linear(normed, w["ffn_up"]))
out = op.linear(a, w["attn_out"])
ends_with("linear")
assert torch.equal(op.add(b, out), b + one.linear(a, w["attn_out"])) and torch.equal(out, one.linear(a, w["attn_out"]))
out = op.linear(a, w["ffn_down"])
assert torch.equal(op.add(out, b), one.linear(a, w["ffn_down"]) + b)  # the other way round
weights = op.softmax(op.scores(normal(4, 1, 12), normal(2, 8, 12)), torch.ones(1, 8, dtype=torch.bool, device=device))
ends_with("scores", "softmax")
step.settle()
assert float((weights.sum(-1) - 1).abs().max()) < 1e-5
assert not fits(planted) and fits(kernels.decode_operators())
print("kernels right on", device)
"""


def test_kernels_are_the_operators():
    if importlib.util.find_spec("triton") is None:
        (pytest.fail if os.environ.get("PV_REQUIRE_GPU") else pytest.skip)(
            "triton is not installed here (it comes with torch's CUDA builds)"
        )
    import torch

    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=560, env={**os.environ, **interpret}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("kernels right on")
