"""A running training as files, and back: killed at any moment, the last whole checkpoint is found and verified.

A checkpoint is a folder `step-000050` with `state.safetensors` (parameters and AdamW's two moments, by name) and
`state.json` (counters, running sums, digests). The folder is written under another name and moved to its place; the
digest in `state.json` tells a whole one. `LATEST` is only a hint: folders are tried from the newest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pv.distill.files import replace_file, sha256_file, write_json

KEEP = 2  # the newest, and one to fall back to


class CheckpointError(Exception):
    """A checkpoint of another run: its settings are not these."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Running sums of one epoch: needed after a resume, or the epoch's means would differ from an unbroken run's."""

    steps: int = 0
    total: float = 0.0
    kl: float = 0.0
    ce: float = 0.0

    def plus(self, total: float, kl: float, ce: float) -> Sums:
        return Sums(self.steps + 1, self.total + total, self.kl + kl, self.ce + ce)

    def means(self) -> tuple[float, float, float]:
        """(total, kl, ce) per step."""
        steps = max(1, self.steps)
        return self.total / steps, self.kl / steps, self.ce / steps


@dataclass(frozen=True, slots=True)
class Progressed:
    """Where a training stands: everything besides tensors that the next step depends on."""

    run: str  # digest of the settings that decide the result
    step: int = 0  # optimiser steps taken
    epoch: int = 0  # whole epochs done
    tokens_seen: int = 0
    wall_seconds: float = 0.0
    sums: Sums = field(default_factory=Sums)
    history: tuple[tuple[int, float, float, float], ...] = ()  # (step, total, kl, ce)


def save(
    folder: Path, state: Progressed, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Write `folder/step-N`; older ones beyond KEEP are removed after the new one is in place."""
    place = folder / f"step-{state.step:08d}"
    temporary = folder / f".{place.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {f"w/{name}": _own(p) for name, p in parameters.items()}
    for name, p in parameters.items():
        for moment, tensor in _moments(optimizer, p):
            tensors[f"{moment}/{name}"] = _own(tensor)
    save_file(tensors, temporary / "state.safetensors")
    write_json(
        temporary / "state.json",
        {**asdict(state), "sha256": sha256_file(temporary / "state.safetensors")},
    )
    with open(temporary / "state.safetensors", "rb+") as stream:
        os.fsync(stream.fileno())
    shutil.rmtree(place, ignore_errors=True)
    os.replace(temporary, place)
    (folder / "LATEST.tmp").write_text(place.name + "\n")
    replace_file(folder / "LATEST.tmp", folder / "LATEST")
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def restore(
    folder: Path, run: str, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Progressed | None:
    """Load the newest whole checkpoint into the parameters and the optimiser; None where there is none.

    Raises CheckpointError when it is another run's: its settings would not have led here.
    """
    for place in sorted(folder.glob("step-*"), reverse=True):
        found = _read(place)
        if found is None:
            continue
        if found["run"] != run:
            raise CheckpointError(
                f"{place} belongs to a run with other settings, data or teacher; "
                "choose another output_dir, or remove its checkpoints to start again"
            )
        _load(place, parameters, optimizer, found["step"])
        return _progressed(found)
    return None


def optimizer_state_sha(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> str:
    """sha256 over the sorted names, with dtype, shape and little-endian bytes of both moments, and the step."""
    digest = hashlib.sha256(f"step {step}\n".encode())
    for name in sorted(parameters):
        for moment, tensor in _moments(optimizer, parameters[name]):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{moment}/{name} {values.dtype} {tuple(values.shape)}\n".encode())
            digest.update(values.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[tuple[str, Tensor]]:
    state = optimizer.state.get(parameter, {})
    return [(short, state[long]) for short, long in (("m", "exp_avg"), ("v", "exp_avg_sq")) if long in state]


def _own(tensor: Tensor) -> Tensor:
    """A contiguous copy on the host: the file must not share memory with what the next step changes."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _read(place: Path) -> dict[str, Any] | None:
    """state.json, or None when the checkpoint is not whole."""
    try:
        found: dict[str, Any] = json.loads((place / "state.json").read_text(encoding="utf-8"))
        whole = sha256_file(place / "state.safetensors") == found["sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return found if whole else None


def _progressed(found: Mapping[str, Any]) -> Progressed:
    known = {name: found[name] for name in Progressed.__dataclass_fields__}
    history = tuple((int(s), float(t), float(k), float(c)) for s, t, k, c in known["history"])
    return replace(Progressed(run=known["run"]), **{**known, "sums": Sums(**known["sums"]), "history": history})


@torch.no_grad()
def _load(place: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = load_file(place / "state.safetensors")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[f"w/{name}"])
        if f"m/{name}" in tensors:
            # AdamW keeps its step as a float32 tensor, on the parameter's device when it is fused.
            fused = bool(optimizer.defaults.get("fused"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device if fused else "cpu"),
                "exp_avg": tensors[f"m/{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"v/{name}"].to(parameter.device),
            }
