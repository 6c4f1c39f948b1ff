"""The real bugs of this field, each as a changed recipe of a real backend: what a gate must catch.

A defect is reached through a constructor argument alone (`recipe=`), or through the hidden `--plant-defect` of the
command line, which prints a banner. Nothing in the environment and nothing in a model can plant one. Each backend runs
its own code with the defect inside: a shader with one line changed, an operator replaced, a host step that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pv.backends.cuda import CUDA_RECIPE, CudaOptions, open_cuda
from pv.backends.protocol import BackendError, Session
from pv.backends.registry import Open, opener
from pv.backends.wgpu_recipe import RECIPE
from pv.backends.wgpu_session import open_wgpu
from pv.model.weights import Weights
from pv.parity import planted_torch, planted_wgpu
from pv.parity.planted_weights import (
    argmax_kept,
    gain_plus_one,
    gate_and_up_swapped,
    one_block_wrong,
    one_nan,
    scaled,
    without_bias,
)

DEFAULTS = CudaOptions()
TILE_EDGE = 65  # the one prompt length at which `wrong-at-65` shows


@dataclass(frozen=True, slots=True)
class Defect:
    """One planted bug. `wgpu`, `cuda`: the changed recipe for a model's spec; None where the bug makes no sense."""

    name: str
    title: str
    wgpu: planted_wgpu.Planted | None = None
    cuda: planted_torch.Planted | None = None
    options: CudaOptions = DEFAULTS  # of the CUDA session, where the defect is a switch of it
    card_only: bool = False  # shows on a real card alone: graphs, tensor cores

    @property
    def backends(self) -> tuple[str, ...]:
        """Where the defect can be planted."""
        return tuple(name for name in ("cuda", "wgpu") if getattr(self, name) is not None)

    def open(self, backend: str, weights: Weights, *, device: str = "cuda", guard: bool = False) -> Session:
        """A session of `backend` with the defect inside. Raises BackendError where it makes no sense."""
        if backend == "wgpu" and self.wgpu is not None:
            return open_wgpu(weights, recipe=self.wgpu(weights.spec), guard=guard)
        if backend == "cuda" and self.cuda is not None:
            return open_cuda(weights, self.options, device=device, recipe=self.cuda(weights.spec))
        raise BackendError(backend, f"the defect {self.name!r} makes no sense there")


def planted_opener(plants: Mapping[str, str]) -> Open:
    """An opener for `registry.choose` with defects in the named backends: {"cuda": "bias-dropped"}."""

    def open_backend(name: str, weights: Weights) -> Session:
        return DEFECTS[plants[name]].open(name, weights) if name in plants else opener(name)(weights)

    return open_backend


def _of_weights(name: str, title: str, change: Callable[[Weights], Weights]) -> Defect:
    wgpu, cuda = replace(RECIPE, weights=change), replace(CUDA_RECIPE, weights=change)
    return Defect(name, title, wgpu=lambda _: wgpu, cuda=lambda _: cuda)


def _of_logits(name: str, title: str, change: Callable[[np.ndarray], np.ndarray]) -> Defect:
    wgpu = replace(RECIPE, logits=lambda logits, _step: change(logits))
    cuda = replace(CUDA_RECIPE, logits=lambda logits, _tokens, _start: change(logits))
    return Defect(name, title, wgpu=lambda _: wgpu, cuda=lambda _: cuda)


def _lost_device(_tokens: int, start: int) -> None:
    if start:
        raise BackendError("device", "the device was lost (planted)")


