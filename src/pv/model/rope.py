"""Positions -> the cosines and sines of half-split rotary embeddings (Su et al. 2021, arXiv 2104.09864)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pv.model.spec import ModelSpec


@dataclass(frozen=True, slots=True, eq=False)
class RopeTables:
    """`cos` and `sin`, each (length, D/2). Computed in float64, rounded once: every backend is given these tables."""

    cos: torch.Tensor
    sin: torch.Tensor

    @classmethod
    def build(
        cls, spec: ModelSpec, length: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> RopeTables:
        """Tables for positions 0 to length - 1."""
        exponent = torch.arange(0, spec.head_dim, 2, dtype=torch.float64) / spec.head_dim  # (D/2,)
        angle = torch.outer(torch.arange(length, dtype=torch.float64), spec.rope_theta**-exponent)  # (length, D/2)
        return cls(angle.cos().to(device=device, dtype=dtype), angle.sin().to(device=device, dtype=dtype))

    @property
    def length(self) -> int:
        """How many positions the tables cover."""
        return self.cos.shape[0]

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of `positions` (T,), each (T, 1, D/2): one axis for the heads."""
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)
