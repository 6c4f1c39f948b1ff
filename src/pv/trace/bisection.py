"""Two captures, or a model and a suspect backend -> what was observed at every stage, and who is guilty.

Each stage is looked at by itself through grafts. Of a live suspect: it runs once with the reference's tensors put in
place of its own at every stage, so each stage is computed from the reference's inputs. Of two captures: our forward
runs in float64 with one side's tensors put in, which gives what each stage of that side should have been, given that
side's own inputs; a side that differs there is the one that is off. The same run measures float32's own rounding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pv.compare.bisect import LOCAL, Finding, Local, Observation, Verdict, bisect, local_bound
from pv.compare.diagnose import Widths, concentration, diagnose
from pv.compare.graph import Node, inputs
from pv.compare.metrics import TensorMetrics, compare
from pv.compare.tensors import unpaired
from pv.compare.thresholds import THRESHOLDS, Kind, Row
from pv.model.stages import Stage
from pv.trace.capture import Origin, capture
from pv.trace.grafts import Look, run_beside, to_float64, to_numpy, values_of
from pv.trace.manifest import CaptureError
from pv.trace.pairing import Pair, name_of
from pv.trace.plan import Plan
from pv.trace.reading import Capture, open_capture

if TYPE_CHECKING:
    from pv.backends.protocol import Session
    from pv.model.spec import ModelSpec

F32 = NDArray[np.float32]
SIBLINGS: Mapping[Stage, tuple[Stage, ...]] = {  # what a stage is mistaken for, beside its own inputs
    Stage.FFN_GATE: (Stage.FFN_UP,),
    Stage.FFN_UP: (Stage.FFN_GATE,),
    Stage.POST_FFN_RESIDUAL: (Stage.FFN_OUT,),
    Stage.POST_ATTN_RESIDUAL: (Stage.ATTN_OUT,),
}


class Bisection(NamedTuple):
    """A finished bisection: the answers, all that was observed, what the guilty stage looks like, what was not done."""

    finding: Finding
    observations: tuple[Observation, ...]
    row: Row
    diagnosis: tuple[str, ...]
    notes: tuple[str, ...]

    def at(self, node: Node) -> Observation:
        """What was observed of a stage."""
        return next(o for o in self.observations if o.node == node)


@dataclass(frozen=True, slots=True)
class Shadow:
    """Our own forward of the reference's weights, to say what stages should have been. `exact`: it runs in float64."""

    session: Session
    exact: bool


def bisect_live(
    reference: Session,
    suspect: Session,
    tokens: Sequence[int],
    kind: Kind,
    *,
    steps: int = 0,
    shadow: Session | None = None,
    scratch: Path | None = None,
) -> Bisection:
    """Bisect a suspect session against a reference session of the same model, in lockstep.

    Both run the prompt and `steps` decode steps, fed the reference's likeliest tokens. `shadow`: the reference's model
    in float64, for the envelope. `scratch`: where the reference's tensors are kept meanwhile (default: a temporary
    folder). Raises what the sessions raise, CaptureError when the scratch disk is full.
    """
    spec, row = reference.spec, THRESHOLDS[kind]
    rounds: tuple[int | None, ...] = (None, *range(1, steps + 1))
    with tempfile.TemporaryDirectory(prefix="pv-bisect-", dir=scratch) as folder:
        plan = Plan(tuple(Stage), tuple(range(spec.layers)), None, tuple(range(1, steps + 1)))
        place = Path(folder) / "reference"
        reference.reset()
        capture(reference, tokens, plan, place, Origin("pv", "", "", "", "", {"backend": reference.facts.backend}))
        reference.reset()
        held = open_capture(place)
        totals = run_beside(suspect, held, rounds, _total, replace=False, look_at_result=_total)
        look = _local_of_suspect(row)
        locals_ = run_beside(suspect, held, rounds, look, replace=True, look_at_result=look)
        envelope, local_envelope, notes = _envelopes(shadow, held, rounds)
        order = [Node(e.stage, e.layer, e.step) for e in held.manifest.files]
        observations = tuple(
            Observation(node, totals[node], locals_.get(node), envelope.get(node), local_envelope.get(node))
            for node in order
            if node in totals
        )
        finding = bisect(observations, row, spec.layers)
        diagnosis: tuple[str, ...] = ()
        if finding.verdict is Verdict.BUG:
            found = _kept(suspect, held, rounds, finding.guilty[0])
            expected = values_of(held, finding.guilty[0])
            if found is not None and expected is not None:
                diagnosis = _diagnose(spec, held, finding.guilty[0], found, expected) or _behind(found, expected)
        return Bisection(finding, observations, row, diagnosis, notes)


