"""Decoding speed on a GPU against the limit of its memory, and what the start gate costs.

    python benchmarks/gpu.py [--shape 7b] [--parts limit,cuda,bf16,wgpu,blocks,hf,gate,matvec] [--tokens N] [--json F]

Batch 1, greedy, random weights of a named shape (they are as many bytes as any others), made on the card where there is
one. The limit is bytes over bandwidth: every weight but the embedding is read once for a token, at the rate at which a
device-to-device copy moved bytes on the same card. Each part runs even if another failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pv.backends.cpu import open_cpu
from pv.backends.cuda import CudaOptions, open_cuda
from pv.backends.protocol import Session
from pv.model.quant import quantize
from pv.model.spec import ModelSpec, named_shape
from pv.model.synthetic import Recipe, build
from pv.model.weights import Weight, Weights, WeightType, expected_shapes

PROMPT = 32
Result = dict[str, Any]


def weights_for(shape: str) -> tuple[Weights, Weights]:
    """The model on the card and on the host; one and the same without a card."""
    spec = named_shape(shape)
    if not torch.cuda.is_available():
        made = build(Recipe(spec))
        return made, made
    card = build(Recipe(spec), device="cuda")
    host = replace(card, tensors={n: replace(w, data=w.data.cpu()) for n, w in card.tensors.items()})
    return card, host


def bytes_per_token(spec: ModelSpec, width: int) -> int:
    """Every weight is read once, but of the embedding one row (a tied one is read as the head)."""
    return width * (spec.parameters - (0 if spec.tied else spec.vocab * spec.hidden))


def prompt_of(spec: ModelSpec, count: int = PROMPT) -> list[int]:
    """Fixed tokens."""
    return [(7919 * n + 13) % spec.vocab for n in range(count)]


def decode_speed(session: Session, tokens: int) -> Result:
    """Tokens a second over `tokens` steps, and the median step; the first three steps are left out."""
    session.reset()
    began = time.perf_counter()
    logits = session.prefill(prompt_of(session.spec))
    prefill = time.perf_counter() - began
    steps = []
    for _ in range(tokens + 3):
        began = time.perf_counter()
        logits = session.decode(int(logits.argmax()))
        steps.append(time.perf_counter() - began)
    steps = steps[3:]
    return {
        "tokens_per_second": len(steps) / sum(steps),
        "median_ms": 1e3 * statistics.median(steps),
        "slowest_ms": 1e3 * max(steps),
        "prefill_ms": 1e3 * prefill,
        "device": session.facts.name,
        "driver": session.facts.driver,
        "kernels": session.facts.details.get("kernels", ""),
    }


def limit(spec: ModelSpec) -> Result:
    """What memory bandwidth allows: a device-to-device copy, counting bytes read and written."""
    source = torch.empty(1 << 30, dtype=torch.float32, device="cuda").normal_()
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize()
    times = []
    for _ in range(10):
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    rate = 2 * source.numel() * 4 / statistics.median(times)
    del source, target
    torch.cuda.empty_cache()
    return {
        "bytes_per_second": rate,
        "float32_tokens_per_second": rate / bytes_per_token(spec, 4),
        "bfloat16_tokens_per_second": rate / bytes_per_token(spec, 2),
    }


def cuda(weights: Weights, options: CudaOptions, tokens: int) -> Result:
    """One way of our CUDA backend."""
    began = time.perf_counter()
    session = open_cuda(weights, options)
    opened = time.perf_counter() - began
    try:
        return decode_speed(session, tokens) | {"open_seconds": opened, "replayed": session.replayed}
    finally:
        session.close()


def wgpu(weights: Weights, tokens: int) -> Result:
    """Our wgpu backend on the best adapter."""
    from pv.backends.wgpu_session import open_wgpu

    began = time.perf_counter()
    session = open_wgpu(weights)
    opened = time.perf_counter() - began
    try:
        return decode_speed(session, tokens) | {"open_seconds": opened}
    finally:
        session.close()


def blocks_of(spec: ModelSpec, kind: WeightType) -> Weights:
    """A model whose matrices are blocks, all rows from one sample: as many bytes as any others, made in a second."""
    sample = torch.from_numpy(quantize(torch.randn(4096, 256).mul_(0.02).numpy(), kind)).reshape(-1)

    def tensor(name: str, shape: tuple[int, ...]) -> Weight:
        if len(shape) == 1:
            return Weight.of(name, torch.full(shape, float(name.endswith("norm"))))
        size = shape[0] * kind.row_bytes(shape[1])
        return Weight(name, kind, shape, sample.repeat(-(-size // len(sample)))[:size].view(shape[0], -1))

    return Weights(spec, {name: tensor(name, shape) for name, shape in expected_shapes(spec).items()})


def transformers_generate(spec: ModelSpec, tokens: int, dtype: torch.dtype, cache: str) -> Result:
    """Transformers' own `generate` on a model of the same shape, random weights."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=spec.vocab, hidden_size=spec.hidden, num_hidden_layers=spec.layers, num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads, intermediate_size=spec.ffn, tie_word_embeddings=spec.tied,
        rms_norm_eps=spec.rms_eps, max_position_embeddings=spec.context,
        rope_theta=spec.rope_theta,
    )  # fmt: skip
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            model = Qwen2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    ids = torch.tensor([prompt_of(spec)], device="cuda")
    asked = GenerationConfig(
        max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, cache_implementation=None if cache == "dynamic"
        else cache, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    times = []
    with torch.inference_mode():
        for _ in range(3):
            torch.cuda.synchronize()
            began = time.perf_counter()
            model.generate(ids, generation_config=asked, attention_mask=torch.ones_like(ids))
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    del model
    torch.cuda.empty_cache()
    return {"tokens_per_second": tokens / min(times), "cache": cache}


def gate(card: Weights, host: Weights) -> Result:
    """The start gate against the CPU alone: its prefill of 64 tokens and two decode steps.

    What a run needs anyway (opening the card's session, recording its graph) is not counted; opening the reference and
    the parts of the gate are told beside it.
    """
    from pv.compare.thresholds import THRESHOLDS
    from pv.parity.gate import STEPS, fed_logits, judge_step, lockstep, reference_logits

    tokens, session = prompt_of(card.spec, 64), open_cuda(card)
    began = time.perf_counter()
    reference = open_cpu(host)
    opened = time.perf_counter() - began
    try:
        alone, on_card, compared, together = [], [], [], []
        for _ in range(3):
            began = time.perf_counter()
            expected = list(reference_logits(reference, tokens, STEPS))
            alone.append(time.perf_counter() - began)
            began = time.perf_counter()
            found = list(fed_logits(session, tokens, expected))
            on_card.append(time.perf_counter() - began)
            verdict = lockstep(reference_logits(reference, tokens, STEPS), session, tokens, STEPS)
            together.append(verdict.seconds)
            began = time.perf_counter()
            for number, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
                judge_step(number, ours, theirs, THRESHOLDS[verdict.kind])
            compared.append(time.perf_counter() - began)
        last = verdict.steps[-1]
        return {
            "cpu_seconds": min(alone), "gate_seconds": min(together), "ratio": min(together) / min(alone),
            "card_alone_seconds": min(on_card), "compare_seconds": min(compared), "reference_open_seconds": opened,
            "accepted": verdict.accepted, "reason": verdict.reason, "rel_l2": last.rel_l2, "max_abs": last.max_abs,
            "kl": last.kl, "threads": torch.get_num_threads(),
        }  # fmt: skip
    finally:
        session.close()
        reference.close()


def matvec(spec: ModelSpec) -> Result:
    """The matrix-vector product alone, on the shapes of a layer: cuBLAS and ours, bytes a second."""
    from pv.backends.cuda_kernels import MatvecCut, cut_of
    from pv.backends.cuda_kernels import matvec as ours

    found: Result = {}
    shapes = {"qkv": (spec.qkv_width, spec.hidden), "attn_out": (spec.hidden, spec.q_width),
              "ffn_gate": (spec.ffn, spec.hidden), "ffn_down": (spec.hidden, spec.ffn),
              "lm_head": (spec.vocab, spec.hidden)}  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        columns = 2048 // torch.empty(0, dtype=dtype).element_size()
        tried = {MatvecCut(rows, columns * k, 4) for rows in (1, 2, 4, 8) for k in (1, 2)}
        for name, (rows, inner) in shapes.items():
            copies = max(1, (256 << 20) // (rows * inner * dtype.itemsize))  # rotate, or the cache would be measured
            matrices = [torch.randn(rows, inner, device="cuda", dtype=torch.float32).to(dtype) for _ in range(copies)]
            x = torch.randn(1, inner, device="cuda").to(dtype)
            size = rows * inner * dtype.itemsize
            one = {"cublas": size / _timed(lambda w, x=x: torch.nn.functional.linear(x, w), matrices)}
            for cut in sorted({cut_of(Weight.of(name, matrices[0])), *tried}):
                took = _timed(lambda w, x=x, cut=cut: ours(x, w, cut), matrices)
                one[f"ours {cut.rows}x{cut.columns}, {cut.warps} warps"] = size / took
            found[f"{dtype} {name} {rows}x{inner}"] = {k: f"{v / 1e12:.2f} TB/s" for k, v in one.items()}
            del matrices
            torch.cuda.empty_cache()
    return found


def _timed(work: Callable[[torch.Tensor], Any], matrices: list[torch.Tensor], repeats: int = 20) -> float:
    """Seconds of one product, from a CUDA graph of many, so that launches do not count."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for w in matrices:
            work(w)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for n in range(repeats):
            work(matrices[n % len(matrices)])
    graph.replay()
    torch.cuda.synchronize()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - began) / repeats)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="7b")
    parser.add_argument("--parts", default="limit,cuda,bf16,wgpu,gate")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    spec, tokens = named_shape(asked.shape), asked.tokens
    card, host = (
        weights_for(asked.shape) if set(asked.parts.split(",")) - {"limit", "hf", "matvec", "blocks"} else (None, None)
    )
    bf16 = torch.bfloat16
    parts: dict[str, dict[str, Callable[[], Result]]] = {
        "limit": {"limit": lambda: limit(spec)},
        "cuda": {
            "cuda float32, graph, kernels": lambda: cuda(card, CudaOptions(), tokens),
            "cuda float32, graph, torch": lambda: cuda(card, CudaOptions(kernels=False), tokens),
            "cuda float32, eager, kernels": lambda: cuda(card, CudaOptions(graphs=False), tokens),
        },
        "bf16": {
            "cuda bfloat16, graph, kernels": lambda: cuda(card, CudaOptions(dtype=bf16), tokens),
            "cuda bfloat16, graph, torch": lambda: cuda(card, CudaOptions(dtype=bf16, kernels=False), tokens),
        },
        "wgpu": {"wgpu float32": lambda: wgpu(host, tokens)},
        "blocks": {
            f"wgpu {kind}": (lambda kind=kind: wgpu(blocks_of(spec, kind), tokens))
            for kind in (WeightType.Q4_K, WeightType.Q6_K, WeightType.Q8_0)
        },
        "gate": {"start gate": lambda: gate(card, host)},
        "hf": {
            f"transformers {str(d).removeprefix('torch.')}, {c}": (
                lambda d=d, c=c: transformers_generate(spec, tokens, d, c)
            )
            for d in (torch.float32, bf16)
            for c in ("dynamic", "static")
        },
        "matvec": {"matrix-vector product": lambda: matvec(spec)},
    }
    found: dict[str, Any] = {"shape": asked.shape, "host": platform.processor(), "torch": torch.__version__}
    for part in asked.parts.split(","):
        for name, work in parts[part].items():
            try:
                found[name] = work()
            except Exception as problem:
                traceback.print_exc()
                found[name] = {"failed": f"{type(problem).__name__}: {problem}"}
            print(f"{name}: {json.dumps(found[name])}", flush=True)
            if asked.json:
                asked.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
