"""A model that can be trained: parameters by the project's own names, through the very forward that serves tokens."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from pv.distill.config import ConfigError, DistillConfig, ShapeConfig
from pv.distill.loss import Losses, TeacherRows, distillation_loss
from pv.model.errors import ModelError, SpecError
from pv.model.forward import head, hidden_states
from pv.model.open import open_model
from pv.model.operators import TRAINING
from pv.model.rope import RopeTables
from pv.model.spec import ModelSpec
from pv.model.weights import Prepared, Weight, Weights, expected_shapes, prepare

ADAPTED = ("q", "k", "v", "attn_out", "ffn_gate", "ffn_up", "ffn_down")  # the matrices that LoRA adapts
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Student(nn.Module):
    """Parameters in float32; activations in the precision asked for; the loss in float32.

    With `lora_rank` above 0 the matrices are frozen and W + (lora_alpha / rank) B A is used in their place
    (Hu et al. 2021, arXiv:2106.09685); `merged` gives the sum, so that the result is an ordinary model.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tensors: Mapping[str, Tensor],
        *,
        precision: str = "float32",
        lora_rank: int = 0,
        lora_alpha: float = 16.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.spec, self.dtype = spec, PRECISIONS[precision]
        self._names = {_attribute(name): name for name in tensors}
        for name, tensor in tensors.items():
            frozen = lora_rank > 0
            self.register_parameter(_attribute(name), nn.Parameter(tensor.float().clone(), requires_grad=not frozen))
        self._scale = lora_alpha / lora_rank if lora_rank else 0.0
        if lora_rank:
            self._add_adapters(tensors, lora_rank, seed)
        self._rope: RopeTables | None = None

    def _add_adapters(self, tensors: Mapping[str, Tensor], rank: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in tensors.items():
            if name.rpartition(".")[2] in ADAPTED:
                rows, columns = tensor.shape
                down = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
                self.register_parameter(f"{_attribute(name)}__down", nn.Parameter(down))
                self.register_parameter(f"{_attribute(name)}__up", nn.Parameter(torch.zeros(rows, rank)))

    def merged(self) -> Iterator[tuple[str, Tensor]]:
        """(our name, tensor) of every weight, adapters added in."""
        for attribute, name in self._names.items():
            tensor = cast(Tensor, getattr(self, attribute))
            down = getattr(self, f"{attribute}__down", None)
            if down is not None:
                tensor = tensor + self._scale * (getattr(self, f"{attribute}__up") @ down)
            yield name, tensor

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, of those that learn."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def hidden(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) token ids -> hidden states after the final norm (B, S, H), and the head's matrix (V, H)."""
        ready = self._prepared(tokens, self.dtype)
        rope = self._tables(tokens, self.dtype)
        return hidden_states(ready, tokens, rope, operators=TRAINING), ready.lm_head.data

    def logits(self, tokens: Tensor) -> Tensor:
        """(B, S) -> (B, S, V), float32."""
        ready = self._prepared(tokens, self.dtype)
        states = hidden_states(ready, tokens, self._tables(tokens, self.dtype), operators=TRAINING)
        return head(ready, states, operators=TRAINING, all_positions=True).float()

    @torch.no_grad()
    def cross_entropy_sum(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Sum over all positions of the plain cross-entropy, whatever the precision of training: in float32."""
        ready = self._prepared(tokens, torch.float32)
        states = hidden_states(ready, tokens, self._tables(tokens, torch.float32), operators=TRAINING)
        return distillation_loss(
            states.flatten(0, 1),
            ready.lm_head.data,
            labels.flatten(),
            None,
            alpha=0.0,
            temperature=1.0,
            denominator=1,
        ).total

    def forward(
        self,
        tokens: Tensor,  # (B, S)
        labels: Tensor,  # (B, S), the token after each
        teacher: TeacherRows | None,
        alpha: float,
        temperature: float,
        denominator: int,
        chunk: int,
    ) -> Losses:
        """The mixed loss of these sequences, divided by the whole step's count of valid tokens."""
        states, matrix = self.hidden(tokens)
        return distillation_loss(
            states.flatten(0, 1),
            matrix,
            labels.flatten(),
            teacher,
            alpha=alpha,
            temperature=temperature,
            denominator=denominator,
            chunk=chunk,
        )

    def _prepared(self, tokens: Tensor, dtype: torch.dtype) -> Prepared:
        weights = Weights(self.spec, {name: Weight.of(name, tensor) for name, tensor in self.merged()})
        return prepare(weights, tokens.device, dtype)

    def _tables(self, tokens: Tensor, dtype: torch.dtype) -> RopeTables:
        held = self._rope
        if (
            held is None
            or held.length < tokens.shape[-1]
            or (held.cos.device, held.cos.dtype) != (tokens.device, dtype)
        ):
            self._rope = held = RopeTables.build(self.spec, tokens.shape[-1], tokens.device, dtype)
        return held


def _attribute(name: str) -> str:
    return name.replace(".", "__")


def starting_point(config: DistillConfig, vocab: int) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The student before its first step: loaded from its folder, or drawn from the seed. Raises ConfigError."""
    if isinstance(config.student, ShapeConfig):
        spec = spec_of(config.student, vocab, config.sequence_length)
        return spec, initial_tensors(spec, config.seed)
    student = load_student(config.student, "float32")
    if student.spec.vocab != vocab:
        raise ConfigError(
            f"student: expected the tokenizer's vocabulary of {vocab}, found {student.spec.vocab} in {config.student}"
        )
    return student.spec, {name: tensor.detach() for name, tensor in student.merged()}


def load_student(folder: Path, precision: str) -> Student:
    """A local model directory as a trainable model. Raises ConfigError when it is none."""
    if not folder.is_dir():
        raise ConfigError(f"expected a local model directory, found nothing at {folder}; download the model first")
    try:
        model = open_model(folder)
    except ModelError as error:
        raise ConfigError(f"{folder}: {error}") from None
    tensors = {name: weight.dense() for name, weight in model.weights.tensors.items()}
    return Student(model.spec, tensors, precision=precision)


def spec_of(shape: ShapeConfig, vocab: int, sequence_length: int) -> ModelSpec:
    """A shape from the configuration as a spec with tied embeddings. Raises ConfigError."""
    try:
        return ModelSpec(
            vocab=vocab,
            hidden=shape.hidden,
            layers=shape.layers,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim or shape.hidden // shape.heads,
            ffn=shape.ffn,
            rope_theta=shape.rope_theta,
            rms_eps=shape.rms_eps,
            tied=True,
            context=max(2048, sequence_length),
        )
    except SpecError as error:
        raise ConfigError(f"student: {error}") from None


def initial_tensors(spec: ModelSpec, seed: int) -> dict[str, Tensor]:
    """N(0, 0.02); the two matrices that write to the residual stream by 1 / sqrt(2 layers) less (GPT-2's scheme)."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in expected_shapes(spec).items():
        last = name.rpartition(".")[2]
        if last.endswith("norm"):
            tensors[name] = torch.ones(shape)
        elif last.endswith("bias"):
            tensors[name] = torch.zeros(shape)
        else:
            deep = math.sqrt(2 * spec.layers) if last in ("attn_out", "ffn_down") else 1.0
            tensors[name] = torch.randn(shape, generator=generator) * (0.02 / deep)
    return tensors


def pick_device(config: DistillConfig) -> torch.device:
    """`auto` is CUDA where there is a card. Raises ConfigError when a card is asked for and absent."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: expected a CUDA device, found none; use device: cpu")
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
