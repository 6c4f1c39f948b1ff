"""What a run said -> the same without the places of the machine it ran on: records and their logs are shared.

`<project>`, `<scratch>` (the run's own folder), `<tmp>`, `<home>` and `<python>` stand for the folders.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pv.falsify.protocol import Answer, Request

SHARED = frozenset({"/", "/usr", "/usr/local"})  # say nothing of a machine, and stand at the head of much


def answer_without_places(answer: Answer, request: Request) -> Answer:
    """The answer with reason and notes that name no place of this machine."""
    notes = tuple(text_without_places(note, request) for note in answer.notes)
    return replace(answer, reason=text_without_places(answer.reason, request), notes=notes)


def log_without_places(log: bytes, request: Request) -> bytes:
    """The same for the bytes of a log, whatever their encoding."""
    return text_without_places(log.decode("utf-8", "surrogateescape"), request).encode("utf-8", "surrogateescape")


def text_without_places(text: str, request: Request) -> str:
    """Every path below one of this run's folders, and the folder itself, begins with that folder's name."""
    pattern, names = _places(request.project, request.scratch)
    return pattern.sub(lambda match: names[match[0]], text)


@lru_cache(maxsize=64)
def _places(project: Path, scratch: Path) -> tuple[re.Pattern[str], dict[str, str]]:
    """What to look for, the longest first, and what to write instead. The end of a path's part must follow."""
    named: dict[str, str] = {}
    for name, folder in _folders(project, scratch):
        for spelt in (str(folder), folder.as_posix(), os.path.realpath(folder)):
            if spelt not in SHARED:
                named.setdefault(spelt, name)
    longest_first = sorted(named, key=len, reverse=True)
    return re.compile(rf"(?:{'|'.join(map(re.escape, longest_first))})(?!\.?[\w-])"), named


def _folders(project: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    yield "<scratch>", scratch
    yield "<project>", project
    yield "<tmp>", Path(tempfile.gettempdir())
    if home := os.path.expanduser("~"):
        yield "<home>", Path(home)
    yield "<python>", Path(sys.prefix)
    yield "<python>", Path(sys.base_prefix)
