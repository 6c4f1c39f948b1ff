"""A contract as the rooms above see it: plain frozen values for the claims, what they need and what stands written.

The pydantic models (`pv.contract.models`) hold the shape of a file; this module holds its meaning, imports no
pydantic, and is what the ladder, the evidence and the runner read. Rules must survive a broken file and read raw data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pv.contract.vocabulary import DEFAULT_CELL, Cell, ClaimKind, Cost, DeviceClass, Status

Loc = tuple[str | int, ...]
Number = float | int
Family = Literal["falsifier", "harness"]

FALSIFIERS = "falsification_tests"
HARNESSES = "kani_harnesses"
OPERATORS = ("<", "<=", ">", ">=", "==", "!=", "within")

# (field, the other name of the same field), by the list they occur in
ALIASES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "proof_obligations": (("property", "statement"), ("formal", "verification")),
    "falsification_tests": (
        ("rule", "description"),
        ("prediction", "expected"),
        ("test", "command"),
        ("if_fails", "fails_if"),
    ),
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """The bound a measurement must meet: `value op bound`. For `within`, `value` is (low, high), both included.

    `unit` is the measurement's unit ("1" for a pure number), `source` says where the bound comes from, and `repeat` is
    how close a second record's value must be to count as agreement (None: it must be equal).
    """

    op: str
    value: Number | tuple[Number, Number]
    unit: str = "1"
    source: str = ""
    repeat: Number | None = None

    def __str__(self) -> str:
        if isinstance(self.value, tuple):
            return f"{self.op} [{self.value[0]}, {self.value[1]}]"
        return f"{self.op} {self.value}"


@dataclass(frozen=True, slots=True)
class KnownFailing:
    """An honest red: who owns it, why it fails, since when. It passes the gate until it starts to pass itself."""

    owner: str
    reason: str
    since: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One falsifier or harness: what it claims (up to `cost`, `bound`) and what pv wrote beside it (from `status` on).

    `loc` is its place in the file, for instance `("falsification_tests", 4)`. `status` is None when nothing is written
    or the word is not one of ours; `status_text` keeps the word as written, and `status_loc` where it stands (the entry
    itself or its `algorithm_evidence`). The three evidence blocks are the data as written, or None. `data` is the whole
    entry. `formerly` are the ids that the claim had before, its first one first: a rename changes no claim.
    """

    id: str
    loc: Loc
    family: Family
    rule: str = ""
    prediction: str = ""
    if_fails: str = ""
    binds_to: tuple[str, ...] = ()
    claim: ClaimKind = ClaimKind.OUTCOME
    required_cells: tuple[Cell, ...] = (DEFAULT_CELL,)
    oracle: str | None = None
    precondition: tuple[str, ...] = ()
    blocked_on: tuple[str, ...] = ()
    known_failing: KnownFailing | None = None
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    cost: Cost = Cost.QUICK
    bound: int | None = None
    status: Status | None = None
    status_text: str | None = None
    status_loc: Loc | None = None
    last_verified: str | None = None
    evidence: tuple[str, ...] = ()
    algorithm_evidence: Any = None
    functional_evidence: Any = None
    discharge_evidence: Any = None
    formerly: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def first_id(self) -> str:
        """The id under which the claim was first made: what digests name it by, whatever it is called today."""
        return self.formerly[0] if self.formerly else self.id

    @property
    def ids(self) -> tuple[str, ...]:
        """Its id, then every one that it had before."""
        return tuple(dict.fromkeys((self.id, *self.formerly)))


