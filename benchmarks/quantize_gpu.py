"""Fused products of blocks on a CUDA card at the 7B shape: `python benchmarks/quantize_gpu.py [--tune] [--json FILE]`.

Each kernel at each matrix of the 7B shape, then whole decode steps, replayed from a CUDA graph: tokens a second, and
the share of what the card's measured read bandwidth allows for the bytes of the weights. Then whole prompts, in tiles
of tokens and token by token.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from itertools import product as combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from triton.testing import do_bench, do_bench_cudagraph

from pv.backends import triton_prompt, triton_quant
from pv.backends.cuda import CudaSession, cuda_facts, open_cuda
from pv.model.gguf_write import FileType, plan_types
from pv.model.quant_product import quantized_product
from pv.model.spec import ModelSpec, named_shape
from pv.model.weights import BLOCKS, Weight, Weights, WeightType, expected_shapes

DEVICE = torch.device("cuda")
DOCS = Path(__file__).parents[1] / "docs" / "gguf.md"
MATRICES = {"qkv": (4608, 3584), "attn_out": (3584, 3584), "ffn_gate": (18944, 3584), "ffn_down": (3584, 18944),
            "lm_head": (152064, 3584)}  # fmt: skip
FIGURES = (("tokens_per_second", ".0f"), ("limit", ".0f"), ("share", ".0%"))
KINDS = (WeightType.Q4_K, WeightType.Q6_K, WeightType.Q8_0)
PROMPTS = (16, 64, 512)  # tokens


def main() -> None:
    """Correctness first, then kernels, then whole decode steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="try other cuts and print the best")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--types", default="Q4_K,Q4_K_M,Q8_0,Q6_K")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument(
        "--write", type=Path, metavar="JSON", help="put such figures into docs/gguf.md; needs Triton, but no card"
    )
    options = parser.parse_args()
    if options.write:
        write_page(json.loads(options.write.read_text()))
        return
    facts = cuda_facts(DEVICE)
    bandwidth = read_bandwidth()
    found: dict[str, Any] = {"card": facts.name, "driver": facts.driver, "torch": torch.__version__,
                             "read_bandwidth": bandwidth, "agreement": agreement()}  # fmt: skip
    print(json.dumps(found, indent=1), flush=True)
    if options.tune:
        found["cuts"] = {str(kind): tuned(kind) for kind in KINDS}
        found["tiles"] = {str(kind): tuned_tiles(kind) for kind in KINDS}
    found["kernels"] = {
        str(kind): {name: kernel(kind, *shape, bandwidth) for name, shape in MATRICES.items()} for kind in KINDS
    }
    print(json.dumps(found["kernels"], indent=1), flush=True)
    spec = replace(named_shape("7b"), layers=options.layers)
    found["decode"], found["prompts"] = {}, {}
    for kind in options.types.split(","):
        weights = random_model(spec, FileType(kind))
        session = open_cuda(weights)
        found["decode"][kind] = decode(session, weights, options.steps, bandwidth)
        found["prompts"][kind] = {str(count): prompt(session, count) for count in PROMPTS}
        session.close()
        print(kind, json.dumps([found["decode"][kind], found["prompts"][kind]], indent=1), flush=True)
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
    for kind, (columns, count) in combinations(KINDS, ((256, 1), (3584, 1), (18944, 3), (768, 7), (18944, 70))):
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
    return triton_quant.quantize_activations(torch.randn(1, columns, device=DEVICE), triton_quant.ACTIVATIONS[kind])


def seconds(
    kind: WeightType,
    codes: triton_quant.Codes,
    copies: list[triton_quant.Packed],
    cut: triton_quant.Cut | None = None,
    rep: int = 40,
) -> float:
    """Mean time of one product within a CUDA graph over several copies, more than the card's cache holds."""

    def run() -> None:
        for packed in copies:
            triton_quant.multiply(codes, packed, kind, cut)

    return float(do_bench_cudagraph(run, rep=rep)) / 1e3 / len(copies)


