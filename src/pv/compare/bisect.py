"""What was observed at every stage of two forwards -> which stage is guilty, or that it is precision and nobody is.

The total error of a stage says little: it was inherited, amplified or damped on the way. So each stage is also judged
*locally*: given equal inputs, how far is it off. A stage that is off locally is guilty; a stage that is off only in
total has inherited its error, with a gain. Errors need not grow along the way, so every stage is looked at.

Reduced precision is off locally too, but everywhere alike: in every product with a weight of every layer, by similar
amounts, without structure. That is told from a bug, which stands out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from pv.compare.graph import Node, nearest
from pv.compare.metrics import TensorMetrics
from pv.compare.thresholds import Row
from pv.model.stages import Stage

# Products with a weight matrix; the two at the ends are often stored in another precision than the rest.
PRODUCTS = frozenset({Stage.QKV_MATMUL, Stage.ATTN_OUT, Stage.FFN_GATE, Stage.FFN_UP, Stage.FFN_OUT})
ENDS = frozenset({Stage.EMBEDDING, Stage.LM_HEAD})

LOCAL = 1e-5  # of rows that state no local bound: ten times an honest float32 product
TOTAL = 1e-3  # of rows that state no cumulative bound
SPREAD = 0.7  # share of the products that must be off for their error to be a precision
LARGEST_NOISE = 0.35  # relative L2 of a product; two bits a weight stay below it
PEER = 4.0  # times the median of the same stage in other layers, or of all products: more than that stands out
# A factor stands out of noise when it explains nearly all of the error and is no rounding: truncation alone points
# along the tensor too, by as much as it errs.
ALONG = 0.7  # |scale - 1| over relative L2, of all positions together
ALONG_OF_FEW = 0.9  # the same where chance alone makes structure
FACTOR = 0.02  # |scale - 1|
CONCENTRATED = 0.6  # share of the error in the worst tenth of the channels
FEW = 4  # positions


class Verdict(StrEnum):
    """What a bisection came to."""

    IDENTICAL = "identical"  # every byte
    AGREE = "agree"  # within the row's bounds, nobody off locally
    NOISE = "noise"  # off, but everywhere alike: a precision, not a bug
    BUG = "bug"  # a stage is off by itself
    UNDECIDED = "undecided"  # off in total, and there was no way to look at stages by themselves


@dataclass(frozen=True, slots=True)
class Local:
    """A stage given equal inputs. `side`: which side is off by more; `concentration`: see `pv.compare.diagnose`."""

    metrics: TensorMetrics
    concentration: float
    side: str = "test"

    @property
    def rel_l2(self) -> float:
        """Relative L2 of the worst position; infinite when it is not finite on one side only."""
        return float("inf") if self.metrics.broken else self.metrics.rel_l2


@dataclass(frozen=True, slots=True)
class Observation:
    """One stage of two forwards.

    `total`: test against reference, each in its own whole forward. `local`: given equal inputs, None where unknown.
    `envelope`, `local_envelope`: relative L2 of float32's own rounding there, measured against float64.
    """

    node: Node
    total: TensorMetrics
    local: Local | None = None
    envelope: float | None = None
    local_envelope: float | None = None


@dataclass(frozen=True, slots=True)
class Suspect:
    """A failing stage whose inputs pass, and whether it is guilty: `local` error or inherited, with its gain."""

    node: Node
    total: float
    incoming: float  # largest total error among its inputs
    local: float | None
    guilty: bool | None  # None: could not be looked at by itself

    @property
    def gain(self) -> float:
        """Total error over the largest incoming one; infinite when nothing came in."""
        return self.total / self.incoming if self.incoming else float("inf")


@dataclass(frozen=True, slots=True)
class Finding:
    """The answers of a bisection. Nodes are None where there is no such stage."""

    verdict: Verdict
    guilty: tuple[Node, ...]  # the first is the one to look at; then in computation order
    frontier: tuple[Suspect, ...]
    first_different: Node | None  # of which any byte differs
    first_crossing: Node | None  # beyond the bound in total
    first_not_finite: Node | None
    largest_local: Node | None  # in units of its bound
    noise: float | None  # the relative L2 of products that is everywhere alike
    beyond: int  # stages beyond the row's bounds in total
    looked_at: int
    locally: int  # stages that could be looked at by themselves


def bisect(observations: Sequence[Observation], row: Row, layers: int) -> Finding:
    """Judge what was observed, in computation order, by a row of the table."""
    known = {o.node: o for o in observations}
    crossing = [o for o in observations if not _passes_in_total(o, row)]
    noise, off = _split_noise([o for o in observations if o.local is not None and _off_locally(o, row)], observations)
    off = _first_to_look_at(off, noise, row)
    locally = sum(o.local is not None for o in observations)
    return Finding(
        verdict=_verdict(observations, crossing, off, noise, locally),
        guilty=tuple(o.node for o in off),
        frontier=_frontier(crossing, known, row, layers),
        first_different=next((o.node for o in observations if not o.total.identical), None),
        first_crossing=crossing[0].node if crossing else None,
        first_not_finite=next((o.node for o in observations if _breaks_finiteness(o.total)), None),
        largest_local=_largest_local(observations, row),
        noise=noise,
        beyond=len(crossing),
        looked_at=len(observations),
        locally=locally,
    )


def local_bound(row: Row, stage: Stage) -> float:
    """The largest relative L2 of a stage given equal inputs."""
    if row.bitwise:
        return LOCAL / 2  # a rerun that is not bitwise equal is judged as float32 rounding
    bound = row.bounds(stage, local=True).rel_l2
    return LOCAL if bound is None else bound


def total_bound(row: Row) -> float:
    """The largest relative L2 of a stage in a whole forward."""
    if row.bitwise:
        return TOTAL / 10
    return TOTAL if row.cumulative.rel_l2 is None else row.cumulative.rel_l2


def precision_name(rel_l2: float) -> str:
    """What precision makes products err by so much (measured for normal data)."""
    for bound, name in (
        (1e-5, "float32"),
        (1e-3, "TF32 or float16"),
        (3.5e-3, "bfloat16"),
        (2e-2, "8-bit"),
        (4.5e-2, "5- or 6-bit"),
        (0.15, "4-bit"),
    ):
        if rel_l2 < bound:
            return name
    return "2- or 3-bit"


def _passes_in_total(observation: Observation, row: Row) -> bool:
    total = observation.total
    return not total.broken and (total.identical or total.rel_l2 <= total_bound(row))


def _breaks_finiteness(total: TensorMetrics) -> bool:
    odd = total.nonfinite
    return bool(odd.nan_test or odd.disagree)


def _off_locally(observation: Observation, row: Row) -> bool:
    local = observation.local
    return local is not None and local.rel_l2 > local_bound(row, observation.node.stage)


def _split_noise(
    off: Sequence[Observation], observations: Sequence[Observation]
) -> tuple[float | None, list[Observation]]:
    """The precision that stages share, None when they share none, and the stages that stand out of it."""
    products = [o for o in observations if o.local is not None and o.node.stage in PRODUCTS]
    off_products = [o for o in off if o.node.stage in PRODUCTS]
    if not products or len(off_products) < SPREAD * len(products) or not _every_kind(off_products, products):
        return None, list(off)
    level = median(_size(o) for o in off_products)
    others = [o for o in observations if o.local is not None and o.node.stage not in PRODUCTS | ENDS]
    off_others = [o for o in off if o.node.stage not in PRODUCTS | ENDS]
    # Half precision rounds every operator's result; reduced weights leave all but the products exact.
    rounds_all = bool(others) and len(off_others) >= SPREAD * len(others)
    alike = off_products + (off_others if rounds_all else [])
    peers = _medians(alike)
    return level, [o for o in off if _stands_out(o, level, peers, rounds_all=rounds_all)]


def _first_to_look_at(off: list[Observation], noise: float | None, row: Row) -> list[Observation]:
    """Without noise, or where it is too large to be one, the order of computation. Out of a noise some product always
    stands a little, where its input has outliers: there the earliest of those that stand out most comes first.
    """
    if noise is None or noise > LARGEST_NOISE or not off:
        return off
    excess = [_size(o) / (noise if o.node.stage in PRODUCTS | ENDS else local_bound(row, o.node.stage)) for o in off]
    first = next(o for o, much in zip(off, excess, strict=True) if much >= max(excess) / 2)
    return [first, *(o for o in off if o is not first)]


def _every_kind(off: Sequence[Observation], products: Sequence[Observation]) -> bool:
    """Whether every kind of product is off somewhere: a precision does not spare one."""
    return {o.node.stage for o in off} == {o.node.stage for o in products}


def _medians(observations: Iterable[Observation]) -> Mapping[Stage, float]:
    sizes: dict[Stage, list[float]] = {}
    for o in observations:
        sizes.setdefault(o.node.stage, []).append(_size(o))
    return {stage: median(values) for stage, values in sizes.items()}


def _stands_out(o: Observation, level: float, peers: Mapping[Stage, float], *, rounds_all: bool) -> bool:
    local, stage = o.local, o.node.stage
    if local is None:
        return False
    if stage not in PRODUCTS | ENDS and not rounds_all:
        return True
    size, peer = _size(o), peers.get(stage, level)
    most = PEER * min(level, peer) if stage in PRODUCTS | ENDS else PEER * min(peer, 2 * level)
    if size > LARGEST_NOISE or size > most:
        return True
    if stage not in PRODUCTS | ENDS:
        return False
    factor, along = _factor(local.metrics)
    few = local.metrics.positions < FEW
    if factor > FACTOR and along > (ALONG_OF_FEW if few else ALONG):
        return True
    return not few and local.concentration > CONCENTRATED


def _factor(metrics: TensorMetrics) -> tuple[float, float]:
    """|scale - 1| of all positions together, and how much of the error that explains: 0 to 1."""
    rows = metrics.rows
    size = float(rows.rr.sum())
    off = (float(rows.dd.sum()) / size) ** 0.5 if size else 0.0
    factor = abs(float(rows.xr.sum()) / size - 1) if size else 0.0
    return factor, factor / off if off else 0.0


def _size(o: Observation) -> float:
    return float("inf") if o.local is None else o.local.rel_l2


def _verdict(
    observations: Sequence[Observation],
    crossing: Sequence[Observation],
    off: Sequence[Observation],
    noise: float | None,
    locally: int,
) -> Verdict:
    if all(o.total.identical for o in observations) and not off:
        return Verdict.IDENTICAL
    if off:
        return Verdict.BUG
    if noise is not None:
        return Verdict.NOISE
    if not crossing:
        return Verdict.AGREE
    # Beyond the bound in total with no stage off by itself: rounding, amplified on the way.
    return Verdict.NOISE if locally == len(observations) else Verdict.UNDECIDED


def _frontier(
    crossing: Sequence[Observation], known: Mapping[Node, Observation], row: Row, layers: int
) -> tuple[Suspect, ...]:
    failing = {o.node for o in crossing}
    suspects = []
    for o in crossing:
        before = nearest(o.node, layers, known)
        if any(node in failing for node in before):
            continue
        incoming = max((known[node].total.rel_l2 for node in before), default=0.0)
        local = None if o.local is None else o.local.rel_l2
        total = float("inf") if o.total.broken else o.total.rel_l2
        suspects.append(Suspect(o.node, total, incoming, local, None if local is None else _off_locally(o, row)))
    return tuple(suspects)


def _largest_local(observations: Sequence[Observation], row: Row) -> Node | None:
    by_itself = [o for o in observations if o.local is not None and o.local.rel_l2 > 0]
    if not by_itself:
        return None
    return max(by_itself, key=lambda o: _size(o) / local_bound(row, o.node.stage)).node
