"""Damaged and hostile GGUF files: a sentence each, and never an allocation beyond the file."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pv.model.errors import FormatError, ModelError, WeightsError
from pv.model.gguf_file import open_gguf
from pv.model.gguf_header import read_header

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str | bytes, kind: int, value: Any) -> bytes:
    """One metadata entry, written from the format's description and from nothing of ours."""
    head = text(key) + struct.pack("<I", kind)
    if kind == STRING:
        return head + text(value)
    if kind == ARRAY:
        inner, items = value
        body = b"".join(text(i) if inner == STRING else struct.pack("<" + FORMS[inner], i) for i in items)
        return head + struct.pack("<IQ", inner, len(items)) + body
    return head + struct.pack("<" + FORMS[kind], value)


@dataclass(frozen=True)
class Piece:
    """One tensor; `dims` in the file's order, the row length first."""

    name: str | bytes = "t"
    dims: tuple[int, ...] = (4, 2)
    kind: int = 0
    offset: int = 0

    def bytes(self) -> bytes:
        dims = struct.pack(f"<{len(self.dims)}Q", *self.dims)
        return text(self.name) + struct.pack("<I", len(self.dims)) + dims + struct.pack("<IQ", self.kind, self.offset)


@dataclass(frozen=True)
class Sketch:
    """A GGUF file in parts, each of which can be made wrong."""

    entries: tuple[bytes, ...] = (entry("general.architecture", STRING, "qwen2"),)
    pieces: tuple[Piece, ...] = (Piece("a"), Piece("b", offset=32))
    data: bytes = bytes(range(64))
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    entry_count: int | None = None
    alignment: int = 32
    more: bytes = field(default=b"")

    def bytes(self) -> bytes:
        tensors = len(self.pieces) if self.tensor_count is None else self.tensor_count
        entries = len(self.entries) if self.entry_count is None else self.entry_count
        head = self.magic + struct.pack("<IQQ", self.version, tensors, entries)
        head += b"".join(self.entries) + b"".join(piece.bytes() for piece in self.pieces)
        return head + b"\0" * (-len(head) % self.alignment) + self.data + self.more


GOOD = Sketch()


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    return path


def test_a_sound_file_is_read_to_the_byte(tmp_path: Path) -> None:
    entries = (
        entry("u8", U8, 255), entry("i8", I8, -5), entry("u16", U16, 65535), entry("i16", I16, -300),
        entry("u32", U32, 7), entry("i32", I32, -7), entry("f32", F32, 0.5), entry("yes", BOOL, True),
        entry("word", STRING, "né"), entry("u64", U64, 2**63), entry("i64", I64, -(2**60)), entry("f64", F64, 0.1),
        entry("words", ARRAY, (STRING, ["a", "", "Ġb"])), entry("numbers", ARRAY, (I32, [1, -2, 3])),
        entry("flags", ARRAY, (BOOL, [True, False])),
    )  # fmt: skip
    header = read_header(write(tmp_path, replace(GOOD, entries=entries).bytes()))
    found = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in header.metadata.items()}
    assert found == {
        "u8": 255, "i8": -5, "u16": 65535, "i16": -300, "u32": 7, "i32": -7, "f32": 0.5, "yes": True, "word": "né",
        "u64": 2**63, "i64": -(2**60), "f64": 0.1, "words": ["a", "", "Ġb"], "numbers": [1, -2, 3],
        "flags": [True, False],
    }  # fmt: skip
    assert [(t.name, t.type.name, t.shape, t.nbytes) for t in header.tensors] == [
        ("a", "F32", (2, 4), 32), ("b", "F32", (2, 4), 32)
    ]  # fmt: skip
    raw = (tmp_path / "x.gguf").read_bytes()
    assert [raw[t.start : t.start + t.nbytes] for t in header.tensors] == [bytes(range(32)), bytes(range(32, 64))]


