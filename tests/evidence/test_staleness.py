"""The words of staleness: one text for one bound, the file by name, and the gravest reason first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pv.contract.claims import Threshold
from pv.evidence.record import ThresholdRecord
from pv.evidence.staleness import CurrentDigests, changed_files, in_words, stale_reason
from pv.evidence.store import summarise


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        (Threshold(">=", 0.99), ">= 0.99 1"),
        (Threshold("==", 1), "== 1 1"),
        (Threshold("==", 1.0), "== 1 1"),
        (Threshold("<=", 1e-5, "s"), "<= 1e-05 s"),
        (Threshold("within", (0.5, 2)), "within [0.5, 2] 1"),
        (ThresholdRecord("<", "Infinity"), "< Infinity 1"),
        (Threshold("<", float("inf")), "< Infinity 1"),
        (Threshold("==", 2**60), "== 1.152921504606847e+18 1"),
    ],
)
def test_one_bound_has_one_text(threshold, words):
    assert in_words(threshold) == words


def test_a_contracts_bound_and_a_records_bound_read_alike():
    for value in (0.1 + 0.2, 1e300, -0.0, 7, 1e16):
        assert in_words(Threshold("<", value)) == in_words(ThresholdRecord("<", value))


@pytest.fixture
def now(make_record):
    record = make_record()
    files = {file.path: file.sha256 for file in record.closure}
    summary = summarise(record, "")
    current = CurrentDigests(record.claim_digest, record.closure_digest, files, dict(summary.bound), summary.thresholds)
    return summary, files, current


def test_what_did_not_change_is_fresh(now):
    summary, files, current = now
    assert stale_reason(summary, files, current) == ""


def test_the_gravest_reason_is_told(now):
    summary, files, current = now
    everything = replace(
        current,
        claim_digest="sha256:" + "0" * 64,
        closure_digest="sha256:" + "1" * 64,
        files={},
        bound={"fixtures/tiny.bin": "2" * 64},
        thresholds={**current.thresholds, "cosine": ">= 0.5 1"},
    )
    assert stale_reason(summary, files, everything) == "thresholds changed since: cosine >= 0.99 1 -> >= 0.5 1"
    claim = replace(everything, thresholds=current.thresholds)
    assert stale_reason(summary, files, claim) == "the claim changed since"
    closure = replace(claim, claim_digest=current.claim_digest)
    assert stale_reason(summary, files, closure) == ("falsifiers/example_v1.py, src/engine/files.py changed since")
    bound = replace(closure, closure_digest=current.closure_digest)
    assert stale_reason(summary, files, bound) == "fixtures/tiny.bin changed since"
    assert stale_reason(summary, files, replace(closure, closure_digest=None)) == "its check is not registered any more"


def test_a_measurement_that_came_or_went_is_told(now):
    summary, files, current = now
    fewer = replace(current, claim_digest="sha256:" + "0" * 64, thresholds={"cosine": ">= 0.99 1"})
    assert "bits_equal == 1 1 -> not judged" in stale_reason(summary, files, fewer)


def test_many_files_are_counted(now):
    summary, _, current = now
    then = {f"src/{i}.py": "0" * 64 for i in range(9)}
    moved = replace(current, closure_digest="sha256:" + "1" * 64, files={"src/0.py": "0" * 64})
    assert stale_reason(summary, then, moved) == "src/1.py, src/2.py, src/3.py and 5 more changed since"
    assert changed_files({"a": "1"}, {"a": "1", "b": "2"}) == ["b"]
