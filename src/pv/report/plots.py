"""Findings of a comparison -> a picture: error by stage and layer, cosine, and where among the tokens it sits.

matplotlib is loaded here and nowhere else; without it the command says how to install it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from pv.compare.tensors import TensorDiff

# Errors below the first are drawn there, since a logarithm has no zero, and errors above the second there.
RANGES = {"relative L2": (1e-9, 10.0), "1 - cosine": (1e-17, 1.0)}
WHOLE = -1  # column of the stages that have no layer


def draw_differences(found: Sequence[TensorDiff], title: str, path: Path) -> None:
    """Write a picture (.svg, .png, .pdf) of a comparison of two captures.

    Left and middle: relative L2 and 1 - cosine, a cell for each stage and layer. Right: relative L2 of one stage, a
    cell for each layer and token: the residual stream's end, or the stage with the most tokens.
    Raises ValueError for a suffix that matplotlib cannot write.
    """
    figures: Any = importlib.import_module("matplotlib.figure")  # which has no types
    figure = figures.Figure(figsize=(16, 7), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    stages = list(dict.fromkeys(str(d.stage) for d in found))
    layers = sorted({d.layer for d in found if d.layer is not None})
    columns = [*layers, *([WHOLE] if any(d.layer is None for d in found) else [])]
    names = ["model" if layer == WHOLE else str(layer) for layer in columns]
    for axis, label in zip(axes, RANGES, strict=False):
        values = [(d, d.metrics.rel_l2 if label == "relative L2" else d.metrics.cosine_loss) for d in found]
        cells = grid([(str(d.stage), WHOLE if d.layer is None else d.layer, v) for d, v in values], stages, columns)
        _heat(axis, cells, label, label, stages, names, figure)
    _tokens(axes[2], found, figure)
    figure.suptitle(title)
    figure.savefig(path)


def grid(values: Sequence[tuple[str, int, float]], rows: Sequence[str], columns: Sequence[int]) -> np.ndarray:
    """(row, column, value) triples as an array (rows, columns), the largest where several meet, NaN where none is."""
    import numpy as np

    cells = np.full((len(rows), len(columns)), np.nan)
    for row, column, value in values:
        at = rows.index(row), columns.index(column)
        cells[at] = np.fmax(cells[at], value)
    return cells


def token_grid(found: Sequence[TensorDiff]) -> tuple[str, list[str], np.ndarray] | None:
    """(stage, layers, relative L2 of each layer and token), of the residual stream's end or the longest stage."""
    import numpy as np

    by_row = [d for d in found if d.metrics.positions > 1 and len(d.metrics.shape) == 2 and d.stage is not None]
    if not by_row:
        return None
    names = [str(d.stage) for d in by_row]
    stage = "post_ffn_residual" if "post_ffn_residual" in names else max(names, key=names.count)
    chosen = [d for d in by_row if str(d.stage) == stage]
    width = max(d.metrics.positions for d in chosen)
    cells = np.full((len(chosen), width), np.nan)
    for at, d in enumerate(chosen):
        cells[at, : d.metrics.positions] = d.metrics.rows.rel_l2
    return stage, ["model" if d.layer is None else str(d.layer) for d in chosen], cells


def _tokens(axis: Any, found: Sequence[TensorDiff], figure: Any) -> None:
    tokens = token_grid(found)
    if tokens is None:
        axis.set_axis_off()
        axis.set_title("no stage with several tokens")
        return
    stage, layers, cells = tokens
    numbers = [str(i) for i in range(cells.shape[1])]
    _heat(axis, cells, f"relative L2 of {stage}", "relative L2", layers, numbers, figure)
    axis.set_ylabel("layer")
    axis.set_xlabel("token")


def _heat(
    axis: Any, cells: np.ndarray, title: str, scale: str, rows: Sequence[str], columns: Sequence[str], figure: Any
) -> None:
    import numpy as np
    from matplotlib.colors import LogNorm

    low, high = RANGES[scale]
    drawn = np.clip(cells, low, high)  # NaN stays NaN and is drawn as nothing
    image = axis.imshow(drawn, aspect="auto", norm=LogNorm(low, high), cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=axis)
    axis.set_title(title)
    axis.set_yticks(range(len(rows)), rows)
    step = max(1, len(columns) // 16)
    axis.set_xticks(range(0, len(columns), step), columns[::step])
    axis.set_xlabel("layer")
