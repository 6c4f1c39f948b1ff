"""Ten statistics slots for each layer, each with its sample and none made up: the claims of that contract, attacked."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pv.falsify import Control, Measurement, falsifier, measure

from ._commands import call, must
from ._ground import adapter_variables, backend_of
from ._plant import environment_variable, in_children, patched
from ._trace import PROMPT, captured, child, files_of, grafted, stage_of, teacher, values_of

CONTRACT = "trace-ffn-sub-block-v1"
# Slot -> stage and width, as the contract has them; written out, so that a change of the program's own table is seen.
SLOTS = {
    "attn_norm": ("attn_norm", 256), "qkv": ("qkv_bias", 384), "attn_out": ("attn_out", 256),
    "ffn_norm": ("ffn_norm", 256), "ffn_gate": ("ffn_gate", 768), "ffn_up": ("ffn_up", 768),
    "ffn_silu": ("ffn_silu", 768), "ffn_swigl": ("ffn_swigl", 768), "ffn_out": ("ffn_out", 256),
    "output": ("post_ffn_residual", 256),
}  # fmt: skip
OLDER = ("attn_norm", "qkv", "attn_out", "ffn_norm", "ffn_out", "output")
FIGURES = ("mean", "std", "minimum", "maximum")
LAYERS = 4

Table = dict[tuple[int, str], dict[str, Any]]  # (layer, slot) -> figures over all tokens


def payload(context: Any, *options: object) -> list[dict[str, Any]]:
    """`pv trace TEACHER --payload --json`, layer by layer."""
    ran = must(call("trace", teacher(context), "--prompt", PROMPT, "--payload", "--json", *options))
    layers: list[dict[str, Any]] = json.loads(ran.out)["layers"]
    return layers


def table_of(layers: list[dict[str, Any]]) -> Table:
    """Figures over all tokens, by layer and slot; a slot without data is left out."""
    return {
        (layer["layer"], slot): figures[0]
        for layer in layers
        for slot, figures in layer["slots"].items()
        if figures is not None
    }


def from_tensors(context: Any, name: str) -> Table:
    """The same figures, made with numpy from captured tensors of the ten stages."""
    folder = captured(context, name, "--save-tensor", ",".join(stage for stage, _ in SLOTS.values()))
    slot_of = {stage: slot for slot, (stage, _) in SLOTS.items()}
    table: Table = {}
    for path, content in files_of(folder).items():
        layer, values = int(path.split("/")[0].removeprefix("layer-")), values_of(content).astype(np.float64)
        table[layer, slot_of[stage_of(path)]] = {
            "count": values.size, "mean": values.mean(), "std": values.std(),
            "minimum": values.min(), "maximum": values.max(),
        }  # fmt: skip
    return table


def swapped(one: str, other: str) -> Any:
    """A control's `plant`: two slots are taken from each other's stages."""

    @contextlib.contextmanager
    def plant(context: Any) -> Iterator[None]:
        from pv.trace import statistics

        slots = dict(statistics.SLOTS)
        slots[one], slots[other] = slots[other], slots[one]
        with patched(statistics, "SLOT_OF", {stage: slot for slot, stage in slots.items()}):
            yield

    return plant


# --- 001: a spike shows where it is -----------------------------------------------------------------------------------


@falsifier(
    "FALSIFY-SUB-FFN-001",
    level="live",
    controls=[
        Control("gate and up are filed under each other", plant=swapped("ffn_gate", "ffn_up"), breaks="smallest_spike"),
        Control(
            "the block's output is filed as the layer's",
            plant=swapped("ffn_out", "output"),
            breaks="largest_move_elsewhere",
        ),
    ],
    attacks=["pv.trace.statistics.StatisticsTap.take", "pv.trace.statistics.all_tokens"],
)
def a_spike_shows_where_it_is(context: Any) -> list[Measurement]:
    """One stage of layer 2 is made a hundred times larger; every stage behind it goes on with healthy values."""
    healthy = table_of(payload(context))
    clean = _tensors_of_one_run(context)
    spikes, moves = [], []
    for slot, (stage, _) in SLOTS.items():
        spiked = clean[stage, 2] * 100

        def plant(s: Any, n: Any, x: Any, stage: str = stage, spiked: Any = spiked) -> Any:
            return spiked if (s, n) == (stage, 2) else clean[str(s), n]

        with grafted(plant):
            table = table_of(payload(context))
        others = median(table[layer, slot]["std"] for layer in range(LAYERS) if layer != 2)
        spikes.append(table[2, slot]["std"] / others)
        for place, figures in table.items():
            if place != (2, slot):
                moves.append(max(figures["std"] / healthy[place]["std"], healthy[place]["std"] / figures["std"]))
    return [
        measure("smallest_spike", min(spikes), unit="ratio", n=len(spikes)),
        measure("largest_move_elsewhere", max(moves), unit="ratio", n=len(moves)),
        measure("slots_tried", len(spikes), unit="slots"),
    ]


def _tensors_of_one_run(context: Any) -> dict[tuple[str, int | None], Any]:
    """Every tensor of a healthy forward, as torch has it."""
    from pv.backends.cpu import open_cpu
    from pv.model.open import open_model

    model, clean = open_model(teacher(context)), {}

    def keep(stage: Any, layer: int | None, x: Any) -> Any:
        clean[str(stage), layer] = x.clone()
        return x

    open_cpu(model.weights).prefill(model.tokenizer.encode(PROMPT), graft=keep)
    return clean


# --- 002: further slots change no figure ------------------------------------------------------------------------------


@contextlib.contextmanager
def collecting_disturbs(context: Any) -> Iterator[None]:
    """Reducing ffn_silu to its figures sorts it in place, and the forward goes on with the sorted tensor."""
    from pv.model import forward

    healthy = forward.Eyes.__call__

    def look(self: Any, stage: Any, layer: Any, x: Any) -> Any:
        x = healthy(self, stage, layer, x)
        if stage == "ffn_silu" and self._tap is not None and self._tap.wants(stage, layer):
            return x.sort(-1).values
        return x

    with patched(forward.Eyes, "__call__", look):
        yield


@contextlib.contextmanager
def spread_in_float16(context: Any) -> Iterator[None]:
    """Figures are taken in half precision."""
    from pv.trace import statistics

    healthy = statistics._figures
    with patched(statistics, "_figures", lambda values: healthy(values.astype(np.float16).astype(np.float32))):
        yield


@falsifier(
    "FALSIFY-SUB-FFN-002",
    level="live",
    controls=[
        Control("collecting a further slot disturbs the forward", plant=collecting_disturbs, breaks="figures_changed"),
        Control("figures are taken in half precision", plant=spread_in_float16, breaks="worst_figure_error"),
    ],
    attacks=["pv.trace.statistics.collect", "pv.trace.statistics.all_tokens"],
)
def further_slots_change_nothing(context: Any) -> list[Measurement]:
    """Six slots against ten, and ten against the captured tensors themselves."""
    from pv.trace import statistics

    ten = table_of(payload(context))
    stages = {statistics.SLOTS[slot]: slot for slot in OLDER}
    with patched(statistics, "SLOT_OF", stages):
        six = table_of(payload(context))
    changed = sum(six[layer, slot] != ten[layer, slot] for layer in range(LAYERS) for slot in OLDER)
    exact = from_tensors(context, "tensors")
    errors = [
        abs(ten[place][figure] - exact[place][figure]) / max(abs(exact[place]["std"]), 1e-30)
        for place in exact
        for figure in FIGURES
    ]
    return [
        measure("figures_changed", changed, unit="figures", n=LAYERS * len(OLDER)),
        measure("worst_figure_error", max(errors), unit="ratio", n=len(errors)),
        measure("figures_compared", len(errors), unit="figures"),
    ]


# --- 003: a slot is a stage -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def qkv_before_the_bias(context: Any) -> Iterator[None]:
    """The slot qkv is filled before the bias is added."""
    from pv.model.stages import Stage
    from pv.trace import statistics

    stages = {stage: slot for stage, slot in statistics.SLOT_OF.items() if slot != "qkv"} | {Stage.QKV_MATMUL: "qkv"}
    with patched(statistics, "SLOT_OF", stages):
        yield


@falsifier(
    "FALSIFY-SUB-FFN-003",
    level="live",
    controls=[
        Control("qkv is taken before the bias", plant=qkv_before_the_bias, breaks="slots_of_their_stage"),
        Control(
            "silu and swigl are exchanged", plant=swapped("ffn_silu", "ffn_swigl"), breaks="slots_of_another_stage"
        ),
    ],
    attacks=["pv.trace.statistics.StatisticsTap.take"],
)
def a_slot_is_a_stage(context: Any) -> list[Measurement]:
    """Figures of a slot in every layer against those of all ten stages, made with numpy from captured tensors."""
    shown, exact = table_of(payload(context)), from_tensors(context, "tensors")
    own = other = 0
    for slot in SLOTS:
        alike = {candidate for candidate in SLOTS if _same_everywhere(shown, slot, exact, candidate)}
        own += alike == {slot}
        other += bool(alike - {slot})
    return [
        measure("slots_of_their_stage", own, unit="slots"),
        measure("slots_of_another_stage", other, unit="slots", n=len(SLOTS)),
        measure("renamed", sum(slot != stage for slot, (stage, _) in SLOTS.items()), unit="slots"),
    ]


def _same_everywhere(shown: Table, slot: str, exact: Table, candidate: str) -> bool:
    return all(
        abs(shown[layer, slot][figure] - exact[layer, candidate][figure]) <= 1e-9 * exact[layer, candidate]["std"]
        for layer in range(LAYERS)
        for figure in FIGURES
    )


# --- 004: a backend fills every slot or says so -----------------------------------------------------------------------


def tap_changed(change: Any) -> Any:
    """What a backend hands to the tap is changed on the way: `change(stage, values)`, None for nothing at all."""

    @contextlib.contextmanager
    def planted() -> Iterator[None]:
        from pv.trace.statistics import StatisticsTap

        healthy = StatisticsTap.take

        def take(self: Any, stage: Any, layer: Any, values: np.ndarray) -> None:
            given = change(str(stage), values)
            if given is not None:
                healthy(self, stage, layer, given)

        with patched(StatisticsTap, "take", take):
            yield

    return planted()


@contextlib.contextmanager
def zeros_are_not_noticed(context: Any) -> Iterator[None]:
    """The backend leaves ffn_silu unwritten, and nobody looks whether a slot is all zeros."""
    from pv.trace.statistics import Statistics

    with (
        patched(Statistics, "blank", property(lambda self: False)),
        tap_changed(lambda stage, values: np.zeros_like(values) if stage == "ffn_silu" else values),
    ):
        yield


@contextlib.contextmanager
def holes_are_not_said(context: Any) -> Iterator[None]:
    """The backend gives no ffn_up, and the report does not say that it is missing."""
    from pv.trace.statistics import LayerStatistics

    with (
        patched(LayerStatistics, "incomplete", property(lambda self: ())),
        tap_changed(lambda stage, values: None if stage == "ffn_up" else values),
    ):
        yield


@contextlib.contextmanager
def gate_of_another_scale(context: Any) -> Iterator[None]:
    """The backend's gate comes out 3 % too large."""
    with tap_changed(lambda stage, values: values * np.float32(1.03) if stage == "ffn_gate" else values):
        yield


