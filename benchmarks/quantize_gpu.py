"""Fused products of blocks on a CUDA card at the 7B shape: `python benchmarks/quantize_gpu.py [--tune] [--json FILE]`.

Each kernel at each matrix of the 7B shape, then whole decode steps, replayed from a CUDA graph: tokens a second, and
the share of what the card's measured read bandwidth allows for the bytes of the weights.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import product as combinations
from pathlib import Path
from typing import Any

import torch
from triton.testing import do_bench, do_bench_cudagraph

from pv.backends import triton_quant
from pv.backends.cuda import CudaOptions, CudaRecipe, CudaSession, cuda_facts
from pv.backends.cuda_kernels import KernelCache, decode_operators
from pv.model.gguf_write import FileType, plan_types
from pv.model.operators import REFERENCE
from pv.model.quant_product import quantized_product
from pv.model.spec import ModelSpec, named_shape
from pv.model.weights import BLOCKS, Weight, Weights, WeightType, expected_shapes, prepare

DEVICE = torch.device("cuda")
MATRICES = {"qkv": (4608, 3584), "attn_out": (3584, 3584), "ffn_gate": (18944, 3584), "ffn_down": (3584, 18944),
            "lm_head": (152064, 3584)}  # fmt: skip
KINDS = (WeightType.Q4_K, WeightType.Q6_K, WeightType.Q8_0)


def main() -> None:
    """Correctness first, then kernels, then whole decode steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="try other cuts and print the best")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--types", default="Q4_K,Q4_K_M,Q8_0,Q6_K")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    facts = cuda_facts(DEVICE)
    bandwidth = read_bandwidth()
    found: dict[str, Any] = {"card": facts.name, "driver": facts.driver, "torch": torch.__version__,
                             "read_bandwidth": bandwidth, "agreement": agreement()}  # fmt: skip
    print(json.dumps(found, indent=1), flush=True)
    if options.tune:
        found["cuts"] = {str(kind): tuned(kind) for kind in KINDS}
    found["kernels"] = {
        str(kind): {name: kernel(kind, *shape, bandwidth) for name, shape in MATRICES.items()} for kind in KINDS
    }
    print(json.dumps(found["kernels"], indent=1), flush=True)
    spec = replace(named_shape("7b"), layers=options.layers)
    found["decode"] = {
        kind: decode(spec, FileType(kind), options.steps, bandwidth) for kind in options.types.split(",")
    }
    print(json.dumps(found["decode"], indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def random_blocks(kind: WeightType, rows: int, columns: int) -> Weight:
    """Random codes with sane scales: what a kernel reads costs the same whatever it says."""
    values, size = BLOCKS[kind]
    blocks = torch.randint(0, 256, (rows, columns // values, size), dtype=torch.uint8, device=DEVICE)
    scale = torch.tensor(
        [0.02 / {"Q4_K": 300, "Q6_K": 1200, "Q8_0": 60}[str(kind)]], dtype=torch.float16, device=DEVICE
    )
    at = 208 if kind == WeightType.Q6_K else 0
    blocks[..., at : at + 2] = scale.view(torch.uint8)
    if kind == WeightType.Q4_K:
        blocks[..., 2:4] = (scale * 8).view(torch.uint8)
    return Weight("w", kind, (rows, columns), blocks.flatten(1))


def agreement() -> dict[str, float]:
    """Relative distance of the fused products from the reference product, worst of some shapes and token counts."""
    worst = {}
    for kind, (columns, count) in combinations(KINDS, ((256, 1), (3584, 1), (18944, 3), (768, 7))):
        weight = random_blocks(kind, 515, columns)
        x = torch.randn(count, columns, device=DEVICE) * torch.rand(count, 1, device=DEVICE) * 8
        want, got = quantized_product(x, weight), triton_quant.product(x, weight)
        worst[str(kind)] = max(worst.get(str(kind), 0.0), float((got - want).norm() / want.norm()))
    return worst


def read_bandwidth() -> float:
    """Bytes a second of reading a large float32 vector once (its sum), the best of many."""
    data = torch.ones(1 << 30, device=DEVICE)
    return data.numel() * 4 / (do_bench(lambda: data.sum(), quantiles=[0.1]) / 1e3)


def kernel(kind: WeightType, rows: int, columns: int, bandwidth: float) -> dict[str, float]:
    """One product of one token, activations rounded before: microseconds, and the share of the bandwidth."""
    took = seconds(kind, rounded(columns, kind), several(kind, rows, columns))
    KEPT.clear()
    return {"us": round(took * 1e6, 2), "share": round(kind.row_bytes(columns) * rows / took / bandwidth, 3)}


def rounded(columns: int, kind: WeightType) -> triton_quant.Codes:
    """Activations of one token."""
    return triton_quant.quantize_activations(torch.randn(1, columns, device=DEVICE), kind)


def seconds(kind: WeightType, codes: triton_quant.Codes, copies: list[triton_quant.Packed], rep: int = 40) -> float:
    """Mean time of one product within a CUDA graph over several copies, more than the card's cache holds."""

    def run() -> None:
        for packed in copies:
            triton_quant.MULTIPLIERS[kind](codes, packed)

    return float(do_bench_cudagraph(run, rep=rep)) / 1e3 / len(copies)


def several(kind: WeightType, rows: int, columns: int) -> list[triton_quant.Packed]:
    """As many copies of a random matrix as pass 400 MB."""
    size = WeightType.row_bytes(kind, columns) * rows
    return [
        triton_quant.packed(KEPT.append(random_blocks(kind, rows, columns)) or KEPT[-1])
        for _ in range(-(-400_000_000 // size))
    ]


KEPT: list[Weight] = []


def tuned(kind: WeightType) -> dict[str, Any]:
    """The best cut over the matrices of a layer, by total time; it is used from here on."""
    ground = {name: (several(kind, *shape), rounded(shape[1], kind)) for name, shape in MATRICES.items()}
    table = []
    for cut in combinations((1, 2, 4, 8), (32, 64, 128), (1, 2, 4)):
        triton_quant.CUTS[kind] = triton_quant.Cut(*cut)
        us = {name: 1e6 * seconds(kind, codes, copies, rep=4) for name, (copies, codes) in ground.items()}
        layer = us["qkv"] + us["attn_out"] + 2 * us["ffn_gate"] + us["ffn_down"] + us["lm_head"] / 28
        table.append((layer, cut, {name: round(value, 1) for name, value in us.items()}))
    table.sort()
    KEPT.clear()
    triton_quant.CUTS[kind] = triton_quant.Cut(*table[0][1])
    print(kind, *table[:5], sep="\n  ", flush=True)
    return {"cut": table[0][1], "us_a_layer": table[0][0], "each": table[0][2]}


def decode(spec: ModelSpec, kind: FileType, steps: int, bandwidth: float) -> dict[str, float]:
    """Whole decode steps: tokens a second, and the share of the limit (bytes of the weights over the bandwidth)."""
    weights = random_model(spec, kind)
    options = CudaOptions(kernels=False)
    recipe = CudaRecipe(operators=triton_quant.operators(decode_operators(REFERENCE)), cache=lambda _: KernelCache)
    session = CudaSession(prepare(weights, DEVICE), cuda_facts(DEVICE), options, recipe)
    session.prefill(list(range(7)))
    for token in range(5):
        session.decode(token)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for token in range(steps):
        session.decode(token)
    torch.cuda.synchronize()
    rate = steps / (time.perf_counter() - started)
    read = weights.nbytes - weights.tensors["embedding"].nbytes  # of the embedding one row is read
    session.close()
    return {
        "tokens_per_second": round(rate, 1), "bytes": read, "limit": round(bandwidth / read, 1),
        "share": round(rate * read / bandwidth, 3),
    }  # fmt: skip


def random_model(spec: ModelSpec, kind: FileType) -> Weights:
    """A model of random blocks on the card, in the mix of a file type."""
    tensors = {}
    for name, shape in expected_shapes(spec).items():
        stored = plan_types(spec, kind)[name]
        if stored.quantized:
            tensors[name] = replace(random_blocks(stored, *shape), name=name)
        else:
            fill = 1.0 if name.endswith("norm") else 0.0
            tensors[name] = Weight.of(name, torch.full(shape, fill, device=DEVICE))
    return Weights(spec, tensors)


if __name__ == "__main__":
    main()
