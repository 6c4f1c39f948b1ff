"""A folder -> `Capture`: verified against its manifest, its tensors opened one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pv.model.stages import Stage
from pv.trace import manifest as manifests
from pv.trace.aprt import AprtError, AprtTensor, is_aprt, open_aprt, sha256_of
from pv.trace.manifest import DamagedError, FileEntry, Manifest
from pv.trace.stages import file_layer


@dataclass(frozen=True, slots=True)
class Capture:
    """A complete capture on disk. Nothing of its values is in memory."""

    folder: Path
    manifest: Manifest

    def entry(self, stage: Stage, layer: int | None, step: int | None = None) -> FileEntry | None:
        """The file of a stage, or None when the capture does not hold it."""
        wanted = (stage, file_layer(stage, layer), step)
        return next((e for e in self.manifest.files if (e.stage, e.layer, e.step) == wanted), None)

    def open(self, entry: FileEntry) -> AprtTensor:
        """Map a file and hold it against the manifest. Raises DamagedError naming it."""
        try:
            tensor = open_aprt(self.folder / entry.path)
        except FileNotFoundError:
            raise DamagedError(f"missing: {self.folder / entry.path}, which the manifest promises") from None
        except (AprtError, OSError) as error:
            raise DamagedError(str(error)) from None
        header, promised = (tensor.layer, tensor.values.size), (entry.layer, prod(entry.shape))
        if header != promised:
            raise DamagedError(
                f"swapped: {self.folder / entry.path} holds layer {header[0]} with {header[1]} elements, expected "
                f"layer {promised[0]} with {promised[1]} by the manifest"
            )
        return tensor

    def verify(self, entries: Sequence[FileEntry] | None = None) -> None:
        """Read every byte and hold it against the recorded sha256. Raises DamagedError naming the first difference."""
        for entry in self.manifest.files if entries is None else entries:
            self.open(entry)
            found = sha256_of(self.folder / entry.path)
            if found != entry.sha256:
                raise DamagedError(
                    f"altered or swapped: {self.folder / entry.path} has sha256 {found}, the manifest {entry.sha256}"
                )


def is_capture(path: Path) -> bool:
    """Whether a folder looks like a capture: it has a manifest, or APRT files where a capture has them.

    A model's folder never does, though it may hold a `manifest.json` or `*.bin` of its own.
    """
    if not path.is_dir() or (path / "config.json").exists():
        return False
    return (path / manifests.NAME).exists() or any(is_aprt(file) for file in _bins(path))


def open_capture(folder: Path) -> Capture:
    """Open a capture; every promised file must be there with its size, and no other. Raises CaptureError.

    Only headers are read here. `Capture.verify` reads the rest.
    """
    manifest = manifests.read(folder)
    capture = Capture(folder, manifest)
    for entry in manifest.files:
        capture.open(entry)
    promised = {folder / entry.path for entry in manifest.files}
    if extra := sorted(set(_bins(folder)) - promised):
        raise DamagedError(f"extra: {extra[0]} is not in the manifest ({len(extra)} such files)")
    return capture


def _bins(folder: Path) -> Iterator[Path]:
    """Files at the places where a capture has its tensors."""
    for pattern in ("*.bin", "layer-*/*.bin", "step-*/*.bin", "step-*/layer-*/*.bin"):
        yield from folder.glob(pattern)
