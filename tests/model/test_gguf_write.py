"""What is written says the same model: types by the mix, bytes by ggml, tokens as before; a whole file or none."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pv.backends.cpu import open_cpu
from pv.model.errors import QuantError, TokenizerError
from pv.model.gguf_file import dequantized, open_gguf
from pv.model.gguf_header import read_header
from pv.model.gguf_tokenizer import PATTERNS
from pv.model.gguf_write import MIXES, FileType, convert, fallback, plan_types, stored
from pv.model.open import Model, open_model
from pv.model.quant import quantize
from pv.model.safetensors_file import save_weights
from pv.model.spec import ModelSpec, config_from_spec, named_shape
from pv.model.synthetic import Recipe, tensors, write_model
from pv.model.weights import Weight, WeightType

SPEC = ModelSpec(340, 256, 3, 8, 2, 32, 512, 1e6, 1e-6, tied=False, context=128)
TEXT = [
    "What is 2+2? It's 4, isn't it?\n\n\tYes:  2 + 2 equals 4.\r\n",
    "The quick brown fox   jumps over 12345 lazy dogs -- naïve café, 你好 🙂",
    " trailing and leading  spaces \u00a0 ",
]


def small_tokenizer(normalizer: str | None = None, pattern: str = PATTERNS["qwen2"]) -> Tokenizer:
    """Byte-level BPE of 330 tokens: fewer than the embedding has rows, its end token first."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer == "NFC":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=328,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True)])
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return tokenizer


