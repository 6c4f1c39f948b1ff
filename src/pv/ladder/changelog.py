"""A document, a version and a sentence -> one entry more in whatever shape the file's changelog has.

Seven shapes occur in real files: a list of texts; a list of mappings whose text is a text or a list; a mapping from
version to a text, to a list, or to a mapping; and one literal block of text. An entry of ours is told by its mark, so
that a second run before the next commit rewrites it instead of adding another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pv.contract.meaning import numbers_of
from pv.ladder.draft import Block, Draft, Loc, Unsafe

MARK = "pv: "  # begins our sentences
PLACES: tuple[Loc, ...] = (("metadata", "changelog"), ("changelog",))
TEXT_KEYS = ("changes", "change", "description", "summary", "notes", "note", "text", "message", "what", "details")
VERSION_KEYS = ("version", "v", "ver", "release")
DATE_KEYS = ("date", "released", "on", "when", "updated")
_ENTRY = re.compile(
    r"(?P<v>v?)(?P<version>\d+(?:\.\d+){1,2})(?P<date> *\(\d{4}-\d\d-\d\d\))?(?P<between> *(?:[:—–-]+ +|: *| +))"
)


class Entry(NamedTuple):
    """What an entry says."""

    version: str
    date: str
    sentence: str

    @property
    def text(self) -> str:
        """The sentence with our mark."""
        return MARK + self.sentence


def add_entry(draft: Draft, entry: Entry) -> bool:
    """Add the entry, or rewrite ours of that version. False where the file has no changelog.

    Raises Unsafe for a shape that pv does not know, or a place that cannot be edited.
    """
    for loc in PLACES:
        written = draft.document.get(loc)
        if written is None or written in ([], {}, ""):
            continue
        if isinstance(written, list):
            _add_to_list(draft, loc, written, entry)
        elif isinstance(written, Mapping):
            _add_to_mapping(draft, loc, written, entry)
        elif isinstance(written, str):
            _add_to_text(draft, loc, written, entry)
        else:
            raise Unsafe("the changelog is neither a list, nor a mapping, nor a text", draft.line_of(loc))
        return True
    return False


def entries(written: Any) -> tuple[str, ...]:
    """The entries of a changelog that has one to a line: those of a list of texts, or the lines of a text."""
    if isinstance(written, list):
        return tuple(item for item in written if isinstance(item, str))
    return tuple(line for line in written.split("\n") if _version_of(line)) if isinstance(written, str) else ()


def in_order(lines: Sequence[str], items: Sequence[str]) -> list[str]:
    """Lines of list items by version, in the order that the changelog `items` has; those of one version by text."""
    newest_first = _newest_first([_version_of(item) for item in items])

    def key(line: str) -> tuple[tuple[int, ...], str]:
        return _numbers(_version_of(line.strip().lstrip("- '\""))) or (), line

    return sorted(dict.fromkeys(lines), key=key, reverse=newest_first)


# --- a list ----------------------------------------------------------------------------------------------------------


def _add_to_list(draft: Draft, loc: Loc, items: list[Any], entry: Entry) -> None:
    if all(isinstance(item, str) for item in items):
        _add_text_item(draft, loc, items, entry)
    elif all(isinstance(item, Mapping) for item in items):
        _add_mapping_item(draft, loc, items, entry)
    else:
        raise Unsafe("the items of the changelog are of different kinds", draft.line_of(loc))


def _add_text_item(draft: Draft, loc: Loc, items: list[str], entry: Entry) -> None:
    versions = [_version_of(item) for item in items]
    for index, version in enumerate(versions):
        if version == entry.version:
            if MARK in items[index]:
                draft.replace((*loc, index), _like(items[index], entry))
            return  # somebody wrote what this version is about
    newest_first = _newest_first(versions)
    like = items[0] if newest_first else items[-1]
    draft.insert_item(loc, 0 if newest_first else len(items), _like(like, entry))


def _add_mapping_item(draft: Draft, loc: Loc, items: list[Mapping[str, Any]], entry: Entry) -> None:
    first = items[0]
    version_key = next((key for key in VERSION_KEYS if key in first), None)
    text_key = next((key for key in TEXT_KEYS if key in first), None)
    if version_key is None or text_key is None:
        raise Unsafe(f"an entry of the changelog has no key of {VERSION_KEYS} and {TEXT_KEYS}", draft.line_of(loc))
    versions = [_bare(str(item.get(version_key, ""))) for item in items]
    for index, version in enumerate(versions):
        if version == entry.version:
            _rewrite(draft, (*loc, index, text_key), items[index].get(text_key), entry)
            return
    like = first if _newest_first(versions) else items[-1]
    new: dict[str, Block] = {}
    for key in like:
        if key == version_key:
            new[key] = _prefix(str(like[key])) + entry.version
        elif key in DATE_KEYS:
            new[key] = entry.date
        elif key == text_key:
            new[key] = [entry.text] if isinstance(like[key], list) else entry.text
    draft.insert_item(loc, 0 if like is first else len(items), new)


# --- a mapping -------------------------------------------------------------------------------------------------------


def _add_to_mapping(draft: Draft, loc: Loc, written: Mapping[str, Any], entry: Entry) -> None:
    versions = [_bare(str(key)) for key in written]
    if not all(versions):
        raise Unsafe("a key of the changelog is no version", draft.line_of(loc))
    for key, version in zip(written, versions, strict=True):
        if version == entry.version:
            _rewrite_value(draft, (*loc, key), written[key], entry)
            return
    newest_first = _newest_first(versions)
    like_key = next(iter(written)) if newest_first else list(written)[-1]
    value = _value_like(written[like_key], entry)
    if value is None:
        raise Unsafe("the changelog holds something else than texts", draft.line_of(loc))
    draft.insert_key(loc, 0 if newest_first else len(written), _prefix(str(like_key)) + entry.version, value)


def _value_like(written: Any, entry: Entry) -> Block | None:
    if isinstance(written, str):
        return entry.text
    if isinstance(written, list):
        return [entry.text]
    if isinstance(written, Mapping):
        text_key = next((key for key in TEXT_KEYS if key in written), None)
        if text_key is None:
            return None
        value: dict[str, Any] = {}
        for key in written:
            if key in DATE_KEYS:
                value[key] = entry.date
            elif key == text_key:
                value[key] = [entry.text] if isinstance(written[key], list) else entry.text
        return value
    return None


def _rewrite_value(draft: Draft, loc: Loc, written: Any, entry: Entry) -> None:
    if isinstance(written, Mapping):
        text_key = next((key for key in TEXT_KEYS if key in written), None)
        if text_key is not None:
            _rewrite(draft, (*loc, text_key), written[text_key], entry)
    else:
        _rewrite(draft, loc, written, entry)


def _rewrite(draft: Draft, loc: Loc, written: Any, entry: Entry) -> None:
    """Bring our own sentence of this version up to date; leave anybody else's."""
    if isinstance(written, str) and written.startswith(MARK):
        draft.replace(loc, entry.text)
    elif isinstance(written, list):
        for index, item in enumerate(written):
            if isinstance(item, str) and item.startswith(MARK):
                draft.replace((*loc, index), entry.text)


