"""Records on disk: whole or not there, found again, never edited, and quick to read by the thousand."""

from __future__ import annotations

import gzip
import os
import time
from dataclasses import replace

import pytest

from pv.evidence import statement, store
from pv.evidence.statement import StatementError
from pv.evidence.store import Store, decompress, folder_name, with_log


@pytest.fixture
def evidence(tmp_path):
    return Store(tmp_path / "evidence", tmp_path / "cache")


def test_a_record_is_found_by_its_digest_and_by_its_claim(evidence, make_record):
    record = evidence.add(make_record(log=None))
    assert evidence.get(record.digest) == record
    assert evidence.get(record.digest[7:19]) == record
    assert evidence.of(record.claim_id) == [record] == evidence.all()
    assert evidence.get("sha256:" + "0" * 64) is None
    assert evidence.get(record.digest[:10]) is None, "a few digits are not a name"


def test_the_file_carries_time_and_digest_and_ends_in_a_newline(evidence, make_record):
    record = evidence.add(make_record(log=None))
    (path,) = evidence.record_files()
    assert path.name == f"20261120T100000Z-{record.digest[7:19]}.json"
    assert path.parent.name == record.claim_id
    assert path.read_bytes() == statement.to_bytes(record) + b"\n"


def test_two_records_of_one_second_stand_side_by_side(evidence, make_record):
    records = [evidence.add(make_record(log=None, notes=(str(i),))) for i in range(20)]
    assert len({r.digest for r in records}) == 20
    assert len(evidence.all()) == 20


def test_the_same_record_again_changes_nothing(evidence, make_record):
    evidence.add(make_record(log=None))
    (path,) = evidence.record_files()
    before = path.stat()
    evidence.add(make_record(log=None))
    assert [path] == list(evidence.record_files())
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


def test_a_taken_name_is_never_overwritten(evidence, make_record):
    evidence.add(make_record(log=None))
    (path,) = evidence.record_files()
    path.write_bytes(b"something else\n")
    with pytest.raises(FileExistsError, match="expected no file or an equal one"):
        evidence.add(make_record(log=None))
    assert path.read_bytes() == b"something else\n"


