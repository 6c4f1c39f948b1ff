"""A GPU serves only while it agrees with the CPU: apr-cpu-vs-gpu-output-parity-v1, each claim attacked in its cell."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from pv.backends.cpu import open_cpu
from pv.backends.protocol import Session
from pv.backends.registry import opener
from pv.compare.thresholds import THRESHOLDS, Kind, Row
from pv.falsify import Blocked, Completed, Control, Measurement, falsifier, measure
from pv.model.spec import named_shape
from pv.model.synthetic import MASSIVE, Recipe, build, massive_index
from pv.model.weights import Weight, Weights
from pv.parity.defects import DEFECTS
from pv.parity.gate import Verdict, lockstep, probe, reference_logits
from pv.parity.near_tie import judge_flip
from pv.parity.power import false_alarms, healthy_prompts

from ._gpu import (
    CONTRACT,
    PROMPT,
    PROMPTS,
    arguments,
    backend_of,
    cpu_answer,
    environment,
    in_order,
    receipt_of,
    rejections,
    run,
    side_by_side,
    tagged,
    title_of,
)
from ._ground import adapter_variables, holds
from ._guilty import accusation, bisect_command
from ._plant import child_patch, child_start, environment_variable, holding, patched

STEPS = 3
HEALTHY_PROMPTS = 299


# --- 001: the first token -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unjudged_and_wrong(context: Any) -> Iterator[None]:
    """Gate and up projections are swapped in the GPU's copy, and the gate is off."""
    with arguments("--no-gate", "--plant-defect", f"{backend_of(context)}=gate-up-swapped"):
        yield


@contextlib.contextmanager
def cpu_in_disguise(context: Any) -> Iterator[None]:
    """The CPU stands in for the GPU: every token is equal, and nothing is shown."""
    with arguments(backend="cpu"):
        yield


@falsifier(
    "FALSIFY-CPU-GPU-001",
    level="live",
    controls=[
        Control("swapped projections, no gate", plant=unjudged_and_wrong, breaks="first_tokens_equal"),
        Control("the CPU in disguise", plant=cpu_in_disguise, breaks="served_by_gpu"),
    ],
    attacks=["pv.parity.start.serve", "pv.backends.registry.choose", "pv.cli.run.run"],
    data=["src/pv/backends/shaders/*.wgsl"],
    timeout=600.0,
)
def the_first_token_is_the_cpus(context: Any) -> list[Measurement]:
    """`pv run --require BACKEND` against `pv run --no-gpu`, one token for each prompt."""
    prompts = PROMPTS[:1] if context.control else PROMPTS
    asked = ("--require", backend_of(context), "--max-tokens", "1", "--json")
    answers = side_by_side(*(partial(run, context, *asked, prompt=prompt) for prompt in prompts))
    equal, served = [], []
    for prompt, gpu in zip(prompts, answers, strict=True):
        answer = json.loads(gpu.stdout) if gpu.returncode == 0 else {"tokens": [], "backend": "none", "device": ""}
        equal.append(answer["tokens"] == first_token_of_cpu(context, prompt))
        served.append(answer["backend"] in ("cuda", "wgpu"))
        context.note(f"{prompt!r}: {answer['backend']} ({answer['device']}) begins with {answer['tokens']}")
    accuse_on(context, [p for p, same, gpu in zip(prompts, equal, served, strict=True) if not (same and gpu)])
    return [
        measure("first_tokens_equal", float(np.mean(equal)), unit="share", n=len(prompts)),
        measure("served_by_gpu", float(np.mean(served)), unit="share", n=len(prompts)),
    ]


def accuse_on(context: Any, prompts: Sequence[str]) -> None:
    """Note which stage of the teacher's forward is to blame for the first of these prompts, if there is one."""
    if prompts and not context.control:
        from pv.model.open import open_model

        model = open_model(context.subject_path("tiny-teacher"))
        accuse(context, Ground(model.weights, model.weights, ()), tuple(model.tokenizer.encode(prompts[0])))


def first_token_of_cpu(context: Any, prompt: str) -> list[int]:
    """Asked once for a worker."""

    def ask() -> list[int]:
        model = str(context.subject_path("tiny-teacher"))
        done = context.run_pv(
            "run", model, "--prompt", prompt, "--no-gpu", "--max-tokens", "1", "--json", env=environment(context)
        )
        return list(json.loads(done.stdout)["tokens"])

    return list(context.subject(f"first token of {prompt}", ask))


# --- 002 and 008: the figures ----------------------------------------------------------------------------------------


class Ground(NamedTuple):
    """Weights where the GPU finds them and where the CPU does (a large synthetic model is made on the card)."""

    gpu: Weights
    cpu: Weights
    prompts: tuple[tuple[int, ...], ...]


_DEFECT: ContextVar[str] = ContextVar("defect planted in the session under test", default="")


@contextlib.contextmanager
def logits_scaled(context: Any) -> Iterator[None]:
    """Logits 5 % too large: the cosine is exactly one."""
    with holding(_DEFECT, "logits-x1.05"):
        yield


