"""One set of Q4_K weights, two products: the claims of apr-vs-gguf-forward-parity-v1, attacked through `pv` itself.

"APR" dequantizes the blocks and multiplies in float32; "GGUF" multiplies the blocks with int8 activations. The first
thing attacked is the comparison: statistics of different samples must not be divided.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pv.falsify import Control, Measurement, falsifier, harness, measure

from ._commands import call, must
from ._gguf import (
    LAYER_LINE,
    PROMPT,
    Table,
    farthest_from_one,
    last_token_alone,
    mistaken_ratios,
    payload,
    products_changed,
    spiked_layer,
    std_ratios,
    synthetic_model,
    teacher_pair,
    token_payload,
    twenty_eight_layers,
)
from ._guilty import accusation
from ._plant import changed_entries, patched

# --- planted defects of the products ----------------------------------------------------------------------------------


@contextlib.contextmanager
def spiked_gate(context: Any) -> Iterator[None]:
    """The gate projection of layer 2 comes out eight times too large."""
    with products_changed(lambda weight, y: y * 8 if weight.name == "layers.2.ffn_gate" else y):
        yield


@contextlib.contextmanager
def half_as_large_again(context: Any) -> Iterator[None]:
    """The gate projection of layer 1 comes out at 1.5 times its size: a wrong scale of one matrix."""
    with products_changed(lambda weight, y: y * 1.5 if weight.name == "layers.1.ffn_gate" else y):
        yield


@contextlib.contextmanager
def large_activations_lost(context: Any) -> Iterator[None]:
    """Gate and up saturate: what a product does whose int8 codes were scaled for ordinary activations."""

    def saturated(weight: Any, y: torch.Tensor) -> torch.Tensor:
        limit = y.std() / 2
        return y.clamp(-limit, limit) if weight.name.endswith(("ffn_gate", "ffn_up")) else y

    with products_changed(saturated):
        yield


@contextlib.contextmanager
def every_gate_spiked(context: Any) -> Iterator[None]:
    """Every gate projection comes out eight times too large, the spiked layer's too."""
    with products_changed(lambda weight, y: y * 8 if weight.name.endswith("ffn_gate") else y):
        yield


@contextlib.contextmanager
def offsets_dropped(context: Any) -> Iterator[None]:
    """The minima of the blocks are forgotten: a kernel that adds the scaled codes alone."""
    from dataclasses import replace

    from pv.model import quant_product

    healthy = quant_product.grid_of
    with patched(quant_product, "grid_of", lambda weight: replace(healthy(weight), offset=None)):
        yield


@contextlib.contextmanager
def hidden_float_fallback(context: Any) -> Iterator[None]:
    """Blocks are quietly turned to float32 and multiplied as such, under the name of the quantized product."""
    from pv.model import operators

    blocks = [kind for kind in operators.PRODUCTS if kind.quantized]
    with changed_entries(operators.PRODUCTS, {kind: lambda x, weight: x @ weight.dense().T for kind in blocks}):
        yield


@contextlib.contextmanager
def floats_quantized_on_the_way(context: Any) -> Iterator[None]:
    """A float32 matrix is rounded to Q8_0 and sent through the quantized product: faster, and another model."""
    from pv.model import operators, quant_product
    from pv.model.quant import quantize
    from pv.model.weights import Weight, WeightType

    def product(x: torch.Tensor, weight: Weight) -> torch.Tensor:
        blocks = torch.from_numpy(quantize(weight.dense().numpy(), WeightType.Q8_0))
        return quant_product.quantized_product(x, Weight(weight.name, WeightType.Q8_0, weight.shape, blocks))

    with changed_entries(operators.PRODUCTS, {WeightType.F32: product}):
        yield


