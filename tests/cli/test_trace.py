"""`pv trace` as a user calls it: files, figures, oracle, and every wrong call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from pv.cli.trace import default_folder, trace
from pv.model.spec import SHAPES
from pv.model.stages import Stage
from pv.model.synthetic import Recipe, write_model
from pv.trace.aprt import open_aprt
from pv.trace.reading import open_capture
from pv.trace.statistics import SLOTS

NANO = SHAPES["nano"]


def run(*arguments: object):
    return CliRunner().invoke(trace, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "nano"
    write_model(Recipe(NANO, seed=1), place)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(NANO.vocab)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    words.save(str(place / "tokenizer.json"))
    return place


def test_from_a_prompt_to_a_list_of_files_with_sizes(model, tmp_path):
    done = run(
        model, "--prompt", "w5 w17 w42", "--save-tensor", "EMBEDDING,ffn_gate,Lm_Head", "--output", tmp_path / "a"
    )
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [
        "layer-0/embedding.bin", "layer-0/ffn_gate.bin", "layer-1/ffn_gate.bin", "layer-2/ffn_gate.bin", "lm_head.bin",
    ]  # fmt: skip
    sizes = {p.relative_to(tmp_path / "a").as_posix(): p.stat().st_size for p in (tmp_path / "a").rglob("*.bin")}
    for line in lines[:-1]:
        path, shape, size, unit = line.split()
        assert (int(size.replace(",", "")), unit) == (sizes[path], "bytes")
        assert shape
    assert lines[-1] == f"5 files, {sum(sizes.values()):,} bytes in {tmp_path / 'a'}"
    open_capture(tmp_path / "a").verify()
    assert done.stderr == ""  # no bar where there is no terminal


def test_the_default_folder_is_beside_the_model(model):
    done = run(model, "--tokens", "5,17", "--save-tensor", "lm_head")
    assert done.exit_code == 0
    assert (model.parent / "nano-trace" / "lm_head.bin").exists()
    assert default_folder(model, "hf").name == "nano-hf-trace"
    assert default_folder(Path("/x/model.q4.gguf"), "pv") == Path("/x/model.q4-trace")


def test_json_names_every_file_with_its_digest(model, tmp_path):
    done = run(model, "--tokens", "5,17", "--save-tensor", "all", "--output", tmp_path / "a", "--json")
    data = json.loads(done.stdout)
    assert len(data["capture"]["files"]) == 17 * NANO.layers + 3
    assert data["capture"]["tokens"] == [5, 17]
    assert all(len(f["sha256"]) == 64 for f in data["capture"]["files"])


def test_one_layer_writes_no_other(model, tmp_path):
    run(model, "--tokens", "5,17", "--save-tensor", "all", "--layer", "1", "--output", tmp_path / "a")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"layer-1", "final_norm.bin", "lm_head.bin", "manifest.json"}


def test_steps_heads_and_feed(model, tmp_path):
    done = run(
        model, "--tokens", "5,17", "--save-tensor", "attn_scores", "--layers", "0", "--step", "1-2", "--feed", "9,8",
        "--heads", "1,3", "--output", tmp_path / "a",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    capture = open_capture(tmp_path / "a")
    assert capture.manifest.decoded == (9, 8)
    assert [(e.path, e.shape) for e in capture.manifest.files] == [
        ("step-1/layer-0/attn_scores.bin", (2, 1, 3)), ("step-2/layer-0/attn_scores.bin", (2, 1, 4)),
    ]  # fmt: skip


def test_payload_prints_ten_lines_for_each_layer(model):
    done = run(model, "--tokens", "5,17,42", "--payload")
    lines = done.stdout.splitlines()
    assert len(lines) == 10 * NANO.layers
    assert [line.split()[2] for line in lines] == list(SLOTS) * NANO.layers
    assert all("last token" in line and "std" in line for line in lines)
    data = json.loads(run(model, "--tokens", "5,17,42", "--payload", "--json", "--layer", "2").stdout)
    (layer,) = data["layers"]
    assert (layer["layer"], layer["incomplete"], list(layer["slots"])) == (2, [], list(SLOTS))
    every, last = layer["slots"]["ffn_swigl"]
    assert (every["sample"], every["count"], every["positions"]) == ("all", 3 * NANO.ffn, 3)
    assert (last["sample"], last["count"], last["positions"]) == ("last", NANO.ffn, 1)


def test_payload_and_tensors_come_together(model, tmp_path):
    done = run(
        model, "--tokens", "5,17", "--payload", "--save-tensor", "ffn_up", "--layer", "0", "--output", tmp_path / "a"
    )
    assert len(done.stdout.splitlines()) == 10 + 2
    values = open_aprt(tmp_path / "a" / "layer-0" / "ffn_up.bin").values
    assert f"max {values.max():.4g}"[:8] in next(line for line in done.stdout.splitlines() if "ffn_up" in line)


def test_the_shadow_is_captured_in_float64(model, tmp_path):
    for dtype in ("float32", "float64"):
        run(model, "--tokens", "5,17", "--save-tensor", "lm_head", "--dtype", dtype, "--output", tmp_path / dtype)
    one, other = (open_aprt(tmp_path / d / "lm_head.bin").values for d in ("float32", "float64"))
    assert open_capture(tmp_path / "float64").manifest.dtype == "float64"
    assert 0 < abs(one - other).max() < 1e-5


def test_the_oracle_and_what_it_leaves_out(model, tmp_path):
    pytest.importorskip("transformers", reason="the oracle needs Transformers: install the extra [oracle]")
    place = tmp_path / "hf"
    done = run(
        model, "--tokens", "5,17,9", "--save-tensor", "all", "--source", "hf", "--no-attn-substages", "--output", place
    )
    assert done.exit_code == 0, done.output
    manifest = open_capture(place).manifest
    assert manifest.source == "hf"
    assert manifest.left_out == ("q_post_rope", "k_post_rope", "attn_scores", "attn_softmax")
    assert len(manifest.files) == 13 * NANO.layers + 3
    refused = run(model, "--tokens", "5", "--save-tensor", "attn_scores", "--source", "hf", "--no-attn-substages")
    assert (refused.exit_code, "drop --no-attn-substages" in refused.output) == (2, True)


def test_a_planted_defect_is_said_and_recorded(model, tmp_path):
    done = run(
        model, "--tokens", "5,17", "--save-tensor", "ffn_up", "--plant", "ffn_up@1*2", "--output", tmp_path / "a"
    )
    assert "TEST ONLY" in done.stderr
    assert open_capture(tmp_path / "a").manifest.provenance["planted"] == "ffn_up@1*2"
    plain = run(model, "--tokens", "5,17", "--save-tensor", "ffn_up", "--output", tmp_path / "b")
    assert "TEST ONLY" not in plain.stderr
    one, other = (open_aprt(tmp_path / side / "layer-1" / "ffn_up.bin").values for side in "ab")
    assert (one == 2 * other).all()
    assert "--plant" not in run("--help").output
    assert run(model, *ONE, "--plant", "ffn_up@1*2", "--dtype", "float64").exit_code == 2


ONE = ("--tokens", "5,17", "--save-tensor", "all")
WRONG = [
    (("--tokens", "5,17"), "say what to look at"),
    (("--save-tensor", "all"), "give the text to run as --prompt, or its ids as --tokens"),
    ((*ONE, "--prompt", "x"), "one of the two"),
    (("--tokens", "5,x", "--save-tensor", "all"), "expected token ids such as 5,17,42 for --tokens"),
    (("--tokens", "5", "--save-tensor", "ffn_gat"), "unknown stage 'ffn_gat': did you mean ffn_gate"),
    ((*ONE, "--layer", "7"), "no layer 7: the model has layers 0 to 2"),
    ((*ONE, "--layer", "2-1"), "runs backwards"),
    ((*ONE, "--heads", "9"), "no head 9: the model has heads 0 to 3"),
    ((*ONE, "--step", "0"), "expected steps from 1 on, got 0"),
    ((*ONE, "--step", "all"), "a generation has no last step"),
    ((*ONE, "--backend", "tpu"), "expected a backend of cuda, wgpu, cpu, got 'tpu'"),
    ((*ONE, "--dtype", "float16"), "half precision are of --source hf"),
    ((*ONE, "--device", "cuda"), "--device and half precision are of --source hf"),
    ((*ONE, "--no-attn-substages"), "--no-attn-substages is of --source hf"),
    ((*ONE, "--source", "hf", "--backend", "wgpu"), "--source hf has --device"),
    (("--tokens", "5", "--payload", "--source", "hf"), "--payload, --backend and float64 are of pv's own forward"),
    (("--tokens", "5", "--payload", "--dtype", "float64", "--backend", "wgpu"), "drop --backend"),
    (("--tokens", "999", "--save-tensor", "all"), "got 999"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG, ids=lambda x: " ".join(x) if isinstance(x, tuple) else "")
def test_a_wrong_call_is_refused_and_leaves_nothing(model, tmp_path, arguments, says):
    done = run(model, *arguments, "--output", tmp_path / "a")
    assert done.exit_code == 2, done.output
    assert says in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_longer_than_the_context_is_refused(model, tmp_path):
    long = ",".join(["5"] * (NANO.context + 1))
    done = run(model, "--tokens", long, "--save-tensor", "lm_head", "--output", tmp_path / "a")
    assert done.exit_code == 2
    assert str(NANO.context) in done.output
    assert list(tmp_path.iterdir()) == []


def test_bad_models_and_bad_places(model, tmp_path):
    assert run(tmp_path / "none", *ONE).exit_code == 2
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((model / "config.json").read_text())
    empty = run(tmp_path / "bare", *ONE)
    assert empty.exit_code in {1, 2}
    assert "Traceback" not in empty.output
    system = run(model, *ONE, "--output", "/proc/no/such/place")
    assert (system.exit_code, "nothing was left behind" in system.output) == (3, True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    foreign = run(model, *ONE, "--output", tmp_path / "full")
    assert (foreign.exit_code, "holds mine.txt" in foreign.output) == (2, True)


def test_a_folder_that_may_not_be_written(model, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere; /proc stands in above")
    (tmp_path / "locked").mkdir(mode=0o500)
    done = run(model, *ONE, "--output", tmp_path / "locked" / "a")
    assert (done.exit_code, "Permission denied" in done.output) == (3, True)


def test_help_names_the_option_and_loads_nothing_heavy():
    code = (
        "import sys; from click.testing import CliRunner; from pv.cli.trace import trace\n"
        "print(CliRunner().invoke(trace, ['--help']).output)\n"
        "print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--save-tensor" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(stage.value in done.stdout for stage in Stage)
