"""Training: it learns, it resumes to the same bytes, and it refuses what it cannot honestly do."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from pv.distill import train as module
from pv.distill.cache import CacheError
from pv.distill.checkpoint import CheckpointError
from pv.distill.config import ConfigError, load_config
from pv.distill.corpus import prepare
from pv.distill.precompute import precompute
from pv.distill.student import ADAPTED, Student, starting_point
from pv.distill.train import NotFiniteError, UnchangedError, learning_rate, order, train, validation_loss
from pv.model.weights import hf_names

FIELDS = {
    "train_loss", "val_loss", "kl_loss", "ce_loss", "total_loss", "optimizer_state_sha", "wall_seconds", "tokens_seen",
}  # fmt: skip


def with_(config, **changes):
    return config.model_copy(update=changes)


def weights(folder) -> bytes:
    return (folder / "student" / "model.safetensors").read_bytes()


def test_a_student_learns_and_says_so_in_eight_fields(config):
    data = prepare(config)
    precompute(config, data)
    spec, start = starting_point(config, data.vocab)
    before = validation_loss(Student(spec, start), data.part("validation"), torch.device("cpu"))
    trained = train(with_(config, epochs=3), data)
    assert set(trained.metadata) == FIELDS
    assert trained.metadata["val_loss"] < before - 0.3
    assert trained.metadata["tokens_seen"] == 3 * 24 * 16
    mixed = 0.9 * trained.metadata["kl_loss"] + 0.1 * trained.metadata["ce_loss"]
    assert trained.metadata["total_loss"] == pytest.approx(mixed, rel=1e-6)
    assert json.loads((config.output_dir / "epoch-003" / "metadata.json").read_text()) == trained.metadata


def test_the_student_is_an_ordinary_model(config):
    from pv.model.open import open_model

    data = prepare(config)
    train(with_(config, alpha=0.0), data)
    model = open_model(config.output_dir / "student")
    assert model.tokenizer.decode(model.tokenizer.encode("the sum of two")) == "the sum of two"
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        config.output_dir / "student", attn_implementation="eager"
    )
    rows = torch.from_numpy(data.part("validation")[:2, :-1]).long()
    ours = Student(model.spec, {n: w.dense() for n, w in model.weights.tensors.items()})
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(rows), theirs(rows).logits, rtol=1e-4, atol=1e-4)


def test_train_never_needs_the_teacher(config, tmp_path):
    own = tmp_path / "teacher"
    shutil.copytree(config.teacher, own)
    config = with_(config, teacher=own)
    data = prepare(config)
    precompute(config, data)
    shutil.rmtree(own)
    assert train(config, data).metadata["val_loss"] > 0


@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_a_stopped_run_ends_in_the_same_bytes(config, tmp_path, stop, monkeypatch):
    data = prepare(config)
    precompute(config, data)
    straight = with_(config, output_dir=tmp_path / "straight")
    shutil.copytree(config.output_dir / "teacher_logits", straight.output_dir / "teacher_logits")
    want = train(straight, data).metadata

    class StoppedError(Exception):
        pass

    healthy = module._Loop._step

    def step(self, number, batch):
        if number == stop:
            raise StoppedError
        healthy(self, number, batch)

    monkeypatch.setattr(module._Loop, "_step", step)
    with pytest.raises(StoppedError):
        train(config, data)
    monkeypatch.setattr(module._Loop, "_step", healthy)
    got = train(config, data).metadata
    assert weights(config.output_dir) == weights(straight.output_dir)
    assert {k: v for k, v in got.items() if k != "wall_seconds"} == {
        k: v for k, v in want.items() if k != "wall_seconds"
    }


def test_forgetting_the_moments_on_resume_is_seen(config, tmp_path, monkeypatch):
    """The planted defect of the test above: a resume without AdamW's moments ends elsewhere."""
    from pv.distill import checkpoint

    healthy = checkpoint._load

    def forgetful(place, parameters, optimizer, step):
        healthy(place, parameters, optimizer, step)
        optimizer.state.clear()

    monkeypatch.setattr(checkpoint, "_load", forgetful)
    with pytest.raises(AssertionError):
        test_a_stopped_run_ends_in_the_same_bytes(config, tmp_path, 5, monkeypatch)


def command(config_file, output, stage="train"):
    return [
        *(sys.executable, "-m", "pv", "distill", "--config", str(config_file), "--stage", stage),
        *("--output-dir", str(output)),
    ]


