"""Bytes before, bytes after, and the intended data -> a proof that the edit did that and nothing else, or a refusal.

The judge is the round-trip loader of ruamel.yaml: another scanner and another composer than the ones that planned the
edit, and the only one at hand that knows where comments are.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from pv.document.limits import Unreadable
from pv.document.reader import parse
from pv.document.scalars import resolve_plain

_TAG = "tag:yaml.org,2002:"


class NotProven(Exception):  # noqa: N818 - it says what is the case
    """The edited text is not provably the intended change alone; `reason` says what differs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def proves(
    before: bytes, after: bytes, intended: Any, allowed_lines: Collection[int], *, new_comments: Collection[str] = ()
) -> None:
    """Return if `after` is `before` with exactly the intended change; raise NotProven otherwise.

    `intended` is the plain data that `after` must hold. `allowed_lines` are the lines of `before`, counted from 1,
    that may differ or have lines added after them (0: before the first line); all others must be there, in order, byte
    for byte. The comments must be those of `before`, and `new_comments` besides.
    """
    _other_lines_stand(before, after, allowed_lines)
    first, last = _judged(before), _judged(after)
    difference = _difference(first.data, _reread(before), "$")
    if difference:
        raise NotProven(f"two readers disagree on the file as it stands: {difference}")
    difference = _difference(last.data, intended, "$")
    if difference:
        raise NotProven(f"the edited file would not say what is intended: {difference}")
    _comments_stand(first.comments, last.comments, new_comments)


class _Judged(NamedTuple):
    data: Any
    comments: tuple[str, ...]


@lru_cache(maxsize=8)  # what was proven is the `before` of the next edit
def _judged(content: bytes) -> _Judged:
    text = _decoded(content)
    _reread(content)  # refuses what would make the recursion below deep or long
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # legal: an alias means the last anchor before it
            node = YAML(typ="rt", pure=True).compose(io.StringIO(text))
        comments = tuple(_comments(YAML(typ="rt", pure=True).scan(io.StringIO(text))))
        return _Judged(_Data(text).of(node), comments)
    except YAMLError as error:
        raise NotProven(f"ruamel.yaml cannot read it: {' '.join(str(error).split())[:300]}") from error


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotProven(f"it is not UTF-8 at byte {error.start}") from error


def _reread(content: bytes) -> Any:
    try:
        document = parse(content, "the edited file")
    except Unreadable as refusal:
        raise NotProven(str(refusal)) from refusal
    wrong = next((each for each in document.problems if each.severity == "error"), None)
    if wrong is not None:
        raise NotProven(wrong.message)
    return document.data


class _Data:
    """Nodes -> plain data; an anchored node is built once and shared, as its aliases share it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._built: dict[int, Any] = {}

    def of(self, node: Any) -> Any:
        if id(node) not in self._built:
            self._built[id(node)] = self._build(node)
        return self._built[id(node)]

    def _build(self, node: Any) -> Any:
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if isinstance(node, SequenceNode):
            return [self.of(item) for item in node.value]
        if isinstance(node, MappingNode):
            return self._mapping(node)
        raise NotProven(f"expected a scalar, a sequence or a mapping, found {type(node).__name__}")

    def _scalar(self, node: Any) -> Any:
        """The value by the core schema; ruamel's own resolver knows other numbers, and dates."""
        text = str(node.value)
        if node.style == ">":
            return text.replace("\a", "")  # the round-trip scanner marks where it folded; no block scalar has a BEL
        tagged = self._text[node.start_mark.index : node.start_mark.index + 1] in ("!", "&")
        if node.tag == _TAG + "str" and (node.style or tagged):
            return text
        value = resolve_plain(text)
        return float(value) if node.tag == _TAG + "float" and isinstance(value, int) else value

    def _mapping(self, node: Any) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[dict[str, Any]] = []
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise NotProven("a key is not a scalar")
            if key.tag == _TAG + "merge":
                source = self.of(value)
                merged += source if isinstance(source, list) else [source]
            elif key.value in data:
                raise NotProven(f"the key {key.value!r} occurs twice in one mapping")
            else:
                data[key.value] = self.of(value)
        for source in merged:
            data |= {key: value for key, value in source.items() if key not in data}
        return data


