"""`pv trace --save-tensor` writes what was asked for, in the bytes that are specified: each claim of it, attacked."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pv.falsify import Control, Measurement, falsifier, measure

from ._commands import call, must
from ._plant import in_children, patched
from ._trace import PROMPT, captured, child, files_of, grafted, header_of, stage_of, teacher, values_of

CONTRACT = "contracts/apr-cli-trace-save-tensor-v1.yaml"
SENTINEL = 0xFFFFFFFF
# The stages as the contract lists them; written out, so that a change of the program's own table is seen.
STAGES = (
    "embedding", "attn_norm", "qkv_matmul", "qkv_bias", "q_post_rope", "k_post_rope", "attn_scores", "attn_softmax",
    "attention", "attn_out", "post_attn_residual", "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out",
    "post_ffn_residual", "final_norm", "lm_head",
)  # fmt: skip


# --- 001: the option is there -----------------------------------------------------------------------------------------

OPTION_RENAMED = """
    import pv.cli.trace as module

    for option in module.trace.params:
        option.opts = ["--dump" if name == "--save-tensor" else name for name in option.opts]
"""


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-001",
    level="live",
    controls=[Control("the option is called --dump", plant=in_children(OPTION_RENAMED), breaks="option_named")],
    attacks=["pv.cli.trace.trace"],
)
def the_option_is_there(context: Any) -> list[Measurement]:
    """`pv trace --help`, as a user reads it."""
    teacher(context)
    told = child(context, "trace", "--help").stdout
    listed = re.search(r"^\s+--save-tensor\b", told, re.MULTILINE)  # in the list of options, not in an example
    return [
        measure("option_named", listed is not None, unit="bool"),
        measure("stages_named", len(set(re.findall(r"\w+", told)) & set(STAGES)), unit="stages"),
    ]


# --- 002: the same bytes ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ticking_writer(context: Any) -> Iterator[None]:
    """The last bit of one value of each file counts the files written so far: as a clock or a counter would."""
    from pv.trace import capture

    ticks = itertools.count()
    healthy = capture.write_new

    def write(path: Any, layer: Any, values: np.ndarray) -> Any:
        moved = values.copy()
        moved.reshape(-1)[:1].view(np.uint32)[0] ^= next(ticks) // 71 & 1
        return healthy(path, layer, moved)

    with patched(capture, "write_new", write):
        yield


@contextlib.contextmanager
def noisy_forward(context: Any) -> Iterator[None]:
    """Dropout left on: a stage is a little different on every run."""
    with grafted(lambda stage, layer, x: x * (1 + 1e-6 * torch.rand_like(x)) if stage == "ffn_swigl" else x):
        yield


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-002",
    level="live",
    controls=[
        Control("the writer lets a counter into the values", plant=ticking_writer, breaks="differing_files"),
        Control("the forward draws random numbers", plant=noisy_forward, breaks="differing_files"),
    ],
    attacks=["pv.trace.capture.capture", "pv.trace.aprt.write_new"],
)
def two_runs_write_the_same_bytes(context: Any) -> list[Measurement]:
    """Two loads, two forwards, two folders."""
    one, other = (files_of(captured(context, name, "--save-tensor", "all")) for name in ("one", "other"))
    differing = [path for path in one.keys() | other.keys() if one.get(path) != other.get(path)]
    return [
        measure("differing_files", len(differing), unit="files", n=len(one)),
        measure("files_compared", len(one), unit="files"),
    ]


# --- 003: a quantized load shows --------------------------------------------------------------------------------------


@contextlib.contextmanager
def quantized_load_is_float(context: Any) -> Iterator[None]:
    """Blocks are asked for and half floats are written: the file is named Q4_K and holds the teacher itself."""
    from pv.cli import model_convert

    healthy = model_convert.convert.callback
    assert healthy is not None

    def convert(**given: Any) -> Any:
        return healthy(**{k: "F16" if v == "Q4_K" else v for k, v in given.items()})

    with patched(model_convert.convert, "callback", convert):
        yield


@contextlib.contextmanager
def diff_of_rounded_values(context: Any) -> Iterator[None]:
    """The diff rounds both sides to two digits before it subtracts, as one peer rounds its report."""
    from pv.compare import metrics

    healthy = metrics.compare
    rounded = lambda x, r, *more: healthy(np.round(x, 1), np.round(r, 1), *more)  # noqa: E731 - one line says it
    with patched(metrics, "compare", rounded):
        yield


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-003",
    level="live",
    controls=[
        Control("the quantized load is the float one", plant=quantized_load_is_float, breaks="largest_over_std"),
        Control("the diff rounds before it subtracts", plant=diff_of_rounded_values, breaks="diff_disagrees_by"),
    ],
    attacks=["pv.compare.metrics.compare", "pv.report.differences.tensor_lines", "pv.cli.diff.diff"],
    timeout=120,
)
def a_quantized_load_shows(context: Any) -> list[Measurement]:
    """ffn_gate of the teacher and of its Q4_K file; numpy says how far they are apart, and so must `pv diff`."""
    blocks = context.scratch / "teacher-q4_k.gguf"
    must(call("model", "convert", teacher(context), "--to", "gguf", "--type", "Q4_K", "--output", blocks))
    plain = captured(context, "float", "--save-tensor", "ffn_gate")
    quantized = context.scratch / "quantized"
    must(call("trace", blocks, "--prompt", PROMPT, "--save-tensor", "ffn_gate", "--output", quantized))

    shares, disagreement, reported = [], 0.0, 0
    for path in files_of(plain):
        r, x = (values_of((folder / path).read_bytes()).astype(np.float64) for folder in (plain, quantized))
        share = np.abs(x - r).max() / r.std()
        shares.append(share)
        pair = ("diff", plain / path, quantized / path, "--values")
        reported += "of the reference; max |diff| is" in call(*pair).out
        said = json.loads(call(*pair, "--output-format", "json").out)
        disagreement = max(disagreement, abs(said["max_abs"] / said["spread"]["reference_std"] / share - 1))
    context.note(f"ffn_gate differs by up to {max(shares):.3g} standard deviations")
    return [
        measure("largest_over_std", max(shares), unit="ratio", n=len(shares)),
        measure("diff_disagrees_by", disagreement, unit="ratio", n=len(shares)),
        measure("layers_reported", reported, unit="layers"),
    ]


# --- 004: twelve header bytes -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def big_endian_headers(context: Any) -> Iterator[None]:
    from pv.trace import aprt

    with patched(aprt, "HEADER", struct.Struct(">4sII")):
        yield


@contextlib.contextmanager
def layers_from_one(context: Any) -> Iterator[None]:
    """The header counts layers from 1, the folder from 0."""
    from pv.trace import aprt

    healthy = aprt.encode_header
    shifted = lambda layer, count: healthy(None if layer is None else layer + 1, count)  # noqa: E731
    with patched(aprt, "encode_header", shifted):
        yield


@contextlib.contextmanager
def padded_files(context: Any) -> Iterator[None]:
    """Files are padded to a multiple of 64 bytes."""
    from pv.trace import aprt

    healthy = aprt._write_all

    def write(descriptor: int, header: bytes, view: memoryview) -> None:
        healthy(descriptor, header, view)
        os.write(descriptor, bytes(-(len(header) + len(view)) % 64))

    with patched(aprt, "_write_all", write):
        yield


def expected_shape(stage: str, tokens: int) -> tuple[int, ...]:
    """Shapes of the teacher (hidden 256, 8 heads of 32, 2 key-value heads, FFN 768, vocabulary 512), written out."""
    return {
        "qkv_matmul": (tokens, 384), "qkv_bias": (tokens, 384), "k_post_rope": (tokens, 64),
        "attn_scores": (8, tokens, tokens), "attn_softmax": (8, tokens, tokens), "ffn_gate": (tokens, 768),
        "ffn_up": (tokens, 768), "ffn_silu": (tokens, 768), "ffn_swigl": (tokens, 768), "lm_head": (512,),
    }.get(stage, (tokens, 256))  # fmt: skip


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-004",
    level="live",
    controls=[
        Control("headers are big-endian", plant=big_endian_headers, breaks="wrong_headers"),
        Control("the header counts layers from 1", plant=layers_from_one, breaks="wrong_headers"),
        Control("files are padded to 64 bytes", plant=padded_files, breaks="wrong_sizes"),
    ],
    attacks=["pv.trace.aprt.encode_header", "pv.trace.aprt.write_new"],
)
def twelve_header_bytes(context: Any) -> list[Measurement]:
    """Every file of a complete capture, read with struct alone."""
    folder = captured(context, "all", "--save-tensor", "all")
    tokens = len(json.loads((folder / "manifest.json").read_text())["tokens"])
    wrong, sizes, files = 0, 0, files_of(folder)
    for path, content in files.items():
        layer = int(path.split("/")[0].removeprefix("layer-")) if "/" in path else SENTINEL
        count = prod(expected_shape(stage_of(path), tokens))
        wrong += header_of(content) != (b"APRT", layer, count)
        sizes += len(content) != 12 + 4 * count
    return [
        measure("wrong_headers", wrong, unit="files", n=len(files)),
        measure("wrong_sizes", sizes, unit="files", n=len(files)),
        measure("files_checked", len(files), unit="files"),
    ]


# --- 005, 007: exactly what was asked for -----------------------------------------------------------------------------


@contextlib.contextmanager
def every_stage_is_taken(context: Any) -> Iterator[None]:
    """The list of stages is read and forgotten."""
    from pv.trace import stages

    healthy = stages.parse_stages
    with patched(stages, "parse_stages", lambda text: healthy("all")):
        yield


@contextlib.contextmanager
def embedding_lost_with_its_layer(context: Any) -> Iterator[None]:
    """The embedding, which stands in layer 0, is dropped by a list of layers without 0, though it was named."""
    from pv.trace import stages

    healthy = stages.parse_stages
    with patched(stages, "parse_stages", lambda text: healthy(text)._replace(named=frozenset())):
        yield


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-005",
    level="live",
    controls=[
        Control("every stage is captured, whatever was named", plant=every_stage_is_taken, breaks="unexpected"),
        Control("the embedding is lost with layer 0", plant=embedding_lost_with_its_layer, breaks="missing"),
    ],
    attacks=["pv.trace.plan.make_plan", "pv.trace.plan.Plan.wants"],
)
def exactly_what_was_asked(context: Any) -> list[Measurement]:
    """Two layer lists, one with layer 0 and one without."""
    missing = unexpected = 0
    for name, layers in (("even", (0, 2)), ("odd", (1, 3))):
        folder = captured(
            context, name, "--save-tensor", "embedding,ffn_gate,ffn_swigl", "--layer", ",".join(map(str, layers))
        )
        wanted = {"layer-0/embedding.bin"} | {f"layer-{i}/{s}.bin" for i in layers for s in ("ffn_gate", "ffn_swigl")}
        found = set(files_of(folder))
        missing += len(wanted - found)
        unexpected += len(found - wanted)
    return [measure("missing", missing, unit="files", n=10), measure("unexpected", unexpected, unit="files", n=10)]


@contextlib.contextmanager
def layer_list_ignored(context: Any) -> Iterator[None]:
    from pv.trace import stages

    healthy = stages.parse_numbers
    ignoring = lambda text, what, **more: None if what == "layer" else healthy(text, what, **more)  # noqa: E731
    with patched(stages, "parse_numbers", ignoring):
        yield


@contextlib.contextmanager
def layers_up_to_it(context: Any) -> Iterator[None]:
    """`--layer 3` is taken as the first three layers and this one."""
    from pv.trace import stages

    healthy = stages.parse_numbers

    def up_to(text: str, what: str, **more: Any) -> Any:
        numbers = healthy(text, what, **more)
        return tuple(range(max(numbers) + 1)) if what == "layer" and numbers else numbers

    with patched(stages, "parse_numbers", up_to):
        yield


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-007",
    level="live",
    controls=[
        Control("the list of layers is ignored", plant=layer_list_ignored, breaks="other_layers"),
        Control("layers up to the one named are written", plant=layers_up_to_it, breaks="other_layers"),
    ],
    attacks=["pv.trace.stages.parse_numbers", "pv.trace.plan.make_plan"],
)
def one_layer_means_one(context: Any) -> list[Measurement]:
    """`--save-tensor all --layer 3`."""
    folder = captured(context, "three", "--save-tensor", "all", "--layer", "3")
    layers = [path.split("/")[0] for path in files_of(folder) if "/" in path]
    return [
        measure("other_layers", len(set(layers) - {"layer-3"}), unit="layers"),
        measure("files_of_layer", layers.count("layer-3"), unit="files"),
    ]


# --- 006: a NaN keeps its bits ----------------------------------------------------------------------------------------


def replaced_values(change: Any) -> Any:
    """A control's `plant`: the writer changes values before they are written."""

    @contextlib.contextmanager
    def plant(context: Any) -> Iterator[None]:
        from pv.trace import capture

        healthy = capture.write_new
        writing = lambda path, layer, values: healthy(path, layer, change(values))  # noqa: E731
        with patched(capture, "write_new", writing):
            yield

    return plant


