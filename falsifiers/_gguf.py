"""Shared ground of the GGUF checks: one set of Q4_K weights in two files, traced by the public commands.

The "APR" side is the Q4_K file converted to F32 again: the same numbers as float32 matrices, multiplied as float32.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pv.falsify import Inconclusive

from ._commands import call, must
from ._plant import changed_entries, patched

PROMPT = "What is 2+2?"
LAYER_LINE = re.compile(r"^layer (\d+)\s+(\w+)\s+n (\d+)\s")

Statistic = Any  # pv.trace.statistics.AllTokens or LastToken
Table = dict[tuple[int, str], tuple[Statistic, Statistic]]  # (layer, slot) -> over all tokens, over the last one


@dataclass(frozen=True)
class Pair:
    """The same weights as blocks and as float32, in a folder that goes when the worker does."""

    home: tempfile.TemporaryDirectory[str]

    @property
    def blocks(self) -> Path:
        return Path(self.home.name) / "q4_k.gguf"

    @property
    def dense(self) -> Path:
        return Path(self.home.name) / "f32.gguf"


def teacher_pair(context: Any) -> Pair:
    """The shipped teacher as Q4_K, and that file as F32, both written by `pv model convert`; once for each worker."""
    source = context.subject_path("tiny-teacher")  # asked for every time: the record is bound to its files
    return context.subject("teacher as Q4_K and F32", lambda: _converted(source))


def _converted(source: Path) -> Pair:
    pair = Pair(tempfile.TemporaryDirectory())
    for origin, kind, target in ((source, "Q4_K", pair.blocks), (pair.blocks, "F32", pair.dense)):
        must(call("model", "convert", origin, "--to", "gguf", "--type", kind, "--output", target))
    return pair


def payload(path: Path, prompt: str = PROMPT) -> Table:
    """What `pv trace PATH --payload --json` tells."""
    from pv.trace.statistics import AllTokens, LastToken

    data = json.loads(must(call("trace", path, "--prompt", prompt, "--payload", "--json")).out)
    table: Table = {}
    for layer in data["layers"]:
        for slot, found in layer["slots"].items():
            if found is not None:
                every, last = ({k: v for k, v in side.items() if k != "sample"} for side in found)
                table[layer["layer"], slot] = AllTokens(**every), LastToken(**last)
    return table


def std_ratios(blocks: Table, dense: Table, slot: str) -> dict[int, float]:
    """Layer -> std of the quantized forward over that of the float one. Raises Inconclusive for unequal samples."""
    from pv.trace.statistics import SampleError, ratio

    try:
        return {layer: ratio(blocks[layer, s][0], dense[layer, s][0]) for layer, s in dense if s == slot}
    except (SampleError, KeyError) as problem:
        raise Inconclusive(f"no ratio without equal samples: {problem}") from None


def farthest_from_one(ratios: Mapping[int, float]) -> tuple[int, float]:
    """The layer whose ratio is the worst, up or down, and that ratio."""
    return max(ratios.items(), key=lambda item: math.inf if item[1] <= 0 else abs(math.log(item[1])))


def spiked_layer(dense: Table, slot: str = "ffn_swigl") -> int:
    """The layer of largest std in `slot`: where one token's activation towers over the others."""
    return max((layer for layer, s in dense if s == slot), key=lambda layer: dense[layer, slot][0].std)


def mistaken_ratios(table: Table, slot: str = "ffn_swigl") -> dict[int, float]:
    """The old mistake, made on purpose: std over all tokens divided by std over the last one, of one forward."""
    return {layer: table[layer, s][0].std / table[layer, s][1].std for layer, s in table if s == slot}


# --- a model of 28 layers whose layer 3 carries a massive first token ---

SPIKED, WANTED = 3, 18.23  # the layer and the ratio of the investigation that was misled
TOKENS = (5, 60, 115, 170, 225, 280, 335)  # seven, as in it


def twenty_eight_layers(context: Any) -> Pair:
    """The model below, once for each worker."""
    return context.subject("28 layers as Q4_K and F32", _twenty_eight_layers)


def _twenty_eight_layers() -> Pair:
    """`28-small`, random weights, Q4_K and the same as F32, its layer 3 answering the first token far above the rest.

    Only samples are judged on it, never agreement: random weights say nothing about that.
    """
    from pv.model.gguf_write import FileType, convert
    from pv.model.open import open_model
    from pv.model.spec import named_shape
    from pv.model.synthetic import Recipe, build

    pair = Pair(tempfile.TemporaryDirectory())
    source = synthetic_model(_spiked(build(Recipe(named_shape("28-small")))))
    convert(source, pair.blocks, FileType.Q4_K, tokenizer=None)
    convert(open_model(pair.blocks), pair.dense, FileType.F32, tokenizer=None)
    return pair


