"""A tree after `git merge` -> what the merge joined, with its conflicts resolved where only pv wrote on both sides.

Records never conflict: each is a file of its own. Conflicts in contracts are of two kinds. Where both sides differ in
what pv writes (statuses, evidence, version, changelog), either will do, since settling writes it anew from the records
of both. Where people wrote on both sides, people decide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pv.contract import revisions
from pv.contract.load import Loaded, discover, load_bytes
from pv.contract.project import Project
from pv.contract.revisions import RevisionError
from pv.document import files
from pv.evidence.settle import Merged
from pv.ladder.conflicts import Resolved, has_conflicts, resolve

_MARK, _BOM = b"<<<<<<<", b"\xef\xbb\xbf"


class Merge(NamedTuple):
    """`loaded`: the files that were resolved, as they are now (or would be); `left`: those that wait for people."""

    merged: Merged
    loaded: Mapping[Path, Loaded]
    left: frozenset[Path]
    told: tuple[str, ...]


def at_hand(project: Project, paths: Sequence[str | Path], *, write: bool) -> Merge:
    """What a merge left in the contracts at `paths`; with `write`, resolved files are replaced. Raises NotWritten."""
    loaded: dict[Path, Loaded] = {}
    left: set[Path] = set()
    told: list[str] = []
    claims: dict[Path, frozenset[str]] = {}
    for path in discover(paths, project).files:
        content = _conflicting(path)
        if content is None:
            continue
        display = project.display(path)
        text = content.removeprefix(_BOM).decode("utf-8")
        found = resolve(text, display)
        told += _words(display, found)
        if found.left:
            left.add(path)
            continue
        after = content[: len(content) - len(text.encode())] + found.text.encode()
        if write:
            files.compare_and_swap(path, hashlib.sha256(content).hexdigest(), after)
        loaded[path] = load_bytes(after, path, project)
        claims[path] = found.claims
    return Merge(_joined(project)._replace(claims=claims), loaded, frozenset(left), tuple(told))


def _conflicting(path: Path) -> bytes | None:
    """The bytes of a file with conflicts; None for one without, or one that loading will complain about."""
    try:
        content = path.read_bytes()
        return content if _MARK in content and has_conflicts(content.decode("utf-8")) else None
    except (OSError, UnicodeDecodeError):
        return None


def _joined(project: Project) -> Merged:
    commits = revisions.merged(project.root)
    if not commits:
        return Merged()
    try:
        base = revisions.merge_base(project.root, commits)
        return Merged(commits, base, revisions.differing(project.root, commits))
    except RevisionError:
        return Merged()


def _words(display: str, found: Resolved) -> list[str]:
    if not found.left:
        return [f"{display}: {_count(found.resolved, 'conflict')} in what pv writes, resolved"]
    places = ", ".join(f"{display}:{line}" for line in found.left)
    ours = f"; {_count(found.resolved, 'other')} in what pv writes can stay as they are" if found.resolved else ""
    return [f"{places}: both sides changed what people write: edit it, then `pv settle` again{ours}"]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
