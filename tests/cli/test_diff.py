"""`pv diff` as a user calls it: what it takes for what, what it prints, how it exits."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pv.backends.cpu import open_cpu
from pv.cli.diff import Looks, diff, looks_like
from pv.model.spec import SHAPES
from pv.model.synthetic import Recipe, build
from pv.trace import manifest as manifests
from pv.trace.aprt import write_aprt
from pv.trace.capture import Origin, capture
from pv.trace.plan import make_plan
from pv.trace.stages import parse_stages

NANO = SHAPES["nano"]
TOKENS = (5, 17, 42, 9)
VALUES = np.random.default_rng(0).standard_normal(64).astype(np.float32)


def run(*arguments: object):
    return CliRunner().invoke(diff, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def weights():
    return build(Recipe(NANO, seed=1))


@pytest.fixture(scope="module")
def home(tmp_path_factory, weights):
    """Two equal captures, one with a defect (the gate of layer 1 is 5 % too large), one of other tokens."""
    root = tmp_path_factory.mktemp("captures")

    def made(name, tokens=TOKENS, plan="all", graft=None, digest="sha256:a", source="pv"):
        session = open_cpu(weights)
        if graft:
            prefill = session.prefill
            session.prefill = lambda t, tap=None: prefill(t, tap, graft)
        origin = Origin(source, "nano", "nano", digest, "F32", {"backend": "cpu"})
        capture(session, tokens, make_plan(parse_stages(plan), NANO), root / name, origin)

    made("a")
    made("b")
    made("gate", graft=lambda stage, layer, x: x * 1.05 if (stage, layer) == ("ffn_gate", 1) else x)
    made("tokens", tokens=(5, 17, 42, 8))
    made("model", digest="sha256:b")
    made("few", plan="ffn_gate,lm_head")
    made("oracle", source="hf")
    return root


def test_identical_captures_exit_0(home):
    done = run(home / "a", home / "b")
    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == "54 tensors compared: 54 identical, 0 beyond bounds, 0 on one side only"
    assert "row G: the same backend twice" in done.output


def test_a_defect_is_named_with_its_stage_and_layer(home):
    done = run(home / "a", home / "gate", "--row", "B")
    assert done.exit_code == 1
    first = next(line for line in done.output.splitlines() if ": rel_l2" in line)
    assert first.startswith("layer-1/ffn_gate: rel_l2 0.05, expected <= 0.0001")
    assert "layer-0/ffn_gate" not in first
    assert "lm_head: KL" in done.output


def test_json_has_every_figure_and_the_same_verdict(home):
    done = run(home / "a", home / "gate", "--row", "B", "--values", "--output-format", "json")
    data = json.loads(done.output)
    assert done.exit_code == 1
    assert data["ok"] is False
    beyond = [t["name"] for t in data["tensors"] if not t["ok"]]
    assert beyond[0] == "layer-1/ffn_gate"
    gate = next(t for t in data["tensors"] if t["name"] == "layer-1/ffn_gate")
    assert gate["scale"] == pytest.approx(1.05, rel=1e-6)
    assert gate["spread"]["reference_std"] > 0
    assert len(gate["largest"]) == 10
    assert data["test"]["tokens"] == list(TOKENS)


def test_the_row_follows_from_the_manifests(home):
    assert "row B: CPU float32 against Transformers" in run(home / "oracle", home / "a").output


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("tokens", "token ids differ from number 3 on"),
        (
            "model",
            "different models: nano (sha256:a) and nano (sha256:b); if that is meant, say --allow-different-models",
        ),
    ],
)
def test_captures_of_different_things_are_refused(home, other, says):
    done = run(home / "a", home / other)
    assert done.exit_code == 2
    assert says in done.output


def test_different_models_can_be_compared_on_request(home):
    assert run(home / "a", home / "model", "--allow-different-models").exit_code == 0


def test_what_stands_on_one_side_only_is_a_finding(home):
    done = run(home / "a", home / "few")
    assert done.exit_code == 1
    assert "only in the reference: layer-0/embedding, layer-0/attn_norm" in done.output
    assert "4 tensors compared: 4 identical, 0 beyond bounds, 50 on one side only" in done.output
    assert run(home / "a", home / "few", "--stages", "ffn_gate,lm_head").exit_code == 0


def test_a_selection_of_nothing_is_no_success(home):
    done = run(home / "few", home / "few", "--stages", "attn_norm")
    assert done.exit_code == 2
    assert "neither capture holds a tensor of that selection" in done.output


def test_layers_and_stages_select(home):
    done = run(home / "a", home / "gate", "--row", "B", "--layer", "0", "--stages", "ffn_gate,ffn_up")
    assert done.exit_code == 0
    assert done.output.splitlines()[-1].startswith("2 tensors compared")
    assert run(home / "a", home / "gate", "--stages", "ffn_gat").exit_code == 2


def test_own_tolerances_and_their_gaps(home):
    assert run(home / "a", home / "gate", "--tolerance", ".*=rel_l2<=10").exit_code == 0
    done = run(home / "a", home / "gate", "--tolerance", "layer-1/.*=rel_l2<=10")
    assert done.exit_code == 2
    assert "no tolerance matches 'layer-0/embedding'" in done.output
    assert run(home / "a", home / "gate", "--tolerance", "nonsense").exit_code == 2


def test_an_altered_byte_is_found_unless_told_to_trust(home, tmp_path):
    import shutil

    shutil.copytree(home / "b", tmp_path / "b")
    target = tmp_path / "b" / "layer-2" / "ffn_up.bin"
    content = bytearray(target.read_bytes())
    content[100] ^= 1
    target.write_bytes(content)
    done = run(home / "a", tmp_path / "b")
    assert done.exit_code == 1
    assert "altered or swapped" in done.output
    trusted = run(home / "a", tmp_path / "b", "--no-verify")
    assert "layer-2/ffn_up: difference" in trusted.output
    target.unlink()
    done = run(home / "a", tmp_path / "b")
    assert (done.exit_code, "missing: " in done.output) == (1, True)


def test_a_picture_is_drawn(home, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(home / "a", home / "gate", "--plot", tmp_path / "x.svg").exit_code == 1
    drawn = (tmp_path / "x.svg").read_text()
    assert "<svg" in drawn
    assert "post_ffn_residual" in drawn
    refused = run(home / "a", home / "gate", "--plot", tmp_path / "x.xyz")
    assert (refused.exit_code, "cannot draw" in refused.output) == (2, True)


def aprt(path: Path, values=VALUES, layer=3) -> Path:
    write_aprt(path, layer, values)
    return path


def test_two_aprt_files(tmp_path):
    changed = VALUES.copy()
    changed[7] += 1
    a, b, c = aprt(tmp_path / "a.bin"), aprt(tmp_path / "b.bin"), aprt(tmp_path / "c.bin", changed)
    same = run(a, b)
    assert same.exit_code == 0
    assert "identical    yes" in same.output
    data = json.loads(run(a, b, "--output-format", "json").output)
    assert (data["max_abs"], data["rms"], data["cosine"]) == (0.0, 0.0, 1.0)
    other = run(a, c, "--values", "--limit", "3")
    assert other.exit_code == 1
    assert f"max |diff|   1 at [7]: {changed[7]:.9g} against {VALUES[7]:.9g}" in other.output
    assert "largest differences (3 of 64 elements)" in other.output
    assert "% of it" in other.output
    assert run(a, c, "--tolerance", ".*=max_abs<=2").exit_code == 0


@pytest.mark.parametrize(
    ("other", "code", "says"),
    [
        (lambda p: aprt(p, VALUES[:32]), 2, "shape (64,) in the reference, (32,) in the test"),
        (lambda p: aprt(p, VALUES, 4), 2, "layer 3 in the reference, 4 in the test"),
        (lambda p: p.write_bytes(b"APRT" + struct.pack("<II", 0, 9)), 1, "truncated: expected 48 bytes"),
    ],
)
def test_aprt_files_that_cannot_be_compared(tmp_path, other, code, says):
    other(tmp_path / "b.bin")
    done = run(aprt(tmp_path / "a.bin"), tmp_path / "b.bin")
    assert done.exit_code == code
    assert says in done.output


@pytest.fixture
def things(home, tmp_path):
    contract = tmp_path / "x-v1.yaml"
    contract.write_text("metadata: {}\n")
    (tmp_path / "notes.txt").write_text("APRIL")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"\x80")
    return {
        Looks.CONTRACT: contract,
        Looks.APRT: aprt(tmp_path / "a.bin"),
        Looks.CAPTURE: home / "a",
        Looks.MODEL: tmp_path / "model",
        Looks.OTHER: tmp_path / "notes.txt",
        Looks.ABSENT: tmp_path / "absent",
    }


def test_each_thing_is_taken_for_what_it_is(things):
    assert {kind: looks_like(str(path)) for kind, path in things.items()} == {kind: kind for kind in things}


def test_a_pipe_is_nothing_to_compare_and_is_not_waited_for(things, tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    assert looks_like(str(tmp_path / "pipe.gguf")) is Looks.OTHER
    assert run(things[Looks.MODEL], tmp_path / "pipe.gguf").exit_code == 2


def test_an_aprt_file_with_another_name_is_still_one(tmp_path):
    assert looks_like(str(aprt(tmp_path / "x.yaml"))) is Looks.APRT


def test_mixed_pairs_say_what_each_side_is(things):
    same = {(kind, kind) for kind in (Looks.CONTRACT, Looks.APRT, Looks.CAPTURE, Looks.MODEL)}
    for one, left in things.items():
        for other, right in things.items():
            if (one, other) in same or (one, other) == (Looks.CONTRACT, Looks.ABSENT):
                continue
            done = run(left, right)
            assert done.exit_code == 2, (one, other)
            assert f"({one})" in done.output
            assert f"({other})" in done.output


def test_a_capture_cut_short_is_no_capture(home, tmp_path):
    (tmp_path / "cut" / "layer-0").mkdir(parents=True)
    aprt(tmp_path / "cut" / "layer-0" / "ffn_up.bin", layer=0)
    done = run(home / "a", tmp_path / "cut")
    assert done.exit_code == 2
    assert f"expected {manifests.NAME} there, found none" in done.output