@contextlib.contextmanager
def wrong_but_on_top(context: Any) -> Iterator[None]:
    """Every logit is wrong but the first token stays: an argmax check alone sees nothing."""
    with holding(_DEFECT, "argmax-kept"):
        yield


@contextlib.contextmanager
def looser_table(context: Any) -> Iterator[None]:
    """Somebody has loosened the engine's bound, and not the contract."""
    loose = {k: replace(r, logits=replace(r.logits, max_abs=1.0)) for k, r in THRESHOLDS.items()}
    with holding(_TABLE, loose):
        yield


_TABLE: ContextVar[Mapping[Kind, Row]] = ContextVar("the engine's table", default=THRESHOLDS)


@falsifier(
    "FALSIFY-CPU-GPU-002",
    level="live",
    controls=[
        Control("logits 5 % too large", plant=logits_scaled, breaks="max_abs_of_bound"),
        Control("argmax equal, cosine 0.91", plant=wrong_but_on_top, breaks="cosine"),
        Control("the engine's table loosened", plant=looser_table, breaks="table_as_stated"),
    ],
    attacks=["pv.parity.gate.lockstep", "pv.backends.cuda.open_cuda", "pv.backends.wgpu_session.open_wgpu"],
    data=["src/pv/backends/shaders/*.wgsl"],
    timeout=900.0,
)
def last_logits_agree(context: Any) -> list[Measurement]:
    """Lockstep of the backend that `pv run` opens with the CPU: three steps on each prompt, the worst figure counts."""
    ground = ground_of(context)
    verdicts = compared(context, ground, _DEFECT.get())
    accuse_rejected(context, ground, verdicts)
    return [
        *figures(verdicts),
        holds("table_as_stated", table_as_stated(context)),
    ]


@contextlib.contextmanager
def int8_served(context: Any) -> Iterator[None]:
    """The session under test rounds its activations to 8 bits."""
    with holding(_DEFECT, "int8-activations"):
        yield


@contextlib.contextmanager
def no_outlier(context: Any) -> Iterator[None]:
    """The model has no massive channel, so nothing is tried."""
    with holding(_OUTLIER, 1.0):
        yield


_OUTLIER: ContextVar[float] = ContextVar("the massive channel, in RMS of the others", default=MASSIVE)


@falsifier(
    "FALSIFY-CPU-GPU-008",
    level="live",
    controls=[
        Control("activations in 8 bits", plant=int8_served, breaks="max_abs_of_bound"),
        Control("a model without an outlier", plant=no_outlier, breaks="massive_ratio"),
    ],
    attacks=["pv.parity.gate.lockstep", "pv.backends.cuda.open_cuda", "pv.backends.wgpu_session.open_wgpu"],
    data=["src/pv/backends/shaders/*.wgsl"],
    timeout=900.0,
)
def a_massive_activation_keeps_parity(context: Any) -> list[Measurement]:
    """One hidden channel 26 times the RMS of the others from the embedding on; float32 against the CPU, then 8 bits."""
    plain = ground_of(context)
    ratio = _OUTLIER.get()
    ground = Ground(with_outlier(plain.gpu, ratio), with_outlier(plain.cpu, ratio), plain.prompts)
    verdicts = compared(context, ground, _DEFECT.get())
    accuse_rejected(context, ground, verdicts)
    eight = compared(context, ground, "int8-activations")
    return [
        measure("massive_ratio", outlier_of(ground.cpu), unit="RMS of the other channels", n=ground.cpu.spec.vocab),
        *figures(verdicts)[:3],
        holds("int8_rejected", not any(verdict.accepted for verdict in eight), n=len(eight)),
    ]


def ground_of(context: Any) -> Ground:
    """The cell's model, built once for a worker and a group of checks."""
    if context.cell.subject == "synthetic:7b":
        return context.subject("synthetic:7b", synthetic_7b)
    from pv.model.open import open_model

    model = open_model(context.subject_path("tiny-teacher"))
    prompts = PROMPTS[:1] if context.control else PROMPTS
    return Ground(model.weights, model.weights, tuple(tuple(model.tokenizer.encode(text)) for text in prompts))


def synthetic_7b() -> Ground:
    """7.6 billion random weights, float32: made on the card in seconds, copied to the host for the CPU."""
    if not torch.cuda.is_available():
        raise Blocked("cuda: the 7B shape is made on the card")
    gpu = build(Recipe(named_shape("7b")), device="cuda")
    cpu = replace(gpu, tensors={n: replace(w, data=w.data.cpu()) for n, w in gpu.tensors.items()})
    random = np.random.default_rng(7)
    return Ground(gpu, cpu, (tuple(int(t) for t in random.integers(0, gpu.spec.vocab, 32)),))


