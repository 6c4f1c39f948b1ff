"""`pv kld`: two models, or a GGUF file and llama.cpp, and a text -> how far apart they predict it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pv.cli.engine import engine_errors
from pv.cli.kld_peer import FAR, NEAR_TIE, ORDERS, PEERS

if TYPE_CHECKING:
    import numpy as np

    from pv.backends.protocol import Session
    from pv.cli.kld_peer import Order
    from pv.compare.kld import Divergence, Logits
    from pv.model.open import Model

PICTURES = (".png", ".svg", ".pdf")
_LISTED = 10  # flips shown without --json


@click.command()
@click.argument("model_a", type=click.Path(path_type=Path))
@click.argument("model_b", type=click.Path(path_type=Path), required=False)
@click.option("--text", required=True, type=click.Path(path_type=Path), help="UTF-8 text that neither was trained on.")
@click.option("--context", type=click.IntRange(min=2), default=512, show_default=True, help="Tokens of a window.")
@click.option("--by-line", is_flag=True, help="Each line is a text of its own.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Use only the first so many tokens.")
@click.option(
    "--dequantize", type=click.Choice(["a", "b", "both"]),
    help="Multiply this side's quantized weights as float32: tells the loss of the weights from that of the product.",
)  # fmt: skip
@click.option(
    "--backend", type=click.Choice(["cpu", "cuda", "wgpu"]), default="cpu", show_default=True,
    help="Compute MODEL_B there; MODEL_A stays on the CPU in float32. With --peer: compute pv's side there.",
)  # fmt: skip
@click.option(
    "--peer", type=click.Choice(PEERS),
    help="In place of MODEL_B: run MODEL_A, a GGUF file, in llama.cpp too, which is the reference (extra [peers]).",
)  # fmt: skip
@click.option(
    "--order", type=click.Choice(ORDERS),
    help="With --peer: add float32 sums in pv's own order, or in that of ggml's x86 kernels. A quantized product "
    "rounds activations to int8, and where a sum differs in its last bit the code can be another, which moves a "
    "position by about 1e-6 (1 - cosine); in ggml's order no code is another, so what is left is a defect. "
    "[default: ggml for files of blocks on the CPU, else own]",
)  # fmt: skip
@click.option(
    "--near-tie", type=float, callback=lambda _context, _option, value: _margin(value),
    help=f"A flip below this margin is a near tie.  [default: 0, with --peer {NEAR_TIE}]",
)  # fmt: skip
@click.option("--plot", type=click.Path(path_type=Path), help="Write a plot (.png, .svg or .pdf).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def kld(
    model_a: Path, model_b: Path | None, text: Path, context: int, by_line: bool, max_tokens: int | None,
    dequantize: str | None, backend: str, peer: str | None, order: Order | None, near_tie: float | None,
    plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Kullback-Leibler divergence of MODEL_B from MODEL_A over a text, and how often their first tokens agree.

    With --peer llama.cpp it is pv's divergence from llama.cpp, on one GGUF file.

    \b
    Examples:
      pv kld teacher teacher.gguf --text heldout.txt --by-line
      pv kld teacher.gguf --peer llama.cpp --text heldout.txt --by-line
    """
    if plot is not None:
        _want_drawable(plot)
    cutting = Cutting(text, context, by_line, max_tokens)
    if peer is not None:
        found, facts = _against_peer(model_a, model_b, cutting, dequantize, backend, peer, order)
    elif model_b is None:
        raise click.UsageError("Missing argument 'MODEL_B', or in its place --peer llama.cpp")
    elif order is not None:
        raise click.UsageError("--order goes with --peer; two models of pv both add in its own order")
    else:
        found, facts = _two_models(model_a, model_b, cutting, dequantize, backend)
    if near_tie is None:
        near_tie = 0.0 if peer is None else NEAR_TIE
    facts = found.as_json() | far_positions(found) | facts | {"near_ties": len(found.near_ties(near_tie))}
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else "\n".join(_lines(facts, near_tie)))
    if plot is not None:  # last: what was measured is told, whatever becomes of the picture
        with engine_errors():
            draw(found, plot, f"{facts['tested']} against {facts['reference']}")


def _margin(value: float | None) -> float | None:
    """A bound on a margin. Raises BadParameter for what is none."""
    if value is not None and not (isfinite(value) and value >= 0):
        raise click.BadParameter(f"expected a margin of 0 or more, got {value}")
    return value


