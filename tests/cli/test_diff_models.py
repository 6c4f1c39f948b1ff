"""`pv diff` of two models: weights as float32, and a forward of one prompt through both."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pv.cli.diff import diff
from pv.model.gguf_write import FileType, convert
from pv.model.open import open_model
from pv.model.spec import SHAPES
from pv.model.synthetic import Recipe, write_model

NANO = SHAPES["nano"]
TEACHER = Path(__file__).parents[2] / "fixtures" / "tiny-teacher"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(diff, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("one") / "one"
    write_model(Recipe(NANO, seed=1), path)
    return path


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The teacher as Q4_K, and those numbers as float32."""
    if not TEACHER.exists():
        pytest.skip(f"the trained teacher is not at {TEACHER}")
    folder = tmp_path_factory.mktemp("quantized")
    blocks, dense = folder / "q4_k.gguf", folder / "f32.gguf"
    for source, path, kind in ((TEACHER, blocks, FileType.Q4_K), (blocks, dense, FileType.F32)):
        model = open_model(source)
        convert(model, path, kind, tokenizer=model.tokenizer)
    return blocks, dense


def test_a_model_equals_itself_in_weights_and_in_every_stage(one: Path) -> None:
    done = run(one, one)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "39 tensors: 39 equal, 0 differ",
        "",
        "forward of 12 tokens ('What is 2+2?'), judged by row G: the same backend twice",
        "54 stages: 54 identical, 0 beyond bounds, 0 on one side only",
    ]


def test_other_weights_are_a_finding_with_a_line_for_each_tensor_and_stage(one: Path, tmp_path: Path) -> None:
    write_model(Recipe(NANO, seed=2), tmp_path / "other")
    done = run(one, tmp_path / "other", "--limit", "2")
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert "39 tensors: 0 equal, 39 differ" in lines
    assert "… and 37 more (--values)" in lines
    assert lines[-1] == "54 stages: 0 identical, 54 beyond bounds, 0 on one side only"
    data = json.loads(run(one, tmp_path / "other", "--output-format", "json").output)
    assert len(data["tensors"]) == 39
    assert len(data["forward"]["stages"]) == 54
    assert (data["ok"], data["forward"]["ok"]) == (False, False)


def test_a_quantized_file_is_told_from_its_original_by_the_row_of_quantization(quantized: tuple[Path, Path]) -> None:
    done = run(quantized[0], TEACHER)
    assert done.exit_code == 1
    assert "50 tensors: 21 equal, 29 differ" in done.output
    assert "judged by row F2: quantized weights against the float32 weights they came from" in done.output
    assert "first token equal (18)" in done.output
    assert done.output.splitlines()[-1] == "71 stages: 0 identical, 0 beyond bounds, 0 on one side only"


def test_equal_numbers_in_blocks_and_in_floats_differ_in_the_forward_alone(quantized: tuple[Path, Path]) -> None:
    """Dequantizing is bit-exact; what is left is the int8 product, and that has a row of its own."""
    done = run(*quantized, "--output-format", "json")
    data = json.loads(done.output)
    assert all(tensor["identical"] for tensor in data["tensors"])
    assert data["forward"]["judged_by"].startswith("row F1")
    stages = {stage["name"]: stage for stage in data["forward"]["stages"]}
    assert stages["layer-0/embedding"]["identical"]
    assert 1e-3 < stages["layer-0/qkv_matmul"]["rel_l2"] < 0.05
    assert done.exit_code == 1
    assert run(*quantized, "--weights-only").exit_code == 0
    assert run(*quantized, "--tolerance", ".*=rel_l2<=1").exit_code == 0


def test_ids_and_texts_are_the_users(one: Path) -> None:
    assert "forward of 3 tokens, judged" in run(one, one, "--tokens", "5,17,42").output
    assert "forward of 1 tokens ('x'), judged" in run(one, one, "--prompt", "x").output
    long = run(one, one, "--prompt", "a" * 50).output
    assert f"forward of 50 tokens ('{'a' * 40}…'), judged" in long
    done = run(one, one, "--tokens", "300")
    assert done.exit_code == 2
    assert "expected token ids below 300" in done.output


def test_without_a_tokenizer_ids_spread_over_the_vocabulary_stand_in(one: Path, tmp_path: Path) -> None:
    shutil.copytree(one, tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    data = json.loads(run(one, tmp_path / "mute", "--output-format", "json").output)
    assert data["forward"]["tokens"] == [18, 56, 93, 131, 168, 206, 243, 281]
    assert data["ok"]
    assert "8 tokens spread over the vocabulary" in run(one, tmp_path / "mute").output
    refused = run(one, tmp_path / "mute", "--prompt", "x")
    assert refused.exit_code == 1
    assert "tokenizer.json" in refused.output


def test_models_of_other_shapes_have_no_forward_to_compare(one: Path, tmp_path: Path) -> None:
    write_model(Recipe(replace(NANO, layers=2), seed=1), tmp_path / "short")
    done = run(one, tmp_path / "short")
    assert done.exit_code == 1
    assert "layers: 3 in the reference, 2 in the test" in done.output
    assert done.output.splitlines()[-1] == "no forward was compared: the models differ in layers"
    data = json.loads(run(one, tmp_path / "short", "--output-format", "json").output)
    assert data["forward"] == {"left_out": "the models differ in layers"}


def test_weights_only_runs_nothing(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pv.cli.diff_models.compare_forwards", lambda *_: pytest.fail("a forward was run"))
    done = run(one, one, "--weights-only")
    assert (done.exit_code, done.output) == (0, "39 tensors: 39 equal, 0 differ\n")


@pytest.mark.parametrize(
    "options",
    [("--prompt", "x", "--tokens", "5"), ("--prompt", "x", "--weights-only"), ("--tokens", "5", "--weights-only")],
)
def test_options_that_contradict_each_other_are_refused(one: Path, options: tuple[str, ...]) -> None:
    done = run(one, one, *options)
    assert done.exit_code == 2
    assert "give one of --prompt, --tokens and --weights-only" in done.output


@pytest.mark.parametrize("option", [("--prompt", "x"), ("--tokens", "5"), ("--weights-only",)])
def test_options_of_models_are_refused_for_anything_else(tmp_path: Path, option: tuple[str, ...]) -> None:
    contract = tmp_path / "x-v1.yaml"
    contract.write_text("metadata: {}\n")
    done = run(contract, contract, *option)
    assert done.exit_code == 2
    assert "are of two models, got a contract and a contract" in done.output
