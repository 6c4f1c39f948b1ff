"""`pv bisect`: two captures, or a model and a suspect backend -> the guilty stage, or that it is precision."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pv.cli.captures import capture_errors
from pv.cli.diff import Looks, looks_like, open_pair
from pv.cli.exit_codes import ExitCode
from pv.cli.sessions import open_suspect

if TYPE_CHECKING:
    from pv.backends.protocol import Session
    from pv.compare.thresholds import Kind
    from pv.model.open import Model
    from pv.trace.bisection import Bisection
    from pv.trace.pairing import Pair

CANONICAL = "What is 2+2?"
_ROOM = 0.8  # share of the machine's memory that a float64 copy of the weights may take


@click.command()
@click.argument("reference")
@click.argument("test", required=False)
@click.option("--model", type=click.Path(path_type=Path), help="Of two captures; default: where the capture says.")
@click.option("--allow-different-models", is_flag=True, help="Captures of a model and a variant of it.")
@click.option("--no-verify", is_flag=True, help="Trust the files of captures; do not read them for their sha256 first.")
@click.option("--backend", metavar="NAME", help="The suspect: cuda, wgpu or cpu.")
@click.option("--prompt", help=f"Of a live bisection; default: {CANONICAL!r}.")
@click.option("--tokens", metavar="IDS", help="Token ids instead of a prompt.")
@click.option(
    "--steps", type=click.IntRange(0, 64), default=0, show_default=True, help="Decode steps after the prompt."
)
@click.option("--no-envelope", is_flag=True, help="Do not measure float32's rounding by a float64 run.")
@click.option("--plant", metavar="DEFECT", hidden=True, help="For tests only: a planted defect, or STAGE@LAYER*FACTOR.")
@click.option("--row", type=click.Choice([*"ABCDE", "F1", "F2", "G", "H"]), help="Judge by this row.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="How many stages to show.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.pass_context
def bisect(ctx: click.Context, /, **given: Any) -> None:
    """Find the stage where two forwards part: REFERENCE and TEST are captures, or REFERENCE is a model.

    Every stage is looked at by itself: given equal inputs, how far is it off. That tells the guilty stage from those
    that inherit its error, and a bug from the noise of a precision. Exits 1 when a stage is guilty or bounds are
    broken, 0 otherwise.

    \b
    pv bisect teacher-hf-trace teacher-trace
    pv bisect MODEL --backend wgpu
    pv bisect MODEL --backend cuda --prompt "…" --steps 8
    """
    request = Request(**given)
    with capture_errors():
        result = request.run()
    from pv.report import bisection

    if request.as_json:
        click.echo(json.dumps({**bisection.as_data(result), "replay": replay(sys.argv)}, allow_nan=False))
    else:
        click.echo("\n".join(bisection.lines(result, request.limit)))
        for line in request.next_commands(result):
            click.echo(line)
    ctx.exit(exit_code(result))


def exit_code(result: Bisection) -> ExitCode:
    """FINDINGS for a guilty stage, and for any bound of the row that is broken; noise within them is fine."""
    from pv.compare.bisect import Verdict

    if result.finding.verdict in {Verdict.BUG, Verdict.UNDECIDED}:
        return ExitCode.FINDINGS
    judged = result.row.cumulative.rel_l2 is not None
    return ExitCode.FINDINGS if judged and result.finding.verdict is Verdict.NOISE else ExitCode.OK


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, as given."""

    reference: str
    test: str | None
    model: Path | None
    allow_different_models: bool
    no_verify: bool
    backend: str | None
    prompt: str | None
    tokens: str | None
    steps: int
    no_envelope: bool
    plant: str | None
    row: str | None
    limit: int
    as_json: bool

    def run(self) -> Bisection:
        """Bisect what was given. Raises UsageError for a mixture."""
        sides = looks_like(self.reference), None if self.test is None else looks_like(self.test)
        if sides == (Looks.CAPTURE, Looks.CAPTURE):
            return self._captures()
        if sides[0] is Looks.MODEL and self.test is None:
            return self._live()
        found = f"{self.reference} ({sides[0]})" + ("" if sides[1] is None else f" and {self.test} ({sides[1]})")
        raise click.UsageError(f"expected two captures, or one model with --backend, got {found}")

    def next_commands(self, result: Bisection) -> list[str]:
        """How to come here again, and how to look closer."""
        lines = ["", f"again:  {replay(sys.argv)}"]
        if self.test is not None and result.finding.guilty:
            node = result.finding.guilty[0]
            layer = "" if node.layer is None else f"--layer {node.layer} "
            stage = f"--stages {node.stage} {layer}--values"
            lines.append(f"closer: pv diff {shlex.quote(self.reference)} {shlex.quote(self.test)} {stage}")
        return lines

    def _captures(self) -> Bisection:
        from pv.compare.thresholds import Kind
        from pv.trace.bisection import Shadow, bisect_captures

        self._refuse("--backend", self.backend, "--prompt", self.prompt, "--tokens", self.tokens, "--plant", self.plant)
        pair = open_pair(
            Path(self.reference), Path(str(self.test)), (None, None, None), self.allow_different_models,
            verify=not self.no_verify,
        )  # fmt: skip
        model, why_none = self._model_of(pair)
        exact = model is not None and not self.no_envelope and _fits_in_float64(model)
        shadow = None if model is None else Shadow(_cpu(model, exact=exact), exact)
        try:
            return bisect_captures(pair, Kind(self.row) if self.row else pair.kind, shadow, why_none)
        finally:
            if shadow is not None:
                shadow.session.close()

    def _live(self) -> Bisection:
        from pv.model.open import open_model
        from pv.trace.bisection import bisect_live

        self._refuse("--model", self.model, "--allow-different-models", self.allow_different_models)
        if self.backend is None:
            raise click.UsageError("say which backend is the suspect, with --backend cuda, wgpu or cpu")
        model = open_model(Path(self.reference))
        tokens = self._ids(model)
        sessions: list[Session] = []
        try:
            reference = _opened(sessions, lambda: _cpu(model))
            suspect = _opened(sessions, lambda: open_suspect(model, str(self.backend), self.plant))
            exact = not self.no_envelope and _fits_in_float64(model)
            shadow = _opened(sessions, lambda: _cpu(model, exact=True)) if exact else None
            return bisect_live(reference, suspect, tokens, self._kind(suspect), steps=self.steps, shadow=shadow)
        finally:
            for session in sessions:
                session.close()

    def _kind(self, suspect: Session) -> Kind:
        from pv.compare.thresholds import Kind
        from pv.parity.gate import kind_of

        return Kind(self.row) if self.row else kind_of(suspect.facts)

    def _ids(self, model: Model) -> list[int]:
        from pv.cli.trace import token_ids

        if self.tokens is not None:
            return token_ids(self.tokens, "--tokens")
        return model.tokenizer.encode(self.prompt or CANONICAL)

    def _model_of(self, pair: Pair) -> tuple[Model | None, str]:
        """The reference's model, if it is still where the capture says (or --model does) and the same; else why not."""
        from pv.model.open import open_model

        manifest = pair.reference.manifest
        place = self.model or Path(manifest.model_path)
        if self.model is None and not place.exists():
            return None, f"the model is no longer at {place}; name it with --model"
        model = open_model(place)
        if model.digest == manifest.model_digest:
            return model, ""
        problem = f"the model at {place} is {model.digest}, the captured one was {manifest.model_digest}"
        if self.model is not None:
            raise click.UsageError(problem)
        return None, f"{problem}; name the captured one with --model"

    @staticmethod
    def _refuse(*given: Any) -> None:
        """Options that belong to the other form."""
        for name, value in zip(given[::2], given[1::2], strict=True):
            if value:
                raise click.UsageError(f"{name} does not belong here; see pv bisect --help")


def replay(arguments: list[str]) -> str:
    """The command line that was given, fit to paste."""
    return shlex.join(["pv", *arguments[1:]])


def _opened(sessions: list[Session], open_one: Callable[[], Session]) -> Session:
    session = open_one()
    sessions.append(session)
    return session


def _cpu(model: Model, *, exact: bool = False) -> Session:
    import torch

    from pv.backends.cpu import open_cpu

    return open_cpu(model.weights, dtype=torch.float64 if exact else torch.float32)


def _fits_in_float64(model: Model) -> bool:
    from pv.backends.cpu import cpu_facts

    memory = cpu_facts().memory_bytes
    return not memory or 8 * model.spec.parameters < _ROOM * memory
