"""A session, tokens and a plan -> a complete capture on disk, or none at all.

Capture happens inside the forward that serves tokens: a tap receives copies and writes them away one at a time, so
logits are the same with it and without it, and memory grows by a few tensors. Everything is written to a
folder beside the target, the manifest last, and then takes the target's name; a full disk, an error or a kill leaves no
folder that passes for a capture. (Nothing is forced to the platter: what a power failure tears is refused by its size
or its sha256.)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pv.model.stages import Stage
from pv.trace import manifest as manifests
from pv.trace.aprt import AprtError, Content, open_aprt, write_new
from pv.trace.manifest import CaptureError, FileEntry, Manifest, WriteError
from pv.trace.plan import ExpectedFile, Plan, refuse_oversized_maps
from pv.trace.stages import ATTENTION_MAPS, LAYOUTS, file_layer, file_path

if TYPE_CHECKING:
    from pv.backends.protocol import Session
    from pv.model.spec import ModelSpec

Progress = Callable[[int, int, str], None]  # files done, files in all, the file just written
_BATCH = 1 << 20  # bytes that are hashed together: handing each small tensor over would cost more than hashing it
_FINGERPRINT = 1024  # values at either end that decide whether two layers' files are compared in full


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made the tensors of a capture, as the manifest states it."""

    source: str  # "pv" or "hf"
    model: str
    model_path: str
    model_digest: str
    weights: str  # types of the weights
    backend: Mapping[str, Any]
    dtype: str = "float32"
    prompt: str = ""
    left_out: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Captured(NamedTuple):
    """A finished capture: where it is, its manifest, the last logits (V,), and the tokens fed at decode steps."""

    folder: Path
    manifest: Manifest
    logits: NDArray[np.float32]
    decoded: tuple[int, ...]