def one_nan_for_all(values: np.ndarray) -> np.ndarray:
    """What a detour over float64 and back, or a text, leaves of a NaN."""
    return np.where(np.isnan(values), np.float32("nan"), values).astype(np.float32)


def zero_for_nan(values: np.ndarray) -> np.ndarray:
    """What ExecuTorch's comparer does to NaN before it compares."""
    return np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf).astype(np.float32)


def nan_bits() -> np.ndarray:
    """128 NaNs, as bits: 64 payloads, quiet and signalling among them, of both signs."""
    payloads = [1 << k for k in range(23)] + [(1 << k) | 1 for k in range(1, 23)] + [(1 << k) - 1 for k in range(5, 24)]
    one_sign = np.array(sorted(set(payloads)), np.uint32) | np.uint32(0x7F800000)
    return np.concatenate((one_sign[:64], one_sign[:64] | np.uint32(0x80000000)))


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-006",
    level="live",
    controls=[
        Control("the writer drops NaN bits", plant=replaced_values(one_nan_for_all), breaks="bits_equal"),
        Control("the writer turns NaN into zero", plant=replaced_values(zero_for_nan), breaks="bits_equal"),
    ],
    attacks=["pv.trace.aprt.write_new", "pv.trace.capture.CaptureTap.take"],
)
def a_nan_keeps_its_bits(context: Any) -> list[Measurement]:
    """NaNs put into ffn_up of layer 1 while the command runs; the file's bytes are read without pv."""
    bits = nan_bits()

    def plant(stage: Any, layer: int | None, x: torch.Tensor) -> torch.Tensor:
        if (stage, layer) != ("ffn_up", 1):
            return x
        words = x.contiguous().view(torch.int32).clone().reshape(-1)
        words[5 : 5 + bits.size] = torch.from_numpy(bits.view(np.int32).copy())
        return words.view(torch.float32).reshape(x.shape)

    with grafted(plant):
        folder = captured(context, "nan", "--save-tensor", "ffn_up", "--layer", "1")
    written = values_of((folder / "layer-1" / "ffn_up.bin").read_bytes()).view(np.uint32)[5 : 5 + bits.size]
    flags = json.loads((folder / "manifest.json").read_text())["flags"]
    return [
        measure("bits_equal", int((written == bits).sum()), unit="values", n=bits.size),
        measure("flagged", any("layer-1/ffn_up.bin" in flag for flag in flags), unit="bool"),
    ]


