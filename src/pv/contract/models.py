"""The shape of a contract file as pydantic models: every field, alias pair and closed vocabulary of the format.

Unknown keys are ignored here (53 top-level ones occur in real files); `pv.rules` looks at them. There are no
after-validators (they do not run once a field fails, and users would see their errors in two rounds) and no untagged
unions (they spoil the place of an error): where a field has two shapes, a tag that no real key can equal tells them
apart, and `pv.contract.shape` drops it again. Alias pairs are two plain fields, read by `pv.contract.claims.aliased`.

`Falsifier` and `Harness` here are shapes; what the other rooms read is `Claim` and `Contract`, exported below.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Strict, StringConstraints, Tag, WithJsonSchema

from pv.contract.claims import ALIASES, Claim, Contract, KnownFailing, Metadata, Obligation, Threshold
from pv.contract.vocabulary import ClaimKind, Status

__all__ = [
    "ALIASES",
    "KINDS",
    "OBLIGATION_TYPES",
    "BindingRegistry",
    "Claim",
    "Contract",
    "ContractFile",
    "KnownFailing",
    "Metadata",
    "Obligation",
    "PublishManifest",
    "Threshold",
]

Kind = Literal[
    "kernel",
    "registry",
    "model-family",
    "model-family-variant",
    "tokenizer",
    "training-loop",
    "pretraining-corpus",
    "training-precondition-gate",
    "corpus-assembly",
    "pattern",
    "schema",
    "beat-benchmark",
    "kaizen",
    "competitive-parity",
]
ObligationType = Literal[
    "invariant",
    "equivalence",
    "bound",
    "monotonicity",
    "idempotency",
    "linearity",
    "symmetry",
    "associativity",
    "conservation",
    "ordering",
    "completeness",
    "soundness",
    "involution",
    "determinism",
    "roundtrip",
    "state_machine",
    "classification",
    "independence",
    "termination",
    "safety",
    "liveness",
    "precondition",
    "postcondition",
    "frame",
    "loop_invariant",
    "loop_variant",
    "old_state",
    "subcontract",
]
IntakeStatus = Literal["missing", "partial", "supported", "unclear"]

KINDS: tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]  # how typing keeps a Literal's words
OBLIGATION_TYPES: tuple[str, ...] = ObligationType.__args__  # type: ignore[attr-defined]  # likewise

# A number may stand where text is wanted: `version: 1.10` is "1.10". The loader puts the source text in its place.
Text = Annotated[str, WithJsonSchema({"type": ["string", "number"]})]
Name = Annotated[str, StringConstraints(min_length=1), WithJsonSchema({"type": ["string", "number"], "minLength": 1})]
Flag = Annotated[bool, Strict()]
Float = Annotated[float, Strict()]
Unsigned = Annotated[int, Strict(), Field(ge=0, le=2**32 - 1)]
Integer = Annotated[int, Strict(), Field(ge=-(2**63), le=2**63 - 1)]
Texts = list[Text]

MANY, ONE, ANY = "<many>", "<one>", "<any>"  # tags: no key of a real file looks like this


# The default of lists and mappings: pydantic copies one that can be changed for every part of every file.
NOTHING: Any = ()


def _many_or_one(value: Any) -> str:
    return MANY if isinstance(value, list) else ONE


def _map_or_list(value: Any) -> str:
    return MANY if isinstance(value, list) else ONE


def _bound_or_range(value: Any) -> str:
    return MANY if isinstance(value, dict) and value.get("op") == "within" else ONE


def _map_list_or_any(value: Any) -> str:
    return ONE if isinstance(value, dict) else MANY if isinstance(value, list) else ANY


OneOrMany = Annotated[Annotated[Text, Tag(ONE)] | Annotated[Texts, Tag(MANY)], Discriminator(_many_or_one)]


class Shape(BaseModel):
    """What every part shares: unknown keys are ignored, nothing is built before the whole is known."""

    model_config = ConfigDict(extra="ignore", defer_build=True, protected_namespaces=())


class MetadataShape(Shape):
    """The head of a contract. `status` is the document's life, decided by people."""

    version: Text = Field(description="the version of the meaning; `pv falsify` and `pv settle` raise it")
    description: Text = Field(description="what the contract is about, in a sentence or two")
    created: Text | None = Field(None, description="the day it was begun")
    author: Text | None = Field(None, description="who wrote it")
    references: Texts = Field(NOTHING, description="papers, specifications, pages that it rests on")
    depends_on: Texts = Field(NOTHING, description="stems of contracts that this one rests on")
    registry: Flag = Field(False, description="a list of things, with nothing of its own to prove")
    kind: Kind = Field("kernel", description="what the document is; it decides which rules hold")
    enforcement_level: Literal["basic", "standard", "strict", "proven"] | None = Field(
        None, description="how much the author wants enforced"
    )
    locked_level: Text | None = Field(None, description="the level below which it must not fall")
    competitor: Text | None = Field(None, description="whom a user story is about")
    demand_score: Integer | None = Field(None, description="how much a user story is asked for, 1 to 5")
    intake_status: IntakeStatus | None = Field(None, description="how far a user story is")
    proved_type: Text | None = Field(None, description="the type that a proof is about")
    status: Any = Field(None, description="the document's life (DRAFT, PROPOSED, ACTIVE, …), decided by people")
    changelog: Any = Field(None, description="a line for each version; pv adds its own in the shape that is there")
    formerly: OneOrMany = Field(NOTHING, description="written by `pv mv`: the stems that the file had before")


