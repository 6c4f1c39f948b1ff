"""Our blocks against ggml's own C: golden bytes always, the library itself where a llama.cpp wheel is installed.

A round trip through a reader is no test of a quantizer: one that matched 8 % of ggml's blocks passed it. The golden
file was made by `golden_quant/make.py` from the families below, which are exact integer arithmetic and so the same
everywhere.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import importlib.util
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pv.model.quant import ENCODERS, block_of, dequantize, quantize
from pv.model.quant_product import ACTIVATIONS, BLOCK, quantize_activations, quantized_product
from pv.model.weights import Weight, WeightType

GOLDEN = Path(__file__).parent / "golden_quant" / "ggml.json"
BLOCK_TYPES = [kind for kind in ENCODERS if kind.quantized]
SMALL, LARGE = 2, 256  # superblocks of a family: kept whole in the golden file, kept as a digest


def _words(seed: int, count: int) -> np.ndarray:
    """splitmix64 (Steele, Lea, Flood 2014): `count` words of 64 bits."""
    z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _uniform(seed: int, count: int) -> np.ndarray:
    return (_words(seed, count) >> np.uint64(40)).astype(np.float64) / 2**24  # [0, 1), exact


def _bell(seed: int, count: int) -> np.ndarray:
    """Sum of twelve uniforms, less six: near enough to a Gaussian, and exact."""
    return sum(_uniform(seed * 16 + i, count) for i in range(12)) - 6.0


def _sparse(count: int) -> np.ndarray:
    return np.where(_uniform(3, count) < 0.05, _bell(4, count), 0.0)


FAMILIES: dict[str, Callable[[int], np.ndarray]] = {
    "bell": lambda n: _bell(1, n) * 2.0**-6,
    "cubed": lambda n: _bell(2, n) ** 3,
    "positive": lambda n: 0.5 + _uniform(5, n) / 2,
    "negative": lambda n: -0.5 - _uniform(6, n) / 2,
    "skewed": lambda n: _uniform(7, n) * 1.25 - 0.25,
    "sparse": _sparse,
    "signed zeros": lambda n: np.where(_uniform(8, n) < 0.5, -0.0, 0.0),
    "constant": lambda n: np.full(n, 0.3),
    "negative constant": lambda n: np.full(n, -0.3),
    "spiked": lambda n: np.where(_uniform(9, n) < 0.004, 1024.0, 1.0) * _bell(10, n),
    "integers": lambda n: np.floor(_uniform(11, n) * 7) - 3,
    "tiny": lambda n: _bell(12, n) * 2.0**-24,
    "vanishing": lambda n: _bell(13, n) * 2.0**-100,
    "subnormal": lambda n: _bell(14, n) * 2.0**-140,
    "many magnitudes": lambda n: _bell(15, n) * 2.0 ** np.floor(_uniform(16, n) * 40 - 30),
    "one block large": lambda n: _bell(17, n) * np.where(np.arange(n) // 32 % 8 == 3, 4096.0, 2.0**-12),
}


# The reciprocal of a subnormal is infinite, and what C makes an integer of is undefined; the scale is 0 there anyway.
ACTIVATION_FAMILIES = [name for name in FAMILIES if name != "subnormal"]


def family(name: str, superblocks: int) -> np.ndarray:
    """(superblocks, 256) float32."""
    return FAMILIES[name](superblocks * 256).astype(np.float32).reshape(superblocks, 256)


def activations_of(kind: str, x: np.ndarray) -> bytes:
    """Our codes and scales in ggml's own layout of `block_q8_0`, `block_q8_1` or `block_q8_K`."""
    a = quantize_activations(torch.from_numpy(x), kind)
    codes, scale = a.codes.numpy().reshape(-1, BLOCK[kind]), a.scale.numpy().reshape(-1, 1)
    if kind == "Q8_K":
        sums = codes.reshape(-1, 16, 16).sum(axis=2, dtype=np.int16)
        parts = [scale.view(np.uint8), codes.view(np.uint8), sums.view(np.uint8)]
    else:
        halves = [scale] if a.sums is None else [scale, a.sums.numpy().reshape(-1, 1)]
        parts = [half.astype(np.float16).view(np.uint8) for half in halves] + [codes.view(np.uint8)]
    return np.concatenate(parts, axis=1).tobytes()