@contextlib.contextmanager
def one_wrong_block(context: Any) -> Iterator[None]:
    """One block of one matrix has its codes negated: 256 weights of 3 million."""
    from dataclasses import replace

    from pv.model import quant_product

    healthy = quant_product.grid_of

    def damaged(weight: Any) -> Any:
        grid = healthy(weight)
        if weight.name != "layers.1.ffn_up":
            return grid
        codes = grid.codes.clone()
        codes[5, : 256 // codes.shape[-1]] *= -1
        return replace(grid, codes=codes)

    with patched(quant_product, "grid_of", damaged):
        yield


# --- 001, 002, 003: the spreads agree ---------------------------------------------------------------------------------


def both_sides(context: Any) -> tuple[Table, Table]:
    """Statistics of the quantized and of the float32 forward of the same weights; llama.cpp is asked for its tokens."""
    pair = teacher_pair(context)
    ask_llama_cpp(context, pair.blocks)
    return payload(pair.blocks), payload(pair.dense)


def ask_llama_cpp(context: Any, path: Path) -> None:
    """Whether llama.cpp, given the same file, takes the same token after each of the prompt, and how near it comes."""
    from pv.backends.cpu import open_cpu
    from pv.backends.cpu_ggml import open_cpu_ggml
    from pv.compare.kld import divergence
    from pv.model.gguf_peer import LlamaCpp, PeerError
    from pv.model.open import open_model

    model = open_model(path)
    tokens = model.tokenizer.encode(PROMPT)
    ours = open_cpu(model.weights).prefill_all(tokens)
    try:
        with LlamaCpp(path, single=True) as peer:
            theirs = peer.text_logprobs(tokens)
            agreed = bool((ours.argmax(axis=1) == theirs.argmax(axis=1)).all())
            context.agree("llama.cpp", peer.version, agreed)
        for order, opened in (("pv's own", open_cpu), ("ggml's", open_cpu_ggml)):
            found = divergence([tokens], lambda _: theirs, opened(model.weights).prefill_all)
            worst = f"{found.one_minus_cosine.max():.1e} at the worst of {found.positions} positions"
            context.note(f"llama.cpp, sums in {order} order: 1 - cosine {worst}")
    except PeerError as absent:
        context.note(f"llama.cpp was not asked: {absent}")


def ratio_measurements(context: Any, slot: str) -> list[Measurement]:
    """The worst layer's ratio in a slot, and how many layers have none."""
    blocks, dense = both_sides(context)
    ratios = std_ratios(blocks, dense, slot)
    layer, worst = farthest_from_one(ratios)
    layers = 1 + max(layer for layer, _ in dense)
    context.note(f"{slot}: " + ", ".join(f"layer {i} {r:.4f}" for i, r in sorted(ratios.items())) + f"; worst {layer}")
    accuse_unlike(context, worst)
    return [
        measure(f"{slot}_ratio", worst, unit="ratio", n=len(ratios)),
        measure("layers_without_a_ratio", layers - len(ratios), unit="layers", n=layers),
    ]


def accuse_unlike(context: Any, ratio: float) -> None:
    """Where the two forwards spread unlike, note the stage where they part: the blocks against their own float32."""
    if context.control or ALIKE[0] <= ratio <= ALIKE[1]:
        return
    pair = teacher_pair(context)
    for line in context.subject("guilty stage of the quantized forward", lambda: _accused(pair)):
        context.note(line)


ALIKE = (0.7, 1.4)  # the narrower of the contract's two ranges
AGAIN = """\
pv model convert fixtures/tiny-teacher --to gguf --type Q4_K --output q4_k.gguf && \
pv model convert q4_k.gguf --to gguf --type F32 --output f32.gguf && \
pv trace f32.gguf --prompt "{prompt}" --save-tensor all --output dense && \
pv trace q4_k.gguf --prompt "{prompt}" --save-tensor all --output blocks && \
pv bisect dense blocks --allow-different-models"""


def _accused(pair: Any) -> tuple[str, ...]:
    from pv.backends.cpu import open_cpu
    from pv.compare.thresholds import Kind
    from pv.model.open import open_model

    dense, blocks = open_model(pair.dense), open_model(pair.blocks)
    return accusation(
        lambda: open_cpu(dense.weights),
        lambda: open_cpu(blocks.weights),
        dense.tokenizer.encode(PROMPT),
        Kind.QUANT_KERNEL,
        shadow=lambda: open_cpu(dense.weights, dtype=torch.float64),
        again=AGAIN.format(prompt=PROMPT),
    )


@falsifier(
    "FALSIFY-APR-GGUF-PARITY-001",
    level="live",
    controls=[
        Control("a spiked gate projection", plant=spiked_gate, breaks="ffn_swigl_ratio"),
        Control("the minima of the blocks are dropped", plant=offsets_dropped, breaks="ffn_swigl_ratio"),
    ],
    attacks=["pv.model.quant_product.quantized_product", "pv.cli.trace.trace", "pv.trace.statistics.ratio"],
)
def every_layer_spreads_alike(context: Any) -> list[Measurement]:
    """Ratio of the standard deviations of ffn_swigl, layer by layer."""
    return ratio_measurements(context, "ffn_swigl")


@falsifier(
    "FALSIFY-APR-GGUF-PARITY-002",
    level="live",
    controls=[
        Control("large activations are cut off", plant=large_activations_lost, breaks="spiked_layer_ratio"),
        Control("every gate projection is spiked", plant=every_gate_spiked, breaks="spiked_layer_ratio"),
    ],
    attacks=["pv.model.quant_product.quantized_product", "pv.cli.trace.trace", "pv.trace.statistics.ratio"],
)
def the_spiked_layer_agrees(context: Any) -> list[Measurement]:
    """The ratio in the layer whose ffn_swigl spreads most, and how far that layer stands above the others."""
    blocks, dense = both_sides(context)
    layer = spiked_layer(dense)
    spreads = sorted(dense[key][0].std for key in dense if key[1] == "ffn_swigl")
    context.note(f"layer {layer} is the spiked one")
    ratio = std_ratios(blocks, dense, "ffn_swigl")[layer]
    accuse_unlike(context, ratio)
    return [
        measure("spiked_layer_ratio", ratio, unit="ratio"),
        measure("spike", spreads[-1] / float(np.median(spreads)), unit="ratio", n=len(spreads)),
    ]


@falsifier(
    "FALSIFY-APR-GGUF-PARITY-003",
    level="live",
    controls=[
        Control("a spiked gate projection", plant=spiked_gate, breaks="ffn_gate_ratio"),
        Control("a gate projection half as large again", plant=half_as_large_again, breaks="ffn_gate_ratio"),
    ],
    attacks=["pv.model.quant_product.quantized_product", "pv.cli.trace.trace", "pv.trace.statistics.ratio"],
)
def the_gate_projection_spreads_alike(context: Any) -> list[Measurement]:
    """Ratio of the standard deviations of ffn_gate, layer by layer: where a wrong product shows first."""
    return ratio_measurements(context, "ffn_gate")


# --- 004: the contract can be read ------------------------------------------------------------------------------------


CONTRACT = "apr-vs-gguf-forward-parity-v1.yaml"


@contextlib.contextmanager
def misspelt_key(context: Any) -> Iterator[None]:
    """A copy of the contract, in which a falsifier's prediction is misspelt, stands in for it."""
    text = (context.project / "contracts" / CONTRACT).read_text(encoding="utf-8")
    damaged = text.replace("    prediction: every layer", "    predicton: every layer", 1)
    (context.scratch / CONTRACT).write_text(damaged, encoding="utf-8")
    yield


@falsifier(
    "FALSIFY-APR-GGUF-PARITY-004",
    level="live",
    controls=[Control("a misspelt key", plant=misspelt_key, breaks="exit_code")],
    attacks=["pv.cli.validate.validate"],
)
def this_contract_is_valid(context: Any) -> list[Measurement]:
    """`pv validate` of the file, without the rules on earned statuses: those would ask about this very check."""
    planted = context.scratch / CONTRACT
    file = planted if planted.exists() else context.project / "contracts" / CONTRACT
    done = context.run_pv("validate", str(file), "--ignore", "PV4", "--no-cache")
    return [measure("exit_code", done.returncode)]


# --- 005: the type decides --------------------------------------------------------------------------------------------

KINDS = ("Q4_K", "Q6_K", "Q8_0")


def by_formula(x: np.ndarray, kind: str, stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """x times the stored rows with int8 activations, in float64: the `gguf` package's weights, ggml's rule for x."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    weights = dequantize(stored, GGMLQuantizationType[kind]).reshape(shape).astype(np.float64)
    block = 32 if kind == "Q8_0" else 256
    parts = x.reshape(len(x), -1, block)
    if kind == "Q8_0":
        inverse = np.float32(127) / np.abs(parts).max(axis=2, keepdims=True)
        scale = (np.abs(parts).max(axis=2, keepdims=True) / np.float32(127)).astype(np.float16)
    else:
        extreme = np.take_along_axis(parts, np.abs(parts).argmax(axis=2)[..., None], axis=2)
        inverse = np.float32(-127) / extreme
        scale = np.float32(1) / inverse
    codes = np.minimum(np.rint(parts * inverse), 127).astype(np.float64)
    return (codes * scale.astype(np.float64)).reshape(len(x), -1) @ weights.T


def row_errors(weight: Any, seed: int) -> tuple[float, float]:
    """Of one matrix of blocks: the worst row's distance from the formula, and the trace that int8 activations leave."""
    from pv.model.operators import linear

    x = np.random.default_rng(seed).standard_normal((4, weight.shape[1])).astype(np.float32)
    ours = linear(torch.from_numpy(x), weight).numpy().astype(np.float64)
    dense = weight.dense().numpy().astype(np.float64)
    length = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(dense, axis=1)[None]
    formula = by_formula(x, str(weight.type), weight.data.numpy(), weight.shape)
    trace = np.linalg.norm(ours - x.astype(np.float64) @ dense.T) / np.linalg.norm(ours)
    return float(np.max(np.abs(ours - formula) / length)), float(trace)


def quantized_calls(model: Any) -> tuple[int, np.ndarray]:
    """How many products of a forward round their activations, and the logits."""
    from pv.backends.cpu import open_cpu
    from pv.model import quant_product

    calls: list[str] = []
    healthy = quant_product.quantize_activations

    def counted(x: torch.Tensor, kind: str) -> Any:
        calls.append(kind)
        return healthy(x, kind)

    with patched(quant_product, "quantize_activations", counted):
        logits = open_cpu(model.weights).prefill([1, 2, 3, 4])
    return len(calls), logits


@falsifier(
    "FALSIFY-APR-GGUF-PARITY-005",
    level="live",
    controls=[
        Control(
            "a float32 fallback behind a Q4_K weight", plant=hidden_float_fallback, breaks="matrices_without_int8_trace"
        ),
        Control(
            "float32 matrices quantized on the way",
            plant=floats_quantized_on_the_way,
            breaks="quantized_products_of_a_float32_model",
        ),
        Control("one wrong block", plant=one_wrong_block, breaks="worst_row_error"),
        Control("the minima of the blocks are dropped", plant=offsets_dropped, breaks="worst_row_error"),
    ],
    attacks=["pv.model.operators.linear", "pv.model.quant_product.quantized_product", "pv.model.gguf_file.open_gguf"],
)
def the_type_decides(context: Any) -> list[Measurement]:
    """Every matrix of three quantized files against the formula, and a float32 file against the float32 product.

    Random weights serve here: single products are judged, not a forward.
    """
    from pv.backends.cpu import open_cpu
    from pv.model.open import open_model
    from pv.model.operators import REFERENCE

    home = context.subject(f"files of seed {context.seed}", lambda: _files(context.seed))
    files = {kind: open_model(Path(home.name) / f"{kind}.gguf") for kind in (*KINDS, "F32")}
    worst, untouched, matrices = 0.0, 0, 0
    for kind in KINDS:
        for weight in files[kind].weights.tensors.values():
            if weight.type.quantized:
                error, trace = row_errors(weight, context.seed)
                worst, untouched, matrices = max(worst, error), untouched + (trace < 1e-4), matrices + 1
    calls, logits = quantized_calls(files["F32"])
    plain = open_cpu(files["F32"].weights, operators=_floats_alone(REFERENCE)).prefill([1, 2, 3, 4])
    context.note(f"{matrices} matrices of {', '.join(KINDS)}; worst row {worst:.2e} of its length")
    return [
        measure("quantized_products_of_a_float32_model", calls, unit="products"),
        measure("float32_logits_equal", bool(np.array_equal(logits, plain)), n=logits.size),
        measure("matrices_without_int8_trace", untouched, unit="matrices", n=matrices),
        measure("worst_row_error", worst, n=matrices),
    ]


def _files(seed: int) -> tempfile.TemporaryDirectory[str]:
    """A synthetic model of two layers, once for each type."""
    from dataclasses import replace

    from pv.model.gguf_write import FileType, convert
    from pv.model.spec import named_shape
    from pv.model.synthetic import Recipe, build

    spec, home = replace(named_shape("tiny"), layers=2), tempfile.TemporaryDirectory()
    source = synthetic_model(build(Recipe(spec, seed)))
    for kind in (*KINDS, "F32"):
        convert(source, Path(home.name) / f"{kind}.gguf", FileType(kind), tokenizer=None)
    return home


def _floats_alone(operators: Any) -> Any:
    """The reference operators with torch's own product in place of the table of products."""
    from dataclasses import replace

    return replace(operators, linear=lambda x, weight: torch.nn.functional.linear(x, weight.data))


# --- 006: the trace shows it ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def a_layer_left_out(context: Any) -> Iterator[None]:
    """The tap forgets ffn_swigl of the last layer."""
    from pv.model.stages import Stage
    from pv.trace.statistics import StatisticsTap

    healthy = StatisticsTap.wants

    def wants(self: Any, stage: Any, layer: int | None) -> bool:
        return bool(healthy(self, stage, layer)) and (stage, layer) != (Stage.FFN_SWIGL, 3)

    with patched(StatisticsTap, "wants", wants):
        yield


@falsifier(
    "FALSIFY-APR-GGUF-PARITY-006",
    level="live",
    controls=[Control("a layer's ffn_swigl is not tapped", plant=a_layer_left_out, breaks="layers_without_ffn_swigl")],
    attacks=["pv.cli.trace.trace", "pv.trace.statistics.StatisticsTap.take"],
)
def the_trace_shows_every_layer(context: Any) -> list[Measurement]:
    """The text that `pv trace X.gguf --payload` prints, line by line."""
    from pv.model.open import open_model

    path = teacher_pair(context).blocks
    lines = must(call("trace", path, "--prompt", PROMPT, "--payload")).out.splitlines()
    found = [match for line in lines if (match := LAYER_LINE.match(line))]
    layers = open_model(path).spec.layers
    counted = {int(match[1]) for match in found if match[2] == "ffn_swigl" and int(match[3]) > 0}
    ten = [sum(line.startswith(f"layer {layer} ") for line in lines) == 10 for layer in range(layers)]
    return [
        measure("layers_without_ffn_swigl", layers - len(counted), unit="layers", n=layers),
        measure("layers_off_ten_lines", ten.count(False), unit="layers", n=layers),
    ]


# --- 007 and its bounded proof: the samples are equal -----------------------------------------------------------------


def counts_of(context: Any) -> tuple[Table, Table, int]:
    """Both sides' statistics in this cell, and the number of slots that they must fill."""
    from pv.model.open import open_model
    from pv.trace.statistics import SLOTS

    if context.cell.subject == "tiny-teacher":
        pair = teacher_pair(context)
        blocks, dense = payload(pair.blocks), payload(pair.dense)
    else:
        pair = twenty_eight_layers(context)
        blocks, dense = token_payload(pair.blocks), token_payload(pair.dense)
    return blocks, dense, open_model(pair.blocks).spec.layers * len(SLOTS)


def unequal(blocks: Table, dense: Table) -> list[tuple[int, str]]:
    """Slots whose two sides were taken over different samples."""
    from pv.trace.statistics import SampleError, require_same_sample

    wrong = []
    for key in blocks.keys() & dense.keys():
        for one, other in zip(blocks[key], dense[key], strict=True):
            try:
                require_same_sample(one, other)
            except SampleError:
                wrong.append(key)
                break
    return wrong


def not_refused(blocks: Table, dense: Table) -> int:
    """How often all tokens could be divided by the last one."""
    from pv.trace.statistics import SampleError, ratio

    count = 0
    for key in blocks.keys() & dense.keys():
        try:
            ratio(blocks[key][0], dense[key][1])
            count += 1
        except SampleError:
            pass
    return count


@contextlib.contextmanager
def samples_not_compared(context: Any) -> Iterator[None]:
    """The division no longer looks at the samples."""
    from pv.trace import statistics

    with patched(statistics, "require_same_sample", lambda one, other: None):
        yield


@falsifier(
    "FALSIFY-APR-GGUF-PARITY-007",
    level="live",
    controls=[
        Control("all tokens against the last token", plant=last_token_alone, breaks="unequal_counts"),
        Control(
            "a division that does not look at the samples", plant=samples_not_compared, breaks="divisions_not_refused"
        ),
    ],
    attacks=[
        "pv.trace.statistics.ratio",
        "pv.trace.statistics.require_same_sample",
        "pv.trace.statistics.StatisticsTap.take",
    ],
)
def both_sides_count_the_same(context: Any) -> list[Measurement]:
    """Counts of every slot of every layer; and the old mistake, made on purpose: how far off it would have been."""
    blocks, dense, slots = counts_of(context)
    mistaken = mistaken_ratios(dense)
    layer = max(mistaken, key=lambda i: mistaken[i])
    context.note(
        f"all tokens ({dense[layer, 'ffn_swigl'][0].count} elements) over the last one "
        f"({dense[layer, 'ffn_swigl'][1].count}) would be {mistaken[layer]:.2f} at layer {layer}"
    )
    return [
        measure("unequal_counts", len(unequal(blocks, dense)), unit="slots", n=slots),
        measure("slots_missing", slots - len(blocks.keys() & dense.keys()), unit="slots", n=slots),
        measure("divisions_not_refused", not_refused(blocks, dense), unit="slots", n=slots),
        measure("mistaken_ratio", mistaken[layer], unit="ratio", n=len(mistaken)),
    ]


@harness(
    "KH-APR-GGUF-PARITY-003",
    bound=280,
    level="live",
    controls=[
        Control("all tokens against the last token", plant=last_token_alone, breaks="broken_equalities"),
        Control(
            "a division that does not look at the samples", plant=samples_not_compared, breaks="unrefused_divisions"
        ),
    ],
    attacks=[
        "pv.trace.statistics.ratio",
        "pv.trace.statistics.require_same_sample",
        "pv.trace.statistics.StatisticsTap.take",
    ],
)
def all_two_hundred_and_eighty(context: Any) -> list[Measurement]:
    """28 layers of ten slots: every equality, and every division that must be refused, one by one."""
    pair = twenty_eight_layers(context)
    blocks, dense = token_payload(pair.blocks), token_payload(pair.dense)
    cases = len(blocks.keys() & dense.keys())
    context.exhaust(280, cases, cases == 280)
    return [
        measure("broken_equalities", len(unequal(blocks, dense)), unit="slots", n=cases),
        measure("unrefused_divisions", not_refused(blocks, dense), unit="slots", n=cases),
        measure("cases", cases, unit="slots", n=cases),
    ]
