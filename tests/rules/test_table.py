"""Every rule fires on its example, at the right place and with a sentence, and is silent on the sound contract."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from pv.contract import codes
from pv.contract.project import Profile
from pv.contract.vocabulary import Status
from pv.diagnostics.model import Severity
from pv.rules import table
from pv.rules.facts import Facts
from pv.rules.finding import Scope
from pv.rules.table import BY_CODE, RULES
from tests.contract.samples import KERNEL, SOUND


class Example(NamedTuple):
    """`text` with the replacements breaks the rule once, at `at`; the message contains `says`."""

    code: str
    changes: tuple[tuple[str, str], ...]
    at: str
    says: str
    text: str = SOUND
    facts: Mapping[str, Facts] = MappingProxyType({})


STATUS = "    status: UNBOUND\nkani"
CLAIM = "FALSIFY-SOUND-001"
KIND = ("kind: schema", "kind: %s")


def kind(word: str) -> tuple[str, str]:
    return ("kind: schema", f"kind: {word}")


def status(lines: str) -> tuple[str, str]:
    """Replaces the falsifier's status by lines of its own."""
    return (STATUS, "".join(f"    {line}\n" for line in lines.splitlines()) + "kani")


def harness(lines: str) -> tuple[str, str]:
    return ("    strategy: exhaustive", f"    strategy: exhaustive\n    {lines}")


def obligation(lines: str) -> tuple[str, str]:
    return ("    formal: a = b\n", f"    formal: a = b\n    {lines}\n")


TAIL = "    bound: 8\n    strategy: exhaustive\n    status: UNBOUND\n"


def tail(lines: str) -> tuple[str, str]:
    return (TAIL, TAIL + lines + "\n")


