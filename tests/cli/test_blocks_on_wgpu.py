"""A GGUF file of blocks on wgpu, as a user asks for it: the CPU's answer, and the four commands that look inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pv.backends.protocol import BackendError
from pv.cli.exit_codes import ExitCode
from pv.cli.main import pv

TEACHER = Path(__file__).parents[2] / "fixtures" / "tiny-teacher"
PROMPT = ("--prompt", "What is 2+2?")


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PV_PARITY_STEPS", raising=False)


@pytest.fixture(scope="module", autouse=True)
def vulkan() -> None:
    from pv.backends.wgpu_device import pick_adapter, vulkan_adapters

    try:
        pick_adapter(vulkan_adapters())
    except BackendError as absent:
        pytest.skip(f"no Vulkan here: {absent}")


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> str:
    """The teacher as Q4_K_M: Q4_K, with Q6_K where the mix has it."""
    path = tmp_path_factory.mktemp("blocks") / "teacher.gguf"
    call("model", "convert", str(TEACHER), "--to", "gguf", "--type", "Q4_K_M", "--output", str(path))
    return str(path)


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(pv, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_run_passes_the_gate_and_gives_the_cpus_answer(blocks):
    ours = call("run", blocks, *PROMPT, "--max-tokens", "8", "--require", "wgpu")
    assert ours.exit_code == ExitCode.OK
    assert "Backend: wgpu (Vulkan, " in ours.stderr
    assert "wgpu path accepted: " in ours.stderr
    assert ours.stdout == call("run", blocks, *PROMPT, "--max-tokens", "8", "--backend", "cpu").stdout
    assert ours.stdout.strip()


def test_one_wrong_block_is_rejected_before_it_serves(blocks):
    plant = ("--plant-defect", "wgpu=block-of-32-wrong")
    result = call("run", blocks, *PROMPT, "--max-tokens", "2", "--backend", "wgpu", *plant)
    assert "wgpu path rejected, attempting fallback: " in result.stderr
    assert result.stderr.splitlines()[-1].endswith("Backend: CPU")


def test_parity_judges_by_the_row_of_blocks(blocks):
    result = call("parity", blocks, *PROMPT, "--backend", "wgpu", "--assert", "--json", "--steps", "2")
    assert result.exit_code == ExitCode.OK
    (found,) = json.loads(result.stdout)["backends"]
    assert found["accepted"] is True
    assert max(step["rel_l2"] for step in found["steps"]) < 1e-5  # the dequantized product is 1e-2 away


def test_trace_writes_every_stage_of_the_path_that_serves(blocks, tmp_path):
    folder = tmp_path / "trace"
    call("trace", blocks, *PROMPT, "--backend", "wgpu", "--save-tensor", "all", "--output", str(folder))
    assert len(list(folder.rglob("*.bin"))) == 17 * 4 + 3
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "wgpu" in json.dumps(manifest)


def test_bisect_names_the_stage_with_the_wrong_block_and_finds_nothing_without(blocks):
    asked = ("bisect", blocks, "--backend", "wgpu", *PROMPT)
    assert call(*asked).exit_code == ExitCode.OK
    found = call(*asked, "--plant", "block-of-32-wrong")
    assert found.exit_code == ExitCode.FINDINGS
    assert "ffn_out of layer 3" in found.stdout
