"""New content of a file -> the file, replaced whole or not at all, by one writer at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_SECONDS = 60.0

# Not `sys.platform`: the type checker would take the code for Windows as dead.
WINDOWS = os.name == "nt"

_TEMPORARY = ".pv-tmp"


class NotWritten(Exception):  # noqa: N818 - it says what is the case
    """The file could not be replaced; what was there before is intact. `reason` and `hint` are for people."""

    def __init__(self, path: Path, reason: str, hint: str = "") -> None:
        super().__init__(f"{path} was not written: {reason}" + (f" ({hint})" if hint else ""))
        self.path, self.reason, self.hint = path, reason, hint


class Changed(NotWritten):
    """Somebody else changed the file since it was read."""


def replace_atomically(path: Path, content: bytes) -> None:
    """Make `content` the content of `path`; a reader, or a crash at any moment, sees the old bytes or the new ones.

    The file keeps its mode and, where the system lets us, its owner; a symbolic link keeps pointing where it did. On
    return both the file and its directory are on disk. Raises NotWritten.
    """
    target = Path(os.path.realpath(path))
    try:
        old = _status(target)
        if old is not None and not os.access(target, os.W_OK):
            raise NotWritten(path, "the file is read-only", "give yourself write permission")
        descriptor, name = _temporary(target)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                _keep_owner_and_mode(file.fileno(), old)
                os.fsync(file.fileno())
            _replace(name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        _sync_directory(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NotWritten(path, reason, f"check space and permissions of {target.parent}") from error


def compare_and_swap(path: Path, expected_sha256: str, content: bytes) -> None:
    """Replace the file if its bytes still have the digest `expected_sha256` (hexadecimal).

    Takes the file's lock. Raises Changed where the digest differs or the file is gone, NotWritten where it cannot be
    replaced.
    """
    with locked(path):
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:
            raise Changed(path, "it was removed since it was read") from None
        except OSError as error:
            raise NotWritten(path, f"it cannot be read again: {error.strerror}") from error
        if found != expected_sha256:
            raise Changed(path, "it changed since it was read", "run the command again")
        _sweep(Path(os.path.realpath(path)))
        replace_atomically(path, content)


@contextlib.contextmanager
def locked(path: Path, *, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Be the only process of this machine and user that holds the lock of `path`, under whatever name it is reached.

    The system frees the lock when the holder dies. A thread may take a lock again that it holds. The lock's own file
    lies in a directory for temporary files, never beside `path`. Raises NotWritten after `timeout` seconds.
    """
    target = os.path.realpath(path)
    name = hashlib.sha256(os.fsencode(os.path.normcase(target))).hexdigest()
    try:
        lock = FileLock(_lock_directory() / f"{name}.lock", is_singleton=True)
        lock.acquire(timeout=timeout)
    except Timeout:
        raise NotWritten(path, f"another process has held its lock for {timeout:g} seconds", "try again") from None
    except OSError as error:
        raise NotWritten(path, f"its lock cannot be taken: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _lock_directory() -> Path:
    """A directory of ours alone, the same one whatever TMPDIR says: two shells must find the same lock."""
    if WINDOWS:
        directory = Path(tempfile.gettempdir()) / "pv-locks"
        directory.mkdir(exist_ok=True)
        return directory
    fixed = "/tmp"  # noqa: S108 - the directory below is made for this user alone, and checked
    base = fixed if os.access(fixed, os.W_OK | os.X_OK) else tempfile.gettempdir()
    return _private(Path(base) / f"pv-locks-{os.getuid()}")


def _private(directory: Path) -> Path:
    """The directory, made if it is not there; somebody else's could hold links to our files where we look for locks."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    facts = directory.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise PermissionError(1, f"{directory} is not a directory that only this user can write to")
    return directory


def _status(target: Path) -> os.stat_result | None:
    try:
        return target.stat()
    except FileNotFoundError:
        return None


def _temporary(target: Path) -> tuple[int, str]:
    """A new file beside the target, on the same file system, whose name no glob for YAML or JSON finds."""
    return tempfile.mkstemp(prefix=f".{target.name}.{os.getpid()}.", suffix=_TEMPORARY, dir=target.parent)


def _keep_owner_and_mode(descriptor: int, old: os.stat_result | None) -> None:
    if WINDOWS:
        return
    if old is None:
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(descriptor, 0o666 & ~umask)
        return
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(PermissionError):  # only root may give files away
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))  # after the owner, since that clears set-id bits


def _replace(name: str, target: Path) -> None:
    if not WINDOWS:
        os.replace(name, target)
        return
    for attempt in range(20):  # there, a reader that has the file open makes the replacement fail for a moment
        try:
            os.replace(name, target)
            return
        except PermissionError:
            if attempt == 19:
                raise
            time.sleep(0.05)


def _sync_directory(directory: Path) -> None:
    if WINDOWS:
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(target: Path) -> None:
    """Remove what writers of this file that were killed left behind. Called under the file's lock."""
    left = re.compile(rf"\.{re.escape(target.name)}\.(?P<pid>[0-9]+)\.\w+{re.escape(_TEMPORARY)}\Z")
    for name in os.listdir(target.parent):
        match = left.match(name)
        if match and not _alive(int(match["pid"])):
            with contextlib.suppress(OSError):
                os.unlink(target.parent / name)


def _alive(pid: int) -> bool:
    if WINDOWS:
        return True  # asking there would end the process; the file is left to its owner
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
