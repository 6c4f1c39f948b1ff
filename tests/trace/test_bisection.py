"""Bisection of real forwards: every stage of an early, a middle and a last layer is named when a defect sits there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pv.backends.cpu import open_cpu
from pv.compare.bisect import Verdict
from pv.compare.graph import Node, nodes
from pv.compare.thresholds import Kind
from pv.model.operators import REFERENCE
from pv.model.operators import rope as half_split
from pv.model.spec import SHAPES
from pv.model.stages import Stage
from pv.model.synthetic import Recipe, build
from pv.model.weights import Weight, Weights
from pv.report.bisection import as_data, lines, sentence
from pv.trace.bisection import Shadow, bisect_captures, bisect_live
from pv.trace.capture import capture
from pv.trace.grafts import PlantedSession
from pv.trace.manifest import CaptureError
from pv.trace.pairing import pair
from pv.trace.plan import make_plan
from pv.trace.reading import open_capture
from pv.trace.stages import parse_stages

NANO = SHAPES["nano"]
TOKENS = (5, 17, 42, 5, 200, 7, 99)
EVERY_PLACE = nodes(NANO.layers)


def scaled(x):
    return x * 1.01


def rolled(x):
    return torch.roll(x, 1, -1)


def one_channel(x):
    x = x.clone()
    x[..., 0] += x.abs().amax()
    return x


def one_nan(x):
    x = x.clone()
    x.reshape(-1)[-1] = float("nan")
    return x


def plant_at(node, change):
    return lambda stage, layer, x: change(x) if Node(stage, 0 if stage is Stage.EMBEDDING else layer) == node else x


@pytest.fixture(scope="module")
def shadow(weights):
    return open_cpu(weights, dtype=torch.float64)


def live(weights, plant=None, **options):
    suspect = open_cpu(weights)
    return bisect_live(
        open_cpu(weights), PlantedSession(suspect, plant) if plant else suspect, TOKENS, Kind.CUDA, **options
    )


MIDDLE = [n for n in EVERY_PLACE if n.layer in (1, None) or n.stage is Stage.EMBEDDING]
DEFECTS = [(n, scaled) for n in EVERY_PLACE] + [(n, d) for d in (rolled, one_channel, one_nan) for n in MIDDLE]


@pytest.mark.parametrize(("node", "change"), DEFECTS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_live_defect_is_named_with_its_stage_and_layer(weights, node, change):
    result = live(weights, plant_at(node, change))
    assert result.finding.verdict is Verdict.BUG
    assert result.finding.guilty == (node,)
    assert str(node) in sentence(result)
    assert result.diagnosis


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("captures")


def captured(weights, origin, place, plant=None, plan="all", tokens=TOKENS, **changes):
    session = open_cpu(weights)
    plan = make_plan(parse_stages(plan), NANO, layers=changes.pop("layers", None), steps=changes.pop("steps", ()))
    given = replace(origin, **changes)
    capture(PlantedSession(session, plant) if plant else session, tokens, plan, place, given, feed=[1, 2, 3])
    return open_capture(place)


@pytest.fixture(scope="module")
def reference(weights, origin, home):
    return captured(weights, origin, home / "reference", source="hf")


@pytest.mark.parametrize("node", EVERY_PLACE, ids=str)
def test_a_captured_defect_is_named_with_its_stage_and_layer(weights, origin, home, reference, shadow, node):
    test = captured(weights, origin, home / "test", plant_at(node, scaled))
    result = bisect_captures(pair(reference, test), Kind.ORACLE, Shadow(shadow, True))
    assert result.finding.guilty == (node,)
    assert result.diagnosis[0] == "scaled by 1.01"


def test_a_defect_of_the_reference_is_laid_at_its_door(weights, origin, home, shadow):
    node = Node(Stage.ATTN_OUT, 1)
    wrong = captured(weights, origin, home / "wrong", plant_at(node, scaled), source="hf")
    right = captured(weights, origin, home / "right")
    result = bisect_captures(pair(wrong, right), Kind.ORACLE, Shadow(shadow, True))
    assert result.finding.guilty == (node,)
    assert result.at(node).local.side == "reference"
    assert "it is the reference that is off" in sentence(result)


def test_the_healthy_are_left_alone(weights, reference, origin, home, shadow):
    assert live(weights, shadow=shadow).finding.verdict is Verdict.IDENTICAL
    nearly = replace(
        REFERENCE, rms_norm=lambda x, w, eps: w * (x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) / x.shape[-1] + eps))
    )
    result = bisect_live(open_cpu(weights), open_cpu(weights, nearly), TOKENS, Kind.CUDA, shadow=shadow, steps=2)
    assert result.finding.verdict in {Verdict.AGREE, Verdict.IDENTICAL}
    assert result.finding.locally == result.finding.looked_at == 3 * (17 * NANO.layers + 3)
    again = captured(weights, origin, home / "again")
    assert bisect_captures(pair(reference, again), Kind.ORACLE, Shadow(shadow, True)).finding.guilty == ()


def changed(weights, names, change):
    """Weights with the named tensors changed, in every layer."""

    def one(name, weight):
        return Weight.of(name, change(weight.dense())) if name.rpartition(".")[2] in names else weight

    return Weights(weights.spec, {name: one(name, weight) for name, weight in weights.tensors.items()})


MATRICES = {"embedding", "q", "k", "v", "attn_out", "ffn_gate", "ffn_up", "ffn_down", "lm_head"}


def rounded(bits):
    """Blocks of 16 weights rounded to so many bits, as quantized files have them."""

    def change(dense):
        blocks = dense.reshape(-1, 16)
        scale = blocks.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        return (torch.round(blocks / scale) * scale).reshape(dense.shape)

    return change


@pytest.fixture(scope="module", params=[4, 5, 8])
def quantized(request, weights):
    return changed(weights, MATRICES, rounded(request.param))


def test_quantization_is_noise_and_no_bug(weights, quantized):
    result = bisect_live(open_cpu(weights), open_cpu(quantized), TOKENS, Kind.QUANT_LOSS)
    assert result.finding.verdict is Verdict.NOISE
    assert result.finding.guilty == ()
    assert "precision noise, no bug" in sentence(result)


@pytest.mark.parametrize(
    "node", [Node(Stage.QKV_BIAS, 0), Node(Stage.ATTN_SOFTMAX, 1), Node(Stage.FFN_SWIGL, 2)], ids=str
)
def test_a_bug_under_quantization_noise_is_still_found(weights, quantized, node):
    suspect = PlantedSession(open_cpu(quantized), plant_at(node, rolled))
    result = bisect_live(open_cpu(weights), suspect, TOKENS, Kind.QUANT_LOSS)
    assert result.finding.guilty == (node,)
    assert "It stands out of a noise of" in sentence(result)


def other_base(x, cos, sin):
    angle = torch.atan2(sin, cos) * 0.9
    return half_split(x, angle.cos(), angle.sin())


def test_defects_of_the_field_are_named_at_their_stage(weights):
    tables = live_with(weights, replace(REFERENCE, rope=other_base))
    assert tables.finding.guilty[0] == Node(Stage.Q_POST_ROPE, 0)
    assert {n.stage for n in tables.finding.guilty} == {Stage.Q_POST_ROPE, Stage.K_POST_ROPE}
    assert "another base or another position" in tables.diagnosis[0]

    swapped = dict(weights.tensors)
    for i in range(NANO.layers):
        gate, up = (swapped[f"layers.{i}.{part}"] for part in ("ffn_gate", "ffn_up"))
        swapped |= {
            f"layers.{i}.ffn_gate": replace(up, name=gate.name),
            f"layers.{i}.ffn_up": replace(gate, name=up.name),
        }
    result = bisect_live(open_cpu(weights), open_cpu(Weights(NANO, swapped)), TOKENS, Kind.CUDA)
    assert result.finding.guilty[0] == Node(Stage.FFN_GATE, 0)
    assert result.diagnosis == ("it is ffn_up",)

    biases = changed(weights, {"q_bias", "k_bias", "v_bias"}, torch.zeros_like)
    result = bisect_live(open_cpu(weights), open_cpu(biases), TOKENS, Kind.CUDA)
    assert result.finding.guilty == tuple(Node(Stage.QKV_BIAS, i) for i in range(NANO.layers))
    assert result.diagnosis[0] == "it is qkv_matmul"

    activation = live_with(weights, replace(REFERENCE, silu=torch.nn.functional.gelu))
    assert activation.finding.guilty[0] == Node(Stage.FFN_SILU, 0)


def live_with(weights, operators):
    return bisect_live(open_cpu(weights), open_cpu(weights, operators), TOKENS, Kind.CUDA)


def test_a_defect_of_the_cache_shows_at_the_decode_step_that_reads_it(weights):
    """Keys stored one position too late after the prompt: the prefill is right, the scores of step 1 are not."""
    suspect = open_cpu(weights)
    append = suspect._cache.append
    suspect._cache.append = lambda layer, k, v: append(layer, torch.roll(k, 1, -1) if k.shape[-2] == 1 else k, v)
    result = bisect_live(open_cpu(weights), suspect, TOKENS, Kind.CUDA, steps=2)
    assert result.finding.guilty[0] == Node(Stage.ATTN_SCORES, 0, 1)
    assert result.finding.first_crossing == Node(Stage.ATTN_SCORES, 0, 1)


def test_what_is_done_to_the_logits_behind_the_last_stage_is_seen(weights):
    class Scaling(PlantedSession):
        def prefill(self, tokens, tap=None, graft=None):
            return super().prefill(tokens, tap, graft) * np.float32(1.05)

    suspect = Scaling(open_cpu(weights), lambda stage, layer, x: x)
    result = bisect_live(open_cpu(weights), suspect, TOKENS, Kind.CUDA)
    assert result.finding.guilty == (Node(Stage.LM_HEAD, None),)
    assert "something is done to them behind it" in result.diagnosis[0]


def test_a_mask_that_is_one_off_is_named_at_the_softmax(weights):
    from pv.model.operators import softmax

    early = replace(REFERENCE, softmax=lambda scores, visible: softmax(scores, visible | visible.roll(1, -1)))
    result = live_with(weights, early)
    assert result.finding.guilty[0] == Node(Stage.ATTN_SOFTMAX, 0)
    assert "not zero where it should be: masked keys are looked at" in result.diagnosis


def test_without_a_model_only_the_frontier_is_named(weights, origin, home, reference):
    node = Node(Stage.FFN_NORM, 1)
    test = captured(weights, origin, home / "t", plant_at(node, rolled))
    result = bisect_captures(pair(reference, test), Kind.ORACLE, None, "it has moved")
    assert result.finding.verdict is Verdict.UNDECIDED
    assert [s.node for s in result.finding.frontier] == [node]
    assert result.notes == ("stages could not be looked at by themselves: it has moved",)
    assert "could not be seen" in sentence(result)


def test_captures_of_some_stages_name_the_nearest_captured_one(weights, origin, home, shadow):
    some = "attn_norm,attn_out,post_ffn_residual"
    reference = captured(weights, origin, home / "r2", plan=some, source="hf")
    test = captured(weights, origin, home / "t2", plant_at(Node(Stage.ATTN_SOFTMAX, 1), rolled), plan=some)
    result = bisect_captures(pair(reference, test), Kind.ORACLE, Shadow(shadow, True))
    assert result.finding.guilty == (Node(Stage.ATTN_OUT, 1),)


def test_captures_with_little_or_nothing_in_common(weights, origin, home, shadow):
    gate = captured(weights, origin, home / "gate", plan="ffn_gate,lm_head", source="hf")
    up = captured(weights, origin, home / "up", plan="ffn_up")
    both = captured(weights, origin, home / "both", plan="ffn_gate,ffn_up")
    with pytest.raises(CaptureError, match="have no tensor in common"):
        bisect_captures(pair(gate, up), Kind.ORACLE, Shadow(shadow, True))
    result = bisect_captures(pair(gate, both), Kind.ORACLE, Shadow(shadow, True))
    assert result.finding.looked_at == NANO.layers
    assert result.notes == (
        "only in the reference, and not looked at: 1 tensors, the first lm_head",
        "only in the test, and not looked at: 3 tensors, the first layer-0/ffn_up",
    )


def test_captures_of_decode_steps(weights, origin, home, shadow):
    reference = captured(weights, origin, home / "r3", steps=(1, 2), source="hf")
    node = Node(Stage.Q_POST_ROPE, 2)
    test = captured(weights, origin, home / "t3", plant_at(node, rolled), steps=(1, 2))
    result = bisect_captures(pair(reference, test), Kind.ORACLE, Shadow(shadow, True))
    assert result.finding.guilty[0] == Node(Stage.Q_POST_ROPE, 2, 1)
    assert {n.step for n in result.finding.guilty} == {1, 2}


def test_the_envelope_is_float32s_own_rounding(weights, shadow):
    result = live(weights, plant_at(Node(Stage.FFN_GATE, 1), scaled), shadow=shadow)
    for o in result.observations:
        assert o.local_envelope is not None
        assert o.local_envelope < 2e-6
        if o.node.stage is Stage.EMBEDDING:
            assert o.local_envelope == 0
    assert "times float32's own rounding" in sentence(result)
    healthy = [o.local_envelope for o in result.observations if o.node.stage is not Stage.EMBEDDING]
    assert min(healthy) > 0  # every operator rounds; a shadow that copied the reference would show zeros


def test_a_shadow_without_exactness_gives_no_envelope(weights, origin, home, reference):
    test = captured(weights, origin, home / "t4", plant_at(Node(Stage.FFN_UP, 0), scaled))
    result = bisect_captures(pair(reference, test), Kind.ORACLE, Shadow(open_cpu(weights), False))
    assert result.finding.guilty == (Node(Stage.FFN_UP, 0),)
    assert all(o.envelope is None for o in result.observations)
    assert "without an envelope" in result.notes[0]


def test_the_text_and_the_data_tell_the_same(weights, shadow):
    result = live(weights, plant_at(Node(Stage.FFN_GATE, 1), scaled), shadow=shadow)
    text, data = "\n".join(lines(result, 10)), as_data(result)
    assert text.startswith("The guilty stage is ffn_gate of layer 1: from equal inputs its result is off by 1 %")
    assert "looks like: scaled by 1.01" in text
    assert data["verdict"] == "bug"
    assert data["guilty"] == [{"stage": "ffn_gate", "layer": 1, "step": None}]
    assert len(data["stages"]) == 17 * NANO.layers + 3
    assert data["frontier"][0]["guilty"] is True
    assert data["sentence"] == lines(result, 10)[0]


def test_a_single_token_hides_what_the_softmax_does():
    """Why a bisection wants two tokens: with one, the softmax is 1 whatever the scores are."""
    weights = build(Recipe(NANO, seed=3))
    plant = plant_at(Node(Stage.ATTN_SCORES, 1), rolled)
    one = bisect_live(open_cpu(weights), PlantedSession(open_cpu(weights), plant), [5], Kind.CUDA)
    assert one.finding.beyond == 0
    assert not np.isnan(one.observations[-1].total.rel_l2)
