"""The gate's power -> a table for a terminal, Markdown for the docs, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pv.parity.power import Power, Row


def text(power: Power) -> str:
    """A table with one line for each defect: figures, who catches it, and why."""
    head = f"{power.facts.backend} ({power.facts.name}, {power.facts.driver})"
    lines = [
        f"{head}: {len(power.rows)} defects, {power.tokens} prompt tokens, {power.steps} steps, kind {power.kind.value}"
    ]
    width = max((len(row.defect) for row in power.rows), default=8)
    columns = list(power.rows[0].caught()) if power.rows else []
    lines.append(f"{'defect':{width}}  {'by':7}  {'cosine':>11}  {'max |d|':>8}  {'KL':>8}  " + "  ".join(columns))
    for row in power.rows:
        f, caught = row.figures, row.caught()
        marks = "  ".join(f"{'caught' if caught[name] else '-':^{len(name)}}" for name in columns)
        lines.append(f"{row.defect:{width}}  {row.by:7}  {f.cosine:11.7f}  {f.max_abs:8.2g}  {f.kl:8.2g}  {marks}")
    return "\n".join([*lines, *tail(power)])


def markdown(power: Power) -> str:
    """The same as a Markdown table."""
    columns = list(power.rows[0].caught()) if power.rows else []
    lines = [
        f"**{power.facts.backend}**, {power.facts.name}, {power.facts.driver}; {power.tokens} prompt tokens, "
        f"{power.steps} steps",
        "",
        "| defect | cosine | max abs | KL | " + " | ".join(columns) + " | start gate | deep check |",
        "| --- | ---: | ---: | ---: | " + " | ".join("---" for _ in columns) + " | --- | --- |",
    ]
    for row in power.rows:
        f, caught = row.figures, row.caught()
        marks = " | ".join("x" if caught[name] else "" for name in columns)
        step = row.start.rpartition("at step ")[2] if "at step" in row.start else "open" if row.start else ""
        start = f"x ({step})" if row.start else ""
        deep = ", ".join(row.deep_by)
        lines.append(f"| {row.defect} | {f.cosine:.6f} | {f.max_abs:.2g} | {f.kl:.2g} | {marks} | {start} | {deep} |")
    return "\n".join([*lines, "", *tail(power)])


def tail(power: Power) -> Sequence[str]:
    """What the table comes to, with denominators."""
    by = {name: [row.defect for row in power.rows if row.by == name] for name in ("start", "deep", "neither")}
    healthy = power.healthy
    lines = [
        f"caught by the start gate: {len(by['start'])} of {len(power.rows)}; by the deep check alone: "
        f"{len(by['deep'])} ({', '.join(by['deep']) or 'none'}); by neither: {len(by['neither'])} "
        f"({', '.join(by['neither']) or 'none'})",
        f"healthy deep check: {'accepted' if power.healthy_deep.accepted else 'REJECTED'}",
    ]
    if healthy.prompts:
        three = f", rule of three {healthy.rule_of_three:.2%}" if healthy.rule_of_three is not None else ""
        lines.append(
            f"false alarms: {len(healthy.alarms)} of {healthy.prompts} healthy prompts (rate below {healthy.bound:.2%} "
            f"at 95 %{three}); {healthy.near_ties} near ties; lowest cosine {healthy.lowest_cosine:.9f}, "
            f"largest max |d| {healthy.largest_max_abs:.2g}, largest KL {healthy.largest_kl:.2g}"
        )
        lines += [f"  {alarm}" for alarm in healthy.alarms]
    return lines


def missed(power: Power) -> list[Row]:
    """Defects that the deep check does not see: each is a hole."""
    return [row for row in power.rows if not row.deep]


def plot(powers: Sequence[Power], path: Path) -> None:
    """Who catches what, as a picture. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.colors import ListedColormap

    figure, axes = pyplot.subplots(1, len(powers), figsize=(5.5 * len(powers), 8), squeeze=False)
    for axis, power in zip(axes[0], powers, strict=True):
        columns = [*power.rows[0].caught(), "start gate", "deep check"]
        cells = [[*row.caught().values(), bool(row.start), bool(row.deep)] for row in power.rows]
        axis.imshow(cells, aspect="auto", cmap=ListedColormap(["#f4d6cc", "#2b7a78"]), vmin=0, vmax=1)
        axis.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=8)
        axis.set_yticks(range(len(power.rows)), [row.defect for row in power.rows], fontsize=8)
        axis.set_title(f"{power.facts.backend} ({power.facts.name})\ndark: caught", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
