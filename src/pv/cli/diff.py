"""`pv diff`: looks at the two things it is given and compares them as what they are."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pv.cli.captures import capture_errors, entry_filter, progress
from pv.cli.engine import BackendBlocked
from pv.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pv.compare.tensors import Judge, TensorDiff
    from pv.trace.pairing import Comparison, Pair


class Looks(StrEnum):
    """What a path turns out to be."""

    CONTRACT = "a contract"
    APRT = "an APRT tensor"
    CAPTURE = "a capture"
    MODEL = "a model"
    OTHER = "nothing that pv compares"
    ABSENT = "no file"


@click.command()
@click.argument("reference")
@click.argument("test")
@click.option("--values", is_flag=True, help="Every tensor, its largest differences and their distribution.")
@click.option("--limit", type=click.IntRange(min=0), default=10, show_default=True, help="How many lines of a kind.")
@click.option(
    "--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of the findings."
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the figures into this file.")
@click.option("--row", type=click.Choice([*"ABCDE", "F1", "F2", "G", "H"]), help="Judge captures by this row.")
@click.option("--tolerance", "tolerances", multiple=True, metavar="PATTERN=FIGURE<=X", help="Own bounds; repeatable.")
@click.option("--stages", metavar="LIST", help="Only these stages of captures.")
@click.option("--layer", metavar="LIST", help="Only these layers of captures.")
@click.option("--step", metavar="LIST", help="Only these decode steps of captures.")
@click.option("--prompt", help="Of two models: the text to run through both. [default: What is 2+2?]")
@click.option("--tokens", metavar="IDS", help="Of two models: token ids instead of a text, for instance 5,17,42.")
@click.option("--weights-only", is_flag=True, help="Of two models: run nothing, compare what is stored.")
@click.option("--allow-different-models", is_flag=True, help="Compare captures of a model and a variant of it.")
@click.option("--no-verify", is_flag=True, help="Trust the files of captures; do not read them for their sha256 first.")
@click.pass_context
def diff(
    ctx: click.Context, reference: str, test: str, values: bool, limit: int, output_format: str, plot: Path | None,
    row: str | None, tolerances: tuple[str, ...], stages: str | None, layer: str | None, step: str | None,
    prompt: str | None, tokens: str | None, weights_only: bool, allow_different_models: bool, no_verify: bool,
) -> None:  # fmt: skip
    """Compare REFERENCE with TEST: two contracts, two APRT tensors, two captures, or two models.

    A contract may also be compared with itself at a git revision. Of two models the weights are compared (as float32,
    bit for bit), and every stage of a forward of one prompt through both, on the CPU. Exits 0 when there is no
    difference, or none beyond the bounds of the row that judges two forwards; 1 when there is.

    \b
    pv diff old/x-v1.yaml new/x-v1.yaml
    pv diff a/layer-3/ffn_gate.bin b/layer-3/ffn_gate.bin --values --limit 5
    pv diff teacher-hf-trace teacher-trace --plot parity.svg
    pv diff a-trace b-trace --tolerance 'layer-.*/ffn_.*=rel_l2<=1e-4' --tolerance '.*=rel_l2<=1e-3'
    pv diff model-Q4_K.gguf model --prompt "What is 2+2?"
    """
    sides = looks_like(reference), looks_like(test)
    if sides != (Looks.MODEL, Looks.MODEL) and (prompt is not None or tokens is not None or weights_only):
        raise click.UsageError(
            f"--prompt, --tokens and --weights-only are of two models, got {sides[0]} and {sides[1]}"
        )
    if sides in {(Looks.CONTRACT, Looks.CONTRACT), (Looks.CONTRACT, Looks.ABSENT)}:
        from pv.cli import diff_contracts

        ctx.exit(int(diff_contracts.run(reference, test, output_format) or ExitCode.OK))
    with capture_errors():
        from pv.report import differences

        if sides == (Looks.APRT, Looks.APRT):
            found = compare_files(Path(reference), Path(test), tolerances, limit if values else 0)
            show_file(reference, test, found, output_format)
            ctx.exit(ExitCode.OK if found.ok else ExitCode.FINDINGS)
        if sides == (Looks.CAPTURE, Looks.CAPTURE):
            pair = open_pair(
                Path(reference), Path(test), (stages, layer, step), allow_different_models, verify=not no_verify
            )
            result = compare_captures(pair, row, tolerances, limit if values else 0)
            if output_format == "json":
                click.echo(json.dumps(differences.comparison_data(result), allow_nan=False))
            else:
                click.echo("\n".join(differences.comparison_lines(result, limit, values=values)))
            if plot:
                _draw(result, plot)
            ctx.exit(ExitCode.OK if result.ok else ExitCode.FINDINGS)
        if sides == (Looks.MODEL, Looks.MODEL):
            from pv.cli import diff_models

            asked = diff_models.Asked(prompt, tokens, weights_only, row, tolerances)
            ctx.exit(diff_models.run(Path(reference), Path(test), output_format, limit, values=values, asked=asked))
    raise click.UsageError(_mixed(reference, test, sides))


def looks_like(path: str) -> Looks:
    """What a path is, from its bytes where it has some, never from its name alone where the two disagree."""
    place = Path(path)
    if not place.exists():
        return Looks.ABSENT
    if not (place.is_dir() or place.is_file()):  # a pipe: opening it would wait for ever
        return Looks.OTHER
    if place.is_dir():
        if (place / "config.json").exists():
            return Looks.MODEL
        from pv.trace.reading import is_capture

        return Looks.CAPTURE if is_capture(place) else Looks.OTHER
    try:
        with place.open("rb") as file:
            magic = file.read(4)
    except OSError:
        return Looks.OTHER
    if magic in (b"APRT", b"GGUF"):
        return Looks.APRT if magic == b"APRT" else Looks.MODEL
    return Looks.CONTRACT if place.suffix in {".yaml", ".yml"} else Looks.OTHER


def compare_files(reference: Path, test: Path, tolerances: tuple[str, ...], largest: int) -> TensorDiff:
    """Two APRT files as one tensor each. Raises AprtError for a damaged one, ShapeError for another size or layer."""
    from pv.compare.tensors import TensorRef, diff_tensor
    from pv.trace.aprt import open_aprt

    def ref(path: Path) -> TensorRef:
        opened = open_aprt(path)
        return TensorRef(str(path), None, opened.layer, None, (opened.values.size,), lambda: opened)

    return diff_tensor(ref(reference), ref(test), judge_of(tolerances, None), largest=largest, details=largest > 0)


def open_pair(
    reference: Path,
    test: Path,
    selection: tuple[str | None, str | None, str | None],
    other_models: bool,
    *,
    verify: bool,
) -> Pair:
    """Open, verify and pair two captures. Raises CaptureError and SelectionError."""
    from pv.trace.pairing import pair
    from pv.trace.reading import open_capture

    wanted = entry_filter(*selection)
    opened = open_capture(reference), open_capture(test)
    paired = pair(*opened, other_models=other_models, wanted=wanted)
    if not paired.reference_tensors and not paired.test_tensors:
        raise click.UsageError(f"neither capture holds a tensor of that selection: {reference}, {test}")
    if verify:
        for capture in opened:
            capture.verify([entry for entry in capture.manifest.files if wanted(entry)])
    return paired


def compare_captures(pair: Pair, row: str | None, tolerances: tuple[str, ...], largest: int) -> Comparison:
    """Compare all pairs, a tensor at a time, by `row` or the row of the pair's kind, or by tolerances."""
    from pv.compare.thresholds import THRESHOLDS, Kind
    from pv.trace.pairing import compare

    kind = Kind(row) if row else pair.kind
    judged_by = "your own tolerances" if tolerances else f"row {kind}: {THRESHOLDS[kind].title}"
    both = sum(name in pair.test_tensors for name in pair.reference_tensors)
    with progress(both, "comparing") as tick:
        return compare(pair, judge_of(tolerances, kind), judged_by, largest=largest, details=largest > 0, progress=tick)


