"""Findings of a comparison -> text for a terminal, or plain data for JSON. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import isfinite, isnan, prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pv.compare.forwards import ForwardDiff
    from pv.compare.metrics import LogitMetrics, TensorMetrics, Worst
    from pv.compare.tensors import TensorDiff
    from pv.compare.weights import WeightDiff
    from pv.trace.pairing import Comparison
    from pv.trace.reading import Capture

Cells = Sequence[str]


def columns(header: Cells, lines: Sequence[Cells], *, right: frozenset[int] = frozenset()) -> list[str]:
    """Cells as aligned lines; columns in `right` are flush right. Nothing is cut to a width."""
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    return [
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (header, *lines)
    ]


def figure(value: float) -> str:
    """Three digits; 0 and 1 as they are."""
    if isnan(value):
        return "NaN"
    return f"{value + 0.0:.3g}"  # and never -0


def place(at: tuple[int, ...]) -> str:
    """An index as it is written in the program."""
    return "[" + ", ".join(map(str, at)) + "]"


def tensor_lines(found: TensorDiff) -> list[str]:
    """All figures of one tensor, one a line."""
    m = found.metrics
    lines = [
        ("identical", "yes, bit for bit" if m.identical else "no"),
        ("elements", f"{m.rows.compared.sum()} compared"),
    ]
    if m.worst is None:
        lines.append(("max |diff|", "nothing to compare: no element is finite on both sides"))
    else:
        lines += [
            ("max |diff|", f"{figure(m.max_abs)} at {place(m.worst.at)}: {_pair(m.worst)}"),
            ("rms", figure(m.rms)),
            ("cosine", f"{m.cosine:.9g}" + ("" if m.cosine_loss == 0 else f" (1 - {figure(m.cosine_loss)})")),
            ("rel_l2", figure(m.rel_l2)),
            ("linf_rel", figure(m.linf_rel)),
            ("scale", f"{m.scale:.9g}"),
        ]
    if found.details is not None:
        s = found.details.spread
        share = m.max_abs / s.reference_std if s.reference_std else float("nan")
        lines += [
            ("mean |diff|", f"{figure(s.mean_abs)} (median {figure(s.median_abs)}, 99 % below {figure(s.p99_abs)})"),
            ("shift", f"{figure(s.shift)}; centred cosine {s.centred_cosine:.9g}"),
            ("std", f"{figure(s.reference_std)} of the reference; max |diff| is {100 * share:.3g} % of it"),
            ("ulp", f"median {figure(s.ulp_median)}, 99 % below {figure(s.ulp_p99)}"),
        ]
    lines += [("not finite", _not_finite(m))]
    return [f"{name:12} {value}" for name, value in lines]


def largest_lines(found: Sequence[Worst], total: int) -> list[str]:
    """The list of the largest differences."""
    cells = [(place(w.at), _value(w.reference), _value(w.test), _value(w.difference)) for w in found]
    head = f"largest differences ({len(found)} of {total} elements)"
    right = frozenset({1, 2, 3})
    return [head, *(f"  {line}" for line in columns(("at", "reference", "test", "difference"), cells, right=right))]


def stage_table(found: Sequence[TensorDiff]) -> list[str]:
    """One line a stage: its worst layer, by relative L2."""
    lines = []
    for stage in dict.fromkeys(d.stage for d in found):
        of_stage = [d for d in found if d.stage is stage]
        worst = max(of_stage, key=_badness)
        failed = sum(not d.ok for d in of_stage)
        verdict = "ok" if not failed else f"{failed} of {len(of_stage)} beyond"
        lines.append((str(stage or worst.name), str(len(of_stage)), worst.name, *_figures(worst), verdict))
    return columns(("stage", "n", "worst", *FIGURE_NAMES, "verdict"), lines, right=frozenset({1, 3, 4, 5, 6}))


def tensor_table(found: Iterable[TensorDiff]) -> list[str]:
    """One line a tensor."""
    lines = [(d.name, *_figures(d), "ok" if d.ok else "beyond") for d in found]
    return columns(("tensor", *FIGURE_NAMES, "verdict"), lines, right=frozenset({1, 2, 3, 4}))


def breach_lines(found: Iterable[TensorDiff], limit: int) -> list[str]:
    """What is beyond its bounds, a line each, the first `limit` in computation order."""
    beyond = [d for d in found if not d.ok]
    lines = [f"{d.name}: {'; '.join(map(str, d.breaches))}{_where(d.metrics)}" for d in beyond[:limit]]
    if len(beyond) > limit:
        lines.append(f"… and {len(beyond) - limit} more (--limit)")
    return lines


def comparison_lines(result: Comparison, limit: int, *, values: bool) -> list[str]:
    """Two captures as text: a line a stage (`values`: a line a tensor); the last line states what was compared."""
    pair, found = result.pair, result.found
    lines = [
        f"reference  {_side(pair.reference)}",
        f"test       {_side(pair.test)}",
        f"judged by  {result.judged_by}",
        "",
    ]
    if found:
        lines += tensor_table(found) if values else stage_table(found)
    if heads := [_logit_line(d.name, d.logits) for d in found if d.logits is not None]:
        lines += ["", *heads]
    if beyond := breach_lines(found, limit):
        lines += ["", *beyond]
    for d in found[:limit] if values else ():
        if not d.metrics.identical:
            lines += ["", d.name, *largest_lines(d.largest, prod(d.metrics.shape))]
    return [*lines, "", *_not_paired(result, limit), _summary(result)]


def comparison_data(result: Comparison) -> dict[str, Any]:
    """Two captures as plain data."""
    return {
        "reference": _side_data(result.pair.reference),
        "test": _side_data(result.pair.test),
        "judged_by": result.judged_by,
        "tensors": [as_data(d) for d in result.found],
        "reference_only": list(result.unpaired.reference_only),
        "test_only": list(result.unpaired.test_only),
        "left_out": list(result.pair.left_out),
        "ok": result.ok,
    }


def weight_table(found: Sequence[WeightDiff]) -> list[str]:
    """One line a tensor of two models that is not equal."""
    lines = []
    for d in found:
        if d.same:
            continue
        types = d.reference_type if d.reference_type == d.test_type else f"{d.reference_type} -> {d.test_type}"
        m = d.metrics
        figures = ("", "", "", "") if m is None else _figures_of(m)
        lines.append((d.name, types, *figures, d.problem))
    return columns(("tensor", "type", *FIGURE_NAMES, ""), lines, right=frozenset({2, 3, 4, 5})) if lines else []


def weight_lines(found: Sequence[WeightDiff], limit: int, *, values: bool) -> list[str]:
    """The table of weights, its first `limit` lines unless `values`, and the line that counts."""
    table = weight_table(found)
    shown = table if values else table[: limit + 1]
    more = [f"… and {len(table) - len(shown)} more (--values)"] if len(table) > len(shown) else []
    same = sum(d.same for d in found)
    return [*shown, *more, f"{len(found)} tensors: {same} equal, {len(found) - same} differ"]


def forward_lines(diff: ForwardDiff, limit: int, *, values: bool) -> list[str]:
    """A forward through two models as text: a line a stage (`values`: a line a tensor), then the line that counts."""
    found = diff.found
    same, beyond, alone = (
        sum(d.metrics.identical for d in found),
        sum(not d.ok for d in found),
        sum(map(len, diff.unpaired)),
    )
    lines = []
    if same < len(found):
        lines += tensor_table(found) if values else stage_table(found)
        lines += ["", *(_logit_line(d.name, d.logits) for d in found if d.logits is not None)]
        lines += breach_lines(found, limit)
    return [*lines, f"{len(found)} stages: {same} identical, {beyond} beyond bounds, {alone} on one side only"]


def forward_as_data(diff: ForwardDiff) -> dict[str, Any]:
    """A forward through two models as plain data."""
    return {
        "stages": [as_data(d) for d in diff.found],
        "reference_only": list(diff.unpaired.reference_only),
        "test_only": list(diff.unpaired.test_only),
        "ok": diff.ok,
    }


def as_data(found: TensorDiff) -> dict[str, Any]:
    """One finding as plain data: every figure, the bounds it breaks."""
    return {
        "name": found.name,
        "stage": None if found.stage is None else str(found.stage),
        "layer": found.layer,
        "step": found.step,
        **metrics_as_data(found.metrics),
        "logits": _plain(asdict(found.logits)) if found.logits else None,
        "spread": _plain(asdict(found.details.spread)) if found.details else None,
        "rel_l2_without_massive": _number(found.details.without_massive) if found.details else None,
        "largest": [_plain(w._asdict()) for w in found.largest],
        "breaches": [_plain(b._asdict()) for b in found.breaches],
        "ok": found.ok,
    }


def metrics_as_data(m: TensorMetrics) -> dict[str, Any]:
    """The figures of one tensor as plain data."""
    return _plain(
        {
            "shape": list(m.shape),
            "positions": m.positions,
            "identical": m.identical,
            "max_abs": m.max_abs,
            "max_abs_at": None if m.worst is None else list(m.worst.at),
            "test_there": None if m.worst is None else m.worst.test,
            "reference_there": None if m.worst is None else m.worst.reference,
            "rms": m.rms,
            "rel_l2": m.rel_l2,
            "rel_l2_at": m.rel_l2_at,
            "nmse": m.rel_l2**2,
            "linf_rel": m.linf_rel,
            "linf_rel_at": m.linf_rel_at,
            "cosine": m.cosine,
            "cosine_loss": m.cosine_loss,
            "cosine_at": m.cosine_at,
            "scale": m.scale,
            "not_finite": m.nonfinite._asdict(),
        }
    )


def weight_as_data(found: WeightDiff) -> dict[str, Any]:
    """One tensor of two models as plain data."""
    return {
        "name": found.name,
        "reference_type": found.reference_type,
        "test_type": found.test_type,
        "problem": found.problem,
        **({} if found.metrics is None else metrics_as_data(found.metrics)),
    }


FIGURE_NAMES = ("rel_l2", "linf_rel", "1-cos", "max |diff|")


def _figures(found: TensorDiff) -> tuple[str, str, str, str]:
    return _figures_of(found.metrics)


def _figures_of(m: TensorMetrics) -> tuple[str, str, str, str]:
    return figure(m.rel_l2), figure(m.linf_rel), figure(m.cosine_loss), figure(m.max_abs)


def _badness(found: TensorDiff) -> tuple[bool, float]:
    value = found.metrics.rel_l2
    return bool(found.breaches), float("inf") if isnan(value) else value


def _side(capture: Capture) -> str:
    m = capture.manifest
    backend = m.backend.get("backend", "?")
    return f"{capture.folder} ({m.model}, {m.source}, {backend}, {m.dtype}, {len(m.tokens)} tokens)"


def _side_data(capture: Capture) -> dict[str, Any]:
    m = capture.manifest
    return {
        "path": str(capture.folder),
        "model": m.model,
        "model_digest": m.model_digest,
        "source": m.source,
        "backend": dict(m.backend),
        "dtype": m.dtype,
        "tokens": list(m.tokens),
        "flags": list(m.flags),
    }


def _logit_line(name: str, head: LogitMetrics) -> str:
    tokens = (
        f"first token equal ({head.top1_reference})"
        if head.top1_equal
        else f"first token {head.top1_test} against {head.top1_reference}, margin {figure(head.margin)}"
    )
    return f"{name}: KL {figure(head.kl)} nats, {tokens}, top {head.k} overlap {figure(head.jaccard)}"


def _not_paired(result: Comparison, limit: int) -> list[str]:
    lines = []
    for side, names in (("reference", result.unpaired.reference_only), ("test", result.unpaired.test_only)):
        if names:
            more = f" and {len(names) - limit} more" if len(names) > limit else ""
            lines.append(f"only in the {side}: {', '.join(names[:limit])}{more}")
    if result.pair.left_out:
        lines.append(f"left out by one side, as it says itself: {', '.join(result.pair.left_out)}")
    return lines


def _summary(result: Comparison) -> str:
    beyond, alone = sum(not d.ok for d in result.found), sum(map(len, result.unpaired))
    same = sum(d.metrics.identical for d in result.found)
    return f"{len(result.found)} tensors compared: {same} identical, {beyond} beyond bounds, {alone} on one side only"


def _where(m: TensorMetrics) -> str:
    return "" if m.worst is None else f"; largest at {place(m.worst.at)}: {_pair(m.worst)}"


def _pair(worst: Worst) -> str:
    return f"{_value(worst.test)} against {_value(worst.reference)}"


def _value(value: float) -> str:
    return f"{value:.9g}"


def _not_finite(m: TensorMetrics) -> str:
    odd = m.nonfinite
    if not odd.any:
        return "none"
    return (
        f"NaN {odd.nan_test} against {odd.nan_reference}, infinite or masked {odd.infinite_test} against "
        f"{odd.infinite_reference}, {odd.disagree} not the same on both sides"
    )


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    return {name: _number(value) for name, value in data.items()}


def _number(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are words, as in evidence records."""
    if isinstance(value, float) and not isfinite(value):
        return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