class Ggml:
    """ggml's exported C functions, by ctypes. They are no documented interface: fit for a test alone."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("xllamacpp")
        libraries = sorted(Path(str(found.origin)).parent.glob("*.so")) if found else []
        if not libraries:
            pytest.skip("no llama.cpp wheel (xllamacpp) here: the golden bytes alone were checked")
        self._library = ctypes.CDLL(str(libraries[0]))
        self._library.ggml_cpu_init()

    def _rows(self, name: str, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        function = getattr(self._library, name)
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
        count = x.size if x.dtype == np.float32 else out.size
        function(x.ctypes.data, out.ctypes.data, count)
        return out

    def quantize(self, kind: WeightType, x: np.ndarray) -> np.ndarray:
        block, size = block_of(kind)
        out = np.zeros((len(x), x.shape[1] // block * size), np.uint8)
        return self._rows(f"quantize_row_{_c_name(kind)}_ref", x, out)

    def dequantize(self, kind: WeightType, stored: np.ndarray) -> np.ndarray:
        block, size = block_of(kind)
        out = np.zeros((len(stored), stored.shape[1] // size * block), np.float32)
        return self._rows(f"dequantize_row_{_c_name(kind)}", np.ascontiguousarray(stored), out)

    def activations(self, kind: str, x: np.ndarray) -> bytes:
        size = {"Q8_0": 34, "Q8_1": 36, "Q8_K": 292}[kind]
        return self._rows(
            f"quantize_row_{_c_name(kind)}", x, np.zeros(x.size // BLOCK[kind] * size, np.uint8)
        ).tobytes()

    def dot(self, kind: WeightType, row: np.ndarray, x: np.ndarray) -> float:
        """One row of stored weights times one row of float activations, through ggml's kernel for this processor."""
        other = ACTIVATIONS[kind]
        codes = np.frombuffer(self.activations(other, x), np.uint8).copy()
        function = getattr(self._library, f"ggml_vec_dot_{_c_name(kind)}_{_c_name(other)}")
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        function.argtypes = [ctypes.c_int, pointer, size, pointer, size, pointer, size, ctypes.c_int]
        function.restype = None
        result = np.zeros(1, np.float32)
        function(x.size, result.ctypes.data, 0, row.ctypes.data, 0, codes.ctypes.data, 0, 1)
        return float(result[0])


def _c_name(kind: str) -> str:
    return str(kind).replace("Q", "q")


@cache
def golden() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(GOLDEN.read_text())
    return data


@pytest.fixture(scope="module")
def ggml() -> Ggml:
    return Ggml()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_blocks_are_byte_for_byte_those_that_ggml_wrote(kind: WeightType, name: str) -> None:
    want = np.frombuffer(base64.b64decode(golden()["blocks"][kind][name]), np.uint8)
    got = quantize(family(name, SMALL), kind)
    size = block_of(kind).size
    wrong = np.flatnonzero((got.reshape(-1, size) != want.reshape(-1, size)).any(axis=1))
    assert wrong.size == 0, f"blocks {wrong.tolist()} of {got.size // size} differ"


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_a_million_weights_have_the_digest_of_ggmls_blocks(kind: WeightType) -> None:
    for name in FAMILIES:
        digest = hashlib.sha256(quantize(family(name, LARGE), kind).tobytes()).hexdigest()
        assert digest == golden()["digests"][kind][name], name


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_dequantized_values_have_the_digest_of_ggmls(kind: WeightType) -> None:
    for name in FAMILIES:
        stored = np.frombuffer(base64.b64decode(golden()["blocks"][kind][name]), np.uint8).reshape(SMALL, -1)
        digest = hashlib.sha256(dequantize(stored, kind).tobytes()).hexdigest()
        assert digest == golden()["dequantized"][kind][name], name


