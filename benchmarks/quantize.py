"""Measure every file type on the trained teacher, ours beside llama.cpp's: `python benchmarks/quantize.py [--write]`.

For each type: size; the divergence of its forward from the float32 forward over the held-out text, through our
quantized product and through llama.cpp on the same file; how far the two are apart, in ggml's order of additions and in
ours, and where they disagree on a first token; tokens a second of both; and how fast the type is written. `--write`
puts the tables between the marks in docs/gguf.md; nothing there is typed by hand. `--tables loss,peer` leaves out the
speeds, which want a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pv.backends.cpu import cpu_facts, open_cpu
from pv.backends.cpu_ggml import open_cpu_ggml
from pv.backends.torch_session import TorchSession
from pv.cli.kld_peer import FAR, NEAR_TIE
from pv.compare.kld import Divergence, divergence
from pv.model.gguf_file import dequantized, open_gguf
from pv.model.gguf_peer import LlamaCpp, PeerError
from pv.model.gguf_write import FileType, convert
from pv.model.open import Model, open_model
from pv.model.quant import ENCODERS, dequantize, quantize

ROOT = Path(__file__).parents[1]
TEACHER = ROOT / "fixtures" / "tiny-teacher"
DOCS = ROOT / "docs" / "gguf.md"
TABLES = ("loss", "peer", "speed")
EQUAL = 1e-11  # 1 - cosine below which two positions differ by float32 rounding alone
WRITTEN = 48  # tokens written for the decode figure


@dataclass(frozen=True, slots=True)
class Side:
    """One implementation on one file."""

    kl_mean: float
    kl_p999: float
    same_top1: float
    same_top1_low: float
    lost: float  # mean 1 - cosine of log-probabilities against float32
    reading: float | None  # tokens a second of a prompt; None: not measured
    writing: float | None  # tokens a second, one by one


@dataclass(frozen=True, slots=True)
class Apart:
    """We and llama.cpp on the same file, adding in one order."""

    mean: float  # 1 - cosine of log-probabilities
    worst: float
    above: int  # positions above FAR
    equal: float  # share of positions that differ by float32 rounding alone
    near_ties: int
    flips: tuple[tuple[int, int, int, float], ...]  # position, llama.cpp's token, ours, llama.cpp's margin


@dataclass(frozen=True, slots=True)
class Row:
    """One file type."""

    kind: str
    nbytes: int
    ours: Side
    product_kl: float  # of our quantized product against the same weights as float32
    llama: Side | None
    in_ggml_order: Apart | None
    in_own_order: Apart | None


def main() -> None:
    """Measure, print JSON, and write the page when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/gguf.md")
    parser.add_argument("--lines", type=int, help="use only the first so many lines of the text")
    parser.add_argument("--tables", default=",".join(TABLES), help="comma list of tables to measure and write")
    parser.add_argument("--types", default=",".join(FileType), help="comma list of file types")
    options = parser.parse_args()
    tables = options.tables.split(",")
    if unknown := set(tables) - set(TABLES):
        parser.error(f"expected tables of {', '.join(TABLES)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    teacher = open_model(TEACHER)
    text = (TEACHER / "heldout.txt").read_text().splitlines()[: options.lines]
    documents = [teacher.tokenizer.encode(line) for line in text]
    reference = table_of(open_cpu(teacher.weights), documents)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measured(teacher, FileType(kind), documents, reference, Path(folder), timed="speed" in tables)
            for kind in options.types.split(",")
        ]
    speeds = {str(kind): quantizer_speed(kind) for kind in ENCODERS} if "speed" in tables else {}
    facts = {
        "machine": f"{cpu_facts().name}, one thread, torch {torch.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}",
        "peer": peer_version(),
        "positions": len(reference),
        "documents": len(documents),
        "teacher": teacher.digest,
    }
    print(json.dumps({**facts, "rows": [asdict(row) for row in rows], "speeds": speeds}, indent=1))
    if options.write:
        write_page(facts, rows, speeds, tables)


