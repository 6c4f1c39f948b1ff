"""A decode step over blocks with fewer launches: what prepares a product's int8 codes, and what adds to it, joins it.

One by one, a layer of quantized weights is two dozen launches, most of which take less time than a launch does. The
forward stays the one of `pv.model.forward`. As in `pv.backends.cuda_fused`, an operator whose successor is known
returns its tensor without computing it, and the successor launches one kernel that fills both:

    norm                     the norm, and its int8 codes, which q, k, v or gate and up then share
    q, k, v + bias           the product and the sum in one; rotation of q and k and the cache's append in another
    attn_out, ffn_down       the product and the residual sum
    scores, softmax, context as the step over float weights has them
    gate, up                 one product over the rows of both; then SiLU, their product and its codes

Only a step that nobody looks into runs like this, and only if it gives the very bits of the operators one by one: the
session compares both when it is opened. A tensor handed to anybody but its expected successor is computed first.

Legend: H hidden, F FFN width, K columns of a product, R its rows.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel as its own types, so kernels have none for what is not a constexpr.

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pv.backends import triton_quant as quant
from pv.backends.cuda_fused import FusedCache, FusedStep
from pv.backends.cuda_kernels import begin, inverse_rms, launching, norm_warps, rotate_append
from pv.backends.triton_quant import Codes, Packed, card_of, round_q8_0, round_q8_k
from pv.model.operators import Operators
from pv.model.quant_product import ACTIVATIONS, BLOCK
from pv.model.weights import Prepared, Weight


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def _norm_codes(
    x, gain, out, codes, scales, sums, eps, H: tl.constexpr, BLOCK: tl.constexpr, SUPER: tl.constexpr,
    CARD: tl.constexpr,
):  # fmt: skip
    """256 columns of the norm and their codes. Every program finds the scale of the whole row for itself."""
    begin(CARD > 1)
    scale = inverse_rms(x, eps, H, BLOCK)
    start = tl.program_id(0) * 256
    part = start + tl.arange(0, 256)
    product = tl.load(gain + part, mask=part < H, other=0.0) * (tl.load(x + part, mask=part < H, other=0.0) * scale)
    tl.store(out + part, product, mask=part < H)
    if SUPER:
        round_q8_k(product, start, codes, scales, sums, CARD)
    else:
        round_q8_0(product, start, H - start, codes, scales, CARD)


@triton.jit  # type: ignore[untyped-decorator]
def _rope_append(
    biased, cos, sin, q, k, to_keys, to_values, position, capacity, QUERY: tl.constexpr, KEY: tl.constexpr,
    HALF: tl.constexpr, BLOCK: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """One program for each head of q, k and v: rotates q and k, writes k and v into the cache."""
    begin(CARD > 1)
    head = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < HALF
    first = head * 2 * HALF + at
    low = tl.load(biased + first, mask=inside, other=0.0)
    high = tl.load(biased + first + HALF, mask=inside, other=0.0)
    rotate_append(low, high, head, at, cos, sin, q, k, to_keys, to_values, position, capacity, QUERY, KEY, HALF)


@triton.jit  # type: ignore[untyped-decorator]
def _silu_multiply_codes(
    gate, up, active, out, codes, scales, sums, F: tl.constexpr, SUPER: tl.constexpr, CARD: tl.constexpr
):
    """256 columns of silu(gate), of its product with up, and the product's codes."""
    begin(CARD > 1)
    start = tl.program_id(0) * 256
    at = start + tl.arange(0, 256)
    value = tl.load(gate + at, mask=at < F, other=0.0)
    smooth = value / (1.0 + tl.exp(-value))
    tl.store(active + at, smooth, mask=at < F)
    product = smooth * tl.load(up + at, mask=at < F, other=0.0)
    tl.store(out + at, product, mask=at < F)
    if SUPER:
        round_q8_k(product, start, codes, scales, sums, CARD)
    else:
        round_q8_0(product, start, F - start, codes, scales, CARD)


class _Promise(NamedTuple):
    """Tensors that an operator returned and nobody has computed yet: which operator, of what, into what."""

    operator: str  # linear, pair (gate and up), silu
    input: torch.Tensor
    weights: tuple[Weight, ...]
    output: torch.Tensor  # (1, R); of a pair the rows of both


class Plan(NamedTuple):
    """What a step must know of a model."""

    biased: bool  # whether q, k and v have a bias
    kind: str  # of the codes that most products want: what a norm writes beside its output


