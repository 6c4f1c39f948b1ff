"""Numbers -> small SVG drawings, as text. Every text in them is escaped; colours come from classes of the page's style.

A drawing never carries a meaning alone: the numbers stand beside it, and shapes differ where colours do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import isfinite, log10
from typing import NamedTuple

SHAPES = 4  # of dots: circle, square, triangle, diamond
LOGARITHMIC = 100.0  # from this ratio of largest to smallest on, a scale of positive numbers is logarithmic


class Scale(NamedTuple):
    """From values to [0, 1]. On a logarithmic one `low` and `high` are logarithms."""

    low: float
    high: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        """Where a value lies; what is outside is put at the end."""
        if self.logarithmic and value <= 0:
            return 0.0
        at = log10(value) if self.logarithmic else value
        return min(1.0, max(0.0, (at - self.low) / (self.high - self.low))) if self.high > self.low else 0.5


def scale(values: Iterable[float], *, zero: bool = False) -> Scale:
    """The scale over the finite values among these; with `zero`, a linear one has 0 on it."""
    finite = [value for value in values if isfinite(value)]
    if not finite:
        return Scale(0.0, 1.0, False)
    low, high = min(finite), max(finite)
    if low > 0 and high / low >= LOGARITHMIC:
        return Scale(log10(low) - 0.1, log10(high), True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    # Halves, since the distance of the two largest floats is none.
    return Scale(low, high, False) if high / 2 - low / 2 < 1e300 else Scale(-1.0, 1.0, False)


def share_bar(parts: Sequence[tuple[str, int]], label: str) -> str:
    """A bar of parts, by class and count; `label` says it in words."""
    total = sum(count for _, count in parts)
    at, pieces = 0.0, []
    for name, count in parts:
        if count:
            width = 100 * count / total
            pieces.append(f'<rect class="{escape(name)}" x="{at:.3f}" width="{width:.3f}" height="10"/>')
            at += width
    return _svg("share", 100, 10, "".join(pieces), label, stretch=True)


def margin_bar(fraction: float | None, passed: bool, label: str) -> str:
    """How far a value stands from its bound: to the right within it, to the left beyond it; None: no number.

    `fraction` is the margin as a share of the bound, cut off at 1. The style draws the line of the bound at the middle.
    """
    middle, half = 60.0, 58.0
    if fraction is None or not isfinite(fraction):
        body = '<path class="bad" d="M6 3l8 8m0-8l-8 8"/>'
    else:
        width = max(2.0, min(1.0, abs(fraction)) * half)
        if passed:
            body = f'<rect class="ok" x="{middle:g}" y="3" width="{width:.1f}" height="8"/>'
        else:
            body = f'<rect class="bad" x="{middle - width:.1f}" y="3" width="{width:.1f}" height="8"/>'
    return _svg("margin", 120, 14, body, label, sized=False)


def bar(value: float, over: Scale, label: str = "") -> str:
    """One value on a scale, from its zero (or its low end)."""
    width = 140.0
    start = over(0.0) if not over.logarithmic else 0.0
    x, end = sorted((start * width, over(value) * width))
    body = f'<rect class="track" y="5" width="{width:g}" height="4"/>'
    body += f'<rect class="figure" x="{x:.1f}" y="2" width="{max(1.5, end - x):.1f}" height="10"/>'
    return _svg("bar", width, 14, body, label)


def dots(values: Sequence[float], over: Scale, label: str = "") -> str:
    """Up to four values on one line, each with a shape of its own, and the line between the outermost."""
    width, inset = 160.0, 8.0
    places = [inset + over(value) * (width - 2 * inset) for value in values]
    body = f'<path class="axis" d="M{inset:g} 8H{width - inset:g}"/>'
    body += f'<path class="between" d="M{min(places):.1f} 8H{max(places):.1f}"/>'
    body += "".join(_dot(at, x, 8.0) for at, x in enumerate(places))
    return _svg("dots", width, 16, body, label)


def key(number: int) -> str:
    """The shape that value `number` of `dots` has."""
    return _svg("key", 16, 16, _dot(number, 8.0, 8.0), "")


def spark(values: Sequence[float], marked: Sequence[bool] = (), label: str = "") -> str:
    """Values over their order, a dot for each; marked ones are larger squares, what is not finite a cross below."""
    width, height = 160.0, 34.0
    over = scale(values)
    step = (width - 12) / max(1, len(values) - 1)
    places = [(6 + at * step, height - 6 - over(value) * (height - 12)) for at, value in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for (x, y), value in zip(places, values, strict=True) if isfinite(value))
    body = f'<polyline class="line" points="{line}"/>'
    for at, ((x, y), value) in enumerate(zip(places, values, strict=True)):
        if not isfinite(value):
            body += f'<path class="bad" d="M{x - 3:.1f} {height - 7:.1f}l6 6m0-6l-6 6"/>'
        elif at < len(marked) and marked[at]:
            body += f'<rect class="warn" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
        else:
            body += f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
    return _svg("spark", width, height, body, label)


def _dot(number: int, x: float, y: float) -> str:
    draw: tuple[Callable[[float, float], str], ...] = (_circle, _square, _triangle, _diamond)
    return draw[number % SHAPES](x, y)


def _circle(x: float, y: float) -> str:
    return f'<circle class="dot d0" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def _square(x: float, y: float) -> str:
    return f'<rect class="dot d1" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'


def _triangle(x: float, y: float) -> str:
    return f'<path class="dot d2" d="M{x:.1f} {y - 5.5:.1f}l5.5 10h-11z"/>'


def _diamond(x: float, y: float) -> str:
    return f'<path class="dot d3" d="M{x:.1f} {y - 6:.1f}l6 6-6 6-6-6z"/>'


def _svg(
    name: str, width: float, height: float, body: str, label: str, *, stretch: bool = False, sized: bool = True
) -> str:
    """A whole drawing; without a label it is hidden from screen readers (its numbers stand beside it).

    `stretch`: over the width there is. Not `sized`: the page's style says how large, and draws what all have alike.
    """
    spoken = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    fit = ' preserveAspectRatio="none"' if stretch else f' width="{width:g}" height="{height:g}"' if sized else ""
    return f'<svg class="{name}" viewBox="0 0 {width:g} {height:g}" {spoken}{fit}>{body}</svg>'
