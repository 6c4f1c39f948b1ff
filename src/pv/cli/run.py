"""`pv run`: a model and a prompt -> text on stdout, as it comes; everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pv.cli.engine import engine_errors
from pv.cli.gate_options import gate_options, start_of

if TYPE_CHECKING:
    from pv.backends.registry import Choice
    from pv.cli.gate_options import Start
    from pv.model.generate import Sampling
    from pv.model.open import Model


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="The text to continue.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Stop after so many.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0: the likeliest token, always.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw from this share of the probability.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draw.")
@click.option("--chat", is_flag=True, help="Put the prompt into the model's chat template.")
@click.option("--no-gpu", is_flag=True, help="Use the CPU; touch no GPU driver at all.")
@click.option("--backend", metavar="NAME", help="Try this backend first, then the CPU.")
@click.option("--require", metavar="NAME", help="Use this backend or fail; no fallback.")
@gate_options
@click.option("-v", "--verbose", is_flag=True, help="Device, speed and why it ended, on stderr.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of the text.")
def run(
    model: Path, prompt: str, max_tokens: int, temperature: float, top_p: float, seed: int, chat: bool, no_gpu: bool,
    backend: str | None, require: str | None, verbose: bool, as_json: bool, **gate: Any,
) -> None:  # fmt: skip
    """Generate text with MODEL, a directory or a GGUF file."""
    with engine_errors():
        if no_gpu:
            from pv.backends.no_driver import hide_cuda_driver

            hide_cuda_driver()  # before torch: its CUDA build maps the driver when it is imported
        from pv.backends.registry import Choice
        from pv.model.generate import Sampling
        from pv.model.open import open_model

        sampling, choice = Sampling(temperature, top_p, seed), Choice(backend, require, no_gpu)
        write = _no_writing if as_json else _write
        start = start_of(gate, choice, detail=verbose)
        opened = open_model(model)
        answer = answer_prompt(opened, prompt, max_tokens, sampling, choice, chat=chat, write=write, start=start)
        if as_json:
            click.echo(json.dumps(answer.as_json(), ensure_ascii=False))
        else:
            click.echo()
        if verbose:
            _tell(answer)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run gave, and its facts."""

    text: str
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    end: str  # stop, length or context
    backend: str
    device: str
    model: str
    load_seconds: float
    prefill_seconds: float  # until the first token
    decode_seconds: float  # of all tokens after the first

    def as_json(self) -> dict[str, Any]:
        """The same, as JSON takes it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def answer_prompt(
    model: Model,
    prompt: str,
    max_tokens: int,
    sampling: Sampling,
    choice: Choice,
    *,
    chat: bool = False,
    start: Start | None = None,
    write: Callable[[str], None],
    say: Callable[[str], None] = lambda line: click.echo(line, err=True),
) -> Answer:
    """Choose a backend, generate, hand the text to `write` piece by piece. Raises ModelError and BackendError."""
    from pv.backends.torch_session import check_tokens
    from pv.cli.gate_options import Start
    from pv.model.generate import generate
    from pv.model.tokenizer import TextStream

    tokenizer, started = model.tokenizer, time.perf_counter()
    asked = tokenizer.encode(tokenizer.chat(prompt) if chat else prompt)
    check_tokens(model.spec, asked, 0)  # before a backend copies gigabytes
    session = (start or Start()).serve(model, asked, choice, say)
    opened = time.perf_counter()
    tokens: list[int] = []
    stream, text, first, end = TextStream(tokenizer), "", opened, ""
    try:
        for token, end in generate(session, asked, max_tokens=max_tokens, sampling=sampling, stops=tokenizer.stops):
            first = first if tokens else time.perf_counter()
            tokens.append(token)
            piece = ("" if end == "stop" else stream.push(token)) + (stream.finish() if end else "")
            text += piece
            write(piece)
        done, facts = time.perf_counter(), session.facts
    finally:
        session.close()
    return Answer(
        text=text,
        prompt_tokens=tuple(asked),
        tokens=tuple(tokens),
        end=end,
        backend=facts.backend,
        device=facts.name,
        model=str(model.path),
        load_seconds=opened - started,
        prefill_seconds=first - opened,
        decode_seconds=done - first,
    )


def _write(piece: str) -> None:
    """To stdout at once. A character that the terminal's encoding lacks is replaced, not a crash."""
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(piece.encode(encoding, "replace").decode(encoding), nl=False)
    sys.stdout.flush()


def _no_writing(piece: str) -> None:
    """For `--json`, which prints the whole at the end."""


def _tell(answer: Answer) -> None:
    reasons = {"stop": "the model's own end", "length": "--max-tokens", "context": "the context is full"}
    rest = len(answer.tokens) - 1
    speed = f", then {rest / answer.decode_seconds:.1f} tokens/s" if rest and answer.decode_seconds > 0 else ""
    click.echo(f"backend: {answer.backend} ({answer.device})", err=True)
    click.echo(
        f"{len(answer.prompt_tokens)} prompt tokens, {len(answer.tokens)} new; ended by {reasons[answer.end]}", err=True
    )
    click.echo(
        f"opened in {answer.load_seconds:.2f} s, first token after {answer.prefill_seconds:.2f} s{speed}", err=True
    )
