"""A git revision and a path -> the bytes that stood there. git is asked by argument lists, never through a shell."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
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


def merged(folder: Path) -> tuple[str, ...]:
    """The commits that the merge at hand joins: one under way, else the last commit if it is one; () otherwise.

    Also () without git, and in a clone that is too shallow to know them.
    """
    try:
        path = _git(folder, "rev-parse", "--path-format=absolute", "--git-path", "MERGE_HEAD")
        merging = Path(path.decode().strip()) if path else None
        if merging is not None and merging.is_file():
            head = _git(folder, "rev-parse", "HEAD") or b""
            return (head.decode().strip(), *merging.read_text().split())
        line = (_git(folder, "rev-list", "--parents", "-n", "1", "HEAD") or b"").decode().split()
    except RevisionError:
        return ()
    return tuple(line[1:]) if len(line) > 2 else ()


def merge_base(folder: Path, commits: Sequence[str]) -> str | None:
    """The commit that all of them have in common; None where there is none, or nobody knows."""
    found = _git(folder, "merge-base", "--octopus", *commits)
    return found.decode().strip() if found else None


def differing(folder: Path, commits: Sequence[str]) -> frozenset[Path]:
    """The files in which a commit differs from the first one."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        return frozenset()
    found: set[Path] = set()
    for commit in commits[1:]:
        names = _git(folder, "diff", "--name-only", "--no-renames", "-z", commits[0], commit) or b""
        found |= {
            Path(top.decode().rstrip("\n"), name.decode("utf-8", "surrogateescape")) for name in names.split(b"\0")
        }
    return frozenset(path.resolve() for path in found)


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git printed; None when it exits with an error."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except OSError as error:
        raise RevisionError(f"git cannot be run: {error.strerror}; comparing with a revision needs it") from error
    if done.returncode != 0 and b"not a git repository" in done.stderr:
        raise RevisionError(f"{folder} is in no git repository; comparing with a revision needs one")
    return done.stdout if done.returncode == 0 else None
