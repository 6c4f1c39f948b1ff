"""The forward against Transformers' own Qwen2, against itself step by step, and with somebody watching."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pv.model.cache import GrowingCache, StaticCache
from pv.model.forward import forward, head, hidden_states
from pv.model.operators import REFERENCE, TRAINING
from pv.model.rope import RopeTables
from pv.model.spec import ModelSpec, config_from_spec, named_shape
from pv.model.stages import WHOLE_MODEL, Stage
from pv.model.synthetic import Recipe, build
from pv.model.weights import Prepared, hf_names, prepare

NANO = named_shape("nano")
TIED = replace(NANO, tied=True, head_dim=16, rope_theta=1e4)  # head_dim apart from hidden / heads
TOKENS = [3, 141, 59, 26, 53, 58, 97, 93, 238, 46, 264, 33, 83, 279, 50]


class Everything:
    """A tap that takes what `plan` says (all when None) and keeps it."""

    def __init__(self, plan: set[tuple[Stage, int | None]] | None = None) -> None:
        self.plan, self.taken = plan, {}

    def wants(self, stage: Stage, layer: int | None) -> bool:
        return self.plan is None or (stage, layer) in self.plan

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        assert (stage, layer) not in self.taken
        self.taken[stage, layer] = values


def prepared(spec: ModelSpec = NANO, dtype: torch.dtype = torch.float32) -> Prepared:
    return prepare(build(Recipe(spec)), "cpu", dtype)


def tables(spec: ModelSpec = NANO, dtype: torch.dtype = torch.float32) -> RopeTables:
    return RopeTables.build(spec, 64, dtype=dtype)


def rel_l2(found: np.ndarray, want: np.ndarray) -> float:
    """Of the worst position."""
    found, want = (a.astype(np.float64).reshape(-1, a.shape[-1]) for a in (found, want))
    return float((np.linalg.norm(found - want, axis=-1) / np.linalg.norm(want, axis=-1)).max())


def run(weights: Prepared, tokens: Any = TOKENS, **more: Any) -> np.ndarray:
    rope = RopeTables.build(weights.spec, 64, dtype=weights.dtype)
    with torch.inference_mode():
        return forward(weights, torch.tensor(tokens), rope, **more).numpy()


# --- against Transformers --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["nano", "tied", "no group"])
def pair(request: pytest.FixtureRequest) -> tuple[Prepared, Any]:
    """Our model and Transformers' with the same weights, eager attention, float32."""
    transformers = pytest.importorskip("transformers")
    spec = {"nano": NANO, "tied": TIED, "no group": replace(NANO, kv_heads=4)}[request.param]
    weights = build(Recipe(spec))
    config = transformers.Qwen2Config(**config_from_spec(spec), attn_implementation="eager")
    theirs = transformers.Qwen2ForCausalLM(config).eval()
    names = hf_names(spec)
    result = theirs.load_state_dict({names[n]: w.dense() for n, w in weights.tensors.items()}, strict=False)
    assert set(result.missing_keys) <= {"lm_head.weight"}
    assert not result.unexpected_keys
    return prepare(weights), theirs


def test_logits_agree_with_transformers_at_every_position(pair: tuple[Prepared, Any]) -> None:
    """Row B of the tolerances: relative L2 1e-4, absolute 1e-3 (1e-4 would only warn), KL 1e-6, equal argmax."""
    ours, theirs = pair
    with torch.inference_mode():
        want = theirs(torch.tensor([TOKENS])).logits[0].numpy()
    found = run(ours, all_positions=True)
    assert found.shape == want.shape == (len(TOKENS), ours.spec.vocab)
    assert rel_l2(found, want) <= 1e-5
    assert np.abs(found - want).max() <= 1e-4
    p, q = (torch.log_softmax(torch.from_numpy(logits).double(), -1) for logits in (want, found))
    assert (p.exp() * (p - q)).sum(-1).max() <= 1e-6
    assert (found.argmax(-1) == want.argmax(-1)).all()


