"""Whole files or none: every file of a run is written beside its place, synced, and moved there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def replace_file(temporary: Path, place: Path) -> None:
    """Move a written file to its place so that a crash leaves the old one or the new one, never a part."""
    with open(temporary, "rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, place)
    _sync_folder(place.parent)


def write_json(place: Path, value: Any) -> None:
    """Write JSON with sorted keys, atomically. Raises ValueError for NaN, which JSON cannot carry."""
    temporary = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    replace_file(temporary, place)


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a directory cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
