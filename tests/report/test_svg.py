"""The drawings: well-formed, in bounds, right side of the line, and harmless."""

from __future__ import annotations

from math import inf, nan
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.report import svg

ANY = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def read(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


@given(st.lists(ANY, max_size=20), ANY, st.booleans())
def test_a_scale_keeps_order_and_stays_within_its_ends(values, probe, zero):
    over = svg.scale(values, zero=zero)
    finite = sorted(value for value in values if abs(value) < inf)
    places = [over(value) for value in finite]
    assert all(0 <= place <= 1 for place in places)
    assert places == sorted(places)


def test_what_is_no_number_moves_no_scale():
    assert svg.scale([1.0, inf, nan, 3.0, -inf]) == svg.scale([1.0, 3.0])


def test_figures_of_many_sizes_are_on_a_logarithmic_scale():
    over = svg.scale([1e-7, 1e-3, 1e-1])
    assert over.logarithmic
    assert 0.5 < over(1e-3) < 0.9
    assert not svg.scale([1.0, 99.0]).logarithmic
    assert not svg.scale([-1.0, 1e9]).logarithmic
    assert svg.scale([3.0, 4.0], zero=True)(0.0) == 0


@pytest.mark.parametrize(
    ("fraction", "passed", "x", "width"),
    [(0.5, True, 60, 29), (-0.5, False, 31, 29), (99.0, True, 60, 58), (0.0, True, 60, 2), (-1e-9, False, 58, 2)],
)
def test_a_margin_lies_right_of_its_bound_when_it_holds_and_left_when_it_is_broken(fraction, passed, x, width):
    (rect,) = read(svg.margin_bar(fraction, passed, ""))
    assert (float(rect.get("x")), float(rect.get("width"))) == (x, width)
    assert rect.get("class") == ("ok" if passed else "bad")


@pytest.mark.parametrize("fraction", [None, nan, inf])
def test_a_margin_that_is_no_number_is_a_cross(fraction):
    (cross,) = read(svg.margin_bar(fraction, False, ""))
    assert cross.tag == "path"


@given(st.lists(ANY, min_size=1, max_size=9))
def test_every_drawing_is_well_formed(values):
    finite = [value for value in values if abs(value) < inf] or [0.0]
    for drawing in (
        svg.spark(values, [True] * len(values)),
        svg.dots(finite[:4], svg.scale(finite)),
        svg.bar(finite[0], svg.scale(finite, zero=True)),
        svg.margin_bar(values[0], True, ""),
    ):
        root = read(drawing)
        assert "nan" not in drawing
        assert "inf" not in drawing
        assert root.get("aria-hidden") == "true"


def test_a_sparkline_marks_what_moved_and_crosses_what_is_no_number():
    shapes = [child.tag for child in read(svg.spark([1.0, nan, 2.0, 3.0], [False, False, False, True]))]
    assert shapes == ["polyline", "circle", "path", "circle", "rect"]


def test_parts_of_a_bar_are_shares_and_the_words_are_escaped():
    root = read(svg.share_bar([("f-a", 1), ("f-b", 0), ("f-c", 3)], 'one & "three"<'))
    assert root.get("aria-label") == 'one & "three"<'
    assert [(part.get("class"), float(part.get("x")), float(part.get("width"))) for part in root] == [
        ("f-a", 0, 25),
        ("f-c", 25, 75),
    ]
    assert len(read(svg.share_bar([("f-a", 0)], "none"))) == 0
