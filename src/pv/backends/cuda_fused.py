"""A decode step of five launches a layer: neighbouring operators as one kernel, bit for bit what they are one by one.

A decode step of a 7B model is 500 launches of operators that take less time than a launch. The forward stays the one of
`pv.model.forward`; what changes is when work is done. An operator whose successors are known (a norm before a product,
the product before its bias and the rotation, SiLU before the product with up, a product before the residual sum, scores
before softmax and context) returns its tensor without computing it, and the last of them launches one kernel that
fills them all. Every tensor is still written.

Only a step that nobody looks into is run like this: a tap or a graft would see a tensor before it is filled, and takes
the operators one by one. The session compares both ways bit by bit when it is opened and stays with the single
operators if they differ. A tensor that is handed to anybody but its expected successor is computed first (`settle`).

Legend: H width of a row, F FFN width, S slots, Hq and Hkv heads, D head dimension.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any, NamedTuple

import torch
import triton

from pv.backends import cuda_fused_kernels as kernels
from pv.backends import cuda_kernels as single
from pv.backends.cuda_kernels import KernelCache, cut_of, dependent_launch, keys_of, launching
from pv.model.cache import Seen
from pv.model.operators import Operators
from pv.model.weights import Weight, WeightType

ATTENTION_SLOTS = 1024  # up to so many, one program finds all the scores of a head; beyond, they are a launch apart
KEYS, SLOTS, WIDTH = 128, 64, 32  # of an attention program: keys of a step, values of a step, columns of the context


class _Promise(NamedTuple):
    """A tensor that was promised: the operator that makes it, what of, and where to."""

    operator: str
    inputs: tuple[Any, ...]
    output: torch.Tensor


class FusedStep:
    """Operators for one decode step at a time that nobody looks into. `settle()` computes what is still promised."""

    def __init__(self, cache: FusedCache, operators: Operators) -> None:
        self._cache = cache
        self._single = operators
        self._promised: list[_Promise] = []  # in the order of the forward
        self._turned: tuple[torch.Tensor, torch.Tensor] | None = None  # (k before the rotation, k after it)
        self._capacity = cache.capacity
        device = cache.position.device
        self._card, self._launch = dependent_launch(device), launching(device)
        self.operators = replace(
            operators,
            rms_norm=self._rms_norm,
            linear=self._linear,
            add=self._add,
            rope=self._rope,
            scores=self._scores,
            softmax=self._softmax,
            context=self._context,
            silu=self._silu,
            multiply=self._multiply,
        )

    def begin(self) -> None:
        """Forget what a step that failed may have left."""
        self._promised, self._turned = [], None
        self._cache.begin()

    def settle(self) -> None:
        """Compute, one by one, whatever was promised and not yet made."""
        promised, self._promised = self._promised, []
        for promise in promised:
            if promise.operator == "rms_norm" and promise.output.dtype != torch.float64:
                x, gain, eps = promise.inputs
                single.rms_norm(x, gain, eps, promise.output)  # every step settles its last one, before the head
            else:
                promise.output.copy_(getattr(self._single, promise.operator)(*promise.inputs))

    # -- promises: what a kernel further on will fill -------------------------------------------------------------

    def _rms_norm(self, x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
        self.settle()
        if not _one_row(x):
            return self._single.rms_norm(x, gain, eps)
        return self._promise("rms_norm", (x, gain, eps), torch.empty_like(x))

    def _linear(self, x: torch.Tensor, weight: Weight) -> torch.Tensor:
        role = weight.name.rpartition(".")[2]
        if _plain(x, weight):
            out = x.new_empty((1, weight.shape[0]))
            if role in ("qkv", "ffn_gate") and self._waiting("rms_norm") and x is self._promised[-1].output:
                return self._promise("linear", (x, weight), out)
            if role == "ffn_up" and self._waiting("rms_norm", "linear") and _alike(self._promised[-1], x, weight):
                return self._promise("linear", (x, weight), out)
            if role in ("attn_out", "ffn_down"):
                self.settle()
                return self._promise("linear", (x, weight), out)
        self.settle()
        return self._single.linear(x, weight)

    def _scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        self.settle()
        ours = q.dim() == 3 and q.shape[1] == 1 and q.stride(0) == q.shape[2] and k.is_contiguous()
        if not ours or k.shape[1] > ATTENTION_SLOTS:
            return self._single.scores(q, k)
        return self._promise("scores", (q, k), q.new_empty((q.shape[0], 1, k.shape[1])))

    def _softmax(self, scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        if not (self._waiting("scores") and scores is self._promised[-1].output):
            self.settle()
        if scores.shape[1] != 1 or not scores.is_contiguous():
            self.settle()
            return self._single.softmax(scores, visible)
        return self._promise("softmax", (scores, visible), torch.empty_like(scores))

    def _silu(self, x: torch.Tensor) -> torch.Tensor:
        if self._waiting("rms_norm", "linear", "linear") and x is self._promised[1].output:
            return self._promise("silu", (x,), torch.empty_like(x))
        self.settle()
        return self._single.silu(x)

    def _promise(self, operator: str, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        self._promised.append(_Promise(operator, inputs, output))
        return output

    def _waiting(self, *operators: str) -> bool:
        """Whether just these operators are promised."""
        return tuple(promise.operator for promise in self._promised) == operators

    def _kept(self) -> list[_Promise]:
        """The promises, which are now the caller's to fill."""
        promised, self._promised = self._promised, []
        return promised

    # -- launches: the last operator of a row of promises ---------------------------------------------------------

    def _add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self._waiting("linear") and y is self._promised[0].output and _one_row(x):
            [product] = self._kept()
            return self._product_add(product, x)
        if self._waiting("rms_norm", "linear") and x is self._promised[1].output and y.dim() == 1:
            return self._promise("add", (x, y), torch.empty_like(x))
        self.settle()
        return self._single.add(x, y)

    def _product_add(self, promise: _Promise, residual: torch.Tensor) -> torch.Tensor:
        """y = weight x as promised, and residual + y."""
        (x, weight), y = promise.inputs, promise.output
        total, (rows, inner) = torch.empty_like(residual), weight.shape
        cut = cut_of(weight)
        kernels.product_add[(triton.cdiv(rows, cut.rows),)](
            weight.data, x, y, residual, total, rows, inner, cut.rows, cut.columns, self._card, num_warps=cut.warps,
            **self._launch,
        )  # fmt: skip
        return total

    def _rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        if self._turned is not None and x.data_ptr() == self._turned[0].data_ptr():
            turned, self._turned = self._turned[1], None
            return turned
        biased = self._waiting("rms_norm", "linear", "add")
        whole = biased or self._waiting("rms_norm", "linear")
        if not whole or x.dim() != 3 or x.data_ptr() != self._promised[-1].output.data_ptr():
            self.settle()
            return self._single.rope(x, cos, sin)
        return self._norm_qkv(self._kept(), x, cos, sin)

    def _norm_qkv(
        self, promised: list[_Promise], x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        """Norm, product, bias, rotation of q and k, and k and v into the cache; the rotated q."""
        (row, gain, eps), (_, weight), qkv = promised[0].inputs, promised[1].inputs, promised[1].output
        bias, biased = (promised[2].inputs[1], promised[2].output) if len(promised) == 3 else (qkv, qkv)
        heads, depth, keys = x.shape[1], x.shape[2], self._cache.kv_heads
        q, k = torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty((1, keys, depth))
        held, half, inner = self._cache.expecting(), depth // 2, weight.shape[1]
        cut = cut_of(weight)
        kernels.norm_qkv[(heads + 2 * keys, triton.cdiv(half, cut.rows))](
            row, gain, weight.data, bias, cos, sin, qkv, biased, q, k, held.keys, held.values, self._cache.position,
            self._capacity, eps, heads, keys, half, inner, cut.rows, cut.columns, triton.next_power_of_2(inner),
            True, len(promised) == 3, self._card, num_warps=cut.warps, **self._launch,
        )  # fmt: skip
        self._turned = (biased[:, heads * depth :], k)
        return q

    def _context(self, weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        ours = bool(self._promised) and weights is self._promised[-1].output and v.is_contiguous()
        if ours and self._waiting("scores", "softmax"):
            return self._attention(self._kept(), v)
        if ours and self._waiting("softmax"):
            [promise] = self._kept()
            return self._softmax_context(promise, v)
        self.settle()
        return self._single.context(weights, v)

    def _attention(self, promised: list[_Promise], v: torch.Tensor) -> torch.Tensor:
        """Scores, softmax and context of every head."""
        (q, k), scores = promised[0].inputs, promised[0].output
        (_, visible), weights = promised[1].inputs, promised[1].output
        heads, _, depth = q.shape
        groups, slots, _ = k.shape
        out, width = v.new_empty((heads, 1, depth)), min(WIDTH, triton.next_power_of_2(depth))
        kernels.attention[(heads, triton.cdiv(depth, width))](
            q, k, v, visible, self._cache.position, scores, weights, out, 1 / sqrt(depth), slots, heads // groups,
            depth, triton.next_power_of_2(depth), keys_of(depth, KEYS), SLOTS, width,
            triton.next_power_of_2(slots), self._card, num_warps=single.ATTENTION_WARPS, **self._launch,
        )  # fmt: skip
        return out

    def _softmax_context(self, promise: _Promise, v: torch.Tensor) -> torch.Tensor:
        """Softmax and context of every head, from scores that are there."""
        (scores, visible), weights = promise.inputs, promise.output
        heads, _, slots = weights.shape
        groups, _, depth = v.shape
        out, width = v.new_empty((heads, 1, depth)), min(WIDTH, triton.next_power_of_2(depth))
        kernels.softmax_context[(heads, triton.cdiv(depth, width))](
            scores, visible, weights, v, out, slots, heads // groups, depth, SLOTS, width,
            triton.next_power_of_2(slots), num_warps=single.ATTENTION_WARPS,
        )  # fmt: skip
        return out

    def _multiply(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        whole = self._waiting("rms_norm", "linear", "linear", "silu")
        if not whole or x is not self._promised[3].output or y is not self._promised[2].output:
            self.settle()
            return self._single.multiply(x, y)
        norm, gate, up, active = self._kept()
        (row, gain, eps), first, second = norm.inputs, gate.inputs[1], up.inputs[1]
        out = torch.empty_like(x)
        rows, inner = first.shape
        cut = cut_of(first)
        kernels.norm_gate_up[(triton.cdiv(rows, cut.rows),)](
            row, gain, first.data, second.data, gate.output, up.output, active.output, out, eps, rows, inner,
            cut.rows, cut.columns, triton.next_power_of_2(inner), True, self._card, num_warps=cut.warps,
            **self._launch,
        )  # fmt: skip
        return out


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


def _alike(gate: _Promise, x: torch.Tensor, up: Weight) -> bool:
    """Whether `up` is the matrix beside the one that was promised: of its layer, its shape, and for the same input."""
    row, weight = gate.inputs
    return row is x and weight.name == up.name.replace("ffn_up", "ffn_gate") and weight.shape == up.shape


def fits(operators: Operators) -> bool:
    """Whether these are the operators whose results the fused kernels reproduce; planted ones are not."""
    return operators == single.decode_operators()