def write_small(directory: Path, spec: ModelSpec = SPEC, tokenizer: Tokenizer | None = None, **more: object) -> Path:
    directory.mkdir(parents=True)
    recipe = Recipe(spec)
    save_weights(directory / "model.safetensors", spec, tensors(recipe), torch.float32)
    (directory / "config.json").write_text(json.dumps(config_from_spec(spec, eos_token_id=[0, 328])))
    (directory / "tokenizer.json").write_text((tokenizer or small_tokenizer()).to_str())
    settings = {"eos_token": "<|end|>", "chat_template": "<|im_start|>{{ messages[0].content }}<|end|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | more))
    return directory


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_model(write_small(tmp_path_factory.mktemp("gguf") / "small"))


@pytest.fixture(scope="module")
def files(small: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[FileType, Path]:
    folder = tmp_path_factory.mktemp("written")
    return {k: convert(small, folder / f"{k}.gguf", k, tokenizer=small.tokenizer).path for k in FileType}


@pytest.mark.parametrize("kind", FileType)
def test_every_tensor_holds_the_bytes_that_its_type_gives(
    kind: FileType, small: Model, files: dict[FileType, Path]
) -> None:
    written = open_gguf(files[kind])
    assert written.spec == small.spec
    for name, want in plan_types(small.spec, kind).items():
        weight, source = written.weights.tensors[name], small.weights.tensors[name]
        assert weight.type == want, name
        values = source.dense().numpy().reshape(-1, source.shape[-1])
        assert weight.data.contiguous().view(torch.uint8).numpy().tobytes() == quantize(values, want).tobytes(), name


@pytest.mark.parametrize("kind", FileType)
def test_the_package_that_others_use_reads_the_same(kind: FileType, files: dict[FileType, Path]) -> None:
    reader, ours = gguf.GGUFReader(files[kind]), open_gguf(files[kind])
    assert len(reader.tensors) == len(ours.weights.tensors)
    from pv.model.gguf_file import names_of

    by_name = {theirs: ours.weights.tensors[name] for name, theirs in names_of(ours.spec).items()}
    for tensor in reader.tensors:
        weight = by_name[tensor.name]
        assert tensor.tensor_type.name == weight.type
        assert tuple(tensor.shape[::-1]) == weight.shape
        dense = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        np.testing.assert_array_equal(dense.reshape(weight.shape), weight.dense().numpy())


def test_float32_answers_bitwise_as_the_directory_does(small: Model, files: dict[FileType, Path]) -> None:
    tokens = small.tokenizer.encode(TEXT[0])
    want = open_cpu(small.weights).prefill_all(tokens)
    np.testing.assert_array_equal(open_cpu(open_gguf(files[FileType.F32]).weights).prefill_all(tokens), want)


@pytest.mark.parametrize("kind", [FileType.Q4_K_M, FileType.Q8_0, FileType.Q4_1])
def test_quantized_and_dequantized_are_two_paths_over_the_same_numbers(
    kind: FileType, files: dict[FileType, Path]
) -> None:
    model = open_gguf(files[kind])
    dense = dequantized(model)
    assert any(weight.type.quantized for weight in model.weights.tensors.values())
    assert not any(weight.type.quantized for weight in dense.weights.tensors.values())
    for name, weight in model.weights.tensors.items():
        assert torch.equal(weight.dense(), dense.weights.tensors[name].dense()), name
    tokens = model.tokenizer.encode(TEXT[0])
    one, other = (open_cpu(m.weights).prefill_all(tokens) for m in (model, dense))
    assert 1e-4 < np.linalg.norm(one - other) / np.linalg.norm(other) < 0.2  # random weights magnify int8 steps


def test_prefill_and_decode_of_a_quantized_model_agree(files: dict[FileType, Path]) -> None:
    model = open_gguf(files[FileType.Q4_K_M])
    tokens = model.tokenizer.encode(TEXT[0])[:6]
    session = open_cpu(model.weights)
    whole = session.prefill(tokens)
    session.reset()
    session.prefill(tokens[:3])
    for token in tokens[3:]:
        step = session.decode(token)
    np.testing.assert_allclose(step, whole, rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", [FileType.F16, FileType.Q4_K_M])
def test_tokens_stops_and_template_come_back(kind: FileType, small: Model, files: dict[FileType, Path]) -> None:
    ours, theirs = small.tokenizer, open_gguf(files[kind]).tokenizer
    for text in (*TEXT, "<|im_start|>user<tool> x<|end|>", "e\u0301"):
        assert theirs.encode(text) == ours.encode(text), text
        assert theirs.decode(ours.encode(text)) == ours.decode(ours.encode(text)), text
    assert theirs.stops == ours.stops == {0, 328}
    assert theirs.chat("hi") == ours.chat("hi")
    assert theirs.size == ours.size


def test_a_normalizer_is_kept(tmp_path: Path) -> None:
    source = open_model(write_small(tmp_path / "nfc", tokenizer=small_tokenizer("NFC")))
    path = convert(source, tmp_path / "nfc.gguf", FileType.F16, tokenizer=source.tokenizer).path
    decomposed = "cafe\u0301"
    assert open_gguf(path).tokenizer.encode(decomposed) == source.tokenizer.encode("caf\u00e9")


def test_rows_beyond_the_vocabulary_are_unused_tokens(files: dict[FileType, Path]) -> None:
    tokens = gguf.GGUFReader(files[FileType.F32]).fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == SPEC.vocab
    assert tokens[330:] == [f"[PAD{i}]" for i in range(330, 340)]
    assert open_gguf(files[FileType.F32]).tokenizer.encode("[PAD330]") != [330]


def test_equal_inputs_give_equal_bytes(small: Model, files: dict[FileType, Path], tmp_path: Path) -> None:
    again = convert(small, tmp_path / "again.gguf", FileType.Q4_K_M, tokenizer=small.tokenizer)
    assert again.path.read_bytes() == files[FileType.Q4_K_M].read_bytes()
    assert again.nbytes == len(again.path.read_bytes())


# --- mixes ---


def test_the_mixes_are_llama_cpps() -> None:
    """Positions of Q6_K in a 28-layer Q4_K_M, as llama-quantize places them in Qwen2.5-7B."""
    plan = plan_types(named_shape("7b"), FileType.Q4_K_M)
    more = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]
    for part in ("v", "ffn_down"):
        assert [i for i in range(28) if plan[f"layers.{i}.{part}"] == "Q6_K"] == more
    assert plan["lm_head"] == "Q6_K"
    assert plan["embedding"] == "Q4_K"
    assert {plan[f"layers.{i}.{part}"] for i in range(28) for part in ("q", "k", "attn_out", "ffn_gate", "ffn_up")} == {
        "Q4_K"
    }
    assert {kind for name, kind in plan.items() if "norm" in name or "bias" in name} == {"F32"}


def test_a_tied_embedding_is_stored_as_the_head() -> None:
    assert plan_types(named_shape("tiny"), FileType.Q4_K)["embedding"] == "Q6_K"
    assert plan_types(named_shape("tiny"), FileType.Q8_0)["embedding"] == "Q8_0"


def test_every_file_type_has_a_mix() -> None:
    assert set(MIXES) == set(FileType)


@pytest.mark.parametrize(
    ("kind", "columns", "want"),
    [("Q4_K", 512, "Q4_K"), ("Q4_K", 896, "Q5_0"), ("Q5_K", 896, "Q5_1"), ("Q6_K", 896, "Q8_0"), ("Q4_K", 80, "F16"),
     ("Q8_0", 80, "F16"), ("F32", 80, "F32")],
)  # fmt: skip
def test_narrow_rows_fall_back_as_llama_cpp_lets_them(kind: str, columns: int, want: str) -> None:
    assert fallback(WeightType(kind), columns) == want


def test_a_fallback_is_named(tmp_path: Path) -> None:
    spec = ModelSpec(300, 96, 1, 4, 2, 24, 256, 1e6, 1e-6, tied=True, context=64)
    directory = tmp_path / "narrow"
    write_model(Recipe(spec), directory)
    written = convert(open_model(directory), tmp_path / "narrow.gguf", FileType.Q4_K, tokenizer=None)
    assert written.fallbacks["embedding"] == "Q8_0"
    assert written.fallbacks["layers.0.ffn_gate"] == "Q5_0"
    assert "layers.0.ffn_down" not in written.fallbacks  # its rows are 256 wide
    assert {name: w.type for name, w in open_gguf(written.path).weights.tensors.items()} == {
        name: written.fallbacks.get(name, kind) for name, kind in plan_types(spec, FileType.Q4_K).items()
    }


@pytest.mark.parametrize("theta", [1234567.891, 10000000.3, 1e6])
def test_numbers_are_rounded_to_the_formats_float32(theta: float, tmp_path: Path) -> None:
    spec = ModelSpec(300, 96, 1, 4, 2, 24, 256, theta, 1.00000001e-6, tied=True, context=64)
    write_model(Recipe(spec), tmp_path / "odd")
    written = open_gguf(convert(open_model(tmp_path / "odd"), tmp_path / "x.gguf", FileType.F32, tokenizer=None).path)
    assert (written.spec.rope_theta, written.spec.rms_eps) == (float(str(np.float32(theta))), 1e-6)


def test_a_name_with_points_is_kept_whole(tmp_path: Path) -> None:
    spec = ModelSpec(300, 96, 1, 4, 2, 24, 256, 1e6, 1e-6, tied=True, context=64)
    write_model(Recipe(spec), tmp_path / "Small-0.5B-Instruct")
    folder = convert(
        open_model(tmp_path / "Small-0.5B-Instruct"), tmp_path / "x-0.5b.gguf", FileType.F32, tokenizer=None
    )
    again = convert(open_model(folder.path), tmp_path / "again.gguf", FileType.F32, tokenizer=None)
    names = [read_header(written.path).metadata["general.name"] for written in (folder, again)]
    assert names == ["Small-0.5B-Instruct", "x-0.5b"]


# --- refusals ---


def test_quantizing_twice_is_refused_and_widening_is_not(files: dict[FileType, Path], tmp_path: Path) -> None:
    source = open_gguf(files[FileType.Q4_K_M])
    with pytest.raises(QuantError, match=r"got Q4_K: quantizing twice loses twice; convert the original model"):
        convert(source, tmp_path / "twice.gguf", FileType.Q8_0, tokenizer=source.tokenizer)
    assert os.listdir(tmp_path) == []
    wide = open_gguf(convert(source, tmp_path / "wide.gguf", FileType.F32, tokenizer=source.tokenizer).path)
    for name, weight in wide.weights.tensors.items():
        assert torch.equal(weight.data, source.weights.tensors[name].dense()), name


def test_equal_types_are_copied_byte_for_byte(files: dict[FileType, Path]) -> None:
    weight = open_gguf(files[FileType.Q6_K]).weights.tensors["layers.1.q"]
    assert stored(weight, WeightType.Q6_K).tobytes() == weight.data.numpy().tobytes()


def test_numbers_that_cannot_be_stored_name_their_tensor_and_leave_no_file(small: Model, tmp_path: Path) -> None:
    weights = dict(small.weights.tensors)
    values = weights["layers.1.ffn_up"].data.clone()
    values[3, 7] = float("nan")
    weights["layers.1.ffn_up"] = Weight.of("layers.1.ffn_up", values)
    broken = replace(small, weights=replace(small.weights, tensors=weights))
    with pytest.raises(QuantError, match=r"'layers.1.ffn_up': expected finite weights, got nan at row 3, column 7"):
        convert(broken, tmp_path / "broken.gguf", FileType.Q4_K, tokenizer=None)
    assert os.listdir(tmp_path) == []


def test_a_file_that_says_other_tokens_is_not_kept(
    small: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pv.model import gguf_write

    sound = gguf_write.describe

    def without_the_last_merge(*arguments: Any) -> Any:
        vocabulary = sound(*arguments)
        return replace(vocabulary, merges=vocabulary.merges[:-1])

    monkeypatch.setattr(gguf_write, "describe", without_the_last_merge)
    with pytest.raises(TokenizerError, match="the vocabulary that was written is not the one that comes back"):
        convert(small, tmp_path / "x.gguf", FileType.F16, tokenizer=small.tokenizer)
    assert os.listdir(tmp_path) == []


def test_an_unknown_splitting_rule_is_refused(tmp_path: Path) -> None:
    other = small_tokenizer(pattern=r"\p{L}+|\p{N}+|\s+|.")
    source = open_model(write_small(tmp_path / "other", tokenizer=other))
    with pytest.raises(TokenizerError, match="splits text by a rule that GGUF has no name for among qwen2, gpt-2"):
        convert(source, tmp_path / "other.gguf", FileType.F16, tokenizer=source.tokenizer)


def test_a_tokenizer_without_merges_is_refused_with_a_way_out(tmp_path: Path) -> None:
    write_model(Recipe(named_shape("nano")), tmp_path / "nano")
    source = open_model(tmp_path / "nano")
    with pytest.raises(TokenizerError, match=r"no merges.*--no-tokenizer"):
        convert(source, tmp_path / "nano.gguf", FileType.F16, tokenizer=source.tokenizer)


def test_more_tokens_than_rows_are_refused(tmp_path: Path, small: Model) -> None:
    from pv.model.gguf_tokenizer import describe

    with pytest.raises(TokenizerError, match=r"expected token ids below 300 \(rows of the embedding\), got 329"):
        describe(small.tokenizer, 300, None)


def test_a_file_without_tokens_says_so_when_asked(small: Model, tmp_path: Path) -> None:
    bare = open_gguf(convert(small, tmp_path / "bare.gguf", FileType.F16, tokenizer=None).path)
    with pytest.raises(TokenizerError, match=r"expected tokenizer.ggml.model to be 'gpt2' .* got 'none'"):
        _ = bare.tokenizer


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory_is_the_systems_error(small: Model, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="Permission denied"):
        convert(small, tmp_path / "x.gguf", FileType.F16, tokenizer=None)


def test_transformers_loads_the_same_weights(files: dict[FileType, Path]) -> None:
    transformers = pytest.importorskip("transformers", reason="no Transformers here")
    pytest.importorskip("accelerate", reason="Transformers reads GGUF files only where accelerate is installed")
    from pv.model.weights import hf_names

    for kind in (FileType.F16, FileType.Q4_K_M, FileType.Q8_0):
        path = files[kind]
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        ours, state = open_gguf(path), theirs.state_dict()
        for name, other in hf_names(ours.spec).items():
            assert torch.equal(state[other], ours.weights.tensors[name].dense()), name
