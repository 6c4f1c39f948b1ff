"""What a rule is and what it yields: a row of the table, and a finding that the table turns into a diagnostic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from pv.contract.project import Profile
from pv.diagnostics.model import Severity, TextEdit

Loc = tuple[str | int, ...]
ERROR, WARNING, INFO, OFF = Severity.ERROR, Severity.WARNING, Severity.INFO, Severity.OFF


class Finding(NamedTuple):
    """One thing a rule noticed at `loc`. `key` points at the key instead of the value.

    `severity` only ever lowers the rule's own, where one place deserves less than the rule as a whole.
    """

    loc: Loc
    message: str
    expected: str = ""
    found: str = ""
    help: str = ""
    key: bool = False
    edits: tuple[TextEdit, ...] = ()
    severity: Severity | None = None


class Scope(StrEnum):
    """What a rule looks at, and thereby when it runs."""

    READER = "reader"  # emitted while the file is read
    SHAPE = "shape"  # emitted while the contract is loaded
    FILE = "file"  # one file and the tree around it; remembered by the cache
    CLAIMS = "claims"  # one file and the facts about its evidence
    CORPUS = "corpus"  # all files together
    HISTORY = "history"  # two versions of one contract


@dataclass(frozen=True)
class Rule:
    """One row. `strict` and `compat` are its severity in the two profiles, OFF where it does not run.

    `reference` names the rules of the reference validator that it covers; `kinds` the kinds of document, `sections` the
    top-level keys, and `fields` the keys of entries, without one of which it has nothing to look at (most files lack
    most of them); `check` is the generator of findings (None where another room emits the code).
    """

    code: str
    title: str
    why: str
    fix: str
    strict: Severity
    compat: Severity
    scope: Scope = Scope.FILE
    reference: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    check: Callable[[Any], Iterator[Finding]] | None = None
    suppressible: bool = True

    def severity(self, profile: Profile) -> Severity:
        """How much a finding of this rule weighs under `profile`."""
        return self.strict if profile is Profile.STRICT else self.compat


def text(entry: Mapping[str, Any], name: str, alias: str = "") -> str:
    """The text of a field or of its other name; "" when it is absent or no text."""
    value = entry.get(name)
    if value is None and alias:
        value = entry.get(alias)
    return value if isinstance(value, str) else ""