def measured(
    teacher: Model, kind: FileType, documents: list[list[int]], reference: np.ndarray, folder: Path, *, timed: bool
) -> Row:
    """One file type, both implementations."""
    written = convert(teacher, folder / f"{kind}.gguf", kind, tokenizer=teacher.tokenizer)
    model = open_gguf(written.path)
    ours = table_of(open_cpu(model.weights), documents)
    dense = table_of(open_cpu(dequantized(model).weights), documents)
    mine = side(against(reference, ours, documents), our_speed(model, documents) if timed else None)
    product = float(against(dense, ours, documents).kl.mean())
    try:
        with LlamaCpp(written.path, single=True) as peer:
            theirs = np.concatenate([peer.text_logprobs(document) for document in documents])
        speed = their_speed(written.path, documents) if timed else None
    except PeerError as absent:
        print(f"llama.cpp: {absent}", file=sys.stderr)
        return Row(kind, written.nbytes, mine, product, None, None, None)
    same_order = table_of(open_cpu_ggml(model.weights), documents)
    return Row(
        kind=kind,
        nbytes=written.nbytes,
        ours=mine,
        product_kl=product,
        llama=side(against(reference, theirs, documents), speed),
        in_ggml_order=apart(against(theirs, same_order, documents)),
        in_own_order=apart(against(theirs, ours, documents)),
    )


def table_of(session: TorchSession, documents: list[list[int]]) -> np.ndarray:
    """Logits after every token of every document, (positions, V) float32."""
    parts = []
    for document in documents:
        session.reset()
        parts.append(session.prefill_all(document))
    return np.concatenate(parts)


def apart(found: Divergence) -> Apart:
    """The figures of one order."""
    far = found.one_minus_cosine
    return Apart(
        mean=float(far.mean()),
        worst=float(far.max()),
        above=int((far > FAR).sum()),
        equal=float((far < EQUAL).mean()),
        near_ties=len(found.near_ties(NEAR_TIE)),
        flips=tuple(found.flips),
    )


def against(reference: np.ndarray, test: np.ndarray, documents: list[list[int]]) -> Divergence:
    """The divergence of two tables of logits, or log-probabilities, over the same documents."""
    return divergence(documents, served(reference), served(test))


def served(table: np.ndarray) -> Callable[[Sequence[int]], np.ndarray]:
    """The rows of a table, window by window."""
    rows = iter(np.split(table, len(table)))

    def after_each(window: Sequence[int]) -> np.ndarray:
        return np.concatenate([next(rows) for _ in window])

    return after_each


def side(found: Divergence, speed: tuple[float, float] | None) -> Side:
    """The figures of the table."""
    data, (reading, writing) = found.as_json(), speed or (None, None)
    return Side(
        data["kl_mean"], data["kl_p999"], data["same_top1"], data["same_top1_low"], data["one_minus_cosine_mean"],
        reading, writing,
    )  # fmt: skip


def our_speed(model: Model, documents: list[list[int]], tries: int = 12) -> tuple[float, float]:
    """Tokens a second of reading 256 tokens and of writing, the best of some tries."""
    prompt, session, best = prompt_of(documents), open_cpu(model.weights), [0.0, 0.0]
    for _ in range(tries):
        session.reset()
        started = time.perf_counter()
        logits = session.prefill(prompt)
        read = time.perf_counter()
        for _ in range(WRITTEN):
            logits = session.decode(int(logits.argmax()))
        ended = time.perf_counter()
        best = [max(best[0], len(prompt) / (read - started)), max(best[1], WRITTEN / (ended - read))]
    return best[0], best[1]


def their_speed(path: Path, documents: list[list[int]], tries: int = 12) -> tuple[float, float]:
    """The same of llama.cpp, as it times itself, with its fastest kernels."""
    with LlamaCpp(path, repack=True) as peer:
        found = [peer.speed(prompt_of(documents), WRITTEN) for _ in range(tries)]
    return max(reading for reading, _ in found), max(writing for _, writing in found)


def prompt_of(documents: list[list[int]]) -> list[int]:
    """256 tokens of the text."""
    return [token for document in documents for token in document][:256]


def quantizer_speed(kind: Any) -> dict[str, float]:
    """Million weights a second, written and read back, best of five, one core."""
    values = (np.random.default_rng(0).standard_normal((1024, 1024)) / 32).astype(np.float32)
    stored, writing, reading = quantize(values, kind), 0.0, 0.0
    for _ in range(5):
        started = time.perf_counter()
        quantize(values, kind)
        middle = time.perf_counter()
        dequantize(stored, kind)
        ended = time.perf_counter()
        writing = max(writing, values.size / (middle - started) / 1e6)
        reading = max(reading, values.size / (ended - middle) / 1e6)
    return {"write": writing, "read": reading}


def peer_version() -> str:
    """The wheel that stands for llama.cpp."""
    try:
        import xllamacpp
    except ImportError:
        return "not installed"
    return f"xllamacpp {xllamacpp.__version__}"


