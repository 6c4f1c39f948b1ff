"""The one table of rules, and the step from their findings to diagnostics.

A row says what a code means, why it matters and how to mend it, how much it weighs in each profile, and which rules of
the reference validator it covers. Codes are stable: a code that is given up is never used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pv.contract import codes
from pv.contract.claims import Contract
from pv.contract.load import Loaded
from pv.contract.project import Profile, Project
from pv.diagnostics.model import Diagnostic, Severity, Span
from pv.document.problems import CODES
from pv.rules import across, document_rules, falsifiability, history, kinds, references, shape_rules, statuses
from pv.rules.across import Corpus, Stems
from pv.rules.facts import NO_FACTS, FactsByClaim
from pv.rules.finding import ERROR, OFF, WARNING, Finding, Loc, Rule, Scope
from pv.rules.outline import Outline, outline_of
from pv.rules.view import View

if TYPE_CHECKING:
    from pv.document.reader import Suppression

UNUSED_SUPPRESSION = "PV191"

# Problems of a document that leave its data whole; the others are errors.
_MILD = {"PV114", "PV115", "PV116", "PV117", "PV118", "PV119"}
_RULES_OF_READING: Mapping[str, Callable[[View], Iterator[Finding]]] = {
    "PV118": document_rules.read_apart,
    "PV119": document_rules.cut_off,
}


def _reader_row(code: str) -> Rule:
    title, why, fix = CODES[code]
    severity = WARNING if code in _MILD else ERROR
    check = _RULES_OF_READING.get(code)
    scope = Scope.FILE if check else Scope.READER
    reference = ("SCHEMA-020",) if code == "PV111" else ()
    return Rule(code, title, why, fix, severity, severity, scope, reference, check=check, suppressible=code in _MILD)


RULES: tuple[Rule, ...] = (
    *(_reader_row(code) for code in CODES),
    Rule(
        codes.NO_SUCH_PATH,
        "a path that names no contract",
        "A call that looked at nothing must not be green.",
        "Correct the path, or name none to take the project's `contracts`.",
        ERROR,
        ERROR,
        Scope.READER,
        suppressible=False,
    ),
    Rule(
        UNUSED_SUPPRESSION,
        "a suppression that suppresses nothing",
        "A comment that outlived its finding hides the next one of that code on its line.",
        "Remove the code from the comment, or the comment.",
        WARNING,
        WARNING,
        Scope.FILE,
        reference=("PV-SUP-001",),
        suppressible=False,
    ),
    # ------------------------------------------------------------------------------------------ shape
    Rule(
        codes.MISSING,
        "a required field is missing",
        "Every reader of contracts needs it; the reference validator stops at the first one.",
        "Add the field. Where a similar key stands beside it, PV203 says so instead.",
        ERROR,
        ERROR,
        Scope.SHAPE,
    ),
    Rule(
        codes.WRONG_TYPE,
        "a value of the wrong type",
        "A list where text is wanted, or text where a number is, is a value that no rule and no check can use.",
        "Write the type that is expected; `--fix` adds or removes quotes where only they are wrong.",
        ERROR,
        ERROR,
        Scope.SHAPE,
    ),
    Rule(
        codes.MISSPELT,
        "an unknown key that is a near miss of a known one",
        "Unknown keys are allowed, so a slip of the keyboard is a field that silently is not there: `statsu: "
        "DISCHARGED` says nothing to any reader. Keys meet when they differ in case, separators or a plural, or by "
        "one slip (two from nine letters on); a missing required field also explains a key that resembles it.",
        "Rename the key: `pv validate --fix` does.",
        ERROR,
        ERROR,
        Scope.SHAPE,
        reference=("SCHEMA-019",),
    ),
    Rule(
        codes.NOT_A_WORD,
        "a word outside a closed vocabulary",
        "Kinds, obligation types, strategies and the like are closed: a word that nobody knows switches rules off.",
        "Use one of the words that the message lists.",
        ERROR,
        ERROR,
        Scope.SHAPE,
    ),
    Rule(
        codes.OUT_OF_RANGE,
        "a value out of range",
        "A negative count, an empty name or a digest of the wrong form can mean nothing.",
        "Write a value that the message allows.",
        ERROR,
        ERROR,
        Scope.SHAPE,
        reference=("PM-SHAPE-003", "PM-SHAPE-004", "PM-SHAPE-005"),
    ),
    Rule(
        codes.OWN_SHAPE,
        "a field of the claim in another form than pv's",
        "`requires`, `thresholds`, `binds_to` and the rest of the entry are pv's own; the reference ignores them, and "
        "other people may use the words for something else. pv does not run a claim whose fields it cannot read.",
        "Write the field as `pv schema contract` has it.",
        ERROR,
        codes.COMPAT_SEVERITY[codes.OWN_SHAPE],
        Scope.SHAPE,
    ),
    Rule(
        codes.NO_CONTRACT,
        "not a contract",
        "The file is YAML, and no mapping with `metadata`.",
        "Take it out of the selection, or write a contract.",
        ERROR,
        ERROR,
        Scope.SHAPE,
        reference=("PM-SHAPE-000", "PM-SHAPE-001", "PM-SHAPE-002"),
        suppressible=False,
    ),
    Rule(
        "PV208",
        "a field written under both of its names",
        "`prediction` and `expected` are one field. Readers keep one of the two texts, and not all the same one.",
        "Merge the two under one name.",
        ERROR,
        ERROR,
        check=shape_rules.written_twice,
        fields=shape_rules.OTHER_NAMES,
    ),
    Rule(
        "PV209",
        "`description` beside `rule`",
        "Readers of 2026 take `description` for another name of `rule` and reject the pair; earlier ones ignored it. "
        "Files that were valid stay so, with this warning.",
        "Merge the two, or rename `description` (for instance to `notes`).",
        WARNING,
        WARNING,
        check=shape_rules.described_twice,
        fields=("description",),
        sections=("falsification_tests",),
    ),
    Rule(
        "PV210",
        "`kind:` at the top of the file",
        "The kind decides which rules hold, and only `metadata.kind` is read: a `kind: schema` at the top leaves the "
        "file a kernel.",
        "Move it under `metadata:`.",
        ERROR,
        ERROR,
        reference=("SCHEMA-018",),
        check=shape_rules.kind_at_the_top,
        sections=("kind",),
    ),
    Rule(
        "PV211",
        "an id used twice in one list",
        "An id names one claim; status and evidence of two would be mixed up.",
        "Renumber one of them.",
        ERROR,
        ERROR,
        reference=("SCHEMA-007", "SCHEMA-010"),
        check=shape_rules.duplicate_ids,
    ),
    Rule(
        "PV212",
        "an id used twice in one file",
        "`binds_to` and `precondition` name things by id; a falsifier and an obligation of one name cannot be told "
        "apart.",
        "Renumber one of them.",
        ERROR,
        WARNING,
        check=shape_rules.ids_shared_between_lists,
    ),
    Rule(
        "PV213",
        "no references",
        "A claim comes from somewhere: a paper, a specification, a measurement.",
        "Add `metadata.references`.",
        ERROR,
        ERROR,
        reference=("SCHEMA-001",),
        check=shape_rules.no_references,
    ),
    Rule(
        "PV214",
        "an empty version",
        "A contract without a version cannot be told from its next one.",
        "Write `version: 1.0.0`.",
        ERROR,
        ERROR,
        reference=("SCHEMA-002", "PV-VAL-002"),
        check=shape_rules.no_version,
    ),
    Rule(
        "PV215",
        "a version that is no semantic version",
        "pv computes the bump that a change demands; from `v2-final` there is no next version.",
        "Write MAJOR.MINOR.PATCH.",
        ERROR,
        WARNING,
        check=shape_rules.version_form,
    ),
    Rule(
        "PV216",
        "a date that is no date",
        "Dates are compared: a verification of `last spring` is neither fresh nor stale.",
        "Write YYYY-MM-DD.",
        ERROR,
        WARNING,
        check=shape_rules.date_form,
    ),
    Rule(
        "PV217",
        "an id that cannot name a folder",
        "Evidence lies in `evidence/<id>/`, and people type ids on command lines. Blanks and slashes end there.",
        "Use letters, digits, `-`, `_` and `.`.",
        ERROR,
        WARNING,
        check=shape_rules.id_form,
    ),
    Rule(
        "PV218",
        "an id outside the convention",
        "`FALSIFY-<TOPIC>-<NNN>` and `KH-<TOPIC>-<NNN>` can be found in any text, and say what they are.",
        "Rename it: `pv mv OLD NEW` carries its evidence along.",
        WARNING,
        OFF,
        check=shape_rules.id_convention,
    ),
    Rule(
        "PV219",
        "a kernel without equations",
        "A kernel is specified by its formulas.",
        "Add `equations:`, or name the kind of document in `metadata.kind`.",
        ERROR,
        ERROR,
        reference=("SCHEMA-003",),
        check=shape_rules.no_equations,
        kinds=("kernel",),
    ),
    Rule(
        "PV220",
        "an equation without a formula",
        "The formula is the equation.",
        "Add `formula:`.",
        ERROR,
        ERROR,
        reference=("SCHEMA-004", "PV-VAL-004"),
        check=shape_rules.empty_formulas,
        sections=("equations",),
        kinds=("kernel",),
    ),
    Rule(
        "PV221",
        "an obligation without a property",
        "Nobody can owe an empty sentence.",
        "Add `property:`.",
        ERROR,
        ERROR,
        reference=("SCHEMA-005", "PV-VAL-005"),
        check=shape_rules.empty_properties,
        sections=("proof_obligations",),
    ),
    Rule(
        "PV222",
        "one predicate stated twice",
        "Two obligations with the same `formal` are counted twice and proven once.",
        "State it once.",
        WARNING,
        WARNING,
        reference=("SCHEMA-006", "PV-VAL-006"),
        check=shape_rules.duplicate_formals,
        sections=("proof_obligations",),
    ),
    Rule(
        "PV223",
        "a field of another type of obligation",
        "`requires` belongs to postconditions, `applies_to_phase` to loop invariants and variants, `parent_contract` "
        "to subcontracts; elsewhere nothing reads them.",
        "Remove the field, or correct the type.",
        ERROR,
        ERROR,
        reference=("SCHEMA-014", "SCHEMA-015", "SCHEMA-016"),
        check=shape_rules.fields_of_other_types,
        fields=("requires", "applies_to_phase", "parent_contract"),
        sections=("proof_obligations",),
    ),
    Rule(
        "PV224",
        "an exemption without its reason",
        "`not_applicable` takes an obligation out of the count; it says why, and who checks it instead. A reason "
        "without an exemption is decoration.",
        "Give `na_reason` and `na_owner` exactly where `applies_to: not_applicable` stands.",
        ERROR,
        ERROR,
        reference=("SCHEMA-021", "SCHEMA-022", "SCHEMA-023"),
        check=shape_rules.unexplained_exemptions,
        fields=("applies_to", "na_reason", "na_owner"),
        sections=("proof_obligations",),
    ),
    Rule(
        "PV225",
        "a kernel without a quality gate",
        "The gate names the checks that keep a kernel as good as it was.",
        "Add `qa_gate:`.",
        WARNING,
        WARNING,
        reference=("SCHEMA-013",),
        check=shape_rules.no_qa_gate,
        kinds=("kernel",),
    ),
    Rule(
        "PV226",
        "a count that its list contradicts",
        "`total_obligations` is kept by hand, and percentages are computed from it.",
        "Write the number of entries: `pv validate --fix` does.",
        ERROR,
        ERROR,
        reference=("SCHEMA-024",),
        check=shape_rules.miscounted,
        sections=("verification_summary",),
    ),
    Rule(
        "PV227",
        "more proofs claimed than listed",
        "A hand-typed `l4_lean_proved` once put contracts on the highest level. It cannot exceed the obligations "
        "whose Lean theorem says `proved`.",
        "Correct the count.",
        ERROR,
        WARNING,
        check=shape_rules.overcounted_proofs,
        sections=("verification_summary",),
    ),
    Rule(
        "PV228",
        "a `claim` that is neither outcome nor guard",
        "The word decides how a claim is tested: an outcome by the world as it is, a guard by planted defects.",
        "Write `outcome` or `guard`; the sentence belongs in `prediction`.",
        ERROR,
        WARNING,
        check=shape_rules.claim_words,
        fields=("claim",),
    ),
    Rule(
        "PV229",
        "a lock on no level",
        "Readers take an unknown `locked_level` for `standard`, which is less than was meant.",
        "Write basic (l1), standard, strict (l4) or proven (l5).",
        ERROR,
        WARNING,
        check=shape_rules.locked_levels,
    ),
    Rule(
        "PV230",
        "a proof that declares itself",
        "`actually_verified: true` is a word of the author; nothing ran.",
        "Register the harness and let `pv falsify` exhaust its bound.",
        WARNING,
        WARNING,
        check=shape_rules.self_declared_proofs,
        fields=("actually_verified",),
        sections=("kani_harnesses",),
    ),
    Rule(
        "PV231",
        "an incomplete benchmark to beat",
        "Beating nobody, by no measure, in no direction, is always possible.",
        "Fill in the `beat:` block.",
        ERROR,
        ERROR,
        reference=tuple(f"BEAT-00{n}" for n in range(1, 8)),
        check=kinds.beats,
        kinds=("beat-benchmark",),
    ),
    Rule(
        "PV232",
        "a story without demand or competitor",
        "A demand score runs from 1 to 5 and a story names whom it is measured against; 99999 and nobody once passed.",
        "Correct the score, name the competitor.",
        ERROR,
        ERROR,
        reference=("CRUX-001", "CRUX-002"),
        check=kinds.demands,
    ),
    Rule(
        "PV233",
        "an improvement record that nothing can contradict",
        "A record names its contract and state, and a number that moves against a baseline.",
        "Add what the message asks for.",
        ERROR,
        ERROR,
        reference=tuple(f"KAIZEN-00{n}" for n in range(1, 6)),
        check=kinds.improvements,
        kinds=("kaizen",),
    ),
    Rule(
        "PV234",
        "a parity ledger that compares nothing",
        "Zero rows once passed, and an undated 1.371x stayed published for eight weeks.",
        "Give each row a verdict, a day, and at most 180 days of validity.",
        ERROR,
        ERROR,
        reference=("PARITY-006", "PARITY-007", "PARITY-011", "PARITY-012"),
        check=kinds.ledgers,
        kinds=("competitive-parity",),
    ),
    # ------------------------------------------------------------------------------------------ references
    Rule(
        "PV301",
        "`binds_to` names nothing in the file",
        "A claim that is bound to nothing covers nothing, however often it survives.",
        "Name an equation or an obligation id of this file.",
        ERROR,
        ERROR,
        check=references.unbound,
        fields=("binds_to",),
    ),
    Rule(
        "PV302",
        "a harness for an obligation that is not in the file",
        "In real files 262 of 437 harnesses name an obligation that does not exist; coverage was counted all the same.",
        "Name the id of an obligation, or an equation.",
        ERROR,
        OFF,
        check=references.harness_obligations,
        sections=("kani_harnesses",),
    ),
    Rule(
        "PV303",
        "a precondition that names no claim",
        "A claim that waits for a name nobody has is INCONCLUSIVE for ever, or never.",
        "Name the id of a claim of this file.",
        ERROR,
        ERROR,
        check=references.preconditions,
        fields=("precondition",),
    ),
    Rule(
        "PV304",
        "preconditions in a ring",
        "Claims that wait for each other are never settled.",
        "Take one of them out.",
        ERROR,
        ERROR,
        check=references.circular_preconditions,
        fields=("precondition",),
    ),
    Rule(
        "PV305",
        "a parent that is no dependency",
        "A subcontract inherits from its parent; a parent that is not listed is never loaded.",
        "Add it to `metadata.depends_on`.",
        ERROR,
        ERROR,
        reference=("SCHEMA-017",),
        check=references.unlisted_parents,
        fields=("parent_contract",),
        sections=("proof_obligations",),
    ),
    Rule(
        "PV306",
        "a threshold whose source is not in the file",
        "`source` says where a bound comes from; when the equation is renamed, the bound has come from nowhere.",
        "Name an equation or obligation of this file.",
        ERROR,
        WARNING,
        check=references.threshold_sources,
        fields=("thresholds",),
    ),
    Rule(
        "PV307",
        "a subject that looks like a slip",
        "A claim about `tiny-techer` is blocked for ever, and blocked is not red.",
        "Correct the name, or configure the subject in [tool.pv.subjects].",
        WARNING,
        WARNING,
        check=references.unknown_subjects,
        fields=("requires",),
    ),
    Rule(
        "PV308",
        "a former name that somebody else has",
        "`formerly` carries the records of an old id or file name to a new one. A name that another claim has, or had, "
        "would count one record twice.",
        "Remove it there, or rename the other with `pv mv`.",
        ERROR,
        ERROR,
        check=references.former_names,
    ),
    Rule(
        "PV311",
        "evidence in a file that does not exist",
        "Files are moved and deleted, and the evidence goes on citing them. (Only a warning where not even the first "
        "folder of the path exists: then this is not the tree that the contract speaks of.)",
        "Correct the path, or run the check again.",
        ERROR,
        ERROR,
        reference=("PV-VER-002",),
        check=references.missing_files,
        fields=references.BLOCKS,
    ),
    Rule(
        "PV312",
        "evidence by a name that the file does not define",
        "Functions cited as evidence that never existed were once found by hand, five pull requests later. Python "
        "files are parsed: a name in a comment, in a string or in another class does not count.",
        "Correct the name, or run the check again: pv writes the names of what was attacked.",
        ERROR,
        ERROR,
        reference=("PV-VER-001", "PV-VER-002"),
        check=references.undefined_names,
        fields=references.BLOCKS,
    ),
    Rule(
        "PV313",
        "names of functions without their files",
        "Without `file_paths` nobody can tell whether the functions still exist.",
        "Add `file_paths:`.",
        WARNING,
        WARNING,
        check=references.names_without_a_file,
        fields=("algorithm_evidence",),
    ),
    # ------------------------------------------------------------------------------------------ statuses
    Rule(
        "PV401",
        "status inflation",
        "The status is above what the records on disk entitle to. Statuses are earned by runs; a rung that was typed, "
        "or whose record was lost or retracted, is a promise that nobody kept.",
        "Run `pv falsify --id` on the claim, or let `pv settle` write what is earned.",
        ERROR,
        ERROR,
        Scope.CLAIMS,
        check=statuses.inflated,
        suppressible=False,
    ),
    Rule(
        "PV402",
        "a status below what was earned",
        "The records on disk support more; readers are told less than is known.",
        "`pv settle` writes it.",
        WARNING,
        WARNING,
        Scope.CLAIMS,
        check=statuses.deflated,
    ),
    Rule(
        "PV403",
        "stale evidence",
        "The claim, the code under attack, a bound file or a threshold changed since the run. The status is kept "
        "until somebody runs the check again, and says less than it seems to.",
        "`pv falsify --stale` runs what is stale.",
        WARNING,
        WARNING,
        Scope.CLAIMS,
        check=statuses.stale,
    ),
    Rule(
        "PV404",
        "a record that is not in the store",
        "The contract points to evidence that nobody can look at.",
        "Import it (`pv evidence import`), or `pv settle`.",
        ERROR,
        ERROR,
        Scope.CLAIMS,
        check=statuses.missing_records,
        suppressible=False,
    ),
    Rule(
        "PV405",
        "a rung without its evidence block",
        "The oldest defect of this field: a status claimed with nothing beside it. PARTIAL_ALGORITHM_LEVEL and "
        "BLOCKER_FIXTURE_ABSENT need `algorithm_evidence`, FUNCTIONAL and DISCHARGED also `functional_evidence`.",
        "Run the check: `pv falsify` writes status and block together.",
        ERROR,
        ERROR,
        check=statuses.without_evidence,
        fields=("status", "algorithm_evidence"),
        suppressible=False,
    ),
    Rule(
        "PV406",
        "two statuses in one entry",
        "The entry and its evidence block disagree, and readers look at one or the other.",
        "Keep one.",
        ERROR,
        ERROR,
        check=statuses.said_twice,
        fields=("algorithm_evidence",),
    ),
    Rule(
        "PV407",
        "a status that is none of the ladder's",
        "`VERIFIED — 129 TFLOP/s` may be true and says nothing that can be compared. pv keeps such words and never "
        "overwrites them unasked.",
        "Use a word of the ladder, or `pv falsify --adopt`.",
        WARNING,
        WARNING,
        check=statuses.unknown_words,
        fields=("status", "algorithm_evidence"),
    ),
    Rule(
        "PV408",
        "a document that says more than its falsifiers earned",
        "`metadata.status` is decided by people; FUNCTIONAL over an UNBOUND falsifier misleads every reader of the "
        "head.",
        "Say PROPOSED or ACTIVE, or earn it.",
        ERROR,
        OFF,
        Scope.CLAIMS,
        check=statuses.boasting_documents,
        sections=("metadata",),
    ),
    Rule(
        "PV409",
        "a claim without a status",
        "In a strict project every claim says where it stands; UNBOUND is an honest answer.",
        "Add `status: UNBOUND`.",
        ERROR,
        OFF,
        check=statuses.no_status,
    ),
    Rule(
        "PV410",
        "a claim that no code attacks",
        "In a strict project every claim has a registered check, or says in `blocked_on` what it waits for.",
        "Register a check below `falsifiers/`, or name the blocker.",
        ERROR,
        OFF,
        Scope.CLAIMS,
        check=statuses.unchecked,
    ),
    Rule(
        "PV411",
        "a rung on a claim that pv cannot read",
        "Its own fields have another form (PV206), so no run can have earned the status.",
        "Mend the fields, or remove the status.",
        ERROR,
        ERROR,
        check=statuses.unreadable_claims,
        fields=("status", "algorithm_evidence"),
        suppressible=False,
    ),
    Rule(
        "PV412",
        "a pointer that can point to no record",
        "Records are named by the sha256 of their bytes.",
        "`pv settle` writes the heads.",
        ERROR,
        WARNING,
        check=statuses.malformed_heads,
        fields=("evidence",),
    ),
    # ------------------------------------------------------------------------------------------ history
    Rule(
        "PV501",
        "a version bump that is too small",
        "A removed or loosened claim is a major change once the contract is ACTIVE (minor before); an added or "
        "tightened claim, a status or its evidence is a minor one; prose is a patch. A threshold is loosened when it "
        "accepts a superset, and any other change of it counts as loosened.",
        "Write the version that the message names, as `pv validate --against REF --fix` does. `pv diff OLD NEW` shows "
        "why.",
        ERROR,
        ERROR,
        Scope.HISTORY,
        suppressible=False,
    ),
    Rule(
        "PV502",
        "a version that went back",
        "A version that was seen names one text for ever.",
        "Write a later one.",
        ERROR,
        ERROR,
        Scope.HISTORY,
        suppressible=False,
    ),
    Rule(
        "PV503",
        "two versions in one file",
        "`version` at the top and `metadata.version` drift apart; one file said 1.2.0 and 1.23.0.",
        "Keep `metadata.version`.",
        ERROR,
        WARNING,
        check=history.two_versions,
        sections=("version",),
    ),
    # ------------------------------------------------------------------------------------------ falsifiability
    Rule(
        "PV601",
        "a kernel that proves too little",
        "A kernel has obligations, at least as many falsification tests as obligations, and a harness.",
        "Add what is missing, or name the kind of document in `metadata.kind`.",
        ERROR,
        WARNING,
        reference=("PROVABILITY-001", "PV-PRV-001"),
        check=falsifiability.unprovable_kernels,
        kinds=("kernel",),
    ),
    Rule(
        "PV602",
        "a test that predicts nothing",
        "Without a prediction nothing that happens can refute the claim.",
        "Add `prediction:`.",
        ERROR,
        ERROR,
        reference=("SCHEMA-008",),
        check=falsifiability.empty_predictions,
        sections=("falsification_tests",),
    ),
    Rule(
        "PV603",
        "a test that does not say what its failure means",
        "Whoever sees the red first needs to know where to look.",
        "Add `if_fails:`.",
        WARNING,
        WARNING,
        reference=("SCHEMA-009",),
        check=falsifiability.empty_diagnoses,
        sections=("falsification_tests",),
    ),
    Rule(
        "PV604",
        "a harness without an obligation",
        "A proof of nothing in particular proves nothing.",
        "Name the obligation.",
        ERROR,
        ERROR,
        reference=("SCHEMA-011", "AUDIT-002"),
        check=falsifiability.aimless_harnesses,
        sections=("kani_harnesses",),
    ),
    Rule(
        "PV605",
        "a harness without a bound",
        "A bounded proof is a proof up to its bound.",
        "Add `bound:`.",
        WARNING,
        WARNING,
        reference=("SCHEMA-012",),
        check=falsifiability.boundless_harnesses,
        sections=("kani_harnesses",),
    ),
    Rule(
        "PV606",
        "a contract that cannot be falsified",
        "It makes claims and has no falsification tests: 413 of 1,726 contracts of one organisation were such, with 0 "
        "errors. Some kept their tests under a key that nothing reads.",
        "Write the tests under `falsification_tests:`.",
        ERROR,
        WARNING,
        reference=("AUDIT-001", "PV-VER-003"),
        check=falsifiability.unfalsifiable,
    ),
    Rule(
        "PV607",
        "tests under a key that nothing reads",
        "`falsification:` is no near miss of `falsification_tests:`, and its entries are invisible.",
        "Move them.",
        WARNING,
        WARNING,
        check=falsifiability.inert_tests,
    ),
    Rule(
        "PV608",
        "equations that oblige to nothing",
        "An equation is a statement; an obligation is what the code owes to it.",
        "Add `proof_obligations:`.",
        WARNING,
        WARNING,
        reference=("AUDIT-003",),
        check=falsifiability.unobliged,
        sections=("equations",),
    ),
    Rule(
        "PV609",
        "a threshold that decides nothing",
        "A bound that every number meets cannot fail, and one that none meets cannot hold; NaN is no bound.",
        "Write a bound that some values meet.",
        ERROR,
        ERROR,
        check=falsifiability.undecided_thresholds,
        fields=("thresholds",),
        sections=("falsification_tests",),
    ),
    Rule(
        "PV610",
        "a claim without a threshold",
        "A check measures and the contract judges. Without a threshold the verdict is whatever somebody reads into a "
        "log.",
        "Add `thresholds:`, one bound for each measurement.",
        WARNING,
        OFF,
        check=falsifiability.unjudged,
        sections=("falsification_tests",),
    ),
    Rule(
        "PV611",
        "an obligation or equation that nothing tries to break",
        "Coverage counted by numbers of entries calls everything covered as soon as there is one test. Here a claim "
        "covers what its `binds_to` names.",
        "Bind a falsifier to it.",
        WARNING,
        WARNING,
        reference=("PV-AUD-001", "PV-AUD-003"),
        check=falsifiability.uncovered,
        fields=("binds_to",),
        sections=("falsification_tests",),
    ),
    Rule(
        "PV612",
        "an empty shell",
        "An entry with an id and a prediction and nothing that could be run fills a count and tests nothing.",
        "Name the test, register a check, or say in `blocked_on` what is missing.",
        OFF,
        WARNING,
        check=falsifiability.empty_shells,
        sections=("falsification_tests",),
    ),
    Rule(
        "PV613",
        "one prediction in two tests",
        "Copied entries raise the count of tests without testing more.",
        "Say how they differ, or remove one.",
        WARNING,
        WARNING,
        check=falsifiability.copied_predictions,
        sections=("falsification_tests",),
    ),
    # ------------------------------------------------------------------------------------------ across files
    Rule(
        "PV701",
        "an id used in several files",
        "Ids are unique in a file. `pv falsify --id` and whoever writes about a claim mean all files that share it.",
        "Rename one, or always name the file beside the id.",
        WARNING,
        WARNING,
        Scope.CORPUS,
    ),
    Rule(
        "PV702",
        "a dependency that is nowhere",
        "`depends_on` names a contract by its stem; one that does not exist promises something on nobody's behalf.",
        "Correct the name, or validate both files together.",
        ERROR,
        WARNING,
        Scope.CORPUS,
    ),
    Rule(
        "PV703",
        "dependencies in a ring",
        "Contracts that rest on each other rest on nothing.",
        "Take one dependency out.",
        ERROR,
        WARNING,
        Scope.CORPUS,
    ),
    Rule(
        "PV704",
        "two contracts with one file name",
        "Dependencies, scopes and evidence name a contract by its stem; a map by stem once kept whichever came last.",
        "Rename one.",
        ERROR,
        WARNING,
        Scope.CORPUS,
    ),
    Rule(
        "PV705",
        "a binding to an equation that does not exist",
        "The registry says that code implements an equation which its contract does not have.",
        "Correct the name.",
        ERROR,
        WARNING,
        Scope.CORPUS,
        reference=("BIND-001",),
    ),
    Rule(
        "PV706",
        "a scope that counts a contract that does not exist",
        "The ship percentage of the scope would be of something else than its name says.",
        "Correct [tool.pv.scopes].",
        WARNING,
        WARNING,
        Scope.CORPUS,
        suppressible=False,
    ),
    Rule(
        "PV707",
        "a former file name that another contract has",
        "`metadata.formerly` carries the records of the old name; beside a contract that has the name now, they would "
        "count for both.",
        "Remove it from `metadata.formerly`, or rename the other with `pv mv`.",
        ERROR,
        ERROR,
        Scope.CORPUS,
    ),
)

BY_CODE: Mapping[str, Rule] = {rule.code: rule for rule in RULES}

# Rules over all files have another argument, so their functions stand beside the rows.
CORPUS_CHECKS: Mapping[str, Callable[[Corpus], Iterator[across.Placed]]] = {
    "PV701": across.shared_ids,
    "PV702": across.unknown_dependencies,
    "PV703": across.circular_dependencies,
    "PV704": across.shared_stems,
    "PV705": across.unknown_bindings,
    "PV706": across.unknown_scopes,
    "PV707": across.former_stems,
}
HISTORY_CHECKS: Mapping[str, Callable[[View, Contract], Iterator[Finding]]] = {
    "PV501": history.too_small_a_bump,
    "PV502": history.backwards,
}


# ------------------------------------------------------------------------------------------ findings -> diagnostics


class FileReport(NamedTuple):
    """What one file alone has to answer for, and the files beside it that were looked at to tell."""

    diagnostics: tuple[Diagnostic, ...]
    looked_at: tuple[Path, ...]


def check(loaded: Loaded, project: Project, facts: FactsByClaim = NO_FACTS) -> list[Diagnostic]:
    """Everything about one file: what reading and loading it found, and every rule of the file and of its claims."""
    return [*check_file(loaded, project).diagnostics, *check_claims(loaded, project, facts)]


def check_file(loaded: Loaded, project: Project) -> FileReport:
    """What a file says for itself and of the tree around it: no evidence, no other contract."""
    document = loaded.document
    if document is None:
        return FileReport(loaded.diagnostics, ())
    view = View(loaded, document, project)
    found = [*document.problems, *loaded.diagnostics, *_run(view, Scope.FILE)]
    return FileReport(tuple(_unsuppressed(found, view, OF_FILES)), tuple(view.looked_at))


def check_claims(loaded: Loaded, project: Project, facts: FactsByClaim) -> list[Diagnostic]:
    """What a file says of its claims against the facts about their evidence."""
    if loaded.document is None:
        return []
    view = View(loaded, loaded.document, project, facts)
    return _unsuppressed(list(_run(view, Scope.CLAIMS)), view, OF_CLAIMS)


def check_history(old: Contract, new: Loaded, project: Project) -> list[Diagnostic]:
    """The version of `new` against what changed since `old`."""
    document = new.document
    if document is None or new.contract is None:
        return []
    view = View(new, document, project)
    return [
        _diagnostic(BY_CODE[code], finding, project.profile, document.path, new.data, view.span)
        for code, check_pair in HISTORY_CHECKS.items()
        for finding in check_pair(view, old)
    ]


def check_corpus(loaded: Sequence[Loaded], project: Project, *, whole: bool = False) -> list[Diagnostic]:
    """What only shows in all files together. `whole`: these are all the contracts of the project."""
    by_display = {one.display: one for one in loaded}

    def span_of(outline: Outline, loc: Loc, key: bool) -> Span | None:
        document = by_display[outline.display].document if outline.display in by_display else None
        return document.span(loc, key=key) if document is not None else None

    found = check_outlines([outline_of(one) for one in loaded], project, span_of, whole=whole)
    kept: list[Diagnostic] = []
    for one in loaded:
        own = [diagnostic for diagnostic in found if diagnostic.path == one.display]
        kept += settle_corpus(one, project, own)
    return kept + [diagnostic for diagnostic in found if diagnostic.path not in by_display]


def settle_corpus(loaded: Loaded, project: Project, own: list[Diagnostic]) -> list[Diagnostic]:
    """What the comments of one file leave of the findings across files that lie in it."""
    document = loaded.document
    return own if document is None else _unsuppressed(own, View(loaded, document, project), OF_CORPUS)


def check_outlines(
    outlines: Sequence[Outline],
    project: Project,
    span_of: Callable[[Outline, Loc, bool], Span | None],
    *,
    stems: Stems | None = None,
    whole: bool = False,
) -> list[Diagnostic]:
    """The rules across files, before suppression; `span_of` finds a place in a file that may not be at hand."""
    if stems is None:
        stems = Stems([*(outline.stem for outline in outlines), *project_stems(project)])
    corpus = Corpus(outlines, project, stems, whole)
    found = []
    for code, check_all in CORPUS_CHECKS.items():
        rule = BY_CODE[code]
        if rule.severity(project.profile) is OFF or code in project.ignore:
            continue
        for outline, finding in check_all(corpus):

            def span(loc: Loc, *, key: bool = False, outline: Outline = outline) -> Span | None:
                return span_of(outline, loc, key)

            found.append(_diagnostic(rule, finding, project.profile, outline.display, {}, span))
    return found


def project_stems(project: Project) -> frozenset[str]:
    """The stems of the project's contracts, whether they were asked for or not."""
    return frozenset(path.stem for pattern in project.contracts for path in project.root.glob(pattern))


