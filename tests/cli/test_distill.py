"""`pv distill` as a user calls it: three stages, and a sentence for every mistake."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pv.cli.distill import distill
from tests.distill.conftest import write_config, write_corpus


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder where a teacher has been trained, its logits cached and a student distilled, all by the command."""
    root = tmp_path_factory.mktemp("distill")
    corpus = write_corpus(root / "text")
    (root / "t").mkdir()
    teacher_config = write_config(
        root / "t", corpus, alpha=0.0, train_on="teacher", data_dir=str(root / "data"), batch_size=16
    )
    assert call(teacher_config, "train").exit_code == 0
    (root / "s").mkdir()
    config = write_config(
        root / "s", corpus, alpha=0.9, temperature=1.0, teacher=str(root / "t/out/student"), data_dir=str(root / "data")
    )
    assert call(config, "precompute").exit_code == 0
    assert call(config, "train").exit_code == 0
    return config


def call(config, stage, *options):
    return CliRunner().invoke(distill, ["--config", str(config), "--stage", stage, *options])


def test_train_writes_a_student_its_metadata_and_its_curves(made):
    out = made.parent / "out"
    assert (out / "student" / "model.safetensors").is_file()
    assert json.loads((out / "epoch-001" / "metadata.json").read_text())["tokens_seen"] == 24 * 16
    pytest.importorskip("matplotlib")
    assert "<svg" in (out / "epoch-001" / "losses.svg").read_text()


def test_generate_is_the_same_twice_and_reads_the_files_alone(made):
    first, second = (call(made, "generate", "--output-format", "json") for _ in range(2))
    assert first.exit_code == 0, first.output
    samples = json.loads(first.stdout)["samples"]
    assert samples == json.loads(second.stdout)["samples"]
    assert {sample["temperature"] for sample in samples} == {0.0, 0.8}
    assert samples != json.loads(call(made, "generate", "--output-format", "json", "--seed", "5").stdout)["samples"]


def test_a_dry_run_counts_and_trains_nothing(made, tmp_path):
    told = call(made, "train", "--dry-run", "--output-format", "json", "--output-dir", str(tmp_path / "new"))
    plan = json.loads(told.stdout)
    assert plan["steps"] == 6
    assert plan["tokens"] == 24 * 16
    assert plan["cache_bytes"] == 24 * 16 * 2 * 300
    assert not (tmp_path / "new" / "student").exists()


@pytest.mark.parametrize(
    ("options", "says", "code"),
    [
        (["--alpha", "1.5"], "alpha", 2),
        (["--temperature", "0"], "temperature", 2),
        (["--student", "hf://some/model"], "download it first", 2),
        (["--student", "nowhere"], "expected a local model directory", 2),
        (["--set", "nonsense"], "expected --set KEY=VALUE", 2),
        (["--set", "corpus.student_rows=100000"], "other settings", 3),
        (["--learning-rate", "0.5"], "other settings", 3),  # the checkpoints there are of another run
        (["--batch-size", "1000"], "batch_size", 2),
    ],
)
def test_mistakes_get_a_sentence_and_no_traceback(made, options, says, code):
    told = call(made, "train", *options)
    assert told.exit_code == code, told.output
    assert says in told.output + told.stderr
    assert "Traceback" not in told.output
