"""Planted defects: at least twenty, each in a real backend, each seen by somebody, none reachable in normal use."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pv.backends.cuda import CUDA_RECIPE, open_cuda
from pv.backends.protocol import BackendError
from pv.backends.wgpu_recipe import RECIPE
from pv.parity.deep import deep, record
from pv.parity.defects import DEFECTS, planted_opener
from pv.parity.gate import lockstep, reference_logits
from pv.parity.planted_wgpu import edited

SOURCE = Path(__file__).parents[2] / "src" / "pv"
TOKENS = [(37 * n + 11) % 300 for n in range(20)]
# What a start gate of three steps cannot show on this prompt, and why; everything else it must reject.
DEEP_ONLY = {
    "norm-epsilon": "the activations are too large for an epsilon to matter",
    "tf32-operands": "below what honest float32 products may differ by in the logits",
    "wrong-at-65": "the prompt has another length",
    "writes-beyond": "nothing reads what is written",
}


@pytest.fixture(scope="module")
def reference(nano):
    from pv.backends.cpu import open_cpu

    return record(open_cpu(nano))


def planted_in(backend: str) -> list[str]:
    return [name for name, defect in DEFECTS.items() if backend in defect.backends and not defect.card_only]


def test_there_are_at_least_twenty_on_each_backend():
    assert len(DEFECTS) >= 20
    assert len(planted_in("wgpu")) >= 20
    assert len(planted_in("cuda")) >= 20
    assert all(name == defect.name and defect.title for name, defect in DEFECTS.items())


def seen_by(defect, backend, nano, reference, cpu) -> tuple[bool, bool]:
    test = defect.open(backend, nano, device="cpu", guard=True)
    try:
        start = lockstep(reference_logits(cpu, TOKENS, 3), test, TOKENS, 3)
        return not start.accepted, not deep(test, reference, to_the_end=False).accepted
    finally:
        test.close()


@pytest.mark.parametrize("name", planted_in("cuda"))
def test_every_defect_of_a_torch_backend_is_seen(name, nano, reference, cpu):
    start, whole = seen_by(DEFECTS[name], "cuda", nano, reference, cpu)
    assert whole
    assert start is (name not in DEEP_ONLY)


@pytest.mark.parametrize("name", planted_in("wgpu"))
@pytest.mark.usefixtures("vulkan")
def test_every_defect_of_the_wgpu_backend_is_seen(name, nano, reference, cpu):
    start, whole = seen_by(DEFECTS[name], "wgpu", nano, reference, cpu)
    assert whole
    assert start is (name not in DEEP_ONLY)


def test_the_healthy_torch_backend_is_left_alone(nano, reference, cpu):
    test = open_cuda(nano, device="cpu")
    assert lockstep(reference_logits(cpu, TOKENS, 3), test, TOKENS, 3).accepted
    assert deep(test, reference).reasons == ()


@pytest.mark.usefixtures("vulkan")
def test_the_healthy_wgpu_backend_is_left_alone(nano, reference, cpu):
    from pv.backends.wgpu_session import open_wgpu

    test = open_wgpu(nano, guard=True)
    assert lockstep(reference_logits(cpu, TOKENS, 3), test, TOKENS, 3).accepted
    verdict = deep(test, reference)
    assert verdict.reasons == ()
    assert verdict.guarded
    test.close()


def test_argmax_kept_is_what_it_says():
    logits = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    from pv.parity.planted_weights import argmax_kept

    changed = argmax_kept(logits)
    cosine = changed @ logits / np.linalg.norm(changed) / np.linalg.norm(logits)
    assert 0.7 < cosine < 0.98
    assert changed.argmax() == logits.argmax()


def test_a_defect_is_planted_where_it_makes_sense_alone(nano):
    with pytest.raises(BackendError, match="the defect 'writes-beyond' makes no sense there"):
        DEFECTS["writes-beyond"].open("cuda", nano, device="cpu")


def test_a_shader_that_has_changed_is_noticed_by_the_edit():
    with pytest.raises(ValueError, match=r"expected 'no such text' once in silu.wgsl, found it 0 times"):
        edited(("silu", "no such text", ""))


def test_planting_leaves_production_as_it_was():
    before = dict(RECIPE.sources)
    for defect in DEFECTS.values():
        from pv.model.spec import named_shape

        if defect.wgpu is not None:
            assert defect.wgpu(named_shape("nano")) is not RECIPE
    assert dict(RECIPE.sources) == before


def test_the_opener_plants_only_where_it_is_told(nano):
    opened = planted_opener({"wgpu": "bias-dropped"})
    assert opened("cpu", nano).facts.backend == "cpu"


def test_nothing_in_production_names_a_defect():
    """Beside this room only commands know of the table, and none imports it before somebody asked for a defect."""
    users = [
        path
        for path in SOURCE.rglob("*.py")
        if "parity.defects" in path.read_text() or "parity import planted" in path.read_text()
    ]
    rooms = {path.relative_to(SOURCE).parts[0] for path in users}
    assert rooms == {"cli", "parity"}
    assert {path.name for path in users if path.parent.name == "parity"} == {"defects.py", "power.py"}
    for path in users:
        if path.parent.name == "cli":
            top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
            assert not any("defects" in ast.unparse(node) for node in top), path
    for path in [SOURCE / "parity" / "defects.py", *(SOURCE / "parity").glob("planted_*.py")]:
        assert not {"import os", "environ[", "environ.", "getenv"} & set(path.read_text().split())


def test_a_normal_start_does_not_even_import_the_table(nano):
    code = (
        "import sys\n"
        "from pv.model.spec import named_shape\n"
        "from pv.model.synthetic import Recipe, build\n"
        "from pv.backends.registry import Choice\n"
        "from pv.parity.start import serve\n"
        "serve(build(Recipe(named_shape('nano'))), [1, 2], Choice(backend='cpu'), say=print)\n"
        "print([m for m in sys.modules if 'defects' in m or 'planted' in m])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_production_recipes_change_nothing(nano):
    from pv.model.spec import named_shape

    assert CUDA_RECIPE.weights(nano) is nano
    assert RECIPE.weights(nano) is nano
    assert RECIPE.keep is None
    assert RECIPE.epsilon(named_shape("nano")) == 1e-6