def _run(view: View, scope: Scope) -> Iterator[Diagnostic]:
    project, data = view.project, view.data
    if view.loaded.artifact == codes.CONTRACT and data:
        checks = _applicable(project.profile, scope, project.ignore, view.kind, frozenset(data), view.fields)
    else:
        checks = tuple(
            one for one in _active(project.profile, scope, project.ignore) if one[0].code in _RULES_OF_READING
        )
    for rule, rule_check in checks:
        for finding in rule_check(view):
            yield _diagnostic(rule, finding, project.profile, view.document.path, data, view.span)


_Check = tuple[Rule, Callable[[View], Iterator[Finding]]]


@cache
def _active(profile: Profile, scope: Scope, ignore: tuple[str, ...]) -> tuple[_Check, ...]:
    return tuple(
        (rule, rule.check)
        for rule in RULES
        if rule.scope is scope and rule.check and rule.severity(profile) is not OFF and rule.code not in ignore
    )


@lru_cache(maxsize=512)  # 162 real files have 52 sets of keys; asking every rule of every file takes twice as long
def _applicable(
    profile: Profile, scope: Scope, ignore: tuple[str, ...], kind: str, keys: frozenset[str], fields: frozenset[str]
) -> tuple[_Check, ...]:
    """The rules that have anything to look at in a file of this kind, with these keys at the top and in its entries."""
    return tuple(
        (rule, rule_check)
        for rule, rule_check in _active(profile, scope, ignore)
        if (not rule.kinds or kind in rule.kinds)
        and (not rule.sections or not keys.isdisjoint(rule.sections))
        and (not rule.fields or not fields.isdisjoint(rule.fields))
    )