def killed_runs(tmp_path, corpus, teacher, kills, same=None, **settings):
    """`same(resumed, straight)` compares two output folders; without it their weights are equal in every byte."""
    from tests.distill.conftest import write_config

    file = write_config(tmp_path, corpus, teacher=str(teacher), epochs=10, checkpoint_every=3, **settings)
    config = load_config(file)
    cache = precompute(config, prepare(config))
    straight = tmp_path / "straight"
    shutil.copytree(cache, straight / "teacher_logits")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    begun = time.monotonic()
    subprocess.run(command(file, straight), check=True, capture_output=True, env=environment)
    whole = time.monotonic() - begun
    draw = random.Random(3)
    for number in range(kills):
        out = tmp_path / f"killed-{number}"
        shutil.copytree(cache, out / "teacher_logits")
        process = subprocess.Popen(
            command(file, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        time.sleep(whole * draw.uniform(0.5, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run(command(file, out), check=True, capture_output=True, env=environment)
        if same:
            same(out, straight)
        else:
            assert weights(out) == weights(straight), f"kill {number}"


def same_on_a_card(resumed, straight):
    """The bound that docs/distillation.md states; a resume without AdamW's moments is 0.009 nats off on the CPU."""
    losses = [json.loads((out / "epoch-010/metadata.json").read_text())["val_loss"] for out in (resumed, straight)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    a, b = (load_file(out / "student" / "model.safetensors") for out in (resumed, straight))
    apart = sum(float((a[name].double() - b[name].double()).square().sum()) for name in a)
    assert apart <= 1e-6 * sum(float(b[name].double().square().sum()) for name in b)


@pytest.mark.gpu
def test_killed_and_resumed_on_a_card_stays_within_the_stated_bound(tmp_path, corpus, teacher):
    if not torch.cuda.is_available():
        (pytest.fail if os.environ.get("PV_REQUIRE_GPU") else pytest.skip)("no CUDA card here")
    killed_runs(tmp_path, corpus, teacher, 2, same_on_a_card, device="cuda", precision="bfloat16")


def test_killed_and_resumed_is_byte_identical(tmp_path, corpus, teacher):
    killed_runs(tmp_path, corpus, teacher, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_fifty_identical_results(tmp_path, corpus, teacher):
    killed_runs(tmp_path, corpus, teacher, kills=50)


def test_micro_batches_do_not_change_the_objective(config, tmp_path):
    data = prepare(config)
    whole = train(with_(config, alpha=0.0, output_dir=tmp_path / "a"), data)
    split = train(with_(config, alpha=0.0, output_dir=tmp_path / "b", micro_batch=1), data)
    a, b = (load_file(t.student / "model.safetensors") for t in (whole, split))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)


def test_two_processes_train_as_one(config, tmp_path, corpus, teacher):
    from tests.distill.conftest import write_config

    file = write_config(tmp_path, corpus, teacher=str(teacher), alpha=0.0)
    one = tmp_path / "one"
    subprocess.run(command(file, one), check=True, capture_output=True)
    two = tmp_path / "two"
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pv"]
    done = subprocess.run([*launched, *command(file, two)[3:]], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    a, b = (load_file(out / "student" / "model.safetensors") for out in (one, two))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)


def test_lora_moves_the_matrices_and_nothing_else(config, teacher):
    config = with_(config, student=teacher, alpha=0.0, lora_rank=2, lora_alpha=8.0)
    data = prepare(config)
    model = load_file(train(config, data).student / "model.safetensors")
    spec, start = starting_point(config, data.vocab)
    names = hf_names(spec)
    changed = {ours for ours, theirs in names.items() if not torch.equal(model[theirs], start[ours])}
    assert changed == {name for name in names if name.rpartition(".")[2] in ADAPTED}


def test_equal_tensors_are_an_error_not_a_copy(config, monkeypatch):
    data = prepare(config)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    with pytest.raises(UnchangedError, match="all equal to their start"):
        train(with_(config, alpha=0.0), data)
    assert not (config.output_dir / "student").exists()


@pytest.mark.parametrize("student", ["no/such/folder", "Qwen/Qwen2-0.5B"])
def test_a_student_that_is_not_there_is_refused(config, student):
    from pathlib import Path

    with pytest.raises(ConfigError, match="local model directory"):
        train(with_(config, student=Path(student), alpha=0.0), prepare(config))


def test_a_remote_student_is_refused_by_name(tmp_path, corpus):
    from tests.distill.conftest import write_config

    with pytest.raises(ConfigError, match="download it first"):
        load_config(write_config(tmp_path, corpus, student="hf://Qwen/Qwen2-0.5B"))


def test_a_missing_cache_is_refused(config):
    with pytest.raises(CacheError, match="precompute"):
        train(config, prepare(config))


def test_another_runs_checkpoints_are_refused(config):
    data = prepare(config)
    train(with_(config, alpha=0.0), data)
    with pytest.raises(CheckpointError, match="other settings"):
        train(with_(config, alpha=0.0, learning_rate=1e-4), data)


def test_a_finished_run_trains_nothing_twice(config):
    data = prepare(config)
    config = with_(config, alpha=0.0)
    first, before = train(config, data), weights(config.output_dir)
    assert train(config, data).metadata == first.metadata
    assert weights(config.output_dir) == before


def test_a_loss_that_is_not_finite_stops_at_its_step_and_names_the_batch(config, monkeypatch):
    data = prepare(config)
    healthy = Student.forward

    def forward(self, tokens, *rest):
        losses = healthy(self, tokens, *rest)
        forward.calls += 1
        return dataclasses.replace(losses, total=losses.total * float("nan")) if forward.calls == 4 else losses

    forward.calls = 0
    monkeypatch.setattr(Student, "forward", forward)
    with pytest.raises(NotFiniteError) as stopped:
        train(with_(config, alpha=0.0), data)
    assert stopped.value.step == 3
    assert list(stopped.value.rows) == order(0, 0, 24)[12:16]
    assert "step-00000002" in str(stopped.value)


def test_schedules(config):
    steps = 100
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    assert rates[0] == pytest.approx(config.learning_rate / 5)
    assert max(rates) == pytest.approx(config.learning_rate)
    assert rates[-1] == pytest.approx(0.1 * config.learning_rate, rel=0.02)
    wsd = with_(config, optimizer=config.optimizer.model_copy(update={"schedule": "wsd"}))
    flat = [learning_rate(wsd, step, steps) for step in range(5, 80)]
    assert set(flat) == {config.learning_rate}
    assert learning_rate(wsd, 99, steps) == pytest.approx(config.learning_rate / 20)


def test_the_order_is_a_permutation_that_changes_with_seed_and_epoch():
    assert sorted(order(1, 0, 50)) == list(range(50))
    assert order(1, 0, 50) == order(1, 0, 50)
    assert len({tuple(order(s, e, 50)) for s in range(3) for e in range(3)}) == 9
