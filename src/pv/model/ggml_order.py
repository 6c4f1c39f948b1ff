"""The operators of the forward, rounding where ggml's x86 kernels round: the same bits as llama.cpp on a CPU.

The engine's own operators round as little as they can. That is close to any honest kernel, and yet not close enough to
hold a quantized model to llama.cpp at every position: where two sums differ in their last bit, an activation beside a
half becomes another int8 code, and that position moves by a few millionths (1 - cosine). These operators add in ggml's
order, so no code differs, and what is left between the two answers would be a defect.

The order is that of ggml's kernels for AVX2 with fused multiply-add, one token a batch (larger batches go through other
kernels, with other orders). A dot product of floats fills four registers of eight lanes in turn, one of blocks fills
one register; how the lanes are added up in the end is ggml's too. Everything here is held to the kernels themselves,
bit by bit, in tests/model/test_ggml_order.py. It is slow, and there for comparing only.

A fused multiply-add is taken in float64, where the product of two float32 is exact; the sum is rounded to float64 and
then to float32, which differs from rounding once in about one case of 2**29.

Legend: T rows of activations, R rows of weights, K columns, n blocks in a row of N values each; S slots, D head
dimension, Hq query heads, Hkv key-value heads.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from pv.model.operators import Operators
from pv.model.quant_grid import unpack
from pv.model.quant_product import ACTIVATIONS, Activations, quantize_activations
from pv.model.rope import RopeTables
from pv.model.spec import ModelSpec
from pv.model.weights import BLOCKS, Weight, WeightType

_LANES, _REGISTERS = 8, 4
_STRIDE = _LANES * _REGISTERS
_SCRATCH = 1 << 22  # elements of the largest temporary: 32 MiB of float64


def linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """(..., K) -> (..., R): `ggml_mul_mat`. float16 and bfloat16 weights round the activations to their own type."""
    rows = x.reshape(-1, x.shape[-1])
    if weight.type in ACTIVATIONS:
        out = _product_of_blocks(rows, weight)
    else:
        out = dots(rows.to(weight.data.dtype).to(torch.float32), weight.data.to(torch.float32), weight.type)
    return out.reshape(*x.shape[:-1], weight.shape[0])


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`ggml_rms_norm` and the product with its weight: float32 squares, added one after the other in float64."""
    total = x.square().to(torch.float64).cumsum(-1)[..., -1:]  # cumsum keeps the order, sum does not
    mean = (total / x.shape[-1]).to(torch.float32)
    root = torch.sqrt((mean + eps).to(torch.float64)).to(torch.float32)  # torch's float32 root is not rounded correctly
    return x * (1 / root) * weight


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`ggml_rope_ext`, the half-split kind. x (..., T, heads, D); cos, sin (T, 1, D/2) from `rope_tables`."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat((_fma(low, cos, -(high * sin)), _fma(low, sin, high * cos)), dim=-1)


def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Q·Kᵀ/√D. q (..., Hq, T, D), k (..., Hkv, S, D) -> (..., Hq, T, S)."""
    return _by_head(q, k) * (1 / torch.tensor(math.sqrt(q.shape[-1])))


def softmax(scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """`ggml_soft_max_ext`: float32 sums of eight, added one after the other in float64. visible (T, S)."""
    hidden = scores.masked_fill(~visible, -math.inf)
    powers = exp(hidden - hidden.amax(-1, keepdim=True))  # (..., T, S)
    eights = torch.unflatten(_padded(powers, _LANES), -1, (-1, _LANES))
    total = _in_halves(eights).to(torch.float64).cumsum(-1)[..., -1:]
    return powers * (1 / total).to(torch.float32)


def context(weights: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax·V. weights (..., Hq, T, S), v (..., Hkv, S, D) -> (..., Hq, T, D). ggml's cache ends in empty slots."""
    return _by_head(_padded(weights, _STRIDE), _padded(v.transpose(-2, -1), _STRIDE))


