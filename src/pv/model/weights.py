"""Named tensors, each with its own type -> `Weights`, complete and of the right shapes -> `Prepared` for one device.

Three values, one for each step: `Weight` (a tensor as stored), `Weights` (all of a model, checked against its spec),
`Prepared` (placed on a device, q, k and v fused, ready for the forward).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum

import torch

from pv.model.errors import WeightsError
from pv.model.spec import ModelSpec


class WeightType(StrEnum):
    """How a tensor's numbers are stored. Block types keep ggml's layout: `(values in a block, bytes of a block)`."""

    F64 = "F64"  # for shadow runs; no model file is written in it
    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q4_0 = "Q4_0"
    Q4_1 = "Q4_1"
    Q5_0 = "Q5_0"
    Q5_1 = "Q5_1"
    Q8_0 = "Q8_0"
    Q4_K = "Q4_K"
    Q5_K = "Q5_K"
    Q6_K = "Q6_K"

    @property
    def quantized(self) -> bool:
        """Whether the values come in blocks of codes with scales."""
        return self in BLOCKS

    def row_bytes(self, width: int) -> int:
        """Bytes of one row of `width` values. Raises WeightsError when a row is no whole number of blocks."""
        if not self.quantized:
            return width * DTYPES[self].itemsize
        values, size = BLOCKS[self]
        if width % values:
            raise WeightsError(f"expected rows of a multiple of {values} values for {self}, got rows of {width}")
        return width // values * size


DTYPES = {
    WeightType.F64: torch.float64,
    WeightType.F32: torch.float32,
    WeightType.F16: torch.float16,
    WeightType.BF16: torch.bfloat16,
}
TYPE_OF_DTYPE = {dtype: kind for kind, dtype in DTYPES.items()}
BLOCKS = {  # values, bytes
    WeightType.Q4_0: (32, 18),
    WeightType.Q4_1: (32, 20),
    WeightType.Q5_0: (32, 22),
    WeightType.Q5_1: (32, 24),
    WeightType.Q8_0: (32, 34),
    WeightType.Q4_K: (256, 144),
    WeightType.Q5_K: (256, 176),
    WeightType.Q6_K: (256, 210),
}

Dequantizer = Callable[[torch.Tensor, int], torch.Tensor]  # (rows, row bytes) uint8, width -> (rows, width) float32
DEQUANTIZERS: dict[WeightType, Dequantizer] = {}  # filled by the module that knows the blocks


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """One tensor as it is stored.

    `data` is the tensor itself for a float type, and uint8 of shape `(rows, bytes of a row)` for a block type;
    `shape` is the logical one in both cases.
    """

    name: str
    type: WeightType
    shape: tuple[int, ...]
    data: torch.Tensor

    @classmethod
    def of(cls, name: str, values: torch.Tensor) -> Weight:
        """A float tensor as a weight. Raises WeightsError for a dtype that no weight type stores."""
        if values.dtype not in TYPE_OF_DTYPE:
            raise WeightsError(f"expected a float dtype for {name!r}, got {values.dtype}")
        return cls(name, TYPE_OF_DTYPE[values.dtype], tuple(values.shape), values)

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return self.data.numel() * self.data.element_size()

    def dense(self) -> torch.Tensor:
        """All values as float32, shape `shape`. Exact for float types; blocks are dequantized."""
        if not self.type.quantized:
            return self.data.to(torch.float32)
        return self._dequantized(self.data).reshape(self.shape)

    def rows(self, index: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The rows `index` (any shape) of a matrix in `dtype`, shape (*index.shape, width): an embedding's look-up."""
        if not self.type.quantized:
            return torch.nn.functional.embedding(index, self.data).to(dtype)
        picked = self._dequantized(self.data[index.reshape(-1)])
        return picked.reshape(*index.shape, self.shape[-1]).to(dtype)

    def _dequantized(self, blocks: torch.Tensor) -> torch.Tensor:
        if self.type not in DEQUANTIZERS:
            raise WeightsError(f"no dequantizer for {self.type} of {self.name!r}")
        return DEQUANTIZERS[self.type](blocks, self.shape[-1])

    def placed(self, device: torch.device, dtype: torch.dtype) -> Weight:
        """On `device`; float types also cast to `dtype`, block types as they are."""
        if self.type.quantized:
            return replace(self, data=self.data.to(device))
        return Weight.of(self.name, self.data.to(device=device, dtype=dtype))


