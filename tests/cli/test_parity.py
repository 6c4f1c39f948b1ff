"""`pv parity` and the gate's options of `pv run`, as a user calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pv.backends.protocol import BackendError
from pv.cli.exit_codes import ExitCode
from pv.cli.main import pv

TEACHER = Path(__file__).parents[2] / "fixtures" / "tiny-teacher"
TAG = "[apr-cpu-vs-gpu-output-parity-v1] "


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PV_PARITY_STEPS", raising=False)


@pytest.fixture(scope="module")
def vulkan() -> None:
    from pv.backends.wgpu_device import pick_adapter, vulkan_adapters

    try:
        pick_adapter(vulkan_adapters())
    except BackendError as absent:
        pytest.skip(f"no Vulkan here: {absent}")


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(pv, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_help_names_both_uses():
    text = call("parity", "--help").output
    assert "pv parity MODEL --prompt TEXT [--assert] [--backend X] [--steps N] [--deep]" in text
    assert "pv parity power [MODEL]" in text
    assert "plant-defect" not in call("run", "--help").output  # for tests only, and hidden


@pytest.mark.usefixtures("vulkan")
def test_a_healthy_backend_is_accepted_with_its_figures():
    result = call("parity", "synthetic:nano", "--prompt", "abc", "--backend", "wgpu", "--assert", "--steps", "4")
    assert result.exit_code == ExitCode.OK
    lines = result.stdout.splitlines()
    assert lines[0].startswith("wgpu: ")
    assert [line.split(":")[0].strip() for line in lines[1:5]] == ["step 0", "step 1", "step 2", "step 3"]
    assert lines[-1].strip() == "accepted"


@pytest.mark.usefixtures("vulkan")
@pytest.mark.parametrize("how", [[], ["--deep"]], ids=["start", "deep"])
def test_a_defective_backend_is_found_and_the_banner_is_printed(how):
    plant = ["--plant-defect", "wgpu=gelu-for-silu"]
    result = call(
        "parity", "synthetic:nano", "--prompt", "abc", "--backend", "wgpu", "--assert", "--json", *how, *plant
    )
    assert result.exit_code == ExitCode.FINDINGS
    assert "TEST ONLY: the defect 'gelu-for-silu' is planted in the wgpu backend" in result.stderr
    (found,) = json.loads(result.stdout)["backends"]
    assert found["accepted"] is False
    assert found["reason"]
    assert call("parity", "synthetic:nano", "--prompt", "abc", "--backend", "wgpu", *plant).exit_code == ExitCode.OK


def test_no_backend_at_all_is_blocked(monkeypatch):
    monkeypatch.setenv("PV_WGPU_ADAPTER", "no such adapter")
    monkeypatch.setattr("pv.backends.cuda.why_no_cuda", lambda: "no card")
    result = call("parity", "synthetic:nano", "--prompt", "abc")
    assert result.exit_code == ExitCode.BLOCKED
    assert "CUDA: cuda: no card" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["parity", "synthetic:huge", "--prompt", "x"], "expected a shape among"),
        (["parity", "synthetic:nano", "--plant-defect", "wgpu=nothing"], "expected BACKEND=DEFECT"),
        (["parity", "power", "--defect", "nothing"], "expected defects among"),
        (["parity", "synthetic:nano", "--steps", "17"], "17 is not in the range 1<=x<=16"),
        (["run", str(TEACHER), "--prompt", "x", "--parity-steps", "0"], "0 is not in the range 1<=x<=16"),
        (["run", str(TEACHER), "--prompt", "x", "--plant-defect", "cpu=one-nan=x"], "expected BACKEND=DEFECT"),
    ],
)
def test_wrong_calls_say_what_was_expected(arguments, sentence):
    result = call(*arguments)
    assert result.exit_code in (ExitCode.USAGE, ExitCode.FINDINGS)
    assert sentence in result.stderr.replace("\n", " ")


def test_a_bad_number_of_steps_in_the_environment_is_blocked_with_a_sentence(monkeypatch):
    monkeypatch.setenv("PV_PARITY_STEPS", "many")
    result = call("parity", "synthetic:nano", "--prompt", "abc", "--backend", "wgpu")
    assert result.exit_code == ExitCode.BLOCKED
    assert "expected PV_PARITY_STEPS to be a number from 1 to 16, got 'many'" in result.stderr + result.stdout


@pytest.mark.usefixtures("vulkan")
def test_power_of_a_few_defects(tmp_path):
    picture = tmp_path / "power.svg"
    asked = ["parity", "power", "synthetic:nano", "--backend", "wgpu", "--healthy", "3", "--defect", "logits-x2"]
    result = call(*asked, "--plot", str(picture))
    assert result.exit_code == ExitCode.OK
    assert "caught by the start gate: 1 of 1" in result.stdout
    assert "false alarms: 0 of 3 healthy prompts" in result.stdout
    assert picture.read_text().count("<svg") == 1
    (told,) = json.loads(call(*asked, "--output-format", "json").stdout)
    assert told["defects"][0]["by"] == "start"
    saved = tmp_path / "power.json"
    assert "| logits-x2 |" in call(*asked, "--output-format", "markdown", "--save", str(saved)).stdout
    assert json.loads(saved.read_text())[0]["backend"] == "wgpu"


@pytest.mark.usefixtures("vulkan")
def test_pv_run_falls_back_in_the_open_and_writes_its_receipt(tmp_path):
    receipt = tmp_path / "receipt.json"
    plant = ["--plant-defect", "wgpu=gate-up-swapped", "--plant-defect", "cuda=gate-up-swapped"]
    result = call(
        "run", str(TEACHER), "--prompt", "What is 2+2?", "--max-tokens", "12", "--receipt", str(receipt), *plant
    )
    assert result.exit_code == ExitCode.OK
    lines = [line.removeprefix(TAG) for line in result.stderr.splitlines() if line.startswith(TAG)]
    assert lines[0].startswith("CUDA ")
    assert lines[-3].startswith("Backend: wgpu (Vulkan, ")
    assert lines[-2].startswith("wgpu path rejected, attempting fallback: cosine vs CPU = ")
    assert lines[-1] == "Backend: CPU"
    told = json.loads(receipt.read_text())
    assert told["served"] == "cpu"
    assert [TAG + line for line in lines] == [event["line"] for event in told["events"]]
    alone = call("run", str(TEACHER), "--prompt", "What is 2+2?", "--max-tokens", "12", "--no-gpu")
    assert result.stdout == alone.stdout
    assert alone.stderr == ""


def test_a_required_backend_that_is_not_there_is_blocked(monkeypatch):
    monkeypatch.setattr("pv.backends.cuda.why_no_cuda", lambda: "no card")
    result = call("run", str(TEACHER), "--prompt", "x", "--require", "cuda")
    assert result.exit_code == ExitCode.BLOCKED
    assert TAG + "CUDA unavailable: no card" in result.stderr


@pytest.fixture(autouse=True)
def visible_devices():
    """`--no-gpu` hides them for its process, which here is ours."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield
    if before is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = before