def compared(context: Any, ground: Ground, defect: str) -> list[Verdict]:
    """A verdict for each prompt; the CPU's logits are computed once for a worker."""
    backend = backend_of(context)
    test = opened(context, backend, ground.gpu, defect)
    try:
        verdicts = []
        for number, tokens in enumerate(ground.prompts):
            context.progress(number, len(ground.prompts), "lockstep")
            expected = iter(expected_of(context, ground.cpu, tokens))
            verdicts.append(lockstep(expected, test, tokens, STEPS, to_the_end=True))
        context.note(f"{test.facts.name}, {test.facts.driver}: " + "; ".join(v.reason or "accepted" for v in verdicts))
        return verdicts
    finally:
        test.close()


def accuse_rejected(context: Any, ground: Ground, verdicts: Sequence[Verdict]) -> None:
    """Note which stage is to blame for the first prompt whose lockstep was rejected, if there is one."""
    wrong = [tokens for tokens, verdict in zip(ground.prompts, verdicts, strict=True) if not verdict.accepted]
    if wrong and not context.control:
        accuse(context, ground, wrong[0])


def accuse(context: Any, ground: Ground, tokens: Sequence[int]) -> None:
    """Bisect the cell's backend against the CPU on these tokens, once for a worker, and note what came of it."""
    backend = backend_of(context)

    def ask() -> tuple[str, ...]:
        weights = ground.cpu.dequantized()
        small = weights.spec.parameters < _MOST_IN_FLOAT64
        return accusation(
            lambda: opener("cpu")(weights),
            lambda: opened(context, backend, ground.gpu, ""),
            tokens,
            Kind.CUDA if backend == "cuda" else Kind.WGPU,
            steps=STEPS - 1,
            shadow=(lambda: open_cpu(weights, dtype=torch.float64)) if small else None,
            again=again,
        )

    again = ""
    if context.cell.subject == "tiny-teacher":
        prefix = "".join(f"{name}={value} " for name, value in adapter_variables(context).items())
        model = context.subject_path("tiny-teacher")
        again = bisect_command(context, model, backend, tokens, STEPS - 1, prefix)
    for line in context.subject(f"guilty stage of {backend} for {outlier_of(ground.cpu)} {tokens}", ask):
        context.note(line)


_MOST_IN_FLOAT64 = 10**9  # parameters of a model that is run in float64 beside its float32


def opened(context: Any, backend: str, weights: Weights, defect: str) -> Session:
    """The session that `pv run` would open, on the cell's adapter, perhaps with a defect."""
    with contextlib.ExitStack() as stack:
        for name, value in environment(context).items():
            stack.enter_context(environment_variable(name, value))
        if defect:
            return DEFECTS[defect].open(backend, weights)
        return opener(backend)(weights)


def expected_of(context: Any, weights: Weights, tokens: tuple[int, ...]) -> list[np.ndarray]:
    """The CPU's logits for each step."""
    outlier = weights.tensors["embedding"].data[:, massive_index(weights.spec)].abs().max().item()

    def ask() -> list[np.ndarray]:
        reference = opener("cpu")(weights.dequantized())
        try:
            return list(reference_logits(reference, tokens, STEPS))
        finally:
            reference.close()

    return list(context.subject(f"{context.cell.subject} {tokens} {outlier}", ask))


def figures(verdicts: list[Verdict]) -> list[Measurement]:
    """The worst figures over all prompts and steps, in units of the bounds of their kind."""
    bounds = THRESHOLDS[verdicts[0].kind].logits
    steps = [step for verdict in verdicts for step in verdict.steps]
    count = len(steps)
    tolerated = [step.flip is not None and step.flip.tolerated for step in steps]
    worst = max if not any(np.isnan(step.max_abs) for step in steps) else lambda _: float("nan")
    return [
        measure("cosine", min(step.cosine for step in steps), n=count),
        measure("max_abs_of_bound", worst([s.max_abs for s in steps]) / bounds.max_abs, unit="bounds", n=count),
        measure("kl_of_bound", worst([s.kl for s in steps]) / bounds.kl, unit="bounds", n=count),
        measure(
            "cosine_loss_of_bound", (1 - min(s.cosine for s in steps)) / (1 - bounds.cosine), unit="bounds", n=count
        ),
        measure("tokens_tolerated", float(np.mean(tolerated)), unit="share", n=count),
    ]


def table_as_stated(context: Any) -> bool:
    """Whether the contract's bounds are the engine's."""
    contract = yaml.safe_load((context.project / CONTRACT).read_text("utf-8"))
    stated = contract["equations"]["cosine_parity"]["bounds"]
    for name, bounds in stated.items():
        row = _TABLE.get()[Kind(name)]
        ours = {
            "max_abs": row.logits.max_abs,
            "kl": row.logits.kl,
            "cosine": row.logits.cosine,
            "margin": row.margin,
            "local_rel_l2": row.local.rel_l2,
        }
        if {key: bounds[key] for key in ours} != ours:
            context.note(f"kind {name}: the contract states {bounds}, the engine has {ours}")
            return False
    return set(stated) == {Kind.CUDA.value, Kind.WGPU.value}


