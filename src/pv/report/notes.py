"""The notes of a record -> lines, tables of numbers that can be drawn, and the stages of the forward that they name.

A note of the form `TITLE: LABEL NUMBER, LABEL NUMBER, …` is a row of figures (labels may be absent); rows in a row with
the same labels are one table. `rate 0.001, seed 1: scratch 3.21, distilled 3.14` is one, so is a line of a bisection:
`ffn_up of layer 2: total 0.031, local 0.031`. What follows a semicolon belongs to the title.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from math import isfinite
from typing import NamedTuple

MOST_ITEMS = 128
MOST_CHARACTERS = 8000  # of a note that is looked into; a longer one is shown as text
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_ITEM = re.compile(rf"(?:(?P<label>.*\S)\s)?(?P<number>{_NUMBER})\s?%?", re.DOTALL)
_GUILTY = re.compile(r"guilty stages? (?:is|are) ", re.IGNORECASE)


class Row(NamedTuple):
    """One note that is a row of figures."""

    title: str
    values: tuple[float, ...]


class Chart(NamedTuple):
    """Rows with the same labels; `labels` are empty texts where the notes gave none."""

    labels: tuple[str, ...]
    rows: tuple[Row, ...]


class _Read(NamedTuple):
    labels: tuple[str, ...]
    row: Row


def parts(notes: Sequence[str]) -> Iterator[str | Chart]:
    """The notes in their order: lines of text, and charts where neighbours are rows with the same labels."""
    read = [(note, _row(note)) for note in notes]
    for labels, group in groupby(read, key=lambda pair: pair[1] and pair[1].labels):
        members = list(group)
        if labels is None:
            yield from (note for note, _ in members)
        else:
            yield Chart(labels, tuple(row.row for _, row in members if row))


def stages(text: str) -> tuple[str, ...]:
    """The stages that a text names with their layer (`ffn_up of layer 2`, `layer-2/ffn_up`), in order, each once."""
    found = []
    for match in _stage_pattern().finditer(text[:MOST_CHARACTERS]):
        stage, layer = (match["a"], match["la"]) if match["a"] else (match["b"], match["lb"])
        several = "s" if layer and not layer.isdigit() else ""
        found.append(f"{stage} of layer{several} {layer}" if layer else match["whole"])
    return tuple(dict.fromkeys(found))


def guilty(notes: Sequence[str]) -> tuple[str, ...]:
    """The stages that the notes call guilty; where none is called so, every stage that a note names."""
    accusing = [note for note in notes if _GUILTY.search(note)]
    return tuple(dict.fromkeys(stage for note in accusing or notes for stage in stages(note)))


def _row(note: str) -> _Read | None:
    if len(note) > MOST_CHARACTERS:
        return None
    figures, semicolon, rest = note.partition(";")
    title, colon, tail = figures.rpartition(": ")
    items = tail.split(", ", MOST_ITEMS)
    if not colon or not 2 <= len(items) <= MOST_ITEMS:
        return None
    matches = [_ITEM.fullmatch(item.strip()) for item in items]
    if not all(matches):
        return None
    found = [match for match in matches if match]
    values = tuple(float(match["number"]) for match in found)
    if not all(map(isfinite, values)):  # 1e999 is written like a number and is none that can be drawn
        return None
    return _Read(tuple(match["label"] or "" for match in found), Row(f"{title}{semicolon}{rest}", values))


@cache
def _stage_pattern() -> re.Pattern[str]:
    from pv.model.stages import WHOLE_MODEL, Stage  # a table of names; it imports nothing of the engine

    every = "|".join(sorted((stage.value for stage in Stage), key=len, reverse=True))
    whole = "|".join(sorted(stage.value for stage in WHOLE_MODEL))
    in_words = rf"(?P<a>{every}) of layers? (?P<la>\d[\d,-]*\d|\d)"
    in_path = rf"layer[- ](?P<lb>\d+)/(?P<b>{every})"
    return re.compile(rf"\b(?:{in_words}|{in_path}|(?P<whole>{whole}))\b")