class CaptureWriter:
    """Writes the files of a plan into a folder; every promised file exactly once, each of the promised shape."""

    def __init__(
        self, folder: Path, plan: Plan, spec: ModelSpec, prompt: int, progress: Progress | None = None
    ) -> None:
        self._folder, self._plan, self._spec, self._prompt = folder, plan, spec, prompt
        self._expected = {(file.stage, file.layer, file.step): file for file in plan.files(spec, prompt)}
        self._written: dict[str, FileEntry] = {}
        self._ends: dict[str, bytes] = {}
        self._made: set[str] = set()
        self._digests = _Digests()
        self._progress = progress

    def tap(self, step: int | None = None) -> CaptureTap:
        """A tap for the prefill, or for a decode step."""
        return CaptureTap(self, self._plan, step)

    def write(self, stage: Stage, layer: int | None, step: int | None, values: NDArray[np.float32]) -> None:
        """Write one tensor. Raises CaptureError when it was not promised, comes twice, or has another shape."""
        expected = self._expected.get((stage, file_layer(stage, layer), step))
        if expected is None or expected.path in self._written:
            what = "was written twice" if expected else "was not asked for"
            path = file_path(stage, layer, step)
            raise CaptureError(f"{path} {what}: the backend gave {stage} of layer {layer} out of turn")
        if self._plan.heads is not None and stage in ATTENTION_MAPS:
            values = values[list(self._plan.heads)]
        if values.shape != expected.shape:
            raise CaptureError(
                f"expected shape {expected.shape} for {expected.path}, got {values.shape} from the backend"
            )
        self._written[expected.path] = self._entry(expected, values)
        if self._progress:
            self._progress(len(self._written), len(self._expected), expected.path)

    def finish(self, origin: Origin, tokens: Sequence[int], decoded: Sequence[int]) -> Manifest:
        """Write the manifest, last of all. Raises CaptureError when a promised file did not come."""
        if missing := [file.path for file in self._expected.values() if file.path not in self._written]:
            raise CaptureError(
                f"incomplete: the forward did not give {missing[0]} ({len(missing)} of {len(self._expected)} missing)"
            )
        digests = self._digests.all()
        files = tuple(replace(self._written[file.path], sha256=digests[file.path]) for file in self._expected.values())
        manifest = Manifest(
            **{name: getattr(origin, name) for name in Origin.__slots__},
            tokens=tuple(tokens),
            decoded=tuple(decoded),
            layers=self._plan.layers,
            heads=self._plan.heads,
            spec={name: getattr(self._spec, name) for name in self._spec.__dataclass_fields__},
            files=files,
            flags=(*_not_finite(files), *self._identical(files)),
        )
        (self._folder / manifests.NAME).write_bytes(manifests.dumps(manifest).encode())
        return manifest

    def _entry(self, expected: ExpectedFile, values: NDArray[np.float32]) -> FileEntry:
        target = os.path.join(self._folder, expected.path)
        if (parent := os.path.dirname(target)) not in self._made:
            os.makedirs(parent, exist_ok=True)
            self._made.add(parent)
        content = write_new(target, expected.layer, values)
        self._digests.add(expected.path, content)
        flat = content.values
        self._ends[expected.path] = flat[:_FINGERPRINT].tobytes() + flat[-_FINGERPRINT:].tobytes()
        first = 0 if expected.step is None else self._prompt + expected.step - 1
        last = self._prompt + (expected.step or 0)
        nan, infinite = _count_not_finite(flat)
        return FileEntry(
            expected.path, expected.stage, expected.layer, expected.step, expected.shape, LAYOUTS[expected.stage],
            last - 1 if expected.stage is Stage.LM_HEAD else first, last, content.size, "", nan, infinite,
        )  # fmt: skip

    def _identical(self, files: Sequence[FileEntry]) -> Iterator[str]:
        """Layers of one stage with equal values: a stale buffer, unless a single token makes them so."""
        first_with: dict[tuple[Any, ...], FileEntry] = {}
        for entry in files:
            if entry.last - entry.first < 2 or entry.layer is None:
                continue
            other = first_with.setdefault((entry.stage, entry.step, entry.shape, self._ends[entry.path]), entry)
            if other is not entry and self._same_values(other, entry):
                yield f"identical: {entry.path} has the very values of {other.path}"

    def _same_values(self, one: FileEntry, other: FileEntry) -> bool:
        a, b = (open_aprt(self._folder / entry.path).values.view(np.uint32) for entry in (one, other))
        return bool(np.array_equal(a, b))