@pytest.mark.parametrize("kind", BLOCK)
def test_activations_too_small_to_divide_by_count_as_zero(kind: str) -> None:
    a = quantize_activations(torch.from_numpy(family("subnormal", 1)), kind)
    assert not (a.codes.to(torch.float32) * a.scale.repeat_interleave(a.block, dim=1)).any()


@pytest.mark.parametrize("kind", BLOCK)
def test_activations_have_the_digest_of_ggmls(kind: str) -> None:
    for name in ACTIVATION_FAMILIES:
        digest = hashlib.sha256(activations_of(kind, family(name, LARGE))).hexdigest()
        assert digest == golden()["activations"][kind][name], name


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind not in {WeightType.F32}])
def test_dequantization_of_any_bytes_equals_that_of_the_gguf_package(kind: WeightType) -> None:
    stored = (_words(40, 64 * 3 * block_of(kind).size) >> np.uint64(56)).astype(np.uint8).reshape(64, -1)
    with np.errstate(all="ignore"):
        theirs = gguf_dequantize(stored, GGMLQuantizationType[kind.value])
    ours = dequantize(stored, kind)
    assert ours.shape == theirs.shape
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    assert same.all()


finite = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**15), max_value=2.0**15)


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_a_lone_sub_block_beside_large_ones_is_summed_as_c_sums(kind: WeightType, ggml: Ggml) -> None:
    """Its scale comes to 0, so that it is searched again, alone: numpy adds a lone column in another order."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((1, 256)).astype(np.float32)
        x[0, 32:] = rng.choice(np.array([2543.0, -900.0], np.float32), size=224)
        x[0, :32] = np.where(rng.random(32) < 0.2, np.float32(10.25), x[0, :32])
        assert quantize(x, kind).tobytes() == ggml.quantize(kind, x).tobytes(), seed


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_any_finite_weights_give_ggmls_bytes(kind: WeightType, ggml: Ggml) -> None:
    @settings(max_examples=25, deadline=None)
    @example([2543.0, 10.25], 0, 0.0)
    @given(st.lists(finite, min_size=1, max_size=40), st.integers(0, 2**31), st.floats(-30, 12))
    def check(values: list[float], seed: int, exponent: float) -> None:
        rng = np.random.default_rng(seed)
        x = rng.choice(np.array(values, np.float32), size=(2, 256))
        noise = (rng.standard_normal((2, 256)) * 2.0**exponent).astype(np.float32)
        for data in (x, noise, np.where(rng.random((2, 256)) < 0.5, x, noise)):
            assert quantize(data, kind).tobytes() == ggml.quantize(kind, data).tobytes()

    check()


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_the_quantized_product_is_ggmls_up_to_the_order_of_its_additions(kind: WeightType, ggml: Ggml) -> None:
    rng = np.random.default_rng(7)
    weights = (rng.standard_normal((24, 768)) / 16).astype(np.float32)
    x = (rng.standard_normal((5, 768)) * rng.lognormal(size=(5, 1))).astype(np.float32)
    stored = quantize(weights, kind)
    ours = quantized_product(torch.from_numpy(x), Weight("w", kind, (24, 768), torch.from_numpy(stored))).numpy()
    theirs = np.array([[ggml.dot(kind, row, one) for row in stored] for one in x])
    dense = x.astype(np.float64) @ dequantize(stored, kind).T.astype(np.float64)
    length = np.linalg.norm(theirs)
    assert np.linalg.norm(ours - theirs) / length < 1e-6
    assert 1e-3 < np.linalg.norm(dense - theirs) / length < 1e-2, "without int8 activations it is another product"


def test_golden_bytes_are_still_what_the_installed_library_writes(ggml: Ggml) -> None:
    for kind in BLOCK_TYPES:
        for name in FAMILIES:
            stored = ggml.quantize(kind, family(name, SMALL))
            assert base64.b64encode(stored.tobytes()).decode() == golden()["blocks"][kind][name], (kind, name)
            digest = hashlib.sha256(ggml.dequantize(kind, stored).tobytes()).hexdigest()
            assert digest == golden()["dequantized"][kind][name], (kind, name)
