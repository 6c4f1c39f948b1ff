"""Several files are changed, or none: killed at every moment, met by another writer, changed behind our back."""

from __future__ import annotations

import os

import pytest

from pv.document import files
from pv.document.files import Changed, NotWritten
from pv.evidence import carry_out
from pv.evidence.carry_out import JOURNAL, Step, digest_of, finish


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "a").write_bytes(b"old a\n")
    (tmp_path / "gone").write_bytes(b"moves\n")
    return tmp_path


def steps(root):
    return [
        Step(root / "a", digest_of(root / "a"), b"new a\n"),
        Step(root / "gone", digest_of(root / "gone"), None),
        Step(root / "there" / "it is", "", b"moves\n"),
    ]


def state(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


BEFORE = {"a": b"old a\n", "gone": b"moves\n"}
AFTER = {"a": b"new a\n", "there/it is": b"moves\n"}


def test_all_is_written_and_nothing_is_left(tree):
    carry_out.carry_out(tree, "a move", steps(tree))
    assert state(tree) == AFTER
    assert finish(tree) == ""


def killed_at(tree, operation: int) -> int:
    """Carry out in a child that dies before its n-th operation on files; how it ended."""
    pid = os.fork()
    if pid == 0:
        count = [0]

        def dying(real):
            def call(*arguments, **keywords):
                count[0] += 1
                if count[0] == operation:
                    os._exit(9)
                return real(*arguments, **keywords)

            return call

        for name in ("replace", "unlink", "fsync", "mkdir"):
            setattr(os, name, dying(getattr(os, name)))
        carry_out.carry_out(tree, "a move", steps(tree))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_killed_before_every_operation_it_is_whole_after_the_next_call(tmp_path):
    halves = 0
    for operation in range(1, 100):
        tree = tmp_path / str(operation)
        tree.mkdir()
        for name, content in BEFORE.items():
            (tree / name).write_bytes(content)
        code = killed_at(tree, operation)
        journal = (tree / JOURNAL).exists()
        seen = {name: content for name, content in state(tree).items() if not name.startswith(".")}
        if not journal:
            assert seen in (BEFORE, AFTER)
        halves += seen not in (BEFORE, AFTER)
        assert b"moves\n" in seen.values(), "at no moment does it stand nowhere"
        assert finish(tree) == ("a move" if journal else "")
        if journal:
            assert {n: c for n, c in state(tree).items() if not n.endswith(".pv-tmp")} == AFTER
        if code == 0:
            break
    assert operation > 10
    assert halves > 2, "no kill met a half-done move"


def test_a_file_that_changed_refuses_the_whole(tree):
    planned = steps(tree)
    (tree / "gone").write_bytes(b"edited\n")
    with pytest.raises(Changed, match="gone"):
        carry_out.carry_out(tree, "a move", planned)
    assert state(tree) == {**BEFORE, "gone": b"edited\n"}


def test_a_file_that_appeared_refuses_the_whole(tree):
    planned = steps(tree)
    (tree / "there").mkdir()
    (tree / "there" / "it is").write_bytes(b"mine\n")
    with pytest.raises(Changed):
        carry_out.carry_out(tree, "a move", planned)
    assert state(tree) == {**BEFORE, "there/it is": b"mine\n"}


def test_a_writer_at_work_refuses_the_whole(tree, monkeypatch):
    monkeypatch.setattr(carry_out, "LOCK_SECONDS", 0.05)
    beat, stop = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        with files.locked(tree / "a"):
            os.write(beat[1], b".")
            os.read(stop[0], 1)
        os._exit(0)
    os.read(beat[0], 1)
    try:
        with pytest.raises(NotWritten, match="held its lock"):
            carry_out.carry_out(tree, "a move", steps(tree))
    finally:
        os.write(stop[1], b".")
        os.waitpid(pid, 0)
    assert state(tree) == BEFORE


def test_an_interrupted_move_whose_files_were_edited_is_left_to_people(tree):
    (tree / JOURNAL).write_bytes(carry_out._journal(tree, "a move", steps(tree)))
    (tree / "a").write_bytes(b"third\n")
    with pytest.raises(Changed, match="since `a move` was interrupted"):
        finish(tree)
    assert state(tree)["a"] == b"third\n"
    with pytest.raises(NotWritten, match="another rename was interrupted"):
        carry_out.carry_out(tree, "another", [])


def test_a_journal_that_is_none(tree):
    (tree / JOURNAL).write_text("{")
    with pytest.raises(NotWritten, match="no journal"):
        finish(tree)
