"""An export is a sound in-toto Test Result, says what the records support, and is told from one of another tree."""

from __future__ import annotations

import hashlib
import json

import pytest

from pv.contract.vocabulary import Cell, DeviceClass, Level
from pv.evidence.attestation import TEST_RESULT, AttestationError, as_statement, compare, in_words
from pv.evidence.record import FileDigest
from pv.evidence.retract import retract

ONE, TWO, THREE = (f"toy-v1::FALSIFY-TOY-00{n}" for n in (1, 2, 3))


def statement(toy, ids=()):
    return as_statement(toy.project, [toy.loaded.contract], toy.ledger, ids)


def predicate(toy, ids=()):
    return json.loads(statement(toy, ids))["predicate"]


def subjects(toy):
    return {each["name"]: each["digest"]["sha256"] for each in json.loads(statement(toy))["subject"]}


def compared(toy, content):
    return compare(content, toy.project, [toy.loaded.contract], toy.ledger)


def changed(content, change):
    data = json.loads(content)
    change(data)
    return json.dumps(data).encode()


def test_it_is_what_in_toto_says_it_is(toy):
    """Judged by the framework's own package: the statement, and the fields of its predicate."""
    json_format = pytest.importorskip("google.protobuf.json_format", reason="in-toto-attestation is not installed")
    statement_pb2 = pytest.importorskip("in_toto_attestation.v1.statement_pb2")
    wrapper = pytest.importorskip("in_toto_attestation.v1.statement")
    result_pb2 = pytest.importorskip("in_toto_attestation.predicates.test_result.v0.test_result_pb2")
    toy.run()
    toy.commit()
    content = statement(toy)
    parsed = json_format.Parse(content, statement_pb2.Statement())  # refuses unknown fields
    wrapper.Statement.copy_from_pb(parsed).validate()
    assert parsed.predicate_type == TEST_RESULT
    result = json_format.ParseDict(json.loads(content)["predicate"], result_pb2.TestResult())
    assert (result.result, list(result.passed_tests), list(result.warned_tests)) == ("WARNED", [ONE], [TWO, THREE])
    assert all(configured.name for configured in result.configuration)
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({"result": "PASSED", "passed": []}, result_pb2.TestResult())


def test_each_claim_is_in_one_list_and_the_result_follows(toy):
    assert predicate(toy)["result"] == "WARNED", "nothing was tried"
    toy.run()
    assert predicate(toy, ["FALSIFY-TOY-001"])["result"] == "PASSED"
    assert predicate(toy)["passedTests"] == [ONE]
    toy.run("FALSIFY-TOY-002")
    assert predicate(toy)["warnedTests"] == [TWO, THREE], "one of two cells"
    toy.run("FALSIFY-TOY-002", cell=Cell(DeviceClass.CUDA, "tiny-teacher"))
    assert predicate(toy)["passedTests"] == [ONE, TWO]
    toy.run(value=0.5)
    assert predicate(toy) == {
        **predicate(toy),
        "result": "FAILED",
        "failedTests": [ONE],
        "passedTests": [],
        "warnedTests": [TWO, THREE],  # its precondition does not survive
    }


@pytest.mark.parametrize("told", [{"level": Level.ALGORITHM}, {"value": 1.0}])
def test_what_is_not_live_or_not_fresh_is_a_warning(toy, told):
    toy.run(**told)
    if "value" in told:
        assert predicate(toy)["passedTests"] == [ONE]
        toy.write("src/engine/ops.py", "def cosine():\n    return 2.0\n")
    assert ONE in predicate(toy)["warnedTests"]


def test_a_vacuous_check_failed(toy):
    toy.run(caught=False)
    assert predicate(toy)["failedTests"] == [ONE]