def synthetic_model(weights: Any) -> Any:
    """Weights of no file as a model that can be converted; it has no tokenizer."""
    from pv.model.open import Model

    def absent() -> Any:
        raise Inconclusive("a synthetic model has no tokenizer of its own here")

    return Model(weights.spec, weights, Path("synthetic"), absent, lambda: "synthetic")


def token_payload(path: Path) -> Table:
    """Statistics of the ids TOKENS, as `pv trace --tokens IDS --payload --json` tells them."""
    from pv.backends.cpu import open_cpu
    from pv.model.open import open_model
    from pv.trace.statistics import SLOTS, collect

    model = open_model(path)
    session = open_cpu(model.weights)
    layers = collect(lambda tap: session.prefill(TOKENS, tap), tuple(range(model.spec.layers)))
    session.close()
    return {
        (layer.layer, slot): (found.all, found.last)
        for layer in layers
        for slot in SLOTS
        if (found := getattr(layer, slot)) is not None
    }


def _spiked(weights: Any) -> Any:
    """Add to gate and up of the spiked layer a response to the first token, as strong as gives the wanted ratio."""
    first = _ffn_input(weights)
    low, high = 0.0, 64.0
    for _ in range(14):  # the ratio grows with the strength; seven squared tokens bound it by sqrt(7) times the spike
        middle = (low + high) / 2
        low, high = (middle, high) if _mistake(_with_response(weights, first, middle)) < WANTED else (low, middle)
    return _with_response(weights, first, high)


def _with_response(weights: Any, direction: torch.Tensor, strength: float) -> Any:
    from dataclasses import replace

    from pv.model.weights import Weight

    tensors = dict(weights.tensors)
    for part in ("ffn_gate", "ffn_up"):
        name = f"layers.{SPIKED}.{part}"
        response = torch.ones(weights.spec.ffn, 1) * direction / direction.square().sum()
        tensors[name] = Weight.of(name, tensors[name].data + strength * response)
    return replace(weights, tensors=tensors)


def _ffn_input(weights: Any) -> torch.Tensor:
    """The first token's input of the spiked layer's feed-forward block, less what the other tokens share with it."""
    from pv.model.stages import Stage

    kept: list[np.ndarray] = []

    class Tap:
        def wants(self, stage: Stage, layer: int | None) -> bool:
            return (stage, layer) == (Stage.FFN_NORM, SPIKED)

        def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
            kept.append(values)

    _prefill(weights, Tap())
    rows = torch.from_numpy(kept[0])  # (7, H)
    others = torch.linalg.qr(rows[1:].T).Q  # (H, 6): orthogonal to all of them, the response is the first token's alone
    return rows[0] - others @ (others.T @ rows[0])


def _mistake(weights: Any) -> float:
    """The mistaken ratio at the spiked layer."""
    from pv.trace.statistics import StatisticsTap

    tap = StatisticsTap((SPIKED,))
    _prefill(weights, tap)
    found = tap.result()[0].ffn_swigl
    if found is None:
        raise RuntimeError("the forward gave no ffn_swigl")
    return found.all.std / found.last.std


def _prefill(weights: Any, tap: Any) -> None:
    from pv.backends.cpu import open_cpu

    session = open_cpu(weights)
    session.prefill(TOKENS, tap)
    session.close()


# --- planted defects ---

Change = Callable[[Any, torch.Tensor], torch.Tensor]  # (weight, product) -> the product to go on with


@contextlib.contextmanager
def products_changed(change: Change) -> Iterator[None]:
    """Every product of blocks passes through `change`."""
    from pv.model import operators

    healthy = dict(operators.PRODUCTS)

    def changed(kind: Any) -> Any:
        return lambda x, weight: change(weight, healthy[kind](x, weight))

    with changed_entries(operators.PRODUCTS, {kind: changed(kind) for kind in healthy if kind.quantized}):
        yield


@contextlib.contextmanager
def last_token_alone(context: Any) -> Iterator[None]:
    """The quantized forward hands the tap its last position only, and calls that all tokens."""
    from pv.backends.torch_session import TorchSession

    healthy = TorchSession.prefill

    class LastOnly:
        def __init__(self, tap: Any) -> None:
            self.wants, self._take = tap.wants, tap.take

        def take(self, stage: Any, layer: int | None, values: np.ndarray) -> None:
            self._take(stage, layer, np.ascontiguousarray(values[-1:]))

    def prefill(self: Any, tokens: Any, tap: Any = None, graft: Any = None) -> Any:
        blocks = self._weights is not None and self._weights.layers[0].ffn_gate.type.quantized
        return healthy(self, tokens, LastOnly(tap) if blocks and tap is not None else tap, graft)

    with patched(TorchSession, "prefill", prefill):
        yield
