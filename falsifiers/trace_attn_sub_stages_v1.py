"""Attention can be looked into, and a defect in it is found where it is: the claims of that contract, attacked."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pv.falsify import Blocked, Control, Measurement, falsifier, measure

from ._commands import call, must
from ._plant import patched
from ._trace import PROMPT, captured, files_of, grafted, stage_of, teacher, values_of

OLD = (
    "embedding", "attn_norm", "qkv_matmul", "qkv_bias", "q_post_rope", "k_post_rope", "attention", "attn_out",
    "post_attn_residual", "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out", "post_ffn_residual",
    "final_norm", "lm_head",
)  # fmt: skip
CHAIN = (
    "attn_norm", "qkv_matmul", "qkv_bias", "q_post_rope", "k_post_rope", "attn_scores", "attn_softmax", "attention",
    "attn_out",
)  # fmt: skip
# Where a stage of the chain has one input, that input; scores have two, the context has the values beside the softmax.
LINEAR = {
    "qkv_matmul": "attn_norm", "qkv_bias": "qkv_matmul", "q_post_rope": "qkv_bias", "k_post_rope": "qkv_bias",
    "attn_softmax": "attn_scores", "attn_out": "attention",
}  # fmt: skip


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest, read without pv."""
    data: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    return data


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """Path -> values in their shape, float64, read without pv."""
    shapes = {entry["path"]: entry["shape"] for entry in manifest_of(folder)["files"]}
    return {p: values_of(content).astype(np.float64).reshape(shapes[p]) for p, content in files_of(folder).items()}


# --- 001: twenty stages -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def maps_are_listed_and_not_taken(context: Any) -> Iterator[None]:
    """What happened once: stages that stand in the list and are never emitted."""
    from pv.trace import stages

    healthy = stages.parse_stages

    def parse(text: str) -> Any:
        choice = healthy(text)
        return choice._replace(stages=tuple(s for s in choice.stages if s not in stages.ATTENTION_MAPS))

    with patched(stages, "parse_stages", parse):
        yield


@contextlib.contextmanager
def maps_at_the_end(context: Any) -> Iterator[None]:
    """The two younger stages are appended to the list instead of standing where they are computed."""
    from pv.trace import stages

    moved = dict(stages.CANONICAL)
    moved |= {stage: 100 + place for place, stage in enumerate(stages.ATTENTION_MAPS)}
    healthy = stages.parse_stages

    def parse(text: str) -> Any:
        choice = healthy(text)
        return choice._replace(stages=tuple(sorted(choice.stages, key=moved.__getitem__)))

    with patched(stages, "CANONICAL", moved), patched(stages, "parse_stages", parse):
        yield


@contextlib.contextmanager
def case_matters(context: Any) -> Iterator[None]:
    from pv.model.stages import Stage
    from pv.trace import stages

    with patched(stages, "parse_stage", Stage):
        yield


@falsifier(
    "FALSIFY-ATTN-SUB-001",
    level="live",
    controls=[
        Control(
            "the maps are in the list and never taken", plant=maps_are_listed_and_not_taken, breaks="stages_captured"
        ),
        Control("the maps stand at the end", plant=maps_at_the_end, breaks="out_of_order"),
        Control("names are case-sensitive", plant=case_matters, breaks="names_that_parse_back"),
    ],
    attacks=["pv.trace.stages.parse_stages", "pv.trace.plan.Plan.places"],
)
def twenty_stages(context: Any) -> list[Measurement]:
    """A capture of `all`, one layer; then each name on its own, in three spellings."""
    places = [
        stage_of(e["path"])
        for e in manifest_of(captured(context, "all", "--save-tensor", "all", "--layer", "0"))["files"]
    ]
    canonical = list(OLD)
    canonical[6:6] = ["attn_scores", "attn_softmax"]
    in_order = [name for name in canonical if name in places]
    return [
        measure("stages_captured", len(set(places) & set(canonical)), unit="stages"),
        measure("out_of_order", sum(a != b for a, b in zip(places, in_order, strict=False)), unit="stages", n=20),
        measure(
            "names_that_parse_back", sum(_parses(w, n) for n in canonical for w in _spellings(n)), unit="names", n=60
        ),
        measure("old_names_kept", len(set(places) & set(OLD)), unit="names"),
    ]


def _spellings(name: str) -> tuple[str, str, str]:
    return name, name.upper(), name.title()


def _parses(word: str, name: str) -> bool:
    from pv.trace import stages

    try:
        return [s.value for s in stages.parse_stages(word).stages] == [name]
    except ValueError:
        return False