class TensorShape(Shape):
    """A named tensor of a shape contract."""

    dims: Texts
    dtype: Text | None = None


class ShapeContract(Shape):
    """What an equation assumes or guarantees about shapes."""

    shapes: dict[str, TensorShape] = NOTHING
    from_contract: Text | None = None
    from_equation: Text | None = None


class Equation(Shape):
    """A formula and what holds of it."""

    formula: Text = Field("", description="the formula")
    domain: Text | None = Field(None, description="where it is defined")
    codomain: Text | None = Field(None, description="where its values lie")
    invariants: Texts = Field(NOTHING, description="what always holds of it")
    preconditions: Texts = Field(NOTHING, description="what must hold before")
    postconditions: Texts = Field(NOTHING, description="what holds after")
    lean_theorem: Text | None = Field(None, description="the theorem that proves it")
    float_tolerance: Float | None = Field(None, description="what rounding may cost")
    assumes: ShapeContract | None = Field(None, description="shapes that it takes")
    guarantees: ShapeContract | None = Field(None, description="shapes that it gives")


Equations = Annotated[
    Annotated[dict[str, Equation], Tag(ONE)] | Annotated[list[Equation], Tag(MANY)], Discriminator(_map_or_list)
]


class Lean(Shape):
    """The Lean theorem behind an obligation."""

    theorem: Text
    module: Text | None = None
    status: Literal["proved", "sorry", "wip", "not-applicable"] = "sorry"
    depends_on: Texts = NOTHING
    mathlib_imports: Texts = NOTHING
    notes: Text | None = None


class ObligationShape(Shape):
    """A property that the code owes. `statement` is `property`, `verification` is `formal`."""

    id: Text | None = Field(None, description="what `binds_to` and harnesses name")
    type: ObligationType = Field("invariant", description="what sort of property it is")
    property: Text = Field("", description="the property, in words")
    statement: Text = Field("", description="another name of `property`")
    formal: Text | None = Field(None, description="the property, as a formula")
    verification: Text | None = Field(None, description="another name of `formal`")
    tolerance: Float | None = Field(None, description="what rounding may cost")
    applies_to: Text | None = Field(None, description="which implementations owe it")
    na_reason: Text | None = Field(None, description="why it applies to none")
    na_owner: Text | None = Field(None, description="what verifies it instead")
    lean: Lean | None = Field(None, description="the Lean theorem behind it")
    requires: Text | None = Field(None, description="the precondition of a postcondition")
    applies_to_phase: Text | None = Field(None, description="the phase of a loop invariant or variant")
    parent_contract: Text | None = Field(None, description="the contract that a subcontract refines")


class CellShape(Shape):
    """Where a claim is tried."""

    device: Literal["cpu", "cuda", "vulkan", "vulkan-sw", "metal"] = Field("cpu", description="the class of device")
    subject: Name = Field("code", description="what the check runs on: code, tiny-teacher, synthetic:7b, a model")


