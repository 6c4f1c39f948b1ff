"""llama.cpp, given the same file, predicts the same: full-vocabulary log-probabilities of the trained teacher.

In ggml's order of sums every position agrees to 1e-12 (1 - cosine), for every type. In the engine's own order a
difference in the last bit turns, now and then, into another int8 code of an activation; such a flip moves that position
(and those that attend to it) to about 1e-6, while all others stay at 1e-14. There the share of exact positions tells
whether the product is ggml's, and the worst one whether anything else is wrong. Random weights would magnify each flip
beyond recognition.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pv.backends.cpu import open_cpu
from pv.backends.cpu_ggml import open_cpu_ggml
from pv.backends.torch_session import TorchSession
from pv.compare.metrics import log_softmax
from pv.model.gguf_file import dequantized
from pv.model.gguf_write import FileType, convert
from pv.model.open import Model, open_model
from pv.model.weights import Weights

pytest.importorskip("xllamacpp", reason="no llama.cpp wheel here (extra [peers]): nothing to compare with")

from pv.model.gguf_peer import LlamaCpp, PeerError

TEACHER = Path(__file__).parents[2] / "fixtures" / "tiny-teacher"
LINES = 10
AGREED = ["Q4_K", "Q4_K_M", "Q6_K", "Q8_0"]


@pytest.fixture(scope="module")
def teacher() -> Model:
    if not TEACHER.exists():
        pytest.skip(f"the trained teacher is not at {TEACHER}")
    return open_model(TEACHER)


Documents = list[list[int]]
Opener = Callable[[Weights], TorchSession]


@pytest.fixture(scope="module")
def both(teacher: Model, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Type -> (model, llama.cpp's log-probabilities, documents): the first held-out lines, computed once."""
    folder, known = tmp_path_factory.mktemp("peer"), {}
    documents = [teacher.tokenizer.encode(line) for line in (TEACHER / "heldout.txt").read_text().splitlines()[:LINES]]

    def get(kind: str) -> tuple[Model, np.ndarray, Documents]:
        if kind not in known:
            path = convert(teacher, folder / f"{kind}.gguf", FileType(kind), tokenizer=teacher.tokenizer).path
            with LlamaCpp(path) as peer:
                theirs = np.concatenate([peer.text_logprobs(document) for document in documents])
            known[kind] = open_model(path), theirs, documents
        return known[kind]

    return get


def ours(weights: Weights, documents: Documents, opened: Opener = open_cpu) -> np.ndarray:
    """Each document from an empty cache: a rounding flip in one does not reach the next."""
    session, parts = opened(weights), []
    for document in documents:
        session.reset()
        parts.append(log_softmax(session.prefill_all(document).astype(np.float64)))
    return np.concatenate(parts)


def one_minus_cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True) for v in (x, y))
    return np.square(x - y).sum(axis=1) / 2


def test_float32_weights_agree_to_a_ten_thousandth(both) -> None:  # type: ignore[no-untyped-def]
    model, theirs, documents = both("F32")
    assert np.abs(ours(model.weights, documents) - theirs).max() <= 1e-4


# --- In ggml's order of sums ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_by_one(teacher: Model, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Type -> (model, llama.cpp's log-probabilities, documents), with one token a batch; the last document is long."""
    from tests.model.ggml_kernels import FUSED_AVX2

    if not FUSED_AVX2:
        pytest.skip("ggml's kernels for this processor are not those of AVX2, whose order is promised")
    folder = tmp_path_factory.mktemp("single")
    text = (TEACHER / "heldout.txt").read_text()
    documents = [teacher.tokenizer.encode(line) for line in text.splitlines()[:3]]
    documents.append(teacher.tokenizer.encode(text)[:100])

    def get(kind: str) -> tuple[Model, np.ndarray, Documents]:
        path = convert(teacher, folder / f"{kind}.gguf", FileType(kind), tokenizer=teacher.tokenizer).path
        with LlamaCpp(path, single=True) as peer:
            theirs = np.concatenate([peer.text_logprobs(document) for document in documents])
        return open_model(path), theirs, documents

    return get


@pytest.mark.parametrize("kind", [kind.value for kind in FileType])
def test_every_position_agrees_in_ggmls_order(kind: str, one_by_one) -> None:  # type: ignore[no-untyped-def]
    """A million times nearer than the millionth that is promised; what is left is how llama.cpp takes the logarithm."""
    model, theirs, documents = one_by_one(kind)
    found = ours(model.weights, documents, open_cpu_ggml)
    far = one_minus_cosine(found, theirs)
    assert far.max() <= 1e-12, f"position {far.argmax()} of {far.size}, and {(far > 1e-12).sum()} in all"
    assert np.abs(found - theirs).max() <= 1e-4
    assert (found.argmax(axis=1) == theirs.argmax(axis=1)).all()


