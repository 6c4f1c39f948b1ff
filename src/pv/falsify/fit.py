"""Checks and contracts -> what does not fit between them; every diagnostic names both places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from pv.contract.claims import Claim, Contract
from pv.contract.load import Loaded
from pv.diagnostics.model import Diagnostic, Severity
from pv.falsify.discovery import Checks, module_name
from pv.falsify.reading import FILE_START, FoundCheck

UNKNOWN_ID, ORPHAN = "PV353", "PV354"
BREAKS_NOTHING, NO_CONTROL_IN_CELL, DISAGREES = "PV356", "PV357", "PV358"


def check_against(checks: Checks, contracts: Sequence[Contract]) -> list[Diagnostic]:
    """Orphan modules, unknown ids, controls that break nothing, cells without a control.

    `contracts` are all contracts of the project whose shape is sound. Checks of installed packages may be about
    contracts that this project does not have; these are left alone.
    """
    by_module = {module_name(contract.id): contract for contract in reversed(contracts)}
    problems = list(_ambiguous(checks, contracts))
    problems += [_orphan(checks, module, by_module) for module in checks.modules if module not in by_module]
    for check in checks.found:
        contract = by_module.get(check.module)
        if contract is None:
            continue
        claim = contract.claim(check.id)
        problems += [_unknown_id(check, contract, contracts)] if claim is None else _misfits(check, contract, claim)
    return problems


def misfits(checks: Checks, loaded: Sequence[Loaded], *, whole: bool) -> list[Diagnostic]:
    """All that is wrong with the checks of these contracts, in their modules and between the two.

    `whole`: these are all contracts of the project, so a module that belongs to none of them is an orphan. A contract
    whose shape is not sound has its module all the same; the two are compared when it is mended.
    """
    contracts = [one.contract for one in loaded if one.contract is not None]
    sound = {module_name(contract.id) for contract in contracts}
    unsound = {module_name(one.stem) for one in loaded} - sound
    judged = {m: place for m, place in checks.modules.items() if m in sound or (whole and m not in unsound)}
    places = {place for m, place in checks.modules.items() if m in judged or m in unsound}
    own = [problem for problem in checks.problems if whole or problem.path in places]
    return [*own, *check_against(Checks(checks.found, (), judged), contracts)]


def _ambiguous(checks: Checks, contracts: Sequence[Contract]) -> Iterator[Diagnostic]:
    first: dict[str, Contract] = {}
    for contract in contracts:
        module = module_name(contract.id)
        earlier = first.setdefault(module, contract)
        if earlier is not contract and module in checks.modules:
            yield Diagnostic(
                ORPHAN,
                Severity.ERROR,
                checks.modules[module],
                f"two contracts claim this module: {earlier.path} and {contract.path}",
                FILE_START,
                expected="one contract for each check module",
                help="rename one contract; `-` and `.` both become `_` in the module's name",
            )


def _orphan(checks: Checks, module: str, by_module: dict[str, Contract]) -> Diagnostic:
    near = get_close_matches(module, by_module, n=1)
    return Diagnostic(
        ORPHAN,
        Severity.ERROR,
        checks.modules[module],
        f"this check module belongs to no contract: none of {len(by_module)} is named like {module!r}",
        FILE_START,
        expected="a contract file of the same name, with - for _",
        found=checks.modules[module],
        help=f"did you mean {near[0]}.py, for {by_module[near[0]].path}?" if near else "helpers begin with `_`",
    )


def _unknown_id(check: FoundCheck, contract: Contract, contracts: Sequence[Contract]) -> Diagnostic:
    elsewhere = next((other for other in contracts if other.claim(check.id)), None)
    near = get_close_matches(check.id, [claim.id for claim in contract.claims], n=1)
    if elsewhere:
        advice = f"{elsewhere.path} has it; its checks live in {module_name(elsewhere.id)}.py"
    else:
        advice = f"did you mean {near[0]}?" if near else "add the entry, or remove the check"
    return _problem(
        UNKNOWN_ID,
        check,
        f"{check.function} is registered for {check.id}, but {contract.path} has no such entry",
        expected=f"one of the {len(contract.claims)} ids of {contract.path}",
        found=check.id,
        advice=advice,
    )


def _misfits(check: FoundCheck, contract: Contract, claim: Claim) -> Iterator[Diagnostic]:
    place = f"{contract.path} at {claim.loc[0]}[{claim.loc[1]}]"
    yield from _disagreements(check, claim, place)
    for control in check.controls:
        if control.breaks not in claim.thresholds:
            yield _problem(
                BREAKS_NOTHING,
                check,
                f"control {control.name!r} breaks {control.breaks!r}, which is no threshold of {check.id} in {place}",
                expected=f"one of {', '.join(claim.thresholds)}" if claim.thresholds else "a claim with thresholds",
                found=control.breaks,
                advice="name the measurement whose threshold the defect must break",
            )
    for device in dict.fromkeys(cell.device for cell in claim.required_cells):
        if check.controls and not check.controls_for(device):
            yield _problem(
                NO_CONTROL_IN_CELL,
                check,
                f"no control of {check.id} applies on {device.value}, which {place} requires",
                expected=f"a control without cells=, or with {device.value!r} among them",
                found=", ".join(f"{control.name!r} on {', '.join(control.cells)}" for control in check.controls),
                advice="a run without a control can only be VACUOUS",
            )


def _disagreements(check: FoundCheck, claim: Claim, place: str) -> Iterator[Diagnostic]:
    if check.family != claim.family:
        yield _problem(
            DISAGREES,
            check,
            f"{check.id} is a {claim.family} in {place}, but registered as a {check.family}",
            expected=f"@{claim.family}",
            found=f"@{check.family}",
            advice="use the other decorator",
        )
    elif claim.bound is not None and check.bound is not None and claim.bound != check.bound:
        yield _problem(
            DISAGREES,
            check,
            f"{check.id} has bound {claim.bound} in {place}, but bound={check.bound} here",
            expected=str(claim.bound),
            found=str(check.bound),
            advice="make the two bounds equal",
        )


def _problem(code: str, check: FoundCheck, message: str, *, expected: str, found: str, advice: str) -> Diagnostic:
    return Diagnostic(
        code,
        Severity.ERROR,
        check.display,
        message,
        check.span,
        expected=expected,
        found=found,
        where=f"{check.function} ({check.id})",
        help=advice,
    )