def with_outlier(weights: Weights, ratio: float) -> Weights:
    """The model with one embedding channel at `ratio` times the RMS of the others."""
    table = weights.tensors["embedding"].dense().clone()
    channel = massive_index(weights.spec)
    rest = torch.cat((table[:, :channel], table[:, channel + 1 :]), dim=1)
    table[:, channel] = ratio * rest.pow(2).mean().sqrt()
    tensors = {**weights.tensors, "embedding": Weight.of("embedding", table)}
    return replace(weights, tensors=tensors)


def outlier_of(weights: Weights) -> float:
    """The channel over the RMS of the others."""
    table, channel = weights.tensors["embedding"].dense(), massive_index(weights.spec)
    rest = torch.cat((table[:, :channel], table[:, channel + 1 :]), dim=1)
    return round(float(table[:, channel].abs().mean() / rest.pow(2).mean().sqrt()), 4)


# --- 003: a gate at every start --------------------------------------------------------------------------------------


@contextlib.contextmanager
def accepts_everything(context: Any) -> Iterator[None]:
    """The gate compares, and finds nothing wrong whatever the figures."""
    code = "judge = m.judge_step\nm.judge_step = lambda *a: judge(*a)._replace(reason='')"
    with child_patch(context, "pv.parity.gate", code):
        yield


@contextlib.contextmanager
def swallows_its_errors(context: Any) -> Iterator[None]:
    """A gate that cannot compare lets the GPU serve."""
    code = (
        "call = m._Judge.__call__\n"
        "def lenient(self, *a):\n"
        "    try:\n"
        "        return call(self, *a)\n"
        "    except m.BackendError as problem:\n"
        "        if 'reference' not in str(problem):\n"
        "            raise\n"
        "m._Judge.__call__ = lenient\n"
    )
    with child_patch(context, "pv.parity.start", code):
        yield


@contextlib.contextmanager
def silent_gate(context: Any) -> Iterator[None]:
    """Rejections are told under --verbose alone."""
    code = (
        "tell = m._Teller.tell\n"
        "m._Teller.tell = lambda self, what, *a, **k: tell(self, what, *a, **k) if self.options.detail else None\n"
    )
    with child_patch(context, "pv.parity.start", code):
        yield


@contextlib.contextmanager
def gate_only_once(context: Any) -> Iterator[None]:
    """Only the very first start is judged; later ones serve at once, and say nothing."""
    code = (
        "import os, pathlib\n"
        "mark = pathlib.Path(os.environ['PV_CACHE']) / 'started'\n"
        "if mark.exists():\n"
        "    m._Judge.__call__ = lambda *a: None\n"
        "mark.parent.mkdir(parents=True, exist_ok=True)\n"
        "mark.touch()\n"
    )
    with child_patch(context, "pv.parity.start", code):
        yield


@falsifier(
    "FALSIFY-CPU-GPU-003",
    level="live",
    controls=[
        Control("a gate that accepts everything", plant=accepts_everything, breaks="rejection_lines"),
        Control("a gate that swallows its own errors", plant=swallows_its_errors, breaks="failing_gate_rejects"),
        Control("a gate that speaks under --verbose alone", plant=silent_gate, breaks="rejection_lines"),
        Control("a gate at the first start alone", plant=gate_only_once, breaks="healthy_starts_judged"),
    ],
    attacks=["pv.parity.start.serve", "pv.parity.gate.lockstep", "pv.backends.registry.choose"],
    data=["src/pv/backends/shaders/*.wgsl"],
    timeout=900.0,
)
def a_gate_runs_at_every_start(context: Any) -> list[Measurement]:
    """Five starts: a wrong GPU, one that raises, a gate without a reference, and two healthy ones.

    A planted control makes only the starts that are to show it; what it does not look at is NaN, which no bound takes.
    """
    backend, title = backend_of(context), title_of(context)
    asked = ("--backend", backend, "--max-tokens", "12")
    expected = cpu_answer(context)
    plant = f"{backend}={{}}".format
    starts: dict[str, Callable[[], list[Completed]]] = {
        "wrong": lambda: [run(context, *asked, "--plant-defect", plant("gate-up-swapped"))],
        "raising": lambda: [run(context, *asked, "--plant-defect", plant("device-lost"))],
        "blind": lambda: [run(context, *asked, "--fresh", variables={"PV_HOST_MEMORY_GIB": "0.000001"})],
        "healthy": lambda: [run(context, *asked), run(context, *asked)],  # in turn: the second could remember the first
    }
    chosen = [SHOWN_BY[context.control]] if context.control else list(starts)
    done = dict(zip(chosen, side_by_side(*(starts[name] for name in chosen)), strict=True))
    told = {name: [tagged(one) for one in ran] for name, ran in done.items()}
    judged = [any(line.startswith(f"{title} path accepted") for line in lines) for lines in told.get("healthy", [])]
    accuse_on(context, [PROMPT] if not all(judged) else [])

    def of(start: str, value: Callable[[Completed], float]) -> float:
        return value(done[start][0]) if start in done else float("nan")

    def rejects(start: str, why: str) -> float:
        return of(start, lambda one: any(why in rejection.line for rejection in rejections(one, title)))

    bad = [one for name in ("wrong", "raising", "blind") for one in done.get(name, [])]
    return [
        measure("rejection_lines", of("wrong", lambda one: len(rejections(one, title))), unit="lines"),
        measure(
            "rejection_has_numbers",
            of("wrong", lambda one: any(rejection.figures for rejection in rejections(one, title)[:1])),
            unit="bool",
        ),
        measure("raised_error_rejects", rejects("raising", "error"), unit="bool"),
        measure("failing_gate_rejects", rejects("blind", "reference does not fit"), unit="bool"),
        measure("healthy_starts_judged", sum(judged) if "healthy" in done else float("nan"), unit="starts"),
        measure("answers_of_the_cpu", sum(one.stdout == expected for one in bad), unit="answers", n=max(1, len(bad))),
    ]


