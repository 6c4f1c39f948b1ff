"""A word and the known words -> the known word it misses by a hair, or None."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import NamedTuple

_LONGEST = 200  # what is longer is no slip, and comparing it takes time that grows with its square
SIMILAR = 0.75  # difflib ratio above which an unknown key explains a missing one


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The most similar known word with a ratio above 0.75: for suggestions, where a wrong guess costs nothing."""
    from difflib import get_close_matches

    if len(word) > _LONGEST:
        return None
    matches = get_close_matches(word, list(known), n=1, cutoff=SIMILAR)
    return matches[0] if matches else None


@lru_cache(maxsize=4096)
def near_miss(word: str, known: frozenset[str]) -> str | None:
    """The known word that `word` was surely meant to be, or None: for verdicts, where a wrong guess is a false alarm.

    Two words meet when they differ only in case, separators or a plural (the reference's rule for top-level keys), or
    by one slip of the keyboard (a letter lost, doubled, replaced or two swapped; two slips from nine letters on).
    """
    if word in known or len(word) > _LONGEST:
        return None
    forms, letters = squashed_forms(word), frozenset(word)
    candidates = _candidates(known)
    for candidate in candidates:
        if forms & squashed_forms(candidate.word):
            return candidate.word
    for candidate in candidates:
        # A slip adds or takes away two kinds of letters at most (one replaced), and comparing sets costs a fiftieth of
        # counting slips: 500 unknown keys of real files against all known ones take 6 ms instead of 33.
        limit = candidate.tolerated
        if len(letters ^ candidate.letters) <= 2 * limit and _slips(word, candidate.word, limit):
            return candidate.word
    return None


class _Candidate(NamedTuple):
    word: str
    letters: frozenset[str]
    tolerated: int  # slips


@cache
def _candidates(known: frozenset[str]) -> tuple[_Candidate, ...]:
    return tuple(_Candidate(word, frozenset(word), _tolerated(word)) for word in sorted(known))


@lru_cache(maxsize=4096)
def squashed_forms(word: str) -> frozenset[str]:
    """ASCII letters and digits in lower case; the same without a plural "es" and without "s"."""
    squashed = re.sub(r"[^a-z0-9]", "", word.lower())
    return frozenset(form for form in (squashed, squashed.removesuffix("es"), squashed.removesuffix("s")) if form)


def _tolerated(word: str) -> int:
    return 0 if len(word) < 5 else 1 if len(word) < 9 else 2


def _slips(left: str, right: str, limit: int) -> bool:
    """Whether the optimal string alignment distance (swaps of neighbours count one) is at most `limit`, and not 0."""
    if limit == 0 or abs(len(left) - len(right)) > limit:
        return False
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        current = [i]
        for j, b in enumerate(right, 1):
            cost = min(row[j] + 1, current[j - 1] + 1, row[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, row = row, current
    return 0 < row[-1] <= limit
