"""Texts of `--id`, `-k` and `--select` -> the claims they mean.

`--select` terms: a space (or a second option) is union, a comma is intersection:
`status:<FUNCTIONAL,device:cuda stale:` = below FUNCTIONAL on cuda, and every stale one besides.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

from pv.contract.claims import Claim, Contract
from pv.contract.vocabulary import ClaimKind, Cost, DeviceClass, Status, Verdict

Word = TypeVar("Word", bound=StrEnum)

FAILED = frozenset({Verdict.FALSIFIED, Verdict.VACUOUS, Verdict.ERROR})


class SelectionError(ValueError):
    """A text that selects nothing because it is not in the grammar. `hint` says what would be."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message + (f" ({hint})" if hint else ""))


@dataclass(frozen=True, slots=True)
class Row:
    """One claim as selections see it. `status` is what is written, `last` the verdict of its last run here or on disk.

    `stale` says why its evidence is stale, "" while it is fresh; `has_check` whether a check is registered.
    """

    contract: Contract
    claim: Claim
    has_check: bool = False
    stale: str = ""
    last: Verdict | None = None
    cost: Cost = Cost.QUICK

    @property
    def status(self) -> Status:
        return self.claim.status or Status.UNBOUND


Predicate = Callable[[Row], bool]


class Term(NamedTuple):
    """One key of `--select`: what its value means, and the line that help shows."""

    parse: Callable[[str], Predicate]
    help: str


def by_ids(rows: Sequence[Row], patterns: Iterable[str]) -> list[Row]:
    """The claims whose id is one of `patterns` (globs allowed), in file order.

    Raises SelectionError for a pattern that fits none, naming near ids.
    """
    chosen: set[int] = set()
    for pattern in patterns:
        hits = [i for i, row in enumerate(rows) if fnmatchcase(row.claim.id.upper(), pattern.upper())]
        if not hits:
            raise SelectionError(f"no claim has the id {pattern!r}", _near(pattern, rows))
        chosen.update(hits)
    return [row for i, row in enumerate(rows) if i in chosen]


def by_words(rows: Sequence[Row], expression: str) -> list[Row]:
    """`-k`: names and the words and, or, not, with parentheses; a name is part of an id or of a contract's stem."""
    holds = _Words(expression).parse()
    return [row for row in rows if holds(row)]


def by_terms(rows: Sequence[Row], texts: Sequence[str]) -> list[Row]:
    """`--select`: union over spaces and options, intersection over commas. Raises SelectionError."""
    unions = [_intersection(group) for text in texts for group in text.split()]
    if not unions:
        raise SelectionError("expected a selection, found an empty text", _terms())
    return [row for row in rows if any(holds(row) for holds in unions)]