def test_every_layer_agrees_with_transformers(pair: tuple[Prepared, Any]) -> None:
    ours, theirs = pair
    with torch.inference_mode():
        want = [h[0].numpy() for h in theirs(torch.tensor([TOKENS]), output_hidden_states=True).hidden_states]
    tap = Everything()
    run(ours, tap=tap)
    assert np.array_equal(tap.taken[Stage.EMBEDDING, 0], want[0])
    for layer in range(ours.spec.layers - 1):  # Transformers' last one is after the final norm
        assert rel_l2(tap.taken[Stage.POST_FFN_RESIDUAL, layer], want[layer + 1]) <= 1e-5
    assert rel_l2(tap.taken[Stage.FINAL_NORM, None], want[-1]) <= 1e-5


# --- against itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [NANO, TIED], ids=["nano", "tied"])
def test_decode_step_by_step_equals_prefill(spec: ModelSpec) -> None:
    weights = prepared(spec)
    whole = run(weights, all_positions=True)
    cache = GrowingCache(spec, weights.device, weights.dtype, capacity=2)
    for position, token in enumerate(TOKENS):
        cache.reserve(position + 1)
        assert rel_l2(run(weights, [token], cache=cache), whole[position]) <= 1e-5
    assert cache.length == len(TOKENS)


def test_a_prefill_in_two_parts_equals_one() -> None:
    weights = prepared()
    cache = GrowingCache(NANO, weights.device, weights.dtype)
    run(weights, TOKENS[:6], cache=cache)
    assert rel_l2(run(weights, TOKENS[6:], cache=cache), run(weights)) <= 1e-5


def test_a_static_cache_gives_the_same_logits_and_taps() -> None:
    """Fixed shapes, masked by position: what a CUDA graph replays."""
    weights = prepared()
    cache = StaticCache(NANO, weights.device, weights.dtype, capacity=32)
    grown = GrowingCache(NANO, weights.device, weights.dtype)
    for part in (TOKENS[:6], *([token] for token in TOKENS[6:])):
        static, growing = Everything(), Everything()
        found, want = run(weights, part, cache=cache, tap=static), run(weights, part, cache=grown, tap=growing)
        assert rel_l2(found, want) <= 1e-5
        assert {k: v.shape for k, v in static.taken.items()} == {k: v.shape for k, v in growing.taken.items()}
    assert int(cache.position) == cache.length == len(TOKENS)


def test_a_graft_of_scores_reaches_a_static_cache_too() -> None:
    """The slots behind the filled ones are put back, so that the tensor keeps its shape."""
    weights = prepared()
    cache = StaticCache(NANO, weights.device, weights.dtype, capacity=32)
    tap = Everything({(Stage.ATTN_SOFTMAX, 1)})
    graft = lambda stage, layer, x: x * 0 if (stage, layer) == (Stage.ATTN_SCORES, 1) else x  # noqa: E731
    run(weights, TOKENS, cache=cache, graft=graft, tap=tap)
    want = np.tril(np.ones((15, 15))) / np.arange(1, 16)[:, None]
    assert np.allclose(tap.taken[Stage.ATTN_SOFTMAX, 1], want, atol=1e-7)


def test_the_last_position_alone_equals_the_last_of_all() -> None:
    weights = prepared()
    assert rel_l2(run(weights), run(weights, all_positions=True)[-1]) <= 1e-6


def test_no_token_sees_a_later_one() -> None:
    weights, changed = prepared(), TOKENS[:9] + [7] * 6
    before, after = (run(weights, tokens, all_positions=True) for tokens in (TOKENS, changed))
    assert np.array_equal(before[:9], after[:9])
    assert not np.array_equal(before[9:], after[9:])


def test_float64_tells_the_rounding_of_float32() -> None:
    """Row A: at most 1e-4 cumulated, 1e-3 on the logits; a small model stays far below."""
    exact = run(prepared(dtype=torch.float64), all_positions=True)
    assert exact.dtype == np.float64
    assert 1e-9 < rel_l2(run(prepared(), all_positions=True), exact) <= 5e-6


