"""Transformers' own Qwen2 on the same weights -> a capture in the same form as ours.

Independent code: nothing of `pv.model.forward` runs here. Seventeen stages come from module hooks; the four that only
exist inside the attention (q_post_rope, k_post_rope, attn_scores, attn_softmax) come from a registered attention
function that records and then delegates to Transformers' own eager one, which changes no bit of the result. A custom
attention function without its mask function is silently non-causal, so both are registered, and every capture proves
causality, the RoPE base and a bitwise equal embedding before it is believed.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pv.backends.protocol import BackendError
from pv.model.stages import Stage
from pv.trace.capture import Captured, CaptureWriter, Origin, Progress, staged
from pv.trace.manifest import CaptureError
from pv.trace.plan import Plan, refuse_oversized_maps
from pv.trace.stages import NEED_ATTENTION_INSIDE

if TYPE_CHECKING:
    from pv.backends.protocol import Tap
    from pv.model.open import Model

ATTENTION = "pv_tapped_eager"
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_RECORDER = "_pv_recorder"  # attribute of an instrumented attention module


class OracleError(CaptureError):
    """The oracle failed a self-test, or Transformers did not load the very model: nothing it says may be believed."""


@dataclass(frozen=True, slots=True)
class SelfTests:
    """What was proven before a capture. `causality_shift`: largest move of an earlier logit, relative to their size."""

    causality_shift: float
    rope_theta: float
    embedding_bitwise: bool
    taps_bitwise: bool  # logits with taps equal those of the plain eager attention, bit for bit


class Top(NamedTuple):
    """First-token argmax and the five largest logits, largest first."""

    argmax: int
    tokens: tuple[int, ...]
    logits: tuple[float, ...]


class Oracle:
    """Transformers' Qwen2 for one model, eager, on one device, in one dtype."""

    def __init__(self, model: Model, *, dtype: str = "float32", device: str = "cpu") -> None:
        """Load the model. Raises OracleError unless every weight was loaded and none was left over."""
        if dtype not in DTYPES:
            raise CaptureError(f"expected a dtype of {', '.join(DTYPES)} for the oracle, got {dtype!r}")
        self.model, self.dtype, self.device = model, dtype, device
        self._transformers = _transformers()
        _register(self._transformers)
        self._net = self._load()
        self._sources = importlib.import_module("transformers.models.qwen2.modeling_qwen2")

    def capture(
        self,
        tokens: Sequence[int],
        plan: Plan,
        output: Path,
        *,
        prompt: str = "",
        feed: Sequence[int] = (),
        progress: Progress | None = None,
    ) -> Captured:
        """Self-test, run the prompt (and decode steps), and capture what the plan asks. See `pv.trace.capture`.

        Stages of the attention's inside that the plan does not ask for leave the attention function unregistered.
        Raises OracleError when a self-test fails, CaptureError when the capture cannot be written.
        """
        from pv.backends.torch_session import check_tokens

        spec = self.model.spec
        check_tokens(spec, tokens, 0)
        refuse_oversized_maps(plan, spec, len(tokens))
        tests = self.self_test(tokens, substages=any(stage in NEED_ATTENTION_INSIDE for stage in plan.stages))
        left_out = tuple(s.value for s in NEED_ATTENTION_INSIDE if s not in plan.stages)
        with (
            staged(output, plan, spec, len(tokens)) as folder,
            CaptureWriter(folder, plan, spec, len(tokens), progress) as writer,
        ):
            logits, decoded = self._run(tokens, plan, writer, feed)
            manifest = writer.finish(self._origin(tests, logits, prompt, left_out), tokens, decoded)
        return Captured(output, manifest, logits, tuple(decoded))

    def logits(self, tokens: Sequence[int], *, tap: Tap | None = None, attention: str = ATTENTION) -> np.ndarray:
        """Logits of every position, float32, (T, V), in one forward without a cache."""
        self._net.set_attn_implementation(attention)
        with torch.inference_mode(), self._tapped(tap):
            found = self._net(input_ids=self._ids(tokens), use_cache=False).logits[0]
        values: np.ndarray = found.float().cpu().numpy()
        return values

    def self_test(self, tokens: Sequence[int], *, substages: bool = True) -> SelfTests:
        """Prove causality, RoPE base, embedding and inert taps. Raises OracleError naming what failed."""
        tests = SelfTests(
            self._causality_shift(tokens),
            self._rope_theta(),
            self._embedding_is_bitwise(tokens),
            not substages or self._taps_are_inert(tokens),
        )
        bound = 1e-4 if self.dtype == "float32" else 2e-2
        if not tests.causality_shift <= bound:
            raise OracleError(
                f"the oracle is not causal: another last token moved earlier logits by {tests.causality_shift:.3g} of "
                "their size",
                f"is a mask function registered for {ATTENTION!r}?",
            )
        wanted = self.model.spec.rope_theta
        if abs(tests.rope_theta / wanted - 1) > 1e-4:
            raise OracleError(
                f"the oracle's RoPE base is {tests.rope_theta:g}, expected {wanted:g}",
                "config.json must state rope_theta in both spellings; Transformers 4 takes 10000 otherwise",
            )
        if not tests.embedding_bitwise:
            raise OracleError("the oracle's embedding is not bitwise equal to ours: it holds other weights")
        if not tests.taps_bitwise:
            raise OracleError("the oracle's logits change when it is tapped: its captures say nothing")
        return tests

    def _load(self) -> Any:
        path, t = self.model.path, self._transformers
        where = {"gguf_file": path.name} if path.is_file() else {}
        folder = path.parent if path.is_file() else path
        dtype = {"dtype" if int(t.__version__.split(".")[0]) >= 5 else "torch_dtype": DTYPES[self.dtype]}
        net, info = t.Qwen2ForCausalLM.from_pretrained(
            folder, attn_implementation="eager", local_files_only=True, output_loading_info=True, **where, **dtype
        )
        wrong = {k: sorted(map(str, v)) for k, v in info.items() if v and k != "error_msgs"}
        if self.model.spec.tied:
            wrong = {k: left for k, v in wrong.items() if (left := [n for n in v if n != "lm_head.weight"])}
        if wrong:
            raise OracleError(f"Transformers did not load {path} whole: {wrong}")
        return net.eval().to(self.device)

    def _ids(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(tokens)], dtype=torch.int64, device=self.device)

    def _run(
        self, tokens: Sequence[int], plan: Plan, writer: CaptureWriter, feed: Sequence[int]
    ) -> tuple[np.ndarray, list[int]]:
        """Prefill, then decode steps with Transformers' own cache; the last logits (V,) and the tokens fed."""
        inside = any(stage in NEED_ATTENTION_INSIDE for stage in plan.stages)
        self._net.set_attn_implementation(ATTENTION if inside else "eager")
        last = max(plan.steps, default=0)
        with torch.inference_mode():
            with self._tapped(writer.tap() if plan.prefill else None):
                out = self._net(input_ids=self._ids(tokens), use_cache=last > 0)
            logits, decoded = _last(out), []
            for step in range(1, last + 1):
                token = int(feed[step - 1]) if len(feed) >= step else int(np.argmax(logits))
                with self._tapped(writer.tap(step) if step in plan.steps else None):
                    out = self._net(input_ids=self._ids([token]), past_key_values=out.past_key_values, use_cache=True)
                logits = _last(out)
                decoded.append(token)
        return logits, decoded

    @contextmanager
    def _tapped(self, tap: Tap | None) -> Iterator[None]:
        """Hooks on exactly the modules whose stages the tap wants, removed at the end."""
        handles: list[Any] = []
        recorded: list[Any] = []
        if tap is not None:
            handles += _whole_model_hooks(self._net, tap)
            for i, layer in enumerate(self._net.model.layers):
                handles += _layer_hooks(layer, i, tap)
                if any(tap.wants(stage, i) for stage in NEED_ATTENTION_INSIDE):
                    setattr(layer.self_attn, _RECORDER, tap)
                    recorded.append(layer.self_attn)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in recorded:
                delattr(module, _RECORDER)

    def _causality_shift(self, tokens: Sequence[int]) -> float:
        """How far earlier logits move when only the last token changes, relative to their largest."""
        first = list(tokens[-8:]) if len(tokens) > 1 else [*tokens, 0]  # a few tokens show it as well as many
        second = [*first[:-1], (first[-1] + 1) % self.model.spec.vocab]
        one, other = self.logits(first)[:-1], self.logits(second)[:-1]
        return float(np.abs(one - other).max() / np.abs(one).max())

    def _rope_theta(self) -> float:
        """The base that the loaded model rotates with, from its own frequencies: theta ** (-2 / D) is the second."""
        frequencies = self._net.model.rotary_emb.inv_freq.double().cpu()
        dimension = 2 * len(frequencies)
        return float(frequencies[1] ** (-dimension / 2)) if len(frequencies) > 1 else self.model.spec.rope_theta

    def _embedding_is_bitwise(self, tokens: Sequence[int]) -> bool:
        found = self._net.model.embed_tokens(self._ids(tokens))[0].detach().cpu()
        ours = self.model.weights.tensors["embedding"].rows(torch.tensor(list(tokens)), DTYPES[self.dtype])
        return bool(torch.equal(found, ours.to(found.dtype)))

    def _taps_are_inert(self, tokens: Sequence[int]) -> bool:
        few = tokens[:8]
        plain = self.logits(few, attention="eager")
        return self.logits(few, tap=_Everything()).tobytes() == plain.tobytes()

    def _origin(self, tests: SelfTests, logits: np.ndarray, prompt: str, left_out: tuple[str, ...]) -> Origin:
        model, first = self.model, top(logits)
        return Origin(
            source="hf",
            model=model.path.name,
            model_path=str(model.path),
            model_digest=model.digest,
            weights=", ".join(map(str, model.weights.types)),
            backend={"backend": self.device, "device_class": self.device, "name": self.device},
            dtype=self.dtype,
            prompt=prompt,
            left_out=left_out,
            provenance={
                "transformers": self._transformers.__version__,
                "torch": torch.__version__,
                "attention": "eager",
                "modeling_qwen2_sha256": _digest_of_module(self._sources),
                "self_tests": {name: getattr(tests, name) for name in SelfTests.__slots__},
                "argmax": first.argmax,
                "top5": [list(first.tokens), list(first.logits)],
            },
        )


