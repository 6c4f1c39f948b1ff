"""Weights -> a `Session` on a CUDA card: the one torch forward, a static cache, and a CUDA graph for decoding.

TF32 is off unless asked, whatever the process had set, and put back after every pass. One decode step is the same
sequence of kernels eagerly and in the graph, so a replay is bitwise equal to it; taps and grafts take the eager way.
The class runs on `device="cpu"` as well (eagerly), which is how its logic is tested without a card.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

import numpy as np
import torch

from pv.backends.cuda_cache import DecodeCache
from pv.backends.protocol import BackendError, DeviceFacts, Graft, Tap
from pv.backends.torch_session import check_tokens
from pv.model.errors import ContextError
from pv.model.forward import forward
from pv.model.operators import REFERENCE, Operators
from pv.model.rope import RopeTables
from pv.model.spec import ModelSpec
from pv.model.weights import Prepared, Weights, WeightType, prepare

BACKEND = "cuda"
WATCHDOG_SECONDS = 120.0
SPIN_SECONDS = 0.012  # longer than a decode step that is bound by memory takes
FIRST_CAPACITY = 256  # slots of the cache; doubled as needed, which records the graph anew
HEADROOM = 1 << 30  # bytes that the weights leave for cache, activations and the graph


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """How the card is used. `graphs`: replay decode steps from a CUDA graph. `kernels`: decode with Triton."""

    dtype: torch.dtype = torch.float32
    tf32: bool = False
    graphs: bool = True
    kernels: bool = True
    watchdog: float = WATCHDOG_SECONDS


@dataclass(frozen=True, slots=True)
class CudaRecipe:
    """What the session is made of. Production uses `CUDA_RECIPE`; a planted defect is a changed copy of it.

    `weights`: the model before it is copied. `rope`: the rotary tables. `cache`: the cache's type. `logits`: the logits
    as handed out, told how many tokens the pass had and where it began. `begin`: called before every pass, likewise.
    """

    operators: Operators = REFERENCE
    weights: Callable[[Weights], Weights] = lambda weights: weights
    rope: Callable[[RopeTables], RopeTables] = lambda tables: tables
    cache: Callable[[type[DecodeCache]], type[DecodeCache]] = lambda cache: cache
    logits: Callable[[np.ndarray, int, int], np.ndarray] = lambda logits, _tokens, _start: logits
    begin: Callable[[int, int], None] = lambda _tokens, _start: None


CUDA_RECIPE = CudaRecipe()


def open_cuda(
    weights: Weights,
    options: CudaOptions = CudaOptions(),
    *,
    device: str = "cuda",
    recipe: CudaRecipe = CUDA_RECIPE,
) -> CudaSession:
    """A session on the card. Blocks stay blocks and are multiplied as such, each by its type's own kernel.

    Raises BackendError when there is no card, it is too small, it fails, or a block type has no kernel on it.
    """
    target = torch.device(device)
    facts = cuda_facts(target)
    if target.type == "cuda":
        _want_room(weights, options, target)
    held = recipe.weights(weights)
    want_products(held, options, target)
    with in_our_words():
        prepared = prepare(held, target, options.dtype)
        if target.type == "cuda":
            torch.cuda.synchronize(target)  # the session works on a stream of its own
    return CudaSession(prepared, facts, options, recipe)


def want_products(weights: Weights, options: CudaOptions, device: torch.device) -> None:
    """Raise BackendError for a matrix of blocks that the card has no kernel for: a float detour would hide it."""
    blocks = multiplied_as_blocks(weights)
    if not blocks or (device.type == "cpu" and not interpreted()):  # the reference's own product is right there
        return
    if not options.kernels:
        raise BackendError(BACKEND, "blocks are multiplied by kernels, and kernels are switched off")
    try:
        from pv.backends.triton_quant import PACKERS
    except ImportError as problem:
        raise BackendError(
            BACKEND,
            f"multiplying {', '.join(blocks)} needs triton ({problem})",
            "pip install triton, or another backend",
        ) from None
    if lacking := [kind for kind in blocks if kind not in PACKERS]:
        name = blocks[lacking[0]]
        raise BackendError(
            BACKEND,
            f"no kernel multiplies {', '.join(lacking)} (of {name!r}, for one); there are {', '.join(PACKERS)}",
            "another backend, or `pv model convert --type F32`, which multiplies floats",
        )


def multiplied_as_blocks(weights: Weights) -> dict[WeightType, str]:
    """Block types of the matrices that are multiplied, each with the name of one; an untied embedding is only read."""
    tied = weights.spec.tied
    return {
        w.type: name for name, w in weights.tensors.items()
        if w.type.quantized and len(w.shape) == 2 and (tied or name != "embedding")
    }  # fmt: skip


def cuda_facts(device: torch.device) -> DeviceFacts:
    """Name, memory and driver of the card. Raises BackendError that says why there is none."""
    if device.type != "cuda":
        return DeviceFacts(
            BACKEND, "cpu", "no card: the CUDA session on the CPU, for tests", f"torch {torch.__version__}"
        )
    if reason := why_no_cuda():
        raise BackendError(BACKEND, reason, "--backend wgpu or --no-gpu")
    with in_our_words():
        card = torch.cuda.get_device_properties(device)
        return DeviceFacts(
            backend=BACKEND,
            device_class="cuda",
            name=card.name,
            driver=driver_version(),
            memory_bytes=card.total_memory,
            details={
                "capability": f"{card.major}.{card.minor}",
                "runtime": str(torch.version.cuda),
                "torch": torch.__version__,
            },
        )


def why_no_cuda() -> str:
    """Why CUDA cannot be used, in one line; "" when it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        count = torch.cuda.device_count()
    except RuntimeError as problem:
        return f"torch cannot ask the driver: {str(problem).splitlines()[0]}"
    return "" if count and torch.cuda.is_available() else "no CUDA device or no working NVIDIA driver"


