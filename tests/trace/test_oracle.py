"""Transformers' own Qwen2 as a capture; its self-tests catch a missing mask, another RoPE base, other weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pv.backends.cpu import open_cpu
from pv.compare.tensors import judge_by
from pv.compare.thresholds import THRESHOLDS, Kind
from pv.model.open import open_model
from pv.model.spec import SHAPES
from pv.model.stages import Stage
from pv.model.synthetic import Recipe, write_model
from pv.trace.capture import capture
from pv.trace.manifest import CaptureError
from pv.trace.oracle import ATTENTION, Oracle, OracleError, top
from pv.trace.pairing import compare, pair
from pv.trace.plan import make_plan
from pv.trace.reading import open_capture
from pv.trace.stages import NEED_ATTENTION_INSIDE, StageChoice, parse_stages

transformers = pytest.importorskip("transformers", reason="the oracle needs Transformers: install the extra [oracle]")

NANO = SHAPES["nano"]
TOKENS = (5, 17, 42, 5, 200, 7, 99)
ALL = make_plan(parse_stages("all"), NANO)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "nano"
    write_model(Recipe(NANO, seed=3), place)
    return place


@pytest.fixture(scope="module")
def model(folder):
    return open_model(folder)


@pytest.fixture(scope="module")
def oracle(model):
    return Oracle(model)


@pytest.fixture(scope="module")
def theirs(oracle, tmp_path_factory):
    place = tmp_path_factory.mktemp("theirs") / "all"
    oracle.capture(TOKENS, ALL, place, prompt="seven tokens")
    return open_capture(place)


def ours(model, origin, place, plan=ALL, feed=()):
    from dataclasses import replace

    capture(open_cpu(model.weights), TOKENS, plan, place, replace(origin, model_digest=model.digest), feed=feed)
    return open_capture(place)


def test_all_twenty_stages_agree_within_row_b(model, theirs, origin, tmp_path):
    result = compare(pair(theirs, ours(model, origin, tmp_path / "ours")), judge_by(THRESHOLDS[Kind.ORACLE]), "row B")
    assert result.pair.kind is Kind.ORACLE
    assert result.ok, [(d.name, d.breaches) for d in result.found if not d.ok]
    assert {d.stage for d in result.found} == set(Stage)
    assert len(result.found) == 17 * NANO.layers + 3
    assert max(d.metrics.rel_l2 for d in result.found) < 5e-6
    assert all(d.metrics.identical for d in result.found if d.stage is Stage.EMBEDDING)


def test_provenance_names_versions_digests_and_self_tests(theirs, oracle, model):
    said = theirs.manifest.provenance
    assert (said["transformers"], said["attention"]) == (transformers.__version__, "eager")
    assert len(said["modeling_qwen2_sha256"]) == 64
    assert said["self_tests"]["embedding_bitwise"] is True
    assert said["self_tests"]["taps_bitwise"] is True
    assert said["self_tests"]["causality_shift"] <= 1e-6
    assert said["self_tests"]["rope_theta"] == pytest.approx(NANO.rope_theta, rel=1e-5)
    last = oracle.logits(TOKENS)[-1]
    assert said["argmax"] == int(np.argmax(last)) == said["top5"][0][0]
    assert theirs.manifest.model_digest == model.digest
    assert theirs.manifest.left_out == ()


def test_without_substages_four_stages_are_left_out_and_it_says_so(model, oracle, origin, tmp_path):
    some = tuple(s for s in Stage if s not in NEED_ATTENTION_INSIDE)
    done = oracle.capture(TOKENS, make_plan(StageChoice(some, frozenset()), NANO), tmp_path / "sixteen")
    assert done.manifest.left_out == tuple(s.value for s in NEED_ATTENTION_INSIDE)
    assert len(done.manifest.files) == 13 * NANO.layers + 3
    result = compare(
        pair(open_capture(tmp_path / "sixteen"), ours(model, origin, tmp_path / "ours")),
        judge_by(THRESHOLDS[Kind.ORACLE]),
        "row B",
    )
    assert result.ok
    assert result.unpaired == ((), ())
    assert len(result.found) == 13 * NANO.layers + 3


def test_only_the_asked_layers_are_instrumented(oracle, monkeypatch):
    net = oracle._net
    plan = make_plan(parse_stages("attn_scores,ffn_gate"), NANO, layers=(1,))

    class Tap:
        wants = staticmethod(plan.wants)
        taken: list[object] = []  # noqa: RUF012 - a fresh class each run

        def take(self, stage, layer, values):
            self.taken.append((stage, layer))

    with oracle._tapped(Tap()):
        hooks = {
            name: len(module._forward_hooks) + len(module._forward_pre_hooks)
            for name, module in net.named_modules()
            if module._forward_hooks or module._forward_pre_hooks
        }
        recorders = [i for i, layer in enumerate(net.model.layers) if hasattr(layer.self_attn, "_pv_recorder")]
    assert hooks == {"model.layers.1.mlp.gate_proj": 1}
    assert recorders == [1]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_tapping_changes_no_bit(oracle):
    assert oracle._taps_are_inert(TOKENS)


def test_decode_steps_agree_too(model, oracle, origin, tmp_path):
    plan = make_plan(parse_stages("all"), NANO, steps=(1, 2))
    oracle.capture(TOKENS, plan, tmp_path / "theirs", feed=[9, 8])
    pairing = pair(open_capture(tmp_path / "theirs"), ours(model, origin, tmp_path / "ours", plan, feed=[9, 8]))
    result = compare(pairing, judge_by(THRESHOLDS[Kind.ORACLE]), "row B")
    assert result.ok
    assert len(result.found) == 2 * (17 * NANO.layers + 3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_captured_and_far_from_float32(model, theirs, tmp_path, dtype):
    Oracle(model, dtype=dtype).capture(TOKENS, ALL, tmp_path / dtype)
    result = compare(pair(theirs, open_capture(tmp_path / dtype)), judge_by(THRESHOLDS[Kind.SHADOW]), "row A")
    assert result.pair.kind is Kind.HALF
    assert 1e-5 < max(d.metrics.rel_l2 for d in result.found) < 0.2


def test_a_missing_mask_function_is_caught(oracle, monkeypatch):
    """The silent trap: a custom attention without its mask is non-causal, and nothing is raised."""
    from transformers.masking_utils import AttentionMaskInterface

    monkeypatch.delitem(AttentionMaskInterface._global_mapping, ATTENTION)
    with pytest.raises(OracleError, match=r"not causal: another last token moved earlier logits .* mask function"):
        oracle.self_test(TOKENS)


def test_another_rope_base_is_caught(model, monkeypatch):
    fresh = Oracle(model)
    rotary = fresh._net.model.rotary_emb
    dimension = NANO.head_dim
    rotary.inv_freq = 10_000.0 ** (-torch.arange(0, dimension, 2).double() / dimension).float()
    with pytest.raises(OracleError, match=r"RoPE base is 10000, expected 1e\+06"):
        fresh.self_test(TOKENS)


def test_other_weights_are_caught(model):
    fresh = Oracle(model)
    with torch.no_grad():
        fresh._net.model.embed_tokens.weight[5, 0] += 1e-3
    with pytest.raises(OracleError, match="not bitwise equal"):
        fresh.self_test(TOKENS)


def test_a_tap_that_disturbs_is_caught(oracle, monkeypatch):
    from pv.trace import oracle as module

    def disturbing(layer, i, tap, whole=module._layer_hooks):
        yield from whole(layer, i, tap)
        yield layer.mlp.register_forward_hook(lambda _m, _a, out: out * 1.0001)

    monkeypatch.setattr(module, "_layer_hooks", disturbing)
    with pytest.raises(OracleError, match="change when it is tapped"):
        oracle.self_test(TOKENS)


def test_weights_that_transformers_did_not_load_are_caught(folder, tmp_path):
    """Transformers fills a missing tensor with random numbers and warns; here that is an error."""
    import shutil

    from safetensors.torch import load_file, save_file

    model = open_model(folder)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OracleError, match=r"did not load .* whole: .*layers.1.mlp.up_proj.weight"):
        Oracle(type(model)(model.spec, model.weights, broken, lambda: None, lambda: ""))


def test_an_unknown_dtype_is_refused(model):
    with pytest.raises(CaptureError, match="expected a dtype of float32, float16, bfloat16"):
        Oracle(model, dtype="int8")


def test_top_takes_the_lowest_of_equal_logits():
    assert top(np.array([1, 3, 3, 2], np.float32), 3) == (1, (1, 2, 3), (3.0, 3.0, 2.0))


def test_the_manifest_is_json_with_a_line_for_each_file(theirs):
    text = (theirs.folder / "manifest.json").read_text()
    assert json.loads(text)["source"] == "hf"
    assert sum('"stage"' in line for line in text.splitlines()) == 17 * NANO.layers + 3
