"""What a note becomes: a line, a row of a chart, an accusation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.report.notes import Chart, Row, guilty, parts, stages


def test_neighbours_with_the_same_labels_are_one_chart_and_the_rest_stays_in_order():
    notes = [
        "teacher's validation loss 2.31; T = 1, alpha = 0.9",
        "rate 0.001, seed 1: scratch 3.2100, distilled 3.14",
        "rate 0.001, seed 2: scratch 3.3, distilled 3.1e0",
        "margins at rate 0.001: +0.07, -0.2",
        "said twice",
    ]
    assert list(parts(notes)) == [
        notes[0],
        Chart(
            ("scratch", "distilled"),
            (Row("rate 0.001, seed 1", (3.21, 3.14)), Row("rate 0.001, seed 2", (3.3, 3.1))),
        ),
        Chart(("", ""), (Row("margins at rate 0.001", (0.07, -0.2)),)),
        "said twice",
    ]


def test_what_follows_the_figures_is_kept_in_the_title():
    (chart,) = parts(["ffn_silu: layer 0 1.0004, layer 1 1.0054; worst 1"])
    assert chart == Chart(("layer 0", "layer 1"), (Row("ffn_silu; worst 1", (1.0004, 1.0054)),))


@pytest.mark.parametrize(
    "note",
    [
        "one: 3",  # one figure is no row
        "'What is 2+2?': cuda (a card) begins with [1, 2]",
        "executed: a, b",
        "huge: 1e999, 2",  # written like a number, but infinite
        "78 files mapped; drivers 0, device files 1",
        "long: " + ", ".join(["1"] * 200),
        "x" * 10_000 + ": 1, 2",
    ],
)
def test_other_notes_stay_lines(note):
    assert list(parts([note])) == [note]


@given(st.lists(st.text(max_size=60), max_size=8))
def test_no_note_is_lost_or_invented(notes):
    told = 0
    for part in parts(notes):
        told += len(part.rows) if isinstance(part, Chart) else 1
    assert told == len(notes)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=9),
    st.text(alphabet="abc xyz", max_size=9),
)
def test_figures_written_as_a_row_are_read_back(values, title):
    (chart,) = parts([f"{title}: " + ", ".join(f"label {value!r}" for value in values)])
    assert chart == Chart(("label",) * len(values), (Row(title, tuple(values)),))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("The guilty stage is ffn_up of layer 2: off", ("ffn_up of layer 2",)),
        ("layer-3/attn_softmax and layer-3/attn_softmax", ("attn_softmax of layer 3",)),
        ("k_post_rope of layers 0-3, ffn_up of layer 1", ("k_post_rope of layers 0-3", "ffn_up of layer 1")),
        ("lm_head, at last", ("lm_head",)),
        ("attention, please: of all layers, embedding counts", ()),
        ("layer-3/nothing", ()),
    ],
)  # fmt: skip
def test_stages_are_named_with_their_layer(text, named):
    assert stages(text) == named


def test_an_accusation_outweighs_a_mention():
    mentioned = ["attn_norm of layer 0: total 0.1, local 0.1"]
    assert guilty(mentioned) == ("attn_norm of layer 0",)
    assert guilty([*mentioned, "the guilty stage is ffn_up of layer 2"]) == ("ffn_up of layer 2",)
