"""Files replaced whole or not at all: under kills, under failures of the system, and under other writers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pv.document import files
from pv.document.files import Changed, NotWritten, compare_and_swap, locked, replace_atomically

OLD, NEW = b"old\n" * 50_000, b"new bytes\n" * 90_000


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with OLD in it."""
    path = tmp_path / "contract.yaml"
    path.write_bytes(OLD)
    return path


def in_child(work: Callable[[], object]) -> int:
    """Start `work` in a forked process, which ends with 0 if it returns. The caller waits or kills."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# --- what a replacement keeps ---


def test_the_content_is_replaced_and_nothing_is_left_beside_it(path: Path) -> None:
    replace_atomically(path, NEW)
    assert path.read_bytes() == NEW
    assert names(path.parent) == ["contract.yaml"]


def test_a_new_file_has_the_mode_that_open_would_give_it(tmp_path: Path) -> None:
    replace_atomically(tmp_path / "a.json", b"x")
    (tmp_path / "b.json").write_bytes(b"x")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b.json").stat().st_mode


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o755, 0o664])
def test_the_mode_is_kept(path: Path, mode: int) -> None:
    path.chmod(mode)
    replace_atomically(path, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away, so only root can try it")
def test_the_owner_is_kept(path: Path) -> None:
    os.chown(path, 12345, 54321)
    replace_atomically(path, NEW)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_a_symbolic_link_still_points_to_the_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.yaml"
    link.symlink_to("../contract.yaml")
    replace_atomically(link, NEW)
    assert link.is_symlink()
    assert path.read_bytes() == NEW
    assert names(tmp_path / "elsewhere") == ["link.yaml"]


def test_the_file_and_its_directory_are_synced_before_and_after_the_replacement(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, swap = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append(
            "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else f"file of {os.fstat(descriptor).st_size}"
        )
        sync(descriptor)

    def replace(source: str, target: Path) -> None:
        done.append("replace")
        swap(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    replace_atomically(path, NEW)
    assert done == [f"file of {len(NEW)}", "replace", "directory"]


# --- failures of the system ---


@pytest.mark.parametrize("name", ["fsync", "fchmod", "replace"])
def test_a_failing_call_leaves_the_old_file_and_no_other(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(NotWritten, match="was not written: No space left on device") as caught:
        replace_atomically(path, NEW)
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["contract.yaml"]
    assert str(path.parent) in caught.value.hint


def test_a_full_disk_leaves_the_old_file(path: Path) -> None:
    """The limit on file size makes write() itself fail half-way, as a full disk does."""

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with contextlib.suppress(NotWritten):
            replace_atomically(path, NEW)
            os._exit(3)

    assert wait(in_child(work)) == 0
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["contract.yaml"]


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can look into."""
    directory = Path(tempfile.mkdtemp(prefix="pv-test-"))
    directory.chmod(0o755)
    yield directory
    directory.chmod(0o755)
    shutil.rmtree(directory)


def as_somebody_else(work: Callable[[], None]) -> None:
    """Run `work` in a child that is not root, since root may write anywhere."""

    def demoted() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        work()

    assert wait(in_child(demoted)) == 0


def test_a_directory_that_we_may_not_write_to_is_a_clear_error(public: Path) -> None:
    path = public / "contract.yaml"
    path.write_bytes(OLD)
    path.chmod(0o666)
    public.chmod(0o555)

    def work() -> None:
        with pytest.raises(NotWritten, match=r"Permission denied \(check space and permissions of"):
            replace_atomically(path, NEW)

    as_somebody_else(work)
    assert path.read_bytes() == OLD


def test_a_read_only_file_is_not_replaced(public: Path) -> None:
    path = public / "contract.yaml"
    path.write_bytes(OLD)
    path.chmod(0o444)
    public.chmod(0o777)

    def work() -> None:
        with pytest.raises(NotWritten, match="the file is read-only"):
            replace_atomically(path, NEW)

    as_somebody_else(work)
    assert path.read_bytes() == OLD


def test_a_directory_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(NotWritten, match="No such file or directory"):
        replace_atomically(tmp_path / "none" / "a.yaml", NEW)
    with pytest.raises(NotWritten, match=r"Is a directory"):
        replace_atomically(tmp_path, NEW)


# --- kills ---


def killed_writer(path: Path, moment: float) -> None:
    """A child swaps OLD and NEW for ever and is killed after `moment` seconds."""

    def work() -> None:
        while True:
            content = path.read_bytes()
            compare_and_swap(path, digest(content), NEW if content == OLD else OLD)

    child = in_child(work)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL


