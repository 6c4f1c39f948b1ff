"""What was judged once is not taken apart again, and nothing that differs passes for it."""

from __future__ import annotations

import json
import os

import pytest

from pv.document import cachedir
from pv.evidence import judged, statement
from pv.evidence.retract import retract
from pv.evidence.verify import verify

ONE, TWO = "FALSIFY-TOY-001", "FALSIFY-TOY-002"


@pytest.fixture
def apart(monkeypatch) -> list[bytes]:
    """The records that are taken apart."""
    taken: list[bytes] = []
    whole = judged.judged
    monkeypatch.setattr(judged, "judged", lambda content: taken.append(content) or whole(content))
    return taken


def path_of(toy, record):
    return toy.project.evidence / toy.ledger.by_digest[record.digest].path


def look(toy) -> list[str]:
    return [d.code for d in verify(toy.project, [toy.loaded], toy.ledger).diagnostics]


def test_what_was_judged_before_is_remembered_and_told_in_the_same_words(toy, apart):
    toy.run()
    broken = toy.run(TWO)
    retract(toy.ledger.store, broken.digest, "a slip")
    first = verify(toy.project, [toy.loaded], toy.ledger)
    assert len(apart) == first.records == 3
    assert verify(toy.project, [toy.loaded], toy.ledger) == first
    assert len(apart) == 3
    toy.run(TWO)
    verify(toy.project, [toy.loaded], toy.ledger)
    assert len(apart) == 4, "only the new one"
    assert verify(toy.project, [toy.loaded]).records == 4
    assert len(apart) == 8, "without a ledger all of them"


def test_an_edit_that_keeps_name_size_and_time_is_seen(toy, apart):
    path = path_of(toy, toy.run())
    assert look(toy) == []
    facts = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"value":1}', b'"value":2}', 1))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    assert "PV451" in look(toy)


def test_the_same_bytes_in_the_wrong_place_are_seen(toy):
    path = path_of(toy, toy.run())
    assert look(toy) == []
    path.rename(path.with_name(f"{path.name[:17]}{'0' * 12}.json"))
    assert "PV451" in look(toy)


def test_a_log_that_is_changed_later_is_seen(toy):
    record = toy.ledger.store.add(toy.record(TWO), b"the whole log")
    assert "PV458" not in look(toy)
    (toy.project.evidence / record.log.stored).unlink()
    assert "PV458" in look(toy)


def test_another_pv_judges_again(toy, apart, monkeypatch):
    toy.run()
    look(toy)
    monkeypatch.setattr(judged, "identity_of", lambda *whatever: "another pv")
    look(toy)
    assert len(apart) == 2


def test_an_untouched_file_with_another_time_is_judged_again(toy, apart):
    path = path_of(toy, toy.run())
    look(toy)
    os.utime(path, ns=(1, 1))
    assert look(toy) == []
    assert len(apart) == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"[", ONE.replace("1", "2").encode()])
def test_a_damaged_memory_is_none(toy, apart, damage):
    toy.run()
    look(toy)
    file = toy.project.cache / judged.FILE
    content = file.read_bytes()
    file.write_bytes(content.replace(ONE.encode(), damage) if b"-" in damage else damage)
    assert file.read_bytes() != content
    assert look(toy) == []
    assert len(apart) == 2


def test_contradictions_are_remembered_as_what_they_are(toy, apart):
    path = path_of(toy, toy.run())
    data = json.loads(path.read_bytes())
    data["predicate"]["verdict"] = "FALSIFIED"
    content = judged.statement.canonical.dumps(data)
    path.unlink()
    path.with_name(f"{path.name[:17]}{statement.digest(content)[7:19]}.json").write_bytes(content + b"\n")
    assert "PV452" in look(toy)
    assert "PV452" in look(toy)
    assert len(apart) == 1


def test_what_is_kept_reads_back_as_it_was(toy):
    record = toy.ledger.store.add(toy.record(TWO), b"a log")
    path = path_of(toy, record)
    memory = judged.Judgements(toy.project.evidence, toy.project.cache)
    first = memory.of(path)
    memory.save()
    kept = cachedir.recall(toy.project.cache / judged.FILE, memory._identity)
    assert list(kept) == [first.name]
    assert judged.Judgements(toy.project.evidence, toy.project.cache).of(path) == first