# --- 002: the forward emits the maps ----------------------------------------------------------------------------------


@contextlib.contextmanager
def scores_after_the_mask(context: Any) -> Iterator[None]:
    """attn_scores is taken after the mask: -inf above the diagonal, as some libraries have it."""

    def masked(stage: Any, layer: Any, x: Any) -> Any:
        if stage != "attn_scores":
            return x
        keep = torch.ones(x.shape[-2:], dtype=torch.bool).tril()
        return x.masked_fill(~keep, float("-inf"))

    with grafted(masked):
        yield


@contextlib.contextmanager
def wrong_key_heads(context: Any) -> Iterator[None]:
    """Query heads look at the next key-value head: the values of the maps are of other heads."""
    with grafted(lambda stage, layer, x: x.roll(1, 0) if stage == "attn_scores" else x):
        yield


@contextlib.contextmanager
def unnormed_softmax(context: Any) -> Iterator[None]:
    """The maximum is subtracted and the sum is taken over one key too few."""
    with grafted(lambda stage, layer, x: x * 1.001 if stage == "attn_softmax" and layer == 3 else x):
        yield


@contextlib.contextmanager
def stages_out_of_turn(context: Any) -> Iterator[None]:
    """The tap of the softmax is served before that of the scores."""
    from pv.model.forward import Eyes

    healthy = Eyes.slots
    held: list[Any] = []

    def slots(self: Any, stage: Any, layer: int, x: Any, filled: int) -> Any:
        if stage == "attn_scores" and self._tap is not None:
            held.append((stage, layer, x, filled))
            return x
        looked = healthy(self, stage, layer, x, filled)
        while held:
            healthy(self, *held.pop())
        return looked

    with patched(Eyes, "slots", slots):
        yield


@falsifier(
    "FALSIFY-ATTN-SUB-002",
    level="live",
    controls=[
        Control("scores are taken after the mask", plant=scores_after_the_mask, breaks="worst_scores_error"),
        Control("maps are of other heads", plant=wrong_key_heads, breaks="worst_scores_error"),
        Control("rows of the softmax do not sum to 1", plant=unnormed_softmax, breaks="worst_row_sum_error"),
        Control("the softmax is tapped before the scores", plant=stages_out_of_turn, breaks="out_of_order"),
    ],
    attacks=["pv.model.forward.hidden_states", "pv.model.operators.scores", "pv.model.operators.softmax"],
)
def the_forward_emits_the_maps(context: Any) -> list[Measurement]:
    """Scores from the captured q and k, softmax from the captured scores, both again in float64 with numpy alone."""
    from pv.trace.capture import CaptureTap

    asked = "q_post_rope,k_post_rope,attn_scores,attn_softmax,attention,attn_out"
    turns: list[tuple[int, str]] = []
    healthy = CaptureTap.take

    def take(self: Any, stage: Any, layer: Any, values: Any) -> None:
        turns.append((layer, str(stage)))
        healthy(self, stage, layer, values)

    with patched(CaptureTap, "take", take):
        found = tensors_of(captured(context, "maps", "--save-tensor", asked))
    right = row_sum = scores_error = softmax_error = 0.0
    for layer in range(4):
        q, k, scores, softmax = (
            found[f"layer-{layer}/{stage}.bin"]
            for stage in ("q_post_rope", "k_post_rope", "attn_scores", "attn_softmax")
        )
        tokens = len(q)
        right += (scores.shape == (8, tokens, tokens)) + (softmax.shape == (8, tokens, tokens))
        row_sum = max(row_sum, float(np.abs(softmax.sum(-1) - 1).max()))
        scores_error = max(scores_error, _rel_l2(scores, _scores(q, k)))
        softmax_error = max(softmax_error, _rel_l2(softmax, _softmax(scores)))
    in_order = sorted(turns, key=lambda turn: (turn[0], asked.split(",").index(turn[1])))
    return [
        measure("maps_of_right_shape", right, unit="files", n=8),
        measure("worst_row_sum_error", row_sum, n=8),
        measure("worst_scores_error", scores_error, n=8),
        measure("worst_softmax_error", softmax_error, n=8),
        measure("out_of_order", sum(a != b for a, b in zip(turns, in_order, strict=True)), unit="stages", n=len(turns)),
    ]


