"""Real files: what the reference accepts has no error, what it rejects is sound or explained at a line."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from pv.contract.load import load_all
from pv.contract.project import Profile, Project
from pv.diagnostics.model import Severity
from pv.rules import table

# The nine files that the reference of February 2026 rejects -> the errors that we find, as (code, line). None means
# that the file is sound today: five use obligation types that are valid now. The other four are explained.
REJECTIONS = {
    "aprender/apr-cli-model-1-ship-via-cpu-v1.yaml": None,  # type: termination
    "batuta/routing-determinism-v1.yaml": None,  # type: determinism
    "decy/cuda-kernel-safety-v1.yaml": None,  # type: postcondition
    "presentar/color-wcag-v1.yaml": None,  # type: precondition
    "realizar/streaming-safety-v1.yaml": None,  # type: precondition
    # Without `kind` a file is judged a kernel, and a kernel has equations; the message says so.
    "provable-contracts/layer-parity-v1.yaml": [("PV219", 16)],
    "provable-contracts/quantized-dot-product-v1.yaml": [("PV219", 26)],
    "qwen-coder-deploy/inference-showdown-v1.yaml": [("PV201", 12), ("PV213", 12), ("PV219", 12)],
    # The reference stops at the first missing `rule`; what the entries lack that counts is a prediction.
    "qwen-train-canary/fp16-training-parity-v1.yaml": [("PV602", 82), ("PV602", 88), ("PV602", 94), ("PV602", 100)],
}


@pytest.fixture(scope="module")
def found(corpus: Path):
    """Diagnostics by file, compat profile, one project."""
    project = Project(root=corpus, profile=Profile.COMPAT)
    return {one.path.relative_to(corpus).as_posix(): table.check(one, project) for one in load_all([corpus], project)}


@pytest.fixture(scope="module")
def verdicts(corpus: Path) -> dict[str, int]:
    with (corpus / "reference-verdicts.tsv").open(encoding="utf-8") as stream:
        rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row[0]: int(row[1]) for row in rows if row[1].isdigit()}


def errors(diagnostics):
    return [(each.code, each.span.line) for each in diagnostics if each.severity is Severity.ERROR]


def test_what_the_reference_accepts_has_no_error(found, verdicts):
    accepted = [name for name, code in verdicts.items() if code == 0]
    assert len(accepted) == 153
    assert {name: errors(found[name]) for name in accepted if errors(found[name])} == {}


def test_each_of_its_rejections_is_sound_or_explained_at_a_line(found, verdicts):
    assert {name for name, code in verdicts.items() if code} == set(REJECTIONS)
    assert {name: errors(found[name]) or None for name in REJECTIONS} == REJECTIONS


def test_a_file_judged_kernel_by_default_is_told_so(found):
    (message,) = [each.message for each in found["provable-contracts/layer-parity-v1.yaml"] if each.code == "PV219"]
    assert message == "equations must contain at least one equation (no metadata.kind, judged kernel by default)"


def test_every_finding_has_a_place_and_words(found):
    for name, diagnostics in found.items():
        for each in diagnostics:
            assert each.span is not None, (name, each)
            assert each.span.line >= 1
            assert each.message
            assert "None" not in each.message, each
            assert each.help or each.expected, each


def test_the_findings_that_the_reference_misses_are_these(found, verdicts):
    """Counted, so that a rule that falls silent or grows noisy is noticed."""
    counts = Counter(each.code for name in verdicts for each in found[name])
    assert counts == {
        "PV225": 57,  # SCHEMA-013: the one warning that the reference has too
        "PV118": 22,  # 17 tolerances that YAML 1.1 reads as text, 5 dates
        "PV209": 18,  # description beside rule
        "PV215": 3,  # version: 1.0
        "PV228": 4,  # a sentence under claim
        "PV311": 9,  # evidence in files that are not in this tree
        "PV407": 4,  # PENDING
        "PV601": 32,
        "PV602": 4,
        "PV603": 4,
        "PV608": 2,  # equations and no obligation
        "PV612": 22,  # a test that names nothing that could be run
        "PV613": 21,  # one prediction in several tests
        "PV201": 1,
        "PV213": 1,
        "PV219": 3,
    }


def test_across_the_corpus(corpus):
    project = Project(root=corpus, profile=Profile.COMPAT)
    across = table.check_corpus(load_all([corpus], project), project)
    assert {each.severity for each in across} == {Severity.WARNING}
    counts = Counter(each.code for each in across)
    assert counts["PV701"] == 27
    assert counts["PV703"] == 2
    assert counts["PV704"] == 2
    assert counts["PV702"] >= 25


def test_the_strict_profile_asks_for_statuses_and_never_fails(corpus):
    project = Project(root=corpus, profile=Profile.STRICT)
    loaded = load_all([corpus], project)
    codes = Counter(each.code for one in loaded for each in table.check(one, project))
    assert codes["PV409"] == 802 + 263 - 9 - 4