@falsifier(
    "FALSIFY-SUB-FFN-004",
    level="live",
    controls=[
        Control("an unwritten buffer passes for data", plant=zeros_are_not_noticed, breaks="zeros_for_data"),
        Control("a slot that is not given is passed over", plant=holes_are_not_said, breaks="holes_in_silence"),
        Control("the backend's gate is 3 % too large", plant=gate_of_another_scale, breaks="worst_off_the_cpu"),
    ],
    attacks=["pv.trace.statistics.LayerStatistics", "pv.cli.sessions.open_session"],
)
def every_slot_is_given_or_named(context: Any) -> list[Measurement]:
    """The cell's backend against figures made with numpy from the CPU's captured tensors."""
    cpu = from_tensors(context, "cpu")
    with _adapter(context):
        layers = payload(context, "--backend", backend_of(context))
    holes = zeros = 0
    worst = 0.0
    for layer in layers:
        said = {reason.split(":")[0] for reason in layer["incomplete"]}
        for slot, figures in layer["slots"].items():
            holes += figures is None and slot not in said
            zeros += figures is not None and figures[0]["zero_share"] == 1.0 and slot not in said
            if figures is not None and figures[0]["std"] > 0:
                share = figures[0]["std"] / cpu[layer["layer"], slot]["std"]
                worst = max(worst, abs(share - 1))
    slots = len(layers) * len(SLOTS)
    return [
        measure("holes_in_silence", holes, unit="slots", n=slots),
        measure("zeros_for_data", zeros, unit="slots", n=slots),
        measure("worst_off_the_cpu", worst, unit="ratio", n=slots),
    ]