def test_the_gguf_package_reads_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, replace(GOOD, entries=(*GOOD.entries, entry("n", ARRAY, (U32, [1, 2])))).bytes())
    theirs, ours = gguf.GGUFReader(path), read_header(path)
    assert {key: theirs.fields[key].contents() for key in ours.metadata} == {
        key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in ours.metadata.items()
    }
    assert [(t.name, t.data_offset, t.n_bytes) for t in theirs.tensors] == [
        (t.name, t.start, t.nbytes) for t in ours.tensors
    ]


def test_another_alignment_is_kept(tmp_path: Path) -> None:
    sketch = replace(
        GOOD, entries=(entry("general.alignment", U32, 64),), alignment=64,
        pieces=(Piece("a"), Piece("b", offset=64)), data=bytes(96),
    )  # fmt: skip
    starts = [t.start for t in read_header(write(tmp_path, sketch.bytes())).tensors]
    assert starts[0] % 64 == 0
    assert starts[1] - starts[0] == 64


def aligned(value: Any, kind: int = U32) -> Sketch:
    return replace(GOOD, entries=(entry("general.alignment", kind, value),))


HUGE = 2**63
DAMAGED: dict[str, tuple[Sketch | bytes, str]] = {
    "empty": (b"", "expected a GGUF file of at least 24 bytes at .*, got 0"),
    "magic alone": (b"GGUF", "at least 24 bytes"),
    "more tensors than bytes": (replace(GOOD, tensor_count=HUGE), "expected at most .* tensors in .* bytes, got"),
    "more entries than bytes": (replace(GOOD, entry_count=HUGE), "expected at most .* metadata entries in"),
    "one tensor too many": (replace(GOOD, tensor_count=3), "."),
    "one entry too many": (replace(GOOD, entry_count=2), "."),
    "a key longer than the file": (
        replace(GOOD, entries=(struct.pack("<Q", 60000) + bytes(20),)),
        "bytes of a metadata",
    ),
    "a key longer than the format": (
        replace(GOOD, entries=(struct.pack("<Q", HUGE) + bytes(20),)),
        "at most 65535 bytes",
    ),
    "a key that is no text": (replace(GOOD, entries=(entry(b"\xff\xfe", U8, 1),)), "expected UTF-8 for a metadata key"),
    "a key twice": (replace(GOOD, entries=(entry("k", U8, 1), entry("k", U8, 2))), "metadata key 'k' occurs twice"),
    "an unknown kind of value": (
        replace(GOOD, entries=(text("k") + struct.pack("<I", 13),)),
        "type from 0 to 12 for 'k', got 13",
    ),
    "a string beyond the end": (
        replace(GOOD, entries=(text("k") + struct.pack("<IQ", STRING, HUGE),)),
        "bytes of the value of 'k'",
    ),
    "a string that is no text": (
        replace(GOOD, entries=(entry("k", STRING, b"\xc3("),)),
        "expected UTF-8 for the value of 'k'",
    ),
    "an array beyond the end": (
        replace(GOOD, entries=(text("k") + struct.pack("<IIQ", ARRAY, F64, 2**60),)),
        "at most .* elements of 'k'",
    ),
    "strings beyond the end": (
        replace(GOOD, entries=(text("k") + struct.pack("<IIQ", ARRAY, STRING, 2**60),)),
        "at most .* elements of 'k'",
    ),
    "a nested array": (
        replace(GOOD, entries=(text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1),)),
        "nested arrays are not read",
    ),
    "an array of unknown things": (
        replace(GOOD, entries=(text("k") + struct.pack("<IIQ", ARRAY, 77, 1),)),
        "array of numbers or strings for 'k'; got 77",
    ),
    "alignment zero": (aligned(0), "general.alignment to be a power of two from 8 to 1048576, got 0"),
    "alignment three": (aligned(24), "power of two .* got 24"),
    "alignment absurd": (aligned(2**31), "power of two .* got 2147483648"),
    "alignment in words": (aligned("32", STRING), "power of two .* got '32'"),
    "alignment negative": (aligned(-32, I32), "power of two .* got -32"),
    "a name too long": (replace(GOOD, pieces=(Piece("n" * 65),)), "a tensor's name of at most 64 bytes"),
    "a name that is no text": (replace(GOOD, pieces=(Piece(b"\xff"),)), "expected UTF-8 for a tensor's name"),
    "a name twice": (replace(GOOD, pieces=(Piece("a"), Piece("a", offset=32))), "tensor 'a' occurs twice"),
    "no dimensions": (replace(GOOD, pieces=(Piece("a", dims=()),)), "1 to 4 dimensions for 'a', got 0"),
    "five dimensions": (replace(GOOD, pieces=(Piece("a", dims=(1,) * 5),)), "1 to 4 dimensions for 'a', got 5"),
    "a dimension of zero": (
        replace(GOOD, pieces=(Piece("a", dims=(4, 0)),)),
        r"dimensions of 'a' that fit .* \[0, 4\]",
    ),
    "a dimension without end": (replace(GOOD, pieces=(Piece("a", dims=(HUGE, 2)),)), "dimensions of 'a' that fit"),
    "a product that wraps to zero": (
        replace(GOOD, pieces=(Piece("a", dims=(2**32, 2**32)),)),
        "dimensions of 'a' that fit",
    ),
    "an unknown type": (replace(GOOD, pieces=(Piece("a", kind=99),)), "unknown type 99 of 'a'"),
    "a broken block": (
        replace(GOOD, pieces=(Piece("a", dims=(100, 1), kind=12),)),
        r"multiple of 256 values for 'a' \(Q4_K\), got 100",
    ),
    "an offset not aligned": (
        replace(GOOD, pieces=(Piece("a"), Piece("b", offset=33))),
        "'b' to be a multiple of 32, got 33",
    ),
    "one over the other": (replace(GOOD, pieces=(Piece("a"), Piece("b"))), "'b' at offset 32, got 0: it overlaps"),
    "a gap": (
        replace(GOOD, pieces=(Piece("a"), Piece("b", offset=64)), data=bytes(96)),
        "'b' at offset 32, got 64: it leaves a gap",
    ),
    "a first gap": (replace(GOOD, pieces=(Piece("a", offset=32),)), "'a' at offset 0, got 32: it leaves a gap"),
    "an offset beyond the end": (replace(GOOD, pieces=(Piece("a"), Piece("b", offset=2**62))), "at offset 32"),
    "an offset that wraps": (replace(GOOD, pieces=(Piece("a"), Piece("b", offset=2**64 - 32))), "at offset 32"),
    "data cut short": (replace(GOOD, data=bytes(63)), "expected 32 bytes of 'b', got 31"),
    "no data at all": (replace(GOOD, data=b""), "."),
    "something behind": (replace(GOOD, more=bytes(64)), "expected the file to end near byte"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_a_sentence(what: str, tmp_path: Path) -> None:
    made, words = DAMAGED[what]
    path = write(tmp_path, made if isinstance(made, bytes) else made.bytes())
    with pytest.raises(WeightsError, match=words) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (replace(GOOD, magic=b"GGML"), "expected a GGUF file at .*, got one that starts with b'GGML'"),
        (replace(GOOD, version=1), "expected GGUF version 2 or 3 in .*, got 1"),
        (replace(GOOD, version=4), "expected GGUF version 2 or 3 in .*, got 4"),
        (replace(GOOD, version=3 << 24), "is a big-endian GGUF file; convert it with gguf-convert-endian"),
    ],
)
def test_another_format_is_named(made: Sketch, words: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=words):
        read_header(write(tmp_path, made.bytes()))


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = GOOD.bytes()
    for end in range(len(whole)):
        with pytest.raises(ModelError):
            read_header(write(tmp_path, whole[:end]))