# --- the page ---


def write_page(
    facts: dict[str, Any], rows: list[Row], speeds: dict[str, dict[str, float]], tables: Sequence[str]
) -> None:
    """Replace what stands between the marks of docs/gguf.md."""
    page = DOCS.read_text(encoding="utf-8")
    written: dict[str, Callable[[], str]] = {
        "loss": lambda: loss_table(facts, rows),
        "peer": lambda: peer_table(rows),
        "speed": lambda: speed_table(facts, rows, speeds),
    }
    for mark in tables:
        content, start, end = written[mark](), f"<!-- {mark} -->\n", f"<!-- end {mark} -->"
        head, _, rest = page.partition(start)
        _, _, tail = rest.partition(end)
        if not tail:
            raise SystemExit(f"expected the marks {start.strip()} and {end} in {DOCS}")
        page = f"{head}{start}{content}{end}{tail}"
    DOCS.write_text(page, encoding="utf-8")


def loss_table(facts: dict[str, Any], rows: list[Row]) -> str:
    """What each type costs against float32, ours and llama.cpp's."""
    lines = [
        f"{facts['positions']:,} positions of {facts['documents']} held-out lines; against our float32 forward; "
        f"{facts['peer']}. Every pair is ours / llama.cpp.\n",
        "| type | bytes | KL mean | KL p99.9 | same top-1 (lower 95 %) | 1 - cos, mean | of it the product: KL |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        a, b = row.ours, row.llama
        lines.append(
            f"| {row.kind} | {row.nbytes:,} | {pair(a, b, 'kl_mean', '.1e')} | {pair(a, b, 'kl_p999', '.1e')} "
            f"| {pair(a, b, 'same_top1', '.4f')} ({a.same_top1_low:.4f}) | {pair(a, b, 'lost', '.1e')} "
            f"| {row.product_kl:.1e} |"
        )
    return "\n".join(lines) + "\n"


def peer_table(rows: list[Row]) -> str:
    """How near we are to llama.cpp on the same file, in either order."""
    both = [(row.kind, row.in_ggml_order, row.in_own_order) for row in rows if row.in_ggml_order and row.in_own_order]
    lines = [
        "| type | ggml's order: 1 - cos, worst | other first token | our order: 1 - cos, worst | mean | above 1e-6 "
        "| equal up to float32 rounding | other first token | of these near ties |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {kind} | {ggml.worst:.1e} | {len(ggml.flips)} | {own.worst:.1e} | {own.mean:.1e} | {own.above} "
        f"| {own.equal:.1%} | {len(own.flips)} | {own.near_ties} |"
        for kind, ggml, own in both
    ]
    listed = [
        flips_of([(kind, ggml) for kind, ggml, _ in both], "ggml's"),
        flips_of([(k, own) for k, _, own in both], "our"),
    ]
    return "\n".join(lines) + "\n\n" + " ".join(listed) + "\n"


def flips_of(rows: Iterable[tuple[str, Apart]], order: str) -> str:
    """Where a first token differs in this order, with llama.cpp's margin."""
    found = "; ".join(
        f"{kind} at {place}: {theirs} became {ours}, margin {margin:.4f}"
        for kind, apart in rows
        for place, theirs, ours, margin in apart.flips
    )
    return f"In {order} order: {found}." if found else f"In {order} order no first token differs."


def speed_table(facts: dict[str, Any], rows: list[Row], speeds: dict[str, dict[str, float]]) -> str:
    """Tokens a second and weights a second."""
    lines = [
        f"{facts['machine']}; {facts['peer']}. Tokens a second are ours / llama.cpp's.\n",
        "| type | reading, tokens/s | writing, tokens/s | quantizer, million weights/s | dequantizer |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        speed = speeds.get(str(row.kind))
        rates = f"{speed['write']:,.0f} | {speed['read']:,.0f}" if speed else "a mix | a mix"
        reading, writing = (pair(row.ours, row.llama, figure, ",.0f") for figure in ("reading", "writing"))
        lines.append(f"| {row.kind} | {reading} | {writing} | {rates} |")
    return "\n".join(lines) + "\n"


def pair(ours: Side, theirs: Side | None, figure: str, form: str) -> str:
    """Ours / theirs."""
    other = "-" if theirs is None else format(getattr(theirs, figure), form)
    return f"{format(getattr(ours, figure), form)} / {other}"


if __name__ == "__main__":
    main()
