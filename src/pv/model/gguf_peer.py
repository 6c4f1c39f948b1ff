"""A GGUF file in llama.cpp (the `xllamacpp` wheel) -> log-probabilities over the whole vocabulary, to hold ours to.

llama.cpp hands out no logits here, but the log-probability of every token before sampling. Four settings make the two
sides comparable: keys and values in float32 (the default is float16), no flash attention, no prompt cache (but where
it changes no bit: with one token a batch), and a bias that forces an ASCII token, since the answer carries no
probabilities when the sampled token is half a character (the reported ones are from before the bias).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pv.model.errors import ModelError
from pv.model.gguf_file import open_gguf

_FORCED = "a"  # any token of plain ASCII


class PeerError(ModelError):
    """llama.cpp is not there, or would not answer."""


class LlamaCpp:
    """One model in llama.cpp, on the CPU. A context manager: leaving it frees the model."""

    def __init__(
        self, path: Path, *, context: int = 1024, threads: int = 1, repack: bool = False, single: bool = False
    ) -> None:
        """`repack` lets llama.cpp rearrange blocks for its fastest kernels, which add in another order; `single` makes
        it take one token a batch, as it does when it writes: one kernel, one order for every product.

        Raises PeerError when the wheel is missing or llama.cpp cannot load the file.
        """
        try:
            import xllamacpp
        except ImportError:
            raise PeerError("llama.cpp is not installed", "pip install 'provable-contracts-pv[peers]'") from None
        ours = open_gguf(path)
        self.vocab = ours.spec.vocab
        self.version = f"xllamacpp {xllamacpp.__version__}"
        forced = ours.tokenizer.fast.token_to_id(_FORCED)
        if forced is None:
            raise PeerError(f"expected a token {_FORCED!r} in the vocabulary of {path}, which has none")
        self._forced, self._single, self._asked = int(forced), single, False
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx, settings.n_batch, settings.n_parallel = context, context, 1
        settings.n_ubatch = 1 if single else context
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.n_gpu_layers, settings.warmup, settings.verbosity = 0, False, -1
        settings.no_extra_bufts = not repack
        settings.cache_ram_mib = 0  # or it keeps old prompts, up to 8 GiB of them
        try:
            self._server: Any = xllamacpp.Server(settings)
        except RuntimeError as problem:
            raise PeerError(f"llama.cpp cannot load {path}: {problem}") from None

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._asked:  # a server that is stopped before it began waits for its own end for ever
            with suppress(PeerError):
                self._ask([self._forced], 1, 0)
        self._server = None

    def logprobs(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Log-probabilities of the token after `tokens`, (V,). Raises PeerError when the answer is not whole."""
        answer = self._ask(tokens, 1, self.vocab)
        entries = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        values = np.full(self.vocab, np.nan, np.float32)
        values[[entry["id"] for entry in entries]] = [entry["logprob"] for entry in entries]
        if np.isnan(values).any():
            raise PeerError(f"expected {self.vocab} log-probabilities from llama.cpp, got {len(entries)}")
        return values

    def text_logprobs(
        self, tokens: Sequence[int], answered: Callable[[], object] = lambda: None
    ) -> npt.NDArray[np.float32]:
        """Log-probabilities after every prefix of `tokens`, (T, V): one prompt of each length.

        `answered` is told of each: with a vocabulary of 150,000 an answer takes a second.
        """
        rows = np.empty((len(tokens), self.vocab), np.float32)
        for at in range(len(tokens)):
            rows[at] = self.logprobs(tokens[: at + 1])
            answered()
        return rows

    def speed(self, tokens: Sequence[int], count: int) -> tuple[float, float]:
        """Tokens a second of reading a prompt and of writing `count` tokens, as llama.cpp times itself."""
        timings = self._ask(tokens, count, 0)["timings"]
        return float(timings["prompt_per_second"]), float(timings["predicted_per_second"])

    def _ask(self, tokens: Sequence[int], count: int, logprobs: int) -> dict[str, Any]:
        request: dict[str, Any] = {
            "prompt": list(tokens),
            "max_tokens": count,
            "temperature": 0.0,
            "cache_prompt": self._single,
            "logit_bias": [[self._forced, 1000.0]],
        }
        if logprobs:
            request["logprobs"] = logprobs
        answers: list[Any] = []
        self._asked = True

        def take(answer: Any) -> bool:
            answers.append(answer)
            return False  # do not stop

        self._server.handle_completions(request, take)
        found = answers[0] if answers else None
        found = found[0] if isinstance(found, list) and found else found
        if not isinstance(found, dict) or not found.get("choices"):
            raise PeerError(f"llama.cpp did not answer a prompt of {len(tokens)} tokens: {str(found)[:200]}")
        return found
