"""A finished bisection -> a sentence a person understands, the table behind it, plain data. Imports nothing heavy."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from pv.model.stages import FIRST_LAYER_ONLY
from pv.report.differences import columns, figure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pv.compare.bisect import Observation
    from pv.compare.graph import Node
    from pv.trace.bisection import Bisection


def sentence(result: Bisection) -> str:
    """The verdict in words: who is guilty, of what, and what follows from it."""
    from pv.compare.bisect import Verdict

    return {
        Verdict.IDENTICAL: _identical,
        Verdict.AGREE: _agree,
        Verdict.NOISE: _noise,
        Verdict.BUG: _bug,
        Verdict.UNDECIDED: _undecided,
    }[result.finding.verdict](result)


def lines(result: Bisection, limit: int) -> list[str]:
    """The sentence, the answers, and the stages around the guilty ones."""
    f = result.finding
    text = [sentence(result), ""]
    text += [f"looks like: {word}" for word in result.diagnosis]
    text += [
        f"judged by row {result.row.kind}: {result.row.title}",
        f"first difference of any byte   {_named(f.first_different)}",
        f"first beyond the bound         {_named(f.first_crossing)}",
        f"largest local error            {_largest(result)}",
        f"first not finite               {_named(f.first_not_finite)}",
        f"looked at                      {f.looked_at} stages, {f.locally} by themselves; {f.beyond} beyond bounds",
    ]
    if shown := _shown(result, limit):
        text += ["", *_table(shown)]
    return [*text, *(f"note: {note}" for note in result.notes)]


def as_data(result: Bisection) -> dict[str, Any]:
    """Everything as plain data."""
    f = result.finding
    return {
        "verdict": str(f.verdict),
        "sentence": sentence(result),
        "guilty": [_node_data(node) for node in f.guilty],
        "diagnosis": list(result.diagnosis),
        "row": str(result.row.kind),
        "first_different": _node_data(f.first_different),
        "first_crossing": _node_data(f.first_crossing),
        "first_not_finite": _node_data(f.first_not_finite),
        "largest_local": _node_data(f.largest_local),
        "noise": f.noise,
        "frontier": [
            {
                **(_node_data(s.node) or {}),
                "total": _number(s.total),
                "incoming": _number(s.incoming),
                "local": None if s.local is None else _number(s.local),
                "gain": _number(s.gain),
                "guilty": s.guilty,
            }
            for s in f.frontier
        ],
        "stages": [_observation_data(o) for o in result.observations],
        "notes": list(result.notes),
    }


def _identical(result: Bisection) -> str:
    return f"The two forwards are identical, byte for byte, at all {result.finding.looked_at} stages."


def _agree(result: Bisection) -> str:
    worst = max(result.observations, key=lambda o: o.total.rel_l2)
    return (
        f"The two forwards agree: no stage is off by itself, and all {result.finding.looked_at} stand within the "
        f"bounds; the largest error is {figure(worst.total.rel_l2)} at {worst.node}{_envelope(worst)}."
    )


def _noise(result: Bisection) -> str:
    from pv.compare.bisect import precision_name

    f = result.finding
    if f.noise is None:
        return (
            "This is rounding noise, no bug: no stage is off by itself, yet rounding is amplified on the way until "
            f"{_named(f.first_crossing)} is beyond its bound."
        )
    return (
        f"This is precision noise, no bug: all products with weights err by about {figure(f.noise)} (relative L2), "
        f"alike in every layer and without structure, which is the size of {precision_name(f.noise)} numbers. No stage "
        "stands out of it."
    )


def _bug(result: Bisection) -> str:
    f = result.finding
    first = f.guilty[0]
    o = result.at(first)
    local = o.local
    size = "not finite" if local is None or local.metrics.broken else f"off by {_percent(local.rel_l2)}"
    side = "" if local is None or local.side == "test" else " (it is the reference that is off)"
    more = f" The same in {_grouped(f.guilty[1:])}." if len(f.guilty) > 1 else ""
    above = "" if f.noise is None else f" It stands out of a noise of {figure(f.noise)} that all products share."
    rest = " The stages after it inherit the error." if f.beyond > len(f.guilty) else ""
    return f"The guilty stage is {first}: from equal inputs its result is {size}{_times(o)}{side}.{more}{above}{rest}"


def _undecided(result: Bisection) -> str:
    f = result.finding
    names = ", ".join(str(s.node) for s in f.frontier[:4])
    return (
        f"The forwards part at {names}: beyond the bound, with inputs that pass. Whether that is a fault of the stage "
        "or of what lies between could not be seen."
    )


def _times(o: Observation) -> str:
    if not o.local_envelope or o.local is None or o.local.metrics.broken:
        return ""
    return f", {o.local.rel_l2 / o.local_envelope:,.3g} times float32's own rounding"


def _envelope(o: Observation) -> str:
    return f", {o.total.rel_l2 / o.envelope:.2g} times float32's own rounding" if o.envelope else ""


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %" if value >= 1e-4 else f"{value:.3g} (relative L2)"


def _grouped(guilty: Iterable[Node]) -> str:
    """`k_post_rope of layers 0-3, q_post_rope of layers 1-3`."""
    by_stage: dict[tuple[str, int | None], list[int | None]] = {}
    for node in guilty:
        layer = None if node.stage in FIRST_LAYER_ONLY else node.layer
        by_stage.setdefault((str(node.stage), node.step), []).append(layer)
    words = []
    for (stage, step), layers in by_stage.items():
        numbers = sorted(n for n in layers if n is not None)
        where = "" if not numbers else f" of layer{'s' if len(numbers) > 1 else ''} {_ranges(numbers)}"
        words.append(stage + where + ("" if step is None else f" at decode step {step}"))
    return ", ".join(words[:6]) + (f" and {len(words) - 6} more" if len(words) > 6 else "")


def _ranges(numbers: list[int]) -> str:
    runs = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [n for _, n in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(runs)


def _largest(result: Bisection) -> str:
    node = result.finding.largest_local
    if node is None:
        return "none"
    local = result.at(node).local
    return f"{node}: {figure(local.rel_l2)}" if local else str(node)


def _named(node: Node | None) -> str:
    return "none" if node is None else str(node)


def _shown(result: Bisection, limit: int) -> list[Observation]:
    """The first guilty stage and the frontier, with two stages before and after each, in computation order."""
    wanted = {*result.finding.guilty[:1], *(s.node for s in result.finding.frontier)}
    places = [i for i, o in enumerate(result.observations) if o.node in wanted]
    kept = sorted({j for i in places for j in range(i - 2, i + 3) if 0 <= j < len(result.observations)})
    return [result.observations[i] for i in kept[:limit]]


def _table(observations: list[Observation]) -> list[str]:
    cells = [
        (
            str(o.node),
            figure(o.total.rel_l2),
            "" if o.local is None else figure(o.local.rel_l2),
            "" if o.local_envelope is None else figure(o.local_envelope),
            figure(o.total.cosine_loss),
            figure(o.total.max_abs),
        )
        for o in observations
    ]
    header = ("stage", "total rel_l2", "local rel_l2", "float32 rounding", "1-cos", "max |diff|")
    return columns(header, cells, right=frozenset(range(1, 6)))


def _observation_data(o: Observation) -> dict[str, Any]:
    local = o.local
    return {
        **(_node_data(o.node) or {}),
        "identical": o.total.identical,
        "total": _number(o.total.rel_l2),
        "max_abs": _number(o.total.max_abs),
        "cosine_loss": _number(o.total.cosine_loss),
        "local": None if local is None else _number(local.rel_l2),
        "side": None if local is None else local.side,
        "concentration": None if local is None else _number(local.concentration),
        "scale": None if local is None else _number(local.metrics.scale),
        "envelope": o.envelope,
        "local_envelope": o.local_envelope,
    }


def _node_data(node: Node | None) -> dict[str, Any] | None:
    return None if node is None else {"stage": str(node.stage), "layer": node.layer, "step": node.step}


def _number(value: float) -> float | str:
    if value != value:  # NaN
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value
