"""Kernels over blocks, compiled for cards that are not here: before Hopper none may ask for dependent launch."""

from __future__ import annotations

import os
from typing import Any

import pytest

if os.environ.get("PV_REQUIRE_GPU"):
    import triton
else:
    triton = pytest.importorskip("triton", reason="no Triton here: nothing to compile with")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pv.backends import quant_step, triton_prompt, triton_quant

pytestmark = pytest.mark.gpu

AMPERE, ADA, HOPPER = 80, 89, 90
VECTOR = {"ROWS": 2, "STEP": 32, "ADD": False}
TILE = {"n": 4, "ROWS": 64, "TOKENS": 16}
# Kernel, the types of its arguments in their order, its constants.
KERNELS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "codes": (triton_quant._to_codes, "*fp32 *i8 *fp32 *i32 i32", {"SUPER": True}),
    "Q4_K": (triton_quant._q4_k, "*i32 *fp32 *i32 *i32 *i32 *fp16 *fp32 *fp32 *fp32 i32", {"U": 56, **VECTOR}),
    "Q6_K": (triton_quant._q6_k, "*i32 *fp32 *i32 *i32 *i32 *i32 *fp16 *fp32 *fp32 *fp32 i32", {"U": 28, **VECTOR}),
    "Q8_0": (triton_quant._q8_0, "*i32 *fp32 *i32 *fp16 *fp32 *fp32 *fp32 i32", {"U": 112, **VECTOR}),
    "norm": (quant_step._norm_codes, "*fp32 *fp32 *fp32 *i8 *fp32 *i32 fp32", {"H": 896, "BLOCK": 1024, "SUPER": True}),
    "rope": (
        quant_step._rope_append, "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *i64 i32",
        {"QUERY": 14, "KEY": 2, "HALF": 32, "BLOCK": 32},
    ),
    "gate": (quant_step._silu_multiply_codes, "*fp32 *fp32 *fp32 *fp32 *i8 *fp32 *i32", {"F": 4864, "SUPER": True}),
}  # fmt: skip
PROMPTS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "Q4_K": (triton_prompt._q4_k, "*i8 *fp32 *u8 *i32 *fp16 *fp32 i32 i32", TILE),
    "Q6_K": (triton_prompt._q6_k, "*i8 *fp32 *u8 *u8 *i8 *fp16 *fp32 i32 i32", TILE),
    "Q8_0": (triton_prompt._q8_0, "*i8 *fp32 *i8 *fp16 *fp32 i32 i32", TILE),
}


def ptx(kernel: Any, types: str, constants: dict[str, Any], capability: int) -> str:
    """What Triton and ptxas make of a kernel for one generation of cards; they raise for what it has not."""
    signature = dict(zip(kernel.arg_names, types.split(), strict=False)) | dict.fromkeys(constants, "constexpr")
    assert list(signature) == kernel.arg_names
    at = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=at)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert made.asm["cubin"]
    return str(made.asm["ptx"])


@pytest.mark.parametrize("capability", [AMPERE, ADA])
@pytest.mark.parametrize("name", KERNELS)
def test_before_hopper_no_kernel_asks_for_dependent_launch(name: str, capability: int) -> None:
    kernel, types, constants = KERNELS[name]
    assert "griddepcontrol" not in ptx(kernel, types, constants | {"CARD": 1}, capability)


@pytest.mark.parametrize("name", KERNELS)
def test_on_hopper_every_kernel_asks_for_it(name: str) -> None:
    kernel, types, constants = KERNELS[name]
    assert "griddepcontrol" in ptx(kernel, types, constants | {"CARD": 2}, HOPPER)


@pytest.mark.parametrize("capability", [AMPERE, ADA, HOPPER])
@pytest.mark.parametrize("name", PROMPTS)
def test_tiles_of_a_prompt_compile_for_every_card(name: str, capability: int) -> None:
    assert "mma" in ptx(*PROMPTS[name], capability)


def test_what_the_kernels_are_told_follows_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for has, card in ((False, 1), (True, 2)):
        monkeypatch.setattr(triton_quant, "dependent_launch", lambda device, has=has: has)
        triton_quant.card_of.cache_clear()
        assert triton_quant.card_of(torch.device("cuda", 0)) == card
    triton_quant.card_of.cache_clear()
