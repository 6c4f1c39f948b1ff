"""Planted defects and healthy prompts -> the power of the gate: what each metric at each threshold would have caught.

For every defect that makes sense on a backend: a lockstep on the prompt, measured to its end, the start gate's
verdict and the deep check's. For the healthy backend: the start gate over many prompts, its false alarms, and how
many there may be in the long run with 95 % confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan, sqrt
from typing import Any, NamedTuple

import numpy as np

from pv.backends.cpu import open_cpu
from pv.backends.protocol import BackendError, DeviceFacts, Session
from pv.backends.registry import opener
from pv.compare.thresholds import THRESHOLDS, Kind
from pv.model.weights import Weights
from pv.parity.deep import DeepVerdict, Reference, deep, record, record_stages, with_stages
from pv.parity.defects import DEFECTS, Defect
from pv.parity.gate import STEPS, Verdict, kind_of, lockstep, probe, reference_logits, reference_weights

COSINES = (0.95, 0.98, 0.99)
Z95 = 1.959963984540054  # of the normal distribution, two-sided
Progress = Callable[[int, int, str], None]


class Figures(NamedTuple):
    """The worst figures over the steps of one lockstep; NaN where nothing was measured."""

    cosine: float
    max_abs: float
    kl: float
    other_tokens: int  # steps with another first token
    failed: bool  # an error, a time-out, or logits that are not finite


@dataclass(frozen=True, slots=True)
class Row:
    """One defect on one backend."""

    defect: str
    title: str
    figures: Figures
    start: str  # the start gate's reason, "" when it accepted
    deep: str  # the deep check's first reason, "" when it accepted
    deep_by: tuple[str, ...]  # which parts of the deep check saw it: lockstep, stages, sentinels
    kind: Kind

    def caught(self) -> dict[str, bool]:
        """Metric at threshold -> whether it would have caught the defect."""
        f, bounds = self.figures, THRESHOLDS[self.kind].logits
        table = {f"cosine<{bound}": not f.cosine >= bound for bound in COSINES}
        table[f"cosine<{bounds.cosine}"] = not f.cosine >= (bounds.cosine or 0.0)
        table["argmax"] = f.other_tokens > 0 or f.failed
        table[f"max_abs>{bounds.max_abs}"] = not f.max_abs <= (bounds.max_abs or float("inf"))
        table[f"KL>{bounds.kl}"] = not f.kl <= (bounds.kl or float("inf"))
        return table

    @property
    def by(self) -> str:
        """`start`, `deep` (only), or `neither`."""
        return "start" if self.start else "deep" if self.deep else "neither"


@dataclass(frozen=True, slots=True)
class Healthy:
    """False alarms of the start gate over prompts of a healthy backend."""

    prompts: int
    alarms: tuple[str, ...]
    near_ties: int
    lowest_cosine: float
    largest_max_abs: float
    largest_kl: float

    @property
    def bound(self) -> float:
        """Upper end of the two-sided 95 % Wilson interval of the false alarm rate."""
        return wilson(len(self.alarms), self.prompts)[1]

    @property
    def rule_of_three(self) -> float | None:
        """3 / n: the 95 % bound when there was no alarm; None otherwise."""
        return None if self.alarms or not self.prompts else 3 / self.prompts


@dataclass(frozen=True, slots=True)
class Power:
    """All that was measured on one backend."""

    facts: DeviceFacts
    kind: Kind
    steps: int
    tokens: int
    healthy_deep: DeepVerdict
    rows: tuple[Row, ...]
    healthy: Healthy

    def as_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "backend": self.facts.backend,
            "device_class": self.facts.device_class,
            "adapter": self.facts.name,
            "driver": self.facts.driver,
            "kind": self.kind.value,
            "steps": self.steps,
            "prompt_tokens": self.tokens,
            "healthy_deep": self.healthy_deep.as_json(),
            "defects": [
                {
                    "defect": row.defect,
                    "title": row.title,
                    "figures": {n: _plain(v) for n, v in row.figures._asdict().items()},
                    "caught": row.caught(),
                    "start_gate": row.start,
                    "deep_check": row.deep,
                    "deep_by": list(row.deep_by),
                    "by": row.by,
                }
                for row in self.rows
            ],
            "healthy": {
                "prompts": self.healthy.prompts,
                "false_alarms": list(self.healthy.alarms),
                "near_ties": self.healthy.near_ties,
                "wilson_95": self.healthy.bound,
                "rule_of_three": self.healthy.rule_of_three,
                "lowest_cosine": _plain(self.healthy.lowest_cosine),
                "largest_max_abs": _plain(self.healthy.largest_max_abs),
                "largest_kl": _plain(self.healthy.largest_kl),
            },
        }


class Bench(NamedTuple):
    """What every defect of one model is measured against, recorded once."""

    weights: Weights
    prompt: tuple[int, ...]
    steps: int
    logits: tuple[np.ndarray, ...]  # of the CPU, for each step
    reference: Reference  # of the deep check
    stages: Reference  # of the prompt's last tokens, for a session that multiplies blocks


def bench(weights: Weights, prompt: Sequence[int], steps: int = STEPS, progress: Progress = lambda *_: None) -> Bench:
    """Ask the CPU everything once."""
    tokens = probe(prompt)
    cpu = open_cpu(weights)
    try:
        logits = tuple(reference_logits(cpu, tokens, steps))
        return Bench(weights, tuple(tokens), steps, logits, record(cpu, progress=progress), record_stages(cpu, tokens))
    finally:
        cpu.close()


def measure(backend: str, on: Bench, defect: Defect, device: str = "cuda", kind: Kind = Kind.CUDA) -> Row:
    """Plant one defect and see who notices. A backend that cannot even open with it has failed, which the gate sees.

    `kind`: of the healthy session, whose bounds a session that does not open is shown with.
    """
    try:
        test = defect.open(backend, on.weights, device=device)
    except Exception as problem:
        line = f"unavailable: {problem}"
        return Row(defect.name, defect.title, _figures(()), line, line, ("lockstep",), kind)
    kind = kind_of(test.facts)
    try:
        verdict = lockstep(iter(on.logits), test, on.prompt, on.steps, to_the_end=True)
        verdict = with_stages(verdict, test, lambda: on.stages)
    finally:
        test.close()
    found = deep_with(backend, on, defect, device)
    parts = {"prompt of": "lockstep", "written": "sentinels"}
    seen = {next((part for start, part in parts.items() if r.startswith(start)), "stages") for r in found.reasons}
    return Row(
        defect.name,
        defect.title,
        _figures(verdict.steps),
        verdict.reason,
        found.reasons[0] if found.reasons else "",
        tuple(sorted(seen)),
        kind,
    )


def deep_with(backend: str, on: Bench, defect: Defect | None, device: str = "cuda") -> DeepVerdict:
    """The deep check of a session with a defect, or of a healthy one; with sentinels where the backend has them."""
    test = (
        defect.open(backend, on.weights, device=device, guard=True) if defect else _healthy(backend, on, device, True)
    )
    try:
        return deep(test, on.reference)
    finally:
        test.close()


def power(
    backend: str,
    on: Bench,
    prompts: Sequence[Sequence[int]],
    *,
    device: str = "cuda",
    names: Sequence[str] = (),
    progress: Progress = lambda *_: None,
) -> Power:
    """Everything on one backend. `names`: only these defects. Raises BackendError when the backend is not there."""
    test = _healthy(backend, on, device, False)
    facts, kind = test.facts, kind_of(test.facts)
    defects = [d for d in DEFECTS.values() if backend in d.backends and (not names or d.name in names)]
    defects = [d for d in defects if not (d.card_only and facts.device_class != "cuda")]
    total = len(defects) + len(prompts)
    try:
        healthy = false_alarms(test, on.weights, prompts, on.steps, lambda done, what: progress(done, total, what))
    finally:
        test.close()
    rows = []
    for number, defect in enumerate(defects):
        progress(len(prompts) + number, total, defect.name)
        rows.append(measure(backend, on, defect, device, kind))
    return Power(facts, kind, on.steps, len(on.prompt), deep_with(backend, on, None, device), tuple(rows), healthy)


def false_alarms(
    test: Session,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    steps: int = STEPS,
    progress: Callable[[int, str], None] = lambda *_: None,
) -> Healthy:
    """The start gate over many prompts of one healthy session."""
    cpu = open_cpu(reference_weights(weights, test.facts))
    verdicts: list[Verdict] = []
    try:
        for number, prompt in enumerate(prompts):
            progress(number, "healthy prompts")
            tokens = probe(prompt)
            verdict = lockstep(reference_logits(cpu, tokens, steps), test, tokens, steps)
            verdicts.append(with_stages(verdict, test, lambda: record_stages(cpu, tokens)))  # noqa: B023 - called here
    finally:
        cpu.close()
    figures = [_figures(verdict.steps) for verdict in verdicts]
    nan = float("nan")
    return Healthy(
        prompts=len(verdicts),
        alarms=tuple(f"prompt {n}: {v.reason}" for n, v in enumerate(verdicts) if not v.accepted),
        near_ties=sum(v.near_ties for v in verdicts),
        lowest_cosine=min((f.cosine for f in figures), default=nan),
        largest_max_abs=max((f.max_abs for f in figures), default=nan),
        largest_kl=max((f.kl for f in figures), default=nan),
    )


def healthy_prompts(count: int, vocab: int, encode: Callable[[str], Sequence[int]] | None = None) -> list[list[int]]:
    """`count` different prompts: sums and sentences where there is a tokenizer, and fixed random ids of 1 to 64
    tokens.
    """
    random = np.random.default_rng(20)
    found: list[list[int]] = []
    for number in range(count):
        if encode is not None and number % 2 == 0:
            a, b = random.integers(0, 100, 2)
            found.append(list(encode(_TEXTS[(number // 2) % len(_TEXTS)].format(a=a, b=b, n=number))))
        else:
            found.append([int(token) for token in random.integers(0, vocab, int(random.integers(1, 65)))])
    return found


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Two-sided 95 % interval of a rate (Wilson 1927); (0, 1) for no trials."""
    if trials < 1:
        return 0.0, 1.0
    rate, z2 = hits / trials, Z95 * Z95
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    return max(0.0, centre - half) if hits else 0.0, min(1.0, centre + half) if hits < trials else 1.0


