"""Names, shapes and types of weights; fusing q, k and v; gradients through `prepare`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pv.model import operators
from pv.model.errors import WeightsError
from pv.model.operators import linear
from pv.model.spec import ModelSpec, named_shape
from pv.model.synthetic import Recipe, build, tensors
from pv.model.weights import DEQUANTIZERS, NAMES, Weight, Weights, WeightType, expected_shapes, hf_names, prepare

SPEC = named_shape("nano")


def test_the_name_table_covers_exactly_the_tensors_of_a_model() -> None:
    patterns = {name.format(i=0) for name, _ in NAMES}
    assert patterns == set(expected_shapes(replace(SPEC, layers=1)))
    assert len({theirs for _, theirs in NAMES}) == len(NAMES)


def test_names_of_a_later_layer_are_spelled_as_transformers_does() -> None:
    names = hf_names(SPEC)
    assert names["layers.2.ffn_down"] == "model.layers.2.mlp.down_proj.weight"
    assert names["layers.1.k_bias"] == "model.layers.1.self_attn.k_proj.bias"
    assert "lm_head" not in hf_names(replace(SPEC, tied=True))


def test_missing_unknown_and_misshapen_tensors_are_all_named_at_once() -> None:
    found = {weight.name: weight for weight in tensors(Recipe(SPEC))}
    del found["layers.1.q"]
    found["layers.0.ffn_gat"] = Weight.of("layers.0.ffn_gat", torch.zeros(2))
    found["final_norm"] = Weight.of("final_norm", torch.zeros(31))
    with pytest.raises(WeightsError) as caught:
        Weights.checked(SPEC, found.values(), "here")
    sentence = str(caught.value)
    assert sentence.startswith("here: ")
    assert "missing tensor 'layers.1.q'" in sentence
    assert "unknown tensor 'layers.0.ffn_gat' (near 'layers.0.ffn_gate')" in sentence
    assert "expected shape (32,) for 'final_norm', got (31,)" in sentence


def test_a_long_list_of_problems_is_cut_and_counted() -> None:
    with pytest.raises(WeightsError, match="and 31 more"):
        Weights.checked(SPEC, [], "here")


def test_a_dtype_that_no_file_stores_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"expected a float dtype for 'x', got torch\.int64"):
        Weight.of("x", torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_widen_exactly(dtype: torch.dtype) -> None:
    weights = build(Recipe(SPEC, dtype=dtype))
    assert set(weights.types) == {WeightType.F16 if dtype == torch.float16 else WeightType.BF16}
    gate = weights.tensors["layers.0.ffn_gate"]
    prepared = prepare(weights).layers[0].ffn_gate
    assert prepared.type is WeightType.F32
    assert torch.equal(prepared.data.to(dtype), gate.data)
    assert torch.equal(prepared.data, gate.dense())


def test_q_k_v_are_fused_side_by_side() -> None:
    weights = build(Recipe(SPEC))
    layer = prepare(weights).layers[1]
    (fused,) = layer.qkv
    assert fused.shape == (SPEC.qkv_width, SPEC.hidden)
    assert torch.equal(fused.data[SPEC.q_width :][: SPEC.kv_width], weights.tensors["layers.1.k"].data)
    assert layer.qkv_bias is not None
    assert torch.equal(layer.qkv_bias[-SPEC.kv_width :], weights.tensors["layers.1.v_bias"].data)


def test_parts_of_different_types_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Q4_K_M files, where v is Q6_K: each part goes through its own product."""
    weights = build(Recipe(SPEC))
    v = weights.tensors["layers.0.v"]
    blocks = torch.zeros((v.shape[0], WeightType.Q8_0.row_bytes(v.shape[1])), dtype=torch.uint8)
    mixed = replace(weights, tensors={**weights.tensors, v.name: replace(v, type=WeightType.Q8_0, data=blocks)})
    layer = prepare(mixed).layers[0]
    assert [part.type for part in layer.qkv] == [WeightType.F32, WeightType.F32, WeightType.Q8_0]
    monkeypatch.setitem(operators.PRODUCTS, WeightType.Q8_0, lambda x, weight: x.new_full((3, weight.shape[0]), 7.0))
    assert torch.equal(linear(torch.ones(3, SPEC.hidden), layer.qkv[2]), torch.full((3, v.shape[0]), 7.0))


def test_a_type_without_a_product_is_an_error_not_a_detour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(operators.PRODUCTS, WeightType.Q4_K, raising=False)
    weight = Weight("w", WeightType.Q4_K, (1, 256), torch.zeros((1, 144), dtype=torch.uint8))
    with pytest.raises(WeightsError, match="no product for Q4_K of 'w'"):
        linear(torch.zeros(1, 256), weight)


def test_rows_of_an_embedding_are_dequantized_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def twice(blocks: torch.Tensor, width: int) -> torch.Tensor:
        asked.append(tuple(blocks.shape))
        return blocks[:, :1].to(torch.float32).expand(-1, width) * 2

    monkeypatch.setitem(DEQUANTIZERS, WeightType.Q8_0, twice)
    weight = Weight(
        "e", WeightType.Q8_0, (5, 32), torch.arange(5, dtype=torch.uint8).repeat_interleave(34).reshape(5, 34)
    )
    rows = weight.rows(torch.tensor([[3, 1]]), torch.float32)
    assert rows.shape == (1, 2, 32)
    assert rows[0, :, 0].tolist() == [6.0, 2.0]
    assert asked == [(2, 34)]
    assert weight.dense().shape == (5, 32)


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    assert WeightType.Q4_K.row_bytes(512) == 288
    assert WeightType.F16.row_bytes(10) == 20
    with pytest.raises(WeightsError, match="expected rows of a multiple of 256 values for Q4_K, got rows of 128"):
        WeightType.Q4_K.row_bytes(128)


def test_gradients_flow_back_through_prepare() -> None:
    weights = build(Recipe(SPEC))
    for weight in weights.tensors.values():
        weight.data.requires_grad_()
    prepared = prepare(weights)
    prepared.layers[0].qkv[0].data.sum().backward()
    k, gate = weights.tensors["layers.0.k"].data, weights.tensors["layers.0.ffn_gate"].data
    assert k.grad is not None
    assert torch.equal(k.grad, torch.ones_like(k))
    assert gate.grad is None


def test_float32_weights_are_not_copied_by_prepare() -> None:
    """A memory-mapped model is not read into memory a second time."""
    weights = build(Recipe(SPEC))
    assert prepare(weights).layers[0].ffn_gate.data.data_ptr() == weights.tensors["layers.0.ffn_gate"].data.data_ptr()


def test_a_spec_without_biases_has_none() -> None:
    bare = ModelSpec(**{name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__} | {"qkv_bias": False})
    assert not [name for name in expected_shapes(bare) if name.endswith("_bias")]
    assert prepare(build(Recipe(bare))).layers[0].qkv_bias is None