EXAMPLES = [
    Example("PV111", (("    domain: numbers", "    domain: numbers\n    formula: again"),), "formula: again", "twice"),
    Example("PV114", (("    domain: numbers", "    domain: numbers\n    1: one"),), "1: one", "'1'"),
    Example("PV115", (("kind: schema", "kind: schema  # pv: ignore[PV218]"),), "# pv: ignore", "no reason"),
    Example("PV116", (("rule: a is b", 'rule: "a is\u2028b"'),), 'rule: "a', "U+2028"),
    Example("PV117", (("metadata:\n", "%YAML 1.1\n---\nmetadata:\n"),), "%YAML 1.1", "YAML 1.1"),
    Example("PV118", (("tolerance: 1.0e-6", "tolerance: 1e-6"),), "1e-6", "text in YAML 1.1, a number in YAML 1.2"),
    Example("PV118", (("version: 1.2.0", "version: 1.10"), ("a = b\n    t", "a = b\n    t")), "1.10", "1.10 is 1.1"),
    Example("PV119", (("prediction: a minus b is 0", "prediction: see issue #12"),), "see issue", "#12"),
    Example(
        "PV191", (("kind: schema", "kind: schema  # pv: ignore[PV203] for no reason"),), "# pv: ignore", "has no PV203"
    ),
    Example("PV201", (("    obligation: PO-1\n", ""),), "id: KH-SOUND", "missing field `obligation`"),
    Example("PV202", (('["a paper"]', "{a: paper}"),), "{a: paper}", "expected a list, found a mapping"),
    Example("PV203", (("prediction:", "predicton:"),), "predicton", "did you mean `prediction`?"),
    Example("PV204", (("type: invariant", "type: vow"),), "vow", "one of: invariant"),
    Example("PV205", (("bound: 8", "bound: -8"),), "-8", "at least 0"),
    Example("PV206", (status("cost: dear\nstatus: UNBOUND"),), "dear", "one of: quick"),
    Example("PV207", ((SOUND, "- a\n"),), "- a", "found a list"),
    Example(
        "PV208", (("    if_fails:", "    expected: it\n    if_fails:"),), "expected: it", "another name of `prediction`"
    ),
    Example("PV208", (obligation("statement: s"),), "statement: s", "another name of `property`"),
    Example(
        "PV209", (("    if_fails:", "    description: it\n    if_fails:"),), "description: it", "another name of `rule`"
    ),
    Example("PV210", (tail("kind: KernelContract"),), "kind: KernelContract", "silently dropped"),
    Example(
        "PV211",
        (
            (
                "kani_harnesses:",
                f"  - {{id: {CLAIM}, prediction: p, if_fails: f, test: t, status: UNBOUND}}\nkani_harnesses:",
            ),
        ),
        f"{CLAIM}, prediction",
        f"Duplicate falsification test ID: {CLAIM}",
    ),
    Example(
        "PV211",
        (tail("  - {id: KH-SOUND-001, obligation: PO-1, bound: 1, status: UNBOUND}"),),
        "KH-SOUND-001, obl",
        "Kani",
    ),
    Example("PV212", (("id: KH-SOUND-001", "id: PO-1"),), "PO-1\n    type", "used twice in this file"),
    Example("PV213", (('["a paper"]', "[]"),), "references:", "must not be empty"),
    Example("PV214", (("version: 1.2.0", 'version: ""'),), '""', "metadata.version must not be empty"),
    Example("PV215", (("version: 1.2.0", "version: v2-final"),), "v2-final", "MAJOR.MINOR.PATCH"),
    Example("PV216", (('"2026-11-20"', '"last spring"'),), '"last spring"', "YYYY-MM-DD"),
    Example(
        "PV216", (status("last_verified: 2026-13-40\nstatus: UNBOUND"),), "2026-13-40", "`last_verified` is no date"
    ),
    Example(
        "PV216",
        (status("known_failing: {owner: o, reason: r, since: once}\nstatus: UNBOUND"),),
        "once",
        "`since` is no date",
    ),
    Example("PV217", ((f"id: {CLAIM}", "id: FALSIFY/../001"),), "FALSIFY/../001", "cannot name a folder"),
    Example("PV218", ((f"id: {CLAIM}", "id: F-1"),), "F-1", "FALSIFY-<TOPIC>"),
    Example(
        "PV219",
        (
            ("equations:\n  parity:\n    formula: a = b\n    domain: numbers\n", ""),
            ("[parity, PO-1]", "PO-1"),
            ("equations.parity", "hand"),
        ),
        "metadata:",
        "at least one equation (no metadata.kind",
        KERNEL,
    ),
    Example("PV220", (("    formula: a = b\n", ""),), "parity:", "equations.parity.formula must not be empty", KERNEL),
    Example(
        "PV221", (("    property: a is b\n    formal", "    formal"),), "id: PO-1", "proof_obligations[0].property"
    ),
    Example(
        "PV222",
        (("falsification_tests:\n", "  - {property: q, formal: a = b}\nfalsification_tests:\n"),),
        "a = b}",
        "Duplicate",
    ),
    Example(
        "PV223",
        (obligation("requires: r"),),
        "requires: r",
        "only valid on postcondition obligations (found on invariant)",
    ),
    Example("PV223", (obligation("applies_to_phase: p"),), "applies_to_phase", "loop_invariant/loop_variant"),
    Example(
        "PV224", (obligation("applies_to: not_applicable\n    na_owner: bench"),), "not_applicable", "without na_reason"
    ),
    Example("PV224", (obligation("na_owner: bench"),), "na_owner", "dangling justification"),
    Example("PV225", (("qa_gate: {id: Q, name: quality}\n", ""),), "metadata:", "No qa_gate defined", KERNEL),
    Example(
        "PV226", (tail("verification_summary: {total_obligations: 7}"),), "7}", "is 7, but proof_obligations lists 1"
    ),
    Example("PV227", (tail("verification_summary: {total_obligations: 1, l4_lean_proved: 1}"),), "1}", "0 obligations"),
    Example("PV228", (status("claim: gaurd\nstatus: UNBOUND"),), "gaurd", "neither `outcome` nor `guard`"),
    Example("PV229", (("  kind: schema", "  kind: schema\n  locked_level: l9"),), "l9", "silently mean `standard`"),
    Example("PV230", (harness("actually_verified: true"),), "actually_verified", "self-declared"),
    Example("PV231", (kind("beat-benchmark"),), "metadata:", "needs a `beat:` block"),
    Example(
        "PV231",
        (
            kind("beat-benchmark"),
            tail(
                "beat: {incumbent: nobody, metric: m, direction: lower_is_better, beat_threshold: 1, "
                "ci_gate_name: g, approved_compute: CPU}"
            ),
        ),
        "nobody",
        "beat.incumbent: expected one of scikit-learn",
    ),
    Example(
        "PV232",
        (("  kind: schema", "  kind: schema\n  demand_score: 99999"),),
        "demand_score",
        "expected 1 to 5, found 99999",
    ),
    Example("PV232", (tail("stories: [{id: s, demand_score: 3}]"),), "{id: s", "must name a competitor"),
    Example(
        "PV233",
        (kind("kaizen"), tail("contract: c\nstatus: planned\nbaseline: {s: 2}\ntarget: {s: 2}")),
        "target",
        "no metric moves",
    ),
    Example("PV234", (kind("competitive-parity"), tail("parity: {rows: []}")), "[]", "no rows"),
    Example(
        "PV234",
        (
            kind("competitive-parity"),
            tail("parity: {rows: [{verdict: BETTER, measured_on: 2026-01-01, valid_until: 2026-12-31}]}"),
        ),
        "2026-12-31",
        "364 days",
    ),
    Example("PV301", (("[parity, PO-1]", "[paritty, PO-1]"),), "paritty", "nothing in this file"),
    Example("PV302", (("    obligation: PO-1", "    obligation: a promise"),), "a promise", "nothing in this file"),
    Example(
        "PV303",
        (status("precondition: [FALSIFY-SOUND-007]\nstatus: UNBOUND"),),
        "FALSIFY-SOUND-007",
        "nothing in this file",
    ),
    Example(
        "PV304",
        (status("precondition: KH-SOUND-001\nstatus: UNBOUND"), harness(f"precondition: {CLAIM}")),
        "precondition: KH",
        f"{CLAIM} -> KH-SOUND-001 -> {CLAIM}",
    ),
    Example(
        "PV305",
        (("type: invariant", "type: subcontract\n    parent_contract: base-v1"),),
        "base-v1",
        "metadata.depends_on",
    ),
    Example("PV306", (("source: equations.parity", "source: equations.gone"),), "source", "names `gone`"),
    Example(
        "PV308",
        (status("formerly: [FALSIFY-OLD-001, KH-SOUND-001]\nstatus: UNBOUND"),),
        "formerly",
        "another claim of this file has now",
    ),
    Example(
        "PV308", (status("formerly: [KH-A-1]\nstatus: UNBOUND"), harness("formerly: KH-A-1")), "formerly: KH", CLAIM
    ),
    Example("PV308", (status("formerly: [OLD-1, OLD-1]\nstatus: UNBOUND"),), "formerly", "stands twice"),
    Example("PV308", (("kind: schema", "kind: schema\n  formerly: [a-v1, a-v1]"),), "formerly", "stands twice"),
    Example(
        "PV307",
        (status("requires: {cells: [{subject: tiny-techer}]}\nstatus: UNBOUND"),),
        "tiny-techer",
        "tiny-teacher",
    ),
    Example(
        "PV311", (status("algorithm_evidence: {file_paths: [gone.py]}\nstatus: UNBOUND"),), "gone.py", "does not exist"
    ),
    Example(
        "PV312",
        (status("algorithm_evidence: {file_paths: [here.py], function_names: [not_there]}\nstatus: UNBOUND"),),
        "not_there",
        "which here.py does not define",
    ),
    Example(
        "PV313", (status("algorithm_evidence: {function_names: [f]}\nstatus: UNBOUND"),), "function_names", "no file"
    ),
    Example(
        "PV401",
        (status("status: PARTIAL_ALGORITHM_LEVEL\nalgorithm_evidence: [words]"),),
        "PARTIAL",
        "entitles to UNBOUND",
        facts={CLAIM: Facts(Status.UNBOUND)},
    ),
    Example("PV402", (), "UNBOUND\nkani", "entitles to FUNCTIONAL", facts={CLAIM: Facts(Status.FUNCTIONAL)}),
    Example(
        "PV403",
        (status("status: PARTIAL_ALGORITHM_LEVEL\nalgorithm_evidence: [words]"),),
        "PARTIAL",
        "ops.py changed since",
        facts={CLAIM: Facts(Status.PARTIAL_ALGORITHM_LEVEL, stale="ops.py changed since")},
    ),
    Example(
        "PV404",
        (status(f"evidence: ['sha256:{'0' * 64}']\nstatus: UNBOUND"),),
        "'sha256",
        "not in the store",
        facts={CLAIM: Facts(Status.UNBOUND, records_missing=(f"sha256:{'0' * 64}", "words"))},
    ),
    Example(
        "PV405", (status("status: FUNCTIONAL\nalgorithm_evidence: [words]"),), "FUNCTIONAL", "no `functional_evidence`"
    ),
    Example(
        "PV406",
        (status("status: UNBOUND\nalgorithm_evidence: {status: FALSIFIED, notes: n}"),),
        "FALSIFIED",
        "two statuses",
    ),
    Example("PV407", (status("status: VERIFIED"),), "VERIFIED", "no status of the ladder"),
    Example("PV408", (("status: ACTIVE", "status: FUNCTIONAL"),), "FUNCTIONAL", "1 of 1 falsifiers do not"),
    Example("PV409", (status("cost: quick"),), CLAIM, "has no status"),
    Example("PV410", (), CLAIM, "neither a check nor a blocker", facts={CLAIM: Facts(Status.UNBOUND, has_check=False)}),
    Example(
        "PV411",
        (status("cost: dear\nstatus: DISCHARGED\nalgorithm_evidence: [w]\nfunctional_evidence: [w]"),),
        "DISCHARGED",
        "cannot read",
    ),
    Example("PV412", (status("evidence: ['sha256:abc']\nstatus: UNBOUND"),), "'sha256", "64 hexadecimal digits"),
    Example("PV503", (tail("version: 9.9.9"),), "9.9.9", "two versions"),
    Example(
        "PV601",
        (
            ("    bound: 8\n", "    bound: 8\n"),
            ("falsification_tests:\n", "  - {property: p2}\nfalsification_tests:\n"),
        ),
        "falsification_tests",
        "falsification_tests (1) < proof_obligations (2) (no metadata.kind",
        KERNEL,
    ),
    Example("PV602", (("    prediction: a minus b is 0\n", ""),), f"id: {CLAIM}", "prediction must not be empty"),
    Example("PV603", (("    if_fails: a is not b\n", ""),), f"id: {CLAIM}", "if_fails is empty"),
    Example("PV604", (("    obligation: PO-1", '    obligation: ""'),), '""', "obligation must not be empty"),
    Example("PV605", (("    bound: 8\n", ""),), "id: KH-SOUND", "bound not specified"),
    Example(
        "PV606",
        ((SOUND[SOUND.index("falsification_tests:") : SOUND.index("kani_harnesses")], "falsification: [{id: x}]\n"),),
        "falsification:",
        "what stands under `falsification:` is read by nobody",
    ),
    Example("PV607", (tail("falsifiers: [{id: x}, {id: y}]"),), "falsifiers", "2 entries under `falsifiers:`"),
    Example(
        "PV608",
        (
            (SOUND[SOUND.index("proof_obligations:") : SOUND.index("falsification_tests")], ""),
            ("[parity, PO-1]", "parity"),
            ("obligation: PO-1", "obligation: parity"),
        ),
        "equations",
        "nothing is owed",
    ),
    Example("PV609", (("value: 0.5", "value: .nan"),), ".nan", "met by no number"),
    Example("PV609", (("value: 0.5", "value: .inf"),), ".inf", "met by every number"),
    Example(
        "PV610",
        (
            ('    thresholds:\n      gap: {op: "<=", value: 0.5, unit: "1", source: equations.parity}\n', ""),
            status("status: PARTIAL_ALGORITHM_LEVEL\nalgorithm_evidence: [words]"),
        ),
        f"id: {CLAIM}",
        "has no thresholds",
    ),
    Example(
        "PV611",
        (("falsification_tests:\n", "  - {id: PO-2, property: p}\nfalsification_tests:\n"),),
        "PO-2",
        "nothing tries",
    ),
    Example(
        "PV613",
        (
            (
                "kani_harnesses:",
                "  - {id: FALSIFY-SOUND-002, prediction: a minus b is 0, if_fails: f, binds_to: PO-1, "
                "status: UNBOUND}\nkani_harnesses:",
            ),
        ),
        "a minus b is 0, if",
        f"the same prediction as {CLAIM}",
    ),
]

