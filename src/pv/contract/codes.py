"""The codes that the loader emits, the kinds of file it knows and what it says of a slip: no pydantic needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pv.diagnostics.model import Severity

MISSING = "PV201"
WRONG_TYPE = "PV202"
MISSPELT = "PV203"
NOT_A_WORD = "PV204"
OUT_OF_RANGE = "PV205"
OWN_SHAPE = "PV206"
NO_CONTRACT = "PV207"
NO_SUCH_PATH = "PV190"

# Codes whose severity depends on the profile; the others are errors in both. `pv.rules.table` shows the same table.
COMPAT_SEVERITY: Mapping[str, Severity] = {OWN_SHAPE: Severity.WARNING}

CONTRACT, BINDINGS, MANIFEST = "contract", "binding", "publish-manifest"


class NearMiss(NamedTuple):
    """A key that is no key of its mapping, and the one it was meant to be."""

    loc: tuple[str | int, ...]  # of the mapping
    key: str
    meant: str


def place(data: object, loc: tuple[str | int, ...]) -> str:
    """`loc` in the file's own terms: `falsification_tests[4].status (FALSIFY-CPU-GPU-005)`."""
    if not loc:
        return ""
    entry: object = data
    for segment in loc[:2]:
        if isinstance(entry, dict):
            entry = entry.get(segment)
        elif isinstance(entry, list) and isinstance(segment, int) and segment < len(entry):
            entry = entry[segment]
        else:
            entry = None
    name = entry.get("id") if isinstance(entry, dict) and len(loc) > 1 and isinstance(loc[1], int) else None
    return dotted(loc) + (f" ({name})" if isinstance(name, str) and name else "")


def dotted(loc: tuple[str | int, ...]) -> str:
    """`loc` as people write it."""
    text = ""
    for segment in loc:
        text += f"[{segment}]" if isinstance(segment, int) else f".{segment}" if text else str(segment)
    return text
