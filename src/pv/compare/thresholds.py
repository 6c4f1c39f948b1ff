"""The one table of what two forwards may differ by, a row for each kind of comparison.

The figures are those of the parity study behind this project (honest float32 products stand at 4e-7 to 1.2e-6 relative
L2, TF32 at 3e-4), confirmed by our own float64 envelope and by planted defects. Contracts state the figures they rely
on, and a check holds the two equal; nothing else in the engine has a tolerance of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import isnan
from types import MappingProxyType
from typing import NamedTuple

from pv.compare.metrics import LogitMetrics, TensorMetrics
from pv.model.stages import Stage


class Kind(StrEnum):
    """What is compared with what."""

    SHADOW = "A"  # our CPU float32 forward with its own float64 shadow
    ORACLE = "B"  # our CPU float32 forward with Transformers' Qwen2, float32, eager
    CUDA = "C"  # CUDA float32, TF32 off, with our CPU float32
    WGPU = "D"  # wgpu float32 with our CPU float32
    HALF = "E"  # a float16 or bfloat16 forward with float32
    QUANT_KERNEL = "F1"  # a quantized product with the same weights dequantized to float32
    QUANT_LOSS = "F2"  # quantized weights with the float32 weights they came from
    QUANT_SAME = "F3"  # the quantized product of a GPU with the CPU's, on the same blocks
    RERUN = "G"  # the same backend twice
    BATCH = "H"  # batch of one with a batch of many; prefill with decode


@dataclass(frozen=True, slots=True)
class StageBounds:
    """Largest accepted figures of a stage's worst position; None: not judged."""

    rel_l2: float | None = None
    linf_rel: float | None = None


