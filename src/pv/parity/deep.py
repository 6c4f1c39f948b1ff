"""What a start gate cannot cover: fixed prompts across tile edges, sixteen steps, every stage on its own, and
sentinels.

Three questions to a session. Lockstep: do the logits of prompts of 1, 17, 65 and 257 tokens and of one repeated token
stay within bounds for sixteen steps? Local: given the reference's own input, does every stage compute its function?
(Each stage's output is replaced by the reference's before the next one reads it, so nothing is inherited; this sees
TF32, which the logits hide. It is asked once more with a faint embedding, or an epsilon would not show.) Sentinels:
did a kernel write outside its tensor? All of it at the model's own widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from pv.backends.protocol import Session
from pv.compare.metrics import ShapeError, compare
from pv.compare.thresholds import THRESHOLDS, Kind, Row, breaches
from pv.model.spec import ModelSpec
from pv.model.stages import Stage
from pv.parity.gate import PATIENCE, Verdict, kind_of, lockstep, reference_logits

LENGTHS = (1, 17, 65, 257)  # across a workgroup, a block of 32, a tile of 64, and the first growth of a cache
STEPS = 16
LOCAL_LENGTH = 17
STAGE_TOKENS = 8  # of a prompt, its last ones, when a start gate compares every stage
Progress = Callable[[int, int, str], None]


class Case(NamedTuple):
    """A fixed prompt, and what the reference answered to it: logits (V,) of each step."""

    name: str
    tokens: tuple[int, ...]
    logits: tuple[np.ndarray, ...]


Tensors = dict[tuple[Stage, "int | None"], np.ndarray]


@dataclass(frozen=True, slots=True)
class Reference:
    """All that the deep check asks of the CPU, recorded once; it can judge any number of sessions."""

    spec: ModelSpec
    cases: tuple[Case, ...]
    local_tokens: tuple[int, ...]
    prefill: Tensors  # every stage of a prefill of `local_tokens`
    decode: Tensors  # and of one decode step after it
    faint: Tensors  # and of a prefill whose embedding is a thousandth: there an epsilon shows
    next_token: int


class LocalError(NamedTuple):
    """The error of one stage whose inputs were the reference's own; `broken` says which bound it breaks."""

    where: str  # prefill, decode or faint
    stage: Stage
    layer: int | None
    rel_l2: float
    broken: str

    def __str__(self) -> str:
        place = f"{self.stage} of layer {self.layer}" if self.layer is not None else str(self.stage)
        return f"{self.where}: {place}: {self.broken} (its inputs were the CPU's own)"


@dataclass(frozen=True, slots=True)
class DeepVerdict:
    """What the deep check came to; `reasons` are lines, empty when accepted."""

    cases: tuple[tuple[str, Verdict], ...]
    local: tuple[LocalError, ...]
    damaged: tuple[str, ...]
    reasons: tuple[str, ...]
    guarded: bool  # whether there were sentinels to look at

    @property
    def accepted(self) -> bool:
        """Whether nothing was found."""
        return not self.reasons

    def worst_local(self) -> dict[Stage, float]:
        """The largest local error of each stage."""
        worst: dict[Stage, float] = {}
        for error in self.local:
            worst[error.stage] = max(error.rel_l2, worst.get(error.stage, 0.0))
        return worst

    def as_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "accepted": self.accepted,
            "reasons": list(self.reasons),
            "guarded": self.guarded,
            "damaged": list(self.damaged),
            "worst_local_rel_l2": {stage.value: value for stage, value in self.worst_local().items()},
            "cases": {
                name: {"accepted": v.accepted, "reason": v.reason, "steps": [s.as_json() for s in v.steps]}
                for name, v in self.cases
            },
        }


def prompts(spec: ModelSpec, steps: int = STEPS) -> dict[str, tuple[int, ...]]:
    """The fixed prompts that fit the model's context, by name. Token ids depend on the length and the vocabulary
    alone.
    """
    room = spec.context - steps
    fixed = {f"{length} tokens": _tokens(length, spec.vocab) for length in LENGTHS if length <= room}
    return fixed | {"one token 33 times": (_tokens(1, spec.vocab)[0],) * min(33, room)}


