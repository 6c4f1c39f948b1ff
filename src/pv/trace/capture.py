"""A session, tokens and a plan -> a complete capture on disk, or none at all.

Capture happens inside the forward that serves tokens: a tap receives copies, so logits are the same with it and
without it; a thread writes and hashes them while the forward goes on, and memory grows by a few tensors. Everything is
written to a folder beside the target, the manifest last, and then takes the target's name; a full disk, an error or a
kill leaves no folder that passes for a capture. (Nothing is forced to the platter: what a power failure tears is
refused by its size or its sha256.)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pv.model.stages import Stage
from pv.trace import manifest as manifests
from pv.trace.aprt import AprtError, open_aprt, write_new
from pv.trace.manifest import CaptureError, FileEntry, Manifest, WriteError
from pv.trace.plan import ExpectedFile, Plan, refuse_oversized_maps
from pv.trace.stages import ATTENTION_MAPS, LAYOUTS, file_layer, file_path

if TYPE_CHECKING:
    from pv.backends.protocol import Session
    from pv.model.spec import ModelSpec

Progress = Callable[[int, int, str], None]  # files taken, files in all, the file just taken
_BATCH = 1 << 18  # bytes that are handed over together: for each small tensor alone it would cost more than the work
_AHEAD = 4 << 20  # bytes that may be under way, beside one tensor, before the forward waits for the disk
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
    """Writes the files of a plan into a folder; every promised file exactly once, each of the promised shape.

    As a context manager it leaves no thread behind that still writes into the folder when the block fails.
    """

    def __init__(
        self, folder: Path, plan: Plan, spec: ModelSpec, prompt: int, progress: Progress | None = None
    ) -> None:
        self._folder, self._plan, self._spec, self._prompt = folder, plan, spec, prompt
        self._expected = {(file.stage, file.layer, file.step): file for file in plan.files(spec, prompt)}
        self._given: set[str] = set()
        self._scribe = _Scribe(folder)
        self._progress = progress

    def __enter__(self) -> CaptureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scribe.stop()

    def tap(self, step: int | None = None) -> CaptureTap:
        """A tap for the prefill, or for a decode step."""
        return CaptureTap(self, self._plan, step)

    def write(self, stage: Stage, layer: int | None, step: int | None, values: NDArray[np.float32]) -> None:
        """Take one tensor, which nobody may change any more, to be written beside the forward.

        Raises CaptureError when it was not promised, comes twice, or has another shape, and what an earlier write
        raised.
        """
        expected = self._expected.get((stage, file_layer(stage, layer), step))
        if expected is None or expected.path in self._given:
            what = "was written twice" if expected else "was not asked for"
            path = file_path(stage, layer, step)
            raise CaptureError(f"{path} {what}: the backend gave {stage} of layer {layer} out of turn")
        if self._plan.heads is not None and stage in ATTENTION_MAPS:
            values = values[list(self._plan.heads)]
        if values.shape != expected.shape:
            raise CaptureError(
                f"expected shape {expected.shape} for {expected.path}, got {values.shape} from the backend"
            )
        self._given.add(expected.path)
        self._scribe.add(expected, values)
        if self._progress:
            self._progress(len(self._given), len(self._expected), expected.path)

    def finish(self, origin: Origin, tokens: Sequence[int], decoded: Sequence[int]) -> Manifest:
        """Write the manifest, last of all. Raises CaptureError when a promised file is missing, or what a write did."""
        if missing := [file.path for file in self._expected.values() if file.path not in self._given]:
            raise CaptureError(
                f"incomplete: the forward did not give {missing[0]} ({len(missing)} of {len(self._expected)} missing)"
            )
        kept = self._scribe.all()
        files = tuple(self._entry(file, kept[file.path]) for file in self._expected.values())
        manifest = Manifest(
            **{name: getattr(origin, name) for name in Origin.__slots__},
            tokens=tuple(tokens),
            decoded=tuple(decoded),
            layers=self._plan.layers,
            heads=self._plan.heads,
            spec={name: getattr(self._spec, name) for name in self._spec.__dataclass_fields__},
            files=files,
            flags=(*_not_finite(files), *self._identical(files, kept)),
        )
        (self._folder / manifests.NAME).write_bytes(manifests.dumps(manifest).encode())
        return manifest

    def _entry(self, file: ExpectedFile, kept: _Kept) -> FileEntry:
        first = 0 if file.step is None else self._prompt + file.step - 1
        last = self._prompt + (file.step or 0)
        return FileEntry(
            file.path, file.stage, file.layer, file.step, file.shape, LAYOUTS[file.stage],
            last - 1 if file.stage is Stage.LM_HEAD else first, last, kept.size, kept.sha256, kept.nan, kept.infinite,
        )  # fmt: skip

    def _identical(self, files: Sequence[FileEntry], kept: Mapping[str, _Kept]) -> Iterator[str]:
        """Layers of one stage with equal values: a stale buffer, unless a single token makes them so."""
        first_with: dict[tuple[Any, ...], FileEntry] = {}
        for entry in files:
            if entry.last - entry.first < 2 or entry.layer is None:
                continue
            other = first_with.setdefault((entry.stage, entry.step, entry.shape, kept[entry.path].ends), entry)
            if other is not entry and self._same_values(other, entry):
                yield f"identical: {entry.path} has the very values of {other.path}"

    def _same_values(self, one: FileEntry, other: FileEntry) -> bool:
        a, b = (open_aprt(self._folder / entry.path).values.view(np.uint32) for entry in (one, other))
        return bool(np.array_equal(a, b))


class _Kept(NamedTuple):
    """What is known of a file once it is written; `ends`: the bytes of its first and last values."""

    size: int
    sha256: str
    ends: bytes
    nan: int
    infinite: int


class _Scribe:
    """Writes tensors, hashes them and looks for NaN, in a thread while the forward goes on; few tensors wait for it.

    Writing, hashing and numpy's reductions let the forward's thread run meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._made = {""}  # folders that are there; the thread's own
        self._thread = ThreadPoolExecutor(1, "pv-capture")
        self._batch: list[tuple[ExpectedFile, NDArray[np.float32]]] = []
        self._waiting = 0  # bytes of the batch
        self._running: deque[tuple[int, Future[dict[str, _Kept]]]] = deque()  # bytes of a batch, and the batch
        self._under_way = 0  # bytes of all that run
        self._done: dict[str, _Kept] = {}

    def add(self, file: ExpectedFile, values: NDArray[np.float32]) -> None:
        """Take a tensor on. Waits for an earlier batch when some are under way; raises what its writing raised."""
        self._batch.append((file, values))
        self._waiting += values.nbytes
        if self._waiting >= _BATCH:
            self._start()

    def all(self) -> dict[str, _Kept]:
        """Path -> what was kept, of all that was added. Raises what writing raised."""
        self._start()
        self._wait(0)
        self._thread.shutdown()
        return self._done

    def stop(self) -> None:
        """Give up what waits, and wait until nothing is being written."""
        self._thread.shutdown(cancel_futures=True)

    def _start(self) -> None:
        self._wait(_AHEAD)
        self._running.append((self._waiting, self._thread.submit(self._keep, self._batch)))
        self._under_way += self._waiting
        self._batch, self._waiting = [], 0

    def _wait(self, most: int) -> None:
        """Until at most `most` bytes are under way."""
        while self._under_way > most:
            size, batch = self._running.popleft()
            self._done |= batch.result()
            self._under_way -= size

    def _keep(self, batch: Sequence[tuple[ExpectedFile, NDArray[np.float32]]]) -> dict[str, _Kept]:
        kept = {}
        for file, values in batch:
            if (parent := file.path.rpartition("/")[0]) not in self._made:
                os.makedirs(os.path.join(self._folder, parent), exist_ok=True)
                self._made.add(parent)
            content = write_new(f"{self._folder}/{file.path}", file.layer, values)
            ends = content.values[:_FINGERPRINT].tobytes() + content.values[-_FINGERPRINT:].tobytes()
            kept[file.path] = _Kept(content.size, content.sha256(), ends, *_count_not_finite(content.values))
        return kept


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
    with (
        staged(output, plan, session.spec, len(tokens)) as folder,
        CaptureWriter(folder, plan, session.spec, len(tokens), progress) as writer,
    ):
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
    if np.isfinite(flat.max()) and np.isfinite(flat.min()):  # a NaN is both; no array of flags in the usual case
        return 0, 0
    return int(np.isnan(flat).sum()), int(np.isinf(flat).sum())
