"""A CPU reference and a GPU session in lockstep -> a verdict: may this session serve?

Both are given the same tokens, and both are advanced by the reference's own choice, so one near tie cannot derail the
rest. The verdict is an AND over every step: shape, finite, the outer cosine bound of the contract, the tighter bounds
of the kind of comparison, and the first token or an a-priori near tie. Whatever is missing, raised or late rejects.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from pv.backends.protocol import BackendError, DeviceFacts, Session
from pv.compare.metrics import compare, compare_logits
from pv.compare.thresholds import THRESHOLDS, Kind, Row, breaches
from pv.model.stages import Stage
from pv.model.weights import Weights
from pv.parity.near_tie import Flip, judge_flip

TAG = "apr-cpu-vs-gpu-output-parity-v1"  # the contract that every line of the gate is tagged with
OUTER_COSINE = 0.99  # the bound of that contract that no backend may ever cross; the rows of the table are tighter
PROMPT_TOKENS = 64  # of the real prompt, its last ones
STEPS, MOST_STEPS = 3, 16
PATIENCE = 300.0  # seconds for one step of the tested session
TWIN_GUARD = 3.0  # how much worse than the CPU in the same half precision one input may be (numeric-parity row E)


class Step(NamedTuple):
    """One compared step: the figures, and why it rejects ("" when it does not)."""

    step: int
    cosine: float
    rel_l2: float
    linf_rel: float
    max_abs: float
    kl: float
    scale: float
    flip: Flip | None
    reason: str

    def as_json(self) -> dict[str, Any]:
        """As JSON takes it; what is no number becomes a string."""
        plain = {name: _plain(value) for name, value in self._asdict().items() if name != "flip"}
        flip = None if self.flip is None else {n: _plain(v) for n, v in self.flip._asdict().items()}
        return plain | {"flip": flip}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison came to. `reason` is one line without the backend's name, "" when accepted."""

    accepted: bool
    reason: str
    steps: tuple[Step, ...]
    asked: int
    kind: Kind
    seconds: float = field(default=0.0, compare=False)

    @property
    def near_ties(self) -> int:
        """How many steps had another first token within the a-priori bound."""
        return sum(1 for step in self.steps if step.flip is not None and step.flip.near_tie)

    @property
    def worst_cosine(self) -> float:
        """The lowest cosine; NaN before the first step."""
        values = [step.cosine for step in self.steps]
        return float("nan") if not values or np.isnan(values).any() else min(values)


def clamp_steps(steps: int) -> int:
    """Refuse a number of steps outside 1 to 16. Raises BackendError."""
    if not 1 <= steps <= MOST_STEPS:
        raise BackendError("gate", f"expected 1 to {MOST_STEPS} parity steps, got {steps}")
    return steps


def probe(prompt: Sequence[int], start_token: int = 0) -> list[int]:
    """The tokens to compare on: the prompt's last 64; the start token alone only when there is no prompt."""
    return list(prompt[-PROMPT_TOKENS:]) or [start_token]


def kind_of(facts: DeviceFacts) -> Kind:
    """Which row of the table judges a session against the CPU in float32."""
    if any(half in facts.details.get("dtype", "") for half in ("bfloat16", "float16")):
        return Kind.HALF
    if facts.details.get("products"):
        return Kind.QUANT_SAME
    return Kind.WGPU if facts.backend == "wgpu" else Kind.CUDA


def reference_weights(weights: Weights, facts: DeviceFacts) -> Weights:
    """What the CPU must be given to compute what a session computes: blocks where the session multiplies blocks (its
    facts name them under `products`), else the same numbers as floats.
    """
    return weights if facts.details.get("products") else weights.dequantized()


def reference_logits(session: Session, tokens: Sequence[int], steps: int) -> Iterator[np.ndarray]:
    """Logits of `steps` steps, each advanced by its own argmax; the session is emptied before and after."""
    session.reset()
    logits = session.prefill(tokens)
    for left in range(steps, 0, -1):
        yield logits
        if left > 1:
            logits = session.decode(int(np.argmax(logits)))
    session.reset()


