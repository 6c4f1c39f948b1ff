"""The judgement alone, on made-up observations: who is guilty, who inherits, what is noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pv.compare.bisect import Local, Observation, Verdict, bisect, precision_name
from pv.compare.graph import Node, nodes
from pv.compare.metrics import compare
from pv.compare.thresholds import THRESHOLDS, Kind
from pv.model.stages import Stage

LAYERS = 4
RNG = np.random.default_rng(0)
RIGHT = RNG.standard_normal((5, 200)).astype(np.float32)
NOISE = RNG.standard_normal((5, 200)).astype(np.float32)
NOISE -= (NOISE * RIGHT).sum() / (RIGHT * RIGHT).sum() * RIGHT  # of no preferred direction
NOISE *= np.linalg.norm(RIGHT, axis=1, keepdims=True) / np.linalg.norm(NOISE, axis=1, keepdims=True)


def off_by(size):
    """Metrics of a tensor that is off by `size` (relative L2), without structure."""
    return compare(RIGHT + np.float32(size) * NOISE, RIGHT)


CLEAN = off_by(0.0)
PRODUCTS = {Stage.QKV_MATMUL, Stage.ATTN_OUT, Stage.FFN_GATE, Stage.FFN_UP, Stage.FFN_OUT}


def judge(total=None, local=None, kind=Kind.CUDA, without=()):
    """Bisect a model of four layers. `total`, `local`: node -> metrics, or a function of the node."""
    total, local = total or (lambda _: CLEAN), local or (lambda _: CLEAN)
    observations = [
        Observation(n, total(n), None if n.stage in without else Local(local(n), 0.2)) for n in nodes(LAYERS)
    ]
    return bisect(observations, THRESHOLDS[kind], LAYERS)


def at(*places, size=0.3, rest=0.0):
    return lambda node: off_by(size if node in places else rest)


def test_identical_and_agreeing():
    assert judge().verdict is Verdict.IDENTICAL
    found = judge(total=lambda _: off_by(1e-6), local=lambda _: off_by(2e-7))
    assert found.verdict is Verdict.AGREE
    assert found.first_crossing is None
    assert found.first_different == Node(Stage.EMBEDDING, 0)


def test_a_stage_that_is_off_by_itself_is_guilty_and_its_heirs_are_not():
    guilty = Node(Stage.ATTN_SOFTMAX, 2)
    order = nodes(LAYERS)
    later = order[order.index(guilty) :]
    found = judge(total=at(*later), local=at(guilty))
    assert found.verdict is Verdict.BUG
    assert found.guilty == (guilty,)
    assert found.first_crossing == found.largest_local == found.frontier[0].node == guilty
    assert (found.frontier[0].guilty, found.frontier[0].incoming) == (True, 0.0)
    assert len(found.frontier) == 1


def test_the_frontier_may_be_innocent():
    """Both parents are just within the bound, the child just beyond: it has inherited, with its gain."""
    child = Node(Stage.ATTN_SCORES, 1)
    parents = (Node(Stage.Q_POST_ROPE, 1), Node(Stage.K_POST_ROPE, 1))
    found = judge(total=lambda n: off_by(4e-3 if n == child else 8e-4 if n in parents else 0))
    (suspect,) = found.frontier
    assert (suspect.node, suspect.guilty) == (child, False)
    assert suspect.gain == pytest.approx(5, rel=1e-3)
    assert found.verdict is Verdict.NOISE  # amplified rounding: nobody is off alone
    assert found.noise is None


def test_an_error_that_shrinks_on_the_way_does_not_hide_the_guilty():
    guilty = Node(Stage.QKV_MATMUL, 0)
    found = judge(total=at(guilty, size=2e-3), local=at(guilty, size=2e-3))
    assert found.guilty == (guilty,)


def test_a_local_error_below_the_total_bound_is_still_guilty():
    guilty = Node(Stage.FFN_NORM, 3)
    found = judge(total=lambda _: off_by(1e-4), local=at(guilty, size=5e-5))
    assert found.verdict is Verdict.BUG
    assert found.guilty == (guilty,)
    assert found.first_crossing is None


@pytest.mark.parametrize("size", [3e-4, 2e-3, 5e-3, 0.07, 0.12])
def test_products_that_err_alike_are_a_precision(size):
    found = judge(total=lambda _: off_by(2 * size), local=lambda n: off_by(size if n.stage in PRODUCTS else 1e-7))
    assert found.verdict is Verdict.NOISE
    assert found.noise == pytest.approx(size, rel=1e-3)
    assert found.guilty == ()


def test_half_precision_rounds_everything():
    found = judge(total=lambda _: off_by(4e-3), local=lambda _: off_by(2e-3), kind=Kind.HALF)
    assert found.verdict is Verdict.NOISE


STANDING_OUT = [
    (Node(Stage.QKV_BIAS, 1), lambda: off_by(0.1)),  # an exact operator has no business to err
    (Node(Stage.FFN_GATE, 2), lambda: off_by(0.07 * 6)),  # six times its peers
    (Node(Stage.ATTN_OUT, 1), lambda: compare(RIGHT * np.float32(1.08), RIGHT)),  # a factor, no larger than the noise
]


@pytest.mark.parametrize(("node", "metrics"), STANDING_OUT, ids=["exact operator", "larger than peers", "a factor"])
def test_a_bug_stands_out_of_the_noise(node, metrics):
    def local(n):
        return metrics() if n == node else off_by(0.07 if n.stage in PRODUCTS else 1e-7)

    found = judge(total=lambda _: off_by(0.2), local=local)
    assert found.verdict is Verdict.BUG
    assert found.guilty == (node,)
    assert found.noise == pytest.approx(0.07, rel=1e-3)


OUTLIERS = {
    Node(Stage.FFN_OUT, 0): 0.028,
    Node(Stage.FFN_OUT, 1): 0.032,
}  # measured: int8 activations of a trained model


@pytest.mark.parametrize(
    ("bug", "first"),
    [
        ({Node(Stage.FFN_GATE, 2): 7.0}, Node(Stage.FFN_GATE, 2)),
        ({Node(Stage.FFN_UP, 1): 0.5, Node(Stage.FFN_UP, 3): 0.8}, Node(Stage.FFN_UP, 1)),  # the earlier of two alike
        ({Node(Stage.FFN_NORM, 2): 1e-3}, Node(Stage.FFN_NORM, 2)),  # little, and exact but for rounding
        ({}, Node(Stage.FFN_OUT, 0)),
    ],
)
def test_out_of_a_noise_the_first_to_look_at_is_what_stands_out_most(bug, first):
    sizes = OUTLIERS | bug
    found = judge(local=lambda n: off_by(sizes.get(n, 0.0044 if n.stage in PRODUCTS else 1e-7)), kind=Kind.QUANT_LOSS)
    assert found.guilty[0] == first
    assert set(found.guilty) == set(sizes)
    order = nodes(LAYERS)
    rest = [order.index(node) for node in found.guilty[1:]]
    assert rest == sorted(rest)


def test_other_weights_are_no_noise_and_the_first_stage_comes_first():
    found = judge(local=lambda n: off_by(1.4 if n.stage in PRODUCTS | {Stage.EMBEDDING, Stage.QKV_BIAS} else 1e-7))
    assert found.guilty[0] == Node(Stage.EMBEDDING, 0)


def test_one_wrong_block_stands_out_of_the_noise():
    node = Node(Stage.FFN_UP, 0)
    observations = [
        Observation(n, off_by(0.2), Local(off_by(0.07 if n.stage in PRODUCTS else 1e-7), 0.95 if n == node else 0.2))
        for n in nodes(LAYERS)
    ]
    assert bisect(observations, THRESHOLDS[Kind.CUDA], LAYERS).guilty == (node,)


def test_truncation_points_along_the_tensor_and_is_still_noise():
    """Operands cut to TF32 make every product smaller by as much as it errs: no bug, though it looks like a factor."""
    small = compare(RIGHT * np.float32(1 - 1e-4), RIGHT)
    found = judge(total=lambda _: small, local=lambda n: small if n.stage in PRODUCTS else off_by(1e-7))
    assert found.verdict is Verdict.NOISE


def test_one_kind_of_product_far_noisier_than_the_others_is_no_precision():
    """What 8-bit activations with one massive channel do to the product that reads it."""
    found = judge(local=lambda n: off_by(0.03 if n.stage is Stage.FFN_OUT else 0.004 if n.stage in PRODUCTS else 1e-7))
    assert found.verdict is Verdict.BUG
    assert {n.stage for n in found.guilty} == {Stage.FFN_OUT}


def test_one_kind_of_product_wrong_in_every_layer_is_no_precision():
    found = judge(local=lambda n: off_by(0.07 if n.stage is Stage.FFN_GATE else 1e-7))
    assert found.verdict is Verdict.BUG
    assert found.guilty == tuple(Node(Stage.FFN_GATE, i) for i in range(LAYERS))


def test_four_kinds_of_product_wrong_and_one_right_is_no_precision():
    found = judge(local=lambda n: off_by(0.07 if n.stage in PRODUCTS - {Stage.ATTN_OUT} else 1e-7))
    assert found.verdict is Verdict.BUG
    assert len(found.guilty) == 4 * LAYERS


def test_without_a_look_at_stages_alone_nothing_is_decided():
    order = nodes(LAYERS)
    later = order[order.index(Node(Stage.ATTN_OUT, 1)) :]
    found = judge(total=at(*later), without=set(Stage))
    assert found.verdict is Verdict.UNDECIDED
    assert [s.node for s in found.frontier] == [Node(Stage.ATTN_OUT, 1)]
    assert found.frontier[0].guilty is None
    assert (found.looked_at, found.locally) == (17 * LAYERS + 3, 0)


def test_nan_is_guilty_where_it_starts():
    odd = RIGHT.copy()
    odd[1, 1] = np.nan
    broken = compare(odd, RIGHT)
    start = Node(Stage.FFN_SILU, 1)
    order = nodes(LAYERS)
    later = order[order.index(start) :]
    found = judge(total=lambda n: broken if n in later else CLEAN, local=lambda n: broken if n == start else CLEAN)
    assert found.first_not_finite == found.guilty[0] == start
    assert found.verdict is Verdict.BUG


def test_a_rerun_that_differs_by_rounding_is_no_bug():
    found = judge(total=lambda _: off_by(1e-6), local=lambda _: off_by(2e-7), kind=Kind.RERUN)
    assert found.verdict is Verdict.AGREE
    assert found.first_different is not None


def test_several_frontiers_are_all_named():
    two = (Node(Stage.Q_POST_ROPE, 0), Node(Stage.FFN_UP, 0))
    found = judge(total=at(*two), local=at(*two))
    assert [s.node for s in found.frontier] == list(two)


def test_sizes_have_names():
    names = [precision_name(x) for x in (1e-7, 3e-4, 2e-3, 5e-3, 0.03, 0.07, 0.25)]
    assert names == ["float32", "TF32 or float16", "bfloat16", "8-bit", "5- or 6-bit", "4-bit", "2- or 3-bit"]


def test_the_reference_may_be_the_guilty_side():
    node = Node(Stage.FFN_GATE, 0)
    observations = [
        Observation(n, CLEAN, Local(off_by(0.1 if n == node else 0), 0.2, "reference" if n == node else "test"))
        for n in nodes(LAYERS)
    ]
    found = bisect(observations, THRESHOLDS[Kind.ORACLE], LAYERS)
    assert found.guilty == (node,)
    assert replace(found, guilty=()).verdict is Verdict.BUG