SHOWN_BY = {  # control -> the start that it spoils
    "a gate that accepts everything": "wrong",
    "a gate that swallows its own errors": "blind",
    "a gate that speaks under --verbose alone": "wrong",
    "a gate at the first start alone": "healthy",
}


# --- 004: --no-gpu ---------------------------------------------------------------------------------------------------

OBSERVER = """
import atexit, json, os, re, sys

_opened = []


def _look(event, args):
    if event == "open" and isinstance(args[0], str) and re.match(r"/dev/(nvidia|dri|kfd|dxg)", args[0]):
        _opened.append(args[0])


def _tell():
    try:
        maps = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
        descriptors = []
        for name in os.listdir("/proc/self/fd"):
            try:
                descriptors.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                pass
    except OSError:
        maps, descriptors = set(), []
    torch = sys.modules.get("torch")
    contexts = int(bool(torch is not None and torch.cuda.is_initialized()))
    told = {"maps": sorted(maps), "files": descriptors + _opened, "modules": sorted(sys.modules), "contexts": contexts}
    with open(PATH, "w") as file:
        json.dump(told, file)


sys.addaudithook(_look)
atexit.register(_tell)
"""
DRIVERS = r"lib(cuda\.so|nvidia|nvcuvid|vulkan|GLX_nvidia|EGL_nvidia|wgpu_native|hsa-runtime|ze_loader)"
DEVICE_FILES = r"/dev/(nvidia|dri|kfd|dxg)"


@contextlib.contextmanager
def flag_ignored(context: Any) -> Iterator[None]:
    """`--no-gpu` is dropped before anybody reads it."""
    with arguments(without=("--no-gpu",)):
        yield


@contextlib.contextmanager
def driver_loaded_anyway(context: Any) -> Iterator[None]:
    """Something maps a library of a driver's name: a copy of a harmless one stands in where there is no driver."""
    library = context.scratch / "libcuda.so.1"
    library.write_bytes(b"\0" * 4096)
    code = (
        "import mmap as _mmap\n"
        f"_file = open({str(library)!r}, 'rb')\n"
        "_held = _mmap.mmap(_file.fileno(), 0, prot=_mmap.PROT_READ)\n"
    )
    with child_start(context, code):
        yield


@contextlib.contextmanager
def wgpu_imported_anyway(context: Any) -> Iterator[None]:
    """A module of the GPU side is imported at start, for later."""
    code = "import sys, types\nsys.modules['wgpu'] = types.ModuleType('wgpu')\n"
    with child_start(context, code):
        yield


@falsifier(
    "FALSIFY-CPU-GPU-004",
    level="live",
    controls=[
        Control("the flag is ignored", plant=flag_ignored, breaks="gpu_lines"),
        Control("a driver is mapped anyway", plant=driver_loaded_anyway, breaks="drivers_mapped"),
        Control("wgpu is imported anyway", plant=wgpu_imported_anyway, breaks="gpu_modules_imported"),
    ],
    attacks=["pv.parity.start.serve", "pv.backends.registry.choose", "pv.cli.run.run"],
)
def no_gpu_touches_no_gpu(context: Any) -> list[Measurement]:
    """`pv run --no-gpu`, observed from inside at its end: maps, descriptors, modules, CUDA; and what it printed."""
    import re

    path = context.scratch / "observed.json"
    with child_start(context, f"PATH = {str(path)!r}\n{OBSERVER}"):
        done = run(context, "--no-gpu", "--max-tokens", "12", "--verbose")
    seen = json.loads(path.read_text("utf-8"))
    drivers = [name for name in seen["maps"] if re.search(DRIVERS, name)]
    files = [name for name in seen["files"] if re.match(DEVICE_FILES, name)]
    modules = [name for name in seen["modules"] if name.partition(".")[0] == "wgpu"]
    lines = [line for line in done.stderr.splitlines() if re.search(r"\[apr-|cuda|wgpu|vulkan|gpu", line, re.I)]
    context.note(f"{len(seen['maps'])} files mapped; drivers {drivers}, device files {files}, modules {modules[:3]}")
    return [
        measure("drivers_mapped", len(drivers), unit="libraries", n=len(seen["maps"])),
        measure("device_files_open", len(files), unit="files", n=len(seen["files"])),
        measure("gpu_modules_imported", len(modules), unit="modules", n=len(seen["modules"])),
        measure("cuda_contexts", seen["contexts"], unit="contexts"),
        measure("gpu_lines", len(lines), unit="lines"),
        holds("answered", done.returncode == 0 and ("equals" in done.stdout or "4" in done.stdout)),
    ]


