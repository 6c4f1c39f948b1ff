"""`config.json` -> `ModelSpec`: the dimensions of a Qwen2-type model, and the named shapes for synthetic ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pv.model.errors import SpecError

LIMIT = 1 << 24  # no dimension of a real model comes near; a larger one is a damaged file


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the forward needs to know beside the weights. Widths count elements; `rope_theta` is the RoPE base."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    rope_theta: float
    rms_eps: float
    tied: bool
    context: int
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab", "hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "context"):
            value = getattr(self, name)
            if not 0 < value <= LIMIT:
                raise SpecError(f"expected {name} between 1 and {LIMIT}, got {name}={value}")
        if self.heads % self.kv_heads:
            raise SpecError(f"expected heads={self.heads} to be a multiple of kv_heads={self.kv_heads}")
        if self.head_dim % 2:
            raise SpecError(f"expected an even head_dim (RoPE rotates pairs), got head_dim={self.head_dim}")
        if not (0 < self.rope_theta < float("inf") and 0 < self.rms_eps < 1):
            raise SpecError(f"expected rope_theta > 0 and 0 < rms_eps < 1, got {self.rope_theta} and {self.rms_eps}")

    @property
    def group(self) -> int:
        """How many query heads share one key-value head."""
        return self.heads // self.kv_heads

    @property
    def q_width(self) -> int:
        """Width of all query heads side by side."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads side by side (the values' too)."""
        return self.kv_heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        """Width of the fused product: q, k, v side by side."""
        return self.q_width + 2 * self.kv_width

    @property
    def parameters(self) -> int:
        """How many numbers the model holds; a tied head counts once."""
        layer = self.hidden * (2 + self.qkv_width + self.q_width + 3 * self.ffn) + self.qkv_bias * self.qkv_width
        return self.vocab * self.hidden * (1 if self.tied else 2) + self.layers * layer + self.hidden


