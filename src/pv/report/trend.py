"""The records of a claim -> each measurement over time in each cell, and where it moved suddenly while still passing.

A point drifts when the measurement passes and

* its value lies further from the median of at least five earlier passing values under the same bound than five times
  their median absolute deviation (and than `repeat`, and than a billionth of the median: rounding is no drift), or
* its margin is less than half of the median margin of the earlier passing points under the same bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from statistics import median
from typing import Any, NamedTuple

from pv.contract.vocabulary import Cell, Verdict
from pv.evidence.record import MeasurementRecord, Number, Record
from pv.evidence.statement import plain
from pv.falsify.judge import bound_text, number_text
from pv.report import svg, terminal

RULE = (
    "drift: a passing value further than 5 median absolute deviations from the median of 5 or more earlier ones, "
    "or a margin less than half of the median of earlier ones"
)
ENOUGH = 5  # earlier values that a deviation is judged by
DEVIATIONS = 5.0
ROUNDING = 1e-9
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement of one record, with what about its run may explain a change. `drift` says what moved, or ""."""

    digest: str
    started_at: str
    value: Number
    margin: Number | None
    passed: bool
    bound: str
    verdict: Verdict
    contract_version: str
    tool_version: str
    commit: str
    device: str
    driver: str
    torch: str
    host: str
    repeat: Number | None = None
    drift: str = ""

    @property
    def environment(self) -> str:
        """What it ran on, in a line."""
        told = (self.device, self.driver, f"torch {self.torch}" if self.torch else "", f"pv {self.tool_version}")
        return ", ".join(filter(None, told))


@dataclass(frozen=True, slots=True)
class Series:
    """One measurement in one cell, oldest first."""

    cell: Cell
    measurement: str
    unit: str
    points: tuple[Point, ...]

    @property
    def drifts(self) -> tuple[Point, ...]:
        """The points that moved suddenly."""
        return tuple(point for point in self.points if point.drift)


class Trend(NamedTuple):
    """All series of one claim."""

    contract_id: str
    claim_id: str
    series: tuple[Series, ...]

    @property
    def records(self) -> int:
        """How many records gave a point."""
        return len({point.digest for one in self.series for point in one.points})


def series_of(records: Iterable[Record]) -> tuple[Series, ...]:
    """The series of these records (oldest first, none of them retracted), in the order in which they first occur."""
    points: dict[tuple[Cell, str, str], list[Point]] = {}
    for record in records:
        for measured in record.measurements:
            points.setdefault((record.cell, measured.name, measured.unit), []).append(_point(record, measured))
    return tuple(
        Series(cell, name, unit, tuple(_judged(found))) for (cell, name, unit), found in points.items()
    )  # a changed unit is another series: its numbers cannot be compared


def _point(record: Record, measured: MeasurementRecord) -> Point:
    environment, threshold = record.environment, measured.threshold
    return Point(
        digest=record.digest,
        started_at=record.started_at,
        value=measured.value,
        margin=measured.margin,
        passed=measured.passed,
        bound=bound_text(threshold) if threshold else "",
        verdict=record.verdict,
        contract_version=record.contract_version,
        tool_version=record.tool_version,
        commit=record.git_commit,
        device=environment.device,
        driver=environment.driver,
        torch=environment.torch,
        host=environment.host,
        repeat=threshold.repeat if threshold else None,
    )


# --- drift -----------------------------------------------------------------------------------------------------------


def _judged(points: Sequence[Point]) -> Iterator[Point]:
    for at, point in enumerate(points):
        earlier = [one for one in points[:at] if one.passed and one.bound == point.bound]
        said = [_jump(point, earlier), _shrunk(point, earlier)] if point.passed else []
        yield replace(point, drift="; ".join(filter(None, said)))


def _jump(point: Point, earlier: Sequence[Point]) -> str:
    values = [float(plain(one.value)) for one in earlier]
    value = float(plain(point.value))
    if len(values) < ENOUGH or not all(map(math.isfinite, (*values, value))):
        return ""
    middle = median(values)
    spread = median(abs(one - middle) for one in values)
    repeat = 0.0 if point.repeat is None else float(plain(point.repeat))
    if abs(value - middle) <= max(DEVIATIONS * spread, repeat, ROUNDING * abs(middle)):
        return ""
    return f"value {number_text(value)}, median of {len(values)} before {number_text(middle)} ± {number_text(spread)}"


def _shrunk(point: Point, earlier: Sequence[Point]) -> str:
    margins = [float(plain(one.margin)) for one in earlier if one.margin is not None]
    if point.margin is None or not margins:
        return ""
    margin, usual = float(plain(point.margin)), median(margins)
    if not margin < usual / 2:
        return ""
    return f"margin {number_text(margin)}, median of {len(margins)} before {number_text(usual)}"


# --- for people and programs -----------------------------------------------------------------------------------------


