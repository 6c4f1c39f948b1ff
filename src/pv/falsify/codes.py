"""Codes of this room -> what `pv explain` tells of them."""

from __future__ import annotations

from collections.abc import Mapping

from pv.diagnostics.model import Severity
from pv.evidence.verify import Explanation
from pv.falsify.discovery import DUPLICATE
from pv.falsify.fit import BREAKS_NOTHING, DISAGREES, NO_CONTROL_IN_CELL, ORPHAN, UNKNOWN_ID
from pv.falsify.reading import NO_CONTROL, NOT_LITERAL, UNREADABLE


def _error(title: str, why: str, fix: str) -> Explanation:
    return Explanation(Severity.ERROR, title, why, fix)


CODES: Mapping[str, Explanation] = {
    UNREADABLE: _error(
        "a check module that is no Python",
        "Checks are found by reading source. A module that cannot be parsed hides every check in it.",
        "mend the file; a helper that is no check module begins with an underscore",
    ),
    NOT_LITERAL: _error(
        "a registration that is not written out",
        "pv reads ids, levels, costs, bounds and controls from source and runs none of it. A computed value cannot be "
        "read, so nobody could say what is checked without running it.",
        "write the value as a literal; give attacked functions as imported names or dotted text",
    ),
    DUPLICATE: _error(
        "two checks of one claim",
        "Which of the two earned the status could not be told.",
        "remove one, or measure both in one check",
    ),
    UNKNOWN_ID: _error(
        "a check of an id that its contract does not have",
        "A check module belongs to the contract of the same name. A check of an id that is not there is never run.",
        "correct the id, add the entry to the contract, or move the check to its contract's module",
    ),
    ORPHAN: _error(
        "a check module that belongs to no contract",
        "The module of contract `a-b-v1.yaml` is `a_b_v1.py`. A module without a contract is never run.",
        "rename it, write the contract, or begin a helper's name with an underscore",
    ),
    NO_CONTROL: _error(
        "a check without a negative control",
        "A check that nobody has seen fail proves nothing. A control plants a defect that the check must catch.",
        "add at least one Control(…) that breaks a threshold of the claim",
    ),
    BREAKS_NOTHING: _error(
        "a control that breaks no threshold of its claim",
        "A control is caught only if the threshold it names fails; one that names none can never be caught.",
        "name the measurement that the defect must push out of its bound",
    ),
    NO_CONTROL_IN_CELL: _error(
        "a required cell without a control",
        "Where no control applies, a survival would be VACUOUS and earn nothing.",
        "drop the control's cells=, or plant a defect that makes sense on that device",
    ),
    DISAGREES: _error(
        "a check that disagrees with its entry",
        "A falsifier is registered with @falsifier, a kani harness with @harness and the bound that its entry states.",
        "use the other decorator, or make the bounds equal",
    ),
}
