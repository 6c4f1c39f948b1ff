"""An outcome -> what `pv falsify` says of it: a table for people, JSON, or JUnit XML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from pv.contract.claims import Contract
from pv.contract.vocabulary import Status, Verdict
from pv.diagnostics.words import one_line, safe, xml_safe
from pv.falsify.attempt import Attempt
from pv.falsify.judge import bound_text, number_text
from pv.falsify.session import Outcome, Result

NARROW = 0.1  # a margin below this share of an upper bound is worth a word


def finished_line(attempt: Attempt) -> str:
    """One line for the progress log: `SURVIVED  FALSIFY-X-001 [cpu · code]  0.4 s  cosine = 0.9999 (>= 0.99)`."""
    figures = ", ".join(_figure(measured) for measured in attempt.measurements[:3])
    said = attempt.judged.reason or figures
    return f"{attempt.verdict.value:12} {attempt.task}  {attempt.seconds:.1f} s  {one_line(said)}".rstrip()


def as_text(outcome: Outcome, *, write: bool) -> str:
    """The table of what was checked, run, blocked and earned, with a reproducing command for whatever did not survive.

    Ends with the line that states the denominator.
    """
    lines = [*_table(outcome), *_details(outcome), *_left_out(outcome), *_unchecked(outcome), *_patches(outcome, write)]
    return "\n".join([*lines, summary(outcome, write=write)])


def summary(outcome: Outcome, *, write: bool) -> str:
    """`11 claims of 12 in 2 contracts checked, 14 cells run (13 survived, 1 falsified); earned: 3 statuses moved`."""
    plan = outcome.plan
    keys = {task.key for task in plan.tasks} | {(row.contract.id, row.claim.id) for row in plan.unchecked}
    keys |= {(left.contract.id, left.claim.id) for left in plan.left_out}
    ran = [result for result in outcome.results if result.attempt.answer is not None]
    verdicts = Counter(result.attempt.verdict for result in ran)
    told = ", ".join(f"{count} {verdict.value.lower()}" for verdict, count in sorted(verdicts.items(), key=_badness))
    waiting = Counter(result.attempt.verdict for result in outcome.results if result.attempt.answer is None)
    parts = [
        f"{_count(len({result.attempt.task.key for result in ran}), 'claim')} of {len(keys)} "
        f"in {_count(len({stem for stem, _ in keys}), 'contract')} checked, {_count(len(ran), 'cell')} run"
        + (f" ({told})" if told else "")
    ]
    parts += [f"{_count(count, 'cell')} {verdict.value.lower()} before it ran" for verdict, count in waiting.items()]
    if outcome.plan.left_out:
        parts.append(f"{_count(len(outcome.plan.left_out), 'cell')} left out by cost")
    if outcome.plan.unchecked:
        parts.append(f"{_count(len(outcome.plan.unchecked), 'claim')} without a check")
    moved = [key for key in outcome.before if _moved(outcome, key)]
    kept = sum(result.kept for result in outcome.results)
    did = "written" if write else "would be written"
    parts.append(f"earned: {_count(len(moved), 'status', 'statuses')} moved")
    changed = sum(plan.changes for plan in outcome.settled)
    parts.append(f"{did}: {_count(kept, 'record')}, {_count(changed, 'contract')}")
    return "; ".join(parts)


def as_data(outcome: Outcome, *, write: bool, exit_code: int) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run_id": outcome.run_id,
        "exit_code": exit_code,
        "interrupted": outcome.interrupted,
        "written": write,
        "results": [_result_data(outcome, result) for result in outcome.results],
        "unchecked": [{"contract": row.contract.id, "id": row.claim.id} for row in outcome.plan.unchecked],
        "left_out": [
            {
                "contract": left.contract.id,
                "id": left.claim.id,
                "device": left.cell.device.value,
                "subject": left.cell.subject,
                "cost": left.cost.value,
            }
            for left in outcome.plan.left_out
        ],
        "statuses": [
            {
                "contract": stem,
                "id": claim,
                "before": before.value,
                "after": outcome.after.get((stem, claim), before).value,
            }
            for (stem, claim), before in outcome.before.items()
        ],
        "contracts": [
            {
                "path": plan.display,
                "diff": plan.diff,
                "refused": [
                    {"id": refusal.claim_id, "line": refusal.line, "reason": refusal.reason, "patch": refusal.patch}
                    for refusal in plan.refused
                ],
            }
            for plan in outcome.settled
        ],
        "not_written": outcome.not_written,
        "summary": summary(outcome, write=write),
    }


def as_junit(outcome: Outcome) -> str:
    """A suite for each contract, a case for each cell: broken claims fail, crashes are errors, BLOCKED is skipped."""
    suites = ElementTree.Element("testsuites", name="pv falsify")
    for stem in dict.fromkeys(result.attempt.task.contract.id for result in outcome.results):
        own = [result for result in outcome.results if result.attempt.task.contract.id == stem]
        suite = ElementTree.SubElement(suites, "testsuite", name=stem)
        kinds = Counter(_junit_kind(result.attempt.verdict) for result in own)
        suite.attrib |= {"tests": str(len(own)), "time": f"{sum(r.attempt.seconds for r in own):.3f}"}
        suite.attrib |= {
            "failures": str(kinds["failure"]), "errors": str(kinds["error"]), "skipped": str(kinds["skipped"])
        }  # fmt: skip
        for result in own:
            suite.append(_junit_case(result))
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}'


# ---------------------------------------------------------------------------------------------------------- the table


def _table(outcome: Outcome) -> Iterator[str]:
    rows = [
        (
            result.attempt.task.claim.id,
            f"{result.attempt.task.cell}{'' if result.attempt.task.required else ' (stand-in)'}",
            result.attempt.verdict.value,
            f"{result.attempt.seconds:.1f} s" if result.attempt.answer else "-",
            _status_change(outcome, result),
        )
        for result in outcome.results
    ]
    if not rows:
        return
    table = [("claim", "cell", "verdict", "time", "status"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    before = None
    for number, row in enumerate(table):
        contract = outcome.results[number - 1].attempt.task.contract if number else None
        if contract is not None and contract is not before:
            yield f"{contract.id} {_versions(outcome, contract)}"
            before = contract
        padded = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)]
        yield f"  {'  '.join([*padded, row[4]])}".rstrip()
    yield ""


def _versions(outcome: Outcome, contract: Contract) -> str:
    """`1.3.0`, or `1.3.0 -> 1.4.0` where the run moved it."""
    for plan in outcome.settled:
        if plan.path == contract.path and plan.version_after != plan.version_before:
            return f"{plan.version_before} -> {plan.version_after}"
    return contract.metadata.version


def _details(outcome: Outcome) -> Iterator[str]:
    """Why, and how to see it again, for whatever did not plainly survive."""
    for result in outcome.results:
        attempt = result.attempt
        known = attempt.task.claim.known_failing
        if attempt.verdict is not Verdict.SURVIVED:
            yield f"{attempt.verdict.value} {attempt.task}: {safe(attempt.judged.reason)}"
            if attempt.verdict is Verdict.FALSIFIED and attempt.task.claim.if_fails:
                yield f"  then: {one_line(attempt.task.claim.if_fails)}"
            if known is not None and attempt.verdict is Verdict.FALSIFIED:
                yield f"  known failing since {known.since}: {one_line(known.reason)} (owner: {known.owner})"
            if attempt.verdict is not Verdict.BLOCKED:
                yield f"  again: {result.record.command}"
            yield from (f"  | {line}" for line in _last_lines(attempt))
        elif said := outcome.unexpected(attempt.task):
            yield f"UNEXPECTED {said}"
        yield from _narrow(attempt)


def _last_lines(attempt: Attempt) -> list[str]:
    """The end of a crashed check's log."""
    if attempt.verdict is not Verdict.ERROR:
        return []
    return safe(attempt.log.decode("utf-8", "replace")).splitlines()[-8:]


