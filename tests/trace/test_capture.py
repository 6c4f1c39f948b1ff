"""Captures are additive, complete or absent, and hold exactly what was asked."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pv.backends.cpu import open_cpu
from pv.model.errors import ContextError
from pv.model.spec import SHAPES
from pv.model.stages import ALIASES, Stage
from pv.trace import manifest as manifests
from pv.trace.aprt import open_aprt, sha256_of, write_new
from pv.trace.capture import CaptureWriter, capture
from pv.trace.manifest import CaptureError, WriteError
from pv.trace.plan import make_plan
from pv.trace.reading import open_capture
from pv.trace.stages import SelectionError, StageChoice, in_order, parse_stages, stage_shape

NANO = SHAPES["nano"]
TOKENS = (5, 17, 42, 5, 200, 7, 99)
ALL = make_plan(parse_stages("all"), NANO)


def tensors(folder):
    return {str(p.relative_to(folder)): open_aprt(p).values for p in sorted(folder.rglob("*.bin"))}


def test_a_complete_capture_is_whole_and_verified(session, origin, tmp_path):
    done = capture(session, TOKENS, ALL, tmp_path / "a", origin)
    read = open_capture(tmp_path / "a")
    read.verify()
    assert read.manifest == done.manifest
    assert len(read.manifest.files) == 17 * NANO.layers + 3
    assert {p.name for p in tmp_path.iterdir()} == {"a"}
    for entry in read.manifest.files:
        assert entry.shape == stage_shape(NANO, entry.stage, 7, 7)
        assert sha256_of(tmp_path / "a" / entry.path) == entry.sha256
        assert (entry.first, entry.last) == ((6, 7) if entry.stage is Stage.LM_HEAD else (0, 7))
    np.testing.assert_array_equal(read.open(read.entry(Stage.LM_HEAD, None)).values, done.logits)
    assert read.open(read.entry(Stage.LM_HEAD, None)).layer is None
    assert read.manifest.tokens == TOKENS
    assert not read.manifest.flags


def test_two_runs_write_identical_bytes(weights, origin, tmp_path):
    for name in "ab":
        capture(open_cpu(weights), TOKENS, ALL, tmp_path / name, origin)
    a, b = ({str(p.relative_to(tmp_path / n)): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in "ab")
    assert a == b
    assert len(a) == 17 * NANO.layers + 3 + 1


PLANS = st.builds(
    lambda stages, layers, heads: make_plan(
        StageChoice(in_order(stages), frozenset(stages)), NANO, layers=layers, heads=heads
    ),
    st.sets(st.sampled_from(list(Stage)), min_size=1),
    st.none() | st.sets(st.integers(0, NANO.layers - 1), min_size=1).map(lambda s: tuple(sorted(s))),
    st.none() | st.sets(st.integers(0, NANO.heads - 1), min_size=1).map(lambda s: tuple(sorted(s))),
)
PROMPTS = st.lists(st.integers(0, NANO.vocab - 1), min_size=1, max_size=12)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=PLANS, tokens=PROMPTS, steps=st.sets(st.integers(1, 3), max_size=2), prefill=st.booleans())
def test_logits_and_tokens_are_bitwise_the_same_with_and_without(
    weights, origin, tmp_path, plan, tokens, steps, prefill
):
    plan = replace(plan, steps=tuple(sorted(steps)), prefill=prefill or not steps)
    done = capture(open_cpu(weights), tokens, plan, tmp_path / "a", origin)
    plain = open_cpu(weights)
    logits, fed = plain.prefill(tokens), []
    for _ in range(max(steps, default=0)):
        fed.append(int(np.argmax(logits)))
        logits = plain.decode(fed[-1])
    assert done.logits.tobytes() == logits.tobytes()
    assert done.decoded == tuple(fed)
    assert set(tensors(tmp_path / "a")) == {f.path for f in plan.files(NANO, len(tokens))}


def test_captured_tensors_are_copies(weights, origin, tmp_path):
    """What is on disk are the values at the stage, though later operators may reuse the memory."""
    seen = {}

    def graft(stage, layer, x):
        seen[stage, layer] = x.detach().numpy().copy()
        return x

    open_cpu(weights).prefill(TOKENS, graft=graft)
    capture(open_cpu(weights), TOKENS, ALL, tmp_path / "a", origin)
    read = open_capture(tmp_path / "a")
    for (stage, layer), values in seen.items():
        np.testing.assert_array_equal(read.open(read.entry(stage, layer)).values, values.reshape(-1))


def test_nothing_is_handed_out_that_was_not_asked_for(session, origin, tmp_path):
    plan = make_plan(parse_stages("ffn_gate"), NANO, layers=(1,))
    taken = []

    class Watching(CaptureWriter):
        def write(self, stage, layer, step, values):
            taken.append((stage, layer))
            super().write(stage, layer, step, values)

    (tmp_path / "x").mkdir()
    session.prefill(TOKENS, Watching(tmp_path / "x", plan, NANO, 7).tap())
    assert taken == [(Stage.FFN_GATE, 1)]


def test_heads_are_the_ones_named(weights, origin, tmp_path):
    capture(open_cpu(weights), TOKENS, make_plan(parse_stages("attn_softmax"), NANO), tmp_path / "all", origin)
    plan = make_plan(parse_stages("attn_softmax"), NANO, layers=(2,), heads=(1, 3))
    done = capture(open_cpu(weights), TOKENS, plan, tmp_path / "some", origin)
    whole = tensors(tmp_path / "all")["layer-2/attn_softmax.bin"].reshape(4, 7, 7)
    np.testing.assert_array_equal(
        tensors(tmp_path / "some")["layer-2/attn_softmax.bin"].reshape(2, 7, 7), whole[[1, 3]]
    )
    assert done.manifest.heads == (1, 3)


def test_decode_steps_stand_in_their_own_folders(session, origin, tmp_path):
    plan = make_plan(parse_stages("attn_scores,lm_head"), NANO, layers=(0,), steps=(1, 3))
    done = capture(session, TOKENS, plan, tmp_path / "a", origin, feed=[9, 8])
    assert set(tensors(tmp_path / "a")) == {
        f"step-{k}/{rest}.bin" for k in (1, 3) for rest in ("layer-0/attn_scores", "lm_head")
    }
    assert done.decoded[:2] == (9, 8)
    entry = open_capture(tmp_path / "a").entry(Stage.ATTN_SCORES, 0, 3)
    assert (entry.shape, entry.first, entry.last) == ((4, 1, 10), 9, 10)


def test_a_decode_step_equals_the_prefill_of_the_same_tokens(weights, origin, tmp_path):
    plan = make_plan(parse_stages("post_ffn_residual,lm_head"), NANO, steps=(2,))
    capture(open_cpu(weights), TOKENS, plan, tmp_path / "d", origin, feed=[1, 2])
    capture(
        open_cpu(weights),
        (*TOKENS, 1, 2),
        make_plan(parse_stages("layer_output,lm_head"), NANO),
        tmp_path / "p",
        origin,
    )
    decoded, whole = tensors(tmp_path / "d"), tensors(tmp_path / "p")
    for layer in range(NANO.layers):
        path = f"layer-{layer}/{ALIASES['layer_output']}.bin"
        np.testing.assert_allclose(decoded["step-2/" + path], whole[path].reshape(9, -1)[-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(decoded["step-2/lm_head.bin"], whole["lm_head.bin"], rtol=1e-4, atol=1e-5)


def test_nan_reaches_the_file_and_the_flags(session, origin, tmp_path):
    odd = np.array([0x7FC0BEEF], np.uint32).view(np.float32)[0]
    tap = CaptureWriter(tmp_path, make_plan(parse_stages("ffn_up"), NANO, layers=(0,)), NANO, 2)
    values = np.ones((2, NANO.ffn), np.float32)
    values[1, 3] = odd
    values[0, 0] = np.inf
    tap.tap().take(Stage.FFN_UP, 0, values)
    manifest = tap.finish(origin, [1, 2], [])
    assert manifest.flags == ("not finite: layer-0/ffn_up.bin holds 1 NaN and 1 infinite values",)
    assert tensors(tmp_path)["layer-0/ffn_up.bin"].view(np.uint32)[NANO.ffn + 3] == 0x7FC0BEEF


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (np.nan, "1 NaN and 0 infinite"),
        (np.inf, "0 NaN and 1 infinite"),
        (-np.inf, "0 NaN and 1 infinite"),
        (np.finfo(np.float32).max, None),
    ],
)
def test_one_odd_value_is_counted(origin, tmp_path, value, flag):
    writer = CaptureWriter(tmp_path, make_plan(parse_stages("ffn_up"), NANO, layers=(0,)), NANO, 2)
    values = np.full((2, NANO.ffn), np.finfo(np.float32).max)  # their sum is not finite, and they are
    values[0, 5] = value
    writer.tap().take(Stage.FFN_UP, 0, values)
    flags = writer.finish(origin, [1, 2], []).flags
    assert flags == (() if flag is None else (f"not finite: layer-0/ffn_up.bin holds {flag} values",))


def test_a_stale_buffer_is_flagged_and_not_refused(origin, tmp_path):
    """Layers 0 and 2 hold the same values, layer 1 differs in one element in the middle."""
    writer = CaptureWriter(tmp_path, make_plan(parse_stages("ffn_up"), NANO), NANO, 40)
    values = np.random.default_rng(0).standard_normal((40, NANO.ffn)).astype(np.float32)
    other = values.copy()
    other[20, 0] += 1
    for layer, kept in ((0, values), (1, other), (2, values)):
        writer.tap().take(Stage.FFN_UP, layer, kept)
    assert writer.finish(origin, [1] * 40, []).flags == (
        "identical: layer-2/ffn_up.bin has the very values of layer-0/ffn_up.bin",
    )


def test_one_token_may_be_equal_across_layers(origin, tmp_path):
    writer = CaptureWriter(tmp_path, make_plan(parse_stages("attn_softmax"), NANO), NANO, 1)
    for layer in range(NANO.layers):
        writer.tap().take(Stage.ATTN_SOFTMAX, layer, np.ones((NANO.heads, 1, 1), np.float32))
    assert not writer.finish(origin, [1], []).flags


def test_a_backend_that_gives_too_little_too_much_or_another_shape_is_refused(origin, tmp_path):
    writer = CaptureWriter(tmp_path, make_plan(parse_stages("ffn_up"), NANO, layers=(0, 1)), NANO, 2)
    tap = writer.tap()
    with pytest.raises(CaptureError, match="was not asked for"):
        tap.take(Stage.FFN_GATE, 0, np.ones((2, NANO.ffn), np.float32))
    with pytest.raises(CaptureError, match=r"expected shape \(2, 80\) for layer-0/ffn_up.bin, got \(3, 80\)"):
        tap.take(Stage.FFN_UP, 0, np.ones((3, NANO.ffn), np.float32))
    tap.take(Stage.FFN_UP, 0, np.ones((2, NANO.ffn), np.float32))
    with pytest.raises(CaptureError, match="was written twice"):
        tap.take(Stage.FFN_UP, 0, np.ones((2, NANO.ffn), np.float32))
    with pytest.raises(
        CaptureError, match=r"incomplete: the forward did not give layer-1/ffn_up.bin \(1 of 2 missing\)"
    ):
        writer.finish(origin, [1, 2], [])
    assert not (tmp_path / manifests.NAME).exists()


def test_an_earlier_capture_gives_way_and_foreign_files_never_do(session, origin, tmp_path):
    target = tmp_path / "a"
    capture(session, TOKENS, ALL, target, origin)
    session.reset()
    capture(session, TOKENS, make_plan(parse_stages("lm_head"), NANO), target, origin)
    assert set(tensors(target)) == {"lm_head.bin"}
    (target / "notes.txt").write_text("mine")
    session.reset()
    with pytest.raises(CaptureError, match=r"holds notes.txt, which is of no capture"):
        capture(session, TOKENS, ALL, target, origin)
    assert (target / "notes.txt").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"a"}
    (tmp_path / "file").write_text("x")
    with pytest.raises(CaptureError, match="found a file at"):
        capture(session, TOKENS, ALL, tmp_path / "file", origin)


def test_links_are_followed_and_the_folder_one_stands_in_is_not_replaced(session, origin, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    for _ in range(2):
        session.reset()
        capture(session, TOKENS, make_plan(parse_stages("lm_head"), NANO), tmp_path / "link", origin)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "lm_head.bin").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"real", "link"}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(CaptureError, match="is the folder you stand in"):
        capture(session, TOKENS, ALL, Path("."), origin)


def test_an_error_in_the_forward_leaves_nothing_behind(session, origin, tmp_path):
    with pytest.raises(ContextError):
        capture(session, [1] * (NANO.context + 1), make_plan(parse_stages("lm_head"), NANO), tmp_path / "a", origin)
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_files_are_being_written_leaves_no_writer_behind(session, origin, tmp_path, monkeypatch):
    """The forward dies with half of the files waiting: none of them appears once the folder is gone."""
    written = []

    def slow(path, layer, values):
        time.sleep(0.02)
        written.append(path)
        return write_new(path, layer, values)

    def dying(stage, layer, x):
        if (stage, layer) == (Stage.FFN_NORM, 1):
            raise RuntimeError("device lost")
        return x

    monkeypatch.setattr("pv.trace.capture.write_new", slow)
    monkeypatch.setattr("pv.trace.capture._BATCH", 1)
    prefill = session.prefill
    monkeypatch.setattr(session, "prefill", lambda tokens, tap: prefill(tokens, tap, graft=dying))
    with pytest.raises(RuntimeError, match="device lost"):
        capture(session, TOKENS, ALL, tmp_path / "a", origin)
    count = len(written)
    assert 0 < count < 29  # 18 of layer 0, 11 of layer 1 before the end
    time.sleep(0.1)
    assert len(written) == count
    assert list(tmp_path.iterdir()) == []


def test_what_a_write_raised_reaches_the_one_who_asked(session, origin, tmp_path, monkeypatch):
    """In the middle of the forward, and in its last batch."""
    for fails_at in (3, 17 * NANO.layers + 3):
        calls = iter(range(1, 1000))

        def failing(path, layer, values, calls=calls, fails_at=fails_at):
            if next(calls) == fails_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write_new(path, layer, values)

        monkeypatch.setattr("pv.trace.capture.write_new", failing)
        session.reset()
        with pytest.raises(WriteError, match="No space left on device; nothing was left behind"):
            capture(session, TOKENS, ALL, tmp_path / "a", origin)
        assert list(tmp_path.iterdir()) == []


def test_few_bytes_wait_for_a_slow_disk(session, origin, tmp_path, monkeypatch):
    """The forward waits rather than hold the whole capture in memory."""
    ahead = []
    given, kept = 0, 0

    def slow(path, layer, values):
        nonlocal kept
        time.sleep(0.002)
        kept += values.nbytes
        return write_new(path, layer, values)

    class Watching(CaptureWriter):
        def write(self, stage, layer, step, values):
            nonlocal given
            given += values.nbytes
            super().write(stage, layer, step, values)
            ahead.append(given - kept)

    monkeypatch.setattr("pv.trace.capture.write_new", slow)
    monkeypatch.setattr("pv.trace.capture._BATCH", 1000)
    monkeypatch.setattr("pv.trace.capture._AHEAD", 4000)
    (tmp_path / "x").mkdir()
    with Watching(tmp_path / "x", ALL, NANO, 7) as writer:
        session.prefill(TOKENS, writer.tap())
        writer.finish(origin, TOKENS, ())
    largest = 4 * max(np.prod(file.shape) for file in ALL.files(NANO, 7))
    assert given > 50_000
    assert 0 < max(ahead) <= 4000 + 2 * (1000 + largest)  # what is under way, the batch being filled, and the next


def test_a_place_that_cannot_be_written_is_named(session, origin, tmp_path):
    with pytest.raises(CaptureError, match=r"cannot write the capture /proc/no/such/a: .*; nothing was left behind"):
        capture(session, TOKENS, ALL, Path("/proc/no/such/a"), origin)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CaptureError, match="cannot write the capture"):
        capture(session, TOKENS, ALL, tmp_path / "file" / "a", origin)


def test_a_disk_without_room_is_refused_before_the_forward_runs(session, origin, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(CaptureError, match=r"no room for the capture: \d+ bytes are needed .*, 10 are free"):
        capture(session, TOKENS, ALL, tmp_path / "a", origin)
    assert session.position == 0
    assert list(tmp_path.iterdir()) == []


CHILD = """
import resource, sys, time
from pathlib import Path
from pv.backends.cpu import open_cpu
from pv.model.spec import SHAPES
from pv.model.synthetic import Recipe, build
from pv.trace.capture import Origin, capture
from pv.trace.manifest import CaptureError, WriteError
from pv.trace.plan import make_plan
from pv.trace.stages import parse_stages
nano = SHAPES["nano"]
session = open_cpu(build(Recipe(nano)))
origin = Origin("pv", "nano", "nano", "sha256:0", "F32", {})
if sys.argv[2] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
slow = (lambda done, total, path: (print(done, flush=True), time.sleep(0.05))) if sys.argv[2] == "slow" else None
try:
    capture(session, range(7), make_plan(parse_stages("all"), nano), Path(sys.argv[1]), origin, progress=slow)
