"""Two forwards that should agree and do not -> lines for the record: the guilty stage, its figures, how to see it.

The report finds the stage in these words and draws the figures: from a red row to the stage that is to blame.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pv.backends.protocol import Session
    from pv.compare.thresholds import Kind
    from pv.trace.bisection import Bisection

AROUND = 2  # stages before and behind the guilty one whose figures are kept

Open = Callable[[], "Session"]


def accusation(
    reference: Open,
    suspect: Open,
    tokens: Sequence[int],
    kind: Kind,
    *,
    steps: int = 0,
    shadow: Open | None = None,
    again: str = "",
) -> tuple[str, ...]:
    """Bisect two sessions, opened and closed here, over a prompt and `steps` decode steps.

    A comparison has failed already when this is asked; a bisection that fails too is a line, not a crash of the check.
    """
    from pv.trace.bisection import bisect_live

    try:
        with ExitStack() as stack:
            sides = [stack.enter_context(closing(side())) for side in (reference, suspect)]
            exact = stack.enter_context(closing(shadow())) if shadow else None
            result = bisect_live(sides[0], sides[1], tokens, kind, steps=steps, shadow=exact)
    except Exception as problem:
        return (f"no stage could be named: {type(problem).__name__}: {problem}",)
    return lines_of(result, again)


def lines_of(result: Bisection, again: str) -> tuple[str, ...]:
    """The verdict in words, what it looks like, the figures of the stages around it, and the command."""
    from pv.report.bisection import sentence

    looks = [f"looks like: {word}" for word in result.diagnosis]
    return (sentence(result), *looks, *_figures(result), *([f"again: {again}"] if again else []))


def bisect_command(context: Any, model: Path, backend: str, tokens: Sequence[int], steps: int, prefix: str = "") -> str:
    """The `pv bisect` that comes to the same verdict, from the project's root."""
    inside = model.resolve().is_relative_to(context.project.resolve())
    place = model.resolve().relative_to(context.project.resolve()).as_posix() if inside else str(model)
    ids = ",".join(map(str, tokens))
    return f"{prefix}pv bisect {shlex.quote(place)} --backend {backend} --tokens {ids} --steps {steps}"


def _figures(result: Bisection) -> list[str]:
    guilty = set(result.finding.guilty[:1])
    seen = [o for o in result.observations if o.local is not None]
    at = next((i for i, o in enumerate(seen) if o.node in guilty), None)
    if at is None:
        return []
    return [
        f"{o.node}: total {o.total.rel_l2:.3g}, local {o.local.rel_l2:.3g}"
        for o in seen[max(0, at - AROUND) : at + AROUND + 1]
        if o.local is not None
    ]