_ALL = (
    Defect(
        "graph-kernel-missing",
        "a kernel is missing from decoding: its output buffer is stale",
        wgpu=planted_wgpu.decode_kernel_missing,
        cuda=planted_torch.decode_kernel_missing,
    ),
    Defect(
        "capture-kernel-missing",
        "a kernel is missing from the recorded CUDA graph alone: eager decoding is right",
        cuda=planted_torch.captured_kernel_missing,
        card_only=True,
    ),
    Defect(
        "int8-activations",
        "activations rounded to 8 bits with one scale for a token",
        wgpu=planted_wgpu.int8,
        cuda=planted_torch.operators(linear=planted_torch.int8_linear),
    ),
    Defect(
        "kv-slot-late",
        "after the prompt, keys and values go one slot too far",
        wgpu=planted_wgpu.late_slot,
        cuda=lambda _: replace(CUDA_RECIPE, cache=planted_torch.late_slot),
    ),
    Defect(
        "rope-base",
        "the rotary base of another family",
        wgpu=planted_wgpu.with_other_base,
        cuda=planted_torch.with_other_base,
    ),
    Defect(
        "rope-interleaved",
        "rotary pairs interleaved instead of half-split",
        wgpu=planted_wgpu.INTERLEAVED,
        cuda=planted_torch.operators(rope=planted_torch.interleaved),
    ),
    Defect(
        "rope-position-late",
        "a decode step is rotated one position too far",
        wgpu=planted_wgpu.LATE_POSITION,
        cuda=lambda _: replace(CUDA_RECIPE, rope=lambda t: planted_torch.LateTables(t.cos, t.sin)),
    ),
    Defect(
        "gqa-head-map",
        "query heads are given the wrong key-value heads",
        wgpu=planted_wgpu.OTHER_HEADS,
        cuda=planted_torch.operators(
            scores=planted_torch.scores_of_other_heads, context=planted_torch.context_of_other_heads
        ),
    ),
    Defect(
        "scale-missing",
        "scores are not divided by the root of the head size",
        wgpu=lambda _: replace(RECIPE, scale=lambda _spec: 1.0),
        cuda=planted_torch.operators(scores=planted_torch.unscaled),
    ),
    Defect(
        "scale-squared",
        "scores are divided by the head size itself",
        wgpu=lambda _: replace(RECIPE, scale=lambda spec: 1 / spec.head_dim),
        cuda=planted_torch.operators(scores=planted_torch.scaled_twice),
    ),
    Defect(
        "mask-one-too-many",
        "a token sees the one behind it",
        wgpu=planted_wgpu.SEES_THE_FUTURE,
        cuda=planted_torch.operators(softmax=planted_torch.sees_the_future),
    ),
    Defect(
        "mask-one-too-few",
        "a token does not see itself",
        wgpu=planted_wgpu.BLIND_TO_ITSELF,
        cuda=planted_torch.operators(softmax=planted_torch.blind_to_itself),
    ),
    _of_weights("bias-dropped", "the bias of q, k and v is left out", without_bias),
    Defect(
        "norm-epsilon",
        "RMSNorm with an epsilon ten times too large",
        wgpu=lambda _: replace(RECIPE, epsilon=lambda spec: planted_torch.wrong_epsilon(spec.rms_eps)),
        cuda=planted_torch.operators(rms_norm=planted_torch.norm_with_wrong_epsilon),
    ),
    _of_weights("norm-gain-plus-one", "RMSNorm multiplies by one plus the gain, as another family does", gain_plus_one),
    _of_logits("logits-x1.05", "logits 5 % too large", scaled(1.05)),
    _of_logits("logits-x2", "logits twice too large", scaled(2.0)),
    Defect(
        "tf32-operands",
        "operands of every product rounded to 10 bits",
        wgpu=planted_wgpu.tf32,
        cuda=planted_torch.operators(linear=planted_torch.tf32_linear),
    ),
    Defect(
        "tf32-switch",
        "TF32 is switched on in the library",
        cuda=lambda _: CUDA_RECIPE,
        options=CudaOptions(tf32=True, graphs=False, kernels=False),
        card_only=True,
    ),
    _of_weights("block-of-32-wrong", "32 weights of one row have the wrong sign", one_block_wrong),
    _of_weights("gate-up-swapped", "gate and up projections swapped", gate_and_up_swapped),
    Defect(
        "gelu-for-silu",
        "GELU where SiLU belongs",
        wgpu=planted_wgpu.GELU,
        cuda=planted_torch.operators(silu=planted_torch.gelu),
    ),
    _of_weights("one-nan", "one weight is NaN", one_nan),
    Defect(
        "device-lost",
        "the device fails once a prompt is there",
        wgpu=lambda _: replace(RECIPE, begin=lambda step: _lost_device(step.tokens, step.start)),
        cuda=lambda _: replace(CUDA_RECIPE, begin=_lost_device),
    ),
    Defect(
        f"wrong-at-{TILE_EDGE}",
        f"wrong at a prompt of {TILE_EDGE} tokens alone: the edge of a tile",
        wgpu=planted_wgpu.tile_edge(TILE_EDGE),
        cuda=planted_torch.operators(linear=planted_torch.edge_linear(TILE_EDGE)),
    ),
    Defect(
        "decode-unlike-prefill",
        "decoding scales its scores by 1.2, prefill is right",
        wgpu=planted_wgpu.DECODE_SCALED,
        cuda=planted_torch.operators(scores=planted_torch.decode_scaled),
    ),
    _of_logits("argmax-kept", "every logit is wrong but the largest stays on top: cosine 0.7 to 0.98", argmax_kept),
    Defect(
        "embedding-row-late",
        "the row behind the token's own is looked up",
        wgpu=planted_wgpu.NEXT_ROW,
        cuda=planted_torch.operators(embed=planted_torch.next_row),
    ),
    Defect("writes-beyond", "a kernel writes behind its tensor; nothing reads it", wgpu=planted_wgpu.WRITES_BEYOND),
)
DEFECTS: Mapping[str, Defect] = {defect.name: defect for defect in _ALL}