class _Digests:
    """sha256 of what was written, taken in a thread while the forward goes on; at most a few batches wait."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "pv-sha256")
        self._batch: list[tuple[str, Content]] = []
        self._running: deque[Future[dict[str, str]]] = deque()
        self._done: dict[str, str] = {}

    def add(self, path: str, content: Content) -> None:
        """Take a file on. Waits for an earlier batch when two are under way."""
        self._batch.append((path, content))
        if sum(one.size for _, one in self._batch) >= _BATCH:
            self._start()

    def all(self) -> dict[str, str]:
        """Path -> sha256, of all that was added."""
        self._start()
        while self._running:
            self._done |= self._running.popleft().result()
        self._thread.shutdown()
        return self._done

    def _start(self) -> None:
        while len(self._running) > 1:
            self._done |= self._running.popleft().result()
        batch, self._batch = self._batch, []
        self._running.append(self._thread.submit(lambda: {path: content.sha256() for path, content in batch}))


class CaptureTap:
    """A `pv.backends.protocol.Tap` that writes what its plan asks for and is inert everywhere else."""

    def __init__(self, writer: CaptureWriter, plan: Plan, step: int | None) -> None:
        self._writer, self._plan, self._step = writer, plan, step

    def wants(self, stage: Stage, layer: int | None) -> bool:
        """Whether the plan asks for this stage of this layer."""
        return self._plan.wants(stage, layer)

    def take(self, stage: Stage, layer: int | None, values: np.ndarray) -> None:
        """Write a copy away."""
        self._writer.write(stage, layer, self._step, values)


def capture(
    session: Session,
    tokens: Sequence[int],
    plan: Plan,
    output: Path,
    origin: Origin,
    *,
    feed: Sequence[int] = (),
    progress: Progress | None = None,
) -> Captured:
    """Run a prompt (and decode steps, greedy, or fed from `feed`) on an empty session and capture what the plan asks.

    Raises CaptureError when the folder cannot be written whole, SelectionError for an attention map over the bound,
    and what the session raises.
    """
    refuse_oversized_maps(plan, session.spec, len(tokens))
    with staged(output, plan, session.spec, len(tokens)) as folder:
        writer = CaptureWriter(folder, plan, session.spec, len(tokens), progress)
        logits = session.prefill(tokens, writer.tap() if plan.prefill else None)
        decoded = []
        for step in range(1, max(plan.steps, default=0) + 1):
            token = int(feed[step - 1]) if len(feed) >= step else int(np.argmax(logits))
            logits = session.decode(token, writer.tap(step) if step in plan.steps else None)
            decoded.append(token)
        manifest = writer.finish(origin, tokens, decoded)
    return Captured(output, manifest, logits, tuple(decoded))


@contextlib.contextmanager
def staged(output: Path, plan: Plan, spec: ModelSpec, prompt: int) -> Iterator[Path]:
    """A private folder beside `output` that takes its name when the block ends well, and vanishes when it does not.

    `output` may be absent, empty, or an earlier capture, which is replaced; anything else is refused.
    Raises CaptureError for that, for a disk that has no room or no write permission, and for any failed write.
    """
    needed = sum(file.size for file in plan.files(spec, prompt))
    if not needed:
        raise CaptureError("nothing to capture: the plan names no stage of any layer")
    output = Path(os.path.realpath(output))  # behind a link the folder itself gives way, not the link
    _refuse_foreign(output)
    private = output.with_name(f".{output.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(output.parent).free
        if free < needed:
            raise WriteError(f"no room for the capture: {needed} bytes are needed at {output}, {free} are free")
        private.mkdir()
        yield private
        _take_name(private, output)
    except (OSError, AprtError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise WriteError(f"cannot write the capture {output}: {reason}", "nothing was left behind") from error
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _take_name(private: Path, output: Path) -> None:
    """Rename into place; an earlier capture gives way only once the new one is whole."""
    if not output.exists():
        os.rename(private, output)
        return
    old = private.with_suffix(".old")
    os.rename(output, old)
    try:
        os.rename(private, output)
    except OSError:
        os.rename(old, output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _refuse_foreign(output: Path) -> None:
    """Raise CaptureError unless `output` is absent, an empty folder, or a capture of ours and nothing else."""
    if not output.exists():
        return
    if not output.is_dir():
        raise CaptureError(f"expected a folder for the capture, found a file at {output}")
    if output.samefile(os.curdir):
        raise CaptureError(f"{output} is the folder you stand in, and it would be replaced", "name one inside it")
    inside = [path for path in output.rglob("*") if not path.is_dir()]
    if not inside:
        return
    ours = {output / manifests.NAME}
    with contextlib.suppress(CaptureError):
        ours |= {output / entry.path for entry in manifests.read(output).files}
    if foreign := sorted(set(inside) - ours):
        raise CaptureError(
            f"{output} holds {foreign[0].relative_to(output)}, which is of no capture that could be replaced",
            "name another --output",
        )


def _not_finite(files: Sequence[FileEntry]) -> Iterator[str]:
    for entry in files:
        if entry.nan or entry.infinite:
            yield f"not finite: {entry.path} holds {entry.nan} NaN and {entry.infinite} infinite values"


def _count_not_finite(flat: NDArray[np.float32]) -> tuple[int, int]:
    if np.isfinite(flat).all():
        return 0, 0
    return int(np.isnan(flat).sum()), int(np.isinf(flat).sum())