def driver_version() -> str:
    """The NVIDIA driver's version, "" when the system does not tell."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8", errors="replace") as lines:
            words = lines.readline().split()
    except OSError:
        return _driver_from_nvml()
    return next((word for word in words if word.count(".") >= 1 and word[0].isdigit()), "") or _driver_from_nvml()


def _driver_from_nvml() -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # a convenience package; a version that nobody tells is no failure
        return ""


def _want_room(weights: Weights, options: CudaOptions, device: torch.device) -> None:
    """Refuse a model larger than the card's free memory before a byte is copied."""
    size = options.dtype.itemsize
    there = weights.tensors["embedding"].data
    held = there.device == device and there.dtype == options.dtype  # made on the card: used in place, q, k, v aside
    spec = weights.spec
    need = size * (spec.layers * spec.qkv_width * spec.hidden if held else spec.parameters)
    if blocks := multiplied_as_blocks(weights):  # blocks twice: as the file has them, and rearranged for the kernels
        need = sum(2 * w.nbytes if w.type in blocks else size * prod(w.shape) for w in weights.tensors.values())
    with in_our_words():
        free, total = torch.cuda.mem_get_info(device)
    if need + HEADROOM > free:
        gib = 2.0**30
        raise BackendError(
            BACKEND,
            f"the model needs {need / gib:.1f} GiB and {HEADROOM / gib:.0f} GiB to work in; "
            f"the card has {free / gib:.1f} of {total / gib:.1f} GiB free",
            "is another process using it? else a smaller model, or bfloat16",
        )


