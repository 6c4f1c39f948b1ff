"""Two forwards, stage by stage: where they part is the first finding that is not identical."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pv.backends.cpu import open_cpu
from pv.compare.forwards import diff_forwards, name_of
from pv.compare.metrics import ShapeError
from pv.compare.tensors import judge_by, judge_identical
from pv.compare.thresholds import THRESHOLDS, Kind
from pv.model.spec import SHAPES
from pv.model.stages import Stage
from pv.model.synthetic import Recipe, build
from pv.model.weights import Weights

TOKENS = (5, 17, 42)
NANO = SHAPES["nano"]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return build(Recipe(NANO, seed=1))


def forward(weights: Weights, tokens: tuple[int, ...] = TOKENS, graft: Any = None) -> Callable[[Any], object]:
    return lambda tap: open_cpu(weights).prefill(tokens, tap, graft)


def test_equal_forwards_are_equal_in_every_stage_of_every_layer(weights: Weights) -> None:
    diff = diff_forwards(forward(weights), forward(weights), judge_identical)
    assert diff.ok
    assert all(found.metrics.identical for found in diff.found)
    names = [found.name for found in diff.found]
    whole = ["layer-0/embedding", "final_norm", "lm_head"]
    assert len(names) == len(set(names)) == 17 * NANO.layers + len(whole)
    assert set(whole) <= set(names)


def test_the_first_that_differs_is_where_they_part(weights: Weights) -> None:
    def graft(stage: Stage, layer: int | None, x: Any) -> Any:
        return x * 1.05 if (stage, layer) == (Stage.FFN_UP, 1) else x

    diff = diff_forwards(forward(weights), forward(weights, graft=graft), judge_by(THRESHOLDS[Kind.RERUN]))
    assert not diff.ok
    parted = [found.name for found in diff.found if not found.metrics.identical]
    assert parted[0] == "layer-1/ffn_up"
    assert not any(name.startswith("layer-0") for name in parted)
    assert {found.name for found in diff.found if not found.ok} == set(parted)
    assert diff.found[-1].logits is not None


def test_what_one_side_alone_gives_is_told(weights: Weights) -> None:
    def fewer(tap: Any) -> None:
        class Skipping:
            def wants(self, stage: Stage, layer: int | None) -> bool:
                return stage is not Stage.FFN_SILU and tap.wants(stage, layer)

            def take(self, *given: Any) -> None:
                tap.take(*given)

        forward(weights)(Skipping())

    silu = tuple(f"layer-{i}/ffn_silu" for i in range(NANO.layers))
    less, more = (
        diff_forwards(*pair, judge_identical) for pair in ((forward(weights), fewer), (fewer, forward(weights)))
    )
    assert (less.unpaired, more.unpaired) == ((silu, ()), ((), silu))
    assert not less.ok
    assert not more.ok


def test_other_tokens_are_refused_where_the_shapes_show_it(weights: Weights) -> None:
    with pytest.raises(ShapeError, match="layer-0/embedding"):
        diff_forwards(forward(weights), forward(weights, (5, 17)), judge_identical)


def test_names_are_those_of_a_capture() -> None:
    assert name_of(Stage.EMBEDDING, None) == "layer-0/embedding"
    assert name_of(Stage.FFN_GATE, 3) == "layer-3/ffn_gate"
    assert name_of(Stage.LM_HEAD, None) == "lm_head"