def top(logits: np.ndarray, k: int = 5) -> Top:
    """Argmax and the k largest of (V,) logits; equal ones by token id."""
    order = np.lexsort((np.arange(logits.size), -logits.astype(np.float64)))[:k]
    return Top(int(order[0]), tuple(map(int, order)), tuple(float(logits[i]) for i in order))


def tapped_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, **more: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Transformers' eager attention, told on. query (1, Hq, T, D) and key (1, Hkv, S, D) are rotated already."""
    own = importlib.import_module(type(module).__module__)
    out, weighing = own.eager_attention_forward(module, query, key, value, mask, **more)
    tap: Tap | None = getattr(module, _RECORDER, None)
    if tap is not None:
        _record_attention(tap, module.layer_idx, query, key, weighing, more["scaling"])
    return out, weighing


def _record_attention(
    tap: Tap, layer: int, query: torch.Tensor, key: torch.Tensor, weighing: torch.Tensor, scaling: float
) -> None:
    new = query.shape[2]
    give = _Giver(tap, layer)
    give(Stage.Q_POST_ROPE, lambda: query[0].transpose(0, 1).flatten(1))  # (T, Hq D)
    give(Stage.K_POST_ROPE, lambda: key[0, :, -new:].transpose(0, 1).flatten(1))  # (T, Hkv D)
    groups = query.shape[1] // key.shape[1]
    give(Stage.ATTN_SCORES, lambda: _scores(query, key, groups, scaling))  # (Hq, T, S), before the mask
    give(Stage.ATTN_SOFTMAX, lambda: weighing[0])  # (Hq, T, S)


