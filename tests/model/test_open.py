"""A path -> a model, or a sentence with the way out; digests that follow the bytes and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pv.model import open as opening
from pv.model.errors import FormatError, ModelError, SpecError, TokenizerError, WeightsError
from pv.model.folders import cache_root, whole_file
from pv.model.open import digest_of, open_model
from pv.model.spec import named_shape


def test_a_directory_opens(nano_directory: Path) -> None:
    model = open_model(str(nano_directory))
    assert model.spec == named_shape("nano")
    assert model.path == nano_directory
    assert model.weights.nbytes == model.spec.parameters * 4
    assert model.tokenizer.size == 300
    assert model.digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("m.apr", b"APR\0", "an .apr file is not read; export it to GGUF or safetensors"),
        ("m.bin", b"\x80\x04", "a pickle can run code and is not read; convert it with Transformers"),
        ("m.pt", b"PK", "a pickle can run code and is not read"),
        ("model.safetensors", b"", "name its directory instead, which holds config.json too"),
        ("notes.txt", b"hello", "the file is of no format that pv reads"),
    ],
)
def test_other_formats_are_refused_with_the_way_out(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        open_model(path)
    assert sentence in str(caught.value)


def test_nothing_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"expected a model at .*/x, found nothing"):
        open_model(tmp_path / "x")


def test_a_directory_that_is_no_model_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "song.mp3").touch()
    with pytest.raises(FormatError, match=r"expected config\.json in .*, found song\.mp3"):
        open_model(tmp_path)


def test_a_model_without_weights_says_so(nano_copy: Path) -> None:
    (nano_copy / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"expected model\.safetensors or its index"):
        open_model(nano_copy)


@pytest.mark.parametrize(
    ("key", "value", "error", "sentence"),
    [
        ("intermediate_size", 96, WeightsError, "expected shape (96, 32) for 'layers.0.ffn_gate', got (80, 32)"),
        ("num_hidden_layers", 4, WeightsError, "missing tensor 'layers.3.attn_norm'"),
        ("num_hidden_layers", 2, WeightsError, "unknown tensor 'model.layers.2.input_layernorm.weight'"),
        ("vocab_size", 299, WeightsError, "expected shape (299, 32) for 'embedding', got (300, 32)"),
        ("tie_word_embeddings", True, WeightsError, "lm_head.weight differs from the embedding"),
        ("num_hidden_layers", 10**9, SpecError, "got layers=1000000000"),
    ],
)
def test_a_configuration_that_lies_is_caught(
    key: str, value: object, error: type[ModelError], sentence: str, nano_copy: Path
) -> None:
    path = nano_copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(error) as caught:
        open_model(nano_copy)
    assert sentence in str(caught.value)


def test_a_missing_tokenizer_matters_only_to_those_who_ask(nano_copy: Path) -> None:
    (nano_copy / "tokenizer.json").unlink()
    model = open_model(nano_copy)
    with pytest.raises(TokenizerError):
        _ = model.tokenizer


def test_the_digest_follows_weights_and_configuration_only(nano_copy: Path, tmp_path: Path) -> None:
    first = open_model(nano_copy).digest
    moved = shutil.copytree(nano_copy, tmp_path / "elsewhere")
    (moved / "tokenizer.json").write_text("{}")
    assert open_model(moved).digest == first
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    assert open_model(moved).digest != first


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    first = digest_of([file])
    monkeypatch.setattr(opening.hashlib, "file_digest", lambda *_: pytest.fail("read the file again"))
    assert digest_of([file]) == first
    monkeypatch.undo()
    monkeypatch.setenv("PV_CACHE", str(tmp_path / "pv-cache"))
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert digest_of([file]) != first


def test_a_spoiled_memory_of_digests_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    first = digest_of([file])
    (memory,) = (cache_root() / "digests").iterdir()
    memory.write_text("no digest")
    assert digest_of([file]) == first


def test_a_read_only_cache_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocked").touch()
    monkeypatch.setenv("PV_CACHE", str(tmp_path / "blocked"))
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    assert digest_of([file]) == digest_of([file])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model")
    with pytest.raises(FormatError, match=r"expected a model directory or a regular file at .*model"):
        open_model(tmp_path / "model")


def test_an_unreadable_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot read .*gone"):
        digest_of([tmp_path / "gone"])


@pytest.mark.parametrize("missing", ["XDG_CACHE_HOME", None])
def test_the_cache_has_its_place(missing: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PV_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    if missing:
        monkeypatch.delenv(missing)
    assert cache_root() == tmp_path / (".cache" if missing else "x") / "pv"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with whole_file(path) as file:
        file.write(b"old")

    def interrupted() -> None:
        with whole_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