_TEXTS = (
    "What is {a}+{b}?",
    "{a} + {b} equals",
    "Prompt number {n}: a claim is only as good as the attempt to break it.",
    "def add(a={a}, b={b}):",
    "The temperature rose from {a} to {b} degrees.",
)


def _healthy(backend: str, on: Bench, device: str, guard: bool) -> Session:
    if backend == "wgpu":
        from pv.backends.wgpu_session import open_wgpu

        return open_wgpu(on.weights, guard=guard)
    if backend == "cuda":
        from pv.backends.cuda import open_cuda

        return open_cuda(on.weights, device=device)
    if backend == "cpu":
        return opener("cpu")(on.weights)
    raise BackendError(backend, "has no gate to measure", "cuda or wgpu")


def _figures(steps: Sequence[Any]) -> Figures:
    """The worst over steps; a NaN anywhere is the worst of all."""
    flips = [s.flip for s in steps if s.flip is not None]
    return Figures(
        cosine=_worst(min, (s.cosine for s in steps)),
        max_abs=_worst(max, (s.max_abs for s in steps)),
        kl=_worst(max, (s.kl for s in steps)),
        other_tokens=sum(1 for flip in flips if flip.reference != flip.test),
        failed=not steps or any(isnan(s.cosine) for s in steps),
    )


def _worst(pick: Callable[[list[float]], float], values: Iterator[float]) -> float:
    found = list(values)
    return float("nan") if not found or any(isnan(v) for v in found) else pick(found)


def _plain(value: Any) -> Any:
    return value if not isinstance(value, float) or np.isfinite(value) else str(value)