def fed_logits(session: Session, tokens: Sequence[int], expected: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Logits of another session for the tokens that the reference chose; it is emptied before and after."""
    session.reset()
    logits = session.prefill(tokens)
    for number, reference in enumerate(expected):
        yield logits
        if number + 1 < len(expected):
            logits = session.decode(int(np.argmax(reference)))
    session.reset()


def lockstep(
    reference: Iterator[np.ndarray],
    test: Session,
    tokens: Sequence[int],
    steps: int,
    *,
    kind: Kind | None = None,
    patience: float = PATIENCE,
    to_the_end: bool = False,
    twin: Iterator[np.ndarray] | None = None,
) -> Verdict:
    """Compare a session with reference logits, step by step, until one rejects. Never raises what a session raises.

    While the tested session computes a step, the reference is asked for the same step: on a machine whose GPU is not
    its CPU the gate costs little more than the reference. The session is emptied before and after. `to_the_end` goes on
    behind a step that rejects, for measurement; the first reason stays the verdict's. `twin`: the CPU's logits in the
    tested session's own half precision, for the same tokens.
    """
    began = time.perf_counter()
    kind = kind or kind_of(test.facts)
    row, reason = THRESHOLDS[kind], ""
    done: list[Step] = []
    runner = _Runner(test, patience)
    try:
        runner.start(lambda: _first(test, tokens))
        for number in range(steps):
            expected = next(reference)
            found, problem = runner.result()
            other = None if twin is None else next(twin)
            step = judge_step(number, expected, found, row, other) if found is not None else _missing(number, problem)
            done.append(step)
            if step.reason and not reason:
                reason = f"{step.reason}, at step {number}/{steps}"
            if found is None or (reason and not to_the_end):
                break
            if number + 1 < steps:
                token = int(np.argmax(expected))
                runner.start(lambda token=token: test.decode(token))  # type: ignore[misc]  # binds this step's token
    except (Exception, StopIteration) as problem:  # the reference failed: nothing can be said for the session
        reason = reason or f"the comparison itself failed: {_line(problem)}, at step {len(done)}/{steps}"
    finally:
        runner.finish()
    return Verdict(not reason, reason, tuple(done), steps, kind, _since(began))


def judge_step(number: int, reference: np.ndarray, test: np.ndarray, row: Row, twin: np.ndarray | None = None) -> Step:
    """The figures of one step and the first reason to reject, "" when there is none.

    With a `twin` (the CPU in the same half precision), the test may be `TWIN_GUARD` times as far from the float32
    reference as the twin is: what half precision costs depends on the model, not on the card.
    """
    nan = float("nan")
    if test.shape != reference.shape:
        reason = f"expected logits of shape {reference.shape}, got {test.shape}"
        return Step(number, nan, nan, nan, nan, nan, nan, None, reason)
    found, logits = compare(test, reference), compare_logits(test, reference)
    allowed = float("inf")
    if twin is not None:
        allowed = TWIN_GUARD * compare(twin, reference).rel_l2
        kl = max(row.logits.kl or 0.0, TWIN_GUARD**2 * compare_logits(twin, reference).kl)
        row = replace(row, logits=replace(row.logits, kl=kl))
    flip = judge_flip(test, reference, row)
    if not np.isfinite(reference).all():
        reason = "the CPU's own logits are not finite"
    elif not np.isfinite(test).all():
        bad = int(np.flatnonzero(~np.isfinite(test))[0])
        reason = f"{int((~np.isfinite(test)).sum())} logits are not finite, the first is {test[bad]} of token {bad}"
    else:
        broken = [str(b) for b in breaches(row, Stage.LM_HEAD, found, logits) if _numeric(b.figure)]
        if not found.rel_l2 <= allowed:
            broken.append(f"rel_l2 {found.rel_l2:.3g}, expected <= {allowed:.3g} ({TWIN_GUARD:g} times the CPU's own)")
        reason = _why(found.cosine, flip, broken)
    cosine = found.cosine if np.isfinite(test).all() else nan
    kl = logits.kl if np.isnan(logits.kl) else max(logits.kl, 0.0)  # rounding may put it a hair below zero
    return Step(number, cosine, found.rel_l2, found.linf_rel, found.max_abs, kl, found.scale, flip, reason)


def _numeric(figure: str) -> bool:
    """The first token has its own, stricter rule (`near_tie`)."""
    return figure != "margin of another first token"


def _why(cosine: float, flip: Flip, broken: list[str]) -> str:
    """The reason to reject, with the figures that every rejection shows."""
    tokens = f"CPU argmax {flip.reference}, GPU argmax {flip.test}"
    if not cosine >= OUTER_COSINE:
        return f"cosine vs CPU = {cosine:.6f} (< {OUTER_COSINE}), {tokens}"
    if broken:
        return f"{'; '.join(broken)}; cosine vs CPU = {cosine:.6f}, {tokens}"
    if not flip.tolerated:
        away = f"{flip.margin:.4g} apart on the CPU, a near tie is at most {flip.bound:.2g}"
        return f"another first token ({away}), cosine vs CPU = {cosine:.6f}, {tokens}"
    return ""


def _missing(number: int, problem: str) -> Step:
    nan = float("nan")
    return Step(number, nan, nan, nan, nan, nan, nan, None, problem)


def _first(test: Session, tokens: Sequence[int]) -> np.ndarray:
    test.reset()
    return test.prefill(tokens)


class _Runner:
    """Runs the tested session's steps in a thread of its own, which is abandoned when it does not answer in time."""

    def __init__(self, test: Session, patience: float) -> None:
        self._test, self._patience = test, patience
        self._work: queue.SimpleQueue[Callable[[], np.ndarray] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[np.ndarray | None, str]] = queue.SimpleQueue()
        self._running = 0  # steps begun and not yet asked for
        self._hung = False
        threading.Thread(target=self._serve, name="pv-parity", daemon=True).start()

    def start(self, work: Callable[[], np.ndarray]) -> None:
        """Begin a step."""
        self._running += 1
        self._work.put(work)

    def result(self) -> tuple[np.ndarray | None, str]:
        """The step's logits, or None and why there are none."""
        try:
            answer = self._done.get(timeout=self._patience)
        except queue.Empty:
            self._hung = True
            return None, f"no answer within {self._patience:g} s"
        self._running -= 1
        return answer

    def finish(self) -> None:
        """Empty the session's cache, unless it hangs, and let the thread end."""
        if not self._hung:
            self.start(self._emptied)
        while self._running and not self._hung:
            self.result()
        self._work.put(None)

    def _emptied(self) -> np.ndarray:
        self._test.reset()
        return np.empty(0, np.float32)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self._done.put((np.asarray(work()), ""))
            except BaseException as problem:  # whatever a backend raises is a reason to reject it
                self._done.put((None, f"error: {_line(problem)}"))


def _since(began: float) -> float:
    return time.perf_counter() - began


def _line(problem: BaseException) -> str:
    text = problem.reason if isinstance(problem, BackendError) else str(problem)
    return f"{type(problem).__name__}: {' '.join(text.split())[:200]}"


def _plain(value: Any) -> Any:
    return value if not isinstance(value, float) or np.isfinite(value) else str(value)