class Requires(Shape):
    """The cells a claim is about, and the independent code that must agree with it."""

    cells: list[CellShape] = Field(NOTHING, description="where the claim must survive")
    oracle: Literal["hf", "llama.cpp"] | None = Field(
        None, description="the independent code that must agree for DISCHARGED"
    )


class BoundShape(Shape):
    """The bound of one measurement. (`within` never comes here; it is listed for the sake of the message.)"""

    op: Annotated[
        Literal["<", "<=", ">", ">=", "==", "!=", "within"],
        WithJsonSchema({"enum": ["<", "<=", ">", ">=", "==", "!="]}),
    ] = Field(description="how the measurement must stand to the value")
    value: Float = Field(description="the bound")
    unit: Text | None = Field(None, description="the unit of the measurement")
    source: Text | None = Field(None, description="where the bound comes from, such as equations.NAME")
    repeat: Annotated[float, Strict(), Field(ge=0)] | None = Field(
        None, description="how near a second record must be to agree"
    )


class RangeShape(BoundShape):
    """The range of one measurement: [low, high], both included."""

    op: Literal["within"] = Field(description="inside a range, both ends included")
    value: Annotated[list[Float], Field(min_length=2, max_length=2)] = Field(description="the two ends")  # type: ignore[assignment]  # the other shape


ThresholdShape = Annotated[
    Annotated[BoundShape, Tag(ONE)] | Annotated[RangeShape, Tag(MANY)], Discriminator(_bound_or_range)
]


class KnownFailingShape(Shape):
    """An honest red."""

    owner: Name = Field(description="who works on it")
    reason: Name = Field(description="why it fails")
    since: Name = Field(description="since when")


class EvidenceBlock(Shape):
    """`algorithm_evidence` as a mapping: both of its real shapes, and what pv writes."""

    status: Text | None = Field(None, description="where a file keeps the status here")
    last_verified: Text | None = Field(None, description="the day of the last run that counts")
    test_locations: Texts | None = Field(None, description="tests that others named")
    file_paths: Texts | None = Field(None, description="files of the functions under attack")
    function_names: Texts | None = Field(None, description="the functions under attack")
    invariants_enforced: Texts | None = Field(None, description="what the check holds")
    notes: Any = Field(None, description="prose")


_SCALAR = WithJsonSchema({"type": ["string", "number", "boolean", "null"]})
AlgorithmEvidence = Annotated[
    Annotated[EvidenceBlock, Tag(ONE)] | Annotated[Texts, Tag(MANY)] | Annotated[Any, _SCALAR, Tag(ANY)],
    Discriminator(_map_list_or_any),
]


def _suggested(words: tuple[str, ...]) -> WithJsonSchema:
    """Anything is allowed; editors offer these words."""
    return WithJsonSchema({"anyOf": [{"enum": list(words)}, {}]})


ClaimWord = Annotated[Any, _suggested(tuple(kind.value for kind in ClaimKind))]
StatusWord = Annotated[Any, _suggested(tuple(status.value for status in Status))]


class Entry(Shape):
    """What falsifiers and harnesses share: first the claim, then what pv writes."""

    id: Text = Field(description="unique in its file")
    binds_to: OneOrMany = Field(NOTHING, description="equations or obligation ids of this file that the claim is about")
    claim: ClaimWord = Field(None, description="outcome: how the world is; guard: a defect is detected and reported")
    requires: Requires | None = Field(None, description="the cells that the claim is about, and an independent oracle")
    precondition: OneOrMany = Field(NOTHING, description="claims without which this one is INCONCLUSIVE")
    blocked_on: OneOrMany = Field(NOTHING, description="what a claim that cannot run yet waits for")
    known_failing: KnownFailingShape | None = Field(None, description="an honest red: who owns it, why, since when")
    thresholds: dict[str, ThresholdShape] = Field(NOTHING, description="one bound for each measurement of the check")
    cost: Literal["quick", "slow", "device", "operator"] = Field("quick", description="when the check is run")

    formerly: OneOrMany = Field(NOTHING, description="written by `pv mv`: the ids that the claim had before")
    status: StatusWord = Field(None, description="written by pv: the rung that the runs earned")
    last_verified: Any = Field(None, description="written by pv: the day of the last run that counts")
    evidence: Any = Field(None, description="written by pv: one record for each cell, by digest")
    algorithm_evidence: AlgorithmEvidence = Field(None, description="written by pv: what was attacked, and where")
    functional_evidence: Any = Field(None, description="written by pv: the live runs, one line each")
    discharge_evidence: Any = Field(None, description="written by pv: what raised the claim to DISCHARGED")