def show_file(reference: str, test: str, found: TensorDiff, output_format: str) -> None:
    """Print the finding of two APRT files."""
    from pv.report import differences

    if output_format == "json":
        click.echo(json.dumps({"reference": reference, "test": test, **differences.as_data(found)}, allow_nan=False))
        return
    layer = "whole model" if found.layer is None else f"layer {found.layer}"
    lines = [f"{'reference':12} {reference}", f"{'test':12} {test}", f"{'tensor':12} {layer}"]
    lines += differences.tensor_lines(found)
    if found.largest and not found.metrics.identical:
        lines += ["", *differences.largest_lines(found.largest, found.metrics.shape[0])]
    click.echo("\n".join(lines))


def judge_of(tolerances: tuple[str, ...], kind: Any) -> Judge:
    """The user's own tolerances, else the row of `kind`, else equality of bits. Raises UsageError for a bad one."""
    from pv.compare import tensors
    from pv.compare.thresholds import THRESHOLDS, parse_rule

    if tolerances:
        try:
            return tensors.judge_by_rules([parse_rule(text) for text in tolerances])
        except ValueError as problem:
            raise click.UsageError(str(problem)) from None
    return tensors.judge_identical if kind is None else tensors.judge_by(THRESHOLDS[kind])


def _mixed(reference: str, test: str, sides: tuple[Looks, Looks]) -> str:
    return (
        f"cannot compare {reference} ({sides[0]}) with {test} ({sides[1]}); give two contracts (or a contract and a "
        "git revision), two APRT tensors, two captures, or two models"
    )


def _draw(result: Comparison, path: Path) -> None:
    from pv.report import plots

    try:
        plots.draw_differences(result.found, result.judged_by, path)
    except ImportError as problem:
        raise BackendBlocked(
            f"a picture needs the package {problem.name}; pip install 'provable-contracts-pv[report]'"
        ) from None
    except ValueError as problem:
        raise click.UsageError(f"cannot draw {path}: {problem}") from None
    click.echo(f"drawn: {path}", err=True)