def _want_drawable(path: Path) -> None:
    """Before a measurement of minutes: whether its picture can be written. Raises UsageError and BackendBlocked."""
    if path.suffix.lower() not in PICTURES:
        raise click.UsageError(f"expected a file that ends in {', '.join(PICTURES)} for --plot, got {path}")
    if not path.parent.is_dir() or path.is_dir():
        raise click.UsageError(f"expected a file in a folder that is there for --plot, got {path}")
    with engine_errors():
        import matplotlib  # noqa: F401 - whether it is installed


class Cutting(NamedTuple):
    """Which text, and how it is cut into windows."""

    text: Path
    context: int  # tokens of a window, at most
    by_line: bool
    most: int | None  # tokens of the text, at most


def _two_models(
    model_a: Path, model_b: Path, cutting: Cutting, dequantize: str | None, backend: str
) -> tuple[Divergence, dict[str, Any]]:
    with engine_errors():
        from pv.model.open import open_model

        a, b = open_model(model_a), open_model(model_b)
        with _wrong_call():
            found = compare_models(
                _dense(a, dequantize in {"a", "both"}),
                _dense(b, dequantize in {"b", "both"}),
                windows_of(a, b, *cutting),
                backend,
            )
    return found, {
        "model_a": str(model_a), "model_b": str(model_b), "text": str(cutting.text), "dequantize": dequantize,
        "backend": backend, "peer": None, "order": None, "reference": model_a.name, "tested": model_b.name,
    }  # fmt: skip


def _against_peer(
    path: Path, model_b: Path | None, cutting: Cutting, dequantize: str | None, backend: str, peer: str,
    order: Order | None,
) -> tuple[Divergence, dict[str, Any]]:  # fmt: skip
    from pv.cli import kld_peer

    kld_peer.want_possible(model_b, order, dequantize, backend)
    with engine_errors():
        model = kld_peer.open_peered(path)
        taken = kld_peer.order_for(model, order, backend)
        cutting = cutting._replace(context=kld_peer.peer_context(model, cutting.context))
        with _wrong_call():
            found, sides = kld_peer.compare_with_peer(model, windows_of(model, model, *cutting), backend, taken)
    return found, {
        "model_a": str(path), "model_b": None, "text": str(cutting.text), "dequantize": None, "backend": backend,
        "peer": {"name": peer, "version": sides.version}, "order": taken, "reference": sides.reference,
        "tested": sides.tested,
    }  # fmt: skip


@contextmanager
def _wrong_call() -> Iterator[None]:
    """A text without a token, or two sides that cannot be compared, is the caller's matter."""
    from pv.compare.kld import KldError

    try:
        yield
    except KldError as problem:
        raise click.UsageError(str(problem)) from None


def far_positions(found: Divergence) -> dict[str, Any]:
    """Where the cosine is worst, and how many positions are farther than float32 alone takes them."""
    far = found.one_minus_cosine
    return {"one_minus_cosine_max_at": int(far.argmax()), "one_minus_cosine_above_1e-6": int((far > FAR).sum())}


def compare_models(a: Model, b: Model, windows: Sequence[Sequence[int]], backend: str = "cpu") -> Divergence:
    """`a` on the CPU and `b` on a backend over the same windows, with a progress bar on a terminal."""
    from contextlib import closing

    from pv.backends.cpu import open_cpu
    from pv.cli.sessions import open_session
    from pv.compare.kld import divergence

    progress = click.progressbar(windows, label="windows", file=sys.stderr, hidden=not sys.stderr.isatty())
    with closing(open_session(b, backend)) as test, closing(open_cpu(a.weights)) as reference, progress as shown:
        return divergence(shown, logits_of(reference), logits_of(test))


def windows_of(
    a: Model, b: Model, text: Path, context: int, by_line: bool, most: int | None = None
) -> list[Sequence[int]]:
    """The text's tokens in windows. Raises ModelError when the two models do not share a vocabulary."""
    from pv.compare.kld import cut
    from pv.model.errors import ContextError, TokenizerError

    if a.spec.vocab != b.spec.vocab:
        raise ContextError(
            f"expected models of one vocabulary, got {a.spec.vocab} tokens in {a.path} and {b.spec.vocab} in {b.path}",
            "their distributions have no common outcomes",
        )
    try:
        content = text.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ContextError(f"expected UTF-8 text in {text}, got other bytes") from None
    length = min(context, a.spec.context, b.spec.context)
    windows: list[Sequence[int]] = []
    left = most if most is not None else sys.maxsize
    for piece in _pieces(content, by_line):
        tokens = a.tokenizer.encode(piece)
        others = tokens if b is a else b.tokenizer.encode(piece)
        if tokens != others:
            at = next(
                (i for i, (x, y) in enumerate(zip(tokens, others, strict=False)) if x != y),
                min(len(tokens), len(others)),
            )
            raise TokenizerError(
                f"the two models cut the text into different tokens, first at token {at} of {piece[:40]!r}"
            )
        windows += cut(tokens[:left], length)
        left -= len(tokens[:left])
    return windows