def test_a_failed_write_leaves_nothing(evidence, make_record, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        evidence.add(make_record(log=None))
    assert [p for p in evidence.root.rglob("*") if p.is_file()] == []


def test_without_hard_links_records_are_still_written_once(evidence, make_record, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    record = evidence.add(make_record(log=None))
    assert evidence.add(make_record(log=None)) == record
    assert evidence.all() == [record]


def test_a_small_log_stands_beside_the_record(evidence, make_record):
    record = evidence.add(make_record(), log=b"line one\nline two\n")
    assert record.log.stored == f"logs/{record.log.sha256}.log.gz"
    assert evidence.log_text(record) == "line one\nline two\n"
    assert (evidence.root / record.log.stored).read_bytes()[4:8] == b"\0\0\0\0", "no time in it: same log, same bytes"


def test_of_a_large_log_only_the_digest_is_kept(evidence, make_record):
    noise = os.urandom(2 * store.KEPT_LOG)
    record = evidence.add(make_record(), log=noise)
    assert (record.log.stored, record.log.size) == ("", len(noise))
    assert evidence.log_text(record) is None
    assert list(evidence.log_files()) == []


def test_a_changed_log_is_noticed(evidence, make_record):
    record = evidence.add(make_record(), log=b"the truth")
    (evidence.root / record.log.stored).write_bytes(gzip.compress(b"a lie....", mtime=0))
    with pytest.raises(StatementError, match="found other text"):
        evidence.log_text(record)


def test_a_log_elsewhere_is_not_read(evidence, make_record):
    record = evidence.add(make_record(), log=b"x")
    astray = replace(record, log=replace(record.log, stored="logs/../../secret.gz"))
    with pytest.raises(StatementError, match="named by its digest"):
        evidence.log_text(astray)


def test_a_log_that_swells_is_refused():
    with pytest.raises(StatementError, match="at most 1000 bytes"):
        decompress(gzip.compress(b"\0" * 10_000_000), 1000)


@pytest.mark.parametrize(
    ("claim_id", "folder"),
    [
        ("FALSIFY-CPU-GPU-001", "FALSIFY-CPU-GPU-001"),
        ("KH_1.2", "KH_1.2"),
        ("../../etc", "%2E./../etc".replace("/", "%2F")),
        ("..", "%2E."),
        ("logs", "%6Cogs"),
        ("a/b c", "a%2Fb%20c"),
        ("É", "%C3%89"),
    ],
)
def test_an_id_never_leaves_the_folder(claim_id, folder):
    assert folder_name(claim_id) == folder


def test_what_is_no_record_is_a_problem_not_a_crash(evidence, make_record):
    good = evidence.add(make_record(log=None))
    folder = evidence.root / good.claim_id
    (folder / "notes.txt").write_text("hello")
    (path,) = [p for p in evidence.record_files() if p.suffix == ".json"]
    (folder / "20261120T100000Z-000000000000.json").write_bytes(path.read_bytes())
    assert evidence.all() == [good]
    said = {p.path.name: p.message for p in evidence.problems()}
    assert said["notes.txt"].startswith("expected JSON")
    assert f"the digest {good.digest}" in said["20261120T100000Z-000000000000.json"]


def test_the_index_sees_new_changed_and_removed_files(evidence, make_record):
    first, second = (evidence.add(make_record(log=None, run_id=str(i))) for i in range(2))
    assert len(evidence.summaries()) == 2
    third = evidence.add(make_record(log=None, run_id="2"))
    paths = {s.digest: evidence.root / s.path for s in evidence.summaries()}
    assert set(paths) == {first.digest, second.digest, third.digest}
    paths[first.digest].unlink()
    paths[second.digest].write_bytes(b"broken")
    assert [s.digest for s in evidence.summaries()] == [third.digest]
    assert len(evidence.problems()) == 1


def test_the_index_may_be_lost_or_damaged(evidence, make_record):
    record = evidence.add(make_record(log=None))
    assert evidence.summaries() == Store(evidence.root).summaries()
    file = evidence.cache / "evidence-index.json"
    whole = file.read_bytes()
    for damage in (b"{", whole.replace(b"SURVIVED", b"FALSIFIED"), whole.replace(b"[", b"{"), whole[:-9]):
        assert damage != whole
        file.write_bytes(damage)
        assert [(s.digest, s.verdict) for s in evidence.summaries()] == [(record.digest, record.verdict)]


def test_the_index_tells_what_the_record_says(evidence, make_record):
    record = evidence.add(make_record(log=None))
    first, second = evidence.summaries(), evidence.summaries()  # the second reading comes from the cache
    assert first == second
    assert type(second[0].verdict) is type(record.verdict)
    (summary,) = second
    assert summary.cell == record.cell
    assert summary.level is record.level
    assert summary.figures["cosine"] == (0.9999998, 1e-06)
    assert summary.thresholds == {
        "bits_equal": "== 1 1",
        "cosine": ">= 0.99 1",
        "ratio": "within [0.5, 2] 1",
    }
    assert summary.exhausted == 280
    assert summary.oracle == "hf"
    assert summary.controls_caught
    assert evidence.closures()[record.closure_digest] == {f.path: f.sha256 for f in record.closure}


def test_a_missing_folder_is_an_empty_store(tmp_path):
    assert Store(tmp_path / "nowhere").all() == []
    assert list(Store(tmp_path / "nowhere").leftovers()) == []


def test_leftovers_of_a_killed_write_are_no_records(evidence, make_record):
    record = evidence.add(make_record(log=None))
    leftover = evidence.root / record.claim_id / ".writing-77-x.json"
    leftover.write_bytes(b"half")
    assert evidence.problems() == ()
    assert evidence.all() == [record]
    assert list(evidence.leftovers()) == [leftover]


@pytest.mark.slow
def test_ten_thousand_records_load_within_a_second(evidence, make_record):
    for i in range(10_000):
        content = statement.to_bytes(make_record(log=None, claim_id=f"FALSIFY-LOAD-{i % 100:03d}", run_id=str(i)))
        path = evidence.root / store.relative_name(statement.from_bytes(content, canonical=False))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + b"\n")
    assert len(evidence.summaries()) == 10_000
    started = time.process_time()
    assert len(evidence.summaries()) == 10_000
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    "log", [None, b"", b"line one\n", os.urandom(2 * store.KEPT_LOG)], ids=["none", "empty", "small", "large"]
)
def test_a_record_that_is_not_written_is_what_would_be_written(evidence, make_record, log):
    told = with_log(make_record(log=None), log)
    assert replace(told, digest=statement.digest(statement.to_bytes(told))) == evidence.add(make_record(log=None), log)
