"""A named shape and a seed -> a model of random weights, in memory or on disk, one tensor at a time.

Random weights answer nothing sensible; they are for shapes, speed and numerics. Never judge quantized types on them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pv.model.errors import FormatError, SpecError
from pv.model.folders import cache_root, whole_file
from pv.model.safetensors_file import save_weights
from pv.model.spec import ModelSpec, config_from_spec, read_json
from pv.model.weights import TYPE_OF_DTYPE, Weight, Weights, expected_shapes

MASSIVE = 26.0  # times the RMS of the other channels (massive activations: arXiv 2402.17762)
TIED_EMBEDDING = 0.2  # small: else the logit of the very token just read towers over all others


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides a synthetic model's numbers."""

    spec: ModelSpec
    seed: int = 0
    dtype: torch.dtype = torch.float32
    massive_channel: bool = False

    @property
    def digest(self) -> str:
        """Stands in for the digest of weights on disk: equal recipes make equal numbers on the same kind of device."""
        text = json.dumps(asdict(self) | {"dtype": str(self.dtype)}, sort_keys=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def tensors(recipe: Recipe, device: torch.device | str = "cpu") -> Iterator[Weight]:
    """All tensors of the model, one at a time, on `device`; each depends on the seed and its own name alone.

    Scales follow a trained model's: matrices of variance 1/fan-in (residual writers smaller by the depth), norms near
    one, large biases of q and k, so that the residual stream has an RMS of about one throughout. With
    `massive_channel`, one hidden channel of it holds `MASSIVE` from the embedding on, as in trained 7B models.
    """
    for name, shape in expected_shapes(recipe.spec).items():
        generator = torch.Generator(device=device).manual_seed(_seed_of(recipe.seed, name))
        values = torch.empty(shape, dtype=torch.float32, device=device)
        values.normal_(generator=generator)
        values.mul_(_scale(name, shape, recipe.spec)).add_(1.0 if name.endswith("norm") else 0.0)
        if name == "final_norm" and recipe.spec.tied:
            values.mul_(recipe.spec.hidden**-0.5 / TIED_EMBEDDING)  # so that logits have a spread of about one
        if name == "embedding" and recipe.massive_channel:
            values[:, massive_index(recipe.spec)] = MASSIVE
        yield Weight.of(name, values.to(recipe.dtype))


def massive_index(spec: ModelSpec) -> int:
    """Which hidden channel is the massive one."""
    return spec.hidden // 3


def build(recipe: Recipe, device: torch.device | str = "cpu") -> Weights:
    """The whole model in the memory of `device`."""
    return Weights.checked(recipe.spec, tensors(recipe, device), f"synthetic model, seed {recipe.seed}")


def _scale(name: str, shape: tuple[int, ...], spec: ModelSpec) -> float:
    """Standard deviation of a tensor's noise."""
    if name.endswith("norm"):
        return 0.1
    if name.endswith("_bias"):
        return 0.5 if not name.endswith("v_bias") else 0.1  # Qwen2's q and k carry large biases
    if name == "embedding":
        return TIED_EMBEDDING if spec.tied else 1.0
    depth = (2 * spec.layers) ** -0.5 if name.endswith(("attn_out", "ffn_down")) else 1.0
    return float(shape[-1] ** -0.5 * depth)


def _seed_of(seed: int, name: str) -> int:
    """A tensor's own seed, so that order and shape of the others do not matter."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1


def default_directory(shape: str, recipe: Recipe) -> Path:
    """Where a synthetic model is kept when nobody names a place: in the user's cache, never in the repository."""
    parts = [shape, str(TYPE_OF_DTYPE[recipe.dtype]).lower(), f"seed{recipe.seed}"]
    return cache_root() / "models" / "-".join(parts + ["massive"] * recipe.massive_channel)


def write_model(recipe: Recipe, directory: Path, progress: Callable[[int], None] = lambda _: None) -> bool:
    """Write the model of `recipe`, tensor by tensor; False when it was there already, whole.

    Memory stays at about twice the largest tensor. `progress` hears the bytes written. `config.json` comes last: a
    directory without it is no model. Raises FormatError for a directory that holds anything else, OSError from the
    disk.
    """
    note = {"synthetic": recipe.digest}
    if (directory / "recipe.json").exists() and (directory / "config.json").exists():
        if read_json(directory / "recipe.json") == note:
            return False
        raise FormatError(f"{directory} holds a model of another recipe", "name another --output")
    if directory.exists() and any(directory.iterdir()) and not (directory / "recipe.json").exists():
        raise FormatError(f"{directory} is not empty, and holds no synthetic model", "name another --output")
    _want_space(directory, recipe)
    _write_json(directory / "recipe.json", note)
    save_weights(directory / "model.safetensors", recipe.spec, _counted(tensors(recipe), progress), recipe.dtype)
    _write_json(directory / "tokenizer.json", byte_tokenizer(recipe.spec.vocab))
    word = str(recipe.dtype).removeprefix("torch.")
    _write_json(directory / "config.json", config_from_spec(recipe.spec, word, bos_token_id=None, eos_token_id=None))
    return True


def byte_tokenizer(vocab: int) -> dict[str, Any]:
    """A `tokenizer.json` without merges: ids 0 to 255 are the bytes, every other id is written as `<id>`.

    Raises SpecError for a vocabulary that has no room for the bytes.
    """
    if vocab < len(BYTE_LETTERS):
        raise SpecError(f"expected a vocabulary of at least {len(BYTE_LETTERS)} for the byte tokenizer, got {vocab}")
    words = {letter: i for i, letter in enumerate(BYTE_LETTERS)} | {
        f"<{i}>": i for i in range(len(BYTE_LETTERS), vocab)
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": words, "merges": []},
    }


def _letters() -> tuple[str, ...]:
    """GPT-2's printable letter for every byte: the byte itself where it prints, else the next letter from 256 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(256, 512))
    return tuple(chr(byte if byte in plain else next(rest)) for byte in range(256))


BYTE_LETTERS = _letters()


def _want_space(directory: Path, recipe: Recipe) -> None:
    """Raise OSError before the first byte when the disk cannot hold the model."""
    directory.mkdir(parents=True, exist_ok=True)
    needed, free = recipe.spec.parameters * recipe.dtype.itemsize, shutil.disk_usage(directory).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"the model needs {needed:,} bytes, the disk has {free:,}", str(directory))


def _counted(found: Iterator[Weight], progress: Callable[[int], None]) -> Iterator[Weight]:
    for weight in found:
        yield weight
        progress(weight.nbytes)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        file.write((json.dumps(data, ensure_ascii=False) + "\n").encode())