def as_text(trend: Trend) -> str:
    """Every series as a table, the newest point last, then the drifts and the rule."""
    lines = [f"{trend.claim_id}  {trend.contract_id}  {_count(trend.records, 'record')}"]
    for one in trend.series:
        unit = "" if one.unit == "1" else f" [{one.unit}]"
        lines += ["", f"{one.measurement}{unit} on {one.cell}  {_blocks(one.points)}".rstrip()]
        lines += terminal.table([_row(point) for point in one.points])
    drifts = [(one, point) for one in trend.series for point in one.drifts]
    if drifts:
        lines += ["", "drift:"]
        lines += [
            f"  {one.measurement} on {one.cell} at {point.started_at}: {point.drift}; {_changed(one, point)}"
            for one, point in drifts
        ]
    return "\n".join([*lines, "", f"({RULE})"])


def as_data(trend: Trend) -> dict[str, Any]:
    """The same for programs."""
    return {
        "contract": trend.contract_id,
        "claim": trend.claim_id,
        "records": trend.records,
        "rule": RULE,
        "series": [
            {
                "measurement": one.measurement,
                "device": one.cell.device.value,
                "subject": one.cell.subject,
                "unit": one.unit,
                "points": [_point_data(point) for point in one.points],
            }
            for one in trend.series
        ],
    }


def as_svg(trends: Sequence[Trend]) -> str:
    """A picture: for each series its values over the order of the records, the bound and the last value in words."""
    rows = [(trend, one) for trend in trends for one in trend.series]
    height, width = 92, 640
    body = [_svg_row(trend, one, at * height) for at, (trend, one) in enumerate(rows)]
    label = escape(", ".join(dict.fromkeys(trend.claim_id for trend in trends)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {max(1, len(rows)) * height}" width="{width}" '
        f'role="img" aria-label="trend of {label}"><style>{_STYLE}</style>{"".join(body)}</svg>\n'
    )


_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.small{font-size:11px;fill:#59636e}"
    ".line{fill:none;stroke:#0969da;stroke-width:1.5}.point{fill:#0969da}.warn{fill:#9a6700}"
    ".bad{fill:none;stroke:#b3261e;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9da7b1}.line{stroke:#6cb6ff}.point{fill:#6cb6ff}"
    ".warn{fill:#e0b341}.bad{stroke:#ff8b81}}"
)


def _svg_row(trend: Trend, one: Series, top: int) -> str:
    last, first = one.points[-1], one.points[0]
    values = [float(plain(point.value)) for point in one.points]
    drawing = svg.spark(values, [bool(point.drift) for point in one.points])
    placed = drawing.replace("<svg ", f'<svg x="12" y="{top + 38}" ', 1)
    unit = "" if one.unit == "1" else f" {one.unit}"
    margin = "" if last.margin is None else f", margin {number_text(last.margin)}"
    drift = f"; drift: {one.drifts[-1].drift}" if one.drifts else ""
    title = f"{trend.claim_id}  {one.measurement} on {one.cell}"
    said = f"{number_text(last.value)}{unit} ({last.bound}{margin}){drift}"
    when = f"{_count(len(one.points), 'record')}, {first.started_at[:10]} to {last.started_at[:10]}"
    return (
        f'<text x="12" y="{top + 22}">{escape(title)}</text>{placed}'
        f'<text x="188" y="{top + 52}">{escape(said)}</text>'
        f'<text class="small" x="188" y="{top + 68}">{escape(when)}</text>'
    )


def _row(point: Point) -> tuple[str, ...]:
    word = "" if point.passed else "BROKEN"
    return (
        point.started_at,
        number_text(point.value),
        point.bound,
        "" if point.margin is None else f"margin {number_text(point.margin)}",
        word or ("drift" if point.drift else "holds"),
        point.contract_version,
        point.environment,
        point.digest.removeprefix("sha256:")[:12],
    )


def _changed(one: Series, point: Point) -> str:
    """What else is not as it was at the point before: where to look first."""
    before = one.points[one.points.index(point) - 1]
    told = [
        f"{what} {was or 'none'} -> {now or 'none'}"
        for what, was, now in (
            ("device", before.device, point.device),
            ("driver", before.driver, point.driver),
            ("torch", before.torch, point.torch),
            ("host", before.host, point.host),
            ("pv", before.tool_version, point.tool_version),
            ("commit", before.commit[:12], point.commit[:12]),
        )
        if was != now
    ]
    return f"since the record before: {', '.join(told)}" if told else "nothing else is known to have changed"


def _point_data(point: Point) -> dict[str, Any]:
    return {
        "record": point.digest,
        "started_at": point.started_at,
        "value": point.value,
        "bound": point.bound,
        "margin": point.margin,
        "passed": point.passed,
        "verdict": point.verdict.value,
        "contract_version": point.contract_version,
        "tool_version": point.tool_version,
        "commit": point.commit,
        "device": point.device,
        "driver": point.driver,
        "torch": point.torch,
        "host": point.host,
        "drift": point.drift,
    }


def _blocks(points: Sequence[Point]) -> str:
    """`▁▂█`: the values in one line; ? where one is not finite, nothing where there is only one."""
    values = [float(plain(point.value)) for point in points]
    over = svg.scale(values)
    letters = (BLOCKS[round(over(value) * (len(BLOCKS) - 1))] if math.isfinite(value) else "?" for value in values)
    return "".join(letters) if len(values) > 1 else ""


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
