"""`pv parity`: a GPU backend against the CPU on one prompt, deeply, or the power of the gate itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pv.cli.engine import engine_errors
from pv.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pv.backends.protocol import Session
    from pv.model.weights import Weights

GPU = click.Choice(["cuda", "wgpu"])


class _DefaultCheck(click.Group):
    """`pv parity MODEL …` is `pv parity check MODEL …`: the first word is a model unless it names a subcommand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["check", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultCheck, subcommand_metavar="MODEL | power [OPTIONS]")
def parity() -> None:
    """Compare a GPU backend with the CPU; measure the gate's power.

    \b
    pv parity MODEL --prompt TEXT [--assert] [--backend X] [--steps N] [--deep]
    pv parity power [MODEL] [--backend X] [--healthy N] [--plot FILE]
    """


@parity.command(hidden=True)
@click.argument("model")
@click.option("--prompt", help="The text to compare on; without it, the start token alone.")
@click.option("--backend", type=GPU, multiple=True, help="Only this one; may be repeated.  [default: all that open]")
@click.option("--steps", type=click.IntRange(1, 16), help="Steps in lockstep.  [default: PV_PARITY_STEPS, or 3]")
@click.option("--deep", is_flag=True, help="Fixed prompts, 16 steps, every stage on its own, sentinels.")
@click.option("--assert", "asserting", is_flag=True, help="Exit 1 unless every compared backend was accepted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--plant-defect", multiple=True, hidden=True, metavar="BACKEND=DEFECT", help="For tests only.")
def check(
    model: str, prompt: str | None, backend: tuple[str, ...], steps: int | None, deep: bool, asserting: bool,
    as_json: bool, plant_defect: tuple[str, ...],
) -> None:  # fmt: skip
    """Compare the GPU backends with the CPU on MODEL, a path or `synthetic:SHAPE`."""
    with engine_errors():
        from pv.cli.gate_options import BANNER, planted

        plants = dict(planted(text) for text in plant_defect)
        for name, defect in plants.items():
            click.echo(BANNER.format(name=defect, backend=name), err=True)
        weights, tokens = _subject(model, prompt)
        wanted = backend or ("cuda", "wgpu")
        found = [_compared(name, weights, tokens, steps, deep, plants) for name in wanted]
        if as_json:
            click.echo(json.dumps({"model": model, "backends": found}, indent=2))
        else:
            for one in found:
                click.echo("\n".join(one["lines"]))
    if not any(one["accepted"] is not None for one in found):
        sys.exit(ExitCode.BLOCKED)
    if asserting and any(one["accepted"] is not True for one in found if one["accepted"] is not None or backend):
        sys.exit(ExitCode.FINDINGS)


def _compared(
    name: str, weights: Weights, tokens: Sequence[int], steps: int | None, deep: bool, plants: dict[str, str]
) -> dict[str, Any]:
    """One backend's result. `accepted` is None when the backend is not there."""
    from pv.backends.protocol import BackendError
    from pv.backends.registry import BACKENDS

    title = BACKENDS[name].title
    try:
        session = _opened(name, weights, deep, plants)
    except BackendError as problem:
        return {"backend": name, "accepted": None, "reason": problem.reason, "lines": [f"{title}: {problem}"]}
    try:
        head = f"{title}: {session.facts.name}, {session.facts.driver}"
        result = _deep(session, weights) if deep else _start(session, weights, tokens, steps)
    finally:
        session.close()
    verdict = "accepted" if result["accepted"] else f"REJECTED: {result['reason']}"
    return {"backend": name, **result, "lines": [head, *(f"  {line}" for line in result["lines"]), f"  {verdict}"]}


def _opened(name: str, weights: Weights, guard: bool, plants: dict[str, str]) -> Session:
    from pv.backends.registry import opener
    from pv.parity.defects import DEFECTS

    if name in plants:
        return DEFECTS[plants[name]].open(name, weights, guard=guard)
    if name == "wgpu" and guard:
        from pv.backends.wgpu_session import open_wgpu

        return open_wgpu(weights, guard=True)
    return opener(name)(weights)


def _start(session: Session, weights: Weights, tokens: Sequence[int], steps: int | None) -> dict[str, Any]:
    from pv.backends.cpu import open_cpu
    from pv.parity.gate import lockstep, probe, reference_logits, reference_weights
    from pv.parity.start import step_line, steps_from

    count, compared = steps_from(os.environ, steps), probe(tokens)
    reference = open_cpu(reference_weights(weights, session.facts))
    try:
        verdict = lockstep(reference_logits(reference, compared, count), session, compared, count, to_the_end=True)
    finally:
        reference.close()
    return {
        "accepted": verdict.accepted,
        "reason": verdict.reason,
        "near_ties": verdict.near_ties,
        "seconds": round(verdict.seconds, 3),
        "steps": [step.as_json() for step in verdict.steps],
        "lines": [step_line(step.as_json()) for step in verdict.steps],
    }