# --- 008: this contract is valid --------------------------------------------------------------------------------------


class Attacked:
    """The file that 008 validates; a control puts a damaged copy in its place."""

    contract: Path | None = None


@contextlib.contextmanager
def misspelt_contract(context: Any) -> Iterator[None]:
    """A copy of the contract in which one `prediction` is misspelt."""
    folder = context.scratch / "contracts"
    folder.mkdir()
    damaged = folder / Path(CONTRACT).name
    damaged.write_text((context.project / CONTRACT).read_text("utf-8").replace("prediction:", "predicton:", 1), "utf-8")
    with patched(Attacked, "contract", damaged):
        yield


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-008",
    level="live",
    controls=[Control("a misspelt key", plant=misspelt_contract, breaks="errors")],
    attacks=["pv.cli.validate.validate"],
)
def the_contract_is_valid(context: Any) -> list[Measurement]:
    """`pv validate` as a user runs it; findings about statuses and checks (PV4xx) are left aside: they are circular."""
    teacher(context)
    contract = Attacked.contract or context.project / CONTRACT
    told = json.loads(context.run_pv("validate", "--output-format", "json", "--no-cache", str(contract)).stdout)
    errors = [d for d in told["diagnostics"] if d["severity"] == "error" and not d["code"].startswith("PV4")]
    return [
        measure("errors", len(errors), unit="findings"),
        measure("files_checked", told["summary"]["contracts"], unit="files"),
    ]


