"""Changes of several files -> all of them on disk, or none; a kill in between is completed by the next call.

The whole is written to one file first (`.pv-mv.json` in the project's root), synced; then each file is replaced or
removed; then that file goes. While it is there, a rename is half done, and whoever finds it finishes it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pv.document import files
from pv.document.files import Changed, NotWritten

JOURNAL = ".pv-mv.json"
LOCK_SECONDS = 10.0


class Step(NamedTuple):
    """One file: sha256 of its bytes before ("" where it is not there), and its bytes after (None: it goes)."""

    path: Path
    before: str
    after: bytes | None


class Interrupted(NamedTuple):
    """What was under way: in words, and what is left to do."""

    what: str
    steps: tuple[Step, ...]


def carry_out(root: Path, what: str, steps: Sequence[Step]) -> None:
    """Make every step, or none. Raises NotWritten (Changed) where a file is not what the plan was made from.

    Every file is locked for the time of it: who writes one of them now is waited for, and after ten seconds the whole
    is refused.
    """
    with _locked(root, [step.path for step in steps]):
        if (root / JOURNAL).exists():
            raise NotWritten(
                root / JOURNAL, "another rename was interrupted", "run `pv mv` again, it finishes that one"
            )
        for step in steps:
            if digest_of(step.path) != step.before:
                raise Changed(step.path, "it changed since it was read", "run the command again")
        files.replace_atomically(root / JOURNAL, _journal(root, what, steps))
        _make(root, steps)


def interrupted(root: Path) -> Interrupted | None:
    """A rename that was killed half-way, or None. Raises NotWritten for a journal that nobody can read."""
    path = root / JOURNAL
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_bytes())
        return Interrupted(data["what"], tuple(_step(root, each) for each in data["steps"]))
    except (ValueError, KeyError, TypeError) as error:
        raise NotWritten(path, f"it is no journal of a rename: {error}", "look at `git diff`, then remove it") from None


def finish(root: Path) -> str:
    """Complete what was interrupted; what it was, or "" where there was nothing. Raises NotWritten."""
    found = interrupted(root)
    if found is None:
        return ""
    with _locked(root, [step.path for step in found.steps]):
        for step in found.steps:
            if digest_of(step.path) not in (step.before, _sha256(step.after)):
                hint = f"put it back as it was, or remove {JOURNAL} and look at `git diff`"
                raise Changed(step.path, f"it changed since `{found.what}` was interrupted", hint)
        _make(root, found.steps)
    return found.what


def digest_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes; "" where it is not there."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def _make(root: Path, steps: Iterable[Step]) -> None:
    """Every step that is not made yet: new bytes first, so that at no moment something stands nowhere."""
    for step in sorted(steps, key=lambda each: each.after is None):
        if digest_of(step.path) == _sha256(step.after):
            continue
        if step.after is None:
            step.path.unlink()
        else:
            step.path.parent.mkdir(parents=True, exist_ok=True)
            files.replace_atomically(step.path, step.after)
    (root / JOURNAL).unlink()


@contextlib.contextmanager
def _locked(root: Path, paths: Iterable[Path]) -> Any:
    """Every file, always in the same order, so that two renames never wait for each other."""
    with contextlib.ExitStack() as held:
        for path in sorted({root / JOURNAL, *paths}):
            held.enter_context(files.locked(path, timeout=LOCK_SECONDS))
        yield


def _sha256(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()


def _journal(root: Path, what: str, steps: Sequence[Step]) -> bytes:
    def written(step: Step) -> dict[str, str | None]:
        after = None if step.after is None else base64.b64encode(step.after).decode()
        return {"path": os.path.relpath(step.path, root), "before": step.before, "after": after}

    data = {"what": what, "steps": [written(step) for step in steps]}
    return json.dumps(data, indent=1).encode() + b"\n"


def _step(root: Path, data: dict[str, str | None]) -> Step:
    after = data["after"]
    return Step(root / str(data["path"]), str(data["before"]), None if after is None else base64.b64decode(after))