def test_a_missing_file_and_a_directory_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"cannot read .*: No such file or directory"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(ModelError):
        read_header(tmp_path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 300), second=st.integers(0, 10_000))
def test_any_wrong_bytes_are_read_or_refused_within_the_files_own_size(
    tmp_path: Path, place: int, value: int, cut: int, second: int
) -> None:
    content = bytearray(GOOD.bytes())
    content[place % len(content)] = value
    content[second % len(content)] ^= value
    path = write(tmp_path, bytes(content[: len(content) - cut] if cut < 50 else content))
    tracemalloc.start()
    try:
        read_header(path)
        open_gguf(path)
    except ModelError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2_000_000


# --- a header that is sound, of a model that is not ---

Change = Callable[[dict[str, bytes]], None]


def qwen(**changes: bytes | None) -> Sketch:
    """The smallest Qwen2 that the header can describe; `changes` replace (or drop) its metadata by the last word."""
    arch = "qwen2"
    entries = {
        "architecture": entry("general.architecture", STRING, arch),
        "block_count": entry(f"{arch}.block_count", U32, 1),
        "context_length": entry(f"{arch}.context_length", U32, 32),
        "embedding_length": entry(f"{arch}.embedding_length", U32, 8),
        "feed_forward_length": entry(f"{arch}.feed_forward_length", U32, 8),
        "head_count": entry(f"{arch}.attention.head_count", U32, 2),
        "head_count_kv": entry(f"{arch}.attention.head_count_kv", U32, 1),
        "freq_base": entry(f"{arch}.rope.freq_base", F32, 10000.0),
        "rms_eps": entry(f"{arch}.attention.layer_norm_rms_epsilon", F32, 1e-6),
    }
    for name, made in changes.items():
        if made is None:
            del entries[name]
        else:
            entries[name] = made
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (8, 4), "blk.0.attn_norm.weight": (8,), "blk.0.attn_q.weight": (8, 8),
        "blk.0.attn_k.weight": (8, 4), "blk.0.attn_v.weight": (8, 4), "blk.0.attn_q.bias": (8,),
        "blk.0.attn_k.bias": (4,), "blk.0.attn_v.bias": (4,), "blk.0.attn_output.weight": (8, 8),
        "blk.0.ffn_norm.weight": (8,), "blk.0.ffn_gate.weight": (8, 8), "blk.0.ffn_up.weight": (8, 8),
        "blk.0.ffn_down.weight": (8, 8), "output_norm.weight": (8,),
    }  # fmt: skip
    return laid_out(replace(GOOD, entries=tuple(entries.values())), shapes)


