"""A config and its prepared rows -> what a run will take: parameters, tokens, steps, disk, memory. Nothing is run."""

from __future__ import annotations

from dataclasses import dataclass

from pv.distill.config import DistillConfig
from pv.distill.corpus import Data
from pv.distill.student import starting_point


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes in bytes; `flops` counts the student's training: 6 per parameter and token, and causal attention."""

    parameters: int
    rows: int
    tokens: int
    steps: int
    cache_bytes: int
    checkpoint_bytes: int
    memory_bytes: int
    flops: float


def plan(config: DistillConfig, data: Data) -> Plan:
    """Count what `config` asks for. Raises ConfigError as the run itself would."""
    spec, tensors = starting_point(config, data.vocab)
    rows = len(data.part(config.train_on))
    steps = rows // config.batch_size * config.epochs
    tokens = steps * config.batch_size * config.sequence_length
    parameters = sum(tensor.numel() for tensor in tensors.values())
    per_position = 2 * data.vocab if config.cache.kind == "full" else 4 * config.cache.k + 6
    if config.cache.kind == "top" and data.vocab > 2**15:
        per_position += 2 * config.cache.k  # 32-bit indices
    attention = 6 * spec.layers * spec.q_width * config.sequence_length  # half of the square, forward and backward
    width = config.micro_batch or config.batch_size
    activations = width * config.sequence_length * spec.layers * (8 * spec.hidden + 3 * spec.ffn) * 4
    return Plan(
        parameters=parameters,
        rows=rows,
        tokens=tokens,
        steps=steps,
        cache_bytes=0 if config.alpha == 0 else rows * config.sequence_length * per_position,
        checkpoint_bytes=12 * parameters,
        memory_bytes=16 * parameters + activations + 4 * 4 * config.loss_chunk * data.vocab,
        flops=float(tokens) * (6 * parameters + attention),
    )
