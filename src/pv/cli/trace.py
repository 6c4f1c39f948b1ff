"""`pv trace`: a model and a prompt -> the tensors of the forward on disk, or their figures on stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pv.cli.captures import capture_errors, progress
from pv.cli.sessions import open_session, open_suspect

if TYPE_CHECKING:
    from pv.backends.protocol import Session
    from pv.model.open import Model
    from pv.trace.capture import Captured, Origin
    from pv.trace.manifest import Manifest
    from pv.trace.plan import Plan
    from pv.trace.statistics import LayerStatistics, Statistics

HF_DTYPES = ("float32", "float16", "bfloat16")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--prompt", help="The text to run.")
@click.option("--tokens", metavar="IDS", help="Token ids instead of a text, for instance 5,17,42.")
@click.option("--save-tensor", "stages", metavar="STAGES", help="Stages to capture: a comma list, or all.")
@click.option("--layer", "--layers", "layers", metavar="LIST", default="all", show_default=True, help="Such as 0,3-5.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder; default: MODEL-trace beside the model.")
@click.option("--step", "steps", metavar="LIST", help="Decode steps, from 1, into DIR/step-K, instead of the prefill.")
@click.option("--feed", metavar="IDS", help="Tokens to feed at the decode steps; default: the likeliest ones.")
@click.option("--heads", metavar="LIST", help="Heads of attention maps to keep; needed for maps above 256 MiB.")
@click.option("--payload", is_flag=True, help="Print figures of ten slots for each layer.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--backend", metavar="NAME", default="cpu", show_default=True, help="cpu, cuda or wgpu.")
@click.option(
    "--source", type=click.Choice(["pv", "hf"]), default="pv", show_default=True, help="hf: Transformers' own model."
)
@click.option("--dtype", type=click.Choice([*HF_DTYPES, "float64"]), default="float32", show_default=True)
@click.option("--plant", metavar="DEFECT", hidden=True, help="For tests only: a planted defect, or STAGE@LAYER*FACTOR.")
@click.option("--device", metavar="NAME", default="cpu", show_default=True, help="Of the hf source: cpu or cuda.")
@click.option(
    "--with-attn-substages/--no-attn-substages",
    "substages",
    default=True,
    help="Of the hf source: whether to look inside the attention, at the rotated q and k, scores and softmax.",
)
def trace(**given: Any) -> None:
    """Capture the tensors of a forward of MODEL (a directory or a GGUF file), or print their figures.

    Capture happens inside the forward that `pv run` uses and changes no bit of its result. A capture is complete or
    absent; manifest.json in it says what its files are. `pv diff` compares two captures, `pv bisect` finds where they
    part.

    \b
    Stages: embedding attn_norm qkv_matmul qkv_bias q_post_rope k_post_rope attn_scores attn_softmax attention attn_out
    post_attn_residual ffn_norm ffn_gate ffn_up ffn_silu ffn_swigl ffn_out post_ffn_residual (or layer_output)
    final_norm lm_head

    \b
    pv trace MODEL --prompt "What is 2+2?" --save-tensor all --output out
    pv trace MODEL --prompt "What is 2+2?" --save-tensor attn_scores,attn_softmax --layer 0,3-5
    pv trace MODEL --prompt "What is 2+2?" --save-tensor all --source hf --output oracle
    pv trace MODEL --prompt "What is 2+2?" --payload
    """
    with capture_errors():
        request = Request(**given)
        request.check()
        done, figures = request.run_oracle() if request.source == "hf" else request.run()
    if request.as_json:
        click.echo(json.dumps(_as_data(done, figures), allow_nan=False))
        return
    for line in (*payload_lines(figures), *file_lines(done)):
        click.echo(line)
    if done:
        for flag in done.manifest.flags:
            click.echo(f"note: {flag}", err=True)


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, as given; the methods turn it into a plan and run it."""

    model: Path
    prompt: str | None
    tokens: str | None
    stages: str | None
    layers: str
    output: Path | None
    steps: str | None
    feed: str | None
    heads: str | None
    payload: bool
    as_json: bool
    backend: str
    source: str
    dtype: str
    plant: str | None
    device: str
    substages: bool

    def check(self) -> None:
        """Refuse what contradicts itself. Raises UsageError."""
        if (self.prompt is None) == (self.tokens is None):
            raise click.UsageError("give the text to run as --prompt, or its ids as --tokens; one of the two")
        if not self.stages and not self.payload:
            raise click.UsageError("say what to look at: --save-tensor STAGES, --payload, or both")
        if self.source == "hf" and (self.payload or self.backend != "cpu" or self.dtype not in HF_DTYPES):
            raise click.UsageError("--payload, --backend and float64 are of pv's own forward; --source hf has --device")
        if self.source == "pv" and not self.substages:
            raise click.UsageError("--no-attn-substages is of --source hf; here leave the stages out of --save-tensor")
        if self.source == "pv" and (self.dtype not in {"float32", "float64"} or self.device != "cpu"):
            raise click.UsageError("--device and half precision are of --source hf; pv's own forward has --backend")
        if self.plant and (self.source == "hf" or self.dtype != "float32"):
            raise click.UsageError("--plant is of a backend's own float32 forward")
        if self.dtype == "float64" and self.backend != "cpu":
            raise click.UsageError("float64 is the shadow of the CPU's forward; drop --backend")

    def ids(self, model: Model) -> list[int]:
        """The prompt's tokens."""
        return (
            token_ids(self.tokens, "--tokens") if self.tokens is not None else model.tokenizer.encode(self.prompt or "")
        )

    def plan(self, model: Model) -> Plan | None:
        """Stages x layers x heads x steps; None when nothing is to be saved. Raises SelectionError."""
        from pv.trace.plan import make_plan
        from pv.trace.stages import NEED_ATTENTION_INSIDE, StageChoice, parse_numbers, parse_stages

        if self.stages is None:
            return None
        choice = parse_stages(self.stages)
        if not self.substages:
            if named := [s for s in NEED_ATTENTION_INSIDE if s in choice.named]:
                raise click.UsageError(f"{named[0]} is inside the attention; drop --no-attn-substages")
            choice = StageChoice(tuple(s for s in choice.stages if s not in NEED_ATTENTION_INSIDE), choice.named)
        return make_plan(
            choice,
            model.spec,
            layers=parse_numbers(self.layers, "layer"),
            heads=None if self.heads is None else parse_numbers(self.heads, "head"),
            steps=self._steps(),
        )

    def _steps(self) -> tuple[int, ...]:
        from pv.trace.stages import parse_numbers

        steps = () if self.steps is None else parse_numbers(self.steps, "step", least=1)
        if steps is None:
            raise click.UsageError("a generation has no last step: name the decode steps, such as --step 1-3")
        return steps

    def run(self) -> tuple[Captured | None, tuple[LayerStatistics, ...]]:
        """Capture from our own forward, collect figures, or both. Raises what the engine raises."""
        from pv.model.open import open_model
        from pv.trace.capture import capture
        from pv.trace.stages import checked, parse_numbers
        from pv.trace.statistics import collect

        model = open_model(self.model)
        plan, tokens = self.plan(model), self.ids(model)
        layers = checked(parse_numbers(self.layers, "layer"), model.spec.layers, "layer")
        session = (
            open_suspect(model, self.backend, self.plant)
            if self.plant
            else open_session(model, self.backend, self.dtype)
        )
        try:
            figures = collect(lambda tap: session.prefill(tokens, tap), layers) if self.payload else ()
            if plan is None:
                return None, figures
            session.reset()
            feed = token_ids(self.feed, "--feed") if self.feed else ()
            with progress(len(plan.files(model.spec, len(tokens))), "capturing") as tick:
                done = capture(
                    session, tokens, plan, self.folder(model),
                    origin_of(model, session, self.dtype, self.prompt or "", self.plant),
                    feed=feed, progress=lambda _done, _total, path: tick(path),
                )  # fmt: skip
            return done, figures
        finally:
            session.close()

    def run_oracle(self) -> tuple[Captured, tuple[LayerStatistics, ...]]:
        """Capture from Transformers' own model. Raises OracleError when a self-test fails."""
        from pv.model.open import open_model
        from pv.trace.oracle import Oracle

        model = open_model(self.model)
        plan, tokens = self.plan(model), self.ids(model)
        if plan is None:
            raise click.UsageError("--source hf captures tensors: say which, with --save-tensor")
        oracle = Oracle(model, dtype=self.dtype, device=self.device)
        feed = token_ids(self.feed, "--feed") if self.feed else ()
        with progress(len(plan.files(model.spec, len(tokens))), "capturing") as tick:
            done = oracle.capture(
                tokens, plan, self.folder(model), prompt=self.prompt or "", feed=feed,
                progress=lambda _done, _total, path: tick(path),
            )  # fmt: skip
        return done, ()

    def folder(self, model: Model) -> Path:
        """Where the capture goes."""
        return self.output or default_folder(model.path, self.source)


