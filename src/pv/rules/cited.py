"""The texts of an evidence block -> the files and names they cite, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pv.rules.finding import Loc

# A path has a folder or is followed by "::"; then qualified names; then, after a blank, prose that nobody checks.
_CITED = re.compile(
    r"(?P<path>[\w./@+-]*[\w-]\.[A-Za-z]\w{0,9})(?P<names>(?:::[A-Za-z_][\w.]*)*)(?P<rest>.*)", re.DOTALL
)
_NAME = re.compile(r"[A-Za-z_]\w*(?:(?:\.|::)[A-Za-z_]\w*)*")
_DIGEST = "sha256:"


class Citation(NamedTuple):
    """A file that must exist, and a name in it ("Class.method", "" for the file alone)."""

    loc: Loc
    path: str
    name: str


class NamedWithoutFile(NamedTuple):
    """An item of `function_names`: the file that defines it stands in `file_paths` beside it."""

    loc: Loc
    name: str


class Cited(NamedTuple):
    """All that one evidence block cites."""

    files: tuple[Citation, ...]
    names: tuple[NamedWithoutFile, ...]


def cited_by(block: Any, loc: Loc) -> Cited:
    """What a block cites. Prose is left alone: a text counts only when it begins with something that looks like a path.

    Read are `file_paths`, `function_names` and `test_locations` of a mapping, the items of a list, and any other text
    of the block that is a path from end to end.
    """
    files: list[Citation] = []
    names: list[NamedWithoutFile] = []
    for place, name, item in _texts(block, loc):
        if name == "function_names":
            match = _NAME.match(item.strip(" `'\"\t\n"))
            if match:
                names.append(NamedWithoutFile(place, match.group().replace("::", ".")))
        elif name not in ("notes", "status", "last_verified", "invariants_enforced"):
            found = citation(item, place, sure=name == "file_paths")
            if found is not None:
                files.append(found)
    return Cited(tuple(files), tuple(names))


def citation(item: str, loc: Loc, *, sure: bool = False) -> Citation | None:
    """The file and name that one text begins with, or None. `sure`: the text is known to begin with a path."""
    item = item.strip(" `'\"\t\n")
    if item.startswith(_DIGEST):
        return None
    match = _CITED.match(item)
    if match is None:
        return Citation(loc, item.split()[0], "") if sure and item else None
    path, names, rest = match.group("path", "names", "rest")
    looks_like_one = "/" in path or bool(names)
    followed_by_prose = not rest or rest[0].isspace() or rest[0] in "([:,;#"
    if not followed_by_prose or not (looks_like_one or sure) or path.startswith(("http", "//")):
        return None
    return Citation(loc, path, names.removeprefix("::").replace("::", "."))


def _texts(value: Any, loc: Loc, name: str = "") -> Iterator[tuple[Loc, str, str]]:
    """(place, nearest key, text) of every text in a block."""
    if isinstance(value, str):
        yield loc, name, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*loc, index), name)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*loc, key), str(key))
