"""Ten slots for each layer (contract trace-ffn-sub-block-v1), each with its sample, none with zeros for data."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pv.model.spec import SHAPES
from pv.model.stages import Stage
from pv.trace import statistics
from pv.trace.statistics import (
    SLOTS,
    AllTokens,
    LastToken,
    SampleError,
    StatisticsTap,
    all_tokens,
    collect,
    last_token,
    ratio,
)

NANO = SHAPES["nano"]
TOKENS = (5, 17, 42, 5, 200)
MATRICES = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 20)), elements=st.floats(-1e3, 1e3, width=32)
)


@given(MATRICES)
def test_figures_are_numpys_in_float64(values):
    wide = values.astype(np.float64)
    for found, sample in ((all_tokens(values), wide), (last_token(values), wide[-1:])):
        assert (found.count, found.positions) == (sample.size, sample.shape[0])
        assert found.mean == pytest.approx(sample.mean(), rel=1e-12, abs=1e-12)
        assert found.std == pytest.approx(sample.std(), rel=1e-12, abs=1e-12)
        assert (found.minimum, found.maximum) == (sample.min(), sample.max())
        assert found.zero_share == (sample == 0).mean()
        assert (found.nan, found.infinite) == (0, 0)


def test_what_is_not_finite_is_counted_and_left_out():
    found = all_tokens(np.array([[1, np.nan], [3, -np.inf]], np.float32))
    assert (found.nan, found.infinite, found.mean, found.count) == (1, 1, 2.0, 4)
    assert np.isnan(all_tokens(np.array([[np.nan]], np.float32)).mean)
    with pytest.raises(ValueError, match="expected a tensor of"):
        all_tokens(np.zeros((0, 3), np.float32))


def test_all_tokens_and_the_last_token_are_never_divided():
    values = np.ones((7, 4), np.float32)
    with pytest.raises(SampleError, match=r"AllTokens \(7 positions, 28 elements\) and LastToken \(1 positions, 4"):
        ratio(all_tokens(values), last_token(values))  # type: ignore[type-var]  # the checker refuses it too
    with pytest.raises(SampleError):
        ratio(all_tokens(values), all_tokens(values[:3]))
    with pytest.raises(SampleError):
        ratio(last_token(values), last_token(np.ones((7, 5), np.float32)))
    holed = values.copy()  # figures are of what is finite, which is another sample
    holed[3, 2] = np.nan
    with pytest.raises(SampleError, match=r"28 elements\) and AllTokens \(7 positions, 28 elements, 1 not finite\)"):
        ratio(all_tokens(values), all_tokens(holed))
    one_token = values[:1]  # even where the numbers are the same ones
    with pytest.raises(SampleError):
        ratio(all_tokens(one_token), last_token(one_token))  # type: ignore[type-var]


def test_ratios():
    values = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    assert ratio(all_tokens(4 * values), all_tokens(values)) == 4.0
    assert ratio(last_token(values), last_token(4 * values)) == 0.25
    still = np.ones((5, 40), np.float32)
    assert ratio(all_tokens(values), all_tokens(still)) == float("inf")
    assert ratio(all_tokens(still), all_tokens(still)) == 1.0
    with pytest.raises(ValueError, match="expected a figure of mean, std"):
        ratio(all_tokens(values), all_tokens(values), "median")


@pytest.fixture
def layers(session):
    return collect(lambda tap: session.prefill(TOKENS, tap), tuple(range(NANO.layers)))


def test_ten_slots_of_every_layer_in_order_with_the_counts_of_their_dimensions(layers):
    widths = {
        "attn_norm": NANO.hidden, "qkv": NANO.qkv_width, "attn_out": NANO.hidden, "ffn_norm": NANO.hidden,
        "ffn_gate": NANO.ffn, "ffn_up": NANO.ffn, "ffn_silu": NANO.ffn, "ffn_swigl": NANO.ffn,
        "ffn_out": NANO.hidden, "output": NANO.hidden,
    }  # fmt: skip
    assert tuple(SLOTS) == tuple(widths)
    assert [layer.layer for layer in layers] == [0, 1, 2]
    for layer in layers:
        assert layer.incomplete == ()
        for slot, width in widths.items():
            found = getattr(layer, slot)
            assert (found.all.count, found.all.positions) == (5 * width, 5)
            assert (found.last.count, found.last.positions) == (width, 1)
            assert found.all.std > 0


def test_slots_carry_the_names_of_stages():
    renamed = {slot: stage.value for slot, stage in SLOTS.items() if slot != stage.value}
    assert renamed == {"qkv": "qkv_bias", "output": "post_ffn_residual"}
    assert set(statistics.SLOT_OF) == set(SLOTS.values())
    assert list(SLOTS.values()) == [s for s in Stage if s in statistics.SLOT_OF]  # in the forward's order


@pytest.mark.parametrize("slot", list(SLOTS))
def test_a_spike_shows_in_its_slot_and_in_no_other_upstream(session, slot):
    """Every slot: its own stage scaled by 10 in the middle layer moves that slot, and nothing before it."""
    plain = collect(lambda tap: session.prefill(TOKENS, tap), (0, 1, 2))
    session.reset()
    stage = SLOTS[slot]
    spiked = collect(
        lambda tap: session.prefill(TOKENS, tap, lambda s, n, x: 10 * x if (s, n) == (stage, 1) else x), (0, 1, 2)
    )
    before = list(SLOTS)[: list(SLOTS).index(slot)]
    assert ratio(getattr(spiked[1], slot).all, getattr(plain[1], slot).all) == pytest.approx(10, rel=1e-6)
    assert spiked[0] == plain[0]
    assert all(getattr(spiked[1], name) == getattr(plain[1], name) for name in before)


def test_statistics_are_additive(weights):
    from pv.backends.cpu import open_cpu

    one, other = open_cpu(weights), open_cpu(weights)
    logits = one.prefill(TOKENS, StatisticsTap((0, 1, 2)))
    assert logits.tobytes() == other.prefill(TOKENS).tobytes()


def test_a_missing_or_unwritten_slot_is_said_and_not_made_up():
    tap = StatisticsTap((0,))
    for slot, stage in SLOTS.items():
        if slot == "ffn_up":
            continue
        tap.take(stage, 0, np.zeros((2, 3), np.float32) if slot == "ffn_out" else np.ones((2, 3), np.float32))
    (layer,) = tap.result()
    assert layer.ffn_up is None
    assert layer.incomplete == ("ffn_up: not given by the backend", "ffn_out: all 6 values are zero")
    with pytest.raises(ValueError, match="given twice"):
        tap.take(Stage.FFN_GATE, 0, np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="fills no slot"):
        tap.take(Stage.LM_HEAD, None, np.ones(3, np.float32))


def test_the_tap_is_inert_elsewhere():
    tap = StatisticsTap((1,))
    assert {s for s in Stage if tap.wants(s, 1)} == set(SLOTS.values())
    assert not any(tap.wants(s, 0) or tap.wants(s, None) for s in Stage)


def test_every_slot_cites_its_contract():
    source = ast.parse(inspect.getsource(statistics))
    body = next(n for n in source.body if isinstance(n, ast.ClassDef) and n.name == "LayerStatistics").body
    cited = {
        field.target.id: text.value.value
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    assert set(cited) == set(SLOTS)
    assert all("trace-ffn-sub-block-v1" in text for text in cited.values())


def test_plain_data_names_the_sample():
    values = np.array([[1, np.nan]], np.float32)
    assert statistics.as_data(all_tokens(values))["sample"] == "all"
    data = statistics.as_data(last_token(np.array([[np.nan]], np.float32)))
    assert (data["sample"], data["mean"], data["count"]) == ("last", "nan", 1)
    assert {AllTokens, LastToken} <= set(statistics.Statistics.__subclasses__())
