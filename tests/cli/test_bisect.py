"""`pv bisect` as a user calls it: captures, a live suspect, planted defects, and what the shell is told."""

from __future__ import annotations

import json
import shutil
import sys
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from pv.cli.bisect import bisect, replay
from pv.cli.trace import trace
from pv.model.spec import SHAPES
from pv.model.synthetic import Recipe, write_model

NANO = SHAPES["nano"]


def run(*arguments: object, command=bisect):
    """Call the command as the shell would, its own command line included: the replay line is made from it."""
    words = [str(argument) for argument in arguments]
    with patch.object(sys, "argv", ["pv", command.name, *words]):
        return CliRunner().invoke(command, words)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("bisect")
    write_model(Recipe(NANO, seed=1), root / "nano")
    write_model(Recipe(NANO, seed=2), root / "other")
    for name, model in (("a", "nano"), ("b", "nano"), ("c", "other")):
        done = run(
            root / model, "--tokens", "5,17,42,9", "--save-tensor", "all", "--output", root / name, command=trace
        )
        assert done.exit_code == 0, done.output
    return root


LIVE = ("--backend", "cpu", "--tokens", "5,17,42,9")


def test_a_healthy_backend_is_left_alone(home):
    done = run(home / "nano", *LIVE)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("The two forwards are identical, byte for byte, at all 54 stages.")
    assert "again:  pv " in done.stdout


@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        ("rope-base", "The guilty stage is q_post_rope of layer 0"),
        ("gate-up-swapped", "The guilty stage is ffn_gate of layer 0"),
        ("bias-dropped", "The guilty stage is qkv_bias of layer 0"),
        (
            "attn_softmax@1*1.02",
            "The guilty stage is attn_softmax of layer 1: from equal inputs its result is off by 2 %",
        ),
        ("lm_head@0*1.05", "The guilty stage is lm_head:"),
    ],
)
def test_planted_defects_are_named(home, plant, sentence):
    done = run(home / "nano", *LIVE, "--plant", plant)
    assert done.exit_code == 1
    assert done.stdout.startswith(sentence)
    assert "TEST ONLY" in done.stderr


def test_a_defect_that_shows_in_decoding_alone_needs_steps(home):
    assert run(home / "nano", *LIVE, "--plant", "rope-position-late").exit_code == 0
    done = run(home / "nano", *LIVE, "--plant", "rope-position-late", "--steps", "2")
    assert done.exit_code == 1
    assert "q_post_rope of layer 0 at decode step 1" in done.stdout.splitlines()[0]


def test_json_says_the_same_and_how_to_replay(home):
    done = run(home / "nano", *LIVE, "--plant", "ffn_up@2*1.5", "--json")
    data = json.loads(done.stdout)
    assert data["verdict"] == "bug"
    assert data["guilty"] == [{"stage": "ffn_up", "layer": 2, "step": None}]
    assert data["stages"][0]["local_envelope"] == 0.0
    assert data["replay"].startswith("pv ")
    assert replay(["pv", "bisect", "a b"]) == "pv bisect 'a b'"


def test_without_the_envelope(home):
    done = run(home / "nano", *LIVE, "--no-envelope", "--plant", "ffn_up@2*1.5")
    assert "note: the float64 envelope was not measured" in done.stdout
    assert "times float32's own rounding" not in done.stdout.splitlines()[0]


def test_two_captures(home, tmp_path):
    same = run(home / "a", home / "b")
    assert (same.exit_code, same.stdout.splitlines()[0]) == (
        0,
        "The two forwards are identical, byte for byte, at all 54 stages.",
    )
    refused = run(home / "a", home / "c")
    assert (refused.exit_code, "are of different models" in refused.output) == (2, True)
    other = run(home / "a", home / "c", "--allow-different-models")
    assert other.exit_code == 1
    assert other.stdout.startswith("The guilty stage is embedding")
    assert "closer: pv diff" in other.stdout


def test_a_model_that_moved_or_changed(home, tmp_path):
    for name in ("a", "c"):
        shutil.copytree(home / name, tmp_path / name)
        path = tmp_path / name / "manifest.json"
        path.write_text(path.read_text().replace(str(home), "/gone"))
    lost = run(tmp_path / "a", tmp_path / "c", "--allow-different-models")
    assert "The forwards part at embedding" in lost.stdout
    assert "note: stages could not be looked at by themselves: the model is no longer at /gone" in lost.stdout
    found = run(tmp_path / "a", tmp_path / "c", "--allow-different-models", "--model", home / "nano")
    assert found.stdout.startswith("The guilty stage is embedding")
    wrong = run(tmp_path / "a", tmp_path / "c", "--allow-different-models", "--model", home / "other")
    assert (wrong.exit_code, "the captured one was sha256:" in wrong.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nano",), "say which backend is the suspect"),
        (("nano", "a"), "expected two captures, or one model with --backend"),
        (("a",), "expected two captures, or one model with --backend"),
        (("a", "b", "--backend", "cpu"), "--backend does not belong here"),
        (("nano", *LIVE, "--model", "x"), "--model does not belong here"),
        (("nano", "--backend", "tpu", "--tokens", "5"), "expected a backend of cuda, wgpu, cpu"),
        (("nano", *LIVE, "--plant", "no-such-defect"), "unknown defect 'no-such-defect'"),
        (("nano", *LIVE, "--plant", "ffn_gate@x"), "expected STAGE@LAYER*FACTOR"),
        (("nano", *LIVE, "--plant", "ffn_gat@1"), "did you mean ffn_gate"),
        (("nano", "--backend", "cpu", "--tokens", "x"), "expected token ids"),
        (("absent", "a"), "no file"),
    ],
)
def test_a_wrong_call_says_what_was_expected(home, arguments, says):
    named = [home / a if a in {"nano", "a", "b", "absent"} else a for a in arguments]
    done = run(*named)
    assert done.exit_code == 2, done.output
    assert says in done.output
