"""A git revision and a path -> the bytes that stood there. git is asked by argument lists, never through a shell."""

from __future__ import annotations

import subprocess
from pathlib import Path


class RevisionError(Exception):
    """git cannot answer; the message says what was asked and what to do."""


def content_at(revision: str, path: Path) -> bytes | None:
    """The bytes of the file at `path` in `revision`; None when the revision has no such file.

    Raises RevisionError where there is no git, no repository, or no such revision.
    """
    folder = path.resolve().parent
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise RevisionError(f"expected a git revision, found {revision!r}, which this repository does not know")
    name = commit.decode().strip()
    if _git(folder, "cat-file", "-e", f"{name}:./{path.name}") is None:
        return None
    return _git(folder, "cat-file", "blob", f"{name}:./{path.name}")


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git printed; None when it exits with an error."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except OSError as error:
        raise RevisionError(f"git cannot be run: {error.strerror}; comparing with a revision needs it") from error
    if done.returncode != 0 and b"not a git repository" in done.stderr:
        raise RevisionError(f"{folder} is in no git repository; comparing with a revision needs one")
    return done.stdout if done.returncode == 0 else None
