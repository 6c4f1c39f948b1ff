"""Two tensors of one shape -> how they differ, position by position, the worst position deciding.

A tensor is seen as rows: one row for each position (and head, for attention maps). Wide rows are first summed in
float32, in blocks that stay in the cache, which says of each row how bad it can be at most and at least: every row that
could be the worst by any figure, and every row that is not small in error and ordinary in size, is summed again in
float64, and the worst is chosen among those. A tensor larger than memory is compared through a memory map.

    rel_l2    ||x - r|| / ||r||, the length of the error in units of the reference
    linf_rel  max |x - r| / max |r|, which sees a single wrong element that rel_l2 dilutes
    cosine    of the angle between x and r, taken from the difference, which keeps the digits that a dot product
              loses: 1 - cos = (||x - r||² - (||x|| - ||r||)²) / (2 ||x|| ||r||)
    scale     <x, r> / <r, r>, which turns "the cosine hides a factor" into a finding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Float = TypeVar("Float", np.float32, np.float64)

FORGET = 1 << 21  # elements that are forgotten together: the system maps large pages, and splitting one costs
BLOCK = 1 << 17  # elements of a block: with its difference it stays in the second-level cache
MASK = float(np.finfo(np.float32).max)  # attention masks are -inf or -FLT_MAX; both mean "masked"
_SAFE = (1e-30, 1e30)  # float32 sums of squares within are as good as `_float32_error` says; others are not
_FEW = 4  # of so few rows, and of rows so narrow, each is summed in float64 at once: float32 would not be faster
_NARROW = 256
_TERMS = 1 << 14  # products that are added up in float32 at most
_ODD = 1e70  # a sum of squares that a mask constant, an infinity or a NaN exceeds; what does is looked at one by one
_UNIT = 2.0**-24  # the largest relative error of one rounding to float32


class ShapeError(ValueError):
    """The two tensors do not have the same shape. Nothing is cut to fit."""


class NonFinite(NamedTuple):
    """What is not a finite number. A mask (±inf or ±FLT_MAX) is agreed upon when both sides have it, with one sign."""

    nan_test: int = 0
    nan_reference: int = 0
    infinite_test: int = 0
    infinite_reference: int = 0
    disagree: int = 0  # elements that are not finite on one side only, or differ in kind or sign

    @property
    def any(self) -> bool:
        """Whether there is any such element on either side."""
        return any(self)


class Worst(NamedTuple):
    """A large difference: where it is (index in the tensor's own shape) and both values there."""

    at: tuple[int, ...]
    test: float
    reference: float
    difference: float


@dataclass(frozen=True, slots=True)
class Rows:
    """Sums of each row, shape (rows,). `compared` counts the elements that are finite on both sides.

    Where `exact`, summed in float64; elsewhere in float32, each sum of squares with a relative error of at most `error`
    (some 1e-6 in practice).
    """

    dd: F64  # sum of (x - r)²
    rr: F64  # sum of r²
    xx: F64  # sum of x²
    xr: F64  # sum of x r
    max_abs: F64  # max |x - r|
    max_reference: F64  # max |r|
    compared: NDArray[np.int64]
    exact: NDArray[np.bool_]
    error: float
    nonfinite: NonFinite

    @property
    def rel_l2(self) -> F64:
        """||x - r|| / ||r|| of each row; 0 where both are zero, infinite where only the reference is."""
        return _ratio(np.sqrt(self.dd), np.sqrt(self.rr))

    @property
    def linf_rel(self) -> F64:
        """max |x - r| / max |r| of each row."""
        return _ratio(self.max_abs, self.max_reference)

    @property
    def scale(self) -> F64:
        """<x, r> / <r, r> of each row; 1 for a zero reference."""
        return np.divide(self.xr, self.rr, out=np.ones_like(self.xr), where=self.rr > 0)

    @property
    def cosine_loss(self) -> F64:
        """1 - cosine of each row, with the digits that the cosine itself cannot hold; 1 where only one row is zero."""
        x, r = np.sqrt(self.xx), np.sqrt(self.rr)
        gap = np.divide(self.xx - self.rr, x + r, out=np.zeros_like(x), where=x + r > 0)  # ||x|| - ||r||
        lengths = x * r
        near = np.divide(self.dd - gap * gap, 2 * lengths, out=np.zeros_like(x), where=lengths > 0)
        far = 1.0 - np.divide(self.xr, lengths, out=np.ones_like(x), where=lengths > 0)
        loss = np.where(4 * self.dd <= self.rr, near, far)  # the first form has the digits while the error is small
        return np.where((x == 0) != (r == 0), 1.0, np.maximum(loss, 0.0))

    @property
    def cosine(self) -> F64:
        """Cosine of each row; 1 where both are zero, 0 where only one is."""
        return 1.0 - self.cosine_loss


@dataclass(frozen=True, slots=True)
class TensorMetrics:
    """How one tensor differs. The figures of a position are those of the worst one; `*_at` is that row's number."""

    shape: tuple[int, ...]
    positions: int
    identical: bool  # bit for bit, NaN included
    worst: Worst | None  # None when no element could be compared
    rms: float  # of the difference, over all elements; the one figure that may hold float32 sums, see `Rows`
    rel_l2: float
    rel_l2_at: int
    linf_rel: float
    linf_rel_at: int
    cosine_loss: float  # 1 - cosine
    cosine_at: int
    scale: float  # at the row of rel_l2
    nonfinite: NonFinite
    rows: Rows

    @property
    def cosine(self) -> float:
        """Cosine of the worst row."""
        return 1.0 - self.cosine_loss

    @property
    def max_abs(self) -> float:
        """max |x - r|; NaN when nothing could be compared."""
        return abs(self.worst.difference) if self.worst else float("nan")

    @property
    def broken(self) -> bool:
        """NaN anywhere, or an infinity that the other side does not have: no tolerance accepts that."""
        return bool(self.nonfinite.nan_test or self.nonfinite.nan_reference or self.nonfinite.disagree)


def as_rows(values: F32, shape: tuple[int, ...]) -> F32:
    """A view with one row for each position: (T, H) and (Hq, T, S) by their last axis, a vector as one row."""
    width = shape[-1]
    return values.reshape(-1, width)


def compare(
    test: F32, reference: F32, shape: tuple[int, ...] | None = None, forget: Callable[[int, int], None] | None = None
) -> TensorMetrics:
    """Compare float32 tensors of one shape (`shape` when the arrays are flat views of files).

    `forget(first, last)` is told which elements have been used. Raises ShapeError; nothing is broadcast or cut.
    """
    if test.shape != reference.shape:
        raise ShapeError(f"expected two tensors of one shape, got {test.shape} and {reference.shape}")
    shape = test.shape if shape is None else shape
    if int(np.prod(shape)) != test.size or not test.size:
        raise ShapeError(f"expected {test.size} elements, at least one, to fill the shape {shape}")
    x, r = as_rows(test, shape), as_rows(reference, shape)
    return _summary(x, r, shape, settled(x, r, row_sums(x, r, forget)))


def row_sums(test: F32, reference: F32, forget: Callable[[int, int], None] | None = None) -> Rows:
    """The sums of every row of two (rows, width) arrays, block by block.

    Where float32 is used, differences are formed in it: exact while the two values are within a factor of two
    (Sterbenz), rounded once otherwise. Rows that hold a NaN, an infinity or a mask constant are summed over what is
    finite on both sides, and rows that differ by half their length or more, or are very large or small, in float64.
    """
    count, width = test.shape
    sums = np.zeros((6, count))
    careful = np.ones(count, np.bool_)
    if count > _FEW and width > _NARROW:
        _fast_pass(sums, test, reference, forget)
        careful = ~_settled_by_float32(sums)
    compared, odd = _exact_rows(sums, test, reference, np.flatnonzero(careful), forget)
    return _rows(sums, compared, careful, _float32_error(width), odd)


def settled(test: F32, reference: F32, rows: Rows) -> Rows:
    """The same rows; every row that could be the worst by any figure is summed in float64.

    What is left in float32 is surely better than the worst, and so are its figures as they stand.
    """
    suspects = np.zeros(rows.dd.size, np.bool_)
    for figure, error in _ranked(rows):
        most = figure + error
        suspects |= (most >= np.max(figure - error)) & (most > 0)  # some row is surely as bad as that; 0 is exact
    suspects &= ~rows.exact
    if not suspects.any():
        return rows
    sums = np.stack((rows.dd, rows.rr, rows.xx, rows.xr, rows.max_abs, rows.max_reference))
    _exact_rows(sums, test, reference, np.flatnonzero(suspects), None)  # all finite, or float32 had not settled them
    return _rows(sums, rows.compared, rows.exact | suspects, rows.error, rows.nonfinite)


def _rows(sums: F64, compared: NDArray[np.int64], exact: NDArray[np.bool_], error: float, nonfinite: NonFinite) -> Rows:
    """Rows of sums (6, rows), in the order of the fields."""
    dd, rr, xx, xr, max_abs, max_reference = sums
    return Rows(dd, rr, xx, xr, max_abs, max_reference, compared, exact, error, nonfinite)


def _ranked(rows: Rows) -> list[tuple[F64, F64]]:
    """Each figure that a worst row is chosen by, (rows,), and by how much its float32 value can be off; 0 where exact.

    With e the relative error of dd and rr, and that of <d, r> at most e ||d|| ||r|| (Cauchy, Schwarz): rel_l2 is off by
    a factor of at most √((1 + e) / (1 - e)). Of the cosine the numerator is dd - gap², where
    gap = (2 <d, r> + dd) / (||x|| + ||r||) and, as 2 ||d|| < ||r||, ||x|| + ||r|| >= 1.5 ||r||: gap is off by
    g = 1.7 e ||d|| + e |gap| at most, and gap² by 2 |gap| g + g². A difference, and so the largest, is rounded once.
    """
    e = np.where(rows.exact, 0.0, rows.error)
    one = np.where(rows.exact, 0.0, 4 * _UNIT)
    x, r, d = np.sqrt(rows.xx), np.sqrt(rows.rr), np.sqrt(rows.dd)
    gap = np.abs(np.divide(rows.xx - rows.rr, x + r, out=np.zeros_like(x), where=x + r > 0))
    off = e * (1.7 * d + gap)
    numerator = e * rows.dd + 2 * gap * off + off * off
    cosine_loss = rows.cosine_loss
    cosine_off = np.divide(numerator, 2 * x * r, out=np.zeros_like(x), where=x * r > 0) + 3 * e * cosine_loss
    figures = ((rows.rel_l2, e * 1.1), (rows.linf_rel, one), (rows.max_abs, one))
    with np.errstate(invalid="ignore"):  # an exact row may be infinitely far off
        found = [(figure, np.where(relative > 0, relative * figure, 0.0)) for figure, relative in figures]
    return [*found, (cosine_loss, 1.1 * cosine_off)]


def _float32_error(width: int) -> float:
    """Relative error of a float32 sum of squared differences, whatever the order of summation.

    Higham, Accuracy and Stability of Numerical Algorithms, 3.1: n u / (1 - n u) for n roundings of a term: one of the
    difference, which counts twice, one of the product, and the additions.
    """
    roundings = (min(width, _TERMS) + 4) * _UNIT
    return roundings / (1 - roundings)


def _fast_pass(sums: F64, test: F32, reference: F32, forget: Callable[[int, int], None] | None) -> None:
    """Fill `sums` (6, rows) from float32 sums of blocks."""
    count, width = test.shape
    workspace = np.empty((min(count, max(1, BLOCK // width)), min(width, BLOCK)), np.float32)
    highest = np.zeros((2, count), np.int32)  # of the differences, of the reference; see `_magnitudes`
    lowest = np.zeros((2, count), np.uint32)
    kept = 0  # the first element that was not forgotten yet
    with np.errstate(all="ignore"):  # overflow and invalid operations are what the exact path is there for
        for rows, columns in _blocks(count, width):
            r = reference[rows, columns]
            difference = workspace[: r.shape[0], : r.shape[1]]
            np.subtract(test[rows, columns], r, out=difference)  # see `row_sums`
            _add_dots(sums[:, rows], difference, r)
            for place, values in enumerate((difference, r)):
                np.maximum(highest[place, rows], values.view(np.int32).max(axis=1), out=highest[place, rows])
                np.maximum(lowest[place, rows], values.view(np.uint32).max(axis=1), out=lowest[place, rows])
            used = (rows.stop - 1) * width + columns.stop
            if forget is not None and (used - kept >= FORGET or used == count * width):
                forget(kept, used)
                kept = used
        sums[4:] = _magnitudes(highest, lowest)
        dd, rr, dr = sums[0], sums[1], sums[3]
        sums[2], sums[3] = rr + 2 * dr + dd, rr + dr  # xx and xr


def _settled_by_float32(sums: F64) -> NDArray[np.bool_]:
    """Rows whose float32 sums are as good as can be: finite, ordinary in size, small in error."""
    dd, rr = sums[0], sums[1]
    least, most = _SAFE
    ordinary = (rr > least) & (rr < most) & (4 * dd < rr) & ((dd > least) | (sums[4] == 0))
    zero = (sums[4] == 0) & (sums[5] == 0)
    found: NDArray[np.bool_] = np.isfinite(sums).all(axis=0) & (ordinary | zero)
    return found


def largest(test: F32, reference: F32, shape: tuple[int, ...], limit: int) -> list[Worst]:
    """The `limit` largest |x - r|, largest first, ties by index. Finite on one side only counts as infinitely far."""
    x, r = test.reshape(-1), reference.reshape(-1)
    kept: list[tuple[float, int]] = []  # (|difference|, flat index)
    for start in range(0, x.size, BLOCK):
        part = _absolute(x[start : start + BLOCK], r[start : start + BLOCK])
        floor = kept[-1][0] if len(kept) >= limit else -1.0
        better = np.flatnonzero(part > floor)
        if better.size > limit:
            cut = np.partition(part[better], -limit)[-limit]
            above, ties = better[part[better] > cut], better[part[better] == cut]
            better = np.concatenate((above, ties[: limit - above.size]))
        kept += [(float(part[i]), start + int(i)) for i in better]
        kept = sorted(kept, key=lambda item: (-item[0], item[1]))[:limit]
    return [Worst(_index(at, shape), float(x[at]), float(r[at]), float(x[at]) - float(r[at])) for _, at in kept]


@dataclass(frozen=True, slots=True)
class Spread:
    """How the differences are distributed over a whole tensor. `sampled`: every how many-th element was looked at."""

    mean_abs: float
    median_abs: float
    p99_abs: float
    shift: float  # mean of x - r
    centred_cosine: float  # of x and r less their means: blind to a shift, which softmax is too
    ulp_median: float  # distance in units of the last place of float32
    ulp_p99: float
    reference_std: float
    sampled: int


def spread(test: F32, reference: F32, most: int = 1 << 24) -> Spread:
    """Distribution of the differences. Looks at no more than `most` elements, evenly spread; finite ones only."""
    step = -(-test.size // most)
    x, r = test.reshape(-1)[::step], reference.reshape(-1)[::step]
    both = np.isfinite(x) & np.isfinite(r)
    x64, r64 = x[both].astype(np.float64), r[both].astype(np.float64)
    if not x64.size:
        nan = float("nan")
        return Spread(nan, nan, nan, nan, nan, nan, nan, nan, step)
    difference = x64 - r64
    size = np.abs(difference)
    median, p99 = np.quantile(size, [0.5, 0.99])
    ulp_median, ulp_p99 = np.quantile(ulps(x[both], r[both]), [0.5, 0.99])
    return Spread(
        float(size.mean()),
        float(median),
        float(p99),
        float(difference.mean()),
        _cosine(x64 - x64.mean(), r64 - r64.mean()),
        float(ulp_median),
        float(ulp_p99),
        float(r64.std()),
        step,
    )


def ulps(test: F32, reference: F32) -> NDArray[np.int64]:
    """Distance of each pair of float32 numbers, counted in representable numbers between them; +0 and -0 are one."""

    def order(values: F32) -> NDArray[np.int64]:
        bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    apart: NDArray[np.int64] = np.abs(order(test) - order(reference))
    return apart


def without_massive(test: F32, reference: F32, share: float = 0.001) -> float:
    """Worst rel_l2 after dropping the channels of largest reference magnitude (at least one, `share` of them).

    One massive channel can make unrelated residual vectors look alike (arXiv 2503.22329); this looks at the others.
    """
    magnitude = np.abs(reference).max(axis=0)
    dropped = max(1, round(share * magnitude.size))
    if dropped >= magnitude.size:
        return float("nan")
    kept = np.sort(np.argpartition(magnitude, -dropped)[:-dropped])
    x, r = test[:, kept], reference[:, kept]
    return float(settled(x, r, row_sums(x, r)).rel_l2.max())


@dataclass(frozen=True, slots=True)
class LogitMetrics:
    """What a sampler sees of a difference. `kl` is of the reference's distribution against the test's, in nats."""

    kl: float
    max_logprob: float  # max |difference of log probabilities| over the reference's top k
    centred_cosine: float
    top1_equal: bool
    top1_reference: int
    top1_test: int
    margin: float  # the reference's first logit less its second
    jaccard: float  # overlap of the two top-k sets
    k: int


def compare_logits(test: F32, reference: F32, k: int = 5) -> LogitMetrics:
    """Compare two vectors of logits (V,) as distributions. Raises ShapeError. Logits with NaN give NaN figures."""
    if test.shape != reference.shape or test.ndim != 1:
        raise ShapeError(f"expected two vectors of logits of one length, got {test.shape} and {reference.shape}")
    k = min(k, test.size)
    x, r = test.astype(np.float64), reference.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(r).all()):
        nan = float("nan")
        return LogitMetrics(nan, nan, nan, False, _argmax(r), _argmax(x), nan, nan, k)
    p, q = log_softmax(r), log_softmax(x)
    first, second = top(r, k), top(x, k)
    union = np.union1d(first, second).size
    return LogitMetrics(
        kl=float(np.sum(np.exp(p) * (p - q))),
        max_logprob=float(np.abs(p - q)[first].max()),
        centred_cosine=_cosine(x - x.mean(), r - r.mean()),
        top1_equal=bool(first[0] == second[0]),
        top1_reference=int(first[0]),
        top1_test=int(second[0]),
        margin=float(r[first[0]] - r[first[1]]) if k > 1 else float("inf"),
        jaccard=(2 * k - union) / union,
        k=k,
    )


def log_softmax(logits: F64) -> F64:
    """Log probabilities of float64 logits along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: F64 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def top(logits: F64, k: int) -> NDArray[np.intp]:
    """Indices of the k largest, largest first; equal ones by index, as argmax has it; NaN last."""
    least = np.partition(-logits, k - 1)[k - 1] if 0 < k < logits.size else np.nan  # a vocabulary is not sorted for k
    if np.isnan(least):
        return np.argsort(-logits, kind="stable")[:k]
    likely = np.flatnonzero(-logits <= least)
    return likely[np.argsort(-logits[likely], kind="stable")][:k]


def _summary(x: F32, r: F32, shape: tuple[int, ...], rows: Rows) -> TensorMetrics:
    rel_l2, linf_rel, lost = rows.rel_l2, rows.linf_rel, rows.cosine_loss
    at, linf_at, cosine_at = int(np.argmax(rel_l2)), int(np.argmax(linf_rel)), int(np.argmax(lost))
    elements = int(rows.compared.sum())
    same = not rows.dd.any() and not rows.nonfinite.disagree and np.array_equal(x.view(np.uint32), r.view(np.uint32))
    return TensorMetrics(
        shape=shape,
        positions=x.shape[0],
        identical=same,
        worst=_worst(x, r, shape, rows) if elements else None,
        rms=float(np.sqrt(rows.dd.sum() / elements)) if elements else float("nan"),
        rel_l2=float(rel_l2[at]),
        rel_l2_at=at,
        linf_rel=float(linf_rel[linf_at]),
        linf_rel_at=linf_at,
        cosine_loss=float(lost[cosine_at]),
        cosine_at=cosine_at,
        scale=float(rows.scale[at]),
        nonfinite=rows.nonfinite,
        rows=rows,
    )


def _worst(x: F32, r: F32, shape: tuple[int, ...], rows: Rows) -> Worst:
    row = int(np.argmax(np.where(rows.compared > 0, rows.max_abs, -1.0)))
    here, there = x[row].astype(np.float64), r[row].astype(np.float64)
    with np.errstate(invalid="ignore"):
        size = np.abs(here - there)
    size[~_ordinary(x[row], r[row])] = -1.0
    column = int(np.argmax(size))
    return Worst(
        _index(row * x.shape[1] + column, shape), float(here[column]), float(there[column]),
        float(here[column] - there[column]),
    )  # fmt: skip


def _blocks(count: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of blocks of at most BLOCK elements, in the order of the file."""
    if width > BLOCK:
        for row in range(count):
            for column in range(0, width, BLOCK):
                yield slice(row, row + 1), slice(column, min(column + BLOCK, width))
        return
    tall = max(1, BLOCK // width)
    for first in range(0, count, tall):
        yield slice(first, min(first + tall, count)), slice(0, width)


def _add_dots(sums: F64, difference: F32, r: F32) -> None:
    """Add dd, rr and dr of a block to rows 0, 1 and 3 of `sums` (6, rows of the block)."""
    for start in range(0, r.shape[1], _TERMS):
        d, part = difference[:, start : start + _TERMS], r[:, start : start + _TERMS]
        sums[0] += _dot(d, d)
        sums[1] += _dot(part, part)
        sums[3] += _dot(d, part)


def _magnitudes(highest: NDArray[np.int32], lowest: NDArray[np.uint32]) -> F32:
    """The largest |v| of floats from the largest of their bits, signed and unsigned; NaN where there is one.

    Integers are compared faster than floats. As signed ones the largest positive float is the largest, as unsigned ones
    the most negative float is, where there is one; the sign bit apart, both are ordered as the magnitudes are.
    """
    negative = (lowest & np.uint32(0x7FFFFFFF)).astype(np.int32)
    magnitude: F32 = np.maximum(np.maximum(highest, 0), negative).view(np.float32)
    return magnitude


def _dot(a: NDArray[Float], b: NDArray[Float]) -> NDArray[Float]:
    """Dot products of rows."""
    if hasattr(np, "vecdot"):  # numpy 2; twice as fast
        result: NDArray[Float] = np.vecdot(a, b)
        return result
    summed: NDArray[Float] = np.einsum("ij,ij->i", a, b)
    return summed


def _exact_rows(
    sums: F64, test: F32, reference: F32, which: NDArray[np.intp], forget: Callable[[int, int], None] | None
) -> tuple[NDArray[np.int64], NonFinite]:
    """Fill `sums` (6, rows) of the rows `which` in float64.

    Returns how many elements of each row were compared, (rows,), and what was not finite in all of them.
    """
    count, width = test.shape
    compared, odd = np.full(count, width, np.int64), NonFinite()
    tall = max(1, BLOCK // (2 * width))
    for start in range(0, which.size, tall):
        group = which[start : start + tall]
        alone = group
        if width <= BLOCK and group.size > 1:
            sums[:, group], plain = _exact_group(test[group], reference[group])
            alone = group[~plain]
        for row in alone:
            sums[:, row], seen, compared[row] = _exact_row(test[row], reference[row])
            odd = NonFinite(*(a + b for a, b in zip(odd, seen, strict=True)))
        if forget is not None:
            for row in group:
                forget(int(row) * width, (int(row) + 1) * width)
    return compared, odd


def _exact_group(x: F32, r: F32) -> tuple[F64, NDArray[np.bool_]]:
    """The six sums of each row in float64, (6, rows), and which rows they hold for: those without anything odd."""
    with np.errstate(all="ignore"):
        x64, r64 = x.astype(np.float64), r.astype(np.float64)
        xx, rr, xr = _dot(x64, x64), _dot(r64, r64), _dot(x64, r64)
        np.subtract(x64, r64, out=x64)
        dd = _dot(x64, x64)
        most = [np.maximum(values.max(axis=1), -values.min(axis=1)) for values in (x64, r64)]
    return np.stack((dd, rr, xx, xr, *most)), xx + rr < _ODD


def _exact_row(x: F32, r: F32) -> tuple[F64, NonFinite, int]:
    """The six sums of a row in float64 over what is finite on both sides, what is not, and how many elements are."""
    sums, odd, compared = np.zeros(6), NonFinite(), 0
    for start in range(0, x.size, BLOCK):
        part, seen, count = _exact_block(x[start : start + BLOCK], r[start : start + BLOCK])
        sums[:4] += part[:4]
        np.maximum(sums[4:], part[4:], out=sums[4:])
        odd = NonFinite(*(a + b for a, b in zip(odd, seen, strict=True)))
        compared += count
    return sums, odd, compared


def _exact_block(x: F32, r: F32) -> tuple[F64, NonFinite, int]:
    with np.errstate(all="ignore"):
        x64, r64 = x.astype(np.float64), r.astype(np.float64)
        xx, rr = _inner(x64, x64), _inner(r64, r64)
    odd = NonFinite()
    if not xx + rr < _ODD:
        both = _ordinary(x, r)
        odd = NonFinite(
            int(np.isnan(x).sum()),
            int(np.isnan(r).sum()),
            int(_masked(x).sum()),
            int(_masked(r).sum()),
            int((~_agreed(x, r))[~both].sum()),
        )
        x64, r64 = x64[both], r64[both]
        xx, rr = _inner(x64, x64), _inner(r64, r64)
    difference = x64 - r64
    sums = [_inner(difference, difference), rr, xx, _inner(x64, r64), _most(difference), _most(r64)]
    return np.array(sums), odd, x64.size


def _most(values: F64) -> float:
    return float(np.abs(values).max()) if values.size else 0.0


def _masked(values: F32) -> NDArray[np.bool_]:
    """Infinite, or the mask constant that stands for it."""
    result: NDArray[np.bool_] = np.abs(values) >= MASK
    return result


def _ordinary(x: F32, r: F32) -> NDArray[np.bool_]:
    """Finite and no mask on both sides."""
    return np.isfinite(x) & np.isfinite(r) & ~_masked(x) & ~_masked(r)


def _agreed(x: F32, r: F32) -> NDArray[np.bool_]:
    """NaN on both sides, or masked on both sides with one sign."""
    agreed: NDArray[np.bool_] = (np.isnan(x) & np.isnan(r)) | (
        _masked(x) & _masked(r) & (np.signbit(x) == np.signbit(r))
    )
    return agreed


def _absolute(x: F32, r: F32) -> F64:
    """|x - r| in float64; infinite where the two sides are not finite in the same way, zero where they agree."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.abs(x.astype(np.float64) - r.astype(np.float64))
    odd = ~_ordinary(x, r)
    if odd.any():
        size[odd] = np.where(_agreed(x, r)[odd], 0.0, np.inf)
    return size


def _ratio(over: F64, under: F64) -> F64:
    """over / under; 0 where both are 0, infinite where only `under` is."""
    quotient = np.divide(over, under, out=np.full_like(over, np.inf), where=under > 0)
    return np.where((over == 0) & (under == 0), 0.0, quotient)


def _cosine(a: F64, b: F64) -> float:
    lengths = float(np.sqrt(_inner(a, a)) * np.sqrt(_inner(b, b)))
    return _inner(a, b) / lengths if lengths else float("nan")


def _inner(a: F64, b: F64) -> float:
    """<a, b> in this thread: a BLAS would take all of them, and keep them spinning while somebody else computes."""
    return float(np.einsum("i,i->", a, b))


def _argmax(values: F64) -> int:
    """argmax that does not let a NaN win; -1 when all are NaN."""
    return int(np.nanargmax(values)) if not np.isnan(values).all() else -1


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))