def _narrow(attempt: Attempt) -> Iterator[str]:
    """A survival just below an upper bound. (Of a lower bound, such as a cosine's, a small share says nothing.)"""
    for measured in attempt.measurements if attempt.verdict is Verdict.SURVIVED else ():
        threshold = measured.threshold
        if threshold is None or threshold.op not in ("<", "<=") or not isinstance(threshold.value, int | float):
            continue
        if isinstance(measured.margin, int | float) and 0 <= measured.margin < NARROW * threshold.value:
            share = 100 * measured.margin / threshold.value
            yield f"narrow: {attempt.task}: {_figure(measured)}, a margin of {share:.1f} %"


def _left_out(outcome: Outcome) -> Iterator[str]:
    by_cost: dict[str, list[str]] = {}
    for left in outcome.plan.left_out:
        by_cost.setdefault(left.cost.value, []).append(f"{left.claim.id} [{left.cell}]")
    for cost, cells in by_cost.items():
        how = "by --id only" if cost == "operator" else f"with --cost {cost}"
        yield f"left out, {how}: {', '.join(cells)}"


def _unchecked(outcome: Outcome) -> Iterator[str]:
    for row in outcome.plan.unchecked:
        blocked = f"; blocked on {', '.join(row.claim.blocked_on)}" if row.claim.blocked_on else ""
        yield f"no check: {row.claim.id} in {row.contract.path.name}{blocked}"


