"""`pv diff` of two models: their dimensions, their weights, and a forward of the same tokens through both."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pv.compare.forwards import Forward, ForwardDiff
    from pv.compare.tensors import Judge
    from pv.compare.thresholds import Kind
    from pv.compare.weights import WeightDiff
    from pv.model.open import Model
    from pv.model.taps import Tap

PROMPT = "What is 2+2?"
SHOWN = 40  # characters of the text
SPREAD = 8  # ids over the whole vocabulary, where no text can be used
SHAPE = ("vocab", "hidden", "layers", "heads", "kv_heads", "head_dim", "ffn")  # what the tensors of a forward depend on


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user wants of the forward: its tokens, whether there is one, and what judges it."""

    prompt: str | None
    tokens: str | None
    weights_only: bool
    row: str | None
    tolerances: tuple[str, ...]

    def check(self) -> None:
        """Refuse what contradicts itself. Raises UsageError."""
        if (self.prompt is not None) + (self.tokens is not None) + self.weights_only > 1:
            raise click.UsageError("give one of --prompt, --tokens and --weights-only")


@dataclass(frozen=True, slots=True)
class Compared:
    """A forward that was compared: of which tokens, by which row."""

    words: str
    tokens: tuple[int, ...]
    judged_by: str
    diff: ForwardDiff


def run(reference: Path, test: Path, output_format: str, limit: int, *, values: bool, asked: Asked) -> ExitCode:
    """Compare and print; FINDINGS where anything differs beyond its bounds. Raises ModelError and UsageError."""
    from pv.compare.weights import diff_weights
    from pv.model.open import open_model
    from pv.report import differences

    asked.check()
    models = open_model(reference), open_model(test)
    weights = list(diff_weights(models[0].weights, models[1].weights))
    spec = {
        name: (getattr(models[0].spec, name), getattr(models[1].spec, name))
        for name in models[0].spec.__dataclass_fields__
        if getattr(models[0].spec, name) != getattr(models[1].spec, name)
    }
    left_out = _left_out(spec, asked)
    forward = None if left_out else compare_forwards(models, weights, asked)
    ok = all(d.same for d in weights) and not spec and (forward is None or forward.diff.ok)
    if output_format == "json":
        data = {
            "reference": str(reference),
            "test": str(test),
            "spec": {name: list(pair) for name, pair in spec.items()},
            "tensors": [differences.weight_as_data(d) for d in weights],
            "forward": {"left_out": left_out}
            if forward is None
            else {
                "tokens": list(forward.tokens),
                "judged_by": forward.judged_by,
                **differences.forward_as_data(forward.diff),
            },
            "ok": ok,
        }
        click.echo(json.dumps(data, allow_nan=False))
    else:
        lines = [f"{name}: {one} in the reference, {other} in the test" for name, (one, other) in spec.items()]
        lines += differences.weight_lines(weights, limit, values=values)
        if forward is not None:
            head = f"forward of {forward.words}, judged by {forward.judged_by}"
            lines += ["", head, *differences.forward_lines(forward.diff, limit, values=values)]
        elif not asked.weights_only:
            lines += [f"no forward was compared: {left_out}"]
        click.echo("\n".join(lines))
    return ExitCode.OK if ok else ExitCode.FINDINGS


def compare_forwards(models: tuple[Model, Model], weights: list[WeightDiff], asked: Asked) -> Compared:
    """One prefill of each on the CPU, one model in memory after the other."""
    from pv.compare.forwards import diff_forwards
    from pv.compare.thresholds import THRESHOLDS, Kind

    kind = Kind(asked.row) if asked.row else _kind(models, all(d.same for d in weights))
    tokens, words = tokens_of(models, asked)
    return Compared(
        words=words,
        tokens=tuple(tokens),
        judged_by="your own tolerances" if asked.tolerances else f"row {kind}: {THRESHOLDS[kind].title}",
        diff=diff_forwards(_forward(models[0], tokens), _forward(models[1], tokens), _judge(asked.tolerances, kind)),
    )


def tokens_of(models: tuple[Model, Model], asked: Asked) -> tuple[list[int], str]:
    """The tokens of both forwards, and a word for them. Raises TokenizerError for a text that they cut differently."""
    from pv.cli.trace import token_ids
    from pv.model.errors import TokenizerError

    if asked.tokens is not None:
        ids = token_ids(asked.tokens, "--tokens")
        return ids, f"{len(ids)} tokens"
    text = PROMPT if asked.prompt is None else asked.prompt
    context = min(model.spec.context for model in models)
    try:
        ids, others = (model.tokenizer.encode(text) for model in models)
        if ids != others:
            raise TokenizerError(f"the two models cut {text!r} into different tokens", "give their ids, with --tokens")
        if asked.prompt is None:
            ids = ids[:context]
        return ids, f"{len(ids)} tokens ({text if len(text) <= SHOWN else text[:SHOWN] + '…'!r})"
    except TokenizerError:
        if asked.prompt is not None:
            raise
        vocab, count = models[0].spec.vocab, min(SPREAD, context)
        spread = [vocab * (2 * i + 1) // (2 * count) for i in range(count)]
        return spread, f"{count} tokens spread over the vocabulary (no text: the tokenizers differ or are missing)"


def _left_out(spec: dict[str, tuple[object, object]], asked: Asked) -> str:
    """Why no forward is compared; empty when one is."""
    if asked.weights_only:
        return "--weights-only"
    different = [name for name in SHAPE if name in spec]
    return f"the models differ in {', '.join(different)}" if different else ""


def _forward(model: Model, tokens: list[int]) -> Forward:
    from pv.backends.cpu import open_cpu

    def prefill(tap: Tap) -> None:
        with closing(open_cpu(model.weights)) as session:
            session.prefill(tokens, tap)

    return prefill


def _kind(models: tuple[Model, Model], same_weights: bool) -> Kind:
    """The row for the two types of weights; equal numbers in two types are one model through two products."""
    from pv.compare.thresholds import Side, kind_between

    one, other = (
        Side("pv", "cpu", "float32", any(kind.quantized for kind in model.weights.types), digest)
        for model, digest in zip(models, ("weights", "weights" if same_weights else "others"), strict=True)
    )
    return kind_between(one, other)


def _judge(tolerances: tuple[str, ...], kind: Kind) -> Judge:
    from pv.cli.diff import judge_of

    return judge_of(tolerances, kind)