# Codes that other tests provoke: files that cannot be read (test_load, test_validation) and pairs of files.
ELSEWHERE = {
    *(f"PV{n}" for n in (101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 112, 113)),
    codes.NO_SUCH_PATH,
    *(rule.code for rule in RULES if rule.scope in (Scope.CORPUS, Scope.HISTORY)),
    "PV612",  # off in the strict profile; below
}


def varied(example: Example) -> str:
    text = example.text
    for old, new in example.changes:
        assert old in text, f"{example.code}: {old!r} is not in the text"
        text = text.replace(old, new, 1)
    return text


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: f"{each.code}-{each.says[:20]}")
def test_a_rule_finds_its_example(example, check, tmp_path):
    (tmp_path / "here.py").write_text("def there(): ...\n")
    text = varied(example)
    found = [each for each in check(text, facts=example.facts) if each.code == example.code]
    assert len(found) == 1, [(each.code, each.message) for each in check(text, facts=example.facts)]
    (finding,) = found
    assert example.says in finding.message
    assert finding.severity is BY_CODE[example.code].strict
    start = text.index(example.at) if example.at != KERNEL else 0
    assert finding.span is not None
    assert finding.span.line == text.count("\n", 0, start) + 1, (finding.span, example.at)


@pytest.mark.parametrize("text", [SOUND, KERNEL])
@pytest.mark.parametrize("profile", ["strict", "compat"])
def test_the_sound_contract_has_no_finding(text, profile, check):
    facts = {name: Facts(Status.UNBOUND, has_check=True) for name in (CLAIM, "KH-SOUND-001")}
    assert check(text, profile, facts, configured=True) == []