def _qwen2(
    vocab: int, hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, *, tied: bool, context: int = 32768
) -> ModelSpec:
    return ModelSpec(vocab, hidden, layers, heads, kv_heads, hidden // heads, ffn, 1e6, 1e-6, tied, context)


SHAPES: Mapping[str, ModelSpec] = {  # the first three are the published Qwen2 and Qwen2.5 shapes
    "7b": _qwen2(152064, 3584, 28, 28, 4, 18944, tied=False),
    "1.5b": _qwen2(151936, 1536, 28, 12, 2, 8960, tied=True),
    "0.5b": _qwen2(151936, 896, 24, 14, 2, 4864, tied=True),
    "28-small": _qwen2(512, 256, 28, 8, 2, 768, tied=True, context=512),  # the layers of 7b, the width of the teacher
    "tiny": _qwen2(512, 256, 4, 8, 2, 768, tied=True, context=512),  # the shipped teacher's own
    "nano": _qwen2(300, 32, 3, 4, 2, 80, tied=False, context=512),  # for tests: milliseconds
}


def named_shape(name: str) -> ModelSpec:
    """The shape of that name. Raises SpecError that lists them all."""
    if name not in SHAPES:
        raise SpecError(f"expected a shape among {', '.join(SHAPES)}, got {name!r}")
    return SHAPES[name]


def read_spec(path: Path) -> ModelSpec:
    """`config.json` at `path` -> spec. Raises SpecError when it is missing, unreadable or not a Qwen2 configuration."""
    return spec_from_config(read_json(path, SpecError), str(path))


def read_json(path: Path, error: type[SpecError] | type[Any] = SpecError) -> dict[str, Any]:
    """A JSON object from a small file; `error` is raised with the place when there is none."""
    try:
        if path.stat().st_size > 1 << 28:
            raise error(f"expected a JSON file of at most 256 MiB, got {path.stat().st_size} bytes in {path}")
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise error(f"expected a file at {path}, found none") from None
    except OSError as problem:
        raise error(f"cannot read {path}: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"expected JSON in {path}, got something else: {problem}", "is the file complete?") from None
    if not isinstance(data, dict):
        raise error(f"expected a JSON object in {path}, got {type(data).__name__}")
    return data


def spec_from_config(config: Mapping[str, Any], where: str = "config.json") -> ModelSpec:
    """Configuration in the Transformers spelling -> spec. Raises SpecError naming `where`, the key and the value."""
    _refuse_unsupported(config, where)
    heads = _int(config, "num_attention_heads", where)
    hidden = _int(config, "hidden_size", where)
    if config.get("head_dim") is None and heads > 0 and hidden % heads:
        raise SpecError(f"expected hidden_size={hidden} to be a multiple of num_attention_heads={heads} in {where}")
    try:
        return ModelSpec(
            vocab=_int(config, "vocab_size", where),
            hidden=hidden,
            layers=_int(config, "num_hidden_layers", where),
            heads=heads,
            kv_heads=_int(config, "num_key_value_heads", where, heads),
            head_dim=_int(config, "head_dim", where, hidden // max(heads, 1)),
            ffn=_int(config, "intermediate_size", where),
            rope_theta=_rope_theta(config, where),
            rms_eps=_float(config, "rms_norm_eps", where),
            tied=_bool(config, "tie_word_embeddings", where, default=False),
            context=_int(config, "max_position_embeddings", where),
            qkv_bias=_bool(config, "attention_bias", where, default=True),
        )
    except SpecError as problem:
        raise (
            problem if where in problem.message else SpecError(f"{problem.message} in {where}", problem.hint)
        ) from None


def config_from_spec(spec: ModelSpec, dtype: str = "float32", **more: Any) -> dict[str, Any]:
    """Spec -> configuration that every Transformers since 4.37 reads: the RoPE base and the dtype in both spellings."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": spec.vocab,
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "intermediate_size": spec.ffn,
        "hidden_act": "silu",
        "rms_norm_eps": spec.rms_eps,
        "rope_theta": spec.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "tie_word_embeddings": spec.tied,
        "max_position_embeddings": spec.context,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    if not spec.qkv_bias:
        config["attention_bias"] = False
    return config | more


def _refuse_unsupported(config: Mapping[str, Any], where: str) -> None:
    """Name what this forward does not compute, instead of computing something else."""
    kind = config.get("model_type")
    if kind != "qwen2":
        raise SpecError(f"expected model_type 'qwen2' in {where}, got {kind!r}", "pv runs Qwen2-type models only")
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise SpecError(f"expected hidden_act 'silu' in {where}, got {activation!r}")
    if config.get("use_sliding_window"):
        raise SpecError(f"sliding-window attention is not supported, and use_sliding_window is true in {where}")
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.get(key)
        if scaling is None:
            continue
        if not isinstance(scaling, Mapping):
            raise SpecError(f"expected a mapping for {key} in {where}, got {scaling!r}")
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "default":
            raise SpecError(f"RoPE scaling {kind!r} is not supported ({key} in {where})", "only 'default' is")


def _rope_theta(config: Mapping[str, Any], where: str) -> float:
    """The RoPE base from either spelling. No default: Transformers 4 silently takes 10000, which is a wrong model."""
    found = {
        key: _float(holder, "rope_theta", where)
        for key, holder in (("rope_theta", config), ("rope_parameters.rope_theta", config.get("rope_parameters") or {}))
        if "rope_theta" in holder
    }
    if not found:
        raise SpecError(
            f"expected rope_theta or rope_parameters.rope_theta in {where}, found neither", "add the RoPE base"
        )
    if len(set(found.values())) > 1:
        raise SpecError(f"rope_theta and rope_parameters.rope_theta disagree in {where}: {found}")
    return next(iter(found.values()))


def _int(config: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(f"expected an integer for {key} in {where}, got {config.get(key)!r}")
    return value


def _float(config: Mapping[str, Any], key: str, where: str) -> float:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"expected a number for {key} in {where}, got {value!r}")
    return float(value)


def _bool(config: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise SpecError(f"expected true or false for {key} in {where}, got {value!r}")
    return value
