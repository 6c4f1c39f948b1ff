"""A GGUF file of a Qwen2-type model -> `Model`, memory-mapped, every tensor in the type that it is stored in.

Opening reads the header alone; weights are mapped copy-on-write and come from the disk when they are multiplied.
Block types go through the quantized product (`quant_product`); `dequantized(model)` is the same model with the same
numbers as float32 matrices, which is another type and takes the float32 product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType, Keys

from pv.model import quant_product  # noqa: F401 - opening a GGUF file is what brings the quantized products in
from pv.model.errors import SpecError, WeightsError
from pv.model.gguf_header import Header, TensorInfo, read_header
from pv.model.gguf_tokenizer import build, vocabulary_in
from pv.model.open import Model, digest_of
from pv.model.spec import ModelSpec
from pv.model.weights import DTYPES, Weight, Weights, WeightType

ARCHITECTURE = "qwen2"
# Ours, and GGUF's; {i} is the layer. Readers and the writer use this one table.
NAMES: tuple[tuple[str, str], ...] = (
    ("embedding", "token_embd.weight"),
    ("layers.{i}.attn_norm", "blk.{i}.attn_norm.weight"),
    ("layers.{i}.q", "blk.{i}.attn_q.weight"),
    ("layers.{i}.k", "blk.{i}.attn_k.weight"),
    ("layers.{i}.v", "blk.{i}.attn_v.weight"),
    ("layers.{i}.q_bias", "blk.{i}.attn_q.bias"),
    ("layers.{i}.k_bias", "blk.{i}.attn_k.bias"),
    ("layers.{i}.v_bias", "blk.{i}.attn_v.bias"),
    ("layers.{i}.attn_out", "blk.{i}.attn_output.weight"),
    ("layers.{i}.ffn_norm", "blk.{i}.ffn_norm.weight"),
    ("layers.{i}.ffn_gate", "blk.{i}.ffn_gate.weight"),
    ("layers.{i}.ffn_up", "blk.{i}.ffn_up.weight"),
    ("layers.{i}.ffn_down", "blk.{i}.ffn_down.weight"),
    ("final_norm", "output_norm.weight"),
    ("lm_head", "output.weight"),
)
READABLE = {GGMLQuantizationType[kind.value]: kind for kind in WeightType}
# Keys that change the computation in a way this forward does not know, and the values that leave it alone.
UNSUPPORTED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (Keys.Rope.SCALING_TYPE, ("none",)),
    (Keys.Rope.SCALING_FACTOR, (0.0, 1.0)),
    ("{arch}.rope.scale_linear", (0.0, 1.0)),  # the older spelling of the factor
    (Keys.Rope.SCALING_ATTN_FACTOR, (1.0,)),
    (Keys.Attention.CAUSAL, (True,)),
    (Keys.Attention.SLIDING_WINDOW, (0,)),
    (Keys.LLM.EXPERT_COUNT, (0,)),
)


def open_gguf(path: Path) -> Model:
    """Open a file. Raises FormatError, SpecError, WeightsError; the tokenizer is built (TokenizerError) when asked."""
    header = read_header(path)
    spec = spec_in(header)
    ours = {theirs: name for name, theirs in names_of(spec).items()}
    return Model(
        spec=spec,
        weights=Weights.checked(spec, _mapped(header, ours), str(path)),
        path=path,
        load_tokenizer=lambda: build(vocabulary_in(header.metadata, str(path)), str(path)),
        compute_digest=lambda: digest_of([path]),
    )


def dequantized(model: Model) -> Model:
    """The same numbers as float32 matrices: every product is the float32 one, nothing is rounded to int8."""
    return replace(model, weights=model.weights.dequantized())


def names_of(spec: ModelSpec) -> dict[str, str]:
    """Our name -> GGUF's name, for every tensor that a model of this spec has."""
    names: dict[str, str] = {}
    for ours, theirs in NAMES:
        if (spec.tied and ours == "lm_head") or (not spec.qkv_bias and ours.endswith("_bias")):
            continue
        layers = range(spec.layers) if "{i}" in ours else (0,)
        names |= {ours.format(i=i): theirs.format(i=i) for i in layers}
    return names