def _patches(outcome: Outcome, write: bool) -> Iterator[str]:
    """What would be written, and what could not be."""
    if not write:
        for result in outcome.results:
            if result.kept:
                yield f"would be written: a record of {result.attempt.task}, {result.attempt.verdict.value}"
        yield from (plan.diff.rstrip("\n") for plan in outcome.settled if plan.changes)
    for plan in outcome.settled:
        for refusal in plan.refused:
            yield f"not written: {plan.display}:{refusal.line}: {refusal.claim_id}: {refusal.reason}"
            if refusal.patch:
                yield "  by hand:"
                yield from (f"    {line}" for line in refusal.patch.splitlines())
        yield from (f"note: {plan.display}: {note}" for note in plan.notes)
    if outcome.not_written:
        yield f"not written: {outcome.not_written}"


def _status_change(outcome: Outcome, result: Result) -> str:
    key = result.attempt.task.key
    before = outcome.before[key]
    return f"{before.value} -> {outcome.after[key].value}" if _moved(outcome, key) else before.value


def _moved(outcome: Outcome, key: tuple[str, str]) -> bool:
    return outcome.after.get(key, outcome.before[key]) is not outcome.before[key]


def _figure(measured: Any) -> str:
    expected = f" ({bound_text(measured.threshold)})" if measured.threshold else ""
    return f"{measured.name} = {number_text(measured.value)}{expected}"


def _count(number: int, word: str, plural: str = "") -> str:
    return f"{number} {word if number == 1 else plural or word + 's'}"


def _badness(item: tuple[Verdict, int]) -> int:
    return item[0].badness


# ------------------------------------------------------------------------------------------------------- for programs


def _result_data(outcome: Outcome, result: Result) -> dict[str, Any]:
    attempt, task = result.attempt, result.attempt.task
    return {
        "contract": task.contract.id,
        "id": task.claim.id,
        "device": task.cell.device.value,
        "subject": task.cell.subject,
        "required": task.required,
        "verdict": attempt.verdict.value,
        "reason": attempt.judged.reason,
        "missing": list(attempt.missing),
        "seconds": round(attempt.seconds, 3),
        "measurements": [
            {
                "name": measured.name,
                "value": measured.value,
                "unit": measured.unit,
                "n": measured.n,
                "threshold": bound_text(measured.threshold) if measured.threshold else None,
                "margin": measured.margin,
                "passed": measured.passed,
            }
            for measured in attempt.measurements
        ],
        "controls": [
            {"name": control.name, "breaks": control.breaks, "caught": control.caught, "observed": control.observed}
            for control in attempt.controls
        ],
        "record": result.record.digest or None,
        "kept": result.kept,
        "command": result.record.command,
        "status": outcome.after.get(task.key, Status.UNBOUND).value,
    }


def _junit_kind(verdict: Verdict) -> str:
    return {
        Verdict.SURVIVED: "",
        Verdict.BLOCKED: "skipped",
        Verdict.ERROR: "error",
    }.get(verdict, "failure")


def _junit_case(result: Result) -> ElementTree.Element:
    attempt = result.attempt
    name = f"{attempt.task.claim.id} [{attempt.task.cell}]"
    case = ElementTree.Element("testcase", classname=attempt.task.contract.id, name=xml_safe(name))
    case.attrib |= {"time": f"{attempt.seconds:.3f}", "file": attempt.task.check.display}
    kind = _junit_kind(attempt.verdict)
    if kind:
        said = ElementTree.SubElement(case, kind, message=xml_safe(f"{attempt.verdict.value}: {attempt.judged.reason}"))
        if kind != "skipped":
            said.attrib["type"] = attempt.verdict.value
            said.text = xml_safe(f"again: {result.record.command}")
    if attempt.log:
        ElementTree.SubElement(case, "system-out").text = xml_safe(attempt.log.decode("utf-8", "replace")[-20_000:])
    return case