def _scores(query: torch.Tensor, key: torch.Tensor, groups: int, scaling: float) -> torch.Tensor:
    """What the eager attention has before its mask: the same product, of the same shape, by the same operator."""
    repeated = key.repeat_interleave(groups, dim=1)
    return (torch.matmul(query, repeated.transpose(2, 3)) * scaling)[0]


class _Giver:
    """Hands a stage to a tap, computing it only when it is wanted."""

    def __init__(self, tap: Tap, layer: int | None) -> None:
        self._tap, self._layer = tap, layer

    def __call__(self, stage: Stage, values: Callable[[], torch.Tensor]) -> None:
        if self._tap.wants(stage, self._layer):
            fresh = values().detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
            self._tap.take(stage, self._layer, fresh.numpy())


class _Everything:
    """A tap that wants all and keeps nothing: for the proof that tapping changes no bit."""

    def wants(self, stage: Stage, layer: int | None) -> bool:
        return True

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        """Let it go."""


def _whole_model_hooks(net: Any, tap: Tap) -> Iterator[Any]:
    give = _Giver(tap, None)
    first = _Giver(tap, 0)
    if tap.wants(Stage.EMBEDDING, 0):
        yield net.model.embed_tokens.register_forward_hook(lambda _m, _a, out: first(Stage.EMBEDDING, lambda: out[0]))
    if tap.wants(Stage.FINAL_NORM, None):
        yield net.model.norm.register_forward_hook(lambda _m, _a, out: give(Stage.FINAL_NORM, lambda: out[0]))
    if tap.wants(Stage.LM_HEAD, None):
        yield net.lm_head.register_forward_hook(lambda _m, _a, out: give(Stage.LM_HEAD, lambda: out[0, -1]))