def _scores(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """(T, 8 x 32) and (T, 2 x 32) -> (8, T, T); four query heads share a key head."""
    q, k = q.reshape(-1, 8, 32), k.reshape(-1, 2, 32)
    return np.einsum("tgid,sgd->gits", q.reshape(-1, 2, 4, 32), k).reshape(8, len(q), len(k)) / np.sqrt(32)


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Causal softmax over the last axis."""
    visible = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    exponents = np.exp(visible - visible.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def _rel_l2(x: np.ndarray, r: np.ndarray) -> float:
    """The worst row's relative L2; infinite where x is not finite."""
    if not np.isfinite(x).all():
        return float("inf")
    return float((np.linalg.norm(x - r, axis=-1) / np.linalg.norm(r, axis=-1)).max())


# --- 003: the diff has no favourites ----------------------------------------------------------------------------------


def lenient(name: str) -> Callable[[Any], contextlib.AbstractContextManager[None]]:
    """A control's `plant`: the comparison lets one stage pass by its name."""

    @contextlib.contextmanager
    def plant(context: Any) -> Iterator[None]:
        from dataclasses import replace

        from pv.compare import tensors

        healthy = tensors.diff_tensor

        def diff_tensor(reference: Any, test: Any, *more: Any, **named: Any) -> Any:
            found = healthy(reference, test, *more, **named)
            return replace(found, breaches=()) if name in reference.name else found

        with patched(tensors, "diff_tensor", diff_tensor):
            yield

    return plant


@falsifier(
    "FALSIFY-ATTN-SUB-003",
    level="live",
    controls=[
        Control("ffn_silu is let pass by its name", plant=lenient("ffn_silu"), breaks="different_reports"),
        Control("a stage of a capture is let pass", plant=lenient("attn_softmax"), breaks="stages_reported"),
    ],
    attacks=["pv.compare.tensors.diff_tensor", "pv.cli.diff.diff"],
)
def the_diff_has_no_favourites(context: Any) -> list[Measurement]:
    """One pair of tensors under twenty-one names; then a capture in which every stage is a little off."""
    plain = captured(context, "plain", "--save-tensor", "all")
    with grafted(lambda stage, layer, x: x * 1.0001):
        moved = captured(context, "moved", "--save-tensor", "all")
    names = [*dict.fromkeys(stage_of(path) for path in files_of(plain)), "no_stage_at_all"]
    reports = set()
    for name in names:
        pair = [context.scratch / side / f"{name}.bin" for side in ("r", "x")]
        for path, folder in zip(pair, (plain, moved), strict=True):
            path.parent.mkdir(exist_ok=True)
            shutil.copy(folder / "layer-1" / "ffn_gate.bin", path)
        ran = call("diff", *pair, "--output-format", "json")
        told = {k: v for k, v in json.loads(ran.out).items() if k not in {"name", "reference", "test"}}
        reports.add((ran.code, json.dumps(told, sort_keys=True)))
    beyond = json.loads(call("diff", plain, moved, "--output-format", "json").out)["tensors"]
    return [
        measure("different_reports", len(reports) - 1, unit="names", n=len(names)),
        measure("names_tried", len(names), unit="names"),
        measure("stages_reported", len(_always_beyond(beyond)), unit="stages", n=len(beyond)),
    ]


def _always_beyond(tensors: list[dict[str, Any]]) -> set[str]:
    """The stages that are reported in every layer."""
    passed = {t["stage"] for t in tensors if t["ok"]}
    return {t["stage"] for t in tensors} - passed


# --- 004: the guilty stage is found -----------------------------------------------------------------------------------


class Ground:
    """What the checks of this claim may have changed under them by a planted defect."""

    prompt = PROMPT


@contextlib.contextmanager
def a_single_token(context: Any) -> Iterator[None]:
    """The prompt is one token long: the softmax is 1 and the rotation the identity, whatever is wrong with them."""
    with patched(Ground, "prompt", "What"):
        yield


@contextlib.contextmanager
def blame_by_cosine_alone(context: Any) -> Iterator[None]:
    """The first stage whose cosine is low is blamed; no stage is looked at given equal inputs."""
    from pv.compare.bisect import Verdict
    from pv.trace import bisection

    healthy = bisection.bisect_captures

    def bisect_captures(pair: Any, kind: Any, shadow: Any = None, why_none: str = "") -> Any:
        found = healthy(pair, kind, None, why_none)
        low = next((o.node for o in reversed(found.observations) if o.total.cosine < 0.999), None)
        guilty = () if low is None else (low,)
        return found._replace(finding=_with(found.finding, guilty, Verdict.BUG if guilty else Verdict.AGREE))

    with patched(bisection, "bisect_captures", bisect_captures):
        yield


def _with(finding: Any, guilty: tuple[Any, ...], verdict: Any) -> Any:
    from dataclasses import replace

    return replace(finding, guilty=guilty, verdict=verdict)


@contextlib.contextmanager
def an_engine_with_another_rope_base(context: Any) -> Iterator[None]:
    """The engine rotates with another base, in its captures and in the shadow that judges them."""
    from dataclasses import replace

    from pv.backends import torch_session

    tables = torch_session.RopeTables
    other = staticmethod(lambda spec, *more: tables.build(replace(spec, rope_theta=spec.rope_theta * 1.5), *more))
    with patched(torch_session, "RopeTables", type("Tables", (), {"build": other})):
        yield


@contextlib.contextmanager
def half_precision_engine(context: Any) -> Iterator[None]:
    """The engine's attention rounds its results to bfloat16."""
    with grafted(lambda stage, layer, x: x.bfloat16().float() if stage in CHAIN else x):
        yield


@falsifier(
    "FALSIFY-ATTN-SUB-004",
    level="live",
    controls=[
        Control("a prompt of one token", plant=a_single_token, breaks="stages_named"),
        Control("the last stage of low cosine is blamed", plant=blame_by_cosine_alone, breaks="stages_named"),
        Control("the engine rotates with another base", plant=an_engine_with_another_rope_base, breaks="false_alarms"),
        Control("the engine rounds to bfloat16", plant=half_precision_engine, breaks="worst_healthy_rel_l2"),
    ],
    attacks=["pv.trace.bisection.bisect_captures", "pv.compare.bisect.bisect", "pv.trace.oracle.Oracle.capture"],
    timeout=300,
)
def the_guilty_stage_is_found(context: Any) -> list[Measurement]:
    """Transformers' capture against ours, healthy and with each stage of the chain turned in turn."""
    oracle = _oracle(context)
    healthy = captured(context, "healthy", "--save-tensor", "all", prompt=Ground.prompt)
    alarms = json.loads(call("bisect", oracle, healthy, "--json").out)
    cosines = [_cosine(oracle, healthy, stage) for stage in CHAIN]
    errors = [_error(oracle, healthy, stage) for stage in CHAIN]
    named = adjacent = 0
    for at, stage in enumerate(CHAIN):
        context.progress(at, len(CHAIN), stage)
        with grafted(lambda s, n, x, stage=stage: x.roll(1, -1) if (s, n) == (stage, 0) else x):
            folder = captured(context, stage, "--save-tensor", "all", prompt=Ground.prompt)
        found = json.loads(call("bisect", oracle, folder, "--json").out)
        named += [(g["stage"], g["layer"]) for g in found["guilty"]] == [(stage, 0)]
        before = LINEAR.get(stage)
        adjacent += before is not None and _cosine(oracle, folder, before) >= 0.999 > _cosine(oracle, folder, stage)
    agreed = not alarms["guilty"] and min(cosines) >= 0.999
    if not agreed:
        context.note(alarms["sentence"])
        context.note(f"again: {AGAIN.format(prompt=Ground.prompt)}")
    context.agree("hf", manifest_of(oracle)["provenance"]["transformers"], agreed)
    return [
        measure("stages_named", named, unit="stages", n=len(CHAIN)),
        measure("adjacent_pairs", adjacent, unit="pairs", n=len(LINEAR)),
        measure("false_alarms", len(alarms["guilty"]), unit="stages", n=len(alarms["stages"])),
        measure("worst_healthy_cosine", min(cosines), n=len(CHAIN)),
        measure("worst_healthy_rel_l2", max(errors), n=len(CHAIN)),
    ]


AGAIN = """\
pv trace fixtures/tiny-teacher --prompt "{prompt}" --save-tensor all --source hf --output oracle && \
pv trace fixtures/tiny-teacher --prompt "{prompt}" --save-tensor all --output ours && \
pv bisect oracle ours"""


def _oracle(context: Any) -> Path:
    """Transformers' own capture of the prompt. Blocked where Transformers is not installed."""
    folder: Path = context.scratch / "oracle"
    asked = ("--prompt", Ground.prompt, "--save-tensor", "all", "--source", "hf", "--output", folder)
    ran = call("trace", teacher(context), *asked)
    if ran.code == 4:
        raise Blocked("Transformers: pip install 'provable-contracts-pv[oracle]'")
    must(ran)
    return folder


def _sides(reference: Path, test: Path, stage: str) -> tuple[np.ndarray, np.ndarray]:
    """A stage of layer 0 on both sides as rows, float64, read without pv."""
    path = f"layer-0/{stage}.bin"
    shape = next(e["shape"] for e in manifest_of(reference)["files"] if e["path"] == path)
    r, x = (
        values_of((folder / path).read_bytes()).astype(np.float64).reshape(-1, shape[-1])
        for folder in (reference, test)
    )
    return r, x


def _cosine(reference: Path, test: Path, stage: str) -> float:
    """The worst position's cosine."""
    r, x = _sides(reference, test, stage)
    return float(((r * x).sum(-1) / (np.linalg.norm(r, axis=-1) * np.linalg.norm(x, axis=-1))).min())


def _error(reference: Path, test: Path, stage: str) -> float:
    """The worst position's relative L2."""
    r, x = _sides(reference, test, stage)
    return _rel_l2(x, r)


# --- 005: looking changes nothing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def tap_that_rounds(context: Any) -> Iterator[None]:
    """The tap is handed the tensor itself and rounds it in place: what aliasing does, sooner or later."""
    from pv.model import forward

    healthy = forward.copied

    def copied(x: torch.Tensor) -> np.ndarray:
        if x.ndim > 1:
            x.copy_(x.half().float())
        return healthy(x)

    with patched(forward, "copied", copied):
        yield


@contextlib.contextmanager
def everything_is_copied(context: Any) -> Iterator[None]:
    """Every stage is copied before anybody is asked whether it is wanted."""
    from pv.model import forward

    healthy = forward.Eyes.__call__

    def look(self: Any, stage: Any, layer: Any, x: Any) -> Any:
        if self._tap is not None:
            forward.copied(x)
        return healthy(self, stage, layer, x)

    with patched(forward.Eyes, "__call__", look):
        yield


PROMPTS = (PROMPT, "What is 31+46?", "2", "One two three four five six seven eight nine ten", "Is it true? 9+9=18")
PLANS = (
    ("all", "all"),
    ("attn_scores,attn_softmax", "0,2"),
    ("lm_head", "all"),
    ("ffn_gate,embedding,final_norm", "3"),
)


@falsifier(
    "FALSIFY-ATTN-SUB-005",
    level="live",
    controls=[
        Control("a tap rounds what it is shown", plant=tap_that_rounds, breaks="runs_that_differ"),
        Control("every stage is copied, asked for or not", plant=everything_is_copied, breaks="copies_unasked"),
    ],
    attacks=["pv.model.forward.forward", "pv.trace.capture.CaptureTap", "pv.model.forward.copied"],
)
def looking_changes_nothing(context: Any) -> list[Measurement]:
    """Prompt and four greedy steps, with a tap in each and without; copies are counted where they are made."""
    from pv.backends.cpu import open_cpu
    from pv.model import forward
    from pv.model.open import open_model
    from pv.trace.capture import CaptureWriter
    from pv.trace.plan import make_plan
    from pv.trace.stages import parse_numbers, parse_stages

    model = open_model(teacher(context))
    session = open_cpu(model.weights)
    differ = unasked = runs = 0
    for prompt in PROMPTS:
        tokens = model.tokenizer.encode(prompt)
        plain = _generate(session, tokens, None)
        for number, (stages, layers) in enumerate(PLANS):
            plan = make_plan(parse_stages(stages), model.spec, layers=parse_numbers(layers, "layer"))
            folder = context.scratch / f"{runs}-{number}"
            folder.mkdir()
            writer = CaptureWriter(folder, plan, model.spec, len(tokens))
            with counted(forward, "copied") as copies:
                looked = _generate(session, tokens, writer.tap())
            runs += 1
            differ += looked != plain
            unasked += copies[0] - 5 - len(plan.places())  # 5: the logits that five calls return
    return [
        measure("runs_that_differ", differ, unit="runs", n=runs),
        measure("runs_compared", runs, unit="runs"),
        measure("copies_unasked", unasked, unit="tensors", n=runs),
    ]


def _generate(session: Any, tokens: list[int], tap: Any) -> tuple[bytes, ...]:
    """Logits of the prompt (tapped) and of four greedy steps, as bytes: their argmax are the tokens."""
    session.reset()
    logits = session.prefill(tokens, tap)
    found = [logits.tobytes()]
    for _ in range(4):
        logits = session.decode(int(np.argmax(logits)))
        found.append(logits.tobytes())
    return tuple(found)


@contextlib.contextmanager
def counted(owner: Any, name: str) -> Iterator[list[int]]:
    """How often `owner.name` is called inside, wherever the engine holds it."""
    from pv.backends import torch_session

    healthy, count = getattr(owner, name), [0]

    def counting(*given: Any) -> Any:
        count[0] += 1
        return healthy(*given)

    with patched(owner, name, counting), patched(torch_session, name, counting):
        yield count