def test_every_rule_has_an_example():
    shown = {example.code for example in EXAMPLES}
    assert shown | ELSEWHERE == set(BY_CODE)
    assert not shown & ELSEWHERE


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_row_is_complete(rule):
    assert re.fullmatch(r"PV[1-7]\d\d", rule.code)
    assert rule.title
    assert not rule.title.endswith(".")
    assert len(rule.why) > 20
    assert rule.why.endswith((".", ")"))
    assert rule.fix.endswith(".")
    assert not (rule.strict is Severity.OFF and rule.compat is Severity.OFF)
    has_check = rule.check is not None or rule.code in table.CORPUS_CHECKS or rule.code in table.HISTORY_CHECKS
    assert has_check == (rule.scope not in (Scope.READER, Scope.SHAPE) and rule.code != table.UNUSED_SUPPRESSION)


def test_codes_are_used_once_and_in_order():
    written = [rule.code for rule in RULES]
    assert len(written) == len(set(written))
    assert written == sorted(written)


def test_the_rules_of_the_reference_are_covered_and_named():
    named = {name for rule in RULES for name in rule.reference}
    wanted = {f"SCHEMA-{n:03}" for n in range(1, 25)} | {"PROVABILITY-001"}
    assert wanted <= named


def test_strict_is_never_milder_than_compat_on_shape_and_status():
    weight = {Severity.OFF: 0, Severity.INFO: 1, Severity.WARNING: 2, Severity.ERROR: 3}
    milder = [rule.code for rule in RULES if weight[rule.strict] < weight[rule.compat]]
    assert milder == ["PV612"], "in a configured project PV410 takes its place"


