"""safetensors: what we write others read, and every lie of a header is one sentence, before anything is allocated."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pv.model.errors import FormatError, ModelError, WeightsError
from pv.model.safetensors_file import load_weights, read_header, save_weights
from pv.model.spec import ModelSpec, named_shape
from pv.model.synthetic import Recipe, build
from pv.model.weights import Weight, Weights, hf_names

SPEC = named_shape("nano")
Edit = Callable[[str, Callable[[bytes], bytes]], Path]


def with_header(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """Rewrite the header of a file, its length with it, and leave the data."""

    def rewrite(content: bytes) -> bytes:
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return rewrite


NORM = "model.norm.weight"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_library_of_the_format_reads_what_we_write(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = build(Recipe(SPEC, dtype=dtype))
    save_weights(tmp_path / "model.safetensors", SPEC, weights.tensors.values(), dtype)
    theirs = load_file(tmp_path / "model.safetensors")
    names = hf_names(SPEC)
    assert set(theirs) == set(names.values())
    assert all(torch.equal(theirs[names[name]], weight.data) for name, weight in weights.tensors.items())


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    weights = build(Recipe(SPEC))
    names = hf_names(SPEC)
    save_file({names[name]: weight.data for name, weight in weights.tensors.items()}, tmp_path / "model.safetensors")
    assert_equal(load_weights(tmp_path, SPEC), weights)


def test_a_sharded_model_reads_as_one(tmp_path: Path) -> None:
    weights = shard(tmp_path)
    assert_equal(load_weights(tmp_path, SPEC), weights)


def assert_equal(found: Weights, want: Weights) -> None:
    assert list(found.tensors) == list(want.tensors)
    assert all(torch.equal(found.tensors[name].data, weight.data) for name, weight in want.tensors.items())


def shard(directory: Path) -> Weights:
    """A model in two shards with an index, as Transformers writes large ones."""
    weights, names = build(Recipe(SPEC)), hf_names(SPEC)
    table = {}
    for part in (0, 1):
        file = f"model-0000{part + 1}-of-00002.safetensors"
        held = {names[n]: w.data for i, (n, w) in enumerate(weights.tensors.items()) if i % 2 == part}
        save_file(held, directory / file)
        table |= dict.fromkeys(held, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return weights


def edit_index(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "model.safetensors.index.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["weight_map"].pop(NORM), f"tensor '{NORM}' of model-0000"),
        (lambda d: d["weight_map"].update(ghost="model-00001-of-00002.safetensors"), "tensor 'ghost' of model-00001"),
        (lambda d: d["weight_map"].update({NORM: "../model.safetensors"}), "expected the name of a safetensors file"),
        (lambda d: d["weight_map"].update({NORM: "pytorch_model.bin"}), "expected the name of a safetensors file"),
        (
            lambda d: d["weight_map"].update({NORM: "model-3.safetensors"}),
            "names model-3.safetensors, which is missing",
        ),
        (lambda d: d.update(weight_map=[]), "expected a weight_map in"),
        (lambda d: d.update(weight_map={}), "expected a weight_map in"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(
    change: Callable[[dict[str, Any]], None], sentence: str, tmp_path: Path
) -> None:
    shard(tmp_path)
    edit_index(tmp_path, change)
    with pytest.raises(WeightsError) as caught:
        load_weights(tmp_path, SPEC)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda b: b"", "expected a safetensors header"),
        (lambda b: b[:7], "expected a safetensors header"),
        (lambda b: b[:100], "expected a safetensors header"),
        (lambda b: b[:-1], "the file is truncated"),
        (lambda b: b[: len(b) // 2], "the file is truncated"),
        (lambda b: b + b"\0", "the file is too long"),
        (lambda b: struct.pack("<Q", 1 << 63) + b[8:], "got length 9223372036854775808"),
        (lambda b: struct.pack("<Q", 0) + b[8:], "got length 0"),
        (lambda b: b[:8] + b"]" + b[9:], "expected JSON in the header"),
        (lambda b: struct.pack("<Q", 200_000) + b"[" * 200_000, "expected JSON in the header"),
        (lambda b: struct.pack("<Q", 2) + b"[]", "expected a JSON object in the header"),
        (lambda b: struct.pack("<Q", 22) + b'{"x": {}, "x": {}}    ', "a name occurs twice"),
        (with_header(lambda h: h.update(x=3)), "expected dtype, shape and data_offsets of 'x'"),
        (with_header(lambda h: h[NORM].update(shape=[-32])), f"expected dtype, shape and data_offsets of '{NORM}'"),
        (with_header(lambda h: h[NORM].update(shape=[True])), f"expected dtype, shape and data_offsets of '{NORM}'"),
        (with_header(lambda h: h[NORM].update(dtype="F7")), "unknown dtype 'F7'"),
        (with_header(lambda h: h[NORM].update(shape=[1 << 40])), f"expected 4398046511104 bytes for '{NORM}' F32"),
        (with_header(lambda h: h[NORM].update(shape=[1 << 50], data_offsets=[0, 1 << 52])), "expected "),
        (
            with_header(lambda h: h[NORM].update(data_offsets=[0, 128])),
            "expected 'model.embed_tokens.weight' at byte 128",
        ),
        (with_header(lambda h: h.pop(NORM)), "of the data, got"),
        (with_header(lambda h: h[NORM].update(dtype="I32")), f"expected one of F64, F32, F16, BF16 for '{NORM}'"),
        (with_header(lambda h: h.update(spare=h.pop(NORM))), "missing tensor 'final_norm'; unknown tensor 'spare'"),
        (with_header(lambda h: h[NORM].update(shape=[4, 8])), "expected shape (32,) for 'final_norm', got (4, 8)"),
    ],
)
def test_a_damaged_file_is_one_sentence(damage: Callable[[bytes], bytes], sentence: str, edit: Edit) -> None:
    directory = edit("model.safetensors", damage)
    with pytest.raises(WeightsError) as caught:
        load_weights(directory, SPEC)
    assert sentence in str(caught.value)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_to_a_header_escapes_as_another_error(
    data: st.DataObject, nano_directory: Path, tmp_path: Path
) -> None:
    content = bytearray((nano_directory / "model.safetensors").read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "model.safetensors").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(ModelError):
        load_weights(tmp_path, SPEC)


def test_old_rotary_buffers_are_passed_over(tmp_path: Path) -> None:
    weights, names = build(Recipe(SPEC)), hf_names(SPEC)
    held = {names[name]: weight.data for name, weight in weights.tensors.items()}
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(held, tmp_path / "model.safetensors")
    assert_equal(load_weights(tmp_path, SPEC), weights)


@pytest.mark.parametrize("same", [True, False])
def test_a_second_copy_of_a_tied_head_must_be_the_same(same: bool, tmp_path: Path) -> None:
    spec = ModelSpec(**{name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__} | {"tied": True})
    weights, names = build(Recipe(spec)), hf_names(spec)
    held = {names[name]: weight.data for name, weight in weights.tensors.items()}
    held["lm_head.weight"] = held["model.embed_tokens.weight"] + (0 if same else 1e-3)
    save_file(held, tmp_path / "model.safetensors")
    if same:
        assert_equal(load_weights(tmp_path, spec), weights)
    else:
        with pytest.raises(WeightsError, match=r"lm_head\.weight differs from the embedding"):
            load_weights(tmp_path, spec)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.pth"])
def test_pickled_weights_are_refused_with_a_way_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(FormatError, match=rf"holds pickled weights \({name}\).*save_pretrained"):
        load_weights(tmp_path, SPEC)


def test_a_directory_without_weights_says_what_it_sought(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"expected model\.safetensors or its index in .*, found neither"):
        load_weights(tmp_path, SPEC)


def test_tensors_are_mapped_not_read(nano_directory: Path) -> None:
    """The pages of a 30 GB model are read when they are multiplied, not when it is opened."""
    path = str(nano_directory / "model.safetensors")
    weights = load_weights(nano_directory, SPEC)
    at = weights.tensors["layers.0.ffn_gate"].data.data_ptr()
    ranges = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(path)]
    bounds = [tuple(int(end, 16) for end in span.split("-")) for span in ranges]
    assert any(low <= at < high for low, high in bounds)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Any:
        yield from list(build(Recipe(SPEC)).tensors.values())[:3]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_weights(tmp_path / "model.safetensors", SPEC, broken(), torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_weights_in_the_wrong_order_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected 'embedding'"):
        save_weights(tmp_path / "m.safetensors", SPEC, [Weight.of("lm_head", torch.zeros(1))] * 39, torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_the_header_lists_tensors_in_the_order_of_their_bytes(nano_directory: Path) -> None:
    entries = read_header(nano_directory / "model.safetensors")
    assert [entry.start for entry in entries] == [0, *(entry.end for entry in entries[:-1])]
    assert entries[0].name == "model.embed_tokens.weight"
