"""Synthetic models: the same from the same recipe, sound in scale, and never half written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pv.backends.cpu import open_cpu
from pv.model import synthetic
from pv.model.errors import FormatError, SpecError
from pv.model.open import open_model
from pv.model.spec import named_shape
from pv.model.stages import Stage
from pv.model.synthetic import MASSIVE, Recipe, build, default_directory, massive_index, tensors, write_model

NANO = Recipe(named_shape("nano"))


def test_a_tensor_depends_on_seed_and_name_alone() -> None:
    """So that one layer can be made without the ones before it."""
    deeper = {weight.name: weight for weight in tensors(replace(NANO, spec=replace(NANO.spec, layers=7)))}
    for weight in tensors(NANO):
        if not weight.name.endswith(("attn_out", "ffn_down")):  # scaled by the depth
            assert torch.equal(weight.data, deeper[weight.name].data)


def test_seeds_differ_and_repeat() -> None:
    first, again, other = (build(recipe).tensors for recipe in (NANO, NANO, replace(NANO, seed=1)))
    assert all(torch.equal(first[name].data, again[name].data) for name in first)
    assert not any(torch.equal(first[name].data, other[name].data) for name in first)
    assert not torch.equal(first["layers.0.ffn_gate"].data, first["layers.1.ffn_gate"].data)


@pytest.mark.parametrize("shape", ["nano", "tiny", "28-small"])
@pytest.mark.parametrize("massive", [False, True])
def test_the_scale_is_that_of_a_trained_model(shape: str, massive: bool) -> None:
    """Logits spread by about one, the residual stream neither dies nor explodes, the outlier stays one."""
    recipe = Recipe(named_shape(shape), massive_channel=massive)
    at = massive_index(recipe.spec)
    seen: dict[Any, np.ndarray] = {}

    class Tap:
        def wants(self, stage: Stage, layer: int | None) -> bool:
            return stage in {Stage.EMBEDDING, Stage.POST_FFN_RESIDUAL}

        def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
            seen[stage, layer] = values

    logits = open_cpu(build(recipe)).prefill(list(range(5, 25)), Tap())
    assert 0.2 < logits.std() < 2.5
    for place, values in seen.items():
        others = np.sqrt((np.delete(values, at, axis=1) ** 2).mean())
        assert 0.15 < others < 2, place
        if massive:
            assert np.abs(values[:, at]).min() / others > 0.5 * MASSIVE, place
        else:
            assert np.abs(values).max() / others < 8, place


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_what_is_built(dtype: torch.dtype, tmp_path: Path) -> None:
    recipe, heard = replace(NANO, dtype=dtype), []
    assert write_model(recipe, tmp_path / "m", heard.append)
    model, want = open_model(tmp_path / "m"), build(recipe)
    assert sum(heard) == want.nbytes
    assert all(torch.equal(model.weights.tensors[n].data, w.data) for n, w in want.tensors.items())
    assert not model.tokenizer.stops


def test_a_second_call_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(NANO, tmp_path / "m")
    monkeypatch.setattr(synthetic, "save_weights", lambda *_: pytest.fail("wrote again"))
    assert not write_model(NANO, tmp_path / "m")


def test_another_recipe_is_not_written_over_it(tmp_path: Path) -> None:
    write_model(NANO, tmp_path / "m")
    with pytest.raises(FormatError, match="holds a model of another recipe"):
        write_model(replace(NANO, seed=1), tmp_path / "m")


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FormatError, match="is not empty, and holds no synthetic model"):
        write_model(NANO, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_write_that_was_cut_is_no_model_and_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "save_weights", cut)
        with pytest.raises(OSError, match="No space left"):
            write_model(NANO, tmp_path / "m")
    with pytest.raises(FormatError, match=r"expected config\.json"):
        open_model(tmp_path / "m")
    assert write_model(NANO, tmp_path / "m")
    open_model(tmp_path / "m")


def test_a_disk_too_small_is_told_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="the model needs 207,488 bytes, the disk has 1,000"):
        write_model(NANO, tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="at least 256 for the byte tokenizer, got 100"):
        write_model(replace(NANO, spec=replace(NANO.spec, vocab=100)), tmp_path / "m")


def test_the_digest_tells_recipes_apart() -> None:
    others = [replace(NANO, seed=1), replace(NANO, dtype=torch.float16), replace(NANO, massive_channel=True)]
    assert len({recipe.digest for recipe in [NANO, *others]}) == 4


def test_the_default_place_is_outside_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PV_CACHE", str(tmp_path))
    recipe = replace(NANO, seed=3, dtype=torch.bfloat16, massive_channel=True)
    assert default_directory("nano", recipe) == tmp_path / "models" / "nano-bf16-seed3-massive"
