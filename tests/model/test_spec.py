"""config.json -> ModelSpec: both spellings of the RoPE base, and refusals that name the key and the value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pv.model.errors import SpecError
from pv.model.spec import SHAPES, ModelSpec, config_from_spec, named_shape, read_spec, spec_from_config

NANO = config_from_spec(named_shape("nano"))


def without(*keys: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in NANO.items() if key not in keys} | more


@pytest.mark.parametrize("name", SHAPES)
def test_a_written_configuration_reads_back(name: str) -> None:
    assert spec_from_config(config_from_spec(SHAPES[name])) == SHAPES[name]


def test_the_missing_qkv_bias_reads_back() -> None:
    spec = ModelSpec(300, 32, 3, 4, 2, 8, 80, 1e6, 1e-6, tied=False, context=64, qkv_bias=False)
    assert spec_from_config(config_from_spec(spec)) == spec


@pytest.mark.parametrize(
    "config",
    [
        without("rope_parameters"),
        without("rope_theta"),
        without("rope_theta", rope_parameters={"rope_theta": 1e6}),
        without("rope_parameters", rope_scaling=None),
        without("rope_parameters", rope_scaling={"type": "default"}),
    ],
)
def test_either_spelling_of_the_rope_base_is_read(config: dict[str, Any]) -> None:
    assert spec_from_config(config).rope_theta == 1e6


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            without("rope_theta", "rope_parameters"),
            "expected rope_theta or rope_parameters.rope_theta in X, found neither",
        ),
        (without("rope_theta", rope_parameters={"rope_type": "default"}), "found neither"),
        (without(rope_theta=1e4), "rope_theta and rope_parameters.rope_theta disagree in X"),
        (without(rope_theta=-1.0, rope_parameters=None), "expected rope_theta > 0"),
        (
            without(rope_scaling={"type": "yarn", "factor": 4.0}),
            "RoPE scaling 'yarn' is not supported (rope_scaling in X)",
        ),
        (without(rope_parameters={"rope_type": "llama3", "rope_theta": 1e6}), "RoPE scaling 'llama3' is not supported"),
        (without(rope_parameters=[1]), "expected a mapping for rope_parameters in X"),
        (without(model_type="llama"), "expected model_type 'qwen2' in X, got 'llama'"),
        (without(hidden_act="gelu"), "expected hidden_act 'silu' in X, got 'gelu'"),
        (without(use_sliding_window=True), "sliding-window attention is not supported"),
        (without("vocab_size"), "expected an integer for vocab_size in X, got None"),
        (without(vocab_size=True), "expected an integer for vocab_size in X, got True"),
        (without(hidden_size="32"), "expected an integer for hidden_size in X, got '32'"),
        (without(num_hidden_layers=0), "expected layers between 1 and"),
        (without(num_hidden_layers=10**12), "got layers=1000000000000 in X"),
        (without(num_key_value_heads=3), "expected heads=4 to be a multiple of kv_heads=3 in X"),
        (without(head_dim=7), "expected an even head_dim (RoPE rotates pairs), got head_dim=7 in X"),
        (without("head_dim", hidden_size=33), "expected hidden_size=33 to be a multiple of num_attention_heads=4 in X"),
        (without(num_attention_heads=0), "expected heads between 1 and"),
        (without(rms_norm_eps="small"), "expected a number for rms_norm_eps in X, got 'small'"),
        (without(tie_word_embeddings="yes"), "expected true or false for tie_word_embeddings in X, got 'yes'"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_refused_by_name(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from_config(config, "X")
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"vocab_size": 3', "expected JSON in"),
        (b"[" * 100_000, "expected JSON in"),
        (b"\xff\xfe\x00", "expected JSON in"),
        (b"[]", "expected a JSON object in"),
    ],
)
def test_a_damaged_file_is_one_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=sentence):
        read_spec(path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"expected a file at .*config\.json, found none"):
        read_spec(tmp_path / "config.json")


def test_the_count_of_parameters_is_that_of_transformers() -> None:
    """Qwen2-7B is published with 7,615,616,512 parameters, Qwen2-0.5B with 494,032,768."""
    assert (SHAPES["7b"].parameters, SHAPES["0.5b"].parameters) == (7_615_616_512, 494_032_768)


def test_an_unknown_shape_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match="expected a shape among 7b, "):
        named_shape("9b")


def test_transformers_reads_what_we_write() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2Config(**json.loads(json.dumps(NANO)))
    assert config.rope_parameters["rope_theta"] == 1e6
    assert (config.hidden_size, config.num_key_value_heads, config.tie_word_embeddings) == (32, 2, False)