# Ours, and Transformers' spelling; {i} is the layer. The one table that both readers and writers use.
NAMES: tuple[tuple[str, str], ...] = (
    ("embedding", "model.embed_tokens.weight"),
    ("layers.{i}.attn_norm", "model.layers.{i}.input_layernorm.weight"),
    ("layers.{i}.q", "model.layers.{i}.self_attn.q_proj.weight"),
    ("layers.{i}.k", "model.layers.{i}.self_attn.k_proj.weight"),
    ("layers.{i}.v", "model.layers.{i}.self_attn.v_proj.weight"),
    ("layers.{i}.q_bias", "model.layers.{i}.self_attn.q_proj.bias"),
    ("layers.{i}.k_bias", "model.layers.{i}.self_attn.k_proj.bias"),
    ("layers.{i}.v_bias", "model.layers.{i}.self_attn.v_proj.bias"),
    ("layers.{i}.attn_out", "model.layers.{i}.self_attn.o_proj.weight"),
    ("layers.{i}.ffn_norm", "model.layers.{i}.post_attention_layernorm.weight"),
    ("layers.{i}.ffn_gate", "model.layers.{i}.mlp.gate_proj.weight"),
    ("layers.{i}.ffn_up", "model.layers.{i}.mlp.up_proj.weight"),
    ("layers.{i}.ffn_down", "model.layers.{i}.mlp.down_proj.weight"),
    ("final_norm", "model.norm.weight"),
    ("lm_head", "lm_head.weight"),
)


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Our name -> shape, for every tensor that a model of this spec has; matrices are (out, in)."""
    H, F, Q, KV = spec.hidden, spec.ffn, spec.q_width, spec.kv_width
    layer = {
        "attn_norm": (H,), "q": (Q, H), "k": (KV, H), "v": (KV, H), "q_bias": (Q,), "k_bias": (KV,), "v_bias": (KV,),
        "attn_out": (H, Q), "ffn_norm": (H,), "ffn_gate": (F, H), "ffn_up": (F, H), "ffn_down": (H, F),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"embedding": (spec.vocab, H)}
    for i in range(spec.layers):
        shapes |= {f"layers.{i}.{n}": s for n, s in layer.items() if spec.qkv_bias or not n.endswith("_bias")}
    shapes["final_norm"] = (H,)
    return shapes if spec.tied else shapes | {"lm_head": (spec.vocab, H)}


def hf_names(spec: ModelSpec) -> dict[str, str]:
    """Our name -> Transformers' name, for every tensor that a model of this spec has."""
    table = dict(NAMES)
    names = {}
    for ours in expected_shapes(spec):
        head, _, rest = ours.partition(".")
        layer, _, part = rest.partition(".")
        names[ours] = table[f"{head}.{{i}}.{part}"].format(i=layer) if rest else table[ours]
    return names


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """All tensors of one model by our names: complete, nothing left over, every shape as the spec demands."""

    spec: ModelSpec
    tensors: Mapping[str, Weight]

    @classmethod
    def checked(cls, spec: ModelSpec, found: Iterable[Weight], where: str) -> Weights:
        """Weights from tensors under our names. Raises WeightsError naming what is missing, unknown or misshapen."""
        tensors = {weight.name: weight for weight in found}
        want = expected_shapes(spec)
        problems = _name_problems(tensors, want) + [
            f"expected shape {want[name]} for {name!r}, got {weight.shape}"
            for name, weight in tensors.items()
            if name in want and weight.shape != want[name]
        ]
        if problems:
            raise WeightsError(f"{where}: {_some(problems)}", "do the configuration and the weights belong together?")
        return cls(spec, {name: tensors[name] for name in want})

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return sum(weight.nbytes for weight in self.tensors.values())

    @property
    def types(self) -> dict[WeightType, int]:
        """How many tensors there are of each type."""
        found = [weight.type for weight in self.tensors.values()]
        return {kind: found.count(kind) for kind in WeightType if kind in found}

    def dequantized(self) -> Weights:
        """The same numbers, every block type as float32: the other of the two honest paths of a quantized model."""
        dense = {n: Weight.of(n, w.dense()) if w.type.quantized else w for n, w in self.tensors.items()}
        return replace(self, tensors=dense)