def _near(pattern: str, rows: Sequence[Row]) -> str:
    renamed = [row.claim.id for row in rows if pattern in row.claim.formerly]
    if renamed:
        return f"it is called {renamed[0]} now"
    ids = sorted({row.claim.id for row in rows})
    near = get_close_matches(pattern.upper(), ids, n=3, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"`pv list` shows all {len(ids)}" if ids else "there are no claims here"


# ------------------------------------------------------------------------------------------------------- --select


def _intersection(group: str) -> Predicate:
    predicates = [_term(text) for text in group.split(",")]
    return lambda row: all(holds(row) for holds in predicates)


def _term(text: str) -> Predicate:
    key, colon, value = text.partition(":")
    if not colon or key not in TERMS:
        raise SelectionError(f"expected KEY:VALUE in --select, found {text!r}", _terms())
    return TERMS[key].parse(value)


def _terms() -> str:
    return "; ".join(f"{key}:{term.help}" for key, term in TERMS.items())


def _status(value: str) -> Predicate:
    sign = re.match(r"[<>=]*", value)
    word = sign.group() if sign else ""
    compare = COMPARISONS.get(word)
    rung = _one_of(Status, value[len(word) :].upper(), "status")
    if compare is None:
        raise SelectionError(f"expected one of {', '.join(filter(None, COMPARISONS))}, found {word!r}")
    return lambda row: compare(row.status.rung, rung.rung)


COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {
    "": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _device(value: str) -> Predicate:
    device = _one_of(DeviceClass, value.lower(), "device")
    return lambda row: any(cell.device is device for cell in row.claim.required_cells)


def _subject(value: str) -> Predicate:
    return lambda row: any(fnmatchcase(cell.subject, value) for cell in row.claim.required_cells)


def _cost(value: str) -> Predicate:
    cost = _one_of(Cost, value.lower(), "cost")
    return lambda row: row.cost is cost


def _kind(value: str) -> Predicate:
    kind = _one_of(ClaimKind, value.lower(), "claim")
    return lambda row: row.claim.claim is kind


def _stale(value: str) -> Predicate:
    stale = _yes_or_no(value, "stale")
    return lambda row: bool(row.stale) is stale


def _check(value: str) -> Predicate:
    wanted = _yes_or_no(value, "check")
    return lambda row: row.has_check is wanted


def _result(value: str) -> Predicate:
    if value == "failed":
        return lambda row: row.last in FAILED
    if value == "none":
        return lambda row: row.last is None
    verdict = _one_of(Verdict, value.upper(), "result", more=("failed", "none"))
    return lambda row: row.last is verdict


def _contract(value: str) -> Predicate:
    return lambda row: fnmatchcase(row.contract.id, value)


def _id(value: str) -> Predicate:
    return lambda row: fnmatchcase(row.claim.id.upper(), value.upper())


def _binds(value: str) -> Predicate:
    return lambda row: any(fnmatchcase(name, value) for name in row.claim.binds_to)


def _one_of(words: type[Word], value: str, key: str, more: tuple[str, ...] = ()) -> Word:
    try:
        return words(value)
    except ValueError:
        known = ", ".join((*words, *more))
        raise SelectionError(f"expected {key}: to be one of {known}, found {value!r}") from None


def _yes_or_no(value: str, key: str) -> bool:
    if value not in ("", "yes", "no"):
        raise SelectionError(f"expected {key}: or {key}:no, found {key}:{value}")
    return value != "no"


TERMS: Mapping[str, Term] = {
    "status": Term(_status, "[<|<=|>|>=]RUNG"),
    "device": Term(_device, "CLASS"),
    "subject": Term(_subject, "GLOB"),
    "cost": Term(_cost, "COST"),
    "claim": Term(_kind, "outcome|guard"),
    "stale": Term(_stale, "[no]"),
    "result": Term(_result, "failed|none|VERDICT"),
    "check": Term(_check, "yes|no"),
    "contract": Term(_contract, "GLOB"),
    "id": Term(_id, "GLOB"),
    "binds": Term(_binds, "GLOB"),
}


# ------------------------------------------------------------------------------------------------------------- -k


class _Words:
    """A recursive reader of `and`, `or`, `not`, parentheses and names; no Python is evaluated."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.place = 0

    def parse(self) -> Predicate:
        holds = self._either()
        if self.place < len(self.tokens):
            raise self._expected("and, or, or the end")
        return holds

    def _either(self) -> Predicate:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return lambda row: any(part(row) for part in parts)

    def _both(self) -> Predicate:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return lambda row: all(part(row) for part in parts)

    def _one(self) -> Predicate:
        if self._take("not"):
            negated = self._one()
            return lambda row: not negated(row)
        if self._take("("):
            inner = self._either()
            if not self._take(")"):
                raise self._expected("a closing parenthesis")
            return inner
        if self.place >= len(self.tokens) or self.tokens[self.place] in ("and", "or", ")"):
            raise self._expected("a name")
        word = self.tokens[self.place].lower()
        self.place += 1
        return lambda row: word in f"{row.contract.id} {row.claim.id}".lower()

    def _take(self, token: str) -> bool:
        if self.place < len(self.tokens) and self.tokens[self.place] == token:
            self.place += 1
            return True
        return False

    def _expected(self, what: str) -> SelectionError:
        found = repr(self.tokens[self.place]) if self.place < len(self.tokens) else "the end"
        return SelectionError(f"-k {self.text!r}: expected {what}, found {found}")


def _tokens(text: str) -> Iterator[str]:
    for found in re.finditer(r"[()]|[^\s()]+", text):
        token = found.group()
        yield token.lower() if token.lower() in ("and", "or", "not") else token
