"""`pv distill`: a teacher's logits to disk, a student trained on them, samples of the student."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pv.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pv.distill.config import DistillConfig

EXAMPLES = """\b
Examples:
  pv distill --config distill.yaml --stage precompute
  pv distill --config distill.yaml --stage train --temperature 1 --alpha 0.9
  pv distill --config distill.yaml --stage generate
  torchrun --nproc-per-node 2 -m pv distill --config distill.yaml --stage train"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--config", "config_file", required=True, type=click.Path(dir_okay=False, path_type=Path), help="YAML file."
)
@click.option("--stage", required=True, type=click.Choice(["precompute", "train", "generate"]), help="What to do.")
@click.option("--teacher", help="Local model directory of the teacher.")
@click.option("--student", help="Local model directory to start from.")
@click.option("--temperature", type=float, help="Softening of both distributions; above 0.  [default: 3.0]")
@click.option("--alpha", type=float, help="Weight of the teacher, 0 to 1; the labels get the rest.  [default: 0.7]")
@click.option("--epochs", type=int, help="Passes over the rows.")
@click.option("--batch-size", type=int, help="Sequences of one optimiser step.")
@click.option("--learning-rate", type=float, help="Peak rate.")
@click.option("--lora-rank", type=int, help="Rank of the adapters; 0 trains every weight.")
@click.option("--lora-alpha", type=float, help="Scale of the adapters, over the rank.")
@click.option("--output-dir", help="Where cache, checkpoints and student go.")
@click.option("--seed", type=int, help="Initial weights and order of the rows.")
@click.option("--set", "extra", multiple=True, metavar="KEY=VALUE", help="Any other setting, dotted: cache.kind=top.")
@click.option("--dry-run", is_flag=True, help="Print the plan: parameters, tokens, steps, disk, memory; train nothing.")
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def distill(
    config_file: Path, stage: str, extra: tuple[str, ...], dry_run: bool, output_format: str, **settings: Any
) -> None:
    """Distil a teacher into a student, in three stages.

    precompute keeps the frozen teacher's logits on disk; train uses them and never runs the teacher; generate samples
    from the student. Each stage goes on where it was stopped.
    """
    from pv.distill.config import ConfigError, load_config

    overrides = {name: value for name, value in settings.items() if value is not None}
    for pair in extra:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"expected --set KEY=VALUE, got {pair!r}")
        overrides[key] = _scalar(value)
    try:
        config = load_config(config_file, overrides)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    try:
        facts = _plan(config) if dry_run else _run(config, stage)
    except _refusals() as error:
        click.echo(f"pv distill: {error}", err=True)
        sys.exit(ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.FAILURE)
    _show(facts, output_format)


def _scalar(text: str) -> Any:
    """JSON where it is JSON (numbers, true, null, lists), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _refusals() -> tuple[type[Exception], ...]:
    from pv.distill.cache import CacheError
    from pv.distill.checkpoint import CheckpointError
    from pv.distill.config import ConfigError
    from pv.distill.corpus import CorpusError
    from pv.distill.loss import LossSettingsError
    from pv.distill.train import NotFiniteError, UnchangedError
    from pv.model.errors import ModelError

    return (
        CacheError, CheckpointError, ConfigError, CorpusError, LossSettingsError, ModelError, NotFiniteError, OSError,
        UnchangedError,
    )  # fmt: skip


def _plan(config: DistillConfig) -> dict[str, Any]:
    from pv.distill.corpus import prepare
    from pv.distill.plan import plan

    return asdict(plan(config, prepare(config, _progress())))


def _run(config: DistillConfig, stage: str) -> dict[str, Any]:
    from pv.distill.corpus import prepare
    from pv.distill.generate import write_samples
    from pv.distill.precompute import precompute
    from pv.distill.train import train
    from pv.report.distill_plots import loss_curves

    if stage == "generate":
        return {"samples": [asdict(sample) for sample in write_samples(config.output_dir, seed=config.seed)]}
    say = _progress()
    data = prepare(config, say)
    if stage == "precompute":
        return {"cache": str(precompute(config, data, say))}
    trained = train(config, data, say)
    facts = {"student": str(trained.student), "steps": trained.steps, **trained.metadata}
    last = config.output_dir / f"epoch-{config.epochs:03d}"
    plot = loss_curves(last) if (last / "history.json").exists() else None
    return {**facts, "plot": str(plot)} if plot else facts


def _progress() -> Any:
    """A line that overwrites itself on a terminal; in a log, a line for each tenth."""
    terminal, last = sys.stderr.isatty(), [""]

    def say(what: str, done: int, total: int) -> None:
        if terminal:
            click.echo(f"\r\x1b[2K{what} {done}{f'/{total}' if total else ''}", err=True, nl=done == total)
            return
        tenth = f"{what} {10 * done // total if total else done // 1000}"
        if tenth != last[0]:
            last[0] = tenth
            click.echo(f"{what} {done}{f'/{total}' if total else ''}", err=True)

    return say


def _show(facts: dict[str, Any], output_format: str) -> None:
    if output_format == "json":
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    for sample in facts.pop("samples", []):
        heat = "greedy" if sample["temperature"] == 0 else f"temperature {sample['temperature']}, seed {sample['seed']}"
        click.echo(f"{sample['prompt']!r} ({heat}): {sample['text']!r}")
    for name, value in facts.items():
        click.echo(f"{name:20} {value}")