def silu(x: torch.Tensor) -> torch.Tensor:
    """x / (1 + exp(-x)): the first half of `ggml_swiglu_split`, whose second is the plain product."""
    return x / (1 + exp(-x))


GGML_ORDER = Operators(
    linear=linear, rms_norm=rms_norm, rope=rope, scores=scores, softmax=softmax, context=context, silu=silu
)


def rope_tables(spec: ModelSpec, length: int) -> RopeTables:
    """Cosines and sines of positions 0 to length - 1 as ggml computes them: each (length, D/2), float32.

    Each angle is the one before times theta^(-2/D), rounded, so they drift from the exact ones. Cosine and sine are
    those of the C library, which llama.cpp calls; where none is found they are rounded from float64 (another last bit
    in one of a hundred).
    """
    exponent = torch.tensor(-2.0 / spec.head_dim).item()  # rounded to float32
    step = torch.tensor(spec.rope_theta**exponent, dtype=torch.float32)
    angles = [torch.arange(length, dtype=torch.float32)]
    for _ in range(1, spec.head_dim // 2):
        angles.append(angles[-1] * step)
    angle = torch.stack(angles, dim=-1)
    return RopeTables(_of_each("cosf", angle, torch.cos), _of_each("sinf", angle, torch.sin))


def exp(x: torch.Tensor) -> torch.Tensor:
    """`ggml_v_expf`: 2**n (1 + p(b)) with n = round(x / ln 2), b = x - n ln 2, and p a polynomial of degree five.

    Method and coefficients are those of `expf` in Arm's Optimized Routines (at most 1.45 ulp), which ggml took over.
    """
    shift = 1.5 * 2**23  # pushes what is behind the point out of a float32
    n = _fma(x, _hex("0x1.715476p+0"), shift) - shift
    b = _fma(-n, _hex("0x1.7f7d1cp-20"), _fma(-n, _hex("0x1.62e4p-1"), x))
    square = b * b
    low = _fma(b, _hex("0x1.555e66p-3"), _hex("0x1.fffdb6p-2"))
    high = _fma(b, _hex("0x1.0e4020p-7"), _hex("0x1.573e2ep-5"))
    p = _fma(_fma(high, square, low), square, b * _hex("0x1.ffffecp-1"))
    # Where 2**n is no normal number it is applied in two steps, so that the result is rounded once.
    second = torch.where(n.abs() > 126, torch.where(n > 0, 127.0, -125.0), 0.0)
    first = _power_of_two(n - second)
    value = _fma(p, first, first) * _power_of_two(second)
    return torch.where(n > 192, math.inf, torch.where(n < -192, 0.0, value))


def dots(x: torch.Tensor, w: torch.Tensor, kind: WeightType = WeightType.F32) -> torch.Tensor:
    """Every row with every row by the kernel of a float type: (..., T, K), (..., R, K) -> (..., T, R), all float32."""
    out = torch.empty((*x.shape[:-1], w.shape[-2]))
    step = max(1, _SCRATCH // max(1, w.shape[:-1].numel() * _STRIDE))
    for start in range(0, x.shape[-2], step):
        part = slice(start, start + step)
        out[..., part, :] = _dots(x[..., part, None, :], w.unsqueeze(-3), kind)
    return out


# --- Sums -------------------------------------------------------------------------------------------------------------


def _fma(x: torch.Tensor, y: torch.Tensor | float, z: torch.Tensor | float) -> torch.Tensor:
    """x y + z, rounded to float32."""
    wide = x.to(torch.float64) * (y.to(torch.float64) if isinstance(y, torch.Tensor) else y)
    return (wide + z).to(torch.float32)


def _dots(x: torch.Tensor, w: torch.Tensor, kind: WeightType) -> torch.Tensor:
    """Row by row of two tensors that broadcast: (..., K), (..., K) -> (...)."""
    whole = x.shape[-1] // _STRIDE * _STRIDE
    register = (_REGISTERS, _LANES)
    sums = torch.zeros(*(x[..., 0] + w[..., 0]).shape, *register)
    for start in range(0, whole, _STRIDE):
        left, right = (torch.unflatten(side[..., start : start + _STRIDE], -1, register) for side in (x, w))
        sums = _fma(left, right, sums)
    lanes = (sums[..., 0, :] + sums[..., 2, :]) + (sums[..., 1, :] + sums[..., 3, :])
    total = _in_halves(lanes) if kind is WeightType.BF16 else _in_neighbours(lanes)
    return _rest(total, x[..., whole:], w[..., whole:], kind)


def _rest(total: torch.Tensor, x: torch.Tensor, w: torch.Tensor, kind: WeightType) -> torch.Tensor:
    """What fills no stride is plain code: in float64 for halves; for float32 the compiler made fours of it."""
    if kind is not WeightType.F32:
        products = torch.cat((total.unsqueeze(-1).to(torch.float64), (x * w).to(torch.float64)), dim=-1)
        return products.cumsum(-1)[..., -1].to(torch.float32)
    fours = x.shape[-1] // 4 * 4
    for column in range(x.shape[-1]):
        left, right = x[..., column], w[..., column]
        total = left * right + total if column < fours else _fma(left, right, total)
    return total


def _in_halves(lanes: torch.Tensor) -> torch.Tensor:
    """(..., 8) or fewer -> (...): the upper half onto the lower, until one is left."""
    while lanes.shape[-1] > 1:
        low, high = lanes.chunk(2, dim=-1)
        lanes = low + high
    return lanes.squeeze(-1)


def _in_neighbours(lanes: torch.Tensor) -> torch.Tensor:
    """(..., 8) -> (...): the upper half onto the lower, and then each with its neighbour."""
    low, high = lanes.chunk(2, dim=-1)
    four = low + high
    return (four[..., 0] + four[..., 1]) + (four[..., 2] + four[..., 3])


def _by_head(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`dots` of each query head with the head that it shares: (..., Hq, T, K), (..., Hkv, R, K) -> (..., Hq, T, R)."""
    grouped = torch.unflatten(x, -3, (y.shape[-3], -1)).flatten(-3, -2)  # (..., Hkv, group T, K)
    return torch.unflatten(dots(grouped, y), -2, (-1, x.shape[-2])).flatten(-4, -3)


def _padded(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zeros behind the last dimension, which change no sum."""
    return functional.pad(x, (0, -x.shape[-1] % multiple))


# --- Blocks -----------------------------------------------------------------------------------------------------------

_SHIFTED = {WeightType.Q6_K: 32}  # codes are multiplied as stored, from 0; the shift is a sum of its own
_MINIMA = {WeightType.Q4_1: 1, WeightType.Q5_1: 1, WeightType.Q4_K: 4, WeightType.Q5_K: 1}  # type -> lanes of their sum


class _Parts(NamedTuple):
    """Blocks taken apart: all but d and dmin are integers.

    A weight is d (codes - shift) - dmin low, or d codes + dmin where the type has no scales for its minima.
    """

    d: torch.Tensor  # (R, n) float32
    codes: torch.Tensor  # (R, n, N) float64, times the block's integer scales
    shift: torch.Tensor | None  # (R, n, N) float64, times the block's integer scales
    dmin: torch.Tensor | None  # (R, n) float32
    low: torch.Tensor | None  # (R, n, N) float64


def _product_of_blocks(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """(T, K) -> (T, R), the weight's rows in pieces that fit the scratch."""
    activations = quantize_activations(x.to(torch.float32), ACTIVATIONS[weight.type])
    step = max(1, _SCRATCH // (_LANES * (len(x) + weight.shape[-1])))
    lanes = _MINIMA.get(weight.type, 0)
    products = [
        _multiply(activations, _taken_apart(weight.type, rows), lanes) for rows in torch.split(weight.data, step)
    ]
    return torch.cat(products).T


def _multiply(a: Activations, w: _Parts, low_lanes: int) -> torch.Tensor:
    """(T, K) activations, (R, K) weights -> (R, T) float32: ggml's `ggml_vec_dot_*`.

    Within a block all is integers, four neighbours to a lane. A block enters its lanes by one fused multiply-add with
    the product of the two float scales; the minima have a register of their own, added last.
    """
    codes = torch.unflatten(a.codes.to(torch.float64), 1, (-1, a.block))  # (T, n, N)
    sums = torch.zeros(_LANES, len(w.d), len(codes))
    minima = torch.zeros(low_lanes, len(w.d), len(codes))
    for i in range(w.d.shape[1]):
        part = _in_lanes(w.codes[:, i], codes[:, i], _LANES, 4)
        if w.shift is not None:
            part -= _in_lanes(w.shift[:, i], codes[:, i], _LANES, a.block // _LANES)
        sums = _fma(part.to(torch.float32), w.d[:, i, None] * a.scale[:, i], sums)
        if w.dmin is not None and a.sums is not None:  # Q8_1 brings the sum of its codes along, scaled
            minima = _fma(w.dmin[:, i, None], a.sums[:, i], minima)
        elif w.dmin is not None and w.low is not None:
            low = _in_lanes(w.low[:, i], codes[:, i], low_lanes, a.block // low_lanes)
            minima = _fma(low.to(torch.float32), -(w.dmin[:, i, None] * a.scale[:, i]), minima)
    total = _in_halves(sums.permute(1, 2, 0))
    return total + _in_halves(minima.permute(1, 2, 0)) if low_lanes else total


def _in_lanes(w: torch.Tensor, x: torch.Tensor, lanes: int, together: int) -> torch.Tensor:
    """(R, N), (T, N) -> (lanes, R, T), exact: `together` products to a lane, then to the next, and around again."""
    left, right = (torch.unflatten(side, 1, (-1, lanes, together)).permute(2, 0, 1, 3).flatten(2) for side in (w, x))
    return left @ right.mT


def _taken_apart(kind: WeightType, rows: torch.Tensor) -> _Parts:
    """(R, row bytes) uint8 -> the integers and the two scales of every block.

    With a float16 scale of one, a block unpacks to its integers.
    """
    values, size = BLOCKS[kind]
    blocks = torch.unflatten(rows, 1, (-1, size))  # (R, n, bytes)
    units = blocks.clone()

    def take(start: int) -> torch.Tensor:
        half = blocks[..., start : start + 2].contiguous().view(torch.float16)
        units[..., start : start + 2] = torch.ones_like(half).view(torch.uint8)
        return half.squeeze(-1).to(torch.float32)

    d = take(208 if kind is WeightType.Q6_K else 0)
    dmin = take(2) if kind in _MINIMA else None
    grid = unpack(kind, units.flatten(1))
    scale, codes = (
        grid.scale.to(torch.float64).unsqueeze(-1),
        grid.codes.to(torch.float64),
    )  # (R, runs, 1), (R, runs, w)

    def by_block(x: torch.Tensor) -> torch.Tensor:
        return x.expand_as(codes).reshape(*blocks.shape[:2], values)

    shift = _SHIFTED.get(kind)
    return _Parts(
        d=d,
        codes=by_block((codes + (shift or 0)) * scale),
        shift=None if shift is None else by_block(shift * scale),
        dmin=dmin,
        low=None if grid.offset is None else by_block(-grid.offset.to(torch.float64).unsqueeze(-1)),
    )


# --- Constants and the C library --------------------------------------------------------------------------------------


def _hex(number: str) -> float:
    return float.fromhex(number)


def _power_of_two(n: torch.Tensor) -> torch.Tensor:
    """2**n, exact, for integers within the normal exponents of float32; anything for others."""
    return (n.clamp(-126, 127).to(torch.int32) + 127 << 23).view(torch.float32)


def _of_each(name: str, x: torch.Tensor, otherwise: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A float32 function of the C library, element by element; `otherwise`, in float64, where there is none."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):  # Windows has no library of the process
        return otherwise(x.to(torch.float64)).to(torch.float32)
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return torch.tensor([function(value) for value in x.flatten().tolist()]).reshape(x.shape)