def record(session: Session, steps: int = STEPS, progress: Progress = lambda *_: None) -> Reference:
    """Ask the reference session everything once."""
    spec, cases = session.spec, []
    fixed = prompts(spec, steps)
    for number, (name, tokens) in enumerate(fixed.items()):
        progress(number, len(fixed) + 1, f"CPU reference, {name}")
        cases.append(Case(name, tokens, tuple(reference_logits(session, tokens, steps))))
    progress(len(fixed), len(fixed) + 1, "CPU reference, every stage")
    tokens = _tokens(min(LOCAL_LENGTH, spec.context - 1), spec.vocab)
    prefill, decode, faint = _Collector(), _Collector(), _Collector()
    session.reset()
    token = int(np.argmax(session.prefill(tokens, tap=prefill)))
    session.decode(token, tap=decode)
    session.reset()
    session.prefill(tokens, tap=faint, graft=_fainter)
    session.reset()
    return Reference(spec, tuple(cases), tokens, prefill.tensors, decode.tensors, faint.tensors, token)


def record_stages(session: Session, tokens: Sequence[int]) -> Reference:
    """Ask the reference session for the stages of a prompt's last tokens and of one step behind them, and no more."""
    tokens = tokens[-min(STAGE_TOKENS, session.spec.context - 1) :]
    prefill, decode = _Collector(), _Collector()
    session.reset()
    token = int(np.argmax(session.prefill(tokens, tap=prefill)))
    session.decode(token, tap=decode)
    session.reset()
    return Reference(session.spec, (), tuple(tokens), prefill.tensors, decode.tensors, {}, token)


def deep(
    test: Session,
    reference: Reference,
    *,
    kind: Kind | None = None,
    patience: float = PATIENCE,
    to_the_end: bool = True,
) -> DeepVerdict:
    """Judge a session. `to_the_end=False` stops at the first reason. Never raises what the session raises."""
    kind = kind or kind_of(test.facts)
    found: list[str] = []
    cases: list[tuple[str, Verdict]] = []
    local: tuple[LocalError, ...] = ()
    damaged: tuple[str, ...] = ()
    guarded = bool(getattr(test, "guarded", False))
    for case in reference.cases:
        verdict = lockstep(iter(case.logits), test, case.tokens, len(case.logits), kind=kind, patience=patience)
        cases.append((case.name, verdict))
        if verdict.reason:
            found.append(f"prompt of {case.name}: {verdict.reason}")
        if found and not to_the_end:
            return DeepVerdict(tuple(cases), local, damaged, tuple(found), guarded)
    try:
        local = local_errors(test, reference, THRESHOLDS[kind])
        found += [str(error) for error in local if error.broken]
        if guarded:
            damaged = tuple(test.damaged())  # type: ignore[attr-defined]  # a guarded session has it
            found += [f"written outside its tensor: {place}" for place in damaged]
            test.reset()
    except Exception as problem:  # whatever a backend raises is a reason
        found.append(f"error in the check of single stages: {type(problem).__name__}: {problem}")
    return DeepVerdict(tuple(cases), local, damaged, tuple(found), guarded)


def with_stages(verdict: Verdict, test: Session, stages: Callable[[], Reference]) -> Verdict:
    """A verdict over int8 codes that accepted, tried once more stage by stage, each with the CPU's own inputs.

    One code on the other side of a half moves logits as far as a small defect does, so logits alone tell the two apart
    badly. With equal inputs the codes are equal, and what is left is float32's own rounding. Verdicts of other kinds
    are handed back as they are; `stages` is asked only when needed.
    """
    if verdict.kind is not Kind.QUANT_SAME or not verdict.accepted:
        return verdict
    found = deep(test, stages(), kind=verdict.kind)
    test.reset()
    return verdict if found.accepted else replace(verdict, accepted=False, reason=found.reasons[0])


