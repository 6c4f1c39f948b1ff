"""A model -> a GGUF file that llama.cpp, Transformers and pv read: tensor by tensor, whole or not at all.

Which type a tensor gets follows llama.cpp's own mixes, without importance matrices: norms and biases stay float32; the
head (and an embedding that is tied to it) gets Q6_K in every mix below it; the `_M` mixes give half of the value and
down projections more bits. Rows that are no whole number of blocks fall back as llama.cpp lets them, and `Converted`
names each such tensor. Equal inputs give equal bytes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_VERSION, GGMLQuantizationType, LlamaFileType

from pv.model.errors import QuantError, TokenizerError
from pv.model.gguf_file import ARCHITECTURE, iter_named, open_gguf
from pv.model.gguf_tokenizer import NORMALIZER, STOP_KEYS, Vocabulary, describe
from pv.model.open import Model
from pv.model.quant import Bytes, block_of, quantize
from pv.model.spec import ModelSpec
from pv.model.tokenizer import Tokenizer
from pv.model.weights import DTYPES, Weight, WeightType, expected_shapes

_SLAB = 1 << 22  # values turned to float32 at a time


class FileType(StrEnum):
    """What `--type` takes: a type for all matrices, or a mix."""

    Q4_K_M = "Q4_K_M"
    Q5_K_M = "Q5_K_M"
    Q4_K = "Q4_K"
    Q5_K = "Q5_K"
    Q6_K = "Q6_K"
    Q8_0 = "Q8_0"
    Q5_1 = "Q5_1"
    Q5_0 = "Q5_0"
    Q4_1 = "Q4_1"
    Q4_0 = "Q4_0"
    F16 = "F16"
    BF16 = "BF16"
    F32 = "F32"


@dataclass(frozen=True, slots=True)
class Mix:
    """A file type in full: the type of most matrices, of those that deserve more, of the head; llama.cpp's number."""

    most: WeightType
    more: WeightType
    head: WeightType
    number: LlamaFileType


def _mix(most: str, number: LlamaFileType, more: str = "", head: str = "") -> Mix:
    return Mix(WeightType(most), WeightType(more or most), WeightType(head or most), number)


MIXES: dict[FileType, Mix] = {
    FileType.Q4_K_M: _mix("Q4_K", LlamaFileType.MOSTLY_Q4_K_M, more="Q6_K", head="Q6_K"),
    FileType.Q5_K_M: _mix("Q5_K", LlamaFileType.MOSTLY_Q5_K_M, more="Q6_K", head="Q6_K"),
    FileType.Q4_K: _mix("Q4_K", LlamaFileType.MOSTLY_Q4_K_S, head="Q6_K"),
    FileType.Q5_K: _mix("Q5_K", LlamaFileType.MOSTLY_Q5_K_S, head="Q6_K"),
    FileType.Q6_K: _mix("Q6_K", LlamaFileType.MOSTLY_Q6_K),
    FileType.Q8_0: _mix("Q8_0", LlamaFileType.MOSTLY_Q8_0),
    FileType.Q5_1: _mix("Q5_1", LlamaFileType.MOSTLY_Q5_1, head="Q6_K"),
    FileType.Q5_0: _mix("Q5_0", LlamaFileType.MOSTLY_Q5_0, head="Q6_K"),
    FileType.Q4_1: _mix("Q4_1", LlamaFileType.MOSTLY_Q4_1, head="Q6_K"),
    FileType.Q4_0: _mix("Q4_0", LlamaFileType.MOSTLY_Q4_0, head="Q6_K"),
    FileType.F16: _mix("F16", LlamaFileType.MOSTLY_F16),
    FileType.BF16: _mix("BF16", LlamaFileType.MOSTLY_BF16),
    FileType.F32: _mix("F32", LlamaFileType.ALL_F32),
}
# For rows of a multiple of 32 but not of 256, as llama.cpp has it; for other rows it is F16.
FALLBACKS = {WeightType.Q4_K: WeightType.Q5_0, WeightType.Q5_K: WeightType.Q5_1, WeightType.Q6_K: WeightType.Q8_0}