def _layer_hooks(layer: Any, i: int, tap: Tap) -> Iterator[Any]:
    """Hooks of one layer, only for stages that are wanted. `out` (1, T, ...)."""
    give = _Giver(tap, i)
    attention, mlp = layer.self_attn, layer.mlp

    def after(module: Any, stage: Stage) -> Iterator[Any]:
        if tap.wants(stage, i):
            yield module.register_forward_hook(lambda _m, _a, out: give(stage, lambda: _tensor(out)[0]))

    def before(module: Any, stage: Stage) -> Iterator[Any]:
        if tap.wants(stage, i):
            yield module.register_forward_pre_hook(lambda _m, given: give(stage, lambda: given[0][0]))

    yield from after(layer.input_layernorm, Stage.ATTN_NORM)
    yield from _projection_hooks(attention, give, tap, i)
    yield from before(attention.o_proj, Stage.ATTENTION)
    yield from after(attention.o_proj, Stage.ATTN_OUT)
    yield from before(layer.post_attention_layernorm, Stage.POST_ATTN_RESIDUAL)
    yield from after(layer.post_attention_layernorm, Stage.FFN_NORM)
    yield from after(mlp.gate_proj, Stage.FFN_GATE)
    yield from after(mlp.up_proj, Stage.FFN_UP)
    yield from after(mlp.act_fn, Stage.FFN_SILU)
    yield from before(mlp.down_proj, Stage.FFN_SWIGL)
    yield from after(mlp.down_proj, Stage.FFN_OUT)
    yield from after(layer, Stage.POST_FFN_RESIDUAL)


def _projection_hooks(attention: Any, give: _Giver, tap: Tap, i: int) -> Iterator[Any]:
    """q, k and v side by side. Linear adds the bias inside, so the product before it is computed again without."""
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    biased: list[torch.Tensor] = []
    plain: list[torch.Tensor] = []

    def collect(module: Any, given: Any, out: torch.Tensor) -> None:
        biased.append(out[0])
        if tap.wants(Stage.QKV_MATMUL, i):
            plain.append(torch.nn.functional.linear(given[0], module.weight)[0])
        if module is parts[-1]:
            give(Stage.QKV_MATMUL, lambda: torch.cat(plain, dim=-1))
            give(Stage.QKV_BIAS, lambda: torch.cat(biased, dim=-1))
            biased.clear()
            plain.clear()

    if tap.wants(Stage.QKV_MATMUL, i) or tap.wants(Stage.QKV_BIAS, i):
        for part in parts:
            yield part.register_forward_hook(collect)


def _tensor(out: Any) -> torch.Tensor:
    """A decoder layer gave a tuple before Transformers 4.54, a tensor since."""
    found: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return found


def _last(out: Any) -> np.ndarray:
    values: np.ndarray = out.logits[0, -1].float().cpu().numpy()
    return values


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise BackendError(
            "hf", "the oracle needs Transformers, which is not installed", "pip install 'provable-contracts-pv[oracle]'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _register(transformers: Any) -> None:
    """Our attention function, and with it the mask function: without one the mask would silently be None."""
    transformers.AttentionInterface.register(ATTENTION, tapped_attention)
    masks = importlib.import_module("transformers.masking_utils")
    masks.AttentionMaskInterface.register(ATTENTION, masks.eager_mask)


def _digest_of_module(module: Any) -> str:
    return hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