@dataclass(frozen=True, slots=True)
class Obligation:
    """One proof obligation: a property of the code, by id where it has one."""

    id: str | None
    loc: Loc
    type: str
    property: str
    formal: str
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The head of a contract. `version` is the source text of the scalar; `kind` is the effective kind.

    `kind_written` is False where the file names no kind and is judged `kernel`. `changelog` is the data as written: it
    has seven shapes in real files. `formerly` are the stems that the file had before, its first one first.
    """

    version: str
    description: str
    kind: str
    kind_written: bool
    status: str | None
    depends_on: tuple[str, ...]
    references: tuple[str, ...]
    created: str | None
    changelog: Any
    formerly: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Contract:
    """One contract file whose shape is sound. `id` is the file's stem; claims are falsifiers, then harnesses."""

    id: str
    path: Path
    metadata: Metadata
    data: Mapping[str, Any] = field(repr=False)

    @cached_property
    def equations(self) -> tuple[str, ...]:
        """Names of the equations, in file order; an unnamed item of a list is `equation_<index>`."""
        return tuple(equation_names(self.data.get("equations")))

    @cached_property
    def obligations(self) -> tuple[Obligation, ...]:
        """The proof obligations, in file order."""
        return tuple(_obligation(i, o) for i, o in enumerate(self.data.get("proof_obligations") or ()))

    @cached_property
    def falsifiers(self) -> tuple[Claim, ...]:
        """The entries of `falsification_tests`, in file order."""
        return tuple(_falsifier(i, e) for i, e in enumerate(self.data.get(FALSIFIERS) or ()))

    @cached_property
    def harnesses(self) -> tuple[Claim, ...]:
        """The entries of `kani_harnesses`, in file order."""
        return tuple(_harness(i, e) for i, e in enumerate(self.data.get(HARNESSES) or ()))

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """Every claim: falsifiers, then harnesses."""
        return self.falsifiers + self.harnesses

    def claim(self, claim_id: str) -> Claim | None:
        """The claim with this id, or None."""
        return self._by_id.get(claim_id)

    def claim_known_as(self, claim_id: str) -> Claim | None:
        """The claim that has this id, else the one that had it before it was renamed; None where neither is."""
        return self._by_id.get(claim_id) or self._by_former_id.get(claim_id)

    @property
    def first_id(self) -> str:
        """The stem that the file had first."""
        return self.metadata.formerly[0] if self.metadata.formerly else self.id

    @property
    def stems(self) -> tuple[str, ...]:
        """The file's stem, then every one that it had before."""
        return tuple(dict.fromkeys((self.id, *self.metadata.formerly)))

    @cached_property
    def _by_former_id(self) -> Mapping[str, Claim]:
        return {name: claim for claim in reversed(self.claims) for name in claim.formerly}

    @cached_property
    def _by_id(self) -> Mapping[str, Claim]:
        return {claim.id: claim for claim in reversed(self.claims)}

    @cached_property
    def targets(self) -> frozenset[str]:
        """Everything `binds_to` may name: equations and obligation ids."""
        return frozenset(self.equations) | {o.id for o in self.obligations if o.id}


def contract_of(stem: str, path: Path, data: Mapping[str, Any], version: str | None = None) -> Contract:
    """The meaning of data whose shape is already known to be sound.

    `version` is the source text of `metadata.version` where the reader has it (`1.10` would otherwise be a number).
    """
    head = data["metadata"]
    kind = head.get("kind") or "kernel"
    metadata = Metadata(
        version=str(head["version"]) if version is None else version,
        description=text_of(head.get("description")),
        kind="registry" if head.get("registry") is True and kind == "kernel" else kind,
        kind_written=bool(head.get("kind")),
        status=optional_text(head.get("status")),
        depends_on=texts_of(head.get("depends_on")),
        references=texts_of(head.get("references")),
        created=optional_text(head.get("created")),
        changelog=head.get("changelog", data.get("changelog")),
        formerly=texts_of(head.get("formerly")),
        data=head,
    )
    return Contract(id=stem, path=path, metadata=metadata, data=data)


def equation_names(equations: Any) -> list[str]:
    """Names in file order, of a mapping or of a list; `[]` for anything else."""
    if isinstance(equations, Mapping):
        return [str(name) for name in equations]
    if isinstance(equations, list):
        return [equation_name(index, item) for index, item in enumerate(equations)]
    return []


def equation_name(index: int, item: Any) -> str:
    """The name of item `index` of a list of equations: its string `id`, else `equation_<index>`."""
    name = item.get("id") if isinstance(item, Mapping) else None
    return name if isinstance(name, str) and name else f"equation_{index}"


def aliased(entry: Mapping[str, Any], name: str, alias: str) -> Any:
    """The value of a field that has an alias; the field itself wins."""
    return entry[name] if name in entry else entry.get(alias)


def text_of(value: Any) -> str:
    """The value as text; "" for None and for containers."""
    return "" if value is None or isinstance(value, Mapping | list) else str(value)


def optional_text(value: Any) -> str | None:
    """Like `text_of`, but None stays None."""
    return None if value is None or isinstance(value, Mapping | list) else str(value)


def texts_of(value: Any) -> tuple[str, ...]:
    """A scalar or a list of scalars as a tuple of texts; containers within are left out."""
    items = value if isinstance(value, list) else [value]
    return tuple(str(item) for item in items if item is not None and not isinstance(item, Mapping | list))


def written_status(entry: Mapping[str, Any], loc: Loc) -> tuple[str | None, Loc | None]:
    """The status as written and where: at the entry, else inside `algorithm_evidence`; (None, None) if nowhere."""
    if entry.get("status") is not None:
        return text_of(entry["status"]), (*loc, "status")
    evidence = entry.get("algorithm_evidence")
    if isinstance(evidence, Mapping) and evidence.get("status") is not None:
        return text_of(evidence["status"]), (*loc, "algorithm_evidence", "status")
    return None, None