def default_folder(model: Path, source: str) -> Path:
    """`NAME-trace` beside the model (`NAME-hf-trace` for the oracle): its folder's name, or its file's less suffix."""
    place = model.resolve()
    stem = place.name if place.is_dir() else place.stem
    return place.parent / f"{stem}{'-hf' if source == 'hf' else ''}-trace"


def origin_of(
    model: Model, session: Session, dtype: str = "float32", prompt: str = "", plant: str | None = None
) -> Origin:
    """Who makes the tensors, for the manifest."""
    from pv import __version__
    from pv.trace.capture import Origin

    return Origin(
        source="pv",
        model=model.path.name,
        model_path=str(model.path),
        model_digest=model.digest,
        weights=", ".join(map(str, model.weights.types)),
        backend=asdict(session.facts),
        dtype=dtype,
        prompt=prompt,
        provenance={"pv": __version__} | ({"planted": plant} if plant else {}),
    )


def file_lines(done: Captured | None) -> list[str]:
    """The files of a capture with their sizes, and the sum."""
    if done is None:
        return []
    files = done.manifest.files
    width = max(len(entry.path) for entry in files)
    lines = [f"{entry.path:{width}}  {'x'.join(map(str, entry.shape)):>14}  {entry.size:>12,} bytes" for entry in files]
    total = sum(entry.size for entry in files)
    return [*lines, f"{len(files)} files, {total:,} bytes in {done.folder}"]