# --- 009: the diff of two files ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def cut_to_fit(context: Any) -> Iterator[None]:
    """Both sides are cut to the shorter, as some comparers zip."""
    from pv.compare import tensors
    from pv.compare.tensors import TensorRef

    healthy = tensors.diff_tensor

    def cutting(reference: TensorRef, test: TensorRef, *more: Any, **named: Any) -> Any:
        count = min(reference.shape[0], test.shape[0])

        def cut(ref: TensorRef) -> TensorRef:
            opened = ref.open()
            values = np.array(opened.values[:count])
            return TensorRef(ref.name, None, None, None, (count,), lambda: tensors.Held(values))

        return healthy(cut(reference), cut(test), *more, **named)

    with patched(tensors, "diff_tensor", cutting):
        yield


@contextlib.contextmanager
def any_file_is_a_tensor(context: Any) -> Iterator[None]:
    """Whatever exists is taken for a tensor: its bytes are not looked at."""
    from pv.cli import diff

    healthy = diff.looks_like

    def trusting(path: str) -> Any:
        return diff.Looks.APRT if healthy(path) is not diff.Looks.ABSENT else diff.Looks.ABSENT

    with patched(diff, "looks_like", trusting):
        yield


@contextlib.contextmanager
def float32_sums(context: Any) -> Iterator[None]:
    """The cosine is taken from a float32 dot product of the two sides."""
    from pv.compare.metrics import Rows

    def lost(self: Any) -> np.ndarray:
        x, r, xr = (
            np.sqrt(self.xx).astype(np.float32),
            np.sqrt(self.rr).astype(np.float32),
            self.xr.astype(np.float32),
        )
        return (np.float32(1) - xr / (x * r)).astype(np.float64)

    with patched(Rows, "cosine_loss", property(lost)):
        yield


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-009",
    level="live",
    controls=[
        Control("sizes are cut to fit", plant=cut_to_fit, breaks="not_refused"),
        Control("any file is taken for a tensor", plant=any_file_is_a_tensor, breaks="not_refused"),
        Control("the cosine is summed in float32", plant=float32_sums, breaks="worst_figure_error"),
    ],
    attacks=["pv.cli.diff.diff", "pv.compare.tensors.diff_tensor", "pv.compare.metrics.compare"],
)
def the_diff_of_two_files(context: Any) -> list[Measurement]:
    """Identical, changed, and every pair that cannot be compared."""
    folder = captured(context, "a", "--save-tensor", "ffn_gate,ffn_norm", "--layer", "1,2")
    one = folder / "layer-1" / "ffn_gate.bin"
    same = json.loads(must(call("diff", one, shutil.copy(one, context.scratch / "b"), "--output-format", "json")).out)

    moved = bytearray(one.read_bytes())
    changed = np.frombuffer(moved, "<f4", offset=12)
    changed[7:5000:11] *= np.float32(1 + 2e-5)
    (context.scratch / "c").write_bytes(moved)
    said = json.loads(call("diff", one, context.scratch / "c", "--output-format", "json").out)

    contract, text = context.project / CONTRACT, context.scratch / "text"
    text.write_text("APRIL is no magic")
    pairs = [
        (one, folder / "layer-1" / "ffn_norm.bin"),  # another size
        (one, folder / "layer-2" / "ffn_gate.bin"),  # another layer
        (one, contract), (contract, one), (one, text), (text, one), (one, folder), (one, teacher(context)),
    ]  # fmt: skip
    refused = [call("diff", *pair).code == 2 for pair in pairs]
    return [
        measure("max_abs_of_identical", same["max_abs"]),
        measure("rms_of_identical", same["rms"]),
        measure("cosine_of_identical", same["cosine"]),
        measure(
            "worst_figure_error", _worst_figure_error(said, values_of(one.read_bytes()), changed), unit="ratio", n=4
        ),
        measure("not_refused", refused.count(False), unit="pairs", n=len(pairs)),
    ]