def status_of(text: str | None) -> Status | None:
    """The rung a word names, or None when the word is not one of ours."""
    return _STATUS_BY_WORD.get(text) if text is not None else None


_STATUS_BY_WORD: Mapping[str, Status] = {status.value: status for status in Status}


def thresholds_of(value: Any) -> dict[str, Threshold]:
    """The thresholds of a sound entry, by measurement name."""
    return {str(name): _threshold(item) for name, item in value.items()} if isinstance(value, Mapping) else {}


def cells_of(value: Any) -> tuple[Cell, ...]:
    """The cells of a sound `requires` block; (cpu, code) when it names none."""
    cells = value.get("cells") if isinstance(value, Mapping) else None
    if not isinstance(cells, list) or not cells:
        return (DEFAULT_CELL,)
    return tuple(Cell(DeviceClass(cell.get("device", "cpu")), str(cell.get("subject", "code"))) for cell in cells)


def _threshold(item: Mapping[str, Any]) -> Threshold:
    value = item["value"]
    return Threshold(
        op=item["op"],
        value=(value[0], value[1]) if isinstance(value, list) else value,
        unit=text_of(item.get("unit")) or "1",
        source=text_of(item.get("source")),
        repeat=item.get("repeat"),
    )


def _obligation(index: int, entry: Mapping[str, Any]) -> Obligation:
    return Obligation(
        id=optional_text(entry.get("id")),
        loc=("proof_obligations", index),
        type=text_of(entry.get("type")) or "invariant",
        property=text_of(aliased(entry, "property", "statement")),
        formal=text_of(aliased(entry, "formal", "verification")),
        data=entry,
    )


def _falsifier(index: int, entry: Mapping[str, Any]) -> Claim:
    return Claim(
        **_common(entry, (FALSIFIERS, index)),
        family="falsifier",
        rule=text_of(aliased(entry, "rule", "description")),
        prediction=text_of(aliased(entry, "prediction", "expected")),
        binds_to=texts_of(entry.get("binds_to")),
    )


def _harness(index: int, entry: Mapping[str, Any]) -> Claim:
    obligation = text_of(entry.get("obligation"))
    return Claim(
        **_common(entry, (HARNESSES, index)),
        family="harness",
        rule=text_of(entry.get("rule")) or obligation,
        prediction=text_of(entry.get("prediction")) or text_of(entry.get("property")) or obligation,
        binds_to=texts_of(entry.get("binds_to")) or ((obligation,) if obligation else ()),
        bound=entry.get("bound"),
    )


def _common(entry: Mapping[str, Any], loc: Loc) -> dict[str, Any]:
    status_text, status_loc = written_status(entry, loc)
    requires = entry.get("requires")
    algorithm = entry.get("algorithm_evidence")
    verified = entry.get("last_verified")
    if verified is None and isinstance(algorithm, Mapping):
        verified = algorithm.get("last_verified")
    return {
        "id": text_of(entry["id"]),
        "loc": loc,
        "if_fails": text_of(aliased(entry, "if_fails", "fails_if")),
        "claim": _claim_kind(entry.get("claim")),
        "required_cells": cells_of(requires),
        "oracle": optional_text(requires.get("oracle")) if isinstance(requires, Mapping) else None,
        "precondition": texts_of(entry.get("precondition")),
        "blocked_on": texts_of(entry.get("blocked_on")),
        "known_failing": _known_failing(entry.get("known_failing")),
        "thresholds": thresholds_of(entry.get("thresholds")),
        "cost": Cost(entry.get("cost") or Cost.QUICK),
        "status": status_of(status_text),
        "status_text": status_text,
        "status_loc": status_loc,
        "last_verified": optional_text(verified),
        "evidence": texts_of(entry.get("evidence")),
        "algorithm_evidence": algorithm,
        "functional_evidence": entry.get("functional_evidence"),
        "discharge_evidence": entry.get("discharge_evidence"),
        "formerly": texts_of(entry.get("formerly")),
        "data": entry,
    }


def _claim_kind(value: Any) -> ClaimKind:
    # Real files use `claim` for a sentence; only our two words change the kind.
    return ClaimKind.GUARD if value == ClaimKind.GUARD.value else ClaimKind.OUTCOME


def _known_failing(value: Any) -> KnownFailing | None:
    if not isinstance(value, Mapping):
        return None
    return KnownFailing(text_of(value.get("owner")), text_of(value.get("reason")), text_of(value.get("since")))