@contextlib.contextmanager
def _adapter(context: Any) -> Iterator[None]:
    """The kind of Vulkan driver that the cell is about."""
    with contextlib.ExitStack() as stack:
        for name, value in adapter_variables(context).items():
            stack.enter_context(environment_variable(name, value))
        yield


# --- 005: ten lines ---------------------------------------------------------------------------------------------------

ONE_SLOT_FORGOTTEN = """
    import pv.cli.trace as module

    healthy = module.payload_lines
    module.payload_lines = lambda figures: [line for line in healthy(figures) if " ffn_silu " not in line]
"""
LAST_LAYER_FORGOTTEN = """
    import pv.cli.trace as module

    healthy = module.payload_lines
    module.payload_lines = lambda figures: healthy(figures[:-1])
"""


@falsifier(
    "FALSIFY-SUB-FFN-005",
    level="live",
    controls=[
        Control("a slot is not shown", plant=in_children(ONE_SLOT_FORGOTTEN), breaks="layers_off_ten_lines"),
        Control("the last layer is not shown", plant=in_children(LAST_LAYER_FORGOTTEN), breaks="layers_shown"),
    ],
    attacks=["pv.cli.trace.payload_lines"],
    timeout=120,
)
def ten_lines_for_each_layer(context: Any) -> list[Measurement]:
    """The command in a process of its own; its lines read as text."""
    done = child(context, "trace", teacher(context), "--prompt", PROMPT, "--payload")
    lines = re.findall(r"^layer (\d+)\s+(\w+)\s+n \d+\s+mean \S+\s+std \S+", done.stdout, re.MULTILINE)
    layers = sorted({int(layer) for layer, _ in lines})
    shown = [[slot for at, slot in lines if int(at) == layer] for layer in layers]
    order = [a != b for slots in shown for a, b in zip(slots, SLOTS, strict=False)]
    return [
        measure("layers_off_ten_lines", sum(len(slots) != 10 for slots in shown), unit="layers", n=max(len(shown), 1)),
        measure("layers_shown", len(layers), unit="layers"),
        measure("lines_out_of_order", sum(order), unit="lines", n=max(len(order), 1)),
    ]


