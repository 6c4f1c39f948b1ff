"""Whatever is done to a record, a log or a pointer is found, offline, and an untouched tree has no finding."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import rfc8785

from pv.diagnostics.model import Severity
from pv.evidence import statement
from pv.evidence.retract import retract
from pv.evidence.verify import CODES, verify

ONE, TWO = "FALSIFY-TOY-001", "FALSIFY-TOY-002"


def found(toy) -> list[tuple[str, str]]:
    """The findings; they are the same with whatever was judged before, and when all of it was."""
    verified = verify(toy.project, [toy.loaded])
    for _ in range(2):
        assert verify(toy.project, [toy.loaded], toy.ledger) == verified
    return [(d.code, d.message) for d in verified.diagnostics]


def codes(toy) -> list[str]:
    return [code for code, _ in found(toy)]


def path_of(toy, record):
    return toy.project.evidence / toy.ledger.by_digest[record.digest].path


def forge(toy, record, change) -> str:
    """Rewrite a record on disk with its name made to fit; returns the new digest."""
    path = path_of(toy, record)
    data = json.loads(path.read_bytes())
    change(data)
    content = rfc8785.dumps(data)
    path.unlink()
    digest = statement.digest(content)
    path.with_name(f"{path.name[:17]}{digest[7:19]}.json").write_bytes(content + b"\n")
    return digest


def test_an_untouched_tree_has_no_finding(toy):
    toy.run()
    toy.run(TWO)
    verified = verify(toy.project, [toy.loaded])
    assert found(toy) == verified.diagnostics == []
    assert (verified.records, verified.pointers) == (2, 2)


def test_an_edited_value_is_found(toy):
    path = path_of(toy, toy.run())
    path.write_bytes(path.read_bytes().replace(b'"value":1}', b'"value":0.9999}', 1))
    assert "PV451" in codes(toy)
    assert "edited" in dict(found(toy))["PV451"]


def test_an_edited_value_with_its_name_made_to_fit_breaks_the_pointer(toy):
    forge(toy, toy.run(), lambda data: data["predicate"]["measurements"][0].update(value=0.9999))
    assert codes(toy) == ["PV455"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p["measurements"][0].update(value=0.5), "= 0.5 is said to have passed, but it fails >= 0.99"),
        (lambda p: p["measurements"][0].update(value="NaN"), "= NaN is said to have passed"),
        (lambda p: p["measurements"][0].update(passed=False), "said to have failed, but it meets"),
        (lambda p: p["measurements"][0].update(margin=-1), "has the margin -1, though it passed"),
        (lambda p: p["measurements"][0].pop("threshold"), "passed without a threshold"),
        (lambda p: p.update(verdict="FALSIFIED", observed="if_fails"), "its figures and controls say SURVIVED"),
        (lambda p: p.update(observed="if_fails"), "observed 'if_fails', expected 'prediction'"),
        (lambda p: p.update(negativeControls=[]), "its figures and controls say VACUOUS"),
        (lambda p: p.update(measurements=[]), "its figures and controls say ERROR"),
        (lambda p: p["negativeControls"][0].update(caught=False), "said to be missed, but cosine failed under it"),
        (lambda p: p["negativeControls"][0].update(breaks="other"), "said to be caught, but other did not fail"),
        (lambda p: p["negativeControls"][0].update(measurements=[]), "said to be caught, but cosine did not fail"),
        (lambda p: p["negativeControls"][0].update(observed="ERROR: died"), "said to be caught, but it crashed"),
        (lambda p: p["check"]["closure"].pop(), "closure digest is not that of the files"),
    ],
)
def test_a_record_that_contradicts_itself_is_found_and_counts_for_nothing(toy, change, sentence):
    forge(toy, toy.run(), lambda data: change(data["predicate"]))
    assert any(code == "PV452" and sentence in message for code, message in found(toy)), found(toy)
    assert toy.ledger.summaries == ()


def test_bounds_that_are_not_the_claims_are_found(toy):
    forge(toy, toy.run(), lambda data: data["predicate"]["measurements"][0]["threshold"].update(value=0.5))
    assert ("PV453", "cosine was judged by >= 0.5 1, the claim states >= 0.99 1") in found(toy)


def test_a_deleted_record_is_found_by_its_pointer(toy):
    path_of(toy, toy.run()).unlink()
    verified = verify(toy.project, [toy.loaded])
    (diagnostic,) = verified.diagnostics
    assert diagnostic.code == "PV455"
    assert diagnostic.span.line == 1 + toy.text[: toy.text.index("evidence: [")].count("\n")
    assert "FALSIFY-TOY-001" in diagnostic.where


def test_a_deleted_record_is_found_by_the_chain(toy):
    first = toy.run()
    toy.write("src/engine/ops.py", "def cosine():\n    return 2\n")
    toy.run()
    path_of(toy, first).unlink()
    assert codes(toy) == ["PV454"]


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff", b'{"_type": 1}'])
def test_what_is_no_record_is_found(toy, content):
    path_of(toy, toy.run()).write_bytes(content)
    assert sorted(codes(toy)) == ["PV450", "PV455"]


def test_a_record_from_a_later_pv_is_not_passed_over(toy):
    forge(toy, toy.run(), lambda data: data["predicate"].update(schemaVersion="2.0.0"))
    assert any(code == "PV450" and "a later pv" in message for code, message in found(toy))


def test_a_record_in_the_wrong_folder_is_found(toy):
    path = path_of(toy, toy.run())
    (path.parent.parent / TWO).mkdir()
    path.rename(path.parent.parent / TWO / path.name)
    assert sorted(codes(toy)) == ["PV451", "PV455"]


def test_a_pointer_to_another_claims_record_is_found(toy):
    record = toy.run()
    toy.run(TWO)
    own = toy.claim(TWO).evidence[0]
    toy.write("contracts/toy-v1.yaml", toy.text.replace(own, record.digest))
    assert codes(toy) == ["PV456"]


def test_a_pointer_to_a_retracted_record_is_found_until_it_is_settled(toy):
    record = toy.run()
    retract(toy.ledger.store, record.digest, "wrong fixture")
    assert sorted(codes(toy)) == ["PV457", "PV460"]
    toy.settle()
    assert codes(toy) == ["PV460"]


def test_orphans_are_found(toy):
    toy.ledger.store.add(replace(toy.record(), claim_id="FALSIFY-GONE-001"))
    assert codes(toy) == ["PV459"]


def test_logs_are_checked(toy):
    record = toy.ledger.store.add(toy.record(), log=b"what happened")
    log = toy.project.evidence / record.log.stored
    assert codes(toy) == []
    log.write_bytes(b"else")
    assert codes(toy) == ["PV458"]
    log.unlink()
    assert codes(toy) == ["PV458"]
    (log.parent / ("0" * 64 + ".log.gz")).write_bytes(b"")
    assert sorted(codes(toy)) == ["PV458", "PV461"]


def test_leftovers_of_killed_writes_are_told(toy):
    record = toy.run()
    (path_of(toy, record).parent / ".writing-1-x").write_bytes(b"half")
    assert codes(toy) == ["PV461"]


def test_only_what_is_wrong_is_an_error():
    mild = {code for code, row in CODES.items() if row.severity is not Severity.ERROR}
    assert mild == {"PV459", "PV460", "PV461"}


def test_an_index_that_lies_does_not_help(toy):
    """The index is keyed by size and time; verification never reads it."""
    path = path_of(toy, toy.run())
    facts = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"value":1}', b'"value":2}', 1))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert "PV451" in codes(toy)
