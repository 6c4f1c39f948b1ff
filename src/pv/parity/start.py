"""A model, a prompt and a choice of backends -> the session that serves, every event said in one tagged line.

CUDA, then wgpu, then the CPU; a GPU serves only after the gate accepted it. The CPU reference is opened for each GPU
that opens and closed before anything serves. A GPU that fails while it serves is followed by the CPU, unless it was
required.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from pv.backends import cpu
from pv.backends.enduring import EnduringSession
from pv.backends.protocol import BackendError, DeviceFacts, Session
from pv.backends.registry import BACKENDS, Choice, Open, RejectedError, choose, open_named
from pv.compare.thresholds import Kind
from pv.model.weights import Weights
from pv.parity.deep import record_stages, with_stages
from pv.parity.gate import (
    PATIENCE,
    STEPS,
    TAG,
    Verdict,
    clamp_steps,
    fed_logits,
    kind_of,
    lockstep,
    probe,
    reference_logits,
    reference_weights,
)
from pv.parity.receipt import Event, Receipt, Subject, recall, remember, verdict_json

Say = Callable[[str], None]
UNPACKED = 130  # bytes that a hundred weights take as codes with their scales, in the reference's own product


@dataclass(frozen=True, slots=True)
class GateOptions:
    """How a start is judged. `enabled=False` serves a GPU unjudged, which is said. `remember`: reuse a verdict on the
    very same comparison. `detail`: say the figures of every step.
    """

    steps: int = STEPS
    enabled: bool = True
    remember: bool = True
    detail: bool = False
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        clamp_steps(self.steps)


def steps_from(environment: Mapping[str, str], given: int | None) -> int:
    """`--parity-steps`, else `PV_PARITY_STEPS`, else 3. Raises BackendError for what is no number from 1 to 16."""
    if given is not None:
        return clamp_steps(given)
    text = environment.get("PV_PARITY_STEPS", "").strip()
    if not text:
        return STEPS
    if not text.isascii() or not text.isdigit():
        raise BackendError("gate", f"expected PV_PARITY_STEPS to be a number from 1 to 16, got {text!r}")
    return clamp_steps(int(text))


def serve(
    weights: Weights,
    prompt: Sequence[int],
    choice: Choice,
    options: GateOptions | None = None,
    *,
    say: Say,
    digest: Callable[[], str] = lambda: "",
    open_backend: Open | None = None,
    receipt: Receipt | None = None,
    later: Callable[[], None] = lambda: None,
) -> Session:
    """The session that serves; `receipt` is filled event by event. Raises the last BackendError when none is left.

    `digest`: of the model, asked for only when a GPU is judged. `open_backend` stands in for the table's openers. With
    `choice.no_gpu` nothing is said: no GPU is part of the story. `later` is called when a device failed while it served
    and the receipt has got longer.
    """
    options = options or GateOptions()
    if choice.no_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # whatever asks the CUDA runtime by accident finds nothing
        session = choose(weights, prompt, choice, say, open_backend=open_backend)
        if receipt is not None:
            receipt.served = session.facts.backend
        return session
    teller = _Teller(say, choice, options, receipt or Receipt())
    judge = _Judge(options, teller, digest)
    session = choose(weights, prompt, choice, teller, judge if options.enabled else None, open_backend)
    teller.receipt.served = session.facts.backend
    if session.facts.backend == choice.order[-1]:
        return session
    return _enduring(session, teller, lambda: (open_backend or open_named)("cpu", weights), later)


def _enduring(session: Session, teller: _Teller, open_cpu: Callable[[], Session], later: Callable[[], None]) -> Session:
    """The session, and the CPU behind it: the answer so far is kept, and computed again there."""
    name = session.facts.backend

    def failed(problem: BackendError, fed: int) -> None:
        words = f"{BACKENDS[name].title} path failed after {fed} tokens, continuing on the CPU: {problem.reason}"
        teller.tell("failed", name, words)

    def another() -> Session:
        found = open_cpu()
        teller.opened("cpu", found)
        teller.receipt.served = "cpu"
        later()
        return found

    return EnduringSession(session, another, failed)


@dataclass
class _Teller:
    """Hears the events of the choice and says each in one unconditional line."""

    say: Say
    choice: Choice
    options: GateOptions
    receipt: Receipt

    def tell(self, what: str, backend: str, words: str, verdict: Mapping[str, Any] | None = None) -> None:
        line = f"[{TAG}] {words}"
        self.receipt.events.append(Event(what, backend, line, verdict))
        self.say(line)

    def unavailable(self, name: str, problem: BackendError, *, last: bool) -> None:
        hint = f" ({problem.hint})" if problem.hint and last else ""
        self.tell("unavailable", name, f"{BACKENDS[name].title} unavailable: {problem.reason}{hint}")

    def opened(self, name: str, session: Session) -> None:
        self.tell("backend", name, f"Backend: {_named(name, session.facts)}")
        if BACKENDS[name].gpu and not self.options.enabled:
            self.tell("not gated", name, f"{BACKENDS[name].title} path not compared with the CPU (--no-gate)")

    def rejected(self, name: str, problem: BackendError, *, last: bool) -> None:
        then = "no fallback (--require)" if last else "attempting fallback"
        verdict = problem.verdict if isinstance(problem, _RefusedError) else None
        self.tell("rejected", name, f"{BACKENDS[name].title} path rejected, {then}: {problem.reason}", verdict)


class _RefusedError(RejectedError):
    """A rejection with the numbers that led to it."""

    def __init__(self, backend: str, reason: str, verdict: Mapping[str, Any] | None = None) -> None:
        super().__init__(
            backend, reason, "`pv parity --deep` tells more, `pv bisect` names the stage; --no-gpu skips it"
        )
        self.verdict = verdict


@dataclass
class _Judge:
    """The gate that `choose` calls: a remembered verdict, or a comparison with the CPU."""

    options: GateOptions
    teller: _Teller
    digest: Callable[[], str]

    def __call__(self, session: Session, weights: Weights, prompt: Sequence[int]) -> None:
        name, title = session.facts.backend, BACKENDS[session.facts.backend].title
        remembering = self.options.remember
        receipt = self.teller.receipt
        receipt.model = receipt.model or self.digest()
        tokens, kind = probe(prompt), kind_of(session.facts)
        subject = Subject(receipt.model, session.facts, tuple(tokens), self.options.steps, kind)
        if remembering and (known := recall(subject)) is not None:
            words = f"{title} path accepted: {_figures(known['steps'])}, remembered from {known['remembered']}"
            self.teller.tell("accepted", name, words, known)
            return
        verdict = self._compared(session, weights, tokens, kind)
        numbers = verdict_json(subject, verdict)
        if self.options.detail:
            for step in verdict.steps:
                self.teller.say(f"[{TAG}]   {step_line(step.as_json())}")
        if not verdict.accepted:
            raise _RefusedError(name, verdict.reason, numbers)
        if remembering:
            remember(subject, verdict)
        self.teller.tell("accepted", name, f"{title} path accepted: {_figures(numbers['steps'])}", numbers)

    def _compared(self, session: Session, weights: Weights, tokens: list[int], kind: Kind) -> Verdict:
        """The lockstep with the CPU in float32; a half-precision session is measured against the CPU in that too."""
        name, steps = session.facts.backend, self.options.steps
        weights = reference_weights(weights, session.facts)
        with closing(self._reference(name, weights, "float32")) as reference:
            if kind is not Kind.HALF:
                logits = reference_logits(reference, tokens, steps)
                verdict = lockstep(logits, session, tokens, steps, kind=kind, patience=self.options.patience)
                return with_stages(verdict, session, lambda: record_stages(reference, tokens))
            expected = list(reference_logits(reference, tokens, steps))
        with closing(self._reference(name, weights, session.facts.details["dtype"])) as same_precision:
            twin = fed_logits(same_precision, tokens, expected)
            return lockstep(
                iter(expected), session, tokens, steps, kind=kind, patience=self.options.patience, twin=twin
            )

    def _reference(self, name: str, weights: Weights, dtype: str) -> Session:
        """The CPU on the same numbers. Raises a rejection when it does not fit or cannot be opened."""
        if lacking := reference_does_not_fit(weights):
            raise _RefusedError(name, f"{lacking}; --no-gate serves unjudged")
        try:
            return cpu.open_cpu(weights, dtype=getattr(torch, dtype.removeprefix("torch.")))
        except Exception as problem:  # without a reference nothing vouches for the GPU
            raise _RefusedError(name, f"the CPU reference cannot be opened: {problem}") from problem


def reference_does_not_fit(weights: Weights, available: int | None = None) -> str:
    """Why the CPU reference does not fit beside the weights already held, in words; "" when it does.

    Counted are tensors that must be widened to float32, or whose blocks are unpacked to a byte a code, and the fused q,
    k, v; float32 tensors are used in place.
    """
    spec = weights.spec
    held = weights.tensors.values()
    widened = sum(4 * prod(w.shape) for w in held if w.data.element_size() != 4 and not w.type.quantized)
    widened += sum(UNPACKED * prod(w.shape) // 100 for w in held if w.type.quantized)
    fused = 4 * spec.layers * spec.qkv_width * spec.hidden
    available = available_memory() if available is None else available
    if not available or widened + fused <= available:
        return ""
    gib = 2.0**30
    need = f"{(widened + fused) / gib:.1f} GiB more"
    return f"the CPU reference does not fit in memory: it needs {need}, {available / gib:.1f} GiB are free"


def available_memory() -> int:
    """Bytes of host memory that can still be had, 0 when the system does not tell; `PV_HOST_MEMORY_GIB` overrules."""
    if stated := os.environ.get("PV_HOST_MEMORY_GIB", ""):
        try:
            return int(float(stated) * 2**30)
        except ValueError:
            raise BackendError("gate", f"expected PV_HOST_MEMORY_GIB to be a number, got {stated!r}") from None
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            facts = dict(line.split(":", 1) for line in lines)
        return min(int(facts["MemAvailable"].split()[0]) * 1024, _cgroup_room())
    except (OSError, KeyError, ValueError):
        return 0


def _cgroup_room() -> int:
    try:
        with (
            open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit,
            open("/sys/fs/cgroup/memory.current", encoding="ascii") as used,
        ):
            return int(limit.read()) - int(used.read())
    except (OSError, ValueError):  # no limit: "max" is no number
        return 1 << 62


def _named(name: str, facts: DeviceFacts) -> str:
    """`wgpu (Vulkan, <adapter>)`, `CUDA (<card>)`, `CPU`."""
    if name == "wgpu":
        software = ", software" if facts.software else ""
        return f"wgpu ({facts.details.get('api', 'Vulkan')}, {facts.name}{software})"
    return f"{BACKENDS[name].title} ({facts.name})" if BACKENDS[name].gpu else BACKENDS[name].title


def _figures(steps: Sequence[Mapping[str, Any]]) -> str:
    """The worst figures of accepted steps."""
    worst = {n: max(float(step[n]) for step in steps) for n in ("max_abs", "kl")}
    cosine = min(float(step["cosine"]) for step in steps)
    ties = sum(1 for s in steps if s["flip"] and s["flip"]["reference"] != s["flip"]["test"])
    tied = f", {ties} near ties" if ties else ""
    return (
        f"cosine vs CPU >= {cosine:.9f}, max |d| {worst['max_abs']:.2g}, KL {worst['kl']:.2g}, {len(steps)} steps{tied}"
    )


def step_line(step: Mapping[str, Any]) -> str:
    """The figures of one step, for a person."""
    names = ("cosine", "rel_l2", "linf_rel", "max_abs", "kl", "scale")
    shown = (f"{n} {step[n]:.9g}" if isinstance(step[n], float) else f"{n} {step[n]}" for n in names)
    return f"step {step['step']}: {', '.join(shown)}"