def bisect_captures(pair: Pair, kind: Kind, shadow: Shadow | None = None, why_none: str = "") -> Bisection:
    """Bisect two captures. Without a shadow stages cannot be looked at by themselves: only the frontier is named.

    `why_none` says why there is no shadow.

    Raises CaptureError for captures with no tensor in common, DamagedError for a damaged file, ShapeError for tensors
    of different shapes.
    """
    row = THRESHOLDS[kind]
    order = [
        Node(e.stage, e.layer, e.step)
        for e in pair.reference.manifest.files
        if name_of(e) in pair.reference_tensors and name_of(e) in pair.test_tensors
    ]
    if not order:
        raise CaptureError(f"the two captures have no tensor in common: {pair.reference.folder} and {pair.test.folder}")
    totals = {node: _total_of(pair, node) for node in order}
    layers = int(pair.reference.manifest.spec["layers"])
    locals_: dict[Node, Local] = {}
    envelope: dict[Node, float] = {}
    local_envelope: dict[Node, float] = {}
    notes = [
        f"only in the {side}, and not looked at: {len(names)} tensors, the first {names[0]}"
        for side, names in zip(("reference", "test"), unpaired(pair.reference_tensors, pair.test_tensors), strict=True)
        if names
    ]
    if shadow is None:
        notes.append(f"stages could not be looked at by themselves: {why_none or 'no model was given'}")
    else:
        rounds = tuple(dict.fromkeys(node.step for node in order))
        look = _local_of_capture(row)
        of_test = run_beside(shadow.session, pair.test, rounds, look, replace=True)
        of_reference = run_beside(shadow.session, pair.reference, rounds, look, replace=True)
        locals_ = {node: _worse(of_test[node], of_reference[node]) for node in order if node in of_test}
        if shadow.exact:
            envelope = run_beside(shadow.session, pair.reference, rounds, _rounding, replace=False)
            local_envelope = run_beside(shadow.session, pair.reference, rounds, _rounding, replace=True)
        else:
            notes.append("the model does not fit in float64; stages were looked at in float32, without an envelope")
    observations = tuple(
        Observation(node, totals[node], locals_.get(node), envelope.get(node), local_envelope.get(node))
        for node in order
    )
    finding = bisect(observations, row, layers)
    diagnosis: tuple[str, ...] = ()
    if finding.verdict is Verdict.BUG and shadow is not None:
        diagnosis = _diagnose_captures(shadow.session, pair, finding.guilty[0], locals_[finding.guilty[0]].side)
    return Bisection(finding, observations, row, diagnosis, tuple(notes))


def _total(_node: Node, computed: Any, captured: F32) -> TensorMetrics:
    return compare(to_numpy(computed), captured)


def _rounding(_node: Node, computed: Any, captured: F32) -> float:
    """Relative L2 of a captured float32 stage against the float64 one that was just computed; the worst position's."""
    exact = to_float64(computed).reshape(-1, captured.shape[-1])
    with np.errstate(all="ignore"):
        error = np.linalg.norm(captured.reshape(exact.shape) - exact, axis=1)
        length = np.linalg.norm(exact, axis=1)
        return float(np.max(np.divide(error, length, out=np.zeros_like(error), where=length > 0)))


