"""A path -> `Model`: spec, weights, tokenizer and digest, or one sentence that says why not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pv.model.errors import FormatError, WeightsError
from pv.model.folders import cache_root, whole_file
from pv.model.safetensors_file import PICKLE_WAYS_OUT, load_weights, shard_files
from pv.model.spec import ModelSpec, read_spec
from pv.model.tokenizer import Tokenizer, read_tokenizer
from pv.model.weights import Weights


@dataclass(frozen=True, eq=False)
class Model:
    """A model ready to be opened by a backend. Tokenizer and digest are read when first asked for."""

    spec: ModelSpec
    weights: Weights
    path: Path
    load_tokenizer: Callable[[], Tokenizer]
    compute_digest: Callable[[], str]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises TokenizerError when the model has none, or a damaged one."""
        return self.load_tokenizer()

    @cached_property
    def digest(self) -> str:
        """`sha256:…` over configuration and weights, whatever the path."""
        return self.compute_digest()


def open_model(path: str | Path) -> Model:
    """A model directory or a GGUF file -> Model. Raises ModelError (a subclass says what is wrong)."""
    path = Path(path).expanduser()
    if path.is_dir():
        return _open_directory(path)
    if not path.exists():
        raise FormatError(f"expected a model at {path}, found nothing", "give a model directory or a GGUF file")
    if not path.is_file():  # a pipe would be waited for
        raise FormatError(f"expected a model directory or a regular file at {path}, got something else")
    if path.suffix == ".gguf" or _starts_with(path, b"GGUF"):
        return _open_gguf(path)
    raise FormatError(f"expected a model directory or a GGUF file, got {path}", _ways_out(path))


def _open_directory(directory: Path) -> Model:
    if not (directory / "config.json").exists():
        inside = ", ".join(sorted(p.name for p in directory.iterdir())[:5]) or "nothing"
        hint = "a model directory holds config.json, safetensors and tokenizer.json"
        raise FormatError(f"expected config.json in {directory}, found {inside}", hint)
    files = shard_files(directory)  # "no weights here" is the better sentence, so it comes first
    spec = read_spec(directory / "config.json")
    return Model(
        spec=spec,
        weights=load_weights(directory, spec),
        path=directory,
        load_tokenizer=lambda: read_tokenizer(directory, spec.vocab),
        compute_digest=lambda: digest_of([directory / "config.json", *files]),
    )


def _open_gguf(path: Path) -> Model:
    try:
        from pv.model.gguf_file import open_gguf
    except ImportError as problem:
        raise FormatError(
            f"reading {path} needs the package {problem.name}", "pip install 'provable-contracts-pv[gguf]'"
        ) from None
    return open_gguf(path)


def _ways_out(path: Path) -> str:
    """What to do about a format that is not read."""
    if path.suffix == ".apr" or _starts_with(path, b"APR"):
        return "an .apr file is not read; export it to GGUF or safetensors with the tool that wrote it"
    if path.suffix in {".bin", ".pt", ".pth", ".pkl"} or _starts_with(path, b"\x80"):
        return f"a pickle can run code and is not read; {PICKLE_WAYS_OUT}"
    if path.suffix == ".safetensors":
        return f"name its directory instead, which holds config.json too: {path.parent}"
    return "the file is of no format that pv reads"


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as problem:
        raise FormatError(f"cannot read {path}: {problem.strerror}") from None


def digest_of(files: Iterable[Path]) -> str:
    """One digest over named files: sha256 of the lines `name sha256`. Path and time play no part."""
    try:
        lines = "".join(f"{path.name} {_sha256(path)}\n" for path in files)
    except OSError as problem:
        raise WeightsError(f"cannot read {problem.filename}: {problem.strerror}") from None
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    """A file's sha256, remembered in the user's cache by path, size and time of change (a 7B model takes a minute)."""
    state = path.stat()
    key = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ino}"
    memory = cache_root() / "digests" / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    with suppress(OSError, ValueError):
        known = memory.read_text("ascii")
        if len(known) == 64 and int(known, 16) >= 0:
            return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError), whole_file(memory) as file:  # a read-only home only costs time
        file.write(digest.encode("ascii"))
    return digest
