"""One table of tolerances; what breaks a bound, what never passes, and which row judges what."""

from __future__ import annotations

import numpy as np
import pytest

from pv.compare.metrics import compare, compare_logits
from pv.compare.thresholds import (
    THRESHOLDS,
    Kind,
    Side,
    UnmatchedError,
    breaches,
    breaches_of_rules,
    kind_between,
    parse_rule,
)
from pv.model.stages import Stage

RNG = np.random.default_rng(0)
REFERENCE = RNG.standard_normal((6, 512)).astype(np.float32)


def noisy(size: float, seed: int = 1) -> np.ndarray:
    return REFERENCE + (size * np.random.default_rng(seed).standard_normal(REFERENCE.shape)).astype(np.float32)


def names(kind, stage, test, reference=REFERENCE, *, logits=None, local=False):
    return [b.figure for b in breaches(THRESHOLDS[kind], stage, compare(test, reference), logits, local=local)]


def test_every_kind_has_its_row_and_no_row_is_looser_than_its_start_value():
    assert list(THRESHOLDS) == list(Kind)
    assert all(row.kind is kind for kind, row in THRESHOLDS.items())
    ceilings = {
        Kind.SHADOW: (5e-6, 1e-4, 1e-3),
        Kind.ORACLE: (5e-6, 1e-4, 1e-3),
        Kind.CUDA: (1e-5, 1e-3, 5e-3),
        Kind.WGPU: (1e-5, 3e-3, 1e-2),
        Kind.QUANT_KERNEL: (1e-5, 1e-3, 5e-3),
        Kind.QUANT_SAME: (1e-5, 0.1, 0.3),
        Kind.BATCH: (1e-5, 1e-3, 5e-3),
    }
    for kind, (local, cumulative, logits) in ceilings.items():
        row = THRESHOLDS[kind]
        assert (row.local.rel_l2, row.cumulative.rel_l2, row.logits.max_abs) <= (local, cumulative, logits)


def test_tf32_sized_error_fails_locally_and_honest_float32_passes():
    assert names(Kind.CUDA, Stage.ATTN_OUT, noisy(3e-4), local=True) == ["rel_l2"]
    assert names(Kind.CUDA, Stage.ATTN_OUT, noisy(1e-6), local=True) == []


def test_a_cosine_of_099_is_far_from_parity():
    test = noisy(0.14)
    assert compare(test, REFERENCE).cosine == pytest.approx(0.99, abs=3e-3)
    for kind in (Kind.SHADOW, Kind.ORACLE, Kind.CUDA, Kind.WGPU, Kind.RERUN, Kind.BATCH, Kind.QUANT_KERNEL):
        assert names(kind, Stage.ATTN_OUT, test)


def test_wgpu_may_err_more_where_it_takes_exponentials_and_only_there():
    assert names(Kind.WGPU, Stage.FFN_SILU, noisy(5e-5), local=True) == []
    assert names(Kind.WGPU, Stage.Q_POST_ROPE, noisy(5e-5), local=True) == ["rel_l2"]
    assert names(Kind.CUDA, Stage.FFN_SILU, noisy(5e-5), local=True) == ["rel_l2"]


def test_nan_fails_every_row_even_where_both_have_it():
    test = REFERENCE.copy()
    test[2, 5] = np.nan
    for kind in Kind:
        assert names(kind, Stage.ATTN_OUT, test)
        both = names(kind, Stage.ATTN_OUT, test, test.copy())
        assert both == ([] if kind is Kind.RERUN else ["NaN"])  # bits are all that a rerun compares


def test_a_mask_of_another_shape_fails_and_an_equal_one_does_not():
    reference, test = REFERENCE.copy(), REFERENCE.copy()
    reference[0, 1:] = test[0, 1:] = -np.inf
    assert names(Kind.ORACLE, Stage.ATTN_SCORES, test, reference) == []
    test[0, 1] = 0
    assert names(Kind.ORACLE, Stage.ATTN_SCORES, test, reference) == ["masks that disagree"]


def logits_of(test, reference):
    return breaches(THRESHOLDS[Kind.CUDA], Stage.LM_HEAD, compare(test, reference), compare_logits(test, reference))


