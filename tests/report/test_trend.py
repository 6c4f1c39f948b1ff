"""Series over time: their order, what drifts and what does not, and the three ways to show them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from pv.report.trend import Trend, as_data, as_svg, as_text, series_of
from tests.report.samples import CPU, CUDA, Town


@pytest.fixture
def town(tmp_path):
    return Town(tmp_path / "town")


def seconds(town, *values, **changes):
    """Series of FALSIFY-PARITY-002 whose runs measured these."""
    return series_of([town.tell("FALSIFY-PARITY-002", {"seconds": value}, **changes) for value in values])


def drifts(series) -> list[bool]:
    (one,) = series
    return [bool(point.drift) for point in one.points]


def test_each_measurement_of_each_cell_is_a_series_oldest_first(town):
    records = [
        town.tell("FALSIFY-PARITY-001", {"cosine": 0.995, "max_abs": 0.001}, cell=cell) for cell in (CPU, CUDA, CPU)
    ]
    found = series_of(records)
    assert [(one.cell, one.measurement, one.unit) for one in found] == [
        (CPU, "max_abs", "logits"),
        (CPU, "cosine", "1"),
        (CUDA, "max_abs", "logits"),
        (CUDA, "cosine", "1"),
    ]
    assert [point.digest for point in found[0].points] == [records[0].digest, records[2].digest]
    assert found[1].points[0].bound == ">= 0.99"


def test_a_value_that_jumps_while_it_passes_drifts(town):
    assert drifts(seconds(town, 0.50, 0.51, 0.49, 0.50, 0.52, 0.50, 0.60)) == [False] * 6 + [True]


def test_five_earlier_values_are_needed_for_a_jump(town):
    assert drifts(seconds(town, 0.50, 0.51, 0.49, 0.50, 0.60)) == [False] * 5


def test_a_spread_that_was_always_there_is_no_drift(town):
    assert drifts(seconds(town, 0.5, 0.6, 0.4, 0.55, 0.45, 0.62)) == [False] * 6


def test_values_that_never_moved_drift_at_the_first_move_but_not_by_rounding(town):
    assert drifts(seconds(town, *[0.5] * 5, 0.5000000001)) == [False] * 6
    assert drifts(seconds(town, *[0.5] * 5, 0.51)) == [False] * 5 + [True]


def test_a_move_within_the_repeat_bound_of_the_claim_is_no_drift(town):
    values = [0.995] * 5 + [0.9950005]  # repeat: 1.0e-6
    found = series_of([town.tell("FALSIFY-PARITY-001", {"cosine": value, "max_abs": 0.001}) for value in values])
    assert [one.drifts for one in found if one.measurement == "cosine"] == [()]


def test_a_margin_that_halves_drifts_at_once(town):
    assert drifts(seconds(town, 1.0, 1.6)) == [False, True]
    assert drifts(seconds(town, 1.0, 1.49)) == [False, False]


def test_a_broken_value_is_broken_and_no_drift(town):
    (one,) = seconds(town, 1.0, 5.0, 1.0)
    assert [(point.passed, bool(point.drift)) for point in one.points] == [(True, False), (False, False), (True, False)]


def test_broken_values_are_not_what_later_ones_are_compared_with(town):
    assert drifts(seconds(town, *[1.0] * 4, 5.0, 1.1)) == [False] * 6  # four passing ones: too few
    assert drifts(seconds(town, *[1.0] * 5, 5.0, 1.1)) == [False] * 6 + [True]


def test_margins_are_compared_under_one_bound_only(town):
    first = town.tell("FALSIFY-PARITY-002", {"seconds": 1.0})
    text = (town.root / "contracts/parity-v1.yaml").read_text()
    town.write("contracts/parity-v1.yaml", text.replace("value: 2.0, unit: s", "value: 1.1, unit: s"))
    second = town.tell("FALSIFY-PARITY-002", {"seconds": 1.0})
    assert drifts(series_of([first, second])) == [False, False]


def test_the_text_shows_the_points_what_moved_and_what_else_changed(town):
    told = seconds(town, 1.0, 1.0)
    records = [town.tell("FALSIFY-PARITY-002", {"seconds": 1.0}) for _ in range(2)]
    records.append(town.tell("FALSIFY-PARITY-002", {"seconds": 1.9}, torch="2.14.0"))
    text = as_text(Trend("parity-v1", "FALSIFY-PARITY-002", series_of(records)))
    assert "seconds [s] on cpu · code  ▁▁█" in text
    assert "1.9  <= 2  margin 0.1  drift  1.10  torch 2.14.0, pv 9.9.9" in text
    assert "since the record before: torch 2.13.0 -> 2.14.0" in text
    assert told  # the series of a claim without a drift
    assert "drift:\n" not in as_text(Trend("parity-v1", "FALSIFY-PARITY-002", told))


def test_the_data_names_rule_and_records(town):
    trend = Trend("parity-v1", "FALSIFY-PARITY-002", seconds(town, 1.0, 1.9))
    data = as_data(trend)
    assert data["records"] == 2
    assert "5 median absolute deviations" in data["rule"]
    (one,) = data["series"]
    assert (one["device"], one["subject"], one["measurement"]) == ("cpu", "code", "seconds")
    assert [(p["value"], p["margin"], bool(p["drift"])) for p in one["points"]] == [
        (1.0, 1.0, False),
        (1.9, pytest.approx(0.1), True),
    ]


def test_the_picture_is_well_formed_with_hostile_names(town):
    trend = Trend("<b>", 'FALSIFY-"&<script>', seconds(town, 1.0, 1.9))
    root = ElementTree.fromstring(as_svg([trend]))
    words = "".join(root.itertext())
    assert 'FALSIFY-"&<script>' in words
    assert "drift: margin 0.1" in words
    assert not root.findall(".//{http://www.w3.org/2000/svg}script")