def _diagnostic(
    rule: Rule,
    finding: Finding,
    profile: Profile,
    path: str,
    data: Mapping[str, object],
    span: Callable[..., Span | None],
) -> Diagnostic:
    severity = rule.severity(profile)
    if finding.severity is not None and severity is Severity.ERROR:
        severity = finding.severity
    return Diagnostic(
        code=rule.code,
        severity=severity,
        path=path,
        message=finding.message,
        span=span(finding.loc, key=finding.key),
        expected=finding.expected,
        found=finding.found,
        where=codes.place(data, finding.loc),
        help=finding.help,
        edits=finding.edits,
    )


# ------------------------------------------------------------------------------------------ suppressions

OF_CORPUS = frozenset(CORPUS_CHECKS)
OF_CLAIMS = frozenset(rule.code for rule in RULES if rule.scope is Scope.CLAIMS)
OF_FILES = frozenset(BY_CODE) - OF_CORPUS - OF_CLAIMS


def _unsuppressed(found: list[Diagnostic], view: View, concerned: frozenset[str]) -> list[Diagnostic]:
    """What comments leave of the findings, and the comments that no finding needed.

    `concerned`: the codes that were looked for, so that only these can be called unused. A code that no rule has is
    reported with those of the file.
    """
    suppressions = view.document.suppressions
    if not suppressions:
        return found
    return list(silence(found, suppressions, concerned, view.document.path, view.project.profile))