def _name_problems(found: Iterable[str], want: Iterable[str]) -> list[str]:
    found, want = set(found), list(want)
    missing = [f"missing tensor {name!r}" for name in want if name not in found]
    unknown = []
    for name in sorted(found - set(want)):
        near = get_close_matches(name, want, n=1)
        unknown.append(f"unknown tensor {name!r}" + (f" (near {near[0]!r})" if near else ""))
    return missing + unknown


def _some(problems: list[str], limit: int = 8) -> str:
    rest = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(problems[:limit]) + rest


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One layer, ready for the forward. `qkv` is one fused matrix, or three where q, k and v differ in type."""

    attn_norm: torch.Tensor  # (H,)
    qkv: tuple[Weight, ...]  # ((Hq + 2 Hkv) D, H) in all
    qkv_bias: torch.Tensor | None  # ((Hq + 2 Hkv) D,)
    attn_out: Weight  # (H, Hq D)
    ffn_norm: torch.Tensor  # (H,)
    ffn_gate: Weight  # (F, H)
    ffn_up: Weight  # (F, H)
    ffn_down: Weight  # (H, F)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Weights on one device. Activations are computed in `dtype`."""

    spec: ModelSpec
    embedding: Weight  # (V, H)
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor  # (H,)
    lm_head: Weight  # (V, H); the embedding itself when tied
    dtype: torch.dtype
    device: torch.device


def prepare(weights: Weights, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Prepared:
    """Place a model on a device, q, k and v fused where their types agree.

    Differentiable: with tensors that require gradients, gradients flow back into them. Float types are cast to
    `dtype` (exactly, when it is float32), block types keep their blocks.
    """
    spec, device = weights.spec, torch.device(device)

    def placed(name: str) -> Weight:
        return weights.tensors[name].placed(device, dtype)

    def vector(name: str) -> torch.Tensor:
        weight = weights.tensors[name]
        return (weight.dense() if weight.type.quantized else weight.data).to(device=device, dtype=dtype)

    def layer(at: str) -> LayerWeights:
        biases = [vector(f"{at}.{part}_bias") for part in "qkv"] if spec.qkv_bias else []
        return LayerWeights(
            attn_norm=vector(f"{at}.attn_norm"),
            qkv=_fused(f"{at}.qkv", [placed(f"{at}.{part}") for part in "qkv"]),
            qkv_bias=torch.cat(biases) if biases else None,
            attn_out=placed(f"{at}.attn_out"),
            ffn_norm=vector(f"{at}.ffn_norm"),
            ffn_gate=placed(f"{at}.ffn_gate"),
            ffn_up=placed(f"{at}.ffn_up"),
            ffn_down=placed(f"{at}.ffn_down"),
        )

    embedding = placed("embedding")
    return Prepared(
        spec=spec,
        embedding=embedding,
        layers=tuple(layer(f"layers.{i}") for i in range(spec.layers)),
        final_norm=vector("final_norm"),
        lm_head=embedding if spec.tied else placed("lm_head"),
        dtype=dtype,
        device=device,
    )


def _fused(name: str, parts: list[Weight]) -> tuple[Weight, ...]:
    """Rows of q, k, v under one another: one product instead of three. Blocks lie within rows, so they join too."""
    if len({part.type for part in parts}) > 1:
        return tuple(parts)
    rows = sum(part.shape[0] for part in parts)
    return (Weight(name, parts[0].type, (rows, parts[0].shape[1]), torch.cat([part.data for part in parts])),)