@dataclass(frozen=True, slots=True)
class Converted:
    """A written file. `fallbacks`: tensor -> the type it got instead of the mix's, because of its width."""

    path: Path
    nbytes: int
    types: Mapping[WeightType, int]  # how many tensors of each
    fallbacks: Mapping[str, WeightType]


def plan_types(spec: ModelSpec, kind: FileType) -> dict[str, WeightType]:
    """Our name -> stored type, before any fallback."""
    mix = MIXES[kind]

    def of(name: str, shape: tuple[int, ...]) -> WeightType:
        if len(shape) == 1:
            return WeightType.F32
        if name == ("embedding" if spec.tied else "lm_head"):
            return mix.head
        if name.endswith((".v", ".ffn_down")) and _deserves_more(int(name.split(".")[1]), spec.layers):
            return mix.more
        return mix.most

    return {name: of(name, shape) for name, shape in expected_shapes(spec).items()}


def fallback(kind: WeightType, columns: int) -> WeightType:
    """The type for rows of `columns` values: `kind` where they are whole blocks, else llama.cpp's replacement."""
    if columns % block_of(kind).block == 0:
        return kind
    second = FALLBACKS.get(kind, WeightType.F16)
    return second if columns % block_of(second).block == 0 else WeightType.F16


def convert(
    model: Model,
    output: Path,
    kind: FileType,
    *,
    tokenizer: Tokenizer | None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Converted:
    """Write `model` as a GGUF file, read it back, and only then give it its name.

    Raises QuantError when a tensor cannot be stored so, or is quantized already; TokenizerError when the format cannot
    say the tokenizer; OSError from the disk.
    """
    spec = model.spec
    wanted = plan_types(spec, kind)
    chosen = {n: fallback(t, model.weights.tensors[n].shape[-1]) for n, t in wanted.items()}
    vocabulary = describe(tokenizer, spec.vocab, tokenizer.chat_template) if tokenizer else None
    with _whole_path(output) as unfinished:
        writer = GGUFWriter(unfinished, ARCHITECTURE)
        try:
            _describe_model(writer, spec, _name_of(model.path), MIXES[kind].number)
            _describe_tokenizer(writer, vocabulary, spec.vocab)
            _write_tensors(writer, model, chosen, progress)
        finally:
            writer.close()
        _read_back(unfinished, spec, tokenizer, vocabulary)
        size = unfinished.stat().st_size
    kinds = list(chosen.values())
    return Converted(
        path=output,
        nbytes=size,
        types={kind: kinds.count(kind) for kind in WeightType if kind in kinds},
        fallbacks={name: chosen[name] for name in chosen if chosen[name] != wanted[name]},
    )


def stored(weight: Weight, kind: WeightType) -> Bytes:
    """A tensor's bytes in another type: (rows, row bytes) for matrices, (1, bytes) for vectors.

    Raises QuantError, naming the tensor, when its numbers cannot be stored so, or when they are blocks already and
    would be rounded a second time.
    """
    columns = weight.shape[-1]
    rows = weight.data.reshape(-1, weight.data.shape[-1])
    if weight.type == kind:
        return rows.contiguous().view(torch.uint8).numpy()
    if weight.type.quantized and kind not in DTYPES:
        raise QuantError(
            f"expected float weights for {weight.name!r}, got {weight.type}: quantizing twice loses twice",
            "convert the original model",
        )
    block, size = block_of(kind)
    out = np.empty((len(rows), columns // block * size), np.uint8)
    step = max(1, _SLAB // columns)
    try:
        for start in range(0, len(rows), step):
            part = Weight(
                weight.name, weight.type, (len(rows[start : start + step]), columns), rows[start : start + step]
            )
            out[start : start + step] = quantize(part.dense().numpy(), kind)
    except QuantError as problem:
        raise QuantError(f"{weight.name!r}: {problem.message}", problem.hint) from None
    return out


def _deserves_more(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and last eighth of the layers, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _describe_model(writer: GGUFWriter, spec: ModelSpec, name: str, number: LlamaFileType) -> None:
    writer.add_name(name)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_file_type(number)
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_rope_freq_base(spec.rope_theta)
    writer.add_layer_norm_rms_eps(spec.rms_eps)
    if spec.head_dim * spec.heads != spec.hidden:
        writer.add_key_length(spec.head_dim)
        writer.add_value_length(spec.head_dim)


def _describe_tokenizer(writer: GGUFWriter, vocabulary: Vocabulary | None, rows: int) -> None:
    if vocabulary is None:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(rows)
        return
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.kinds))
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_add_bos_token(False)
    writer.add_string(NORMALIZER, vocabulary.normalizer)
    for key, stop in zip(STOP_KEYS, vocabulary.stops, strict=False):
        writer.add_uint32(key, stop)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _write_tensors(
    writer: GGUFWriter, model: Model, chosen: Mapping[str, WeightType], progress: Callable[[int, int, str], None]
) -> None:
    named = list(iter_named(model.weights))
    for theirs, weight in named:
        kind = chosen[weight.name]
        block, size = block_of(kind)
        shape = (*weight.shape[:-1], weight.shape[-1] // block * size)  # in bytes, which the writer turns back
        nbytes = int(np.prod(shape))
        writer.add_tensor_info(theirs, shape, np.dtype(np.uint8), nbytes, raw_dtype=GGMLQuantizationType[kind.value])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, (theirs, weight) in enumerate(named):
        progress(done, len(named), theirs)
        writer.write_tensor_data(stored(weight, chosen[weight.name]))
    progress(len(named), len(named), "")


# Text that tells splitting rules, normalizers and special tokens apart.
_SAMPLES = (
    "What is 2+2?",
    " a  b\t\n\n c\r\nd",
    "It's 1234.5 e\u0301 \u00e9 \u4f60\u597d \U0001f642",
    "x_y==z;//\u00a0!",
)


def _read_back(path: Path, spec: ModelSpec, tokenizer: Tokenizer | None, vocabulary: Vocabulary | None) -> None:
    """Open what was written. Raises when the dimensions, the vocabulary or the tokens differ from the source's."""
    written = open_gguf(path)
    expected = replace(spec, rope_theta=_as_stored(spec.rope_theta), rms_eps=_as_stored(spec.rms_eps))
    if written.spec != expected:
        raise QuantError(f"expected {expected} when reading back, got {written.spec}", "this is a bug in pv")
    if tokenizer is None:
        return
    if describe(written.tokenizer, spec.vocab, written.tokenizer.chat_template) != vocabulary:
        raise TokenizerError("the vocabulary that was written is not the one that comes back", "this is a bug in pv")
    specials = "".join(token.content for token in tokenizer.fast.get_added_tokens_decoder().values())
    for text in (*_SAMPLES, specials):
        ours, theirs = tokenizer.encode(text), written.tokenizer.encode(text)
        if ours != theirs:
            raise TokenizerError(f"a GGUF file cannot say this tokenizer: {text!r} became {theirs[:8]}, not {ours[:8]}")


def _as_stored(value: float) -> float:
    """The format has float32 for numbers: the shortest decimal of the nearest one, as the reader gives it."""
    return float(str(np.float32(value)))


def _name_of(path: Path) -> str:
    """A folder's name whole (there may be points in it), a file's without its ending."""
    path = path.resolve()
    return (path.name if path.is_dir() else path.stem) or "model"


@contextmanager
def _whole_path(path: Path) -> Iterator[Path]:
    """A path beside `path` that becomes it when the block ends well, and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0o022)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
