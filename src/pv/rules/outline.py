"""A loaded file -> the little of it that rules across files and the summary need; small enough to remember."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pv.contract.claims import FALSIFIERS, HARNESSES, equation_names, text_of, texts_of, written_status
from pv.contract.load import Loaded


class OutlinedClaim(NamedTuple):
    """A claim: its id, where it stands, and the status as written ("" for none)."""

    id: str
    section: str
    position: int
    status: str


class Outline(NamedTuple):
    """What one file contributes to the whole."""

    display: str
    stem: str
    artifact: str
    claims: tuple[OutlinedClaim, ...] = ()
    depends_on: tuple[str, ...] = ()
    equations: tuple[str, ...] = ()
    bindings: tuple[tuple[str, str], ...] = ()  # (contract, equation) of a binding registry
    formerly: tuple[str, ...] = ()


def outline_of(loaded: Loaded) -> Outline:
    """The outline of a file, whatever state it is in."""
    data = loaded.data
    metadata = data.get("metadata")
    dependencies = metadata.get("depends_on") if isinstance(metadata, dict) else None
    return Outline(
        display=loaded.display,
        stem=loaded.stem,
        artifact=loaded.artifact,
        claims=(*_claims(data, FALSIFIERS), *_claims(data, HARNESSES)),
        depends_on=texts_of(dependencies) if isinstance(dependencies, list) else (),
        equations=tuple(equation_names(data.get("equations"))),
        bindings=tuple(_bindings(data)) if loaded.artifact == "binding" else (),
        formerly=texts_of(metadata.get("formerly")) if isinstance(metadata, dict) else (),
    )


def _claims(data: Mapping[str, Any], section: str) -> list[OutlinedClaim]:
    items = data.get(section)
    if not isinstance(items, list):
        return []
    return [
        OutlinedClaim(text_of(entry.get("id")), section, index, _status(entry))
        for index, entry in enumerate(items)
        if isinstance(entry, dict)
    ]


def _status(entry: Mapping[str, Any]) -> str:
    """The status as written; most entries of other people's files have no place for one."""
    if "status" not in entry and "algorithm_evidence" not in entry:
        return ""
    return written_status(entry, ())[0] or ""


def _bindings(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    items = data.get("bindings")
    return [
        (text_of(item.get("contract")), text_of(item.get("equation")))
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict)
    ]