def _local_of_suspect(row: Row) -> Look[Local]:
    """The suspect's stage, computed from the reference's inputs, against the reference's."""
    return lambda node, computed, captured: _local(node, to_numpy(computed), captured, row)


def _local_of_capture(row: Row) -> Look[Local]:
    """A captured stage against what the shadow makes of the capture's own inputs."""
    return lambda node, computed, captured: _local(node, captured, to_numpy(computed), row)


def _local(node: Node, found: F32, expected: F32, row: Row) -> Local:
    metrics = compare(found, expected)
    off = metrics.broken or metrics.rel_l2 > local_bound(row, node.stage)
    return Local(metrics, concentration(found, expected) if off else 0.0)


def _worse(test: Local, reference: Local) -> Local:
    """The side whose stage is further from what its inputs make."""
    if reference.rel_l2 > test.rel_l2:
        return Local(reference.metrics, reference.concentration, "reference")
    return test


def _envelopes(
    shadow: Session | None, held: Capture, rounds: Sequence[int | None]
) -> tuple[dict[Node, float], dict[Node, float], tuple[str, ...]]:
    """Float32's own rounding, in the whole forward and in each stage by itself."""
    if shadow is None:
        return {}, {}, ("the float64 envelope was not measured",)
    whole = run_beside(shadow, held, rounds, _rounding, replace=False)
    return whole, run_beside(shadow, held, rounds, _rounding, replace=True), ()


def _total_of(pair: Pair, node: Node) -> TensorMetrics:
    reference, test = values_of(pair.reference, node), values_of(pair.test, node)
    if reference is None or test is None:
        raise AssertionError(f"{node} was listed on both sides")
    return compare(test, reference)


def _kept(session: Session, held: Capture, rounds: Sequence[int | None], wanted: Node) -> F32 | None:
    """One more grafted run that keeps what the session computed for one stage."""

    def look(node: Node, computed: Any, _captured: F32) -> F32 | None:
        return to_numpy(computed).copy() if node == wanted else None

    return run_beside(session, held, rounds, look, replace=True).get(wanted)


def _behind(found: F32, expected: F32) -> tuple[str, ...]:
    """What to say when the guilty stage itself is right, as only lm_head can be: see `run_beside`."""
    if compare(found, expected).rel_l2 > LOCAL:
        return ()
    return ("the stage is right and the logits that are returned are not: something is done to them behind it",)


def _diagnose_captures(session: Session, pair: Pair, node: Node, side: str) -> tuple[str, ...]:
    held = pair.test if side == "test" else pair.reference
    found = values_of(held, node)
    rounds = tuple(dict.fromkeys(e.step for e in held.manifest.files))
    expected = _kept(session, held, rounds, node)
    if found is None or expected is None:
        return ()
    return _diagnose(session.spec, held, node, found, expected)


def _diagnose(spec: ModelSpec, held: Capture, node: Node, found: F32, expected: F32) -> tuple[str, ...]:
    stage, layer, step = node
    others = [other.stage for other in inputs(node, spec.layers) if other.layer == layer and other.step == step]
    siblings = {
        str(other): values
        for other in (*others, *SIBLINGS.get(stage, ()))
        if (values := values_of(held, Node(other, layer, step))) is not None
    }
    return diagnose(found, expected, heads=_widths(spec, stage), siblings=siblings)


def _widths(spec: ModelSpec, stage: Stage) -> Widths | None:
    heads = {
        Stage.QKV_MATMUL: spec.heads + 2 * spec.kv_heads,
        Stage.QKV_BIAS: spec.heads + 2 * spec.kv_heads,
        Stage.Q_POST_ROPE: spec.heads,
        Stage.K_POST_ROPE: spec.kv_heads,
        Stage.ATTENTION: spec.heads,
    }.get(stage)
    return None if heads is None else Widths(heads, spec.head_dim)