def payload_lines(figures: Sequence[LayerStatistics]) -> list[str]:
    """Ten lines for each layer: all tokens, then the last one; a slot without data says so."""
    from pv.trace.statistics import SLOTS

    lines = []
    for layer in figures:
        reasons = dict(reason.split(": ", 1) for reason in layer.incomplete)
        for slot in SLOTS:
            found = getattr(layer, slot)
            head = f"layer {layer.layer:<3} {slot:10}"
            if found is None or slot in reasons:
                lines.append(f"{head} incomplete: {reasons[slot]}")
                continue
            every, last = found.all, found.last
            odd = f"  NaN {every.nan} inf {every.infinite}" if every.nan or every.infinite else ""
            lines.append(f"{head} {_figures(every)}  | last token {_figures(last)}{odd}")
    return lines


def _figures(found: Statistics) -> str:
    return (
        f"n {found.count:<7} mean {found.mean:<11.4g} std {found.std:<10.4g} min {found.minimum:<11.4g} "
        f"max {found.maximum:<11.4g} zero {found.zero_share:.3g}"
    )


def _as_data(done: Captured | None, figures: Sequence[LayerStatistics]) -> dict[str, Any]:
    from pv.trace.statistics import SLOTS, as_data

    layers = [
        {
            "layer": layer.layer,
            "incomplete": list(layer.incomplete),
            "slots": {
                slot: None if (found := getattr(layer, slot)) is None else [as_data(found.all), as_data(found.last)]
                for slot in SLOTS
            },
        }
        for layer in figures
    ]
    return {"capture": _capture_data(done.folder, done.manifest) if done else None, "layers": layers}


def _capture_data(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "tokens": list(manifest.tokens),
        "decoded": list(manifest.decoded),
        "flags": list(manifest.flags),
        "left_out": list(manifest.left_out),
        "files": [{"path": e.path, "shape": list(e.shape), "size": e.size, "sha256": e.sha256} for e in manifest.files],
        "provenance": dict(manifest.provenance),
    }


def token_ids(text: str, option: str) -> list[int]:
    """`5,17,42` -> ids. Raises UsageError naming the option."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise click.UsageError(f"expected token ids such as 5,17,42 for {option}, got {text!r}")
    return [int(word) for word in words]