# --- 006: counts are the dimensions -----------------------------------------------------------------------------------


@contextlib.contextmanager
def last_token_for_all(context: Any) -> Iterator[None]:
    """The statistics of all tokens are taken over the last one: the mistake that once made a ratio of 18."""
    from pv.trace import statistics

    healthy = statistics.all_tokens
    with patched(statistics, "all_tokens", lambda values: healthy(values[-1:])):
        yield


@contextlib.contextmanager
def ffn_as_wide_as_hidden(context: Any) -> Iterator[None]:
    """Only the first 256 of the 768 inner channels are counted."""
    with tap_changed(lambda stage, values: np.ascontiguousarray(values[:, :256])):
        yield


@falsifier(
    "FALSIFY-SUB-FFN-006",
    level="live",
    controls=[
        Control("all tokens are the last one", plant=last_token_for_all, breaks="wrong_counts"),
        Control("inner slots are cut to the hidden width", plant=ffn_as_wide_as_hidden, breaks="wrong_counts"),
    ],
    attacks=["pv.trace.statistics.all_tokens", "pv.trace.statistics.last_token"],
)
def counts_are_the_dimensions(context: Any) -> list[Measurement]:
    """Counts and positions of both samples, for every slot of every layer."""
    from pv.model.open import open_model

    tokens = len(open_model(teacher(context)).tokenizer.encode(PROMPT))
    wrong = checked = 0
    for layer in payload(context):
        for slot, (_, width) in SLOTS.items():
            every, last = layer["slots"][slot]
            wrong += (every["count"], every["positions"], every["sample"]) != (tokens * width, tokens, "all")
            wrong += (last["count"], last["positions"], last["sample"]) != (width, 1, "last")
            checked += 2
    return [measure("wrong_counts", wrong, unit="counts", n=checked), measure("counts_checked", checked, unit="counts")]


