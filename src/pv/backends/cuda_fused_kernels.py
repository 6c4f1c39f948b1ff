"""The kernels of a fused decode step: five a layer, made of the functions that the single operators are made of.

A matrix-vector product takes what lies before and behind it into its own launch: the norm of its input (every program
finds the row's scale for itself and normalizes the columns as it reads them), and the bias, rotation and cache, the
residual sum, or SiLU and product behind it. Every value is rounded where the single operators round it, and every
tensor of theirs is written.

Legend: K columns of a matrix, S slots, D head dimension, CARD whether dependent launch is there (`cuda_kernels`).
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of a kernel as its own types, so kernels have none for what is not a constexpr.

from __future__ import annotations

import triton
import triton.language as tl

from pv.backends.cuda_kernels import begin, one_product, rotate_append, two_products


@triton.jit  # type: ignore[untyped-decorator]
def product_add(
    w, x, y, residual, z, n, K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """The product, and z = residual + y."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < n
    start = w + rows.to(tl.int64)[:, None] * K
    found = one_product(start, inside, x, x, 0.0, K, ROWS, COLUMNS, COLUMNS, False, CARD).to(y.dtype.element_ty)
    tl.store(y + rows, found, mask=inside)
    total = tl.load(residual + rows, mask=inside, other=0.0).to(tl.float32) + found.to(tl.float32)
    tl.store(z + rows, total.to(z.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def norm_gate_up(
    x, gain, w, other, gate, up, active, out, eps, n, K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, NORM: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """gate = w h and up = other h of the normed x, and silu(gate) * up."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < n
    start = rows.to(tl.int64)[:, None] * K
    left, right = two_products(w + start, other + start, inside, x, gain, eps, K, ROWS, COLUMNS, BLOCK, NORM, CARD)
    kind = out.dtype.element_ty
    left, right = left.to(kind), right.to(kind)
    tl.store(gate + rows, left, mask=inside)
    tl.store(up + rows, right, mask=inside)
    value = left.to(tl.float32)
    smooth = (value / (1.0 + tl.exp(-value))).to(kind)
    tl.store(active + rows, smooth, mask=inside)
    tl.store(out + rows, (smooth.to(tl.float32) * right.to(tl.float32)).to(kind), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def norm_qkv(
    x, gain, w, bias, cos, sin, qkv, biased, q, k, to_keys, to_values, position, capacity, eps,
    QUERY: tl.constexpr, KEY: tl.constexpr, HALF: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """ROWS pairs (d, d + HALF) of one head of q, k or v: product, bias, rotation of q and k, k and v into the cache."""
    head = tl.program_id(0)
    at = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = at < HALF
    first = head * 2 * HALF + at
    start = w + first.to(tl.int64)[:, None] * K
    low, high = two_products(start, start + HALF * K, inside, x, gain, eps, K, ROWS, COLUMNS, BLOCK, NORM, CARD)
    kind = qkv.dtype.element_ty
    low, high = low.to(kind), high.to(kind)
    tl.store(qkv + first, low, mask=inside)
    tl.store(qkv + first + HALF, high, mask=inside)
    if BIAS:
        low = (low.to(tl.float32) + tl.load(bias + first, mask=inside, other=0.0).to(tl.float32)).to(kind)
        high = (high.to(tl.float32) + tl.load(bias + first + HALF, mask=inside, other=0.0).to(tl.float32)).to(kind)
        tl.store(biased + first, low, mask=inside)
        tl.store(biased + first + HALF, high, mask=inside)
    rotate_append(low, high, head, at, cos, sin, q, k, to_keys, to_values, position, capacity, QUERY, KEY, HALF)


@triton.jit  # type: ignore[untyped-decorator]
def attention(
    q, k, v, visible, position, scores, weights, out, scale, S: tl.constexpr, GROUP: tl.constexpr,
    D: tl.constexpr, DEPTH: tl.constexpr, KEYS: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, CARD: tl.constexpr,
):  # fmt: skip
    """Scores and softmax of one head, found by every program of that head for itself, and WIDTH values of its context.

    Only slots up to the position are read: the others have weight zero.
    """
    begin(CARD)
    h = tl.program_id(0)
    group = h // GROUP
    filled = tl.load(position).to(tl.int32) + 1
    depth = tl.arange(0, DEPTH)
    query = tl.load(q + h * D + depth, mask=depth < D, other=0.0).to(tl.float32)
    for first in range(0, S, KEYS):
        if first < filled:
            s = first + tl.arange(0, KEYS)
            inside = (s < filled)[:, None] & (depth < D)[None, :]
            key = tl.load(k + (group * S + s)[:, None] * D + depth[None, :], mask=inside, other=0.0).to(tl.float32)
            found = (tl.sum(key * query[None, :], axis=1) * scale).to(scores.dtype.element_ty)
            tl.store(scores + h * S + s, found, mask=s < filled)
    tl.debug_barrier()  # the whole program reads what each of its threads wrote
    row = tl.arange(0, BLOCK)
    seen = tl.load(visible + row, mask=row < filled, other=0) != 0
    value = tl.where(seen, tl.load(scores + h * S + row, mask=row < filled, other=0.0).to(tl.float32), float("-inf"))
    top = tl.max(value, axis=0)
    weight = tl.exp(value - top)
    total = tl.sum(weight, axis=0)
    kind = weights.dtype.element_ty
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    if tl.program_id(1) == 0:
        tl.store(weights + h * S + row, (weight / total).to(kind), mask=row < S)
    sums = tl.zeros((SLOTS, WIDTH), tl.float32)
    for first in range(0, S, SLOTS):
        if first < filled:
            s = first + tl.arange(0, SLOTS)
            here = tl.load(visible + s, mask=s < filled, other=0) != 0
            score = tl.load(scores + h * S + s, mask=s < filled, other=0.0).to(tl.float32)
            share = (tl.exp(tl.where(here, score, float("-inf")) - top) / total).to(kind).to(tl.float32)
            inside = (s < filled)[:, None] & (d < D)[None, :]
            held = tl.load(v + (group * S + s)[:, None] * D + d[None, :], mask=inside, other=0.0).to(tl.float32)
            sums += share[:, None] * held
    tl.store(out + h * D + d, tl.sum(sums, axis=0).to(out.dtype.element_ty), mask=d < D)


@triton.jit  # type: ignore[untyped-decorator]
def softmax_context(
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