def spec_in(header: Header) -> ModelSpec:
    """The model's dimensions from the metadata; what the keys do not say (a head of its own, biases) from the tensors.

    Raises SpecError naming the key for another architecture, a missing or odd value, or a feature pv does not run.
    """
    where = str(header.path)
    parts = header.metadata.get(Keys.Split.LLM_KV_SPLIT_COUNT, 0)
    if type(parts) is int and parts > 1:
        raise SpecError(f"{where} is one of {parts} parts of a model", "join them with llama-gguf-split --merge")
    architecture = header.metadata.get(Keys.General.ARCHITECTURE)
    if not isinstance(architecture, str) or architecture != ARCHITECTURE:
        raise SpecError(f"expected architecture {ARCHITECTURE!r} in {where}, got {architecture!r}", "pv runs no other")
    for key, harmless in UNSUPPORTED:
        value = header.metadata.get(key.format(arch=ARCHITECTURE), harmless[0])
        if not isinstance(value, (bool, int, float, str)) or value not in harmless:
            raise SpecError(f"{key.format(arch=ARCHITECTURE)} = {value!r} is not supported, in {where}")
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    layers = _integer(header, Keys.LLM.BLOCK_COUNT)
    if layers > len(shapes):  # before anything is made for each layer
        raise SpecError(f"{layers} layers are announced, but there are {len(shapes)} tensors, in {where}")
    hidden = _integer(header, Keys.LLM.EMBEDDING_LENGTH)
    heads = _integer(header, Keys.Attention.HEAD_COUNT)
    head_dim = _integer(header, Keys.Attention.KEY_LENGTH, hidden // max(1, heads))
    turned = _integer(header, Keys.Rope.DIMENSION_COUNT, head_dim)
    if turned != head_dim:
        key = Keys.Rope.DIMENSION_COUNT.format(arch=ARCHITECTURE)
        raise SpecError(f"expected {key} to be the width of a head, {head_dim}, got {turned}, in {where}")
    try:
        return ModelSpec(
            vocab=shapes.get("token_embd.weight", (0,))[0],
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=_integer(header, Keys.Attention.HEAD_COUNT_KV, heads),
            head_dim=head_dim,
            ffn=_integer(header, Keys.LLM.FEED_FORWARD_LENGTH),
            rope_theta=_number(header, Keys.Rope.FREQ_BASE),
            rms_eps=_number(header, Keys.Attention.LAYERNORM_RMS_EPS),
            tied="output.weight" not in shapes,
            context=_integer(header, Keys.LLM.CONTEXT_LENGTH),
            qkv_bias="blk.0.attn_q.bias" in shapes,
        )
    except SpecError as problem:
        raise problem if where in problem.message else SpecError(f"{problem.message} in {where}") from None


def _integer(header: Header, key: str, default: int | None = None) -> int:
    value = header.metadata.get(key.format(arch=ARCHITECTURE), default)
    if type(value) is not int:
        raise SpecError(f"expected an integer for {key.format(arch=ARCHITECTURE)} in {header.path}, got {value!r}")
    return value


def _number(header: Header, key: str) -> float:
    """A float of the metadata: the shortest decimal that its float32 stands for, so that 1e-6 comes back as 1e-6."""
    value = header.metadata.get(key.format(arch=ARCHITECTURE))
    if not isinstance(value, float):
        raise SpecError(f"expected a number for {key.format(arch=ARCHITECTURE)} in {header.path}, got {value!r}")
    narrow = np.float32(value)
    return float(str(narrow)) if float(narrow) == value else value


def _mapped(header: Header, ours: Mapping[str, str]) -> Iterator[Weight]:
    """Every tensor under our name (its own where we know none, so that it can be reported), mapped, not read."""
    bytes_of_file = np.memmap(header.path, dtype=np.uint8, mode="c")  # copy-on-write: torch wants it writable
    for info in header.tensors:
        if info.type not in READABLE:
            raise WeightsError(
                f"expected a type among {', '.join(READABLE.values())} for {info.name!r} in {header.path}, "
                f"got {info.type.name}"
            )
        yield _weight(ours.get(info.name, info.name), info, READABLE[info.type], bytes_of_file)


def _weight(name: str, info: TensorInfo, kind: WeightType, data: np.memmap[Any, np.dtype[np.uint8]]) -> Weight:
    stored = torch.from_numpy(data[info.start : info.start + info.nbytes])
    if kind in DTYPES:
        return Weight(name, kind, info.shape, stored.view(DTYPES[kind]).reshape(info.shape))
    if len(info.shape) != 2:
        raise WeightsError(f"expected a matrix for {info.name!r}, which is {kind}, got shape {info.shape}")
    return Weight(name, kind, info.shape, stored.reshape(info.shape[0], -1))


def stored_bytes(weight: Weight) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A weight's bytes as a file holds them."""
    raw = weight.data.contiguous().view(torch.uint8).numpy()
    flat: np.ndarray[Any, np.dtype[np.uint8]] = raw.reshape(-1)
    return flat


def iter_named(weights: Weights) -> Iterable[tuple[str, Weight]]:
    """(GGUF's name, weight) in the order of the table."""
    return ((theirs, weights.tensors[ours]) for ours, theirs in names_of(weights.spec).items())
