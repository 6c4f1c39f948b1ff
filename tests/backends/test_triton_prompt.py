"""Tiled products of blocks: the reference's product whatever the shape, and each token's the same in every prompt.

On a card by `make test-gpu`, and without one through Triton's interpreter, which `test_triton_interpreted.py` asks for.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.backends.where_triton_runs import DEVICE, MARKS

# Where Triton runs nowhere, that import has skipped this module.
# isort: split
from pv.backends import triton_prompt, triton_quant
from pv.backends.triton_prompt import LEAST, TILES, tile_for
from pv.model.errors import QuantError
from pv.model.quant import quantize
from pv.model.quant_product import ACTIVATIONS, quantized_product
from pv.model.weights import BLOCKS, Weight, WeightType

pytestmark = MARKS

KINDS = list(triton_quant.PACKERS)
EVERY_TILE = [(kind, tile) for kind, tiles in TILES.items() for tile in tiles]
APART = 3e-7  # of the lengths of both factors, as for the vector product


def weight(kind: WeightType, rows: int, columns: int) -> Weight:
    values = (np.random.default_rng(rows).standard_normal((rows, columns)) / 16).astype(np.float32)
    return Weight("w", kind, (rows, columns), torch.from_numpy(quantize(values, kind)).to(DEVICE))


def activations(count: int, columns: int) -> torch.Tensor:
    rng = np.random.default_rng(count)
    values = (rng.standard_normal((count, columns)) * rng.lognormal(size=(count, 1))).astype(np.float32)
    return torch.from_numpy(values).to(DEVICE)


def one_by_one(x: torch.Tensor, w: Weight) -> torch.Tensor:
    """The vector kernel's product."""
    codes = triton_quant.quantize_activations(x, ACTIVATIONS[w.type])
    return triton_quant.multiply(codes, triton_quant.packed(w), w.type)


def distance(got: torch.Tensor, want: torch.Tensor, x: torch.Tensor, w: Weight) -> float:
    length = (x.norm(dim=1, keepdim=True) * w.dense().norm(dim=1)).clamp(min=1e-30)  # of a row of zeros, too
    return float(((want - got).abs() / length).max())


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows a program of the vector kernel where it is interpreted: the same arithmetic in a tenth of the time."""
    if not torch.cuda.is_available():
        cuts = {kind: tuple(cut._replace(rows=256) for cut in pair) for kind, pair in triton_quant.CUTS.items()}
        monkeypatch.setattr(triton_quant, "CUTS", cuts)


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every tiled product from now on, those that fill the tile included."""
    counts: list[int] = []
    original = triton_prompt.multiply

    def counted(a, w, kind, tile):
        counts.append(len(a.codes))
        return original(a, w, kind, tile)

    monkeypatch.setattr(triton_prompt, "multiply", counted)
    return counts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, LEAST - 1, LEAST, 15, 16, 17, 64, 257])
def test_a_prompt_of_any_length_is_the_references_product(kind: WeightType, count: int, tiled: list[int]) -> None:
    w, x = weight(kind, 131, BLOCKS[kind][0]), activations(count, BLOCKS[kind][0])
    got = triton_quant.product(x, w)
    assert distance(got, quantized_product(x, w), x, w) < APART
    assert distance(got, one_by_one(x, w), x, w) < APART
    least = min(tile.tokens for tile in TILES[kind])
    assert tiled == ([max(count, least)] if count >= LEAST else [])


@pytest.mark.parametrize(("kind", "tile"), EVERY_TILE, ids=str)
@pytest.mark.parametrize("beyond", [0, 1, 7])
def test_a_last_tile_that_is_not_full_is_moved_back(kind: WeightType, tile: triton_prompt.Tile, beyond: int) -> None:
    """Rows and tokens that fill a tile exactly, and by a few more; several blocks in a row."""
    w, x = weight(kind, tile.rows + beyond, 768), activations(tile.tokens + beyond, 768)
    codes = triton_quant.quantize_activations(x, ACTIVATIONS[kind])
    got = triton_prompt.multiply(codes, triton_quant.packed(w), kind, tile)
    assert distance(got, quantized_product(x, w), x, w) < APART


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokens_product_is_the_same_in_every_prompt(kind: WeightType) -> None:
    w, x = weight(kind, 150, 768), activations(133, 768)
    whole = triton_quant.product(x, w)
    for start, stop in ((0, 16), (3, 20), (7, 7 + LEAST), (60, 124), (5, 133)):
        assert torch.equal(triton_quant.product(x[start:stop], w), whole[start:stop])


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_are_codes_and_scales(kind: WeightType) -> None:
    """All codes and small scales that there are, the extreme ones together: no sum leaves its integers."""
    values, size = BLOCKS[kind]
    blocks = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (140, 2, size), dtype=np.uint8))
    blocks[0], blocks[1] = 255, 0
    if kind == WeightType.Q6_K:
        blocks[:3, :, 192:208] = 128  # the scale -128, and codes of -32 in the row of zeros: 2**12
        blocks[2] = torch.where(torch.arange(size) < 192, 0, 128)
    for at in {WeightType.Q4_K: (0, 2), WeightType.Q6_K: (208,)}.get(kind, (0,)):
        blocks[..., at : at + 2] = torch.tensor([0.01], dtype=torch.float16).view(torch.uint8)
    w = Weight("w", kind, (140, 2 * values), blocks.flatten(1).to(DEVICE))
    x = activations(70, 2 * values)
    x[3], x[4] = 2.5, -2.5
    x[5] = torch.where(torch.arange(2 * values, device=DEVICE) % 2 == 0, 2.5, -2.5)
    assert distance(triton_quant.product(x, w), quantized_product(x, w), x, w) < APART


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [20, 80])
def test_what_is_not_finite_stays_so_in_its_row_alone(kind: WeightType, count: int) -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = activations(count, 512)
        x[17, 300] = bad
        out = triton_quant.product(x, weight(kind, 128, 512))
        assert out[17].isnan().all()
        assert torch.isfinite(out[:17]).all()
        assert torch.isfinite(out[18:]).all()


def test_a_matrix_smaller_than_a_tile_and_a_short_prompt_keep_the_vector_kernel(tiled: list[int]) -> None:
    for kind in KINDS:
        rows = min(tile.rows for tile in TILES[kind])
        for w, x in (
            (weight(kind, rows - 1, 256), activations(LEAST, 256)),
            (weight(kind, rows, 256), activations(LEAST - 1, 256)),
        ):
            assert torch.equal(triton_quant.product(x, w), one_by_one(x, w))
    assert tiled == []


def test_a_tile_that_is_not_filled_is_refused() -> None:
    w, tile = weight(WeightType.Q8_0, 64, 256), triton_prompt.Tile(64, 16, 4, 3)
    few = triton_quant.quantize_activations(activations(15, 256), "Q8_0")
    with pytest.raises(QuantError, match=r"at least 64 rows and 16 tokens for Tile\(.*\), got 64, 15"):
        triton_prompt.multiply(few, triton_quant.packed(w), WeightType.Q8_0, tile)


def test_the_lengths_of_a_warm_up_reach_every_tile() -> None:
    for kind, tiles in TILES.items():
        assert {tile_for(kind, count, 1 << 20) for count in triton_prompt.lengths()} == set(tiles)
        assert list(tiles) == sorted(tiles, key=lambda tile: -tile.tokens), "the first that fits is the largest"
