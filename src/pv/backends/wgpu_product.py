"""A matrix and its input -> the dispatches of their product, by the type of each chunk of the matrix.

Float chunks are multiplied with the input as it is. Chunks of blocks are multiplied with the input rounded to integers,
as ggml does it (`pv.model.quant_product` is the reference); the rounding is a dispatch of its own in front.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil

from pv.backends.wgpu_blocks import LAYOUTS, UNIT, Activation, activation_of
from pv.backends.wgpu_device import Region
from pv.backends.wgpu_recipe import Bench, Groups, Op, Place, Step, columns
from pv.backends.wgpu_weights import Chunk, Matrix
from pv.model.stages import Stage
from pv.model.weights import WeightType

Cut = tuple[tuple[str, ...], dict[str, int], Callable[[Step], Groups]]  # parts of a shader, constants, workgroups


class Products:
    """Makes the products of one plan; `widest` is the longest row that is multiplied."""

    def __init__(self, bench: Bench, widest: int) -> None:
        self._bench, self._widest = bench, widest
        self._rounded: dict[Activation, tuple[Region, Region, Region]] = {}

    def ops(
        self,
        matrix: Matrix,
        x: Region,
        y: Region,
        layer: int | None,
        done: list[tuple[Stage, Place]],
        *,
        last: bool = False,
    ) -> list[Op]:
        """x times the matrix transposed, a dispatch for each chunk; `last`: of the last token alone.

        Blocks are multiplied with rounded activations, which are made first: once for all chunks that want the same.
        """
        ops = []
        wanted = dict.fromkeys(activation_of(chunk.type) for chunk in matrix.chunks if chunk.type.quantized)
        for activation in wanted:
            ops.append(self._rounding(activation, x, matrix.inner, layer))
        for chunk in matrix.chunks:
            cut = self._vector if last or self._bench.rows == 1 else self._block
            parts, constants, groups = cut(matrix, chunk)
            inputs = self._rounded[activation_of(chunk.type)] if chunk.type.quantized else (x,)
            stages = done if chunk is matrix.chunks[-1] else ()
            regions = [*chunk.data, *inputs, y, chunk.span, self._bench.step]
            ops.append(self._bench.op(parts, constants, regions, groups, layer, stages))
        return ops

    def _rounding(self, activation: Activation, x: Region, inner: int, layer: int | None) -> Op:
        """x as codes, scales and sums, in buffers that all products of this pass share."""
        if activation not in self._rounded:
            self._rounded[activation] = self._buffers_of(activation)
        constants = {"PIECES": inner // 16, "SHARE": activation.block // 16, "SUMMED": int(activation.kind == "Q8_1")}
        regions = [x, *self._rounded[activation], self._bench.step]
        return self._bench.op("quantize", constants, regions, columns(inner // 16), layer)

    def _buffers_of(self, activation: Activation) -> tuple[Region, Region, Region]:
        """Room for the widest input of a product: codes (T, K / 4) words, scales (T, K / block), sums (T, K / 16)."""
        most = self._bench.rows * self._widest
        sizes = (("codes", most // 4), ("scales", most // activation.block), ("sums", most // 16))
        codes, scales, sums = (self._bench.buffer(f"{activation.kind} {name}", floats) for name, floats in sizes)
        return codes, scales, sums

    def _vector(self, matrix: Matrix, chunk: Chunk) -> Cut:
        tuning, quantized = self._bench.device.tuning, chunk.type.quantized
        (lanes, teams), at_once = (tuning.blocks, tuning.block_rows) if quantized else (tuning.matvec, tuning.rows)
        groups = ceil(chunk.rows / (teams * at_once))
        span = min(groups, self._bench.device.max_groups)
        constants = {"LANES": lanes, "TEAMS": teams, "ROWS": at_once, "SPAN": span}
        fixed = partial(_fixed, (span, ceil(groups / span), 1))
        if quantized:
            return ("blocks", *own_parts(chunk.type), "blocks_matvec"), constants | _units(matrix, chunk), fixed
        return ("matvec",), constants | {"INNER": matrix.inner // 4}, fixed

    def _block(self, matrix: Matrix, chunk: Chunk) -> Cut:
        constants = {"OUTER": matrix.outer}
        groups = partial(_tiles, chunk.rows)
        if chunk.type.quantized:
            return ("blocks", *own_parts(chunk.type), "blocks_matmul"), constants | _units(matrix, chunk), groups
        return ("matmul",), constants | {"INNER": matrix.inner // 4}, groups


def _fixed(groups: Groups, _: Step) -> Groups:
    return groups


def _tiles(rows: int, step: Step) -> Groups:
    """Workgroups of 32 rows by 32 tokens."""
    return ceil(rows / 32), ceil(step.tokens / 32), 1


def own_parts(kind: WeightType) -> tuple[str, ...]:
    """The parts of a shader that are a block type's own."""
    return LAYOUTS[kind].parts


def _units(matrix: Matrix, chunk: Chunk) -> dict[str, int]:
    """Constants of a product of blocks."""
    share, offsets = activation_of(chunk.type).units, LAYOUTS[chunk.type].offsets
    return {"UNITS": matrix.inner // UNIT, "SHARE": share, "OFFSETS": int(offsets)}
