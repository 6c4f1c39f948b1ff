"""Names, lists and ranges of the command line, and the shapes and places of the twenty stages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.model.spec import SHAPES
from pv.model.stages import FIRST_LAYER_ONLY, PER_LAYER, WHOLE_MODEL, Stage
from pv.trace import stages
from pv.trace.stages import SelectionError

OLD_EIGHTEEN = [s for s in Stage if s not in stages.ATTENTION_MAPS]
SEVEN_B = SHAPES["7b"]


@given(st.lists(st.sampled_from(list(Stage)), min_size=1), st.randoms(use_true_random=False))
def test_names_come_back_in_canonical_order_whatever_case_and_order(chosen, random):
    words = [random.choice([s.value, s.value.upper(), s.value.title(), f" {s.value} "]) for s in chosen]
    choice = stages.parse_stages(",".join(words))
    assert choice.stages == tuple(s for s in Stage if s in chosen)
    assert choice.named == set(chosen)


def test_all_and_the_alias():
    assert stages.parse_stages("all") == (tuple(Stage), frozenset())
    assert stages.parse_stages("ALL,embedding").named == {Stage.EMBEDDING}
    assert stages.parse_stage("Layer_Output") is Stage.POST_FFN_RESIDUAL


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ffn_gat", "unknown stage 'ffn_gat': did you mean ffn_gate"),
        ("ffn_swiglu", "did you mean ffn_swigl"),
        ("zzz", "known are embedding, attn_norm"),
        ("", "empty entry"),
        ("ffn_gate,,ffn_up", "empty entry"),
    ],
)
def test_an_unknown_stage_suggests(text, says):
    with pytest.raises(SelectionError, match=says):
        stages.parse_stages(text)


def test_lists_of_numbers():
    assert stages.parse_numbers("0,3-5", "layer") == (0, 3, 4, 5)
    assert stages.parse_numbers(" 5 , 1-2,1", "layer") == (1, 2, 5)
    assert stages.parse_numbers("all", "layer") is None
    assert stages.checked(None, 3, "layer") == (0, 1, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5-3", "runs backwards; write 3-5"),
        ("x", "expected a layer list such as 0,3-5"),
        ("-1", "expected a layer list"),
        ("1-", "expected a layer list"),
        ("1-2-3", "expected a layer list"),
        ("²", "expected a layer list"),
        ("1,,2", "empty entry"),
        ("0-99999999", "longer than any model"),
        ("99999999999999999999", "larger than any model's"),
    ],
)
def test_an_unreadable_list_is_refused(text, says):
    with pytest.raises(SelectionError, match=says):
        stages.parse_numbers(text, "layer")


def test_a_layer_beyond_the_model_names_what_there_is():
    with pytest.raises(SelectionError, match="no layer 4: the model has layers 0 to 3"):
        stages.checked((0, 4), 4, "layer")
    with pytest.raises(SelectionError, match="steps from 1 on, got 0"):
        stages.parse_numbers("0", "step", least=1)


def test_shapes_of_the_7b_shape_give_the_published_sizes():
    def size(stage: Stage) -> int:
        count = 1
        for axis in stages.stage_shape(SEVEN_B, stage, 7, 7):
            count *= axis
        return 12 + 4 * count

    assert {size(s) for s in Stage if stages.LAYOUTS[s] == "T,H"} == {100_364}
    assert size(Stage.ATTENTION) == 100_364
    assert {size(s) for s in (Stage.FFN_GATE, Stage.FFN_UP, Stage.FFN_SILU, Stage.FFN_SWIGL)} == {530_444}
    assert {size(s) for s in (Stage.QKV_MATMUL, Stage.QKV_BIAS)} == {129_036}
    assert size(Stage.LM_HEAD) == 608_268
    assert size(Stage.ATTN_SCORES) == size(Stage.ATTN_SOFTMAX) == 12 + 4 * 28 * 7 * 7
    assert size(Stage.Q_POST_ROPE) == 12 + 4 * 7 * 3584
    assert size(Stage.K_POST_ROPE) == 12 + 4 * 7 * 512


def test_a_decode_step_sees_the_tokens_before_it():
    assert stages.stage_shape(SEVEN_B, Stage.ATTN_SCORES, 1, 9) == (28, 1, 9)
    assert stages.stage_shape(SEVEN_B, Stage.ATTN_SOFTMAX, 1, 9, heads=2) == (2, 1, 9)
    assert stages.stage_shape(SEVEN_B, Stage.FFN_GATE, 1, 9) == (1, 18944)


def test_places():
    assert stages.file_path(Stage.EMBEDDING, None) == "layer-0/embedding.bin"
    assert stages.file_path(Stage.FFN_GATE, 12) == "layer-12/ffn_gate.bin"
    assert stages.file_path(Stage.LM_HEAD, 3) == "lm_head.bin"
    assert stages.file_path(Stage.FFN_GATE, 2, step=4) == "step-4/layer-2/ffn_gate.bin"
    assert stages.file_layer(Stage.FINAL_NORM, 3) is None
    assert len(Stage) == 20
    assert len(OLD_EIGHTEEN) == 18
    assert len(PER_LAYER) == 17
    assert {Stage.EMBEDDING} == FIRST_LAYER_ONLY
    assert {Stage.FINAL_NORM, Stage.LM_HEAD} == WHOLE_MODEL