def local_errors(test: Session, reference: Reference, row: Row) -> tuple[LocalError, ...]:
    """Every stage's own error, in computation order: its inputs are the reference's, by grafting every output."""
    found: list[LocalError] = []
    if reference.faint:
        test.reset()
        test.prefill(reference.local_tokens, graft=_Grafter("faint", reference.faint, row, found))
    test.reset()
    test.prefill(reference.local_tokens, graft=_Grafter("prefill", reference.prefill, row, found))
    test.decode(reference.next_token, graft=_Grafter("decode", reference.decode, row, found))
    return tuple(found)


def _fainter(stage: Stage, _layer: int | None, made: Any) -> Any:
    return made * 2.0**-10 if stage is Stage.EMBEDDING else made


class _Collector:
    """A tap that keeps everything."""

    def __init__(self) -> None:
        self.tensors: Tensors = {}

    def wants(self, stage: Stage, layer: int | None) -> bool:
        return True

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        self.tensors[stage, layer] = values


class _Grafter:
    """Judges what a stage made and hands the reference's tensor on."""

    def __init__(self, where: str, expected: Tensors, row: Row, found: list[LocalError]) -> None:
        self._where, self._expected, self._row, self._found = where, expected, row, found

    def __call__(self, stage: Stage, layer: int | None, made: Any) -> Any:
        expected = self._expected[stage, layer]
        if not (self._where == "faint" and stage is Stage.EMBEDDING):  # what was made faint is no error
            self._found.append(self._judge(stage, layer, _as_numpy(made), expected))
        return _like(made, expected)

    def _judge(self, stage: Stage, layer: int | None, made: np.ndarray, expected: np.ndarray) -> LocalError:
        try:
            metrics = compare(made, expected)
        except ShapeError as problem:
            return LocalError(self._where, stage, layer, float("nan"), str(problem))
        broken = "; ".join(str(breach) for breach in breaches(self._row, stage, metrics, local=True))
        return LocalError(self._where, stage, layer, metrics.rel_l2, broken)


def _as_numpy(values: Any) -> np.ndarray:
    """A torch tensor of any device, or an array, as contiguous float32 on the host."""
    host = values.detach().float().cpu().numpy() if hasattr(values, "detach") else values
    return np.ascontiguousarray(host, np.float32)


def _like(made: Any, expected: np.ndarray) -> Any:
    """The reference's tensor as the kind of thing that was made: a torch tensor of its device and type, or an array."""
    if not hasattr(made, "detach"):
        return expected
    import torch

    return torch.from_numpy(expected.copy()).to(device=made.device, dtype=made.dtype)


def _tokens(length: int, vocab: int) -> tuple[int, ...]:
    """Fixed token ids: a linear congruential sequence, so that no library's generator is part of the definition."""
    return tuple(_sequence(length, vocab))


def _sequence(length: int, vocab: int) -> Iterator[int]:
    state = 0x9E3779B9 ^ length
    for _ in range(length):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        yield (state >> 33) % vocab


def summary(verdict: DeepVerdict) -> Sequence[str]:
    """Lines for a person."""
    lines = [
        f"prompt of {name}: {'accepted' if v.accepted else 'REJECTED'}, lowest cosine {v.worst_cosine:.9f}, "
        f"{len(v.steps)}/{v.asked} steps{f', {v.near_ties} near ties' if v.near_ties else ''}"
        for name, v in verdict.cases
    ]
    worst = sorted(verdict.worst_local().items(), key=lambda item: -item[1])[:3]
    lines.append("largest local errors: " + ", ".join(f"{stage} {value:.2g}" for stage, value in worst))
    lines.append(
        "sentinels: "
        + ("none here" if not verdict.guarded else f"{len(verdict.damaged)} damaged" if verdict.damaged else "whole")
    )
    return lines + [f"reason: {reason}" for reason in verdict.reasons]