# --- 005: both GPU backends defective --------------------------------------------------------------------------------


@contextlib.contextmanager
def wgpu_without_a_gate(context: Any) -> Iterator[None]:
    """wgpu is taken for a backend that needs no judge."""
    code = "m.BACKENDS = {**m.BACKENDS, 'wgpu': m.BACKENDS['wgpu']._replace(gpu=False)}"
    with child_patch(context, "pv.backends.registry", code):
        yield


@contextlib.contextmanager
def rejected_and_served(context: Any) -> Iterator[None]:
    """wgpu is rejected in words, and serves all the same."""
    code = (
        "choose = m.choose\n"
        "kept = {}\n"
        "class Keeping:\n"
        "    def __init__(self, listener):\n"
        "        self.unavailable = listener.unavailable\n"
        "        self.rejected = listener.rejected\n"
        "        self._listener = listener\n"
        "    def opened(self, name, session):\n"
        "        kept[name] = session\n"
        "        self._listener.opened(name, session)\n"
        "m.close = lambda session: None\n"
        "def wrong(weights, prompt, choice, say, *a, **k):\n"
        "    chosen = choose(weights, prompt, choice, Keeping(say), *a, **k)\n"
        "    return kept.get('wgpu', chosen)\n"
        "m.choose = wrong\n"
    )
    with child_patch(context, "pv.backends.registry", code):
        yield


@falsifier(
    "FALSIFY-CPU-GPU-005",
    level="live",
    controls=[
        Control("wgpu without a gate", plant=wgpu_without_a_gate, breaks="lines_in_order"),
        Control("a gate that speaks under --verbose alone", plant=silent_gate, breaks="lines_in_order"),
        Control("rejected in words, served all the same", plant=rejected_and_served, breaks="answer_is_the_cpus"),
    ],
    attacks=["pv.parity.start.serve", "pv.backends.registry.choose", "pv.cli.run.run"],
    data=["src/pv/backends/shaders/*.wgsl"],
    timeout=600.0,
)
def the_way_down_to_the_cpu_is_seen(context: Any) -> list[Measurement]:
    """One run with CUDA (where there is one) and wgpu both defective, no --verbose."""
    plants = ("--plant-defect", "cuda=gate-up-swapped", "--plant-defect", "wgpu=gate-up-swapped")
    done, receipt = receipt_of(context, *plants, "--max-tokens", "12")
    lines = tagged(done)
    cuda = (
        r"CUDA path rejected, attempting fallback: "
        if context.cell.device.value == "cuda"
        else r"CUDA (path rejected|unavailable)"
    )
    order = (cuda, r"Backend: wgpu \(Vulkan, ", r"wgpu path rejected, attempting fallback: ", r"Backend: CPU$")
    wgpu = rejections(done, "wgpu")
    for line in lines:
        context.note(line)
    return [
        holds("lines_in_order", in_order(lines, *order)),
        holds("wgpu_rejection_has_numbers", bool(wgpu) and bool(wgpu[0].figures)),
        holds("answer_is_the_cpus", done.returncode == 0 and done.stdout == cpu_answer(context)),
        holds("cell_device_named", device_named(context, receipt)),
    ]


def device_named(context: Any, receipt: dict[str, Any]) -> bool:
    """Whether the run was about the cell's device: its class stands in the receipt of the rejected backend."""
    wanted, backend = context.cell.device.value, backend_of(context)
    subjects = [
        e["verdict"]["subject"]["adapter"] for e in receipt["events"] if e["backend"] == backend and e["verdict"]
    ]
    return any(adapter.split()[1] == wanted for adapter in subjects)


# --- 006: several steps -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_step_gate(context: Any) -> Iterator[None]:
    """The gate stops after the prompt."""
    with child_patch(context, "pv.parity.start", "m.STEPS = 1\nm.steps_from = lambda *a: 1"):
        yield


@contextlib.contextmanager
def prompt_every_time(context: Any) -> Iterator[None]:
    """The steps are prefills of a longer prompt each, so the cache is never read: nothing grows in it."""
    code = (
        "first = m._first\n"
        "class Again:\n"
        "    def __init__(self, test, tokens):\n"
        "        self.test, self.tokens, self.facts = test, list(tokens), test.facts\n"
        "    def decode(self, token):\n"
        "        self.tokens.append(token)\n"
        "        return first(self.test, self.tokens)\n"
        "    def prefill(self, tokens):\n"
        "        return self.test.prefill(tokens)\n"
        "    def reset(self):\n"
        "        self.test.reset()\n"
        "walk = m.lockstep\n"
        "m.lockstep = lambda r, test, tokens, *a, **k: walk(r, Again(test, tokens), tokens, *a, **k)\n"
    )
    with child_patch(context, "pv.parity.gate", code):
        yield