def test_the_weights_of_the_loader_are_those_of_the_table():
    for code in (
        codes.MISSING,
        codes.WRONG_TYPE,
        codes.MISSPELT,
        codes.NOT_A_WORD,
        codes.OUT_OF_RANGE,
        codes.OWN_SHAPE,
    ):
        assert BY_CODE[code].compat is codes.COMPAT_SEVERITY.get(code, Severity.ERROR)
        assert BY_CODE[code].strict is Severity.ERROR


def test_every_code_written_in_these_rooms_is_a_row():
    package = Path(table.__file__).parents[1]
    rooms = ("contract", "document", "rules")
    written = {
        code
        for room in rooms
        for path in (package / room).glob("*.py")
        for code in re.findall(r'"(PV\d{3})"', path.read_text("utf-8"))
    }
    assert written <= set(BY_CODE)


def test_an_empty_shell_only_counts_where_no_checks_are_registered(check):
    text = SOUND.replace("    test: pytest tests/test_ab.py\n", "")
    assert "PV612" in {each.code for each in check(text, "compat")}
    assert "PV612" not in {each.code for each in check(text, "compat", configured=True)}
    assert "PV612" not in {each.code for each in check(text, "strict")}


def test_ignored_codes_are_not_looked_for(project):
    from dataclasses import replace

    from pv.contract.load import load_bytes

    text = SOUND.replace('["a paper"]', "[]").encode()
    for ignore, expected in (((), ["PV213"]), (("PV213",), [])):
        chosen = replace(project, ignore=ignore, profile=Profile.COMPAT)
        loaded = load_bytes(text, project.root / "x.yaml", chosen)
        assert [each.code for each in table.check(loaded, chosen)] == expected
