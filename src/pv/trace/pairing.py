"""Two captures -> the tensors that can be compared, the row of tolerances that judges them, and what is left over.

Captures of different tokens, decode steps or models are refused: their difference says nothing about a stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pv.compare.tensors import Judge, TensorDiff, TensorRef, Unpaired, diff_tensors, unpaired
from pv.compare.thresholds import Kind, Side, kind_between
from pv.model.stages import Stage
from pv.trace.manifest import CaptureError, FileEntry
from pv.trace.reading import Capture
from pv.trace.stages import ATTENTION_MAPS

if TYPE_CHECKING:
    from pv.trace.aprt import AprtTensor

Wanted = Callable[[FileEntry], bool]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two captures that can be compared. `left_out`: stages that one side declares not to have."""

    reference: Capture
    test: Capture
    kind: Kind
    reference_tensors: dict[str, TensorRef]
    test_tensors: dict[str, TensorRef]
    left_out: tuple[str, ...]


def pair(
    reference: Capture, test: Capture, *, other_models: bool = False, wanted: Wanted = lambda _entry: True
) -> Pair:
    """Pair the tensors of two captures. Raises CaptureError when tokens, model, heads or positions differ.

    `other_models` allows different models (a quantized one and its original); tokens must be equal all the same.
    """
    r, t = reference.manifest, test.manifest
    if r.tokens != t.tokens:
        raise CaptureError(_unequal("the prompt's token ids", r.tokens, t.tokens))
    steps = max((e.step or 0 for m in (r, t) for e in m.files), default=0)
    if r.decoded[:steps] != t.decoded[:steps]:
        raise CaptureError(
            _unequal("the tokens fed at decode steps", r.decoded, t.decoded),
            "the two forwards chose different tokens; feed both the same with --feed",
        )
    if r.model_digest != t.model_digest and not other_models:
        raise CaptureError(
            f"the captures are of different models: {r.model} ({r.model_digest}) and {t.model} ({t.model_digest})",
            "if that is meant, say --allow-different-models",
        )
    if r.heads != t.heads and any(e.stage in ATTENTION_MAPS for e in r.files):
        raise CaptureError(f"the attention maps keep different heads: {_heads(r.heads)} and {_heads(t.heads)}")
    left_out = tuple(dict.fromkeys((*r.left_out, *t.left_out)))
    return Pair(
        reference,
        test,
        kind_between(side_of(reference), side_of(test)),
        tensors(reference, lambda e: wanted(e) and e.stage.value not in left_out),
        tensors(test, lambda e: wanted(e) and e.stage.value not in left_out),
        left_out,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two captures compared: a finding for each pair, the names on one side only, and what judged."""

    pair: Pair
    found: tuple[TensorDiff, ...]
    unpaired: Unpaired
    judged_by: str

    @property
    def ok(self) -> bool:
        """Nothing beyond its bounds, nothing on one side only, and something was compared."""
        return bool(self.found) and not any(self.unpaired) and all(d.ok for d in self.found)


def compare(
    pair: Pair,
    judge: Judge,
    judged_by: str,
    *,
    largest: int = 0,
    details: bool = False,
    progress: Callable[[str], None] = lambda _name: None,
) -> Comparison:
    """Compare all pairs, a tensor at a time. Raises ShapeError, UnmatchedError and DamagedError naming the tensor."""
    found = []
    for one in diff_tensors(pair.reference_tensors, pair.test_tensors, judge, largest=largest, details=details):
        found.append(one)
        progress(one.name)
    return Comparison(pair, tuple(found), unpaired(pair.reference_tensors, pair.test_tensors), judged_by)


def side_of(capture: Capture) -> Side:
    """What decides which row of tolerances holds."""
    m = capture.manifest
    return Side(m.source, str(m.backend.get("backend", "cpu")), m.dtype, m.quantized, m.model_digest)


def tensors(capture: Capture, wanted: Wanted = lambda _entry: True) -> dict[str, TensorRef]:
    """Name -> tensor, in computation order. The name is the file's path less `.bin`."""
    return {name_of(e): _ref(capture, e) for e in capture.manifest.files if wanted(e)}


def name_of(entry: FileEntry) -> str:
    """`layer-3/ffn_gate`, `step-2/lm_head`."""
    return entry.path.removesuffix(".bin")


def _ref(capture: Capture, entry: FileEntry) -> TensorRef:
    def opened() -> AprtTensor:
        return capture.open(entry)

    layer = None if entry.stage in (Stage.FINAL_NORM, Stage.LM_HEAD) else entry.layer
    return TensorRef(name_of(entry), entry.stage, layer, entry.step, entry.shape, opened)


def _unequal(what: str, one: tuple[int, ...], other: tuple[int, ...]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"{what} differ from number {at} on: {_some(one, at)} in the reference, {_some(other, at)} in the test"


def _some(tokens: tuple[int, ...], at: int) -> str:
    return f"{len(tokens)} tokens, there {list(tokens[at : at + 4])}"


def _heads(heads: tuple[int, ...] | None) -> str:
    return "all" if heads is None else ",".join(map(str, heads))
