"""What goes wrong on real machines: no driver behind the loader, two processes on one device, a killed start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEACHER = ROOT / "fixtures" / "tiny-teacher"
RUN = [sys.executable, "-P", "-m", "pv", "run", str(TEACHER), "--prompt", "What is 2+2?", "--max-tokens", "12"]


def start(cache: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PV_CACHE": str(cache), **variables}
    return subprocess.Popen(
        [*RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


@pytest.mark.skipif(sys.platform != "linux", reason="VK_DRIVER_FILES of the Linux loader")
def test_a_loader_without_a_driver_falls_back_in_the_open(tmp_path):
    nothing = {"VK_DRIVER_FILES": os.devnull, "VK_ICD_FILENAMES": os.devnull, "CUDA_VISIBLE_DEVICES": ""}
    process = start(tmp_path, **nothing)
    answer, said = process.communicate(timeout=240)
    assert process.returncode == 0
    assert "equals 4" in answer
    lines = [line.partition("] ")[2] for line in said.splitlines()]
    assert lines[0].startswith("CUDA unavailable: ")
    assert lines[1] == "wgpu unavailable: no Vulkan adapter found"
    assert lines[2] == "Backend: CPU"


@pytest.mark.usefixtures("vulkan")
def test_two_processes_share_a_device(tmp_path):
    both = [start(tmp_path, "--require", "wgpu", "--fresh") for _ in range(2)]
    answers = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert all("wgpu path accepted" in said for _, said in answers)


@pytest.mark.usefixtures("vulkan")
def test_a_killed_start_leaves_nothing_torn(tmp_path):
    """Killed as soon as the backend is named, which is while it is judged; the next start is judged and remembered."""
    process = start(tmp_path, "--require", "wgpu")
    for line in process.stderr:
        if "Backend: wgpu" in line:
            process.kill()
            break
    process.communicate(timeout=60)
    assert process.returncode != 0
    again = start(tmp_path, "--require", "wgpu")
    _, said = again.communicate(timeout=240)
    assert again.returncode == 0
    assert "wgpu path accepted" in said
    assert "remembered" not in said
    kept = list((tmp_path / "parity").iterdir())
    assert len(kept) == 1
    assert json.loads(kept[0].read_text())["accepted"] is True


@pytest.mark.usefixtures("vulkan")
def test_a_device_lost_in_the_answer_is_followed_by_the_cpu_or_ends_it_as_asked(tmp_path):
    lost = ("--no-gate", "--plant-defect", "wgpu=device-lost", "--receipt", str(tmp_path / "receipt.json"))
    process = start(tmp_path, "--backend", "wgpu", *lost)
    answer, said = process.communicate(timeout=240)
    assert (process.returncode, answer) == (0, "2 + 2 equals 4.\n")
    lines = [line.partition("] ")[2] for line in said.splitlines()]
    assert "wgpu path failed after 7 tokens, continuing on the CPU: the device was lost (planted)" in lines
    assert lines[-1] == "Backend: CPU"
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert receipt["served"] == "cpu"
    assert [event["what"] for event in receipt["events"]] == ["backend", "not gated", "failed", "backend"]
    required = start(tmp_path, "--require", "wgpu", *lost)
    answer, said = required.communicate(timeout=240)
    assert required.returncode == 4
    assert said.splitlines()[-1] == "Error: device: the device was lost (planted)"
    assert json.loads((tmp_path / "receipt.json").read_text())["served"] == "wgpu"