@dataclass(frozen=True, slots=True)
class LogitBounds:
    """Bounds of the last position's logits. `max_abs` and `kl` from above, `cosine` from below; None: not judged."""

    max_abs: float | None = None
    warn_abs: float | None = None  # worth a word, no failure
    kl: float | None = None
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of comparison.

    `local`: error of one stage whose inputs were equal. `cumulative`: error of a stage in a whole forward. `margin`: a
    different token is a near tie only when the reference's first logit leads its second by less. `envelope`: largest
    accepted ratio of the error to float32's own rounding, measured against float64. `local_at`: stages with a bound of
    their own, each for a reason stated beside it.
    """

    kind: Kind
    title: str
    local: StageBounds
    cumulative: StageBounds
    logits: LogitBounds
    margin: float | None
    envelope: float | None = None
    bitwise: bool = False
    local_at: Mapping[Stage, StageBounds] = field(default_factory=dict)

    def bounds(self, stage: Stage | None, *, local: bool) -> StageBounds:
        """What holds for a stage."""
        return self.local_at.get(stage, self.local) if local and stage is not None else self.cumulative


# WGSL lets exp and inverseSqrt err by a few units in the last place more than IEEE operations.
_TRANSCENDENTAL = (Stage.ATTN_NORM, Stage.FFN_NORM, Stage.FINAL_NORM, Stage.ATTN_SOFTMAX, Stage.FFN_SILU)

_CUDA = Row(
    Kind.CUDA,
    "CUDA float32 (TF32 off) against CPU float32",
    local=StageBounds(rel_l2=1e-5),
    cumulative=StageBounds(rel_l2=1e-3),
    logits=LogitBounds(max_abs=5e-3, kl=1e-5, cosine=0.99999),
    margin=1e-2,
    envelope=5.0,
)
# Both sides round activations to int8. Where their float32 inputs differ in the last bit, a code now and then falls on
# the other side of a half; that one code moves every later tensor of its position. So a stage whose inputs are equal is
# held to what float32 is held to, and a whole forward to what such codes were seen to do: the trained teacher against
# its own float64 run on the same blocks (Q4_K, Q6_K, Q8_0; 7,554 positions) came to max_abs 0.16, KL 1.5e-4,
# 1 - cosine 1.4e-3, relative L2 0.066 at worst, and first tokens moved where they lay 0.002 apart; a driver in software
# against the CPU (Q4_K_M, 300 steps) came to KL 9.3e-4.
_QUANT_SAME = Row(
    Kind.QUANT_SAME,
    "the quantized product of a GPU against the CPU's, on the same blocks",
    local=StageBounds(rel_l2=1e-5),
    cumulative=StageBounds(rel_l2=0.1),
    logits=LogitBounds(max_abs=0.3, kl=5e-3, cosine=0.995),
    margin=0.2,
    local_at=dict.fromkeys(_TRANSCENDENTAL, StageBounds(rel_l2=1e-4)),
)
_BITWISE = Row(
    Kind.RERUN,
    "the same backend twice",
    local=StageBounds(0.0, 0.0),
    cumulative=StageBounds(0.0, 0.0),
    logits=LogitBounds(max_abs=0.0),
    margin=0.0,
    bitwise=True,
)

THRESHOLDS: Mapping[Kind, Row] = MappingProxyType(
    {
        Kind.SHADOW: Row(
            Kind.SHADOW,
            "CPU float32 against its own float64 shadow",
            local=StageBounds(rel_l2=5e-6),
            cumulative=StageBounds(rel_l2=1e-4),
            logits=LogitBounds(max_abs=1e-3),
            margin=0.0,
        ),
        Kind.ORACLE: Row(
            Kind.ORACLE,
            "CPU float32 against Transformers' Qwen2, float32, eager",
            local=StageBounds(rel_l2=5e-6),
            cumulative=StageBounds(rel_l2=1e-4, linf_rel=1e-3),
            logits=LogitBounds(max_abs=1e-3, warn_abs=1e-4, kl=1e-6),
            margin=2e-3,
        ),
        Kind.CUDA: _CUDA,
        Kind.WGPU: Row(
            Kind.WGPU,
            "wgpu float32 against CPU float32",
            local=StageBounds(rel_l2=1e-5),
            cumulative=StageBounds(rel_l2=3e-3),
            logits=LogitBounds(max_abs=1e-2, kl=1e-4, cosine=0.9999),
            margin=2e-2,
            local_at=dict.fromkeys(_TRANSCENDENTAL, StageBounds(rel_l2=1e-4)),
        ),
        # A half-precision forward is held to the CPU's forward in the same type (`envelope` bounds that ratio), not to
        # a distance from float32, which depends on the depth of the model.
        Kind.HALF: Row(
            Kind.HALF,
            "float16 or bfloat16 against float32",
            local=StageBounds(),
            cumulative=StageBounds(),
            logits=LogitBounds(kl=1e-3),
            margin=None,
            envelope=1.5,
        ),
        Kind.QUANT_KERNEL: replace(
            _CUDA, kind=Kind.QUANT_KERNEL, title="a quantized product against the same weights dequantized"
        ),
        Kind.QUANT_LOSS: Row(
            Kind.QUANT_LOSS,
            "quantized weights against the float32 weights they came from",
            local=StageBounds(),
            cumulative=StageBounds(),  # reported as a signal-to-noise ratio, not judged
            logits=LogitBounds(),  # judged over a text by `pv kld`
            margin=None,
        ),
        Kind.QUANT_SAME: _QUANT_SAME,
        Kind.RERUN: _BITWISE,
        Kind.BATCH: replace(
            _CUDA,
            kind=Kind.BATCH,
            title="a batch of one against many; prefill against decode",
            logits=LogitBounds(max_abs=5e-3),
        ),
    }
)

# Mean KL divergence over a text that a quantization may cost, and the lowest share of equal first tokens.
QUANT_LOSS_KL: Mapping[str, float] = MappingProxyType(
    {"Q8_0": 1e-3, "Q5_K": 2e-2, "Q4_K": 5e-2, "Q4_0": 5e-2, "Q3_K": 0.2}
)
QUANT_LOSS_TOP1: Mapping[str, float] = MappingProxyType({"Q8_0": 0.985, "Q5_K": 0.95, "Q4_K": 0.90, "Q4_0": 0.90})


@dataclass(frozen=True, slots=True)
class Side:
    """What is known of one side of a comparison."""

    source: str  # "pv" or "hf"
    backend: str  # "cpu", "cuda", "wgpu"
    dtype: str  # in which it computed
    quantized: bool
    digest: str  # of the model


def kind_between(reference: Side, test: Side) -> Kind:
    """The row that judges `test` against `reference`."""
    if reference.quantized != test.quantized:
        return Kind.QUANT_LOSS if reference.digest != test.digest else Kind.QUANT_KERNEL
    for side, other in ((reference, test), (test, reference)):
        if side.dtype in {"float16", "bfloat16"} and side.dtype != other.dtype:
            return Kind.HALF
    if "float64" in {reference.dtype, test.dtype}:
        return Kind.SHADOW
    if reference.source != test.source:
        return Kind.ORACLE
    backends = {reference.backend, test.backend}
    if reference.quantized and len(backends) > 1:
        return Kind.QUANT_SAME
    if "wgpu" in backends and len(backends) > 1:
        return Kind.WGPU
    return Kind.CUDA if len(backends) > 1 else Kind.RERUN


class Breach(NamedTuple):
    """A figure beyond its bound."""

    figure: str
    value: float
    op: str  # how the value should have stood to the bound
    bound: float

    def __str__(self) -> str:
        return f"{self.figure} {self.value:.3g}, expected {self.op} {self.bound:g}"


def breaches(
    row: Row, stage: Stage | None, found: TensorMetrics, logits: LogitMetrics | None = None, *, local: bool = False
) -> tuple[Breach, ...]:
    """Every bound of a row that a tensor breaks. NaN breaks all of them, unless bits are what is compared.

    `local`: the stage's inputs were equal. Otherwise lm_head is judged by the bounds of logits, `logits` given.
    """
    if found.identical and (row.bitwise or not found.nonfinite.nan_reference):
        return ()
    if row.bitwise:
        return (Breach("difference", found.max_abs, "==", 0.0),)
    bounds = row.bounds(stage, local=local)
    judged = list(_broken(found))
    if stage is not Stage.LM_HEAD or logits is None or local:
        judged += [("rel_l2", found.rel_l2, "<=", bounds.rel_l2), ("linf_rel", found.linf_rel, "<=", bounds.linf_rel)]
    else:
        judged += [
            ("max_abs", found.max_abs, "<=", row.logits.max_abs),
            ("kl", logits.kl, "<=", row.logits.kl),
            ("cosine", found.cosine, ">=", row.logits.cosine),
        ]
        if row.margin is not None and not logits.top1_equal:
            judged.append(("margin of another first token", logits.margin, "<=", row.margin))
    return tuple(
        Breach(name, value, op, bound)
        for name, value, op, bound in judged
        if bound is not None and _fails(value, op, bound)
    )


class Rule(NamedTuple):
    """A tolerance for tensors whose whole name matches."""

    pattern: re.Pattern[str]
    bounds: Mapping[str, float]  # figure -> largest accepted value


FIGURES = ("rel_l2", "linf_rel", "max_abs", "rms", "cosine_loss")
_RULE = re.compile(rf"(.+)=((?:{'|'.join(FIGURES)})<=.*)")


def parse_rule(text: str) -> Rule:
    """`layer-.*/ffn_.*=rel_l2<=1e-4,max_abs<=0.01` -> Rule. Raises ValueError saying what is off."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"expected PATTERN=FIGURE<=NUMBER[,…] such as 'layer-.*=rel_l2<=1e-4', got {text!r}; "
            f"figures are {', '.join(FIGURES)}"
        )
    pattern, bounds = match.groups()
    parsed = {}
    for part in bounds.split(","):
        figure, _, number = part.partition("<=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if figure.strip() not in FIGURES or isnan(value) or value < 0:
            raise ValueError(f"expected FIGURE<=NUMBER with a figure of {', '.join(FIGURES)}, got {part!r} in {text!r}")
        parsed[figure.strip()] = value
    try:
        return Rule(re.compile(pattern), parsed)
    except re.error as error:
        raise ValueError(f"expected a regular expression in {text!r}: {error}") from None


class UnmatchedError(ValueError):
    """A tensor that no tolerance names. A forgotten tensor is not an accepted one."""


def breaches_of_rules(rules: Sequence[Rule], name: str, found: TensorMetrics) -> tuple[Breach, ...]:
    """What the first rule that matches the whole name says. Raises UnmatchedError when none does."""
    rule = next((rule for rule in rules if rule.pattern.fullmatch(name)), None)
    if rule is None:
        patterns = ", ".join(repr(rule.pattern.pattern) for rule in rules)
        raise UnmatchedError(
            f"no tolerance matches {name!r}; the patterns are {patterns}; '.*' at the end matches the rest"
        )
    judged: Iterable[tuple[str, float, str, float | None]] = [
        *_broken(found),
        *((figure, float(getattr(found, figure)), "<=", bound) for figure, bound in rule.bounds.items()),
    ]
    return tuple(
        Breach(name, value, op, bound)
        for name, value, op, bound in judged
        if bound is not None and _fails(value, op, bound)
    )


def _broken(found: TensorMetrics) -> Iterator[tuple[str, float, str, float | None]]:
    """What no tolerance accepts."""
    odd = found.nonfinite
    yield "NaN", float(odd.nan_test + odd.nan_reference), "==", 0.0
    yield "masks that disagree", float(odd.disagree), "==", 0.0


def _fails(value: float, op: str, bound: float) -> bool:
    """Whether `value op bound` does not hold; NaN never holds."""
    holds = {"<=": value <= bound, ">=": value >= bound, "==": value == bound}[op]
    return not holds
