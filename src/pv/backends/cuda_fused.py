"""Fewer launches for a decode step: neighbouring operators as one kernel, bit for bit what they are one by one.

A decode step of a 7B model is 500 launches of operators that take less time than a launch. The forward stays the one of
`pv.model.forward`; what changes is when work is done. An operator whose successor is known (a residual sum before a
norm, the bias before the rotation, SiLU before the product, a softmax before its context, gate before up) returns its
tensor without computing it, and the successor launches one kernel that fills both. Every tensor is still written.

Only a step that nobody looks into is run like this: a tap or a graft would see a tensor before it is filled, and takes
the operators one by one. The session compares both ways bit by bit when it is opened and stays with the single
operators if they differ. A tensor that is handed to anybody but its expected successor is computed first (`settle`).

Legend: H width of a row, F FFN width, S slots, Hq and Hkv heads, D head dimension.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel as its own types, so kernels have none for what is not a constexpr.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pv.backends import cuda_kernels as single
from pv.backends.cuda_kernels import CUTS, KernelCache
from pv.model.cache import Seen
from pv.model.operators import Operators
from pv.model.weights import Weight, WeightType


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def _add_norm(x, y, z, gain, out, eps, H: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    inside = at < H
    kind = z.dtype.element_ty
    first = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    total = (first + second).to(kind)
    tl.store(z + at, total, mask=inside)
    value = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / H + eps)
    scaled = (value * scale).to(kind)
    product = tl.load(gain + at, mask=inside, other=0.0).to(tl.float32) * scaled.to(tl.float32)
    tl.store(out + at, product.to(kind), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _bias_rope_append(
    qkv, bias, biased, cos, sin, q, k, to_keys, to_values, position, capacity, QUERY: tl.constexpr, KEY: tl.constexpr,
    HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program for each head of q, k and v: adds the bias, rotates q and k, writes k and v into the cache."""
    head = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < HALF
    first = head * 2 * HALF + at
    kind = biased.dtype.element_ty
    low = (tl.load(qkv + first, mask=inside, other=0.0).to(tl.float32)
           + tl.load(bias + first, mask=inside, other=0.0).to(tl.float32)).to(kind)  # fmt: skip
    high = (tl.load(qkv + first + HALF, mask=inside, other=0.0).to(tl.float32)
            + tl.load(bias + first + HALF, mask=inside, other=0.0).to(tl.float32)).to(kind)  # fmt: skip
    tl.store(biased + first, low, mask=inside)
    tl.store(biased + first + HALF, high, mask=inside)
    if head < QUERY + KEY:
        c = tl.load(cos + at, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sin + at, mask=inside, other=0.0).to(tl.float32)
        turned_low = (low.to(tl.float32) * c - high.to(tl.float32) * s).to(kind)
        turned_high = (high.to(tl.float32) * c + low.to(tl.float32) * s).to(kind)
        if head < QUERY:
            tl.store(q + first, turned_low, mask=inside)
            tl.store(q + first + HALF, turned_high, mask=inside)
        else:
            own = (head - QUERY) * 2 * HALF + at
            slot = ((head - QUERY) * capacity + tl.load(position)) * 2 * HALF + at
            tl.store(k + own, turned_low, mask=inside)
            tl.store(k + own + HALF, turned_high, mask=inside)
            tl.store(to_keys + slot, turned_low, mask=inside)
            tl.store(to_keys + slot + HALF, turned_high, mask=inside)
    else:
        slot = ((head - QUERY - KEY) * capacity + tl.load(position)) * 2 * HALF + at
        tl.store(to_values + slot, low, mask=inside)
        tl.store(to_values + slot + HALF, high, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _softmax_context(
    scores, visible, weights, v, out, S: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, SLOTS: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The softmax of one head, found by every program of that head for itself, and WIDTH values of its context."""
    h = tl.program_id(0)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    row = tl.arange(0, BLOCK)
    inside_row = row < S
    seen = tl.load(visible + row, mask=inside_row, other=0) != 0
    score = tl.load(scores + h * S + row, mask=inside_row, other=0.0).to(tl.float32)
    value = tl.where(seen, score, float("-inf"))
    top = tl.max(value, axis=0)
    weight = tl.exp(value - top)
    total = tl.sum(weight, axis=0)
    kind = weights.dtype.element_ty
    if tl.program_id(1) == 0:
        tl.store(weights + h * S + row, (weight / total).to(kind), mask=inside_row)
    slots = tl.arange(0, SLOTS)
    sums = tl.zeros((SLOTS, WIDTH), tl.float32)
    for first in range(0, S, SLOTS):
        s = first + slots
        here = tl.load(visible + s, mask=s < S, other=0) != 0
        part = tl.where(here, tl.load(scores + h * S + s, mask=s < S, other=0.0).to(tl.float32), float("-inf"))
        share = (tl.exp(part - top) / total).to(kind).to(tl.float32)
        inside = (s < S)[:, None] & (d < D)[None, :]
        held = tl.load(v + ((h // GROUP) * S + s)[:, None] * D + d[None, :], mask=inside, other=0.0).to(tl.float32)
        sums += share[:, None] * held
    tl.store(out + h * D + d, tl.sum(sums, axis=0).to(out.dtype.element_ty), mask=d < D)


@triton.jit  # type: ignore[untyped-decorator]
def _silu_multiply(gate, up, active, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    value = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    kind = active.dtype.element_ty
    smooth = (value / (1.0 + tl.exp(-value))).to(kind)
    tl.store(active + at, smooth, mask=inside)
    product = smooth.to(tl.float32) * tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, product.to(kind), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _two_matvecs(w, apart, x, y, n, K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Two matrices of one shape times one x: the second lies `apart` elements behind w, its result n behind y."""
    matrix = w + tl.program_id(1).to(tl.int64) * apart
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = rows < n
    start = matrix + rows.to(tl.int64)[:, None] * K
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in range(0, K, COLUMNS):
        at = k + columns
        part = tl.load(start + at[None, :], mask=inside[:, None] & (at < K)[None, :], other=0.0).to(tl.float32)
        value = tl.load(x + at, mask=at < K, other=0.0).to(tl.float32)
        sums += part * value[None, :]
    tl.store(y + tl.program_id(1) * n + rows, tl.sum(sums, axis=1).to(y.dtype.element_ty), mask=inside)


class _Waiting(NamedTuple):
    """A tensor that was promised: the operator that makes it, what of, and where to."""

    operator: str
    inputs: tuple[torch.Tensor, ...]
    output: torch.Tensor


class FusedStep:
    """Operators for one decode step at a time that nobody looks into. `settle()` computes what is still promised."""

    def __init__(self, cache: FusedCache, operators: Operators) -> None:
        self._cache = cache
        self._single = operators
        self._waiting: _Waiting | None = None
        self._gate: tuple[torch.Tensor, Weight] | None = None
        self._pair: torch.Tensor | None = None  # (2, F): gate and up
        self._turned: tuple[torch.Tensor, torch.Tensor] | None = None  # (biased k, k after the rotation)
        self.operators = replace(
            operators,
            add=self._add,
            linear=self._linear,
            rms_norm=self._rms_norm,
            rope=self._rope,
            scores=self._after_settling(operators.scores),
            softmax=self._softmax,
            context=self._context,
            silu=self._silu,
            multiply=self._multiply,
        )

    def begin(self) -> None:
        """Forget what a step that failed may have left."""
        self._waiting = self._gate = self._turned = None
        self._cache.begin()

    def settle(self) -> None:
        """Compute, one by one, whatever was promised and not yet made."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.output.copy_(getattr(self._single, waiting.operator)(*waiting.inputs))
        gate, self._gate = self._gate, None
        if gate is not None and self._pair is not None:
            self._pair[:1].copy_(self._single.linear(*gate))

    # -- the residual sum before a norm, and the bias before the rotation ---------------------------------------

    def _add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.settle()
        if not _one_row(x):
            return self._single.add(x, y)
        out = torch.empty_like(x)
        self._waiting = _Waiting("add", (x, y), out)
        return out

    def _rms_norm(self, x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
        waiting = self._take("add", x)
        if waiting is None or waiting.inputs[1].dim() != 2:
            self.settle()
            return self._single.rms_norm(x, gain, eps)
        out, width = torch.empty_like(x), x.shape[-1]
        block = triton.next_power_of_2(width)
        _add_norm[(1,)](*waiting.inputs, x, gain, out, eps, width, block, num_warps=8)
        return out

    def _rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        if self._turned is not None and x.data_ptr() == self._turned[0].data_ptr():
            turned, self._turned = self._turned[1], None
            return turned
        waiting = self._waiting
        if waiting is None or waiting.operator != "add" or x.data_ptr() != waiting.output.data_ptr():
            self.settle()
            return self._single.rope(x, cos, sin)
        self._waiting = None
        (qkv, bias), biased = waiting.inputs, waiting.output
        heads, depth, keys = x.shape[1], x.shape[2], self._cache.kv_heads
        q, k = torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty((1, keys, depth))
        held = self._cache.expecting()
        half = depth // 2
        _bias_rope_append[(heads + 2 * keys,)](
            qkv, bias, biased, cos, sin, q, k, held.keys, held.values, self._cache.position, self._cache.capacity,
            heads, keys, half, triton.next_power_of_2(half), num_warps=1,
        )  # fmt: skip
        self._turned = (biased[:, heads * depth :], k)
        return q

    # -- a softmax before its context ---------------------------------------------------------------------------

    def _softmax(self, scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        self.settle()
        if scores.shape[1] != 1 or not scores.is_contiguous():
            return self._single.softmax(scores, visible)
        out = torch.empty_like(scores)
        self._waiting = _Waiting("softmax", (scores, visible), out)
        return out

    def _context(self, weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        waiting = self._take("softmax", weights)
        if waiting is None or not v.is_contiguous():
            self.settle()
            return self._single.context(weights, v)
        heads, _, slots = weights.shape
        groups, _, depth = v.shape
        out = torch.empty((heads, 1, depth), dtype=v.dtype, device=v.device)
        width = min(32, triton.next_power_of_2(depth))
        _softmax_context[(heads, triton.cdiv(depth, width))](
            *waiting.inputs, weights, v, out, slots, heads // groups, depth, 64, width, triton.next_power_of_2(slots),
            num_warps=4,
        )  # fmt: skip
        return out

    # -- gate before up, and SiLU before the product ------------------------------------------------------------

    def _linear(self, x: torch.Tensor, weight: Weight) -> torch.Tensor:
        gate = self._gate
        if gate is not None and gate[0] is x and self._pair is not None and _alike(gate[1], weight):
            self._gate = None
            first, second, pair = gate[1].data, weight.data, self._pair
            apart = (second.data_ptr() - first.data_ptr()) // first.element_size()
            rows, inner = first.shape
            cut = CUTS[first.element_size()]
            _two_matvecs[(triton.cdiv(rows, cut.rows), 2)](
                first, apart, x, pair, rows, inner, cut.rows, min(cut.columns, triton.next_power_of_2(inner)),
                num_warps=cut.warps,
            )  # fmt: skip
            return pair[1:]
        self.settle()
        if weight.name.endswith("ffn_gate") and _plain(x, weight):
            self._gate, self._pair = (x, weight), x.new_empty((2, weight.shape[0]))
            return self._pair[:1]
        return self._single.linear(x, weight)

    def _silu(self, x: torch.Tensor) -> torch.Tensor:
        self.settle()
        out = torch.empty_like(x)
        self._waiting = _Waiting("silu", (x,), out)
        return out

    def _multiply(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        waiting = self._take("silu", x)
        if waiting is None:
            self.settle()
            return self._single.multiply(x, y)
        out, count = torch.empty_like(x), x.numel()
        _silu_multiply[(triton.cdiv(count, 1024),)](waiting.inputs[0], y, x, out, count, 1024, num_warps=4)
        return out

    def _take(self, operator: str, output: torch.Tensor) -> _Waiting | None:
        """What is promised, if it is this very tensor of this operator; it is then the caller's to compute."""
        waiting = self._waiting
        if waiting is None or waiting.operator != operator or waiting.output is not output:
            return None
        self._waiting = None
        return waiting

    def _after_settling(self, operator: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def settled(*arguments: torch.Tensor) -> torch.Tensor:
            self.settle()
            return operator(*arguments)

        return settled


class FusedCache(KernelCache):
    """A cache that is told by the rotation's kernel that keys and values of a layer are written already."""

    def begin(self) -> None:
        """A step begins: the first layer's append comes next, and nothing is written ahead."""
        self._next, self._written = 0, -1

    def expecting(self) -> Seen:
        """Where the next layer's keys and values go. The caller writes them; its `append` then only answers."""
        self._written = self._next
        held = self._buffer[self._next]
        return Seen(held[0], held[1])

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> Seen:
        written, self._written = self._written, -1
        self._next = layer + 1
        if written != layer:
            return super().append(layer, keys, values)
        held = self._buffer[layer]
        return Seen(held[0], held[1])

    @property
    def kv_heads(self) -> int:
        """Key-value heads of a layer."""
        return self._buffer.shape[2]

    _next: int = 0  # the layer whose append comes next
    _written: int = -1  # the layer that a kernel has written ahead of its append


def _one_row(x: torch.Tensor) -> bool:
    return x.dim() == 2 and x.shape[0] == 1 and x.is_contiguous()


def _plain(x: torch.Tensor, weight: Weight) -> bool:
    """Whether our matrix-vector product takes this weight (see `cuda_kernels.linear`)."""
    floats = (WeightType.F32, WeightType.BF16, WeightType.F16)
    return weight.type in floats and weight.data.dtype == x.dtype and _one_row(x) and weight.data.is_contiguous()


def _alike(first: Weight, second: Weight) -> bool:
    return first.shape == second.shape and first.data.dtype == second.data.dtype and second.data.is_contiguous()


def fits(operators: Operators) -> bool:
    """Whether these are the operators whose results the fused kernels reproduce; planted ones are not."""
    return operators == single.decode_operators()