class Falsifier(Entry):
    """A claim and how it would fail. `description`, `expected`, `command` and `fails_if` are other names of fields."""

    rule: Text = Field("", description="the rule, in a few words")
    description: Text = Field("", description="another name of `rule`")
    prediction: Text = Field("", description="what will be observed if the claim is true")
    expected: Text = Field("", description="another name of `prediction`")
    test: Text | None = Field(None, description="a test that others named; pv finds its own check by the claim's id")
    command: Text | None = Field(None, description="another name of `test`")
    test_harness: Text | None = Field(None, description="the harness of that test")
    name: Text | None = Field(None, description="a name, where there is no rule")
    if_fails: Text = Field("", description="what it means, and what to do, when it breaks")
    fails_if: Text = Field("", description="another name of `if_fails`")


class Harness(Entry):
    """A bounded proof of an obligation."""

    obligation: Text = Field(description="the obligation that it proves")
    property: Text | None = Field(None, description="the property, in words")
    bound: Unsigned | None = Field(None, description="up to where it is proved")
    strategy: Literal["exhaustive", "stub_float", "compositional", "bounded_int"] | None = Field(
        None, description="how"
    )
    solver: Text | None = Field(None, description="the solver of a Kani proof")
    harness: Text | None = Field(None, description="the function of a Kani proof")
    actually_verified: Flag | None = Field(None, description="what the author says; pv believes records alone")
    rule: Text | None = Field(None, description="as in falsification_tests")
    prediction: Text | None = Field(None, description="as in falsification_tests")
    if_fails: Text | None = Field(None, description="as in falsification_tests")


class Phase(Shape):
    """One phase of a kernel."""

    name: Text
    description: Text
    invariant: Text | None = None


class KernelStructure(Shape):
    """The phases of a kernel."""

    phases: list[Phase]


class EnforcementRule(Shape):
    """A rule of the block `enforcement`."""

    description: Text
    check: Text | None = None
    severity: Text | None = None
    reference: Text | None = None


class QaGate(Shape):
    """The quality gate a contract names; its contents are free."""

    id: Text = ""
    name: Text = ""
    description: Text | None = None
    checks: Texts = NOTHING
    pass_criteria: Text | None = None
    falsification: Text | None = None


class VerificationSummary(Shape):
    """Hand-kept counts; only `total_obligations` is checked."""

    total_obligations: Unsigned = Field(description="how many obligations there are; must be the length of the list")
    l2_property_tested: Unsigned = 0
    l3_kani_proved: Unsigned = 0
    l4_lean_proved: Unsigned = 0
    l4_sorry_count: Unsigned = 0
    l4_not_applicable: Unsigned = 0


class TypeInvariant(Shape):
    """A predicate that a type keeps."""

    name: Text
    type: Text
    predicate: Text
    description: Text | None = None


class CoqDefinition(Shape):
    """A definition of a Coq module."""

    name: Text
    statement: Text


class CoqObligation(Shape):
    """A Coq lemma and what it is about."""

    links_to: Text
    coq_lemma: Text
    status: Text = "stub"


class CoqSpec(Shape):
    """A Coq module."""

    module: Text
    imports: Texts = NOTHING
    definitions: list[CoqDefinition] = NOTHING
    obligations: list[CoqObligation] = NOTHING


class Beat(Shape):
    """What a benchmark must beat (kind beat-benchmark)."""

    pillar: Annotated[int, Strict(), Field(ge=0, le=255)] | None = None
    incumbent: Text | None = None
    incumbent_pinned: Any = None
    canonical_task: Text | None = None
    metric: Text | None = None
    direction: Text | None = None
    baseline_value: Float | None = None
    baseline_floor: Float | None = None
    beat_threshold: Float | None = None
    baseline_sourced_date: Text | None = None
    approved_compute: Text | None = None
    ci_gate_name: Text | None = None