def test_subjects_are_files_as_others_see_them(toy):
    toy.write("fixtures/tiny.bin", "weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    record = toy.run(bound=(FileDigest("fixtures/tiny.bin", sha256), FileDigest("models/far.bin", "e" * 64)))
    found = subjects(toy)
    (path,) = (toy.root / "evidence/FALSIFY-TOY-001").glob("*.json")
    assert list(found) == [
        "contracts/toy-v1.yaml",
        path.relative_to(toy.root).as_posix(),
        "falsifiers/toy_v1.py",
        "fixtures/tiny.bin",
        "models/far.bin",
        "src/engine/__init__.py",
        "src/engine/ops.py",
    ]
    assert found.pop("models/far.bin") == "e" * 64
    for name, digest in found.items():
        assert hashlib.sha256((toy.root / name).read_bytes()).hexdigest() == digest
    assert record.digest != "sha256:" + found[path.relative_to(toy.root).as_posix()], "a file ends with a newline"
    toy.write("src/engine/ops.py", "def cosine():\n    return 2.0\n")
    assert "src/engine/ops.py" not in subjects(toy), "nothing was shown of the changed file"


def test_the_same_tree_makes_the_same_bytes(toy):
    toy.run()
    assert statement(toy) == statement(toy)
    assert in_words(statement(toy)) == "WARNED: 1 passed, 2 warned, 0 failed; 5 subjects"


def test_it_holds_of_its_tree_and_a_model_may_be_elsewhere(toy):
    toy.run(bound=(FileDigest("models/far.bin", "e" * 64),))
    found = compared(toy, statement(toy))
    assert found == (found.findings, 5, ("models/far.bin",), 3, 3)
    assert found.findings == ()
    part = compared(toy, statement(toy, ["FALSIFY-TOY-001"]))
    assert (part.told, part.claims) == (1, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda toy: toy.write("src/engine/ops.py", "def cosine(): return 2\n"), "src/engine/ops.py: expected sha256"),
        (lambda toy: toy.write("contracts/toy-v1.yaml", toy.text + "# more\n"), "contracts/toy-v1.yaml: expected"),
        (lambda toy: next((toy.root / "evidence/FALSIFY-TOY-001").glob("*")).unlink(), "no such file"),
        (lambda toy: toy.run(value=0.5), f"{ONE}: in passedTests, here in failedTests"),
        (
            lambda toy: retract(toy.ledger.store, toy.ledger.summaries[0].digest, "wrong"),
            f"{ONE}: in passedTests, here in warnedTests",
        ),
    ],
)
def test_another_tree_is_told(toy, change, says):
    toy.run()
    content = statement(toy)
    change(toy)
    assert any(says in finding for finding in compared(toy, content).findings)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data["predicate"].update(result="PASSED"), "its tests make it WARNED, found 'PASSED'"),
        (
            lambda data: data["predicate"].update(warnedTests=[], passedTests=[ONE, TWO, THREE]),
            f"{TWO}: in passedTests",
        ),
        (lambda data: data["predicate"]["passedTests"].append("toy-v1::NEW"), "no such claim"),
        (
            lambda data: data["predicate"].update(result="PASSED", passedTests=[], warnedTests=[]),
            "its tests make it WARNED",
        ),
        (lambda data: data["subject"][0]["digest"].update(sha256="0" * 64), "expected sha256 000000000000"),
        (lambda data: data["subject"][0].update(name="../toy/contracts/toy-v1.yaml/../x"), "no such file"),
        (lambda data: data["subject"][0].update(name="/etc/passwd"), "no such file"),
    ],
)
def test_a_statement_that_was_edited_is_told(toy, change, says):
    toy.run()
    findings = compared(toy, changed(statement(toy), change)).findings
    assert any(says in finding for finding in findings), findings


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda data: data.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda data: data.update(subject=[]),
        lambda data: data.update(subject=[{"name": "x"}]),
        lambda data: data.update(subject=["x"]),
        lambda data: data.update(subject=[{"name": 1, "digest": {"sha256": 2}}]),
        lambda data: data.update(predicate=None),
        lambda data: data["predicate"].update(passedTests="all"),
    ],
)
def test_what_is_no_such_statement_is_refused(toy, change):
    toy.run()
    with pytest.raises(AttestationError, match="expected"):
        compared(toy, changed(statement(toy), change))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff"])
def test_what_is_no_json_is_refused(toy, content):
    with pytest.raises(AttestationError, match="expected"):
        compared(toy, content)


def test_a_record_is_a_statement_too(toy):
    record = toy.run()
    (path,) = (toy.root / "evidence/FALSIFY-TOY-001").glob("*.json")
    content = path.read_bytes()
    assert compared(toy, content).findings == ()
    with pytest.raises(AttestationError, match="canonical"):
        compared(toy, content.replace(b'"runId":', b'"runId" :'))
    retract(toy.ledger.store, record.digest, "wrong")
    assert "was retracted" in compared(toy, content).findings[0]
    path.unlink()
    assert "found none" in compared(toy, content).findings[0]