def silence(
    found: Iterable[Diagnostic],
    suppressions: Sequence[Suppression],
    concerned: frozenset[str],
    path: str,
    profile: Profile,
) -> Iterator[Diagnostic]:
    """The findings that no comment silences, then the codes that silenced nothing."""
    by_line: dict[int, list[tuple[int, Suppression]]] = {}
    for number, suppression in enumerate(suppressions):
        by_line.setdefault(suppression.line, []).append((number, suppression))
    used: set[tuple[int, str]] = set()
    for diagnostic in found:
        code, line = diagnostic.code, diagnostic.span.line if diagnostic.span is not None else 0
        silencing = [number for number, each in by_line.get(line, ()) if code in each.codes]
        if silencing and BY_CODE[code].suppressible:
            used.update((number, code) for number in silencing)
        else:
            yield diagnostic
    for number, suppression in enumerate(suppressions):
        for code in suppression.codes:
            unknown = code not in BY_CODE and concerned is OF_FILES
            if (code in concerned or unknown) and (number, code) not in used:
                yield _unused(code, suppression, path, profile)


def _unused(code: str, suppression: Suppression, path: str, profile: Profile) -> Diagnostic:
    rule = BY_CODE.get(code)
    if rule is None:
        why = f"there is no rule {code}"
    elif not rule.suppressible:
        why = f"{code} cannot be suppressed"
    else:
        why = f"line {suppression.line} has no {code}"
    return Diagnostic(
        code=UNUSED_SUPPRESSION,
        severity=BY_CODE[UNUSED_SUPPRESSION].severity(profile),
        path=path,
        message=f"this comment suppresses nothing: {why}",
        span=suppression.span,
        help=f"remove {code} from it",
    )
