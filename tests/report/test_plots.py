"""Pictures of a comparison: the arrays behind them, and that a file comes out."""

from __future__ import annotations

import numpy as np
import pytest

from pv.compare.tensors import diff_tensor, held, judge_identical
from pv.model.stages import Stage
from pv.report.plots import draw_differences, grid, token_grid

RNG = np.random.default_rng(0)


def off(stage, layer, positions=5, width=16, at=2):
    """A tensor that is off at one position, by as much as its layer says."""
    values = RNG.standard_normal((positions, width)).astype(np.float32)
    test = values.copy()
    test[at] *= 1 + np.float32(0.1 * ((layer or 0) + 1))
    name = f"layer-{layer}/{stage}" if layer is not None else str(stage)
    return diff_tensor(held(name, values, stage, layer), held(name, test, stage, layer), judge_identical)


FOUND = [off(stage, layer) for layer in (0, 1, 2) for stage in (Stage.FFN_GATE, Stage.POST_FFN_RESIDUAL)]
FOUND.append(off(Stage.FINAL_NORM, None))


def test_a_grid_has_a_cell_for_each_and_the_worst_where_several_meet():
    cells = grid([("a", 0, 1.0), ("b", 1, 2.0), ("a", 0, 3.0)], ["a", "b"], [0, 1])
    np.testing.assert_array_equal(cells, [[3.0, np.nan], [np.nan, 2.0]])


def test_tokens_are_those_of_the_residual_stream():
    stage, layers, cells = token_grid(FOUND)
    assert (stage, layers, cells.shape) == ("post_ffn_residual", ["0", "1", "2"], (3, 5))
    np.testing.assert_allclose(cells[:, 2], [0.1, 0.2, 0.3], rtol=1e-6)
    assert not cells[:, [0, 1, 3, 4]].any()


def test_without_tokens_there_is_no_such_picture():
    assert token_grid([off(Stage.FFN_GATE, 0, positions=1, at=0)]) is None


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_file_comes_out(tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: install the extra [report]")
    path = tmp_path / f"x.{suffix}"
    draw_differences(FOUND, "row B", path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    if suffix == "svg":
        text = content.decode()
        for word in ("relative L2", "1 - cosine", "post_ffn_residual", "row B", "model"):
            assert word in text


def test_a_suffix_that_cannot_be_drawn_is_an_error(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: install the extra [report]")
    with pytest.raises(ValueError, match="xyz"):
        draw_differences(FOUND, "x", tmp_path / "x.xyz")