@falsifier(
    "FALSIFY-CPU-GPU-006",
    level="live",
    controls=[
        Control("a gate of one step", plant=one_step_gate, breaks="rejected"),
        Control("a gate that never decodes", plant=prompt_every_time, breaks="rejected"),
    ],
    attacks=["pv.parity.gate.lockstep", "pv.parity.start.serve"],
    data=["src/pv/backends/shaders/*.wgsl"],
    timeout=600.0,
)
def what_grows_in_the_cache_is_seen(context: Any) -> list[Measurement]:
    """Keys and values one slot too far after the prompt: step 0 is right, step 1 is not."""
    backend, title = backend_of(context), title_of(context)
    plant = ("--plant-defect", f"{backend}=kv-slot-late")
    done, receipt = receipt_of(context, "--backend", backend, *plant, "--max-tokens", "12")
    found = rejections(done, title)
    verdicts = [e["verdict"] for e in receipt["events"] if e["backend"] == backend and e["verdict"]]
    steps = verdicts[0]["steps"] if verdicts else []
    at = found[0].figures.get("step", "-1") if found else "-1"
    for one in found:
        context.note(one.line)
    return [
        holds("rejected", len(found) == 1),
        measure("rejecting_step", int(at), unit="steps"),
        measure("cosine_at_step_0", float(steps[0]["cosine"]) if steps else float("nan")),
        measure("steps_asked", verdicts[0]["subject"]["steps"] if verdicts else 0, unit="steps"),
    ]


# --- 007: no false alarms ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def over_strict(context: Any) -> Iterator[None]:
    """The bounds are below float32's own rounding."""
    from pv.parity import gate

    strict = {k: replace(r, logits=replace(r.logits, max_abs=1e-9)) for k, r in gate.THRESHOLDS.items()}
    with patched(gate, "THRESHOLDS", strict):
        yield


@contextlib.contextmanager
def observed_error_rule(context: Any) -> Iterator[None]:
    """The near-tie rule takes the observed error for its bound, which no flip can break."""

    def tautology(test: np.ndarray, reference: np.ndarray, row: Row) -> Any:
        flip = judge_flip(test, reference, row)
        first, second = flip.reference, flip.test
        bound = abs(test[first] - reference[first]) + abs(test[second] - reference[second])
        return flip._replace(bound=float(bound), tolerated=flip.margin <= bound)

    with patched_rule(tautology):
        yield


@contextlib.contextmanager
def no_tolerance(context: Any) -> Iterator[None]:
    """Any other first token rejects."""
    with patched_rule(
        lambda test, reference, row: (f := judge_flip(test, reference, row))._replace(tolerated=f.reference == f.test)
    ):
        yield


@contextlib.contextmanager
def start_token_alone(context: Any) -> Iterator[None]:
    """The gate looks at the start token whatever the prompt is."""
    with child_patch(context, "pv.parity.gate", "m.probe = lambda prompt, start_token=0: [start_token]"):
        yield


_RULE: ContextVar[Callable[..., Any]] = ContextVar("the near-tie rule", default=judge_flip)


@contextlib.contextmanager
def patched_rule(rule: Callable[..., Any]) -> Iterator[None]:
    """Inside, this is the near-tie rule, of the gate too."""
    from pv.parity import gate

    with holding(_RULE, rule), patched(gate, "judge_flip", rule):
        yield


@falsifier(
    "FALSIFY-CPU-GPU-007",
    level="live",
    controls=[
        Control("bounds below float32's rounding", plant=over_strict, breaks="false_alarms"),
        Control("a near-tie rule that cannot fail", plant=observed_error_rule, breaks="tail_tokens_tolerated"),
        Control("no near tie is tolerated", plant=no_tolerance, breaks="near_ties_tolerated"),
        Control("a probe of the start token alone", plant=start_token_alone, breaks="prompt_tokens_left_out"),
    ],
    attacks=["pv.parity.gate.lockstep", "pv.parity.near_tie.judge_flip", "pv.parity.start.serve"],
    data=["src/pv/backends/shaders/*.wgsl"],
    timeout=900.0,
)
def healthy_backends_are_left_alone(context: Any) -> list[Measurement]:
    """The start gate over 299 prompts of the healthy backend, the near-tie rule on made logits, and one real start."""
    from pv.model.open import open_model

    model = open_model(context.subject_path("tiny-teacher"))
    count = 10 if context.control else HEALTHY_PROMPTS
    prompts = healthy_prompts(count, model.spec.vocab, model.tokenizer.encode)
    test = opened(context, backend_of(context), model.weights, "")
    try:
        healthy = false_alarms(
            test, model.weights, prompts, STEPS, lambda done, what: context.progress(done, count, what)
        )
    finally:
        test.close()
    for alarm in healthy.alarms[:5]:
        context.note(alarm)
    if healthy.alarms and not context.control:
        first = prompts[int(healthy.alarms[0].removeprefix("prompt ").partition(":")[0])]
        accuse(context, Ground(model.weights, model.weights, ()), probe(first))
    row = THRESHOLDS[Kind.CUDA if backend_of(context) == "cuda" else Kind.WGPU]
    near, tail = made_flips(row)
    asked = len(probe(model.tokenizer.encode(PROMPT)))
    _, receipt = receipt_of(context, "--backend", backend_of(context), "--max-tokens", "1", "--fresh")
    compared_tokens = [e["verdict"]["subject"]["tokens"] for e in receipt["events"] if e["verdict"]]
    context.note(
        f"lowest cosine {healthy.lowest_cosine:.9f}, largest max |d| {healthy.largest_max_abs:.2g}, "
        f"{healthy.near_ties} near ties, false alarm rate below {healthy.bound:.2%} at 95 %"
    )
    return [
        measure("false_alarms", len(healthy.alarms), unit="prompts", n=count),
        measure("prompts", healthy.prompts, unit="prompts"),
        measure("near_ties_tolerated", float(np.mean(near)), unit="share", n=len(near)),
        measure("tail_tokens_tolerated", float(np.mean(tail)), unit="share", n=len(tail)),
        measure("prompt_tokens_left_out", asked - (compared_tokens[0] if compared_tokens else 0), unit="tokens"),
    ]


