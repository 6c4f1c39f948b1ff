"""Every command of the page on tracing is run as it stands, on a copy of the shipped teacher."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pv.cli.main import pv

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "tracing.md"
TEACHER = ROOT / "fixtures" / "tiny-teacher"
COMMAND = re.compile(r"^\$ pv (?P<arguments>.*?)(?:   # exit (?P<code>\d))?$", re.MULTILINE)


def test_every_command_of_the_page_does_what_it_says(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the page's oracle needs Transformers: install the extra [oracle]")
    shutil.copytree(TEACHER, tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    commands = list(COMMAND.finditer(PAGE.read_text(encoding="utf-8")))
    assert len(commands) == 13
    outputs = {}
    for command in commands:
        if "wgpu" in command["arguments"] and not software_vulkan():
            pytest.skip("no Vulkan driver here: `bash scripts/install-vulkan.sh` installs a software one")
        done = CliRunner().invoke(pv, shlex.split(command["arguments"]))
        assert done.exit_code == int(command["code"] or 0), f"{command[0]}\n{done.output}\n{done.exception}"
        outputs[command["arguments"]] = done.stdout
    assert outputs["bisect cpu gpu"].startswith("The guilty stage is ffn_gate of layer 0")
    assert "71 tensors compared: " in outputs["diff oracle cpu"]
    late = next(text for arguments, text in outputs.items() if "kv-slot-late" in arguments)
    assert late.startswith("The guilty stage is attn_scores of layer 0 at decode step 1")


def software_vulkan() -> bool:
    from pv.falsify.devices import present

    return any(name in {"vulkan", "vulkan-sw"} and report.present for name, report in present().items())


def test_the_rows_of_the_page_are_those_of_the_table():
    from pv.compare.thresholds import THRESHOLDS, Kind

    text = PAGE.read_text(encoding="utf-8")
    for kind, figures in {Kind.SHADOW: "5e-6 | 1e-4", Kind.ORACLE: "5e-6 | 1e-4", Kind.CUDA: "1e-5 | 1e-3"}.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {kind.value} |"))
        assert figures in row
        local, total = (float(x) for x in figures.split(" | "))
        assert (THRESHOLDS[kind].local.rel_l2, THRESHOLDS[kind].cumulative.rel_l2) == (local, total)
