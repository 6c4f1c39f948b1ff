"""`pv kld` from the outside: figures, refusals, a plot; on the trained teacher, since random weights judge nothing."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pv.backends.cpu import open_cpu
from pv.backends.cuda import CudaSession
from pv.cli.exit_codes import ExitCode
from pv.cli.main import pv
from pv.compare.kld import divergence
from pv.compare.thresholds import QUANT_LOSS_KL, QUANT_LOSS_TOP1
from pv.model.gguf_write import FileType, convert
from pv.model.open import open_model
from pv.model.spec import named_shape
from pv.model.synthetic import Recipe, write_model
from pv.model.weights import Weight, Weights

TEACHER = Path(__file__).parents[2] / "fixtures" / "tiny-teacher"
HELDOUT = TEACHER / "heldout.txt"
FEW = ("--max-tokens", "200")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not TEACHER.exists():
        pytest.skip(f"the trained teacher is not at {TEACHER}")
    folder, teacher = tmp_path_factory.mktemp("teacher"), open_model(TEACHER)
    kinds = ("Q4_K", "Q8_0", "F32")
    return {k: convert(teacher, folder / f"{k}.gguf", FileType(k), tokenizer=teacher.tokenizer).path for k in kinds}


def call(a: Path, b: Path, *more: str, text: Path = HELDOUT) -> Result:
    arguments = ["kld", str(a), str(b), "--text", str(text), "--by-line", "--max-tokens", "1500", *more]
    return CliRunner().invoke(pv, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def told(files: dict[str, Path]) -> dict[str, dict[str, object]]:
    return {kind: json.loads(call(TEACHER, path, "--json").stdout) for kind, path in files.items()}


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0"])
def test_quantization_costs_the_trained_teacher_what_the_table_allows(
    kind: str, told: dict[str, dict[str, float]]
) -> None:
    found = told[kind]
    assert found["positions"] == 1500
    assert 0 < found["kl_mean"] <= QUANT_LOSS_KL[kind]
    assert found["same_top1_low"] >= QUANT_LOSS_TOP1[kind] - 0.02  # the bound's own width at 1,500 positions
    assert found["perplexity_test"] == pytest.approx(found["perplexity_reference"], rel=0.05)


def test_finer_types_cost_less(told: dict[str, dict[str, float]]) -> None:
    assert told["F32"]["kl_max"] == 0.0
    assert told["Q8_0"]["kl_mean"] < told["Q4_K"]["kl_mean"] / 5


def test_the_loss_falls_apart_into_weights_and_product(files: dict[str, Path]) -> None:
    path = files["Q4_K"]
    whole, weights, product = (
        json.loads(call(a, path, "--json", *more).stdout)["kl_mean"]
        for a, more in ((TEACHER, ()), (TEACHER, ("--dequantize", "b")), (path, ("--dequantize", "a")))
    )
    assert product < weights / 3
    assert weights == pytest.approx(whole, rel=0.5)
    assert json.loads(call(path, path, "--json", "--dequantize", "both").stdout)["kl_max"] == 0.0


def test_figures_are_those_of_the_library(files: dict[str, Path], told: dict[str, dict[str, object]]) -> None:
    a, b = open_model(TEACHER), open_model(files["Q4_K"])
    windows, left = [], 1500
    for line in HELDOUT.read_text().splitlines():
        tokens = a.tokenizer.encode(line)[:left]
        windows += [tokens] if tokens else []
        left -= len(tokens)

    def logits(model):  # type: ignore[no-untyped-def]
        session = open_cpu(model.weights)

        def after_each(window):  # type: ignore[no-untyped-def]
            session.reset()
            return session.prefill_all(window)

        return after_each

    found = divergence(windows, logits(a), logits(b))
    assert float(np.mean(found.kl)) == told["Q4_K"]["kl_mean"]
    assert [flip._asdict() for flip in found.flips] == told["Q4_K"]["flips"]


def test_the_text_for_people_names_every_figure(files: dict[str, Path]) -> None:
    done = call(TEACHER, files["Q4_K"], *FEW)
    assert done.exit_code == ExitCode.OK
    for word in (
        "positions     200",
        "KL mean",
        "KL median",
        "KL p99.9",
        "KL max",
        "1 - cosine",
        "same top-1",
        "perplexity",
    ):
        assert word in done.stdout
    assert "95 %" in done.stdout


def test_another_backend_computes_the_second_model_token_by_token(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pv.backends import registry
    from pv.backends.cuda import open_cuda

    opened: list[int] = []

    def on_card(weights: Weights) -> CudaSession:
        opened.append(weights.spec.vocab)
        return open_cuda(weights, device="cpu")

    opener = registry.opener
    monkeypatch.setattr(registry, "opener", lambda name: on_card if name == "cuda" else opener(name))
    plain = json.loads(call(files["Q8_0"], files["Q8_0"], *FEW, "--json").stdout)
    found = json.loads(call(files["Q8_0"], files["Q8_0"], *FEW, "--backend", "cuda", "--json").stdout)
    assert opened == [512]
    assert (plain["backend"], found["backend"]) == ("cpu", "cuda")
    assert plain["kl_max"] == 0.0
    assert found["positions"] == plain["positions"]
    assert found["one_minus_cosine_max"] < 1e-2, "prefill and decode differ by a code that flips, at most"
    assert found["same_top1"] == 1.0
    text = call(files["Q8_0"], files["Q8_0"], "--max-tokens", "20", "--backend", "cuda").stdout
    assert "MODEL_B       on cuda" in text


def test_a_backend_that_is_not_there_is_said_and_nothing_is_measured(files: dict[str, Path]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a card here")
    result = call(files["Q8_0"], files["Q8_0"], *FEW, "--backend", "cuda")
    assert result.exit_code == ExitCode.BLOCKED
    assert "cuda: " in result.stderr
    assert result.stdout == ""


def test_near_ties_are_counted_apart(files: dict[str, Path]) -> None:
    every = json.loads(call(TEACHER, files["Q4_K"], "--near-tie", "1000", "--json", *FEW).stdout)
    assert every["near_ties"] == len(every["flips"])
    assert json.loads(call(TEACHER, files["Q4_K"], "--json", *FEW).stdout)["near_ties"] == 0


def test_windows_are_as_long_as_asked(files: dict[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "one.txt"
    text.write_text("The sum of two and two. " * 40)
    arguments = ["kld", str(TEACHER), str(files["F32"]), "--text", str(text), "--json"]
    short = json.loads(CliRunner().invoke(pv, [*arguments, "--context", "2"], catch_exceptions=False).stdout)
    long = json.loads(CliRunner().invoke(pv, [*arguments, "--context", "256"], catch_exceptions=False).stdout)
    assert short["positions"] == long["positions"]
    assert short["perplexity_reference"] > long["perplexity_reference"]


def test_a_plot_is_written(files: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra [report]")
    plot = tmp_path / "kld.png"
    assert call(TEACHER, files["Q4_K"], "--plot", str(plot), *FEW).exit_code == ExitCode.OK
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_figures_are_told_although_the_picture_fails(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pv.cli.kld.draw", full)
    done = call(TEACHER, files["Q4_K"], "--plot", str(tmp_path / "x.svg"), *FEW)
    assert done.exit_code == ExitCode.FAILURE
    assert "same top-1" in done.stdout
    assert "No space left on device" in done.stderr


def test_a_model_whose_logits_leave_all_bounds_is_compared_and_its_perplexity_is_infinite(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """The final norm a hundred thousand times too large: finite logits, of which no exp of a mean fits a float."""
    teacher = open_model(TEACHER)
    norm = teacher.weights.tensors["final_norm"]
    hot = Weight.of("final_norm", norm.dense() * 1e5)
    weights = replace(teacher.weights, tensors={**teacher.weights.tensors, "final_norm": hot})
    path = tmp_path / "hot.gguf"
    convert(replace(teacher, weights=weights), path, FileType.F32, tokenizer=teacher.tokenizer)
    done = call(TEACHER, path, *FEW)
    assert done.exit_code == ExitCode.OK
    assert " and infinite\n" in done.stdout
    assert json.loads(call(path, TEACHER, *FEW, "--json").stdout)["perplexity_reference"] is None


# --- refusals ---


@pytest.mark.parametrize("name", ["kld.xyz", "kld", "none/kld.png", "folder.png"])
def test_a_picture_that_cannot_be_is_refused_before_anything_is_measured(
    files: dict[str, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr("pv.cli.kld.compare_models", lambda *_: pytest.fail("measured all the same"))
    done = call(TEACHER, files["Q4_K"], "--plot", str(tmp_path / name))
    assert done.exit_code == ExitCode.USAGE
    assert "for --plot, got" in done.stderr


@pytest.mark.parametrize("margin", ["nan", "-1", "inf"])
def test_a_margin_that_is_none_is_refused(files: dict[str, Path], margin: str) -> None:
    done = call(TEACHER, files["Q4_K"], "--near-tie", margin)
    assert done.exit_code == ExitCode.USAGE
    assert "expected a margin of 0 or more" in done.stderr


def test_models_of_different_vocabularies_are_refused_with_both_sizes(files: dict[str, Path], tmp_path: Path) -> None:
    write_model(Recipe(named_shape("nano")), tmp_path / "nano")
    done = call(TEACHER, tmp_path / "nano")
    assert done.exit_code == ExitCode.USAGE
    assert (
        f"expected models of one vocabulary, got 512 tokens in {TEACHER} and 300 in {tmp_path / 'nano'}" in done.stderr
    )


def test_models_of_other_tokens_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    write_model(Recipe(named_shape("tiny")), tmp_path / "tiny")  # 512 tokens too, and no merges
    done = call(TEACHER, tmp_path / "tiny")
    assert done.exit_code == ExitCode.FINDINGS
    assert "the two models cut the text into different tokens, first at token 0" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"), [(b"\xff\xfe\x00", "expected UTF-8 text in"), (b"", "at least one token of text, got none")]
)
def test_a_text_that_is_none_is_refused(files: dict[str, Path], tmp_path: Path, content: bytes, words: str) -> None:
    text = tmp_path / "x.txt"
    text.write_bytes(content)
    done = call(TEACHER, files["F32"], text=text)
    assert done.exit_code == ExitCode.USAGE
    assert words in done.stderr


def test_a_missing_text_is_the_systems_refusal(files: dict[str, Path], tmp_path: Path) -> None:
    done = call(TEACHER, files["F32"], text=tmp_path / "none.txt")
    assert done.exit_code == ExitCode.FAILURE
    assert "No such file" in done.stderr