def made_flips(row: Row) -> tuple[list[bool], list[bool]]:
    """Tolerance of flips between the two likeliest tokens within the bound, and of flips to a token of the tail."""
    random = np.random.default_rng(0)
    near, tail = [], []
    margin = float(row.margin or 0.0)
    for _ in range(200):
        reference = random.standard_normal(512).astype(np.float32)
        first, second, third = np.argsort(-reference)[:3]
        reference[first] = reference[third] + 3.0
        reference[second] = reference[first] - np.float32(0.9 * margin * random.random())
        flipped = reference.copy()
        flipped[second] = reference[first] + np.float32(0.01 * margin)
        near.append(bool(_RULE.get()(flipped, reference, row).tolerated))
        far = reference.copy()
        far[third] = reference[first] + np.float32(0.01 * margin)
        tail.append(bool(_RULE.get()(far, reference, row).tolerated))
    return near, tail


# --- 011: the graph is the eager step ---------------------------------------------------------------------------------


@contextlib.contextmanager
def graph_lacks_a_kernel(context: Any) -> Iterator[None]:
    """A product is missing from the recorded graph; the eager step is whole."""
    with holding(_DEFECT, "capture-kernel-missing"):
        yield


@contextlib.contextmanager
def nothing_is_replayed(context: Any) -> Iterator[None]:
    """Both sides run eagerly, so of course they agree."""
    from pv.backends import cuda

    def eager(self: Any, token: int) -> Any:
        return self._fetch(self._forward(self._token.fill_(token), None, None))

    with patched(cuda.CudaSession, "_replay", eager):
        yield


@falsifier(
    "FALSIFY-CPU-GPU-011",
    level="live",
    controls=[
        Control("a graph that lacks a kernel", plant=graph_lacks_a_kernel, breaks="differing_logits", cells=("cuda",)),
        Control("nothing is replayed", plant=nothing_is_replayed, breaks="steps_replayed", cells=("cuda",)),
    ],
    attacks=["pv.backends.cuda.CudaSession.decode", "pv.backends.cuda.CudaSession.decode_eagerly"],
    timeout=900.0,
)
def a_replay_is_the_eager_step(context: Any) -> list[Measurement]:
    """Two sessions, one replaying and one eager, the same tokens, every logit compared bit by bit."""
    ground, steps = ground_of(context), 24
    tokens = ground.prompts[0]
    replaying = opened(context, "cuda", ground.gpu, _DEFECT.get())
    differing, replayed = 0, 0
    try:
        answers = []
        for eager in (False, True):
            replaying.reset()
            logits = [replaying.prefill(tokens)]
            for number in range(steps):
                token = (int(tokens[number % len(tokens)]) * 31 + number) % ground.gpu.spec.vocab
                before = getattr(replaying, "replayed", 0)
                step: Callable[[int], np.ndarray] = replaying.decode_eagerly if eager else replaying.decode  # type: ignore[attr-defined]
                logits.append(step(token))
                replayed += 0 if eager else getattr(replaying, "replayed", 0) - before
            answers.append(np.stack(logits))
        differing = int((answers[0].view(np.uint32) != answers[1].view(np.uint32)).sum())
    finally:
        replaying.close()
    caught = compared(context, ground, "capture-kernel-missing")
    context.note(f"{answers[0].size} logits compared; a graph without a kernel: {caught[0].reason or 'accepted'}")
    return [
        measure("differing_logits", differing, unit="values", n=answers[0].size),
        measure("steps_replayed", replayed, unit="steps"),
        holds("graph_without_a_kernel_rejected", not any(verdict.accepted for verdict in caught), n=len(caught)),
    ]