class CudaSession:
    """One model on one card with one static KV cache; implements `pv.backends.protocol.Session`."""

    def __init__(
        self, weights: Prepared, facts: DeviceFacts, options: CudaOptions, recipe: CudaRecipe = CUDA_RECIPE
    ) -> None:
        self.spec: ModelSpec = weights.spec
        self.options = options
        self._weights: Prepared | None = weights
        self._on_card = weights.device.type == "cuda"
        self._recipe = recipe
        self._kernels = _kernels_for(recipe, weights, wanted=options.kernels and (self._on_card or interpreted()))
        self._operators = self._kernels.operators
        self._fused: Fused | None = None
        self._details = dict(facts.details) | {"dtype": str(options.dtype)} | _products(weights)
        self.facts = facts
        self._stream = _stream_on(weights.device) if self._on_card else None
        self._token = torch.zeros(1, dtype=torch.int64, device=weights.device)
        self._answer = torch.zeros(self.spec.vocab, pin_memory=self._on_card)  # float32, on the host
        self.replayed = 0  # how many decode steps were replays of a recorded graph
        self._recorded: tuple[Any, torch.Tensor] | None = None  # a CUDA graph of one decode step, and where it answers
        with self._working():
            self._make_cache(min(FIRST_CAPACITY, self.spec.context))
            if self._on_card or interpreted():
                self._warm_up()
        self.facts = replace(facts, details=self._details | {"kernels": self._kernels.word})

    @property
    def position(self) -> int:
        return self._cache.length

    def prefill(self, tokens: Sequence[int], tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Append `tokens` to an empty cache; logits of the last position, float32, (V,)."""
        if self.position:
            raise ContextError(f"expected an empty cache for a prefill, got {self.position} tokens", "call reset()")
        return self._advance(tokens, tap, graft)

    def decode(self, token: int, tap: Tap | None = None, graft: Graft | None = None) -> np.ndarray:
        """Append one token; logits of its position, float32, (V,)."""
        return self._advance([token], tap, graft)

    def decode_eagerly(self, token: int) -> np.ndarray:
        """A decode step without the graph: what a replay must equal bit by bit."""
        return self._advance([token], None, None, eager=True)

    def reset(self) -> None:
        """Empty the KV cache; memory and graph stay for the next prompt."""
        if self._weights is not None:
            with self._working():
                self._cache.reset()

    def close(self) -> None:
        """Free the card's memory. Any later call raises BackendError."""
        self._weights = self._recorded = self._fused = None
        self._cache = DecodeCache(self.spec, torch.device("cpu"), torch.float32, 1)
        if self._on_card:
            torch.cuda.empty_cache()

    # -- a pass -----------------------------------------------------------------------------------------------

    def _advance(
        self, tokens: Sequence[int], tap: Tap | None, graft: Graft | None, *, eager: bool = False
    ) -> np.ndarray:
        weights = self._opened()
        check_tokens(self.spec, tokens, self.position)
        start, count = self.position, len(tokens)
        with self._working():
            self._recipe.begin(count, start)
            self._reserve(start + count)
            plain = tap is None and graft is None and not eager
            if plain and count == 1 and start and self._on_card and self.options.graphs:
                logits = self._replay(tokens[0])
            else:
                ids = torch.tensor(list(tokens), dtype=torch.int64, device=weights.device)
                logits = self._fetch(self._forward(ids, tap, graft), SPIN_SECONDS if count == 1 else 0.0)
            return self._recipe.logits(logits, count, start)

    def _forward(self, ids: torch.Tensor, tap: Tap | None, graft: Graft | None) -> torch.Tensor:
        weights, fused = self._opened(), self._fused
        if fused is None or ids.numel() > 1 or tap is not None or graft is not None:
            return forward(weights, ids, self._rope, cache=self._cache, operators=self._operators, tap=tap, graft=graft)
        fused.begin()
        logits = forward(weights, ids, self._rope, cache=self._cache, operators=fused.operators)
        fused.settle()
        return logits

    def _replay(self, token: int) -> np.ndarray:
        """Run the recorded step; record it first when there is none."""
        if self._recorded is None:
            self._recorded = self._record()
        graph, logits = self._recorded
        self._token.fill_(token)
        graph.replay()
        self.replayed += 1
        self._cache.advance_host(1)
        return self._fetch(logits, SPIN_SECONDS)

    def _record(self) -> tuple[Any, torch.Tensor]:
        """A graph of one decode step and its output. One step runs before, eagerly, so that every kernel is compiled;
        it is forgotten, and recording itself runs nothing on the card."""
        self._forward(self._token, None, None)
        self._cache.step_back()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            logits = self._forward(self._token, None, None)
        self._cache.advance_host(-1)
        return graph, logits

    def _warm_up(self) -> None:
        """Compile, load and record before the first prompt, not during it."""
        try:
            for count in self._kernels.prompts:
                if count < self._cache.capacity:
                    self._cache.reset()
                    self._forward(self._token.repeat(count), None, None)
            one_by_one = self._forward(self._token, None, None).clone()
            self._cache.step_back()
        except torch.OutOfMemoryError:
            raise
        except Exception as problem:  # Triton's compiler raises what it likes; torch's own operators serve
            if self._kernels.word == "torch":
                raise
            failed = f"triton failed: {type(problem).__name__}: {_first_line(problem)}"
            if "products" in self._details:  # torch has none that would multiply blocks at a card's speed
                raise BackendError(BACKEND, failed, "another backend?") from problem
            self._kernels = replace(_kernels_for(self._recipe, None, wanted=False), word=f"torch ({failed})")
            self._operators = self._kernels.operators
            self._make_cache(self._cache.capacity)
        else:
            self._try_to_fuse(one_by_one)
        if self.options.graphs and self._on_card:
            self._recorded = self._record()
        self._cache.reset()

    def _try_to_fuse(self, one_by_one: torch.Tensor) -> None:
        """Take the fused step if it gives the very bits of the operators one by one; say so if not."""
        if self._kernels.fuse is None:
            return
        try:
            self._fused = self._kernels.fuse(self._cache)
            together = self._forward(self._token, None, None)
            self._cache.step_back()
            same = torch.equal(one_by_one, together)
        except Exception as problem:  # of a compiler or a driver: what is not fused still serves
            same, word = False, f"{type(problem).__name__}: {_first_line(problem)}"
        else:
            word = "the bits differ"
        if not same:
            self._fused = None
            self._kernels = replace(self._kernels, fuse=None, word=f"{self._kernels.word}, not fused ({word})")

    def _fetch(self, logits: torch.Tensor, spin: float = 0.0) -> np.ndarray:
        """Logits as float32 on the host; waits for the card at most `watchdog` seconds, the first `spin` of them awake.

        A prompt is waited for asleep: the CPU's reference computes meanwhile and wants every core.
        """
        self._answer.copy_(logits, non_blocking=True)
        if self._on_card:
            done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            done.record()
            _wait(done, self.options.watchdog, spin)
        return self._answer.numpy().copy()

    # -- memory -----------------------------------------------------------------------------------------------

    def _opened(self) -> Prepared:
        if self._weights is None:
            raise BackendError(BACKEND, "the session is closed", "open the model again")
        return self._weights

    def _reserve(self, length: int) -> None:
        """Room for `length` tokens: a larger cache with what is held, new tables, and a graph recorded anew."""
        if length <= self._cache.capacity:
            return
        old = self._cache
        self._make_cache(min(max(length, 2 * old.capacity), self.spec.context))
        self._cache.take_over(old)

    def _make_cache(self, capacity: int) -> None:
        weights = self._opened()
        self._recorded = None
        self._cache = self._kernels.cache(self.spec, weights.device, weights.dtype, capacity)
        if self._fused is not None and self._kernels.fuse is not None:
            self._fused = self._kernels.fuse(self._cache)
        self._rope = self._recipe.rope(RopeTables.build(self.spec, capacity, weights.device, weights.dtype))

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Our stream, our precision, inference mode, and torch's failures in our words."""
        stream = torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()
        with in_our_words(), stream, torch.inference_mode(), precision(tf32=self.options.tf32):
            yield


def _stream_on(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped


@contextmanager
def precision(*, tf32: bool) -> Iterator[None]:
    """float32 products with or without TF32, whatever the process has set; put back on the way out."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def in_our_words() -> Iterator[None]:
    """Turn what torch and the driver raise into BackendError; the model's own errors pass."""
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise BackendError(BACKEND, f"out of device memory: {_first_line(problem)}", "a smaller model?") from problem
    except RuntimeError as problem:  # torch.AcceleratorError is one: a lost device, an illegal address, a failed launch
        raise BackendError(BACKEND, f"the card or its driver failed: {_first_line(problem)}") from problem


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:300]


def _wait(done: Any, seconds: float, spin: float = 0.0) -> None:
    """Poll an event: at once for `spin` seconds, then twice a millisecond. A hang becomes an error, not our hang."""
    began = time.monotonic()
    while not done.query():
        waited = time.monotonic() - began
        if waited > seconds:
            raise BackendError(BACKEND, f"the card gave no answer within {seconds:g} s", "the driver may hang")
        if waited > spin:
            time.sleep(0.0005)


class Fused(Protocol):
    """Operators of a decode step that may leave tensors for a successor to compute (`settle` computes the rest)."""

    operators: Operators

    def begin(self) -> None:
        """A step begins."""
        ...

    def settle(self) -> None:
        """The step is over."""
        ...


@dataclass(frozen=True, slots=True)
class _Kernels:
    """What decodes: operators, the cache's type, how steps are fused if they may be, and a word on it for the facts."""

    operators: Operators
    cache: type[DecodeCache]
    fuse: Callable[[Any], Fused] | None  # a cache of the type above -> a step
    word: str
    prompts: tuple[int, ...] = (2,)  # lengths that use every kernel of a prompt, the longest first


def _kernels_for(recipe: CudaRecipe, weights: Prepared | None, *, wanted: bool) -> _Kernels:
    """Our kernels where they can be had; fused ones only in a session whose parts are all our own."""
    if not wanted:
        return _Kernels(recipe.operators, recipe.cache(DecodeCache), None, "torch")
    try:
        from pv.backends.cuda_fused import FusedCache, FusedStep, fits
        from pv.backends.cuda_kernels import decode_operators
    except ImportError as problem:
        return _Kernels(recipe.operators, recipe.cache(DecodeCache), None, f"torch (no triton: {problem})")
    own = decode_operators(recipe.operators)
    if weights is not None and _products(weights):
        return _kernels_of_blocks(recipe, weights, own, whole=fits(own))
    cache = recipe.cache(FusedCache)
    fuse = (lambda held: FusedStep(held, own)) if fits(own) and cache is FusedCache else None
    return _Kernels(own, cache, fuse, "triton")


def _kernels_of_blocks(recipe: CudaRecipe, weights: Prepared, own: Operators, *, whole: bool) -> _Kernels:
    """The same for a model whose matrices are blocks. `whole`: no operator is planted."""
    from pv.backends import triton_prompt, triton_quant
    from pv.backends.cuda_fused import FusedCache
    from pv.backends.quant_step import QuantStep, plan_of

    operators = triton_quant.operators(own) if own.linear is not recipe.operators.linear else own
    cache, plan = recipe.cache(FusedCache), plan_of(weights)
    fuse = (lambda held: QuantStep(held, operators, plan)) if whole and cache is FusedCache else None
    return _Kernels(operators, cache, fuse, "triton", (*triton_prompt.lengths(), 2))


def _products(weights: Prepared) -> dict[str, str]:
    """Which block types are multiplied as such, for the facts; nothing for a model of floats."""
    matrices = [m for layer in weights.layers for m in (*layer.qkv, layer.attn_out, layer.ffn_gate, layer.ffn_up)]
    matrices += [*(layer.ffn_down for layer in weights.layers), weights.lm_head]
    found = sorted({str(matrix.type) for matrix in matrices if matrix.type.quantized})
    return {"products": " ".join(found)} if found else {}


def interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"