class QuantStep:
    """Operators for one decode step at a time that nobody looks into. `settle()` computes what is still promised."""

    def __init__(self, cache: FusedCache, single: Operators, plan: Plan) -> None:
        self._cache, self._single = cache, single
        self._attention = FusedStep(cache, single)
        self._biased, self._kind = plan
        self._promise: _Promise | None = None
        self._made: tuple[torch.Tensor, str, Codes] | None = None  # the last tensor whose codes there are
        self._both = torch.empty(0)  # gate and up, (1, 2 F)
        self._qkv: torch.Tensor | None = None  # q, k and v before the rotation, if they are one tensor
        self._turned: tuple[torch.Tensor, torch.Tensor] | None = None  # (k before, k after the rotation)
        self.operators = replace(
            single,
            linear=self._linear,
            add=self._add,
            rms_norm=self._rms_norm,
            rope=self._rope,
            silu=self._silu,
            multiply=self._multiply,
            scores=self._after_products(self._attention.operators.scores),
            softmax=self._after_products(self._attention.operators.softmax),
            context=self._after_products(self._attention.operators.context),
        )

    def begin(self) -> None:
        """Forget what a step that failed may have left."""
        self._promise = self._made = self._qkv = self._turned = None
        self._attention.begin()

    def settle(self) -> None:
        """Compute, one by one, whatever was promised and not yet made."""
        self._attention.settle()
        self._settle_products()

    def _settle_products(self) -> None:
        promise, self._promise = self._promise, None
        if promise is None:
            return
        if promise.operator == "silu":
            promise.output.copy_(self._single.silu(promise.input))
        elif promise.operator == "pair":
            self._multiply_pair(promise)
        else:
            weight = promise.weights[0]
            quant.multiply(self._codes(promise.input, weight), quant.packed(weight), weight.type, into=promise.output)

    # -- products -------------------------------------------------------------------------------------------------

    def _linear(self, x: torch.Tensor, weight: Weight) -> torch.Tensor:
        gate = self._gate
        if gate is not None and gate.input is x and _alike(gate.weights[0], weight):
            self._promise = _Promise("pair", x, (gate.weights[0], weight), gate.output)
            return self._both[:, weight.shape[0] :]
        self.settle()
        if not _fused(x, weight):
            return self._single.linear(x, weight)
        if weight.name.endswith("ffn_gate"):
            self._both = x.new_empty((1, 2 * weight.shape[0]))
            self._promise = _Promise("linear", x, (weight,), self._both[:, : weight.shape[0]])
            return self._promise.output
        if not self._sum_follows(weight):
            out = quant.multiply(self._codes(x, weight), quant.packed(weight), weight.type)
            self._qkv = out if weight.name.endswith("qkv") else None
            return out
        self._promise = _Promise("linear", x, (weight,), x.new_empty((1, weight.shape[0])))
        return self._promise.output

    def _codes(self, x: torch.Tensor, weight: Weight) -> Codes:
        """Codes of x as this weight wants them, made at most once in a row."""
        kind = ACTIVATIONS[weight.type]
        made = self._made  # keeps its tensor alive, so an equal address is the same tensor
        if made is None or made[1] != kind or made[0].data_ptr() != x.data_ptr() or made[0].shape != x.shape:
            made = self._made = (x, kind, quant.quantize_activations(x, kind))
        return made[2]

    @property
    def _gate(self) -> _Promise | None:
        """The promise of a gate whose `up` has not come."""
        promise = self._promise
        waiting = promise is not None and promise.operator == "linear" and promise.weights[0].name.endswith("ffn_gate")
        return promise if waiting else None

    def _sum_follows(self, weight: Weight) -> bool:
        name = weight.name.rpartition(".")[2]
        return name in ("attn_out", "ffn_down") or (name == "qkv" and self._biased)

    def _add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The bias behind q, k, v (`x` is the product), or the residual sum behind a block (`y` is)."""
        promise = self._promise
        if promise is None or promise.operator != "linear" or (promise.output is not x and promise.output is not y):
            self.settle()
            total = self._single.add(x, y)
            self._qkv = total if y.dim() == 1 and _one_row(total) else None  # q, k, v of several types, joined
            return total
        self._promise = None
        weight, made = promise.weights[0], promise.output
        total = torch.empty_like(made)
        plus = quant.Sum(y if made is x else x, total)
        codes = self._codes(promise.input, weight)
        quant.multiply(codes, quant.packed(weight), weight.type, into=made, plus=plus)
        self._qkv = total if weight.name.endswith("qkv") else None
        return total

    def _multiply_pair(self, promise: _Promise) -> None:
        """gate and up in one launch over the rows of both."""
        gate, up = promise.weights
        quant.multiply(self._codes(promise.input, gate), packed_together(gate, up), gate.type, into=self._both)

    # -- what lies between ----------------------------------------------------------------------------------------

    def _rms_norm(self, x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
        self.settle()
        width = x.shape[-1]
        if not _one_row(x) or width % BLOCK[self._kind]:
            return self._single.rms_norm(x, gain, eps)
        out, made = torch.empty_like(x), quant.room_for(1, width, self._kind, x.device)
        _norm_codes[(triton.cdiv(width, 256),)](
            x, gain, out, made.codes.view(torch.int8), made.scale, made.sums, eps, width,
            triton.next_power_of_2(width), self._kind == "Q8_K", card_of(x.device),
            num_warps=norm_warps(x.element_size()), **launching(x.device),
        )  # fmt: skip
        self._made = (out, self._kind, made)
        return out

    def _rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        self.settle()
        if self._turned is not None and x.data_ptr() == self._turned[0].data_ptr():
            turned, self._turned = self._turned[1], None
            return turned
        whole, self._qkv = self._qkv, None
        if whole is None or whole.data_ptr() != x.data_ptr() or x.dim() != 3:
            return self._single.rope(x, cos, sin)  # k alone, or q, k and v that are no one tensor
        heads, depth, keys = x.shape[1], x.shape[2], self._cache.kv_heads
        q, k = torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty((1, keys, depth))
        held, half = self._cache.expecting(), depth // 2
        _rope_append[(heads + 2 * keys,)](
            whole, cos, sin, q, k, held.keys, held.values, self._cache.position, self._cache.capacity, heads, keys,
            half, triton.next_power_of_2(half), card_of(x.device), num_warps=1, **launching(x.device),
        )  # fmt: skip
        self._turned = (whole[:, heads * depth :], k)
        return q

    def _silu(self, x: torch.Tensor) -> torch.Tensor:
        self.settle()
        if not _one_row(x):
            return self._single.silu(x)
        self._promise = _Promise("silu", x, (), torch.empty_like(x))
        return self._promise.output

    def _multiply(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        promise, width = self._promise, x.shape[-1]
        if promise is None or promise.output is not x or not _one_row(y) or width % BLOCK[self._kind]:
            self.settle()
            return self._single.multiply(x, y)
        self._promise = None
        out, made = torch.empty_like(x), quant.room_for(1, width, self._kind, x.device)
        _silu_multiply_codes[(triton.cdiv(width, 256),)](
            promise.input, y, x, out, made.codes.view(torch.int8), made.scale, made.sums, width,
            self._kind == "Q8_K", card_of(x.device), num_warps=1, **launching(x.device),
        )  # fmt: skip
        self._made = (out, self._kind, made)
        return out

    def _after_products(self, operator: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """An operator of attention, which has promises of its own, behind whatever is promised here."""

        def behind(*arguments: torch.Tensor) -> torch.Tensor:
            self._settle_products()
            return operator(*arguments)

        return behind


def plan_of(weights: Prepared) -> Plan:
    """The plan of a model, which outlives its weights."""
    layer = weights.layers[0]
    found = [ACTIVATIONS[w.type] for w in (*layer.qkv, layer.ffn_gate, layer.ffn_down) if w.type in quant.PACKERS]
    return Plan(weights.spec.qkv_bias, max(found, key=found.count) if found else "Q8_K")


def packed_together(first: Weight, second: Weight) -> Packed:
    """Two weights of one type and shape as one of twice the rows. Either alone is then a view of its half."""
    key = id(first.data)
    if key not in _PAIRS:
        halves = zip(quant.packed(first), quant.packed(second), strict=True)
        both = Packed(*(torch.cat(parts) for parts in halves))
        rows = first.shape[0]
        quant.keep(first, Packed(*(part[:rows] for part in both)))
        quant.keep(second, Packed(*(part[rows:] for part in both)))
        _PAIRS[key] = both
        weakref.finalize(first.data, _PAIRS.pop, key, None)
    return _PAIRS[key]


_PAIRS: dict[int, Packed] = {}


def _one_row(x: torch.Tensor) -> bool:
    return x.dim() == 2 and x.shape[0] == 1 and x.is_contiguous() and x.dtype == torch.float32


def _alike(first: Weight, second: Weight) -> bool:
    return first.type == second.type and first.shape == second.shape


def _fused(x: torch.Tensor, weight: Weight) -> bool:
    return weight.type in quant.PACKERS and _one_row(x)