def several(kind: WeightType, rows: int, columns: int) -> list[triton_quant.Packed]:
    """As many copies of a random matrix as pass 400 MB."""
    count = -(-400_000_000 // (kind.row_bytes(columns) * rows))
    KEPT.extend(random_blocks(kind, rows, columns) for _ in range(count))
    return [triton_quant.packed(weight) for weight in KEPT[-count:]]


KEPT: list[Weight] = []


def tuned(kind: WeightType) -> dict[str, Any]:
    """The best cuts for each matrix."""
    best = {}
    for name, shape in MATRICES.items():
        copies, codes, table = several(kind, *shape), rounded(shape[1], kind), []
        for cut in combinations((1, 2, 4, 8), (16, 32, 64, 128), (1, 2, 4)):
            if cut[0] * cut[1] <= 256:
                table.append((round(1e6 * seconds(kind, codes, copies, triton_quant.Cut(*cut), rep=4), 2), cut))
        best[name] = sorted(table)[:4]
        print(kind, name, best[name], flush=True)
        KEPT.clear()
    return best


def tuned_tiles(kind: WeightType) -> dict[str, Any]:
    """The best tiles for some lengths of a prompt, and microseconds of the vector kernel, at the shape of ffn_gate."""
    weight, best = random_blocks(kind, *MATRICES["ffn_gate"]), {}
    for count in PROMPTS:
        x = torch.randn(max(count, 16), weight.shape[1], device=DEVICE)
        codes, packed = (
            triton_quant.quantize_activations(x, triton_quant.ACTIVATIONS[kind]),
            triton_quant.packed(weight),
        )
        table = [(round(1e3 * do_bench(partial(triton_quant.multiply, codes, packed, kind), rep=10), 1), "vector")]
        for cut in combinations((32, 64, 128), (16, 32, 64, 128), (4, 8), (2, 3, 4)):
            tile = triton_prompt.Tile(*cut)
            if tile.tokens <= len(x) and (tile.warps == 4 or tile.rows == 128):
                run = partial(triton_prompt.multiply, codes, packed, kind, tile)
                table.append((round(1e3 * do_bench(run, rep=10), 1), str(tuple(tile))))
        best[str(count)] = [*sorted(table)[:4], table[0]]
        print(kind, count, best[str(count)], flush=True)
    return best


def prompt(session: CudaSession, count: int) -> dict[str, float]:
    """A prompt's tokens a second, the best of three: as served, and token by token."""
    tokens = np.random.default_rng(count).integers(0, session.spec.vocab, count).tolist()
    least = triton_prompt.LEAST
    rates = {}
    for way, short in (("tiles", least), ("one_by_one", count + 1)):
        triton_prompt.LEAST = short
        took = []
        for _ in range(3):
            session.reset()
            started = time.perf_counter()
            session.prefill(tokens)
            took.append(time.perf_counter() - started)
        rates[way] = round(count / min(took), 1)
    triton_prompt.LEAST = least
    return rates


def decode(session: CudaSession, weights: Weights, steps: int, bandwidth: float) -> dict[str, float]:
    """Whole decode steps, their median: tokens a second, and the share of the limit (bytes over the bandwidth)."""
    session.prefill(list(range(7)))
    took = []
    for token in range(32 + steps):
        started = time.perf_counter()
        session.decode(token)  # logits come back to the host, so it is over when it returns
        took.append(time.perf_counter() - started)
    rate = 1 / float(np.median(took[32:]))
    read = weights.nbytes - weights.tensors["embedding"].nbytes  # of the embedding one row is read
    return {
        "tokens_per_second": round(rate, 1), "bytes": read, "limit": round(bandwidth / read, 1),
        "share": round(rate * read / bandwidth, 3), "kernels": session.facts.details["kernels"],
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


def write_page(found: dict[str, Any]) -> None:
    """Replace what stands between the marks of docs/gguf.md."""
    page = replaced(DOCS.read_text(encoding="utf-8"), "card", steps_table(found))
    DOCS.write_text(replaced(page, "prompts", prompts_table(found)), encoding="utf-8")


def replaced(page: str, mark: str, lines: list[str]) -> str:
    """The page with these lines between `<!-- mark -->` and `<!-- end mark -->`."""
    start, end = f"<!-- {mark} -->\n", f"<!-- end {mark} -->"
    head, _, rest = page.partition(start)
    _, _, tail = rest.partition(end)
    if not tail:
        raise SystemExit(f"expected the marks {start.strip()} and {end} in {DOCS}")
    return head + start + "\n".join(lines) + "\n" + end + tail


def steps_table(found: dict[str, Any]) -> list[str]:
    """Decode steps, and each kernel's share of the bandwidth."""
    lines = [
        f"{found['card']}, driver {found['driver']}, torch {found['torch']}; it reads "
        f"{found['read_bandwidth'] / 1e12:.2f} TB/s. One token at the 7B shape, float32 activations and cache, from a "
        "CUDA graph; the share is of bytes over that bandwidth.\n",
        "| type | tokens/s | limit | share | one product's share: qkv, attn_out, ffn_gate, ffn_down, lm_head | apart |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for kind, step in found["decode"].items():
        own = found["kernels"].get(kind, {})
        shares = ", ".join(f"{own[name]['share']:.0%}" for name in MATRICES) if own else "a mix"
        apart = f"{found['agreement'][kind]:.0e}" if kind in found["agreement"] else "a mix"
        speed, limit, share = (format(step[key], form) for key, form in FIGURES)
        lines.append(f"| {kind} | {speed} | {limit} | {share} | {shares} | {apart} |")
    return lines


def prompts_table(found: dict[str, Any]) -> list[str]:
    """Prompts by their length."""
    first = next(iter(found["prompts"].values()))
    lines = [
        f"{found['card']}, torch {found['torch']}, the 7B shape: a prompt's tokens a second, in tiles / one by one.\n",
        f"| type | {' | '.join(f'{count} tokens' for count in first)} |",
        f"| --- |{' ---: |' * len(first)}",
    ]
    for kind, rates in found["prompts"].items():
        pairs = (f"{rate['tiles']:,.0f} / {rate['one_by_one']:,.0f}" for rate in rates.values())
        lines.append(f"| {kind} | {' | '.join(pairs)} |")
    return lines


if __name__ == "__main__":
    main()
