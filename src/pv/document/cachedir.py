"""A folder -> a cache folder: marked as one, and kept out of version control."""

from __future__ import annotations

from pathlib import Path

TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of pv; it may be removed at any time.\n"


def make_cache_folder(folder: Path) -> None:
    """Make the folder, mark it as a cache (https://bford.info/cachedir/) and have git ignore it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("CACHEDIR.TAG", TAG), (".gitignore", "*\n")):
        if not (folder / name).exists():
            (folder / name).write_text(text, "utf-8")
