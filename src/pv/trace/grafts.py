"""Grafts: other tensors put into a running forward, to see what a stage does when its inputs are known to be right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pv.compare.graph import Node
from pv.model.stages import Stage
from pv.trace.reading import Capture
from pv.trace.stages import file_layer

if TYPE_CHECKING:
    from pv.backends.protocol import DeviceFacts, Graft, Session, Tap
    from pv.model.spec import ModelSpec

Seen = TypeVar("Seen")
# (node, computed by the backend: torch or numpy, captured) -> what was seen
Look = Callable[[Node, Any, NDArray[np.float32]], Seen]


class PlantedSession:
    """A session in which one graft is always applied, before any other: a planted defect. For tests and controls."""

    def __init__(self, session: Session, plant: Graft) -> None:
        self._session, self._plant = session, plant
        self.spec: ModelSpec = session.spec
        self.facts: DeviceFacts = session.facts

    @property
    def position(self) -> int:
        return self._session.position

    def prefill(self, tokens: Sequence[int], tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Like the session's own, through the planted graft."""
        return self._session.prefill(tokens, tap, self._both(graft))

    def decode(self, token: int, tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Like the session's own, through the planted graft."""
        return self._session.decode(token, tap, self._both(graft))

    def reset(self) -> None:
        """Empty the KV cache."""
        self._session.reset()

    def close(self) -> None:
        """Free the device's memory."""
        self._session.close()

    def _both(self, graft: Graft | None) -> Graft:
        if graft is None:
            return self._plant
        return lambda stage, layer, x: graft(stage, layer, self._plant(stage, layer, x))


class CaptureGraft(Generic[Seen]):
    """A graft that goes on with the values of a capture; `look` is shown what was computed beside what was captured.

    Stages that the capture does not hold, or holds only some heads of, go on as computed and are not looked at.
    """

    def __init__(self, capture: Capture, step: int | None, look: Look[Seen], *, replace: bool) -> None:
        self._capture, self._step, self._look, self._replace = capture, step, look, replace
        self.seen: dict[Node, Seen] = {}

    def __call__(self, stage: Stage, layer: int | None, x: Any) -> Any:
        """Show and replace one tensor of the forward."""
        node = Node(stage, file_layer(stage, layer), self._step)
        captured = values_of(self._capture, node)
        if captured is None or captured.shape != tuple(x.shape):
            return x
        self.seen[node] = self._look(node, x, captured)
        return like(captured, x) if self._replace else x


def run_beside(
    session: Session,
    capture: Capture,
    steps: Sequence[int | None],
    look: Look[Seen],
    *,
    replace: bool,
    look_at_result: Look[Seen] | None = None,
) -> dict[Node, Seen]:
    """Run a session on a capture's tokens, and look at each stage beside the captured one.

    `replace`: every stage goes on with the captured values, so that each is computed from captured inputs. Decode steps
    are fed the capture's tokens. `steps`: None for the prefill, then decode steps; the others run as they are.
    `look_at_result` is shown the logits that the session returns, as lm_head: what is done to them behind the last
    stage is seen there. When they are the replaced ones, untouched, what was seen at the stage itself stands.
    """
    manifest = capture.manifest
    seen: dict[Node, Seen] = {}
    session.reset()
    for step in (None, *range(1, max((s or 0 for s in steps), default=0) + 1)):
        graft = CaptureGraft(capture, step, look, replace=replace) if step in steps else None
        if step is None:
            logits = session.prefill(manifest.tokens, graft=graft)
        else:
            logits = session.decode(manifest.decoded[step - 1], graft=graft)
        if graft is None:
            continue
        seen |= graft.seen
        head = Node(Stage.LM_HEAD, None, step)
        captured = values_of(capture, head)
        untouched = replace and captured is not None and logits.tobytes() == captured.tobytes()
        if look_at_result is not None and captured is not None and not untouched:
            seen[head] = look_at_result(head, logits, captured)
    session.reset()
    return seen


def values_of(capture: Capture, node: Node) -> NDArray[np.float32] | None:
    """A captured tensor in its own shape, read from disk; None when the capture does not hold it."""
    entry = capture.entry(node.stage, node.layer, node.step)
    return None if entry is None else capture.open(entry).values.reshape(entry.shape)


def to_numpy(x: Any) -> NDArray[np.float32]:
    """A backend's tensor (torch or numpy) as float32 in numpy."""
    host = x.detach().float().cpu().numpy() if hasattr(x, "detach") else x
    return np.ascontiguousarray(host, dtype=np.float32)


def to_float64(x: Any) -> NDArray[np.float64]:
    """A backend's tensor as float64 in numpy, every bit kept."""
    host = x.detach().double().cpu().numpy() if hasattr(x, "detach") else x
    return np.ascontiguousarray(host, dtype=np.float64)


def like(values: NDArray[np.float32], x: Any) -> Any:
    """Values as a tensor of the same kind, type and device as `x`."""
    if not hasattr(x, "detach"):
        return np.array(values, dtype=x.dtype)
    import torch

    return torch.from_numpy(np.array(values)).to(device=x.device, dtype=x.dtype)
