"""The wgpu backend on whatever Vulkan is here: right at every stage, undisturbed by looking, honest about limits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pv.backends.cpu import open_cpu
from pv.backends.protocol import BackendError, Session
from pv.backends.wgpu_device import HARDWARE, Device, Region
from pv.backends.wgpu_recipe import RECIPE
from pv.backends.wgpu_session import WgpuSession, _submits, open_wgpu
from pv.model.errors import ContextError
from pv.model.spec import named_shape
from pv.model.stages import FIRST_LAYER_ONLY, WHOLE_MODEL, Stage
from pv.model.synthetic import Recipe, build

pytestmark = pytest.mark.usefixtures("vulkan")
TOKENS = [3, 141, 59, 26, 53, 58, 97, 93]
NEAR = 3e-6  # relative L2 of honest float32; a wrong kernel is orders of magnitude away


@pytest.fixture(scope="module")
def session(nano, vulkan) -> Iterator[WgpuSession]:
    opened = open_wgpu(nano)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def reference(nano) -> Session:
    return open_cpu(nano)


def relative(test: np.ndarray, expected: np.ndarray) -> float:
    wide = expected.astype(np.float64)
    return float(np.linalg.norm(test.astype(np.float64) - wide) / np.linalg.norm(wide))


def test_it_is_vulkan_and_says_whether_it_is_software(session):
    assert session.facts.backend == "wgpu"
    assert session.facts.device_class == ("vulkan-sw" if session.facts.software else "vulkan")
    assert session.facts.software == ("llvmpipe" in session.facts.name)
    assert session.facts.details["api"] == "Vulkan"
    assert session.facts.name
    assert session.facts.driver


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 31, 33, 65])
def test_every_stage_of_a_prefill_is_the_cpus(session, reference, everything, length):
    tokens = [(7 * n + length) % 300 for n in range(length)]
    ours, theirs = everything(), everything()
    session.reset(), reference.reset()
    logits = session.prefill(tokens, ours)
    reference.prefill(tokens, theirs)
    assert list(ours.tensors) == list(theirs.tensors)  # the same 20 stages, in the same order
    assert len(ours.tensors) == 17 * session.spec.layers + 3
    for key, expected in theirs.tensors.items():
        made = ours.tensors[key]
        assert made.shape == expected.shape, key
        assert made.dtype == np.float32
        assert made.flags.c_contiguous
        assert relative(made, expected) <= NEAR, key
    assert np.array_equal(logits, ours.tensors[Stage.LM_HEAD, None])


def test_every_stage_of_a_decode_step_is_the_cpus(session, reference, everything):
    ours, theirs = everything(), everything()
    session.reset(), reference.reset()
    session.prefill(TOKENS), reference.prefill(TOKENS)
    session.decode(11), reference.decode(11)
    session.decode(12, ours), reference.decode(12, theirs)
    assert list(ours.tensors) == list(theirs.tensors)
    for key, expected in theirs.tensors.items():
        assert ours.tensors[key].shape == expected.shape, key
        assert relative(ours.tensors[key], expected) <= NEAR, key


def test_looking_changes_no_bit(session, everything):
    def answers(tap=None, graft=None) -> list[np.ndarray]:
        session.reset()
        return [session.prefill(TOKENS, tap, graft), session.decode(5, tap, graft), session.decode(6, tap, graft)]

    plain = answers()
    assert all(map(np.array_equal, plain, answers(everything())))
    assert all(map(np.array_equal, plain, answers(None, lambda stage, layer, x: x)))
    assert all(map(np.array_equal, plain, answers(None, lambda stage, layer, x: x.copy())))
    assert all(map(np.array_equal, plain, answers()))  # and nothing of it stays behind


def test_a_tap_gets_copies(session, everything):
    first = everything()
    session.reset()
    session.prefill(TOKENS, first)
    kept = {key: values.copy() for key, values in first.tensors.items()}
    session.decode(1)
    assert all(np.array_equal(values, kept[key]) for key, values in first.tensors.items())


def test_only_what_is_wanted_is_taken(session):
    class Picky:
        def __init__(self) -> None:
            self.taken: list[tuple[Stage, int | None]] = []

        def wants(self, stage: Stage, layer: int | None) -> bool:
            return stage in (Stage.FFN_UP, Stage.LM_HEAD) and layer in (None, 1)

        def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
            self.taken.append((stage, layer))

    tap = Picky()
    session.reset()
    session.prefill(TOKENS, tap)
    assert tap.taken == [(Stage.FFN_UP, 1), (Stage.LM_HEAD, None)]


def test_a_capture_larger_than_the_stash_is_handed_out_in_parts(session, everything, monkeypatch):
    whole, parts = everything(), everything()
    session.reset()
    session.prefill(TOKENS, whole)
    monkeypatch.setattr("pv.backends.wgpu_session.STASH_BYTES", 4096)
    session._device._stash = None
    session.reset()
    session.prefill(TOKENS, parts)
    assert list(parts.tensors) == list(whole.tensors)
    assert all(np.array_equal(values, whole.tensors[key]) for key, values in parts.tensors.items())


@pytest.mark.parametrize("stage", [s for s in Stage if s not in WHOLE_MODEL])
def test_a_graft_at_any_stage_reaches_the_logits(session, stage):
    layer = 0 if stage in FIRST_LAYER_ONLY else 1
    session.reset()
    plain = session.prefill(TOKENS)
    session.reset()
    grafted = session.prefill(TOKENS, graft=lambda s, at, x: x * 1.5 if (s, at) == (stage, layer) else x)
    assert not np.array_equal(plain, grafted)


def test_a_graft_is_what_the_next_stage_reads(session, reference, everything):
    """The CPU's own tensors grafted everywhere leave only the last stage's own error."""
    theirs = everything()
    reference.reset()
    expected = reference.prefill(TOKENS, theirs)
    session.reset()
    logits = session.prefill(TOKENS, graft=lambda stage, layer, x: theirs.tensors[stage, layer])
    assert np.array_equal(logits, expected)


def test_grafts_come_before_taps(session, everything):
    tap = everything()
    session.reset()
    session.prefill(TOKENS, tap, lambda stage, layer, x: x * 0 if stage is Stage.FFN_UP else x)
    assert not tap.tensors[Stage.FFN_UP, 0].any()
    assert tap.tensors[Stage.FFN_GATE, 0].any()  # the other half of the same buffer is untouched


def test_a_reset_leaves_nothing_behind(session):
    session.reset()
    first = session.prefill(TOKENS)
    session.reset()
    session.prefill([7] * 50)
    session.reset()
    assert session.position == 0
    assert np.array_equal(session.prefill(TOKENS), first)


def test_two_sessions_give_the_same_bits(nano, session):
    other = open_wgpu(nano)
    session.reset()
    assert np.array_equal(other.prefill(TOKENS), session.prefill(TOKENS))
    other.close()


def test_the_cache_grows_and_keeps_what_it_held(session, reference):
    session.reset(), reference.reset()
    session.prefill(TOKENS), reference.prefill(TOKENS)
    for n in range(300):  # past 256 slots, the first capacity
        made, expected = session.decode(n % 300), reference.decode(n % 300)
    assert session.position == len(TOKENS) + 300
    assert relative(made, expected) <= 5e-6


def test_a_prompt_longer_than_a_pass_is_cut(session, monkeypatch, everything):
    session.reset()
    whole = session.prefill(TOKENS)
    monkeypatch.setattr(session, "_rows_at_once", lambda keys: 3)
    session.reset()
    cut = session.prefill(TOKENS)
    assert session.position == len(TOKENS)
    assert relative(cut, whole) <= NEAR
    session.reset()
    with pytest.raises(BackendError, match=r"a capture of 8 tokens does not fit one pass of at most 3"):
        session.prefill(TOKENS, everything())


def test_weights_are_cut_into_chunks_that_a_binding_holds(nano, reference):
    device = Device()
    device.max_binding = 20480  # 160 rows of nano's 32-wide matrices
    chunked = WgpuSession(nano, device)
    try:
        assert [(chunk.first, chunk.rows) for chunk in chunked._model.lm_head.chunks] == [(0, 160), (160, 140)]
        reference.reset()
        assert relative(chunked.prefill([1, 299, 40]), reference.prefill([1, 299, 40])) <= NEAR
        assert relative(chunked.decode(298), reference.decode(298)) <= NEAR
    finally:
        chunked.close()


def test_the_tuning_for_hardware_is_as_right(nano, reference):
    device = Device()
    device.tuning = HARDWARE
    tuned = WgpuSession(nano, device)
    try:
        reference.reset()
        assert relative(tuned.prefill(TOKENS), reference.prefill(TOKENS)) <= NEAR
        for token in (5, 6, 7):
            assert relative(tuned.decode(token), reference.decode(token)) <= NEAR
    finally:
        tuned.close()


@settings(max_examples=8, deadline=None)
@given(
    heads=st.sampled_from([(4, 1), (4, 4), (6, 2)]),
    depth=st.sampled_from([4, 12]),
    ffn=st.sampled_from([4, 36, 100]),
    vocab=st.integers(5, 130),
    tied=st.booleans(),
    bias=st.booleans(),
    length=st.integers(1, 9),
)
def test_any_shape_is_as_right(heads, depth, ffn, vocab, tied, bias, length):
    spec = replace(
        named_shape("nano"), heads=heads[0], kv_heads=heads[1], head_dim=depth, hidden=20, ffn=ffn, vocab=vocab,
        tied=tied, qkv_bias=bias, layers=2,
    )  # fmt: skip
    weights = build(Recipe(spec))
    tokens = [n % vocab for n in range(length)]
    ours, theirs = open_wgpu(weights), open_cpu(weights)
    try:
        assert relative(ours.prefill(tokens), theirs.prefill(tokens)) <= 5e-6
        assert relative(ours.decode(1), theirs.decode(1)) <= 5e-6
    finally:
        ours.close()


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [([], "expected at least one token"), ([0, 300], "got 300"), ([1] * 513, "expected at most 512 tokens")],
)
def test_tokens_that_do_not_fit_are_refused(session, tokens, sentence):
    session.reset()
    with pytest.raises(ContextError, match=sentence):
        session.prefill(tokens)
    assert session.position == 0


def test_a_second_prefill_is_refused(session):
    session.reset()
    session.prefill(TOKENS)
    with pytest.raises(ContextError, match="expected an empty cache for a prefill, got 8 tokens"):
        session.prefill(TOKENS)


def test_widths_that_vec4_cannot_walk_are_refused():
    spec = replace(named_shape("nano"), ffn=78)
    with pytest.raises(BackendError, match=r"expected ffn to be a multiple of 4, got ffn=78"):
        open_wgpu(build(Recipe(spec)))


def test_a_closed_session_says_so(nano):
    closed = open_wgpu(nano)
    closed.close()
    closed.close()
    with pytest.raises(BackendError, match="the session is closed"):
        closed.prefill(TOKENS)


# -- sentinels ----------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(nano) -> Iterator[WgpuSession]:
    opened = open_wgpu(nano, guard=True)
    yield opened
    opened.close()


def test_a_healthy_session_leaves_its_sentinels_whole(guarded, session):
    session.reset()
    for tokens in (TOKENS, [5], TOKENS[:7], TOKENS * 5 + [1]):  # off the block of 4 too
        guarded.reset()
        guarded.prefill(tokens)
        guarded.decode(9)
        assert guarded.damaged() == []
    session.prefill(TOKENS)
    guarded.reset()
    session.reset()
    assert np.array_equal(guarded.prefill(TOKENS), session.prefill(TOKENS))  # the sentinels disturb nothing


def test_a_write_behind_a_buffer_is_found(guarded):
    guarded.prefill(TOKENS)
    region = next(g for g in guarded._block.guarded if g.name == "silu").region
    behind = Region(region.buffer, region.offset + region.size + 4, 4)
    guarded._device.write(behind, np.zeros(1, np.float32))
    assert guarded.damaged() == ["behind silu"]


def test_a_write_before_a_buffer_is_found(guarded):
    guarded.prefill(TOKENS)
    region = next(g for g in guarded._single.guarded if g.name == "logits").region
    guarded._device.write(Region(region.buffer, region.offset - 8, 4), np.zeros(1, np.float32))
    assert guarded.damaged() == ["before logits"]


def test_a_write_into_a_slot_that_nobody_owns_is_found(guarded):
    guarded.prefill(TOKENS)
    values = guarded._cache.values[2]
    slot = 4 * guarded.spec.head_dim * 9
    guarded._device.write(Region(values.buffer, slot, 4), np.zeros(1, np.float32))
    assert guarded.damaged() == ["slot 9 of the values of layer 2"]


# -- failures -----------------------------------------------------------------------------------------------------


def test_out_of_memory_is_one_sentence(nano):
    device = Device()
    device.max_binding = 1 << 60
    with pytest.raises(BackendError, match=r"wgpu: (out of device memory|failed) while allocating .* MiB for huge"):
        device.allocate("huge", 1 << 44)
    device.close()


def test_a_buffer_beyond_a_binding_is_refused_by_name():
    device = Device()
    with pytest.raises(BackendError, match=r"scores needs .* bytes, more than one binding of .* holds"):
        device.allocate("scores", device.max_binding + 1)
    device.close()


def test_a_lost_device_is_an_error_and_no_hang(nano):
    lost = open_wgpu(nano)
    lost.prefill(TOKENS)
    lost._device._device.destroy()  # what a driver reset does to us
    with pytest.raises(BackendError, match=r"wgpu: failed while"):
        lost.decode(1)
    lost.close()


def test_a_device_that_never_answers_is_an_error(nano, monkeypatch):
    hanging = open_wgpu(nano)
    hanging._device.watchdog = 0.05

    class Never:
        def sync_wait(self) -> None:
            import time

            time.sleep(2)

    with pytest.raises(BackendError, match=r"the device gave no answer within 0.05 s"):
        hanging._device._wait_for(Never())
    hanging._device.watchdog = 60
    hanging.close()


def test_after_an_answer_too_late_the_next_one_is_waited_for_anew(nano):
    late = open_wgpu(nano)
    release = threading.Event()

    class Hung:
        def sync_wait(self) -> None:
            release.wait(10)

    class Broken:
        def sync_wait(self) -> None:
            raise RuntimeError("the device is gone")

    late._device.watchdog = 0.05
    with pytest.raises(BackendError, match=r"the device gave no answer"):
        late._device._wait_for(Hung())
    late._device.watchdog = 60
    with pytest.raises(RuntimeError, match="the device is gone"):
        late._device._wait_for(Broken())
    first = late.prefill(TOKENS)  # by a thread that waits for nothing else
    release.set()
    late.reset()
    assert np.array_equal(late.prefill(TOKENS), first)
    late.close()


@given(count=st.integers(1, 700), first=st.integers(1, 100), doublings=st.integers(0, 8))
def test_dispatches_are_submitted_in_order_few_at_first(count, first, doublings):
    tuning = HARDWARE._replace(first=first, batch=first << doublings)
    parts = list(_submits(range(count), tuning))
    assert [n for part, _ in parts for n in part] == list(range(count))
    assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True]
    assert all(len(part) <= tuning.batch for part, _ in parts)
    assert len(parts[0][0]) == min(first, count)


def test_a_shader_that_does_not_compile_names_itself(nano):
    broken = replace(RECIPE, sources={**RECIPE.sources, "silu": "this is no WGSL"})
    with pytest.raises(BackendError, match=r"failed while compiling silu.wgsl"):
        open_wgpu(nano, recipe=broken).prefill(TOKENS)


def test_weights_larger_than_one_upload_arrive_whole(nano, reference, monkeypatch):
    """Every real model has a matrix larger than one upload; this one has none, so the limit is lowered."""
    monkeypatch.setattr("pv.backends.wgpu_device.UPLOAD_BYTES", 1 << 10)
    opened = open_wgpu(nano)
    try:
        reference.reset()
        assert relative(opened.prefill(TOKENS), reference.prefill(TOKENS)) <= NEAR
    finally:
        opened.close()
