"""ggml's own kernels, one operation at a time, out of the llama.cpp wheel: numpy arrays in, numpy arrays out.

The wheel is one library that exports ggml's C interface; tensors and a graph of one node are built through it, and
computed by one thread. Shapes are numpy's; ggml counts dimensions from the innermost.
"""

from __future__ import annotations

import ctypes
from types import TracebackType

import numpy as np
import xllamacpp
from xllamacpp import xllamacpp as extension

_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
    "I32": 26, "BF16": 30,
}  # fmt: skip
_NEOX = 2  # the half-split rotation
_P, _F, _I = ctypes.c_void_p, ctypes.c_float, ctypes.c_int
Array = np.ndarray


class _Room(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_size_t), ("buffer", _P), ("no_alloc", ctypes.c_bool))


_LIBRARY = ctypes.CDLL(extension.__file__)
_SIGNATURES = {
    "ggml_init": (_P, [_Room]),
    "ggml_free": (None, [_P]),
    "ggml_new_tensor_4d": (_P, [_P, _I, *[ctypes.c_int64] * 4]),
    "ggml_get_data": (_P, [_P]),
    "ggml_nbytes": (ctypes.c_size_t, [_P]),
    "ggml_new_graph": (_P, [_P]),
    "ggml_build_forward_expand": (None, [_P, _P]),
    "ggml_graph_compute_with_ctx": (_I, [_P, _P, _I]),
    "ggml_rms_norm": (_P, [_P, _P, _F]),
    "ggml_mul": (_P, [_P, _P, _P]),
    "ggml_mul_mat": (_P, [_P, _P, _P]),
    "ggml_rope_ext": (_P, [_P, _P, _P, _P, _I, _I, _I, *[_F] * 6]),
    "ggml_soft_max_ext": (_P, [_P, _P, _P, _F, _F]),
    "ggml_swiglu_split": (_P, [_P, _P, _P]),
}
for _name, (_result, _arguments) in _SIGNATURES.items():
    _function = getattr(_LIBRARY, _name)
    _function.restype, _function.argtypes = _result, _arguments

VERSION = xllamacpp.__version__
FUSED_AVX2 = bool(_LIBRARY.ggml_cpu_has_avx2() and _LIBRARY.ggml_cpu_has_fma())


class Kernels:
    """A pool of ggml's memory, in which a few operations are run."""

    def __init__(self, megabytes: int = 64) -> None:
        self._pool = _LIBRARY.ggml_init(_Room(megabytes << 20, None, False))

    def __enter__(self) -> Kernels:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _LIBRARY.ggml_free(self._pool)

    def mul_mat(self, kind: str, stored: Array, rows: int, x: Array) -> Array:
        """(rows, K) weights as stored, (T, K) activations -> (T, rows), one activation row at a time."""
        w = self._tensor(stored, kind, (rows, x.shape[1]))
        one = [_LIBRARY.ggml_mul_mat(self._pool, w, self._tensor(row[None])) for row in x]
        return np.concatenate([self._run(node, (1, rows)) for node in one])

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        normed = _LIBRARY.ggml_rms_norm(self._pool, self._tensor(x), eps)
        return self._run(_LIBRARY.ggml_mul(self._pool, normed, self._tensor(weight)), x.shape)

    def rope(self, x: Array, base: float) -> Array:
        """x (T, heads, D) at positions 0 to T - 1."""
        positions = self._tensor(np.arange(len(x), dtype=np.int32), "I32")
        settings = (x.shape[-1], _NEOX, 0, base, 1.0, 0.0, 1.0, 32.0, 1.0)
        return self._run(_LIBRARY.ggml_rope_ext(self._pool, self._tensor(x), positions, None, *settings), x.shape)

    def soft_max(self, x: Array, visible: Array, scale: float) -> Array:
        """Softmax of scale x over what is visible; both (T, S)."""
        mask = self._tensor(np.where(visible, np.float32(0), np.float32(-np.inf)))
        return self._run(_LIBRARY.ggml_soft_max_ext(self._pool, self._tensor(x), mask, scale, 0.0), x.shape)

    def swiglu(self, gate: Array, up: Array) -> Array:
        return self._run(_LIBRARY.ggml_swiglu_split(self._pool, self._tensor(gate), self._tensor(up)), gate.shape)

    def _tensor(self, values: Array, kind: str = "F32", shape: tuple[int, ...] | None = None) -> int:
        values = np.ascontiguousarray(values)
        inward = [*reversed(shape or values.shape), 1, 1, 1][:4]
        tensor: int = _LIBRARY.ggml_new_tensor_4d(self._pool, _TYPES[kind], *inward)
        if _LIBRARY.ggml_nbytes(tensor) != values.nbytes:
            raise ValueError(
                f"ggml wants {_LIBRARY.ggml_nbytes(tensor)} bytes for {kind} {inward}, not {values.nbytes}"
            )
        ctypes.memmove(_LIBRARY.ggml_get_data(tensor), values.ctypes.data, values.nbytes)
        return tensor

    def _run(self, node: int, shape: tuple[int, ...]) -> Array:
        graph = _LIBRARY.ggml_new_graph(self._pool)
        _LIBRARY.ggml_build_forward_expand(graph, node)
        if _LIBRARY.ggml_graph_compute_with_ctx(self._pool, graph, 1):
            raise RuntimeError("ggml computed nothing")
        out = np.empty(shape, np.float32)
        ctypes.memmove(out.ctypes.data, _LIBRARY.ggml_get_data(node), out.nbytes)
        return out