except CaptureError as error:
    print(error)
"""


def test_a_full_disk_in_the_middle_leaves_nothing_behind(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "a", "full"], capture_output=True, text=True, check=True
    )
    assert "cannot write the capture" in done.stdout
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_killed_capture_passes_for_none(tmp_path):
    command = [sys.executable, "-c", CHILD, tmp_path / "a", "slow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 5:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert not (tmp_path / "a").exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.")
    with pytest.raises(CaptureError, match="no complete capture"):
        open_capture(left)


def damaged(folder, change):
    """Apply a change to a copy of a capture's manifest data."""
    path = folder / manifests.NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.fixture
def folder(session, origin, tmp_path):
    capture(session, TOKENS, make_plan(parse_stages("ffn_gate,ffn_up,lm_head"), NANO), tmp_path / "a", origin)
    return tmp_path / "a"


def test_missing_extra_truncated_swapped_and_altered_files_are_refused_by_name(folder):
    gate, up = folder / "layer-1" / "ffn_gate.bin", folder / "layer-1" / "ffn_up.bin"
    whole = gate.read_bytes()

    gate.unlink()
    with pytest.raises(CaptureError, match=r"missing: .*layer-1/ffn_gate.bin"):
        open_capture(folder)
    gate.write_bytes(whole[:-4])
    with pytest.raises(CaptureError, match=r"layer-1/ffn_gate.bin: truncated"):
        open_capture(folder)
    gate.write_bytes((folder / "layer-2" / "ffn_gate.bin").read_bytes())
    with pytest.raises(CaptureError, match=r"swapped: .*layer-1/ffn_gate.bin holds layer 2"):
        open_capture(folder)
    gate.write_bytes((folder / "lm_head.bin").read_bytes())
    with pytest.raises(CaptureError, match="swapped"):
        open_capture(folder)
    gate.write_bytes(up.read_bytes())  # same size, same layer: only the bytes tell
    with pytest.raises(CaptureError, match=r"altered or swapped: .*layer-1/ffn_gate.bin"):
        open_capture(folder).verify()
    gate.write_bytes(whole)
    open_capture(folder).verify()
    (folder / "layer-0" / "ffn_silu.bin").write_bytes(whole)
    with pytest.raises(CaptureError, match=r"extra: .*layer-0/ffn_silu.bin"):
        open_capture(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(schema="other"), "expected a manifest of schema"),
        (lambda d: d.pop("tokens"), "damaged: KeyError"),
        (lambda d: d.update(tokens=[1, "x"]), "expected a list of integers"),
        (lambda d: d["files"][0].update(path="../../../etc/passwd"), "cannot stand at"),
        (lambda d: d["files"][0].update(shape=[1]), "damaged"),
        (lambda d: d["files"][0].update(size=5), "damaged"),
        (lambda d: d["files"][0].update(stage="ffn_gat"), "damaged: ValueError"),
        (lambda d: d["files"].append(d["files"][0]), "names a file twice"),
        (lambda d: d.update(files={}), "damaged|missing|extra"),
    ],
)
def test_a_damaged_manifest_is_refused(folder, change, says):
    damaged(folder, change)
    with pytest.raises(CaptureError, match=says):
        open_capture(folder)


def test_a_manifest_that_is_no_json_is_refused(folder):
    for content in (b"", b"\xff", b"[" * 100_000, b"[]"):
        (folder / manifests.NAME).write_bytes(content)
        with pytest.raises(CaptureError, match=manifests.NAME):
            open_capture(folder)


def test_maps_over_the_bound_are_refused_before_anything_is_written(session, origin, tmp_path, monkeypatch):
    monkeypatch.setattr("pv.trace.plan.MAP_BOUND", 4 * 4 * 6 * 6 + 12)
    with pytest.raises(SelectionError, match="--heads 0"):
        capture(session, TOKENS, ALL, tmp_path / "a", origin)
    assert list(tmp_path.iterdir()) == []
