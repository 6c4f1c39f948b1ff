"""A plan promises exactly the files that were asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.model.spec import SHAPES
from pv.model.stages import PER_LAYER, Stage
from pv.trace.plan import MAP_BOUND, make_plan, refuse_oversized_maps
from pv.trace.stages import SelectionError, StageChoice, in_order, parse_stages

SPEC = SHAPES["tiny"]


def paths(text: str, **options: object) -> list[str]:
    return [f.path for f in make_plan(parse_stages(text), SPEC, **options).files(SPEC, 7)]  # type: ignore[arg-type]


def test_a_complete_capture_has_17_l_plus_3_files():
    files = paths("all")
    assert len(files) == len(set(files)) == 17 * 4 + 3


def test_the_embedding_once_and_the_others_for_each_layer():
    assert paths("embedding,ffn_gate,ffn_swigl", layers=(1, 3)) == [
        "layer-0/embedding.bin",
        "layer-1/ffn_gate.bin",
        "layer-1/ffn_swigl.bin",
        "layer-3/ffn_gate.bin",
        "layer-3/ffn_swigl.bin",
    ]


def test_all_of_one_layer_writes_no_other_layer_and_leaves_whole_model_stages_alone():
    files = paths("all", layers=(3,))
    assert {p.partition("/")[0] for p in files} == {"layer-3", "final_norm.bin", "lm_head.bin"}
    assert len(files) == 17 + 2


def test_steps_have_their_own_folders():
    files = make_plan(parse_stages("attn_scores"), SPEC, layers=(0,), steps=(2, 1, 2)).files(SPEC, 7)
    assert [(f.path, f.shape) for f in files] == [
        ("step-1/layer-0/attn_scores.bin", (8, 1, 8)),
        ("step-2/layer-0/attn_scores.bin", (8, 1, 9)),
    ]


def test_heads_narrow_attention_maps_only():
    files = make_plan(parse_stages("attn_scores,q_post_rope"), SPEC, layers=(0,), heads=(1, 5)).files(SPEC, 7)
    assert [f.shape for f in files] == [(7, 256), (2, 7, 7)]


@given(
    st.sets(st.sampled_from(list(Stage)), min_size=1),
    st.none() | st.sets(st.integers(0, 3), min_size=1).map(lambda s: tuple(sorted(s))),
)
def test_wants_and_files_agree(chosen, layers):
    plan = make_plan(StageChoice(in_order(chosen), frozenset(chosen)), SPEC, layers=layers)
    asked = [(s, n) for n in range(4) for s in PER_LAYER if plan.wants(s, n)]
    promised = [(s, n) for s, n in plan.places() if s in PER_LAYER]
    assert sorted(asked) == sorted(promised)
    for stage in (Stage.EMBEDDING, Stage.FINAL_NORM, Stage.LM_HEAD):
        assert plan.wants(stage, 0 if stage is Stage.EMBEDDING else None) == (stage in chosen)


def test_what_the_model_does_not_have_is_refused():
    with pytest.raises(SelectionError, match="no layer 9: the model has layers 0 to 3"):
        make_plan(parse_stages("all"), SPEC, layers=(0, 9))
    with pytest.raises(SelectionError, match="no head 8: the model has heads 0 to 7"):
        make_plan(parse_stages("attn_scores"), SPEC, heads=(8,))


def test_attention_maps_above_the_bound_need_heads():
    tokens = 1 + int((MAP_BOUND / 4 / 8) ** 0.5)
    whole = make_plan(parse_stages("all"), SPEC)
    refuse_oversized_maps(whole, SPEC, tokens - 1)
    with pytest.raises(SelectionError, match="name the heads to keep"):
        refuse_oversized_maps(whole, SPEC, tokens)
    refuse_oversized_maps(make_plan(parse_stages("all"), SPEC, heads=(0,)), SPEC, tokens)
    refuse_oversized_maps(make_plan(parse_stages("ffn_gate"), SPEC), SPEC, tokens)
