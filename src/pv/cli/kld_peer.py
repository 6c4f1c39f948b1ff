"""A GGUF file, given to llama.cpp and to pv -> how far apart the two predict a text: `pv kld --peer llama.cpp`.

llama.cpp is the reference. It is handed the token ids, so what is compared is the forward and not the tokenizer, and
it takes one token a batch: its kernels add in another order for longer batches, and `--order ggml` adds in this one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import click

from pv import __version__

if TYPE_CHECKING:
    import numpy as np

    from pv.backends.protocol import Session
    from pv.compare.kld import Divergence, Logits
    from pv.model.open import Model

Order = Literal["own", "ggml"]

PEERS = ("llama.cpp",)
ORDERS: tuple[Order, ...] = ("own", "ggml")
_OWNER = {"own": "its own", "ggml": "ggml's"}
FAR = 1e-6  # 1 - cosine of a position; the same forward in two orders of addition stays below, where no int8 code flips
NEAR_TIE = 0.1  # nats; an int8 code that rounds the other way moves a log-probability by up to 0.08 on the teacher
_SMALLEST = 87.0  # nats below the sum; llama.cpp hands out float32 probabilities, which lose digits below exp(-87.3)


class Sides(NamedTuple):
    """Who computed what, in words, and llama.cpp's version."""

    reference: str
    tested: str
    version: str


def want_possible(model_b: Path | None, order: Order | None, dequantize: str | None, backend: str) -> None:
    """Raise UsageError for options that `--peer` leaves no meaning."""
    if model_b is not None:
        raise click.UsageError(f"--peer gives MODEL_A to both sides, so expected no MODEL_B, got {model_b}")
    if dequantize is not None:
        raise click.UsageError(
            "--dequantize does not go with --peer: llama.cpp multiplies what is in the file; "
            "`pv model convert MODEL.gguf --to gguf --type F32` writes a file of the same numbers as float32"
        )
    if order == "ggml" and backend != "cpu":
        raise click.UsageError(f"--order ggml is computed on the CPU; {backend} adds in an order of its own")


def order_for(model: Model, asked: Order | None, backend: str) -> Order:
    """ggml's where blocks are multiplied on the CPU: there an order decides which way an int8 code rounds."""
    if asked is not None:
        return asked
    blocks = any(kind.quantized for kind in model.weights.types)
    return "ggml" if blocks and backend == "cpu" else "own"


def open_peered(path: Path) -> Model:
    """The file that both sides run.

    Raises UsageError for a directory, ImportError without llama.cpp's wheel, ModelError for what is no model, and
    BackendBlocked for a type that llama.cpp does not compute.
    """
    from pv.model.open import open_model

    if path.is_dir():
        raise click.UsageError(
            f"--peer needs a GGUF file, which is what llama.cpp reads, got the directory {path}; "
            f"`pv model convert {path} --to gguf --type F32 --output model.gguf` writes one"
        )
    import xllamacpp  # noqa: F401  (its absence is told with its extra, and before anything is computed)

    model = open_model(path)
    _want_computable(model)
    return model


def _want_computable(model: Model) -> None:
    """Raise BackendBlocked for types that pv runs, and that end llama.cpp (and this process) amid a forward."""
    from pv.cli.engine import BackendBlocked
    from pv.model.weights import WeightType

    for weight in model.weights.tensors.values():
        if weight.type == WeightType.F64 or (len(weight.shape) == 1 and weight.type != WeightType.F32):
            raise BackendBlocked(
                f"llama.cpp computes no {weight.type} {'matrix' if len(weight.shape) > 1 else 'norm or bias'}, "
                f"and {weight.name!r} of {model.path} is one; "
                f"`pv model convert {model.path} --to gguf --type F32` writes a file that it does compute"
            )


def peer_context(model: Model, asked: int) -> int:
    """Tokens of a window: llama.cpp writes one token behind each prompt, which has to fit the model's context too."""
    return max(1, min(asked, model.spec.context - 1))


def compare_with_peer(
    model: Model, windows: Sequence[Sequence[int]], backend: str, order: Order
) -> tuple[Divergence, Sides]:
    """llama.cpp and pv on the same file over the same windows, with a progress bar on a terminal.

    One window's log-probabilities are in memory at a time. Raises KldError without a window, and BackendBlocked where
    llama.cpp cannot load the file or does not answer.
    """
    from contextlib import closing

    import torch

    from pv.cli.engine import BackendBlocked
    from pv.cli.kld import logits_of
    from pv.compare.kld import KldError, divergence
    from pv.model.gguf_peer import LlamaCpp, PeerError

    if not windows:
        raise KldError("expected at least one token of text, got none")
    context = 1 + max(map(len, windows))
    total, hidden = sum(map(len, windows)), not sys.stderr.isatty()
    try:
        with (
            closing(_open_tested(model, backend, order)) as test,
            LlamaCpp(model.path, context=context, threads=torch.get_num_threads(), single=True) as peer,
            click.progressbar(length=total, label="tokens", file=sys.stderr, hidden=hidden) as progress,
        ):

            def theirs(window: Sequence[int]) -> np.ndarray:
                return peer.text_logprobs(window, lambda: progress.update(1))

            found = divergence(windows, floored(theirs), floored(logits_of(test)))
            return found, Sides(
                f"llama.cpp ({peer.version}), one token at a time",
                f"pv {__version__} on {backend}, added in {_OWNER[order]} order",
                peer.version,
            )
    except PeerError as problem:
        raise BackendBlocked(str(problem)) from None


def floored(logits: Logits) -> Logits:
    """The same, nothing below a probability of exp(-87), under which llama.cpp's float32 loses digits and ends at zero.

    Below it a log-probability is no longer a number that can be compared; the divergence does not see such tokens, but
    a cosine of log-probabilities would.
    """
    import numpy as np

    def bounded(window: Sequence[int]) -> np.ndarray:
        rows = logits(window)
        with np.errstate(invalid="ignore"):  # what is not finite is told by the comparison
            for at, row in enumerate(rows):
                first = row.max()
                floor = first + np.log(np.exp(row - first).sum(dtype=np.float64)) - _SMALLEST
                if row.min() < floor:
                    rows[at] = np.maximum(row, np.float32(floor))
        return rows

    return bounded


def _open_tested(model: Model, backend: str, order: Order) -> Session:
    if order == "ggml":
        from pv.backends.cpu_ggml import open_cpu_ggml

        return open_cpu_ggml(model.weights)
    from pv.cli.sessions import open_session

    return open_session(model, backend)