def _worst_figure_error(said: dict[str, Any], r: np.ndarray, x: np.ndarray) -> float:
    """The largest relative error of what the diff said, against the definitions in extended precision."""
    r, x = r.astype(np.longdouble), x.astype(np.longdouble)
    d = x - r
    cosine = (x * r).sum() / np.sqrt((x * x).sum() * (r * r).sum())
    true = {
        "max_abs": np.abs(d).max(),
        "rms": np.sqrt((d * d).mean()),
        "rel_l2": np.sqrt((d * d).sum() / (r * r).sum()),
        "cosine_loss": 1 - cosine,
    }
    return float(max(abs(said[name] - value) / value for name, value in true.items()))


# --- 010: the head ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def head_in_the_last_layer(context: Any) -> Iterator[None]:
    """The head's file says that it is of layer 3."""
    from pv.trace import capture

    healthy = capture.write_new

    def write(target: Any, layer: Any, values: np.ndarray) -> Any:
        return healthy(target, 3 if str(target).endswith("lm_head.bin") else layer, values)

    with patched(capture, "write_new", write):
        yield


@contextlib.contextmanager
def head_of_the_first_position(context: Any) -> Iterator[None]:
    """The tap sees the logits of another position."""
    from pv.trace import capture

    healthy = capture.CaptureTap.take

    def take(self: Any, stage: Any, layer: Any, values: np.ndarray) -> None:
        healthy(self, stage, layer, np.roll(values, 1) if stage == "lm_head" else values)

    with patched(capture.CaptureTap, "take", take):
        yield


