"""PV208 to PV249: fields that are there but contradict each other, say nothing, or have a form nobody can use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from pv.contract.claims import ALIASES
from pv.contract.near import nearest
from pv.contract.vocabulary import SEMVER, ClaimKind
from pv.diagnostics.model import TextEdit
from pv.rules.finding import WARNING, Finding, Loc, text
from pv.rules.view import FALSIFIERS, OBLIGATIONS, View

_SAFE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_FALSIFIER_ID = re.compile(r"FALSIFY-[A-Z0-9]+(?:-[A-Z0-9]+)*-\d{3}")
_HARNESS_ID = re.compile(r"KH-[A-Z0-9]+(?:-[A-Z0-9]+)*-\d{3}")
OTHER_NAMES = tuple(alias for pairs in ALIASES.values() for _, alias in pairs)
_DATE_FIELDS = ("created", "updated", "last_modified")
_LOCKED_LEVELS = frozenset({"basic", "l1", "standard", "l2", "l3", "strict", "l4", "proven", "l5"})


def written_twice(view: View) -> Iterator[Finding]:
    """A field and its other name in one entry: only one of them can be read."""
    for placed, section in ((view.falsifiers, FALSIFIERS), (view.obligations, OBLIGATIONS)):
        for loc, entry in placed:
            for name, alias in ALIASES[section]:
                if alias in entry and name in entry and alias != "description":
                    yield _twice((*loc, alias), name, alias)


def described_twice(view: View) -> Iterator[Finding]:
    """`description` beside `rule`: the older format ignored it, the newer one reads it as `rule`."""
    for loc, entry in view.falsifiers:
        if "description" in entry and "rule" in entry:
            yield _twice((*loc, "description"), "rule", "description")


def _twice(loc: Loc, name: str, alias: str) -> Finding:
    return Finding(
        loc,
        f"`{alias}` is another name of `{name}`, and both are written: `{name}` is read, this is not",
        expected=f"`{name}` alone",
        found=f"`{name}` and `{alias}`",
        help="merge the two texts under one name",
        key=True,
    )


def kind_at_the_top(view: View) -> Iterator[Finding]:
    """`kind:` belongs under `metadata:`."""
    if "kind" in view.data and "metadata" in view.data:
        yield Finding(
            ("kind",),
            "top-level kind: is not part of the contract schema and is silently dropped; the kind is `metadata.kind`",
            expected="`kind:` under `metadata:`",
            found="`kind:` at the top",
            help=f"move it under `metadata:` (today the file is judged `{view.kind}`)",
            key=True,
        )


def duplicate_ids(view: View) -> Iterator[Finding]:
    """One id names one claim of a list."""
    for loc, name, before in _repeated(view):
        if loc[0] == before[0] and loc[0] != OBLIGATIONS:
            words = "falsification test" if loc[0] == FALSIFIERS else "Kani harness"
            yield _duplicate(view, (*loc, "id"), f"Duplicate {words} ID: {name}", before)


def ids_shared_between_lists(view: View) -> Iterator[Finding]:
    """A falsifier, a harness and an obligation with one id cannot be told apart by what names them."""
    for loc, name, before in _repeated(view):
        if loc[0] != before[0] or loc[0] == OBLIGATIONS:
            yield _duplicate(view, (*loc, "id"), f"id {name!r} is used twice in this file", before)


def _repeated(view: View) -> Iterator[tuple[Loc, str, Loc]]:
    """(place, id, first place) of every entry whose id another has before it."""
    if len({name for _, name in view.ids}) == len(view.ids):
        return
    first: dict[str, Loc] = {}
    for loc, name in view.ids:
        before = first.setdefault(name, loc)
        if before != loc:
            yield loc, name, before


def _duplicate(view: View, loc: Loc, message: str, first: Loc) -> Finding:
    span = view.document.span((*first, "id"))
    at = f"{first[0]}[{first[1]}]" + (f", line {span.line}" if span else "")
    return Finding(loc, message, expected="an id of its own", found=f"the id of {at}", help="renumber one of them")


def no_references(view: View) -> Iterator[Finding]:
    """A contract says where its claim comes from."""
    if not view.metadata.get("references") and not view.misspelt(("metadata",), "references") and view.metadata:
        yield Finding(
            ("metadata", "references"),
            "metadata.references must not be empty — every contract must cite its source paper(s)",
            expected="at least one reference",
            found="none",
            help="add `references:` with the paper, page or file that the claim comes from",
            key=True,
        )


def no_version(view: View) -> Iterator[Finding]:
    """A contract without a version cannot change."""
    if view.metadata.get("version") == "":
        yield Finding(("metadata", "version"), "metadata.version must not be empty", expected="1.0.0", found="nothing")


def version_form(view: View) -> Iterator[Finding]:
    """Bumps are computed, so versions are MAJOR.MINOR.PATCH."""
    version = view.metadata.get("version")
    if isinstance(version, str) and version and not SEMVER.fullmatch(version):
        yield Finding(
            ("metadata", "version"),
            f"metadata.version is no semantic version: expected MAJOR.MINOR.PATCH, found `{version}`",
            expected="MAJOR.MINOR.PATCH",
            found=f"`{version}`",
            help="a bump cannot be computed from it; see semver.org",
        )


def date_form(view: View) -> Iterator[Finding]:
    """Dates that no program can compare."""
    for name in _DATE_FIELDS:
        value = view.metadata.get(name)
        if isinstance(value, str) and not _is_date(value):
            yield _no_date(("metadata", name), value)
    for loc, entry in view.own:
        known = entry.get("known_failing")
        verified = entry.get("last_verified")
        if isinstance(verified, str) and not _is_date(verified):
            yield _no_date((*loc, "last_verified"), verified)
        if isinstance(known, dict) and isinstance(known.get("since"), str) and not _is_date(known["since"]):
            yield _no_date((*loc, "known_failing", "since"), known["since"])


def _is_date(value: str) -> bool:
    try:
        date.fromisoformat(value[:10])
    except ValueError:
        return False
    return len(value) == 10 or value[10] in "T "


def _no_date(loc: Loc, value: str) -> Finding:
    return Finding(
        loc,
        f"`{loc[-1]}` is no date: expected YYYY-MM-DD, found `{value[:40]}`",
        expected="YYYY-MM-DD",
        found=f"`{value[:40]}`",
        help="write the date that was meant",
    )


def id_form(view: View) -> Iterator[Finding]:
    """Ids become names of folders and arguments of commands."""
    for loc, name in view.ids:
        if not _SAFE_ID.fullmatch(name) and loc[0] != OBLIGATIONS:
            yield Finding(
                (*loc, "id"),
                f"the id cannot name a folder or be typed: expected letters, digits, `-`, `_` and `.`, found {name!r}",
                expected="letters, digits, `-`, `_` and `.`",
                found=f"{name!r}",
                help="evidence of a claim lies in a folder of that name",
            )


def id_convention(view: View) -> Iterator[Finding]:
    """Ids by the convention can be told from other words in a text."""
    for placed, pattern, shape in (
        (view.falsifiers, _FALSIFIER_ID, "FALSIFY-<TOPIC>-<three digits>"),
        (view.harnesses, _HARNESS_ID, "KH-<TOPIC>-<three digits>"),
    ):
        for loc, entry in placed:
            name = entry.get("id")
            if isinstance(name, str) and _SAFE_ID.fullmatch(name) and not pattern.fullmatch(name):
                yield Finding((*loc, "id"), f"expected an id like {shape}, found `{name}`", expected=shape, found=name)


def no_equations(view: View) -> Iterator[Finding]:
    """A kernel without a formula specifies nothing."""
    if view.is_kernel and not view.equations and not view.misspelt((), "equations"):
        yield Finding(
            ("equations",),
            f"equations must contain at least one equation{view.by_default}",
            expected="at least one equation",
            found="none",
            help="add `equations:`, or name the kind of document in `metadata.kind` if this is no kernel",
            key=True,
        )


def empty_formulas(view: View) -> Iterator[Finding]:
    """An equation of a kernel has a formula."""
    if not view.is_kernel:
        return
    for loc, name, equation in view.equations:
        if equation.get("formula") in (None, "") and not view.misspelt(loc, "formula"):
            yield Finding(
                (*loc, "formula"),
                f"equations.{name}.formula must not be empty{view.by_default}",
                expected="a formula",
                found="nothing",
                help="write the formula, or rename the key that holds it",
                key=True,
            )


def empty_properties(view: View) -> Iterator[Finding]:
    """An obligation says what it obliges to."""
    for loc, entry in view.obligations:
        if not text(entry, "property", "statement") and not view.misspelt(loc, "property"):
            yield Finding(
                (*loc, "property"),
                f"proof_obligations[{loc[1]}].property must not be empty",
                expected="a sentence",
                found="nothing",
                help="say what must hold",
                key=True,
            )


def duplicate_formals(view: View) -> Iterator[Finding]:
    """Two obligations with one predicate are one obligation counted twice."""
    seen: set[str] = set()
    for loc, entry in view.obligations:
        formal = text(entry, "formal", "verification")
        if formal and formal in seen:
            where = (*loc, "formal" if "formal" in entry else "verification")
            yield Finding(where, f"Duplicate formal predicate: {formal}", help="state it once, or say how they differ")
        seen.add(formal)


def fields_of_other_types(view: View) -> Iterator[Finding]:
    """Fields that only some types of obligation have."""
    for loc, entry in view.obligations:
        for name, types, words in _TYPED_FIELDS:
            if name in entry and entry.get("type", "invariant") not in types:
                found = entry.get("type", "invariant")
                yield Finding(
                    (*loc, name),
                    f"proof_obligations[{loc[1]}].{name} is only valid on {words} obligations (found on {found})",
                    expected=" or ".join(types),
                    found=f"{found}",
                    help="remove it, or correct the type",
                    key=True,
                )


_TYPED_FIELDS = (
    ("requires", ("postcondition",), "postcondition"),
    ("applies_to_phase", ("loop_invariant", "loop_variant"), "loop_invariant/loop_variant"),
    ("parent_contract", ("subcontract",), "subcontract"),
)


def unexplained_exemptions(view: View) -> Iterator[Finding]:
    """`applies_to: not_applicable` says why, and who checks it instead; nothing else may carry such an excuse."""
    for loc, entry in view.obligations:
        if entry.get("applies_to") == "not_applicable":
            for name, words in (
                ("na_reason", "say why it is not a code property"),
                ("na_owner", "name the bench, check or evidence command that verifies it"),
            ):
                if not text(entry, name):
                    message = f"proof_obligations[{loc[1]}] is not_applicable without {name} — {words}"
                    yield Finding((*loc, "applies_to"), message, expected=f"`{name}:`", found="nothing", help=words)
        else:
            for name in ("na_reason", "na_owner"):
                if name in entry:
                    message = (
                        f"proof_obligations[{loc[1]}].{name} without applies_to: not_applicable — a dangling "
                        "justification is decoration"
                    )
                    yield Finding((*loc, name), message, help="remove it, or write the exemption", key=True)


def no_qa_gate(view: View) -> Iterator[Finding]:
    """A kernel names the gate that keeps its quality."""
    if view.is_kernel and "qa_gate" not in view.data and not view.misspelt((), "qa_gate"):
        yield Finding(
            ("qa_gate",),
            "No qa_gate defined — contract should define a certeza quality gate",
            expected="a `qa_gate:` block",
            found="none",
            help="name the checks that must pass",
            key=True,
        )


def miscounted(view: View) -> Iterator[Finding]:
    """A count kept by hand that the list beside it contradicts."""
    summary = view.data.get("verification_summary")
    total = summary.get("total_obligations") if isinstance(summary, dict) else None
    listed = view.count(OBLIGATIONS)
    if not isinstance(total, int) or total == listed or (view.kind == "schema" and listed == 0):
        return
    scalar = view.document.scalar(("verification_summary", "total_obligations"))
    plain = scalar is not None and scalar.style == "plain" and not (scalar.anchor or scalar.alias or scalar.tag)
    yield Finding(
        ("verification_summary", "total_obligations"),
        f"verification_summary.total_obligations is {total}, but proof_obligations lists {listed}",
        expected=str(listed),
        found=str(total),
        help=f"write {listed}",
        edits=(TextEdit(scalar.span.start, scalar.span.end, str(listed)),) if scalar is not None and plain else (),
    )


def overcounted_proofs(view: View) -> Iterator[Finding]:
    """`l4_lean_proved` above the number of obligations whose Lean status says proved."""
    summary = view.data.get("verification_summary")
    claimed = summary.get("l4_lean_proved") if isinstance(summary, dict) else None
    if not isinstance(claimed, int) or isinstance(claimed, bool):
        return
    leans = [entry.get("lean") for _, entry in view.obligations]
    proved = sum(1 for lean in leans if isinstance(lean, dict) and lean.get("status") == "proved")
    if claimed > proved:
        yield Finding(
            ("verification_summary", "l4_lean_proved"),
            f"verification_summary.l4_lean_proved is {claimed}, but {proved} obligations have `lean.status: proved`",
            expected=f"at most {proved}",
            found=str(claimed),
            help="a count typed by hand proves nothing",
        )


def claim_words(view: View) -> Iterator[Finding]:
    """`claim` is one of two words; a sentence there is read as nothing."""
    known = [kind.value for kind in ClaimKind]
    for loc, entry in view.own:
        claim = entry.get("claim")
        if claim is None or claim in known:
            continue
        near = nearest(claim, known) if isinstance(claim, str) else None
        yield Finding(
            (*loc, "claim"),
            "`claim` is neither `outcome` nor `guard`, and is read as nothing",
            expected="`outcome` or `guard`",
            found=f"`{str(claim)[:40]}`",
            help=f"did you mean `{near}`?" if near else "the claim in words belongs in `prediction`",
            severity=WARNING if near is None else None,
        )


def locked_levels(view: View) -> Iterator[Finding]:
    """A lock that no reader recognises locks nothing."""
    level = view.metadata.get("locked_level")
    if isinstance(level, str) and level.lower() not in _LOCKED_LEVELS:
        yield Finding(
            ("metadata", "locked_level"),
            f"metadata.locked_level `{level}` is no level, and would silently mean `standard`",
            expected="basic (l1), standard, strict (l4) or proven (l5)",
            found=f"`{level}`",
        )


def self_declared_proofs(view: View) -> Iterator[Finding]:
    """`actually_verified: true` is a word of the author, not a run."""
    for loc, entry in view.harnesses:
        if entry.get("actually_verified") is True:
            yield Finding(
                (*loc, "actually_verified"),
                "`actually_verified: true` is self-declared; no command of pv reads it",
                expected="a status that a run earned",
                found="`true`",
                help="register the harness (`@harness`) and run `pv falsify --id` on it",
                key=True,
            )
