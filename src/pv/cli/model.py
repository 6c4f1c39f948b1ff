"""`pv model`: what a model is made of, and synthetic models to try things on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pv.cli.engine import engine_errors
from pv.cli.model_convert import convert

if TYPE_CHECKING:
    from pv.model.open import Model

DTYPES = ("float32", "float16", "bfloat16")


@click.group()
def model() -> None:
    """Look at, convert and make models."""


model.add_command(convert)


@model.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def info(model: Path, as_json: bool) -> None:
    """Dimensions, types of weights, sizes, digest and tokenizer of MODEL."""
    with engine_errors():
        from pv.model.open import open_model

        facts = facts_of(open_model(model))
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:{width}}  {_shown(value)}")


def facts_of(model: Model) -> dict[str, Any]:
    """All that `pv model info` tells. Raises ModelError when any part of the model is damaged."""
    spec = model.spec
    return {
        "path": str(model.path),
        "digest": model.digest,
        **{name: getattr(spec, name) for name in spec.__dataclass_fields__},
        "parameters": spec.parameters,
        "weight_types": {str(kind): count for kind, count in model.weights.types.items()},
        "weight_bytes": model.weights.nbytes,
        "cache_bytes_per_token": 2 * spec.layers * spec.kv_width * 4,  # keys and values, float32
        "tokenizer_size": model.tokenizer.size,
        "stop_tokens": sorted(model.tokenizer.stops),
        "chat_template": model.tokenizer.has_chat,
    }


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{count} x {kind}" for kind, count in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


@model.command()
@click.option("--shape", required=True, help="A named shape: 7b, 1.5b, 0.5b, 28-small, tiny, nano.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random weights.")
@click.option("--massive-channel", is_flag=True, help="One hidden channel at 26 times the RMS of the others.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Of the file.")
@click.option("--output", type=click.Path(path_type=Path), help="Directory; default: in the user's cache.")
def make(shape: str, seed: int, massive_channel: bool, dtype: str, output: Path | None) -> None:
    """Write a synthetic model: random weights of a named shape. Prints its directory."""
    with engine_errors():
        import torch

        from pv.model.spec import named_shape
        from pv.model.synthetic import Recipe, default_directory, write_model

        recipe = Recipe(named_shape(shape), seed, getattr(torch, dtype), massive_channel)
        directory = output or default_directory(shape, recipe)
        size = recipe.spec.parameters * recipe.dtype.itemsize
        with click.progressbar(length=size, label=f"{shape}, {size / 1e9:.2f} GB", file=sys.stderr) as bar:
            fresh = write_model(recipe, directory, bar.update)
    if not fresh:
        click.echo("already there, of the same recipe", err=True)
    click.echo(str(directory))
