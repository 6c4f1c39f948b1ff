"""Whatever stands in a file, no rule fails; and the same file gives the same findings."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pv.contract.load import of_document
from pv.contract.models import ContractFile, Falsifier
from pv.contract.project import Profile, Project
from pv.contract.vocabulary import Status
from pv.document.reader import parse
from pv.rules import table
from pv.rules.facts import Facts
from pv.rules.finding import Scope
from pv.rules.outline import outline_of

WORDS = sorted({*ContractFile.model_fields, *Falsifier.model_fields, "evidence_discharged_by", "gates", "version",
                "kind", "total_obligations", "cells", "subject", "file_paths", "function_names", "test_locations", "op",
                "value", "rows", "predicton", "depends_on", "registry", "source"})  # fmt: skip
KINDS = ["kernel", "schema", "kaizen", "beat-benchmark", "competitive-parity", "PARTIAL_ALGORITHM_LEVEL", "FUNCTIONAL"]
scalars = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from([*KINDS, "", "a/b.py::c", "1.0"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.dictionaries(st.sampled_from(WORDS), values, max_size=6), st.sampled_from(list(Profile)))
def test_no_data_makes_a_rule_fail(tmp_path, data, profile):
    document = parse(b"metadata: {}\n", "x-v1.yaml")
    document.data = data
    project = Project(root=tmp_path, profile=profile, falsifiers=tmp_path, evidence=tmp_path)
    loaded = of_document(document, tmp_path / "x-v1.yaml", "x-v1.yaml", profile)
    facts = {("x-v1", name): Facts(Status.UNBOUND, "stale", ("sha256:1",), False) for name in ("", "1.0", *KINDS)}
    found = table.check(loaded, project, facts)
    assert all(each.message and each.code in table.BY_CODE for each in found)
    assert table.check(loaded, project, facts) == found
    outline_of(loaded)
    table.check_corpus([loaded, loaded], project, whole=True)


def test_a_rule_that_needs_a_section_or_a_claim_of_ours_would_find_nothing_without(check, project):
    """`sections` and `fields` only spare calls: on data without them the rule itself yields nothing."""
    from pv.rules.view import View

    document = parse(b"metadata: {version: 1.0.0, description: d, references: [r], kind: schema}\n", "x.yaml")
    loaded = of_document(document, project.root / "x.yaml", "x.yaml", Profile.STRICT)
    view = View(loaded, document, project)
    for rule in table.RULES:
        if rule.check is not None and (rule.sections or rule.fields) and rule.scope is Scope.FILE:
            assert rule.sections == ("metadata",) or list(rule.check(view)) == [], rule.code


def test_a_file_of_thousands_of_slips_is_told_in_seconds(tmp_path):
    """Every list is walked once: nothing may grow with the square of a file that anybody can write."""
    import time

    count = 4000
    entries = "".join(
        f"  - {{id: F-{n}, predicton: p, precondition: F-{n + 1}, binds_to: PO-{n}x, status: SHINING}}"
        f"  # pv: ignore[PV301] no\n"
        for n in range(count)
    )
    text = (
        "metadata: {version: 1.0.0, description: d, references: [r], kind: schema}\n"
        "equations: {parity: {formula: a}}\nproof_obligations:\n"
        + "".join(f"  - {{id: PO-{n}, property: p, formal: same}}\n" for n in range(count))
        + "falsification_tests:\n"
        + entries
    )
    began = time.process_time()
    document = parse(text.encode(), "x-v1.yaml")
    project = Project(root=tmp_path, profile=Profile.STRICT, falsifiers=tmp_path, evidence=tmp_path)
    found = table.check(of_document(document, tmp_path / "x-v1.yaml", "x-v1.yaml", Profile.STRICT), project)
    assert len(found) > 4 * count
    assert time.process_time() - began < 15