def _deep(session: Session, weights: Weights) -> dict[str, Any]:
    from pv.backends.cpu import open_cpu
    from pv.parity.deep import deep, record, summary
    from pv.parity.gate import reference_weights

    reference = open_cpu(reference_weights(weights, session.facts))
    try:
        verdict = deep(session, record(reference))
    finally:
        reference.close()
    first = verdict.reasons[0] if verdict.reasons else ""
    return {**verdict.as_json(), "reason": first, "lines": list(summary(verdict))}


@parity.command()
@click.argument("model", default="synthetic:tiny")
@click.option("--backend", type=GPU, multiple=True, help="Only this one; may be repeated.  [default: all that open]")
@click.option("--prompt", default="What is 2+2?", show_default=True, help="What the start gate compares on.")
@click.option("--steps", type=click.IntRange(1, 16), default=3, show_default=True, help="Steps of the start gate.")
@click.option("--healthy", type=click.IntRange(min=0), default=299, show_default=True, help="Healthy prompts.")
@click.option("--defect", multiple=True, metavar="NAME", help="Only this defect; may be repeated.")
@click.option("--output-format", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True)
@click.option("--save", type=click.Path(path_type=Path), help="Write everything measured into this JSON file as well.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the matrix into this PNG or SVG file.")
def power(
    model: str, backend: tuple[str, ...], prompt: str, steps: int, healthy: int, defect: tuple[str, ...],
    output_format: str, save: Path | None, plot: Path | None,
) -> None:  # fmt: skip
    """Plant every defect and see who notices; run healthy prompts and count false alarms.

    Exit 1 when the deep check misses a defect or a healthy prompt is rejected; 4 when no backend is there.
    """
    with engine_errors():
        from pv.backends.protocol import BackendError
        from pv.parity import power_report
        from pv.parity.defects import DEFECTS
        from pv.parity.power import bench, healthy_prompts
        from pv.parity.power import power as measure_power

        unknown = [name for name in defect if name not in DEFECTS]
        if unknown:
            raise click.UsageError(f"expected defects among {', '.join(DEFECTS)}, got {', '.join(unknown)}")
        weights, tokens, encode = _subject_with_encoder(model, prompt)
        on = bench(weights, tokens, steps)
        prompts = healthy_prompts(healthy, weights.spec.vocab, encode)
        found = []
        for name in backend or ("cuda", "wgpu"):
            try:
                found.append(measure_power(name, on, prompts, names=defect, progress=_progress))
            except BackendError as problem:
                click.echo(f"{problem}", err=True)
        told = json.dumps([one.as_json() for one in found], indent=2)
        if save is not None:
            save.write_text(told + "\n", "utf-8")
        if output_format == "json":
            click.echo(told)
        else:
            write = power_report.text if output_format == "text" else power_report.markdown
            click.echo("\n\n".join(write(one) for one in found))
        if plot is not None and found:
            power_report.plot(found, plot)
    if not found:
        sys.exit(ExitCode.BLOCKED)
    if any(power_report.missed(one) or one.healthy.alarms or not one.healthy_deep.accepted for one in found):
        sys.exit(ExitCode.FINDINGS)


def _progress(done: int, total: int, what: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done}/{total} {what[:40]:40}", nl=done == total, err=True)


def _subject(model: str, prompt: str | None) -> tuple[Weights, Sequence[int]]:
    weights, tokens, _ = _subject_with_encoder(model, prompt)
    return weights, tokens


def _subject_with_encoder(model: str, prompt: str | None) -> tuple[Weights, Sequence[int], Any]:
    """Weights, the prompt's tokens, and how to encode more. A synthetic model takes the prompt's bytes as tokens."""
    kind, _, shape = model.partition(":")
    if kind == "synthetic":
        from pv.model.spec import named_shape
        from pv.model.synthetic import Recipe, build

        weights = build(Recipe(named_shape(shape)))
        return weights, [byte % weights.spec.vocab for byte in (prompt or "").encode()], None
    from pv.model.open import open_model

    opened = open_model(model)
    return opened.weights, opened.tokenizer.encode(prompt) if prompt else [], opened.tokenizer.encode