def test_a_prompt_given_at_once_is_taken_one_token_at_a_time_too(one_by_one) -> None:  # type: ignore[no-untyped-def]
    """No prefix of it was asked for before, so nothing but the size of a batch makes llama.cpp take it so.

    In batches two of these prompts flip a code, and part by 2e-7 and 2e-6.
    """
    model, _, _ = one_by_one("Q4_K")
    tokens = model.tokenizer.encode((TEACHER / "heldout.txt").read_text())
    prompts = [tokens[start : start + 100] for start in range(0, 600, 100)]
    with LlamaCpp(model.path, single=True) as peer:
        theirs = np.stack([peer.logprobs(prompt) for prompt in prompts])
    mine = np.stack([ours(model.weights, [prompt], open_cpu_ggml)[-1] for prompt in prompts])
    assert one_minus_cosine(mine, theirs).max() <= 1e-12


def test_a_single_wrong_code_is_seen_in_ggmls_order(one_by_one) -> None:  # type: ignore[no-untyped-def]
    """One code of 3 million: the rounding of activations hides it at most positions, and no argmax would show it."""
    model, theirs, documents = one_by_one("Q4_K")
    name = "layers.1.ffn_up"
    weight = model.weights.tensors[name]
    blocks = weight.data.clone()
    blocks[100, 20] ^= 15
    wrong = replace(model.weights, tensors={**model.weights.tensors, name: replace(weight, data=blocks)})
    far = one_minus_cosine(ours(wrong, documents, open_cpu_ggml), theirs)
    assert far.max() > 1e-9
    assert far.mean() < 1e-6


# --- In the engine's own order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", AGREED)
def test_quantized_weights_agree_where_activations_are_rounded_as_ggml_does(kind: str, both) -> None:  # type: ignore[no-untyped-def]
    model, theirs, documents = both(kind)
    far = one_minus_cosine(ours(model.weights, documents), theirs)
    assert (far < 1e-11).mean() >= 0.7, "the product is not ggml's"
    assert far.mean() <= 1e-6
    assert far.max() <= 2e-5, "more than a rounding flip"


@pytest.mark.parametrize("kind", AGREED)
def test_the_float32_product_of_the_same_weights_is_told_apart(kind: str, both) -> None:  # type: ignore[no-untyped-def]
    model, theirs, documents = both(kind)
    far = one_minus_cosine(ours(dequantized(model).weights, documents), theirs)
    assert np.median(far) > 1e-8
    assert far.max() < 1e-3


@pytest.mark.parametrize("kind", AGREED)
def test_first_tokens_are_the_same(kind: str, both) -> None:  # type: ignore[no-untyped-def]
    model, theirs, documents = both(kind)
    mine = ours(model.weights, documents)
    for position in np.flatnonzero(mine.argmax(axis=1) != theirs.argmax(axis=1)):
        two = np.sort(theirs[position])[-2:]
        assert two[1] - two[0] < 0.02, f"no near tie at position {position}"


def test_a_wrong_rope_base_is_seen(both) -> None:  # type: ignore[no-untyped-def]
    """The comparison has power: a defect that leaves most tokens alone is far beyond the bounds."""
    model, theirs, documents = both("F32")
    wrong = replace(model.weights, spec=replace(model.spec, rope_theta=1e4))
    far = one_minus_cosine(ours(wrong, documents), theirs)
    assert np.median(far) > 1e-4


def test_a_peer_that_was_asked_nothing_ends(both) -> None:  # type: ignore[no-untyped-def]
    """In a process of its own, many times: the wait that it must not fall into would be one without end."""
    model, _, _ = both("Q8_0")
    code = (
        "import sys; from pathlib import Path; from pv.model.gguf_peer import LlamaCpp\n"
        "for _ in range(20):\n    with LlamaCpp(Path(sys.argv[1])): pass\nprint('over')"
    )
    done = subprocess.run([sys.executable, "-c", code, model.path], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("over"), done.stderr


def test_a_text_is_asked_for_prefix_by_prefix_and_each_answer_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    told: list[int] = []
    peer = object.__new__(LlamaCpp)
    peer.vocab = 3
    monkeypatch.setattr(peer, "logprobs", lambda tokens: asked.append(list(tokens)) or np.full(3, -len(asked)))
    rows = peer.text_logprobs([7, 8, 9], lambda: told.append(len(asked)))
    assert asked == [[7], [7, 8], [7, 8, 9]]
    assert told == [1, 2, 3]
    assert rows.tolist() == [[-1] * 3, [-2] * 3, [-3] * 3]


def test_a_file_that_llama_cpp_cannot_load_is_a_sentence(teacher: Model, tmp_path: Path) -> None:
    path = convert(teacher, tmp_path / "bare.gguf", FileType.F16, tokenizer=None).path
    with pytest.raises(Exception, match="tokenizer"):
        LlamaCpp(path)


def test_speeds_are_positive(teacher: Model, both) -> None:  # type: ignore[no-untyped-def]
    model, _, documents = both("Q4_K")
    with LlamaCpp(model.path) as peer:
        reading, writing = peer.speed(documents[0], 16)
    assert reading > 0
    assert writing > 0
    assert peer.version.startswith("xllamacpp ")
    assert issubclass(PeerError, Exception)
