"""`pv model convert`: a model in another file format or with other types of weights."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pv.cli.engine import engine_errors

if TYPE_CHECKING:
    from pv.model.gguf_write import Converted, FileType
    from pv.model.open import Model

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
        from pv.model.gguf_write import FileType
        from pv.model.open import open_model

        source = open_model(model)
        path = output or default_output(model, kind)
        _want_place(path, force=force)
        with click.progressbar(length=1, label=f"to {kind}", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

            def progress(done: int, total: int, name: str) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            written = _written(source, path, FileType(kind), with_tokenizer=not no_tokenizer, progress=progress)
    for line in fallback_lines(source, FileType(kind), written):
        click.echo(line, err=True)
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


def fallback_lines(source: Model, kind: FileType, written: Converted) -> Iterator[str]:
    """A line for all tensors of one part of the layers that got one other type, because of one width."""
    from pv.model.gguf_write import plan_types

    wanted = plan_types(source.spec, kind)
    found: dict[tuple[str, str, str, int], list[int]] = {}
    for name, used in written.fallbacks.items():
        layer, _, part = name.removeprefix("layers.").rpartition(".")
        key = part, str(wanted[name]), str(used), source.weights.tensors[name].shape[-1]
        found.setdefault(key, []).extend([int(layer)] if layer else [])
    for (part, want, instead, width), layers in found.items():
        place = f"layers.{_ranges(layers)}.{part}" if layers else part
        yield f"{place}: rows of {width} are no whole number of {want} blocks, stored as {instead}"


def _ranges(numbers: list[int]) -> str:
    """0, 1, 2, 5 -> `0-2,5`."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _want_place(path: Path, *, force: bool) -> None:
    """Raises ModelError for a place that is taken: a file unless `force`, a folder or a device in any case."""
    from pv.model.errors import ModelError

    if path.exists() and not path.is_file():
        raise ModelError(f"expected a file to replace at {path}, which is none", "give another --output")
    if path.exists() and not force:
        raise ModelError(f"{path} is there already", "give --output, or --force to replace it")


def _written(
    source: Model, path: Path, kind: FileType, *, with_tokenizer: bool, progress: Callable[[int, int, str], None]
) -> Converted:
    """Convert. numpy tells of a short write without the system's reason: that gets a sentence."""
    from pv.model.gguf_write import convert as write

    try:
        return write(source, path, kind, tokenizer=source.tokenizer if with_tokenizer else None, progress=progress)
    except OSError as problem:
        if problem.errno is not None:
            raise
        raise OSError(errno.ENOSPC, f"the disk took only a part ({problem}): is it full?", str(path)) from None