def _comments(tokens: Iterable[Any]) -> Iterator[str]:
    """The comments of a file, one for each line that has one, in order. ruamel hangs one token on several places."""
    found: dict[int, str] = {}
    for token in tokens:
        for comment in _flatten(getattr(token, "comment", None)):
            found[comment.start_mark.index] = comment.value
    for _, value in sorted(found.items()):
        yield from (line.strip() for line in value.splitlines() if line.strip())


def _flatten(comment: Any) -> Iterator[Any]:
    if comment is None:
        return
    if isinstance(comment, list):
        for part in comment:
            yield from _flatten(part)
        return
    yield comment


def _difference(found: Any, wanted: Any, place: str) -> str:
    """Where two plain data differ first, in words; empty where they are equal in values and in types."""
    if type(found) is not type(wanted):
        return f"at {place}: expected {_shown(wanted)}, found {_shown(found)}"
    if isinstance(wanted, dict):
        if list(found) != list(wanted) and set(found) != set(wanted):
            return f"at {place}: expected the keys {sorted(wanted)}, found {sorted(found)}"
        parts = ((_difference(found[key], value, f"{place}.{key}")) for key, value in wanted.items())
        return next((part for part in parts if part), "")
    if isinstance(wanted, list):
        if len(found) != len(wanted):
            return f"at {place}: expected {len(wanted)} items, found {len(found)}"
        parts = (_difference(a, b, f"{place}[{i}]") for i, (a, b) in enumerate(zip(found, wanted, strict=True)))
        return next((part for part in parts if part), "")
    same = found == wanted or (isinstance(wanted, float) and math.isnan(wanted) and math.isnan(found))
    return "" if same else f"at {place}: expected {_shown(wanted)}, found {_shown(found)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _comments_stand(before: tuple[str, ...], after: tuple[str, ...], new: Collection[str]) -> None:
    added = list(new)
    left = []
    for comment in after:
        if comment in added:
            added.remove(comment)
        else:
            left.append(comment)
    if added:
        raise NotProven(f"the comment {added[0]!r} was to be added and is not there")
    if left != list(before):
        lost = next((old for old, now in zip(before, [*left, ""], strict=False) if old != now), None)
        raise NotProven(f"comments would change, first {(lost or left[len(before)])!r}")


def _other_lines_stand(before: bytes, after: bytes, allowed: Collection[int]) -> None:
    """The lines that may not change are in `after`, in runs and in order; only between runs may it differ.

    The first run must be its beginning and the last its end. Taking each run between at the first place where it fits
    is enough: if the runs fit in any way, they fit so.
    """
    runs: list[list[bytes]] = [[]]
    if 0 in allowed:
        runs.append([])
    for number, line in enumerate(_lines(before), 1):
        if number in allowed:
            runs.append([])
        else:
            runs[-1].append(line)
    lines = _lines(after)
    if len(runs) == 1:
        fits = runs[0] == lines
    else:
        first, *middle, last = runs
        at, stop = len(first), len(lines) - len(last)
        fits = lines[:at] == first and stop >= 0 and lines[stop:] == last
        for run in middle:
            at = _find(run, lines, at) + len(run)
        fits = fits and at <= stop
    if not fits:
        raise NotProven("a line would change that has nothing to do with the edit")


def _lines(content: bytes) -> list[bytes]:
    """Lines with their LF."""
    lines = content.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _find(run: list[bytes], lines: list[bytes], start: int) -> int:
    """The first place from `start` where `run` stands in `lines`, or a place past the end."""
    for at in range(start, len(lines) - len(run) + 1):
        if lines[at : at + len(run)] == run:
            return at
    return len(lines) + 1