@contextlib.contextmanager
def head_always_written(context: Any) -> Iterator[None]:
    from pv.model.stages import Stage
    from pv.trace import plan, stages

    healthy = stages.parse_stages

    def parse(text: str) -> Any:
        choice = healthy(text)
        return choice._replace(stages=plan.in_order((*choice.stages, Stage.LM_HEAD)))

    with patched(stages, "parse_stages", parse):
        yield


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-010",
    level="live",
    controls=[
        Control("the head is filed under a layer", plant=head_in_the_last_layer, breaks="sentinel"),
        Control("other logits than the last are written", plant=head_of_the_first_position, breaks="logits_equal"),
        Control("the head is written unasked", plant=head_always_written, breaks="written_unasked"),
    ],
    attacks=["pv.trace.stages.file_path", "pv.trace.capture.CaptureWriter.write", "pv.model.forward.head"],
)
def the_head_goes_to_its_own_place(context: Any) -> list[Measurement]:
    """The file's values against the logits that a session returns, bit for bit."""
    from pv.backends.cpu import open_cpu
    from pv.model.open import open_model

    model = open_model(teacher(context))
    logits = open_cpu(model.weights).prefill(model.tokenizer.encode(PROMPT))
    with_head = captured(context, "with", "--save-tensor", "attn_norm,lm_head", "--layer", "2")
    without = captured(context, "without", "--save-tensor", "attn_norm", "--layer", "2")
    found = [path for path in files_of(with_head) if stage_of(path) == "lm_head"]
    content = (with_head / found[0]).read_bytes()
    return [
        measure("sentinel", found == ["lm_head.bin"] and header_of(content) == (b"APRT", SENTINEL, 512), unit="bool"),
        measure("logits_equal", content[12:] == logits.tobytes(), unit="bool", n=logits.size),
        measure("written_unasked", sum(stage_of(path) == "lm_head" for path in files_of(without)), unit="files"),
    ]