def laid_out(sketch: Sketch, shapes: dict[str, tuple[int, ...]], kind: int = 0) -> Sketch:
    pieces, at = [], 0
    for name, dims in shapes.items():
        pieces.append(Piece(name, dims, kind, at))
        at += -(-int(np.prod(dims)) * 4 // 32) * 32
    return replace(sketch, pieces=tuple(pieces), data=bytes(at))


def test_the_smallest_model_opens(tmp_path: Path) -> None:
    model = open_gguf(write(tmp_path, qwen().bytes()))
    assert (model.spec.vocab, model.spec.head_dim, model.spec.tied, model.spec.qkv_bias) == (4, 4, True, True)
    assert model.spec.rms_eps == 1e-6


@pytest.mark.parametrize(
    "harmless",
    [
        entry("qwen2.rope.scale_linear", F32, 1.0),
        entry("qwen2.rope.scaling.attn_factor", F32, 1.0),
        entry("qwen2.rope.dimension_count", U32, 4),
        entry("qwen2.attention.causal", BOOL, True),
        entry("split.count", U16, 1),
        entry("qwen2.of.the.future", ARRAY, (U32, [1, 2])),
    ],
)
def test_what_says_that_all_is_as_usual_is_no_obstacle(harmless: bytes, tmp_path: Path) -> None:
    assert open_gguf(write(tmp_path, qwen(extra=harmless).bytes())).spec.head_dim == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"architecture": entry("general.architecture", STRING, "llama")},
            "expected architecture 'qwen2' in .*, got 'llama'",
        ),
        ({"architecture": None}, "expected architecture 'qwen2' in .*, got None"),
        ({"block_count": None}, "expected an integer for qwen2.block_count in .*, got None"),
        ({"block_count": entry("qwen2.block_count", STRING, "1")}, "expected an integer for qwen2.block_count"),
        (
            {"block_count": entry("qwen2.block_count", U64, 2**40)},
            "1099511627776 layers are announced, but there are 14 tensors",
        ),
        ({"block_count": entry("qwen2.block_count", U32, 2)}, "missing tensor 'layers.1.attn_norm'"),
        ({"block_count": entry("qwen2.block_count", U32, 0)}, "expected layers between 1 and"),
        ({"embedding_length": entry("qwen2.embedding_length", U32, 16)}, "expected shape"),
        ({"embedding_length": entry("qwen2.embedding_length", U32, 2**31)}, "expected hidden between 1 and"),
        ({"head_count": entry("qwen2.attention.head_count", U32, 0)}, "expected heads between 1 and"),
        ({"head_count_kv": entry("qwen2.attention.head_count_kv", U32, 3)}, "multiple of kv_heads"),
        ({"head_count_kv": entry("qwen2.attention.head_count_kv", ARRAY, (U32, [1, 2]))}, "expected an integer"),
        ({"freq_base": None}, "expected a number for qwen2.rope.freq_base in .*, got None"),
        ({"freq_base": entry("qwen2.rope.freq_base", F32, float("nan"))}, "expected rope_theta > 0"),
        ({"rms_eps": entry("qwen2.attention.layer_norm_rms_epsilon", F32, 0.0)}, "rms_eps"),
        (
            {"extra": entry("qwen2.rope.scaling.type", STRING, "yarn")},
            "qwen2.rope.scaling.type = 'yarn' is not supported",
        ),
        ({"extra": entry("qwen2.attention.sliding_window", U32, 4096)}, "sliding_window = 4096 is not supported"),
        ({"extra": entry("qwen2.expert_count", U32, 8)}, "expert_count = 8 is not supported"),
        ({"extra": entry("qwen2.rope.scale_linear", F32, 4.0)}, "scale_linear = 4.0 is not supported"),
        ({"extra": entry("qwen2.rope.scaling.attn_factor", F32, 2.0)}, "attn_factor = 2.0 is not supported"),
        ({"extra": entry("qwen2.attention.causal", BOOL, False)}, "causal = False is not supported"),
        ({"extra": entry("qwen2.rope.dimension_count", U32, 2)}, "dimension_count to be the width of a head, 4, got 2"),
        ({"extra": entry("split.count", U16, 3)}, "one of 3 parts of a model.*llama-gguf-split --merge"),
        ({"architecture": entry("general.architecture", ARRAY, (U32, [1, 2]))}, "expected architecture 'qwen2'"),
        ({"extra": entry("qwen2.attention.sliding_window", ARRAY, (U32, [0, 0]))}, "sliding_window = .* not supported"),
        ({"extra": entry("qwen2.rope.scaling.type", ARRAY, (F32, [1.0, 2.0]))}, "scaling.type = .* not supported"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(
    changes: dict[str, bytes | None], words: str, tmp_path: Path
) -> None:
    path = write(tmp_path, qwen(**changes).bytes())
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=words) as caught:
            open_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)


def test_an_unknown_tensor_and_a_missing_one_are_named_together(tmp_path: Path) -> None:
    sketch = qwen()
    pieces = tuple(
        replace(p, name="blk.0.attn_qq.weight") if p.name == "blk.0.attn_q.weight" else p for p in sketch.pieces
    )
    with pytest.raises(WeightsError, match=r"missing tensor 'layers.0.q'.*unknown tensor 'blk.0.attn_qq.weight'"):
        open_gguf(write(tmp_path, replace(sketch, pieces=pieces).bytes()))


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    sketch = laid_out(qwen(), {"token_embd.weight": (256, 4)}, kind=10)  # Q2_K
    path = write(tmp_path, replace(sketch, data=bytes(84 * 4 + 16)).bytes())
    with pytest.raises(WeightsError, match=r"expected a type among .* for 'token_embd.weight' in .*, got Q2_K"):
        open_gguf(path)
