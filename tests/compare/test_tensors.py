"""Sets of tensors: every one named, nothing skipped in silence, nothing cut to fit."""

from __future__ import annotations

import numpy as np
import pytest

from pv.compare.metrics import ShapeError
from pv.compare.tensors import (
    TensorRef,
    diff_tensor,
    diff_tensors,
    held,
    judge_by,
    judge_by_rules,
    judge_identical,
    unpaired,
)
from pv.compare.thresholds import THRESHOLDS, Kind, UnmatchedError, parse_rule
from pv.model.stages import Stage

RNG = np.random.default_rng(0)
VALUES = RNG.standard_normal((4, 32)).astype(np.float32)


def side(**arrays):
    return {name: held(name, values) for name, values in arrays.items()}


def test_each_name_of_both_sides_has_its_finding_in_the_reference_order():
    reference, test = side(b=VALUES, a=VALUES, only=VALUES), side(a=VALUES, extra=VALUES, b=VALUES + 1)
    found = list(diff_tensors(reference, test, judge_identical))
    assert [(d.name, d.ok) for d in found] == [("b", False), ("a", True)]
    assert unpaired(reference, test) == (("only",), ("extra",))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (held("x", VALUES[:3]), "shape (4, 32) in the reference, (3, 32) in the test"),
        (held("x", VALUES, layer=2), "layer 1 in the reference, 2 in the test"),
        (held("x", VALUES, layer=1, step=3), "step None in the reference, 3 in the test"),
        (held("x", VALUES.reshape(32, 4), layer=1), "shape"),
    ],
)
def test_what_cannot_be_compared_is_an_error_that_names_it(other, says):
    reference = held("x", VALUES, layer=1)
    if other.layer is None:
        other = held("x", VALUES[:3], layer=1)
    with pytest.raises(ShapeError, match="cannot compare x with x") as refused:
        diff_tensor(reference, other, judge_identical)
    assert says in str(refused.value)


def test_no_stage_is_special_to_the_comparison():
    """The same arrays under any stage's name give the same figures; a name is a label."""
    found = {
        stage: diff_tensor(held("x", VALUES + 1, stage), held("x", VALUES, stage), judge_identical).metrics.rel_l2
        for stage in Stage
        if stage is not Stage.LM_HEAD
    }
    assert len(found) == 19
    assert len(set(found.values())) == 1


def test_lm_head_is_judged_as_logits():
    reference = 3 * RNG.standard_normal(500).astype(np.float32)
    row = THRESHOLDS[Kind.CUDA]
    scaled = diff_tensor(
        held("lm_head", reference, Stage.LM_HEAD),
        held("lm_head", reference * np.float32(1.05), Stage.LM_HEAD),
        judge_by(row),
    )
    assert {b.figure for b in scaled.breaches} == {"max_abs", "kl"}
    assert scaled.logits is not None
    assert scaled.logits.top1_equal


def test_details_and_the_largest_are_given_when_asked():
    test = VALUES.copy()
    test[2, 7] += 3
    found = diff_tensor(
        held("x", VALUES, Stage.EMBEDDING), held("x", test, Stage.EMBEDDING), judge_identical, largest=2, details=True
    )
    assert found.largest[0].at == (2, 7)
    assert found.largest[0].difference == pytest.approx(3, abs=1e-6)
    assert len(found.largest) == 2
    assert found.details is not None
    assert found.details.spread.median_abs == 0.0
    assert found.details.without_massive is not None
    plain = diff_tensor(held("x", VALUES), held("x", test), judge_identical)
    assert plain.largest == ()
    assert plain.details is None


def test_a_tensor_is_opened_once_and_let_go_of():
    opened, forgotten = [], []

    class Counting:
        values = VALUES.reshape(-1)

        def forget(self, first, last):
            forgotten.append((first, last))

    def ref():
        return TensorRef("x", None, None, None, VALUES.shape, lambda: opened.append(1) or Counting())

    diff_tensor(ref(), ref(), judge_identical)
    assert len(opened) == 2
    assert sorted({at for first, last in forgotten for at in range(first, last)}) == list(range(128))


def test_tolerances_by_name_have_no_gap():
    judge = judge_by_rules([parse_rule("a=max_abs<=1")])
    assert all(d.ok for d in diff_tensors(side(a=VALUES), side(a=VALUES + np.float32(0.5)), judge))
    with pytest.raises(UnmatchedError):
        list(diff_tensors(side(a=VALUES, b=VALUES), side(a=VALUES, b=VALUES), judge))