# --- 011: end to end --------------------------------------------------------------------------------------------------

IN_THE_WORKING_FOLDER = """
    import pathlib
    import pv.cli.trace as module

    module.default_folder = lambda model, source: pathlib.Path("trace")
"""
SIZES_WITHOUT_HEADER = """
    import dataclasses
    import pv.cli.trace as module

    healthy = module.file_lines

    def file_lines(done):
        files = tuple(dataclasses.replace(entry, size=entry.size - 12) for entry in done.manifest.files)
        return healthy(done._replace(manifest=dataclasses.replace(done.manifest, files=files)))

    module.file_lines = file_lines
"""
PROMPT_IS_CUT = """
    import pv.cli.trace as module

    healthy = module.Request.ids
    module.Request.ids = lambda self, model: healthy(self, model)[:-1]
"""


@falsifier(
    "FALSIFY-APR-TRACE-SAVE-011",
    level="live",
    controls=[
        Control(
            "the default folder is where the user stands",
            plant=in_children(IN_THE_WORKING_FOLDER),
            breaks="in_default_folder",
        ),
        Control("sizes leave the header out", plant=in_children(SIZES_WITHOUT_HEADER), breaks="sizes_listed"),
        Control("the last token of the prompt is cut off", plant=in_children(PROMPT_IS_CUT), breaks="tokens_right"),
    ],
    attacks=["pv.cli.trace.trace", "pv.cli.trace.default_folder", "pv.cli.trace.file_lines"],
    timeout=120,
)
def from_a_model_to_a_list_of_files(context: Any) -> list[Measurement]:
    """A copy of the teacher, the command in a process of its own, no `--output`."""
    from pv.model.open import open_model

    model = context.scratch / "teacher"
    shutil.copytree(teacher(context), model)
    done = child(context, "trace", model, "--prompt", PROMPT, "--save-tensor", "ffn_gate,ffn_out,lm_head")
    folder = context.scratch / "teacher-trace"
    listed = dict(re.findall(r"^(\S+\.bin)\s.*?([\d,]+) bytes$", done.stdout, re.MULTILINE))
    on_disk = {path: len(content) for path, content in files_of(folder).items()} if folder.exists() else {}
    right = [path for path, size in listed.items() if on_disk.get(path) == int(size.replace(",", ""))]
    manifest = folder / "manifest.json"
    tokens = json.loads(manifest.read_text())["tokens"] if manifest.exists() else []
    shutil.rmtree(context.project / "trace", ignore_errors=True)  # where a planted defect puts it
    return [
        measure("exit_code", done.returncode),
        measure("in_default_folder", manifest.exists(), unit="bool"),
        measure("sizes_listed", len(right), unit="files"),
        measure("tokens_right", tokens == open_model(model).tokenizer.encode(PROMPT), unit="bool"),
    ]
