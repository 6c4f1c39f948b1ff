"""A defect planted in the engine of a copy of this project -> `pv falsify` -> `pv report` -> the stage, in clicks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.report import pages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CLICKS = 3


class Defect(NamedTuple):
    """An edit of the engine, the claims that are run, the one that it breaks, and the stage that is to blame."""

    file: str
    healthy: str
    planted: str
    run: tuple[str, ...]
    breaks: str
    stage: str
    again: str


IN_A_PRODUCT = Defect(
    "src/pv/model/quant_product.py",
    "return multiply(activations, grid_of(weight))",
    'return (8 if weight.name == "layers.2.ffn_gate" else 1) * multiply(activations, grid_of(weight))',
    ("FALSIFY-APR-GGUF-PARITY-007", "FALSIFY-APR-GGUF-PARITY-001"),
    "FALSIFY-APR-GGUF-PARITY-001",
    "ffn_gate of layer 2",
    "pv bisect dense blocks --allow-different-models",
)
ON_THE_GPU = Defect(
    "src/pv/backends/wgpu_weights.py",
    'loader.matrix(f"{at}.ffn_gate", f"{at}.ffn_up")',
    'loader.matrix(f"{at}.ffn_up", f"{at}.ffn_gate")',
    ("FALSIFY-CPU-GPU-002",),
    "FALSIFY-CPU-GPU-002",
    "ffn_gate of layer 0",
    "pv bisect fixtures/tiny-teacher --backend wgpu --tokens",
)


@pytest.fixture(scope="module", params=[IN_A_PRODUCT, ON_THE_GPU], ids=["a product", "a GPU"])
def red(request, tmp_path_factory) -> tuple[Defect, Path]:
    """The defect and the report of the project that has it."""
    defect: Defect = request.param
    if defect is ON_THE_GPU:
        _require_software_vulkan()
    project = _copy(tmp_path_factory.mktemp("red") / "project")
    _edit(project / defect.file, defect.healthy, defect.planted)
    asked = [word for claim in defect.run for word in ("--id", claim)]
    ran = _pv(project, "falsify", *asked, "--device", "vulkan-sw" if defect is ON_THE_GPU else "cpu")
    assert ran.returncode == 1, ran.stderr + ran.stdout
    made = _pv(project, "report", "--output", "report.html")
    assert made.returncode == 0, made.stderr
    return defect, project / "report.html"


def test_the_row_leads_to_the_stage(red):
    """Without a browser: the link of the red row, and what stands where it leads."""
    defect, file = red
    tree = pages.read(file.read_text("utf-8"))
    (row,) = [r for table in tree.all("table") if table.attributes.get("class") == "reds" for r in table.all("tr")][1:]
    assert defect.breaks in row.words
    assert defect.stage in row.words
    (anchor,) = {a.attributes["href"].removeprefix("#") for a in row.all("a") if ".rec-" in a.attributes["href"]}
    there = tree.by_id(anchor).words
    assert f"The guilty stage is {defect.stage}: from equal inputs its result is off by" in there
    assert f"again: {'PV_WGPU_ADAPTER=software ' if defect is ON_THE_GPU else ''}" in there
    assert defect.again in there


def test_three_clicks_are_enough(red, browser):
    """From the top of the page: to what needs attention, to the red claim's record, and there the stage is in sight."""
    defect, file = red
    page = browser.open()
    page.go(file)
    sentence = (
        f"[...document.querySelectorAll('details.cell[open] *')].some(e => e.checkVisibility() && "
        f"e.innerText.includes({json.dumps(f'The guilty stage is {defect.stage}')}))"
    )
    assert not page.run(sentence)
    clicks = ["nav a[href='#p-attention']", "#p-attention .reds td a"]
    for selector in clicks:
        page.click(selector)
    page.wait(sentence)
    assert len(clicks) <= CLICKS
    assert page.troubles == []
    page.close()


def _copy(project: Path) -> Path:
    """What the checks need of this project; its GPU contract asks for the software driver, and nothing was ever run."""
    project.mkdir(parents=True)
    for name in ("src", "falsifiers", "contracts", "fixtures"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", project)
    _edit(project / "contracts" / "apr-cpu-vs-gpu-output-parity-v1.yaml", "{device: vulkan, ", "{device: vulkan-sw, ")
    return project


def _edit(file: Path, before: str, after: str) -> None:
    text = file.read_text("utf-8")
    assert before in text, f"nothing to plant in {file}"
    file.write_text(text.replace(before, after), "utf-8")


def _pv(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program of the copy."""
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "pv", *arguments],
        cwd=project,
        env={**os.environ, **threads, "PYTHONPATH": str(project / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


def _require_software_vulkan() -> None:
    from pv.contract.vocabulary import DeviceClass
    from pv.falsify.devices import present

    report = present()[DeviceClass.VULKAN_SW]
    if not report.present:
        pytest.skip(f"no software Vulkan here: {report.why_not}")
