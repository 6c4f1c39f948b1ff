"""A folder -> a cache folder: marked as one, and kept out of version control. What is kept in it is whole, or nothing.

A cache file is one line, the identity of who may read it and the sha256 of the rest, and the rest, which is JSON.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of pv; it may be removed at any time.\n"


def make_cache_folder(folder: Path) -> None:
    """Make the folder, mark it as a cache (https://bford.info/cachedir/) and have git ignore it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("CACHEDIR.TAG", TAG), (".gitignore", "*\n")):
        if not (folder / name).exists():
            (folder / name).write_text(text, "utf-8")


def recall(file: Path, identity: str) -> Any:
    """What was kept in the file for this identity; None where it is absent, somebody else's, or damaged."""
    import json  # not at the top, nor below: a call that remembers nothing needs none of them

    try:
        head, _, body = file.read_bytes().partition(b"\n")
        return json.loads(body) if head == _head(identity, body) else None
    except (OSError, ValueError, RecursionError):
        return None


def keep(file: Path, identity: str, content: Any) -> None:
    """Keep plain data for the calls to come, in place of what is there. A cache that cannot be written is only slow."""
    import json
    import tempfile

    body = json.dumps(content, separators=(",", ":")).encode()
    with contextlib.suppress(OSError):
        make_cache_folder(file.parent)
        descriptor, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(_head(identity, body) + b"\n" + body)
            os.replace(name, file)
        except OSError:
            os.unlink(name)
            raise


def identity_of(package: Path, rooms: tuple[str, ...], *settings: object) -> str:
    """What decides what is found, beside what is looked at: the source of pv's rooms, as installed, and the settings.

    By the time at which each file was installed, too: a cache that came with somebody's branch is not this machine's.
    """
    import hashlib

    digest = hashlib.sha256(repr(settings).encode())
    for room in rooms:
        for entry in sorted(os.scandir(package / room), key=lambda entry: entry.name):
            if entry.name.endswith(".py"):
                facts = entry.stat()
                digest.update(f"{room}/{entry.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def version_of(facts: os.stat_result) -> list[int]:
    """What tells one version of a file from another without reading it: its size, and when it was changed.

    Not only the time that a program may set, but the system's own (on Windows that is the time when it was made).
    """
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _head(identity: str, body: bytes) -> bytes:
    import hashlib

    return f"{hashlib.sha256(identity.encode()).hexdigest()} {hashlib.sha256(body).hexdigest()}".encode()