def draw(found: Divergence, path: Path, title: str) -> None:
    """How the divergence is distributed, and where in the text it stands. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    ordered = np.sort(found.kl)[::-1]
    left.loglog(np.arange(1, ordered.size + 1) / ordered.size, np.maximum(ordered, 1e-12))
    left.set(xlabel="share of positions", ylabel="KL (nats), at least", title="distribution")
    right.semilogy(np.arange(found.kl.size), np.maximum(found.kl, 1e-12), linewidth=0, marker=".", markersize=2)
    flips = [flip.position for flip in found.flips]
    right.plot(
        flips, np.maximum(found.kl[flips], 1e-12), linewidth=0, marker="x", color="tab:red", label="other first token"
    )
    right.set(xlabel="position in the text", ylabel="KL (nats)", title=f"{len(flips)} of {found.positions} flipped")
    right.legend(loc="lower right")
    figure.suptitle(title)
    figure.savefig(path)
    pyplot.close(figure)


def _pieces(content: str, by_line: bool) -> Iterator[str]:
    yield from (line for line in content.splitlines() if line.strip()) if by_line else (content,)


def _dense(model: Model, wanted: bool) -> Model:
    from dataclasses import replace

    return replace(model, weights=model.weights.dequantized()) if wanted else model


def logits_of(session: Session) -> Logits:
    """Logits after every token of a window: in one pass on the CPU, token by token where a session gives one row."""
    import numpy as np

    from pv.backends.torch_session import TorchSession

    def after_each(window: Sequence[int]) -> np.ndarray:
        session.reset()
        if isinstance(session, TorchSession):
            return session.prefill_all(window)
        rows = [session.prefill(window[:1])]
        rows += [session.decode(token) for token in window[1:]]
        return np.stack(rows)

    return after_each


def _lines(facts: dict[str, Any], near_tie: float) -> Iterator[str]:
    yield f"positions     {facts['positions']:,}"
    if facts["peer"] is not None:
        yield f"reference     {facts['reference']}"
        yield f"tested        {facts['tested']}"
    elif facts["backend"] != "cpu":
        yield f"MODEL_B       on {facts['backend']}; MODEL_A on the CPU in float32"
    for name in ("mean", "median", "p99", "p999", "max"):
        label = {"p999": "p99.9"}.get(name, name)
        yield f"KL {label:10} {facts[f'kl_{name}']:.3e} nats"
    yield f"1 - cosine    {facts['one_minus_cosine_max']:.3e} at worst, {facts['one_minus_cosine_mean']:.3e} on average"
    if facts["peer"] is not None:
        above = facts["one_minus_cosine_above_1e-6"]
        yield f"              worst at position {facts['one_minus_cosine_max_at']}; {above:,} above {FAR:.0e}"
    low, high = facts["same_top1_low"], facts["same_top1_high"]
    yield (
        f"same top-1    {facts['same_top1_hits']:,} of {facts['positions']:,} = {facts['same_top1']:.4f} "
        f"(95 %: {low:.4f} to {high:.4f})"
    )
    both = facts["perplexity_reference"], facts["perplexity_test"]
    if both != (None, None):  # none: no token has a next one; one of the two: it does not fit a float
        yield f"perplexity    {' and '.join('infinite' if one is None else f'{one:.4f}' for one in both)}"
    for flip in facts["flips"][:_LISTED]:
        yield f"  position {flip['position']}: {flip['reference']} became {flip['test']}, margin {flip['margin']:.4f}"
    if len(facts["flips"]) > _LISTED:
        yield f"  and {len(facts['flips']) - _LISTED} more (--json lists them all)"
    if facts["flips"]:
        yield f"  {facts['near_ties']} of these {len(facts['flips'])} are near ties (margin below {near_tie:g})"
