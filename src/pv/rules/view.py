"""A loaded file as the rules read it: raw data by section, safe to walk whatever shape the file is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pv.contract.claims import equation_name
from pv.contract.load import Loaded
from pv.contract.project import Profile, Project
from pv.diagnostics.model import Span
from pv.rules.facts import NO_FACTS, FactsByClaim
from pv.rules.finding import Loc

if TYPE_CHECKING:
    from pv.document.reader import Ambiguity, Document

FALSIFIERS, HARNESSES, OBLIGATIONS = "falsification_tests", "kani_harnesses", "proof_obligations"
Entry = Mapping[str, Any]
_NO_FIELDS: frozenset[str] = frozenset()
_HEAD = "metadata:"
_WITHOUT_LOST_DIGITS = frozenset({"number as text"})
Placed = tuple[Loc, Entry]

_PV_KEYS = frozenset(
    {
        "binds_to",
        "claim",
        "requires",
        "precondition",
        "blocked_on",
        "known_failing",
        "thresholds",
        "cost",
        "status",
        "last_verified",
        "evidence",
        "algorithm_evidence",
        "functional_evidence",
        "discharge_evidence",
        "evidence_discharged_by",
        "formerly",
    }
)


class View:
    """One readable file. Every accessor leaves out what has the wrong shape: the loader has already said so."""

    def __init__(self, loaded: Loaded, document: Document, project: Project, facts: FactsByClaim = NO_FACTS) -> None:
        self.loaded = loaded
        self.document = document
        self.project = project
        self.facts = facts
        self.strict = project.profile is Profile.STRICT
        self.data: Mapping[str, Any] = loaded.data
        metadata = self.data.get("metadata")
        self.metadata: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
        self.looked_at: dict[Path, None] = {}  # files outside the contract that a rule read or missed
        # The kind by which the file is judged: `registry: true` excuses a kernel.
        kind = self.metadata.get("kind")
        self.kind = kind if isinstance(kind, str) else "kernel"
        if self.kind == "kernel" and self.metadata.get("registry") is True:
            self.kind = "registry"
        self.is_kernel = self.kind == "kernel" and isinstance(metadata, dict)
        # What nearly every rule asks for is worked out at once: a cached property takes a lock in Python 3.11, and
        # eight of them for each file were 7 ms in 2,400 files. All of these leave out what is no mapping.
        self.falsifiers = self.entries(FALSIFIERS)
        self.harnesses = self.entries(HARNESSES)
        self.obligations = self.entries(OBLIGATIONS)
        self.claims = self.falsifiers + self.harnesses
        placed = self.claims + self.obligations
        self.ids: list[tuple[Loc, str]] = [
            (loc, name) for loc, entry in placed if isinstance(name := entry.get("id"), str)
        ]
        if "gates" in self.data:
            placed = placed + self.entries("gates")
        self.fields: frozenset[str] = _NO_FIELDS.union(*[entry for _, entry in placed])
        self.equations = _equations(self.data.get("equations"))

    @cached_property
    def _misspelt(self) -> frozenset[tuple[Loc, str]]:
        return frozenset((miss.loc, miss.meant) for miss in self.loaded.misspelt)

    @cached_property
    def by_default(self) -> str:
        """What a message adds when nobody wrote the kind that it is judged by."""
        return "" if "kind" in self.metadata else " (no metadata.kind, judged kernel by default)"

    @cached_property
    def own(self) -> list[Placed]:
        """The claims that carry a field of ours; most files of other people have none."""
        if _PV_KEYS.isdisjoint(self.fields):
            return []
        return [placed for placed in self.claims if not _PV_KEYS.isdisjoint(placed[1])]

    @cached_property
    def targets(self) -> dict[str, None]:
        """Everything that `binds_to` may name: equations, then obligation ids."""
        names = dict.fromkeys(name for _, name, _ in self.equations)
        names.update(dict.fromkeys(o["id"] for _, o in self.obligations if isinstance(o.get("id"), str)))
        return names

    @cached_property
    def ambiguities(self) -> tuple[Ambiguity, ...]:
        """Scalars that two readers of YAML would read apart; numbers whose last digits are lost are another matter."""
        return self.document.ambiguities(_WITHOUT_LOST_DIGITS)

    def span(self, loc: Loc, *, key: bool = False) -> Span | None:
        """The place of a value or key; of what is absent from the top, the key `metadata` with which files begin."""
        if len(loc) == 1 and loc[0] not in self.data and "\r" not in self.document.text:
            text = self.document.text
            start = 0 if text.startswith(_HEAD) else text.find("\n" + _HEAD) + 1
            if text.startswith(_HEAD, start):
                line = text.count("\n", 0, start) + 1
                end = start + len(_HEAD) - 1
                return Span(start, end, line, 1, line, len(_HEAD))
        return self.document.span(loc, key=key)

    def entries(self, section: str) -> list[Placed]:
        """(place, mapping) of the items of a list of mappings."""
        items = self.data.get(section)
        if not isinstance(items, list):
            return []
        return [((section, index), item) for index, item in enumerate(items) if isinstance(item, dict)]

    def count(self, section: str) -> int:
        """How many items a list holds; 0 for anything else."""
        items = self.data.get(section)
        return len(items) if isinstance(items, list) else 0

    def misspelt(self, loc: Loc, name: str) -> bool:
        """Whether the field is there under a near-miss name, which has been reported."""
        return (loc, name) in self._misspelt


def _equations(equations: Any) -> list[tuple[Loc, str, Entry]]:
    """(place, name, mapping) of every equation that is a mapping."""
    if isinstance(equations, dict):
        named: Iterator[tuple[str | int, str, Any]] = ((name, str(name), item) for name, item in equations.items())
    elif isinstance(equations, list):
        named = ((index, equation_name(index, item), item) for index, item in enumerate(equations))
    else:
        return []
    return [(("equations", key), name, item) for key, name, item in named if isinstance(item, dict)]