def kills_lose_nothing(path: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    seen = set()
    for _ in range(kills):
        killed_writer(path, rng.uniform(0.001, 0.05))
        content = path.read_bytes()
        assert content in (OLD, NEW)
        seen.add(content)
    assert seen == {OLD, NEW}, "the writers were killed before they wrote anything"
    # The lock of a dead holder is free, and what it left behind goes with the next write.
    compare_and_swap(path, digest(path.read_bytes()), b"last")
    assert names(path.parent) == ["contract.yaml"]


def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(path: Path) -> None:
    kills_lose_nothing(path, 20, seed=1)


@pytest.mark.slow
def test_250_kills_lose_nothing(path: Path) -> None:
    kills_lose_nothing(path, 250, seed=2)


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    def work() -> None:
        for number in range(30):
            replace_atomically(path, OLD if number % 2 else NEW)

    child = in_child(work)
    reads = 0
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        assert path.read_bytes() in (OLD, NEW)
        reads += 1
    assert reads > 0


def test_the_leavings_of_the_dead_are_swept_and_those_of_the_living_are_not(path: Path) -> None:
    dead = in_child(lambda: None)
    wait(dead)
    gone = path.parent / f".contract.yaml.{dead}.abc123.pv-tmp"
    kept = [
        path.parent / f".contract.yaml.{os.getppid()}.abc123.pv-tmp",
        path.parent / f".other.yaml.{dead}.abc123.pv-tmp",
        path.parent / "contract.yaml.pv-tmp",
    ]
    for each in (gone, *kept):
        each.write_bytes(b"half")
    compare_and_swap(path, digest(OLD), NEW)
    assert not gone.exists()
    assert all(each.exists() for each in kept)


# --- other writers ---


def test_a_file_that_changed_is_not_overwritten(path: Path) -> None:
    path.write_bytes(b"somebody else's")
    with pytest.raises(Changed, match="it changed since it was read"):
        compare_and_swap(path, digest(OLD), NEW)
    assert path.read_bytes() == b"somebody else's"
    path.unlink()
    with pytest.raises(Changed, match="it was removed since it was read"):
        compare_and_swap(path, digest(OLD), NEW)
    assert not path.exists()


def test_eight_processes_lose_no_update(path: Path) -> None:
    path.write_bytes(b"")

    def work() -> None:
        added = 0
        while added < 10:
            content = path.read_bytes()
            with contextlib.suppress(Changed):
                compare_and_swap(path, digest(content), content + b"x")
                added += 1

    children = [in_child(work) for _ in range(8)]
    assert [wait(child) for child in children] == [0] * 8
    assert path.read_bytes() == b"x" * 80
    assert names(path.parent) == ["contract.yaml"]


def test_a_lock_is_exclusive_whatever_the_name_and_the_environment(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.yaml").symlink_to(path)
    monkeypatch.chdir(tmp_path)

    def work() -> None:
        os.environ["TMPDIR"] = str(tmp_path)
        tempfile.tempdir = None
        with (
            pytest.raises(NotWritten, match=r"has held its lock for 0\.2 seconds"),
            locked(Path("link.yaml"), timeout=0.2),
        ):
            pass

    with locked(path):
        assert wait(in_child(work)) == 0
    with locked(path):
        assert names(tmp_path) == ["contract.yaml", "link.yaml"]


def test_a_lock_can_be_taken_again_by_its_holder_and_is_free_afterwards(path: Path) -> None:
    with locked(path), locked(path, timeout=0.1):
        compare_and_swap(path, digest(OLD), NEW)
    with pytest.raises(RuntimeError, match="planned"), locked(path):
        raise RuntimeError("planned")

    def work() -> None:
        with locked(path, timeout=0.2):
            pass

    assert wait(in_child(work)) == 0


def test_a_lock_directory_of_somebody_else_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = os.getuid()
    (tmp_path / "locks").mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: ours + 1)
    monkeypatch.setattr(files, "_lock_directory", lambda: files._private(tmp_path / "locks"))
    with pytest.raises(NotWritten, match="only this user can write to"), locked(path):
        pass


def test_a_lock_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    assert files._private(tmp_path / "locks") == tmp_path / "locks"
    (tmp_path / "locks").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("locks", "link"):
        with pytest.raises(PermissionError, match="only this user can write to"):
            files._private(tmp_path / name)


def test_the_lock_directory_is_ours_alone() -> None:
    facts = files._lock_directory().stat()
    assert facts.st_uid == os.getuid()
    assert not facts.st_mode & 0o077
