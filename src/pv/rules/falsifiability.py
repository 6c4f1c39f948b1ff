"""PV601 to PV619: whether anything in the file could be shown to be wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pv.contract.claims import FALSIFIERS, texts_of
from pv.rules.finding import Finding, Loc, text
from pv.rules.view import HARNESSES, OBLIGATIONS, Entry, View

_RUNNABLE = ("test", "command", "test_harness", "name")
_INERT = ("falsification", "falsification_conditions", "falsifiers", "falsification_criteria")


def unprovable_kernels(view: View) -> Iterator[Finding]:
    """A kernel has obligations, at least as many falsification tests, and a harness."""
    if not view.is_kernel:
        return
    obligations, tests = view.count(OBLIGATIONS), view.count(FALSIFIERS)
    wanting = [
        (OBLIGATIONS, "Kernel contract has no proof_obligations", obligations == 0),
        (FALSIFIERS, "Kernel contract has no falsification_tests", tests == 0),
        (HARNESSES, "Kernel contract has no kani_harnesses", view.count(HARNESSES) == 0),
        (FALSIFIERS, f"falsification_tests ({tests}) < proof_obligations ({obligations})", 0 < tests < obligations),
    ]
    for section, message, holds in wanting:
        if holds and not view.misspelt((), section):
            yield Finding(
                (section,),
                message + view.by_default,
                expected=f"`{section}:`",
                found="nothing" if section not in view.data else "fewer",
                help="add what is missing, or name the kind of document in `metadata.kind` if this is no kernel",
                key=True,
            )


def empty_predictions(view: View) -> Iterator[Finding]:
    """A falsification test predicts something."""
    for loc, entry in view.falsifiers:
        if not text(entry, "prediction", "expected") and not view.misspelt(loc, "prediction"):
            yield Finding(
                (*loc, "prediction"),
                f"{FALSIFIERS}.{entry.get('id')}.prediction must not be empty — every test must make a falsifiable "
                "prediction",
                expected="what will be seen if the claim is true",
                found="nothing",
                help="add `prediction:`" + (" (the sentence under `claim:` may be it)" if "claim" in entry else ""),
                key=True,
            )


def empty_diagnoses(view: View) -> Iterator[Finding]:
    """A falsification test says what it means when it fails."""
    for loc, entry in view.falsifiers:
        if not text(entry, "if_fails", "fails_if") and not view.misspelt(loc, "if_fails"):
            yield Finding(
                (*loc, "if_fails"),
                f"{FALSIFIERS}.{entry.get('id')}.if_fails is empty — should describe root cause diagnosis",
                expected="what is wrong when the prediction does not come true",
                found="nothing",
                help="add `if_fails:`",
                key=True,
            )


def aimless_harnesses(view: View) -> Iterator[Finding]:
    """A harness proves an obligation."""
    for loc, entry in view.harnesses:
        if entry.get("obligation") == "":
            yield Finding(
                (*loc, "obligation"),
                f"{HARNESSES}.{entry.get('id')}.obligation must not be empty — every harness must reference a proof "
                "obligation",
                expected="the id of an obligation",
                found="nothing",
            )


def boundless_harnesses(view: View) -> Iterator[Finding]:
    """A bounded proof has a bound."""
    for loc, entry in view.harnesses:
        if entry.get("bound") is None and not view.misspelt(loc, "bound"):
            yield Finding(
                (*loc, "bound"),
                f"{HARNESSES}.{entry.get('id')}.bound not specified — Kani requires an unwind bound",
                expected="a whole number",
                found="nothing",
                help="add `bound:`",
                key=True,
            )


def unfalsifiable(view: View) -> Iterator[Finding]:
    """Claims, and nothing that could break them."""
    if view.count(FALSIFIERS) or view.is_kernel or view.loaded.artifact != "contract":
        return  # of a kernel, PV601 says it
    inert = next((key for key in _INERT if key in view.data), "")
    if inert or view.equations or view.obligations:
        yield Finding(
            (inert or FALSIFIERS,),
            "the contract cannot be falsified: it has no falsification_tests"
            + (f"; what stands under `{inert}:` is read by nobody" if inert else ""),
            expected="at least one entry of `falsification_tests:`",
            found="none",
            help=f"move the entries of `{inert}` there" if inert else "add one, with a prediction that could fail",
            key=True,
        )


def inert_tests(view: View) -> Iterator[Finding]:
    """Tests beside `falsification_tests` that no reader looks at."""
    if view.count(FALSIFIERS) or view.is_kernel:
        for key in _INERT:
            if isinstance(view.data.get(key), list) and view.data[key]:
                yield Finding(
                    (key,),
                    f"{len(view.data[key])} entries under `{key}:` are read by nobody",
                    expected="entries of `falsification_tests:`",
                    found=f"`{key}:`",
                    help="move them under `falsification_tests:`",
                    key=True,
                )


def unobliged(view: View) -> Iterator[Finding]:
    """Equations without an obligation to keep to them."""
    if view.equations and not view.count(OBLIGATIONS) and not view.is_kernel:
        yield Finding(
            ("equations",),
            "the contract has equations and no proof_obligations: nothing is owed",
            expected="`proof_obligations:`",
            found="none",
            key=True,
        )


def empty_shells(view: View) -> Iterator[Finding]:
    """A test that names nothing that could be run, where no project registers checks."""
    if view.project.configured:
        return  # there PV410 knows which claims have a check
    for loc, entry in view.falsifiers:
        if not entry.get("test") and not any(text(entry, name) for name in _RUNNABLE) and not entry.get("blocked_on"):
            yield Finding(
                (*loc, "id"),
                f"{entry.get('id')} names nothing that could be run",
                expected="`test:`, a registered check, or `blocked_on:`",
                found="neither",
                help="say what tries to break the prediction",
            )


def undecided_thresholds(view: View) -> Iterator[Finding]:
    """A bound that nothing can meet, or that everything meets, decides nothing."""
    from pv.contract.meaning import accepted  # not at the top: few files have thresholds

    contract = view.loaded.contract
    for claim in contract.claims if contract is not None else ():
        for name, threshold in claim.thresholds.items():
            pieces = accepted(threshold)
            everything = len(pieces) == 1 and pieces[0].low == -math.inf and pieces[0].high == math.inf
            if not pieces or everything:
                yield Finding(
                    (*claim.loc, "thresholds", name, "value"),
                    f"`{name} {threshold}` is met by {'every number' if everything else 'no number'}",
                    expected="a bound that some values meet and some do not",
                    found=str(threshold),
                    help="a claim that cannot fail, or cannot hold, is no claim",
                )


def unjudged(view: View) -> Iterator[Finding]:
    """A claim without a threshold leaves the verdict to whoever reads the log."""
    for loc, entry in view.falsifiers:
        blocked = entry.get("blocked_on") or entry.get("status") in (None, "UNBOUND", "BLOCKER_FIXTURE_ABSENT")
        if not entry.get("thresholds") and not blocked:
            yield Finding(
                (*loc, "thresholds"),
                f"{entry.get('id')} has no thresholds: nothing says which measurement refutes it",
                expected="`thresholds:` with one bound for each measurement",
                found="nothing",
                key=True,
            )


def uncovered(view: View) -> Iterator[Finding]:
    """An obligation that no falsifier and no harness is bound to."""
    bound = {name for _, entry in view.claims for name in texts_of(entry.get("binds_to"))}
    if not bound:
        return  # a file that links nothing is not a file with one link missing
    bound |= {text(entry, "obligation") for _, entry in view.harnesses}
    for loc, entry in view.obligations:
        name = entry.get("id")
        if isinstance(name, str) and name not in bound and entry.get("applies_to") != "not_applicable":
            yield _nothing_bound((*loc, "id"), f"obligation `{name}`")
    for loc, name, _ in view.equations:
        if name not in bound:
            yield _nothing_bound(loc, f"equation `{name}`")


def _nothing_bound(loc: Loc, what: str) -> Finding:
    return Finding(
        loc,
        f"no claim is bound to {what}: nothing tries to break it",
        expected="a falsifier whose `binds_to` names it",
        found="none",
        key=True,
    )


def copied_predictions(view: View) -> Iterator[Finding]:
    """Two falsifiers with one prediction are one falsifier counted twice."""
    said = [(loc, entry, text(entry, "prediction", "expected")) for loc, entry in view.falsifiers]
    if len({words for _, _, words in said}) == len(said):
        return
    first: dict[str, Entry] = {}
    for loc, entry, words in said:
        if words and first.setdefault(words, entry) is not entry:
            yield Finding(
                (*loc, "prediction" if "prediction" in entry else "expected"),
                f"the same prediction as {first[words].get('id')}",
                expected="a prediction of its own",
                found=words[:60],
                help="say how they differ, or remove one",
            )
