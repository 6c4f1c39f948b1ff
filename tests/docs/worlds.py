"""The places where a page's commands are run: a name -> a folder as the page's reader would have it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.docs.pages import ROOT

LOCAL = shutil.ignore_patterns(".pv_cache", "__pycache__")
IDENTITY = {"GIT_AUTHOR_NAME": "reader", "GIT_AUTHOR_EMAIL": "reader@example.org"}
IDENTITY |= {"GIT_COMMITTER_NAME": "reader", "GIT_COMMITTER_EMAIL": "reader@example.org"}


def empty(folder: Path) -> None:
    """Nothing at all."""
    folder.mkdir()


def teacher(folder: Path) -> None:
    """A folder with the shipped model, under its own path and as `teacher`, and some text."""
    shutil.copytree(ROOT / "fixtures" / "tiny-teacher", folder / "teacher")
    (folder / "fixtures").mkdir()
    (folder / "fixtures" / "tiny-teacher").symlink_to(folder / "teacher")
    (folder / "text").mkdir()
    for page in (ROOT / "docs").glob("*.md"):
        shutil.copy(page, folder / "text")


def checkout(folder: Path) -> None:
    """A clone of this repository as its files are now, whose origin/main is the same."""
    folder.mkdir()
    listed = git(ROOT, "ls-files", "-z").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    repository(folder)


def sorting(folder: Path) -> None:
    """A clone of the example project, which is not about models."""
    shutil.copytree(ROOT / "examples" / "sorting", folder, ignore=LOCAL)
    (folder / ".gitignore").write_text(".pv_cache/\n__pycache__/\n")
    repository(folder)


def town(folder: Path) -> None:
    """A project whose runs are only told: a red with its stage, a drift, a known failure."""
    from tests.report.samples import town as build

    build(folder)


WORLDS: Mapping[str, Callable[[Path], None]] = {
    "empty": empty,
    "teacher": teacher,
    "checkout": checkout,
    "sorting": sorting,
    "town": town,
}


def repository(folder: Path) -> None:
    """Commit everything in the folder, on main; origin/main is the same."""
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "as it is")
    git(folder, "update-ref", "refs/remotes/origin/main", "HEAD")


def git(folder: Path, *words: str) -> str:
    """What git says. Raises CalledProcessError."""
    env = {**os.environ, **IDENTITY}
    return subprocess.run(["git", *words], cwd=folder, env=env, check=True, capture_output=True, text=True).stdout
