"""`pv model convert`: a model in another file format or with other types of weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from pv.cli.engine import engine_errors

# The names of `pv.model.gguf_write.FileType`, which is not imported for `--help`; a test holds the two equal.
TYPES = ("Q4_K_M", "Q5_K_M", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "F16", "BF16", "F32")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice(["gguf"]), required=True, help="The format to write.")
@click.option("--type", "kind", type=click.Choice(TYPES), required=True, help="How to store the matrices.")
@click.option("--output", type=click.Path(path_type=Path), help="File; default: MODEL-TYPE.gguf beside the model.")
@click.option("--no-tokenizer", is_flag=True, help="Write a file without a vocabulary, for models that have none.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def convert(
    model: Path, target: str, kind: str, output: Path | None, no_tokenizer: bool, force: bool, as_json: bool
) -> None:
    """Write MODEL as a GGUF file. Norms and biases stay float32; prints the file's path."""
    with engine_errors():
        from pv.model.errors import ModelError
        from pv.model.gguf_write import FileType
        from pv.model.gguf_write import convert as write
        from pv.model.open import open_model

        source = open_model(model)
        path = output or default_output(model, kind)
        if path.exists() and not force:
            raise ModelError(f"{path} is there already", "give --output, or --force to replace it")
        with click.progressbar(length=1, label=f"to {kind}", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

            def progress(done: int, total: int, name: str) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            written = write(
                source, path, FileType(kind), tokenizer=None if no_tokenizer else source.tokenizer, progress=progress
            )
    for name, used in written.fallbacks.items():
        click.echo(f"{name}: its rows are no whole number of {kind} blocks, stored as {used}", err=True)
    facts = {
        "path": str(written.path),
        "bytes": written.nbytes,
        "types": {str(used): count for used, count in written.types.items()},
        "fallbacks": {name: str(used) for name, used in written.fallbacks.items()},
        "source_digest": source.digest,
    }
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else str(written.path))


def default_output(model: Path, kind: str) -> Path:
    """`MODEL-TYPE.gguf` beside the model: a directory keeps its whole name, a file loses its ending."""
    whole = model.expanduser().resolve()
    return whole.parent / f"{whole.name if whole.is_dir() else whole.stem}-{kind}.gguf"
