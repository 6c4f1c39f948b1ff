"""`pv run`: the answer on stdout, facts on stderr, and one line with an exit code for whatever is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pv.backends.registry import Choice
from pv.cli.exit_codes import ExitCode
from pv.cli.main import pv
from pv.cli.run import answer_prompt
from pv.model.generate import Sampling
from pv.model.open import open_model
from pv.model.spec import named_shape
from pv.model.synthetic import Recipe, write_model

TEACHER = Path(__file__).parents[2] / "fixtures" / "tiny-teacher"
CANONICAL = "What is 2+2?"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_CACHE", str(tmp_path / "pv-cache"))


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    write_model(Recipe(named_shape("nano")), tmp_path / "nano")
    return tmp_path / "nano"


def call(model: Path, *more: str, prompt: str = CANONICAL) -> Result:
    arguments = ["run", str(model), "--prompt", prompt, "--no-gpu", *more]
    return CliRunner().invoke(pv, arguments, catch_exceptions=False)


def test_the_teacher_answers_the_canonical_prompt() -> None:
    done = call(TEACHER, "--max-tokens", "8", "--temperature", "0")
    assert (done.exit_code, done.stdout, done.stderr) == (ExitCode.OK, "2 + 2 equals 4.\n", "")


def test_the_teacher_stops_by_itself() -> None:
    done = call(TEACHER, "--max-tokens", "60", "--verbose")
    assert done.stdout == "2 + 2 equals 4.\n"
    assert "7 prompt tokens, 9 new; ended by the model's own end" in done.stderr
    assert "backend: cpu" in done.stderr


def test_the_installed_command_does_the_same() -> None:
    command = [sys.executable, "-m", "pv", "run", str(TEACHER), "--prompt", CANONICAL, "--max-tokens", "8", "--no-gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("2 + 2 equals 4.\n", "")


def test_json_says_all_of_it_and_nothing_else(nano: Path) -> None:
    done = call(nano, "--json", "--max-tokens", "3", prompt="ab")
    answer = json.loads(done.stdout)
    assert answer["prompt_tokens"] == [97, 98]
    assert len(answer["tokens"]) == 3
    assert (answer["end"], answer["backend"], answer["model"]) == ("length", "cpu", str(nano))
    assert answer["text"] == open_model(nano).tokenizer.decode(answer["tokens"])


def test_text_comes_as_it_is_made() -> None:
    pieces: list[str] = []
    model = open_model(TEACHER)
    choice = Choice(no_gpu=True)
    answer = answer_prompt(model, CANONICAL, 8, Sampling(), choice, write=pieces.append, say=pytest.fail)
    assert "".join(pieces) == answer.text == "2 + 2 equals 4."
    assert len([piece for piece in pieces if piece]) == 8


def test_a_seed_repeats_an_answer(nano: Path) -> None:
    once, again, other = (
        call(nano, "--temperature", "1", "--seed", seed, "--max-tokens", "12", "--json") for seed in "112"
    )
    tokens = [json.loads(done.stdout)["tokens"] for done in (once, again, other)]
    assert tokens[0] == tokens[1] != tokens[2]


def test_a_full_context_is_said(nano: Path) -> None:
    done = call(nano, "--max-tokens", "50", "-v", prompt="a" * 500)
    assert done.exit_code == ExitCode.OK
    assert "500 prompt tokens, 13 new; ended by the context is full" in done.stderr


def rewrite(name: str, how: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda model: (model / name).write_bytes(how((model / name).read_bytes())) and None


def without(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).unlink()


def lying(key: str, value: object) -> Callable[[Path], None]:
    return rewrite("config.json", lambda content: json.dumps(json.loads(content) | {key: value}).encode())


@pytest.mark.parametrize(
    ("damage", "code", "sentence"),
    [
        (rewrite("model.safetensors", lambda b: b[:-5]), ExitCode.FINDINGS, "the file is truncated"),
        (rewrite("model.safetensors", lambda b: b[:50]), ExitCode.FINDINGS, "is the file complete?"),
        (rewrite("model.safetensors", lambda b: b + b"\0\0"), ExitCode.FINDINGS, "the file is too long"),
        (rewrite("model.safetensors", lambda b: b""), ExitCode.FINDINGS, "expected a safetensors header"),
        (rewrite("tokenizer.json", lambda b: b[:99]), ExitCode.FINDINGS, "expected JSON in"),
        (rewrite("tokenizer.json", lambda b: b + b"x"), ExitCode.FINDINGS, "expected JSON in"),
        (rewrite("config.json", lambda b: b[:20]), ExitCode.FINDINGS, "expected JSON in"),
        (lying("intermediate_size", 96), ExitCode.FINDINGS, "expected shape (96, 32) for 'layers.0.ffn_gate'"),
        (lying("num_hidden_layers", 10**9), ExitCode.FINDINGS, "expected layers between 1 and"),
        (lying("rope_theta", 10000.0), ExitCode.FINDINGS, "disagree"),
        (without("model.safetensors"), ExitCode.USAGE, "expected model.safetensors or its index"),
        (without("config.json"), ExitCode.USAGE, "expected config.json in"),
        (without("tokenizer.json"), ExitCode.FINDINGS, "expected a file at"),
        (shutil.rmtree, ExitCode.USAGE, "expected a model at"),
    ],
)
def test_a_damaged_model_is_one_line_without_a_traceback(
    damage: Callable[[Path], None], code: ExitCode, sentence: str, nano: Path
) -> None:
    damage(nano)
    done = call(nano)
    assert done.exit_code == code
    assert done.stdout == ""
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Error: ") == 1


@pytest.mark.parametrize(
    ("arguments", "prompt", "code", "sentence"),
    [
        ([], "a" * 513, ExitCode.USAGE, "expected at most 512 tokens (the model's context), got 513"),
        ([], "", ExitCode.USAGE, "expected at least one token, got none"),
        (["--temperature", "-1"], "a", ExitCode.USAGE, "expected a temperature of at least 0"),
        (["--top-p", "2"], "a", ExitCode.USAGE, "expected top_p above 0"),
        (["--max-tokens", "0"], "a", ExitCode.USAGE, "0 is not in the range"),
        (["--chat"], "a", ExitCode.FINDINGS, "the model has no chat template"),
        (["--backend", "tpu"], "a", ExitCode.USAGE, "unknown backend, expected one of"),
        (["--require", "cuda"], "a", ExitCode.USAGE, "asked for together with --no-gpu"),
        (["--require", "cpu", "--backend", "wgpu"], "a", ExitCode.USAGE, "asked for together with --no-gpu"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: list[str], prompt: str, code: ExitCode, sentence: str, nano: Path) -> None:
    done = call(nano, *arguments, prompt=prompt)
    assert (done.exit_code, done.stdout) == (code, "")
    assert sentence in done.stderr


@pytest.mark.parametrize("name", ["model.apr", "weights.bin", "model.pt"])
def test_formats_that_are_not_read_come_with_a_way_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\0" * 100)
    done = call(tmp_path / name)
    assert done.exit_code == ExitCode.USAGE
    assert "is not read" in done.stderr
    assert "Traceback" not in done.stderr


def test_logits_that_are_no_numbers_end_the_run(nano: Path) -> None:
    """A NaN in the final norm: the answer would mean nothing, so there is none."""
    path = nano / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-300 * 32 * 4 - 4 : -300 * 32 * 4] = b"\0\0\xc0\x7f"
    path.write_bytes(content)
    done = call(nano)
    assert (done.exit_code, done.stdout) == (ExitCode.FINDINGS, "")
    assert "expected finite logits, got nan at token 0" in done.stderr


def test_a_closed_pipe_is_quiet(nano: Path) -> None:
    """`pv run … | head -c1` ends without a word."""
    command = [sys.executable, "-m", "pv", "run", str(nano), "--prompt", "a", "--max-tokens", "400", "--no-gpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert b"Traceback" not in said
    assert b"Exception" not in said