# --- a text ----------------------------------------------------------------------------------------------------------


def _add_to_text(draft: Draft, loc: Loc, written: str, entry: Entry) -> None:
    """A literal block keeps its lines; a folded or quoted one would join ours to another."""
    lines = written.split("\n")
    heads = [(index, version) for index, line in enumerate(lines) if (version := _version_of(line))]
    if not heads:
        raise Unsafe("no line of the changelog begins with a version", draft.line_of(loc))
    for index, version in heads:
        if version == entry.version:
            if MARK in lines[index]:
                draft.replace_literal_line(loc, index, _like(lines[index], entry))
            return
    newest_first = _newest_first([version for _, version in heads])
    at = heads[0][0] if newest_first else len(written.rstrip("\n").split("\n"))
    like = lines[heads[0][0]] if newest_first else lines[heads[-1][0]]
    draft.insert_literal_line(loc, at, _like(like, entry))


# --- versions --------------------------------------------------------------------------------------------------------


def _version_of(text: str) -> str:
    match = _ENTRY.match(text)
    return match["version"] if match else ""


def _bare(text: str) -> str:
    return text.removeprefix("v") if re.fullmatch(r"v?\d+(\.\d+){0,2}", text) else ""


def _prefix(text: str) -> str:
    return "v" if text.startswith("v") else ""


def _like(neighbour: str, entry: Entry) -> str:
    """An entry of one line, with the neighbour's `v`, date and colon."""
    match = _ENTRY.match(neighbour)
    if match is None:
        return f"{entry.version}: {entry.text}"
    date = f" ({entry.date})" if match["date"] else ""
    return f"{match['v']}{entry.version}{date}{match['between']}{entry.text}"


def _newest_first(versions: list[str]) -> bool:
    """How the file is ordered; newest first where one entry cannot tell."""
    known = [numbers for version in versions if (numbers := _numbers(version))]
    return len(known) < 2 or known[0] >= known[-1]


def _numbers(version: str) -> tuple[int, ...] | None:
    full = numbers_of(version)
    if full is not None:
        return tuple(full)
    return tuple(int(part) for part in version.split(".")) if re.fullmatch(r"\d+(\.\d+)*", version) else None