# --- 007, 008: documented and asserted --------------------------------------------------------------------------------


class Sources:
    """The files that 007 and 008 read; a control puts a damaged copy in their place."""

    statistics: Path | None = None
    tests: Path | None = None


def damaged_copy(attribute: str, file: str, old: str, new: str) -> Any:
    """A control's `plant`: the check reads a copy in which `old` is `new`."""

    @contextlib.contextmanager
    def plant(context: Any) -> Iterator[None]:
        copy = context.scratch / Path(file).name
        copy.write_text((context.project / file).read_text("utf-8").replace(old, new), "utf-8")
        with patched(Sources, attribute, copy):
            yield

    return plant


@falsifier(
    "FALSIFY-SUB-FFN-007",
    level="live",
    controls=[
        Control(
            "the documentation of ffn_silu forgets the contract",
            plant=damaged_copy(
                "statistics",
                "src/pv/trace/statistics.py",
                "silu(gate): (T, F). Contract trace-ffn-sub-block-v1.",
                "silu(gate): (T, F).",
            ),
            breaks="slots_citing",
        )
    ],
    attacks=["pv.trace.statistics.LayerStatistics"],
    data=["src/pv/trace/statistics.py"],
)
def documentation_names_the_contract(context: Any) -> list[Measurement]:
    """The text behind each field of the class that holds the slots, found by parsing the source."""
    teacher(context)
    file = Sources.statistics or context.project / "src/pv/trace/statistics.py"
    holder = next(
        node
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "LayerStatistics"
    )
    citing = set()
    for field, text in zip(holder.body, holder.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            words = text.value.value if isinstance(text.value, ast.Constant) else ""
            if isinstance(words, str) and re.search(rf"\b{CONTRACT}\b", words):
                citing.add(field.target.id)
    return [measure("slots_citing", len(citing & set(SLOTS)), unit="slots")]


@falsifier(
    "FALSIFY-SUB-FFN-008",
    level="live",
    controls=[
        Control(
            "no test names ffn_swigl",
            plant=damaged_copy("tests", "tests/trace/test_statistics.py", '"ffn_swigl"', '"ffn_gate"'),
            breaks="slots_asserted",
        ),
        Control(
            "the tests name the slots and assert nothing",
            plant=damaged_copy("tests", "tests/trace/test_statistics.py", "assert ", "_ = "),
            breaks="slots_asserted",
        ),
    ],
    attacks=["pv.trace.statistics.LayerStatistics"],
    data=["tests/trace/test_statistics.py"],
)
def every_slot_is_asserted(context: Any) -> list[Measurement]:
    """Slots written out in a test function that asserts, found by parsing the tests."""
    teacher(context)
    file = Sources.tests or context.project / "tests/trace/test_statistics.py"
    named: set[str] = set()
    for test in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            words = {n.value for n in ast.walk(test) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            words |= {n.attr for n in ast.walk(test) if isinstance(n, ast.Attribute)}
            if any(isinstance(n, ast.Assert) for n in ast.walk(test)):
                named |= words & set(SLOTS)
    return [measure("slots_asserted", len(named), unit="slots")]