def test_batches_are_rows_side_by_side() -> None:
    weights = prepared()
    other = TOKENS[::-1]
    both = run(weights, [TOKENS, other], all_positions=True)
    assert both.shape == (2, len(TOKENS), NANO.vocab)
    assert rel_l2(both, np.stack([run(weights, tokens, all_positions=True) for tokens in (TOKENS, other)])) <= 1e-5


# --- training --------------------------------------------------------------------------------------------------------


def gradients(operators: Any) -> dict[str, torch.Tensor]:
    weights = build(Recipe(NANO))
    for weight in weights.tensors.values():
        weight.data.requires_grad_()
    tokens = torch.tensor([TOKENS, TOKENS[::-1]])
    logits = forward(prepare(weights), tokens, tables(), operators=operators, all_positions=True)
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return {name: weight.data.grad for name, weight in weights.tensors.items()}


def test_every_weight_gets_its_gradient_and_fused_attention_the_same_one() -> None:
    plain, fused = gradients(REFERENCE), gradients(TRAINING)
    for name, gradient in plain.items():
        assert gradient is not None, name
        assert gradient.abs().max() > 1e-8 or name.endswith("k_bias"), name  # softmax forgets a shift of all scores
        assert torch.allclose(fused[name], gradient, rtol=1e-3, atol=1e-6), name


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    """Central differences in float64, along one random direction of all weights."""
    weights = build(Recipe(NANO, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    way = {n: torch.randn(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.tensors.items()}
    start = {n: w.data.clone() for n, w in weights.tensors.items()}
    rope, tokens = tables(dtype=torch.float64), torch.tensor(TOKENS)

    def loss(step: float) -> torch.Tensor:
        moved = {n: replace(w, data=start[n] + step * way[n]) for n, w in weights.tensors.items()}
        logits = forward(
            prepare(replace(weights, tensors=moved), "cpu", torch.float64), tokens, rope, all_positions=True
        )
        return torch.nn.functional.cross_entropy(logits[:-1], tokens[1:])

    for name in start:
        start[name].requires_grad_()
    loss(0.0).backward()
    slope = sum((start[n].grad * way[n]).sum().item() for n in start)
    with torch.no_grad():
        measured = (loss(1e-5) - loss(-1e-5)).item() / 2e-5
    assert measured == pytest.approx(slope, rel=1e-6)


# --- taps and grafts -------------------------------------------------------------------------------------------------


def shape_of(stage: Stage, spec: ModelSpec, count: int, seen: int) -> tuple[int, ...]:
    """The table of `pv.model.stages`, written a second time."""
    H, F, Q, KV = spec.hidden, spec.ffn, spec.q_width, spec.kv_width
    ffn = {Stage.FFN_GATE, Stage.FFN_UP, Stage.FFN_SILU, Stage.FFN_SWIGL}
    special = {
        Stage.QKV_MATMUL: (count, Q + 2 * KV),
        Stage.QKV_BIAS: (count, Q + 2 * KV),
        Stage.Q_POST_ROPE: (count, Q),
        Stage.K_POST_ROPE: (count, KV),
        Stage.ATTN_SCORES: (spec.heads, count, seen),
        Stage.ATTN_SOFTMAX: (spec.heads, count, seen),
        Stage.ATTENTION: (count, Q),
        Stage.LM_HEAD: (spec.vocab,),
    }
    return special.get(stage, (count, F) if stage in ffn else (count, H))


@pytest.mark.parametrize("spec", [NANO, TIED], ids=["nano", "tied"])
def test_all_stages_come_in_order_with_their_shapes(spec: ModelSpec) -> None:
    weights, tap, cache = prepared(spec), Everything(), None
    run(weights, tap=tap)
    layers = [(stage, layer) for layer in range(spec.layers) for stage in Stage if stage not in WHOLE_MODEL]
    want = [key for key in layers if key[0] is not Stage.EMBEDDING or key[1] == 0]
    assert list(tap.taken) == [*want, (Stage.FINAL_NORM, None), (Stage.LM_HEAD, None)]
    assert len(tap.taken) == 17 * spec.layers + 3
    cache = GrowingCache(spec, weights.device, weights.dtype)
    run(weights, cache=cache)
    step = Everything()
    run(weights, [5], cache=cache, tap=step)
    for count, seen, taken in ((15, 15, tap.taken), (1, 16, step.taken)):
        for (stage, _), values in taken.items():
            assert values.shape == shape_of(stage, spec, count, seen), stage
            assert values.dtype == np.float32
            assert values.flags.c_contiguous


def test_the_stages_hang_together() -> None:
    """Each tap is what its name says, recomputed from its neighbours in float64."""
    weights, tap = prepared(), Everything()
    logits = run(weights, tap=tap)
    at = {stage: tap.taken.get((stage, 1), tap.taken.get((stage, None))) for stage in Stage}
    layer = weights.layers[1]
    scores = at[Stage.ATTN_SCORES].astype(np.float64)
    masked = np.where(np.tril(np.ones((15, 15), bool)), scores, -np.inf)
    chances = np.exp(masked - masked.max(-1, keepdims=True))
    q, k = (at[s].reshape(15, -1, NANO.head_dim) for s in (Stage.Q_POST_ROPE, Stage.K_POST_ROPE))
    gate = at[Stage.FFN_GATE].astype(np.float64)
    recomputed = {
        Stage.QKV_BIAS: at[Stage.QKV_MATMUL] + layer.qkv_bias.numpy(),
        Stage.ATTN_SCORES: np.einsum("thd,shd->hts", q, k.repeat(NANO.group, 1)) / np.sqrt(NANO.head_dim),
        Stage.ATTN_SOFTMAX: chances / chances.sum(-1, keepdims=True),
        Stage.ATTN_OUT: at[Stage.ATTENTION] @ layer.attn_out.data.numpy().T,
        Stage.POST_ATTN_RESIDUAL: tap.taken[Stage.POST_FFN_RESIDUAL, 0] + at[Stage.ATTN_OUT],
        Stage.FFN_SILU: gate / (1 + np.exp(-gate)),
        Stage.FFN_SWIGL: at[Stage.FFN_SILU] * at[Stage.FFN_UP],
        Stage.POST_FFN_RESIDUAL: at[Stage.POST_ATTN_RESIDUAL] + at[Stage.FFN_OUT],
        Stage.LM_HEAD: logits,
    }
    for stage, want in recomputed.items():
        assert np.allclose(at[stage], want, rtol=1e-4, atol=1e-5), stage
    assert np.array_equal(at[Stage.LM_HEAD], logits)
    v = at[Stage.QKV_BIAS][:, -NANO.kv_width :].reshape(15, -1, NANO.head_dim).repeat(NANO.group, 1)
    mixed = np.einsum("hts,shd->thd", at[Stage.ATTN_SOFTMAX], v).reshape(15, -1)
    assert np.allclose(at[Stage.ATTENTION], mixed, rtol=1e-4, atol=1e-5)


PLACES = [(s, None) if s in WHOLE_MODEL else (s, i) for s in Stage for i in range(NANO.layers)]


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.lists(st.integers(0, NANO.vocab - 1), min_size=1, max_size=20),
    plan=st.sets(st.sampled_from(PLACES)),
    following=st.lists(st.integers(0, NANO.vocab - 1), max_size=3),
)
def test_watching_changes_no_bit(tokens: list[int], plan: set[Any], following: list[int]) -> None:
    weights = prepared_once()
    alone, watched = (GrowingCache(NANO, weights.device, weights.dtype) for _ in range(2))
    for part in (tokens, *([token] for token in following)):
        tap = Everything(plan)
        assert np.array_equal(run(weights, part, cache=alone), run(weights, part, cache=watched, tap=tap))
        assert set(tap.taken) == {key for key in plan if key[0] is not Stage.EMBEDDING or key[1] == 0}


_KEPT: list[Prepared] = []


def prepared_once() -> Prepared:
    if not _KEPT:
        _KEPT.append(prepared())
    return _KEPT[0]


def test_what_was_taken_is_a_copy() -> None:
    """Scribbling over a capture does not reach the forward, and the next step does not reach the capture."""
    weights = prepared()

    class Scribbler(Everything):
        def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
            values.fill(np.nan)

    assert np.array_equal(run(weights, tap=Scribbler()), run(weights))


def test_nothing_is_copied_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[tuple[int, ...]] = []
    module = __import__("pv.model.forward", fromlist=["copied"])
    real = module.copied
    monkeypatch.setattr(module, "copied", lambda x: copies.append(tuple(x.shape)) or real(x))
    run(prepared(), tap=Everything({(Stage.FFN_SWIGL, 1)}))
    assert copies == [(15, NANO.ffn)]


@pytest.mark.parametrize("place", [p for p in PLACES if p[0] is not Stage.EMBEDDING or p[1] == 0], ids=str)
def test_a_graft_takes_effect_from_its_stage_on(place: tuple[Stage, int | None]) -> None:
    """Everything before stays bitwise; the stage itself is the graft; the logits move."""
    weights, before, after = prepared_once(), Everything(), Everything()
    run(weights, tap=before)
    shift = torch.linspace(0.5, 1.5, 40)  # a constant would vanish in softmax and norm
    graft = lambda stage, layer, x: x + shift[: x.shape[-1]].mean() * x if (stage, layer) == place else x  # noqa: E731
    logits = run(weights, tap=after, graft=graft)
    order = list(before.taken)
    for key in order[: order.index(place)]:
        assert np.array_equal(before.taken[key], after.taken[key]), key
    assert np.allclose(after.taken[place], 2 * before.taken[place], rtol=0.2)
    assert not np.array_equal(logits, before.taken[Stage.LM_HEAD, None])


def test_a_graft_of_the_head_reaches_all_positions() -> None:
    weights = prepared()
    graft = lambda stage, layer, x: x * 0 if stage is Stage.LM_HEAD else x  # noqa: E731
    logits = run(weights, all_positions=True, graft=graft)
    assert not logits[-1].any()
    assert logits[-2].any()


@pytest.mark.parametrize("stage", [Stage.ATTN_SCORES, Stage.ATTN_SOFTMAX])
def test_fused_attention_refuses_taps_that_it_cannot_serve(stage: Stage) -> None:
    weights = prepared()
    with pytest.raises(ValueError, match=f"fused attention has no {stage} to tap"):
        run(weights, operators=TRAINING, tap=Everything({(stage, 1)}))
    run(weights, operators=TRAINING, tap=Everything({(Stage.ATTENTION, 1)}))


def test_one_operator_can_be_replaced() -> None:
    """As planted defects do: gate and up keep their places, GELU stands where SiLU should."""
    weights, sound, planted = prepared(), Everything(), Everything()
    run(weights, tap=sound)
    run(weights, operators=replace(REFERENCE, silu=torch.nn.functional.gelu), tap=planted)
    assert np.array_equal(sound.taken[Stage.FFN_GATE, 0], planted.taken[Stage.FFN_GATE, 0])
    assert not np.allclose(sound.taken[Stage.FFN_SILU, 0], planted.taken[Stage.FFN_SILU, 0], atol=1e-3)


def test_the_two_halves_make_the_whole() -> None:
    weights = prepared()
    with torch.inference_mode():
        hidden = hidden_states(weights, torch.tensor(TOKENS), tables())
        assert hidden.shape == (len(TOKENS), NANO.hidden)
        assert np.array_equal(head(weights, hidden).numpy(), run(weights))
