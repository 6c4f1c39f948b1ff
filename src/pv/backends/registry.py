"""A model and what the user allows -> the session that serves: the first backend in order that opens and is accepted.

This room knows the backends; the judge (`pv.parity.gate`) lies above it and is handed in, so that no import points
upwards. A backend's module is imported only when its turn comes: with `no_gpu` none but the CPU's ever is.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from pv.backends.protocol import BackendError, Session

if TYPE_CHECKING:
    from pv.model.weights import Weights

Say = Callable[[str], None]  # one line for stderr
Open = Callable[[str, "Weights"], Session]  # (backend, weights) -> session


class Entry(NamedTuple):
    """Where a backend's opener lives (`module:function`, called with the weights) and whether it drives a GPU."""

    target: str
    gpu: bool
    title: str = ""


BACKENDS: Mapping[str, Entry] = {  # in the order of preference
    "cuda": Entry("pv.backends.cuda:open_cuda", gpu=True, title="CUDA"),
    "wgpu": Entry("pv.backends.wgpu_session:open_wgpu", gpu=True, title="wgpu"),
    "cpu": Entry("pv.backends.cpu:open_cpu", gpu=False, title="CPU"),
}


class ChoiceError(BackendError):
    """The call itself is off: an unknown backend, or wishes that exclude each other."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user allows. `backend` names the only one to try before the CPU; `require` refuses any other."""

    backend: str | None = None
    require: str | None = None
    no_gpu: bool = False

    def __post_init__(self) -> None:
        for name in (self.backend, self.require):
            if name is not None and name not in BACKENDS:
                raise ChoiceError(name, f"unknown backend, expected one of {', '.join(BACKENDS)}")
            if name is not None and self.no_gpu and BACKENDS[name].gpu:
                raise ChoiceError(name, "asked for together with --no-gpu", "drop one of the two")
        if self.backend and self.require and self.backend != self.require:
            raise ChoiceError(self.require, f"required, but --backend {self.backend} was asked for")

    @property
    def order(self) -> tuple[str, ...]:
        """The backends to try, best first. The CPU is the last resort unless another is required."""
        named = self.require or self.backend
        if named:
            return (named,) if self.require or named == "cpu" else (named, "cpu")
        return tuple(name for name, entry in BACKENDS.items() if not (self.no_gpu and entry.gpu))


class RejectedError(BackendError):
    """A backend that opened was judged unfit to serve."""


class Gate(Protocol):
    """Judges an opened GPU session before it serves; raises `RejectedError` to refuse it."""

    def __call__(self, session: Session, weights: Weights, prompt: Sequence[int]) -> None: ...


class Listener(Protocol):
    """Hears every event of a choice, in order; each is worth a line for the user."""

    def unavailable(self, name: str, problem: BackendError, *, last: bool) -> None:
        """A backend could not be opened. `last`: nothing is left to try."""
        ...

    def opened(self, name: str, session: Session) -> None:
        """A backend was opened; a GPU's is now judged."""
        ...

    def rejected(self, name: str, problem: BackendError, *, last: bool) -> None:
        """A backend was judged unfit, or failed while it was judged."""
        ...


class Lines:
    """The simplest listener: a line for each backend passed over."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def unavailable(self, name: str, problem: BackendError, *, last: bool) -> None:
        self._say(str(problem))

    def opened(self, name: str, session: Session) -> None:
        """Nothing to say: the command itself tells which backend served."""

    def rejected(self, name: str, problem: BackendError, *, last: bool) -> None:
        self._say(str(problem))


def choose(
    weights: Weights,
    prompt: Sequence[int],
    choice: Choice,
    say: Say | Listener,
    gate: Gate | None = None,
    open_backend: Open | None = None,
) -> Session:
    """Open the first backend of `choice.order` that works and, for a GPU, that `gate` accepts.

    Every event goes to `say`: a listener, or a function that gets a line for each backend passed over. `open_backend`
    stands in for the openers of the table. Raises the last BackendError when none is left.
    """
    listener = Lines(say) if callable(say) else say
    failure = BackendError("pv", "no backend to try")
    for name in choice.order:
        last = name == choice.order[-1]
        try:
            session = (open_backend or open_named)(name, weights)
        except Exception as problem:
            if not isinstance(problem, BackendError) and not BACKENDS[name].gpu:
                raise  # the CPU is the reference: what it raises is no reason to look elsewhere
            failure = problem if isinstance(problem, BackendError) else _in_words(name, problem)
            listener.unavailable(name, failure, last=last)
            continue
        listener.opened(name, session)
        if not BACKENDS[name].gpu or gate is None:
            return session
        try:
            gate(session, weights, prompt)
            return session
        except BackendError as problem:
            failure = problem
            close(session)
            listener.rejected(name, problem, last=last)
        except BaseException:
            close(session)
            raise
    raise failure


def close(session: Session, patience: float = 20.0) -> None:
    """Close a session in a thread that may be abandoned: a driver that hangs must not hang the next backend."""
    closer = threading.Thread(target=session.close, name="pv-close", daemon=True)
    closer.start()
    closer.join(patience)


def _in_words(name: str, problem: Exception) -> BackendError:
    lines = str(problem).strip().splitlines()
    return BackendError(name, f"{type(problem).__name__}: {lines[0] if lines else 'no message'}")


def open_named(name: str, weights: Weights) -> Session:
    """A session of backend `name`, by the table's opener."""
    return opener(name)(weights)


def opener(name: str) -> Callable[[Weights], Session]:
    """The function that opens weights on backend `name`; its module is imported now."""
    module, _, function = BACKENDS[name].target.partition(":")
    return cast("Callable[[Weights], Session]", getattr(importlib.import_module(module), function))