def test_logits_scaled_by_five_percent_are_caught():
    reference = 3 * RNG.standard_normal(1000).astype(np.float32)
    assert {b.figure for b in logits_of(np.float32(1.05) * reference, reference)} == {"max_abs", "kl"}
    assert logits_of(reference, reference.copy()) == ()


def test_figures_that_are_no_numbers_fail():
    reference = np.linspace(0, 1, 50).astype(np.float32)
    test = reference.copy()
    test[7] = np.nan
    assert {"NaN", "kl"} <= {b.figure for b in logits_of(test, reference)}


def test_another_first_token_needs_a_near_tie():
    reference = np.zeros(100, np.float32)
    reference[[3, 4]] = 5, np.float32(4.9999)
    test = reference.copy()
    test[4] = np.float32(5.0001)
    assert logits_of(test, reference) == ()
    far = reference.copy()
    far[4] = 5.2
    assert "max_abs" in {b.figure for b in logits_of(far, reference)}
    reference[4], far[4] = 4.0, 5.2
    assert "margin of another first token" in {b.figure for b in logits_of(far, reference)}


CPU = Side("pv", "cpu", "float32", False, "a")


@pytest.mark.parametrize(
    ("reference", "test", "kind"),
    [
        (CPU, CPU, Kind.RERUN),
        (Side("hf", "cpu", "float32", False, "a"), CPU, Kind.ORACLE),
        (CPU, Side("pv", "cuda", "float32", False, "a"), Kind.CUDA),
        (CPU, Side("pv", "wgpu", "float32", False, "a"), Kind.WGPU),
        (Side("pv", "cuda", "float32", False, "a"), Side("pv", "wgpu", "float32", False, "a"), Kind.WGPU),
        (CPU, Side("pv", "cuda", "bfloat16", False, "a"), Kind.HALF),
        (Side("pv", "cpu", "float64", False, "a"), CPU, Kind.SHADOW),
        (CPU, Side("pv", "cpu", "float32", True, "b"), Kind.QUANT_LOSS),
        (Side("pv", "cpu", "float32", True, "b"), CPU, Kind.QUANT_LOSS),
        (Side("pv", "cpu", "float32", True, "b"), Side("pv", "cuda", "float32", True, "b"), Kind.QUANT_SAME),
        (Side("pv", "wgpu", "float32", True, "b"), Side("pv", "cuda", "float32", True, "b"), Kind.QUANT_SAME),
        (Side("pv", "cpu", "float32", True, "b"), Side("pv", "cpu", "float32", True, "b"), Kind.RERUN),
    ],
)
def test_the_row_follows_from_the_two_sides(reference, test, kind):
    assert kind_between(reference, test) is kind


def test_rules_match_whole_names_in_order_and_a_forgotten_tensor_is_an_error():
    rules = [parse_rule("layer-.*/ffn_gate=rel_l2<=1e-4,max_abs<=0.5"), parse_rule("layer-0/.*=cosine_loss<=1e-6")]
    found = compare(noisy(1e-3), REFERENCE)
    assert [b.figure for b in breaches_of_rules(rules, "layer-3/ffn_gate", found)] == ["rel_l2"]
    assert breaches_of_rules(rules, "layer-0/attn_out", found) == ()
    with pytest.raises(UnmatchedError, match="no tolerance matches 'layer-1/attn_out'"):
        breaches_of_rules(rules, "layer-1/attn_out", found)
    for near in ("layer-0", "layer-3/ffn_gate/x", "x/layer-3/ffn_gate"):
        with pytest.raises(UnmatchedError):
            breaches_of_rules(rules, near, found)


def test_a_rule_may_hold_an_equals_sign_in_its_pattern():
    assert parse_rule("a=b=rel_l2<=1").pattern.pattern == "a=b"


@pytest.mark.parametrize(
    "text", ["x", "x=foo<=1", "=rel_l2<=1", "x=rel_l2<=", "x=rel_l2<=-1", "x=rel_l2<=1,y", "[=rel_l2<=1"]
)
def test_an_unreadable_rule_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        parse_rule(text)


def test_a_breach_is_a_sentence():
    (breach,) = breaches(THRESHOLDS[Kind.CUDA], Stage.ATTN_OUT, compare(noisy(0.5), REFERENCE))
    assert str(breach).startswith("rel_l2 0.5")
    assert str(breach).endswith("expected <= 0.001")
