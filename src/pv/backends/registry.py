"""A model and what the user allows -> the session that serves: the first backend in order that opens and is accepted.

This room knows the backends; the judge (`pv.parity.gate`) lies above it and is handed in, so that no import points
upwards. A backend's module is imported only when its turn comes: with `no_gpu` none but the CPU's ever is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from pv.backends.protocol import BackendError, Session

if TYPE_CHECKING:
    from pv.model.weights import Weights

Say = Callable[[str], None]  # one line for stderr


class Entry(NamedTuple):
    """Where a backend's opener lives (`module:function`, called with the weights) and whether it drives a GPU."""

    target: str
    gpu: bool


BACKENDS: Mapping[str, Entry] = {  # in the order of preference
    "cpu": Entry("pv.backends.cpu:open_cpu", gpu=False),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user allows. `backend` names the only one to try before the CPU; `require` refuses any other."""

    backend: str | None = None
    require: str | None = None
    no_gpu: bool = False

    def __post_init__(self) -> None:
        for name in (self.backend, self.require):
            if name is not None and name not in BACKENDS:
                raise BackendError(name, f"unknown backend, expected one of {', '.join(BACKENDS)}")
            if name is not None and self.no_gpu and BACKENDS[name].gpu:
                raise BackendError(name, "asked for together with --no-gpu", "drop one of the two")
        if self.backend and self.require and self.backend != self.require:
            raise BackendError(self.require, f"required, but --backend {self.backend} was asked for")

    @property
    def order(self) -> tuple[str, ...]:
        """The backends to try, best first. The CPU is the last resort unless another is required."""
        named = self.require or self.backend
        if named:
            return (named,) if self.require or named == "cpu" else (named, "cpu")
        return tuple(name for name, entry in BACKENDS.items() if not (self.no_gpu and entry.gpu))


class Gate(Protocol):
    """Judges an opened GPU session before it serves; says its own line, and raises BackendError to reject."""

    def __call__(self, session: Session, weights: Weights, prompt: Sequence[int]) -> None: ...


def choose(weights: Weights, prompt: Sequence[int], choice: Choice, say: Say, gate: Gate | None = None) -> Session:
    """Open the first backend of `choice.order` that works and, for a GPU, that `gate` accepts.

    Every backend passed over is one line through `say`. Raises the last BackendError when none is left.
    """
    failure = BackendError("pv", "no backend to try")
    for name in choice.order:
        try:
            return _opened(name, weights, prompt, gate)
        except BackendError as problem:
            failure = problem
            say(str(problem))
    raise failure


def _opened(name: str, weights: Weights, prompt: Sequence[int], gate: Gate | None) -> Session:
    session = opener(name)(weights)
    if BACKENDS[name].gpu and gate is not None:
        try:
            gate(session, weights, prompt)
        except BaseException:
            session.close()
            raise
    return session


def opener(name: str) -> Callable[[Weights], Session]:
    """The function that opens weights on backend `name`; its module is imported now."""
    module, _, function = BACKENDS[name].target.partition(":")
    return cast("Callable[[Weights], Session]", getattr(importlib.import_module(module), function))
