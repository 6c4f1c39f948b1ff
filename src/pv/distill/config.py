"""A YAML file and command-line overrides -> one frozen `DistillConfig`; every mistake is named with its place.

The loss follows Hinton et al. 2015; `temperature` 3.0 and `alpha` 0.7 are the customary defaults and are kept as such,
although they do not reliably beat training from scratch (docs/distillation.md has the measurements: T = 1, alpha = 0.9
does).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError


class ConfigError(Exception):
    """A setting that cannot be used. The message has one line for each mistake: file:line, setting, expected, found."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CorpusConfig(_Strict):
    """Which text, and how it is split. A whole document goes to one part, so that parts are disjoint."""

    paths: tuple[Path, ...] = Field(min_length=1)
    suffixes: tuple[str, ...] = (".txt", ".md", ".rst", ".py")
    exclude: tuple[str, ...] = ("site-packages", "/test/", "/tests/")  # parts of a path, compared with / as separator
    min_chars: PositiveInt = 200  # shorter documents say little and are mostly licence headers
    max_documents: PositiveInt | None = None
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05  # of the documents
    validation_rows: PositiveInt | None = None  # cap; the whole set is used at every validation
    student_rows: PositiveInt = (
        390  # rows of sequence_length + 1 tokens kept for the student; the teacher gets the rest
    )
    teacher_rows: PositiveInt | None = None
    seed: int = 0


class TokenizerConfig(_Strict):
    """A trained tokenizer (`path` to a tokenizer.json or a model directory), or the size of one to train."""

    path: Path | None = None
    vocab: Annotated[int, Field(ge=258)] = 1024  # 256 bytes, <eos>, <pad>
    sample_chars: PositiveInt = 40_000_000  # of the training text, to train one on; more changes little and takes long


class ShapeConfig(_Strict):
    """A Qwen2-type model to make from scratch; `head_dim` is hidden / heads unless given."""

    hidden: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    ffn: PositiveInt
    head_dim: PositiveInt | None = None
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    rms_eps: Annotated[float, Field(gt=0)] = 1e-6


class CacheConfig(_Strict):
    """How the teacher's logits are kept: `full` float16, or `top` k with their log-sum-exp and the label's logit."""

    kind: Literal["full", "top"] = "full"
    k: PositiveInt = 64
    rows_per_shard: PositiveInt = 256
    batch_rows: PositiveInt = (
        16  # rows of one teacher forward; fixed by the row's index, so a resumed run sees the same
    )


class OptimizerConfig(_Strict):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), decay on matrices only."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    clip: Annotated[float, Field(gt=0)] = 1.0
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    final_share: Annotated[float, Field(ge=0, le=1)] = 0.1  # of the peak rate, at the end of cosine
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2  # of the steps, for wsd: linear to zero


class DistillConfig(_Strict):
    """Everything `pv distill` needs; ten of these are the settings that FALSIFY-APR-DISTILL-TRAIN-010 follows."""

    teacher: Path | None = None  # needed by precompute, and by train wherever alpha is above 0
    student: Path | ShapeConfig
    output_dir: Path
    corpus: CorpusConfig
    data_dir: Path | None = None  # prepared rows and tokenizer; None: output_dir/data. Two runs may share one
    train_on: Literal["student", "teacher"] = "student"  # which part's rows; "teacher" with alpha 0 makes a teacher
    tokenizer: TokenizerConfig = TokenizerConfig()
    temperature: Annotated[float, Field(gt=0)] = 3.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.7
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 8  # sequences of one optimiser step, over all processes
    micro_batch: PositiveInt | None = None  # sequences of one forward; None: the whole step's share of a process
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    lora_rank: Annotated[int, Field(ge=0)] = 0  # 0: every weight is trained
    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    sequence_length: PositiveInt = 128
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: PositiveInt = 50  # steps
    loss_chunk: PositiveInt = 256  # tokens of logits alive at once
    cache: CacheConfig = CacheConfig()
    optimizer: OptimizerConfig = OptimizerConfig()


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> DistillConfig:
    """Read FILE, apply dotted overrides, resolve relative paths against FILE's folder. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a readable UTF-8 YAML file: {error}") from None
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            data = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not a YAML document: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(data).__name__}")
    for dotted, value in (overrides or {}).items():
        _put(data, dotted, value)
    try:
        config = DistillConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_mistakes(path, node, error))) from None
    return _anchored(config, path.resolve().parent)


def _put(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for key in parents:
        child = data.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"cannot set {dotted}: {key} is {child!r}, not a mapping")
        data = child
    data[last] = value


def _mistakes(path: Path, node: Any, error: ValidationError) -> list[str]:
    lines = []
    for mistake in error.errors(include_url=False):
        # The student is a path or a shape; pydantic names the branch in the place, where the file has no such key.
        names = [str(part) for part in mistake["loc"] if part not in ("ShapeConfig", "path")]
        line = _line_of(node, [part for part in mistake["loc"] if part not in ("ShapeConfig", "path")])
        found = "" if mistake["type"] == "missing" else f", found {mistake['input']!r}"
        text = f"{path}:{line}: {'.'.join(names)}: {mistake['msg']}{found}"
        if text not in lines:
            lines.append(text)
    return lines


def _line_of(node: Any, loc: list[Any]) -> int:
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _anchored(config: DistillConfig, folder: Path) -> DistillConfig:
    def place(path: Path) -> Path:
        return Path(path).expanduser() if Path(path).expanduser().is_absolute() else folder / path

    for name in ("teacher", "student"):
        if ":/" in str(getattr(config, name)):
            raise ConfigError(
                f"{name}: expected a local model directory, found {getattr(config, name)}; download it first"
            )
    return config.model_copy(
        update={
            "teacher": place(config.teacher) if config.teacher else None,
            "data_dir": place(config.data_dir) if config.data_dir else place(config.output_dir) / "data",
            "output_dir": place(config.output_dir),
            "student": config.student if isinstance(config.student, ShapeConfig) else place(config.student),
            "corpus": config.corpus.model_copy(update={"paths": tuple(place(p) for p in config.corpus.paths)}),
            "tokenizer": config.tokenizer.model_copy(
                update={"path": place(config.tokenizer.path) if config.tokenizer.path else None}
            ),
        }
    )