class Story(Shape):
    """A row of a registry of user stories."""

    id: Text = ""
    competitor: Text | None = None
    demand_score: Integer | None = None
    status: IntakeStatus | None = None


class ParityRow(Shape):
    """One comparison with a competitor (kind competitive-parity)."""

    entry_point: Text | None = None
    competitor: Text | None = None
    competitor_version: Text | None = None
    invocation_apr: Text | None = None
    invocation_competitor: Text | None = None
    dimension: Text | None = None
    verdict: Literal["BETTER", "PARITY", "WORSE", "NOT_COMPARABLE", "UNMEASURED"] | None = None
    measured_on: Text | None = None
    valid_until: Text | None = None
    owner: Text | None = None
    evidence: Any = None
    note: Text | None = None


class Downgrade(Shape):
    """Why a row of the ledger says less than it did."""

    entry_point: Text | None = None
    reason: (
        Literal[
            "RECEIPT_MISSING",
            "HARNESS_DELETED",
            "MEASUREMENT_UNDATED",
            "COMPETITOR_UNPINNABLE",
            "HOST_UNAVAILABLE",
            "SUPERSEDED",
        ]
        | None
    ) = None
    owner: Text | None = None
    recorded_on: Text | None = None
    recheck_by: Text | None = None
    detail: Text | None = None


class ParityLedger(Shape):
    """The comparisons of a project with its competitors."""

    scope: Any = None
    rows: list[ParityRow] = NOTHING
    downgrades: list[Downgrade] = NOTHING


class ContractFile(Shape):
    """One contract file."""

    metadata: MetadataShape = Field(description="the head: version, kind, references, what it depends on")
    equations: Equations | None = Field(None, description="what the code computes, by name")
    proof_obligations: list[ObligationShape] = Field(NOTHING, description="properties that the code owes")
    kernel_structure: KernelStructure | None = Field(None, description="the phases of a kernel")
    simd_dispatch: dict[str, dict[str, Text]] = Field(
        NOTHING, description="which implementation serves which instruction set"
    )
    enforcement: dict[str, EnforcementRule] = Field(
        NOTHING, description="rules of style and process, by name; prose to pv"
    )
    falsification_tests: list[Falsifier] = Field(NOTHING, description="the claims, and how each would turn out wrong")
    kani_harnesses: list[Harness] = Field(NOTHING, description="bounded proofs of obligations; claims like the others")
    qa_gate: QaGate | None = Field(None, description="the quality gate that the contract names")
    verification_summary: VerificationSummary | None = Field(None, description="counts kept by hand")
    type_invariants: list[TypeInvariant] = Field(NOTHING, description="predicates that types keep")
    coq_spec: CoqSpec | None = Field(None, description="a Coq module about it")
    beat: Beat | None = Field(None, description="what a benchmark must beat (kind beat-benchmark)")
    stories: list[Story] = Field(NOTHING, description="user stories (registries of them)")
    parity: ParityLedger | None = Field(None, description="a ledger of comparisons (kind competitive-parity)")


class Binding(Shape):
    """Where an equation of a contract is implemented."""

    contract: Text
    equation: Text
    module_path: Text | None = None
    function: Text | None = None
    signature: Text | None = None
    status: Literal["implemented", "partial", "not_implemented", "pending"]
    notes: Text | None = None


class BindingRegistry(Shape):
    """Not a contract: the registry that binds equations to code (has `bindings` and `target_crate`)."""

    version: Text
    target_crate: Text
    critical_path: Texts = NOTHING
    bindings: list[Binding] = NOTHING


class PublishManifest(Shape):
    """Not a contract: what was published of a model, and where it came from (has `model_id` and `provenance`)."""

    model_id: Name
    provenance: dict[str, Any]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    size_bytes: Annotated[int, Strict(), Field(gt=0)] | None = None
    artifact_url: Annotated[str, StringConstraints(pattern=r"^https://")] | None = None
