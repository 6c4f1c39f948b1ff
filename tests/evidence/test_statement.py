"""Record <-> bytes: nothing is lost, the form is frozen, and what is no record is refused with a reason."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.contract.vocabulary import Verdict
from pv.evidence import schema
from pv.evidence.record import ControlRecord, Environment, FileDigest, MeasurementRecord, Record, ThresholdRecord
from pv.evidence.statement import StatementError, digest, from_bytes, from_known_bytes, number, plain, to_bytes

VECTOR = Path(__file__).parent / "vectors" / "record.json"
VECTOR_DIGEST = "sha256:237e60b82cf2b5d798d821a8377e0d8f2693e82f4a5fcf3dc590f64fa0cc4a21"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
figures = st.one_of(st.floats(), st.integers(-(2**53) + 1, 2**53 - 1)).map(number)
thresholds = st.builds(
    ThresholdRecord,
    op=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    value=figures,
    unit=texts,
    source=texts,
    repeat=st.none() | figures,
)
measurements = st.builds(
    MeasurementRecord,
    name=texts.filter(bool),
    value=figures,
    unit=texts,
    n=st.integers(1, 2**40),
    threshold=st.none() | thresholds,
    margin=st.none() | figures,
    passed=st.booleans(),
)
controls = st.builds(ControlRecord, texts, texts, st.booleans(), texts, st.tuples(measurements))
environments = st.builds(
    Environment, texts, texts, texts, texts, st.integers(0, 512), flags=st.dictionaries(texts, texts)
)


def edited(content: bytes, change) -> bytes:
    data = json.loads(content)
    change(data)
    return json.dumps(data).encode()


def test_a_record_survives_the_trip(make_record):
    record = make_record()
    content = to_bytes(record)
    assert from_bytes(content) == replace(record, digest=digest(content))
    assert from_bytes(content + b"\n").digest == digest(content)


@given(
    measured=st.tuples(measurements, measurements),
    planted=st.tuples(controls),
    environment=environments,
    seed=st.none() | st.integers(-(2**70), 2**70),
    notes=st.tuples(texts, texts),
    duration=st.floats(0, 1e9),
)
def test_any_record_survives_the_trip(measured, planted, environment, seed, notes, duration):
    record = replace(
        _example(),
        measurements=measured,
        controls=planted,
        environment=environment,
        seed=seed,
        notes=notes,
        duration_seconds=duration,
    )
    content = to_bytes(record)
    assert from_bytes(content) == replace(record, digest=digest(content))
    assert repr(from_known_bytes(content, digest(content))) == repr(from_bytes(content))  # 1 is not 1.0


def test_the_form_is_frozen(make_record):
    """A record written by the first version must keep its bytes and its digest for ever."""
    frozen = VECTOR.read_bytes().removesuffix(b"\n")
    assert to_bytes(make_record()) == frozen
    assert digest(frozen) == VECTOR_DIGEST == "sha256:" + hashlib.sha256(frozen).hexdigest()


def test_the_statement_is_an_in_toto_statement(make_record):
    data = json.loads(to_bytes(make_record()))
    assert data["_type"] == "https://in-toto.io/Statement/v1"
    assert data["predicateType"] == "tag:provable-contracts,2026:falsification/v1"
    assert {"name": "claim:FALSIFY-EXAMPLE-001", "digest": {"sha256": "a" * 64}} in data["subject"]
    assert {"name": "git", "digest": {"gitCommit": "1" * 40}} in data["subject"]
    assert data["predicate"]["schemaVersion"] == "1.0.0"


def test_numbers_that_are_equal_are_written_alike(make_record):
    one, same = (make_record(duration_seconds=value) for value in (1, 1.0))
    assert to_bytes(one) == to_bytes(same)


@pytest.mark.parametrize(
    ("value", "word"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (2.5, 2.5)]
)
def test_figures_that_json_lacks_are_words(value, word):
    assert number(value) == word
    assert plain(number(value)) == pytest.approx(value, nan_ok=True)


def test_booleans_are_zero_or_one():
    assert (number(True), number(False)) == (1, 0)
    assert type(number(True)) is int


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(_type="https://in-toto.io/Statement/v0.1"), "expected _type"),
        (lambda d: d.update(predicateType="https://slsa.dev/provenance/v1"), "expected predicateType"),
        (lambda d: d["predicate"].update(schemaVersion="2.0.0"), "a later pv may have written it"),
        (lambda d: d["predicate"].update(schemaVersion=1), "expected schemaVersion 1.x, found 1"),
        (lambda d: d["predicate"].pop("verdict"), "predicate.verdict: Field required"),
        (lambda d: d["predicate"].update(verdict="PASSED"), "predicate.verdict: Input should be 'SURVIVED'"),
        (lambda d: d["predicate"].update(startedOn="2026-11-20 10:00"), "predicate.startedOn"),
        (lambda d: d["predicate"].update(startedOn="2026-13-20T10:00:00Z"), "expected an existing moment"),
        (lambda d: d["predicate"]["claim"].update(digest={"sha256": "abc"}), "predicate.claim.digest.sha256"),
        (lambda d: d["predicate"]["measurements"][0].update(passed="yes"), "predicate.measurements.0.passed"),
        (lambda d: d["predicate"]["measurements"][0].update(n=0), "predicate.measurements.0.n"),
        (lambda d: d["predicate"]["cell"].update(device="tpu"), "predicate.cell.device"),
        (lambda d: d["predicate"].update(surprise=1), "bytes that change when written again"),
        (lambda d: d["subject"][0].update(name="claim:ANOTHER"), "bytes that change when written again"),
        (lambda d: None, "expected canonical JSON"),  # json.dumps puts blanks where RFC 8785 has none
    ],
)
def test_what_is_no_record_is_refused(make_record, change, sentence):
    with pytest.raises(StatementError, match="(?s)" + sentence.replace("(", r"\(")):
        from_bytes(edited(to_bytes(make_record()), change))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "expected JSON in UTF-8"),
        (b"\xff\xfe", "expected JSON in UTF-8"),
        (b"[" * 100_000, "expected JSON in UTF-8"),
        (b"[]", "expected a JSON object, found list"),
        (b'{"a": NaN}', "expected a JSON number, found NaN"),
        (b'{"a": 1, "a": 2}', "key 'a' stands twice"),
        (b" " * (8 * 1024 * 1024 + 1), "at most 8388608 bytes"),
    ],
)
def test_bytes_that_are_no_statement_are_refused(content, sentence):
    with pytest.raises(StatementError, match=sentence):
        from_bytes(content)


def test_a_field_of_a_later_minor_version_is_left_alone(make_record):
    def later(data):
        data["predicate"].update(schemaVersion="1.7.0", surprise=1)

    assert from_bytes(edited(to_bytes(make_record()), later)).verdict is Verdict.SURVIVED


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"claim_digest": "abc"}, "claim.digest.sha256"),
        ({"closure": (FileDigest("a.py", "sha256:" + "a" * 64),)}, "check.closure.0.digest.sha256"),
        ({"git_commit": "abc123"}, "commit"),
        ({"observed": "maybe"}, "observed"),
        ({"started_at": "2026-11-20T10:00:00+01:00"}, "startedOn"),
        ({"notes": ("\ud800",)}, "values that JSON can carry|notes"),
        ({"duration_seconds": math.inf}, "values that JSON can carry"),
    ],
)
def test_what_cannot_be_carried_is_not_written(make_record, change, sentence):
    with pytest.raises(StatementError, match=sentence):
        to_bytes(make_record(**change))


def test_the_json_schema_accepts_a_record_and_refuses_a_broken_one(make_record):
    import jsonschema

    validator = jsonschema.Draft7Validator(schema.json_schema())
    data = json.loads(to_bytes(make_record()))
    validator.validate(data)
    data["predicate"]["measurements"][0]["value"] = "a lot"
    assert not validator.is_valid(data)


def test_the_schema_file_is_current():
    path = Path(__file__).parents[2] / "schemas" / "evidence.schema.json"
    assert json.loads(path.read_text()) == schema.json_schema(), "run `pv schema --write`"


def _example() -> Record:
    return from_bytes(VECTOR.read_bytes())


def test_a_record_under_names_that_only_python_gives_its_fields_is_none(make_record):
    def snake(data):
        data["predicate"]["run_id"] = data["predicate"].pop("runId")

    with pytest.raises(StatementError, match="runId"):
        from_bytes(edited(to_bytes(make_record()), snake), canonical=False)


def test_bytes_that_are_not_the_known_ones_are_no_known_record(make_record):
    content = to_bytes(make_record())
    assert from_known_bytes(content + b"\n", digest(content)) == from_bytes(content)
    assert from_known_bytes(content.replace(b"SURVIVED", b"FALSIFIED"), digest(content)) is None
    assert from_known_bytes(b"", digest(content)) is None
