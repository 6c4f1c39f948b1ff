"""Where pv keeps what can be made again, and how it writes a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def cache_root() -> Path:
    """`PV_CACHE`, else `pv` under `XDG_CACHE_HOME` or `~/.cache`. Not created here."""
    if chosen := os.environ.get("PV_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pv"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A writable file that becomes `path` when the block ends well, and vanishes when it does not.

    Raises OSError as the system does (no space, read-only); nothing is left behind under either name then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _umask() -> int:
    """The process's umask; the system offers no way to read it without setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
