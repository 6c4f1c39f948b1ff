"""Records on disk: `evidence/<claim id>/<UTC>-<12 hex>.json`, written once, never edited, plus their logs.

A file holds the record's canonical bytes and one final newline; the digest is of the canonical bytes, without it. A
record is written under a temporary name, synced, then linked to its name, so a file with a record's name is whole. The
index in the cache folder is derived: it may be deleted at any time, and `verify` never reads it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

from pv.document.cachedir import version_of
from pv.evidence import index, statement
from pv.evidence.index import Index, Stat, Summary
from pv.evidence.record import LogRecord, Record
from pv.evidence.rejudge import contradictions
from pv.evidence.staleness import in_words
from pv.evidence.statement import PREFIX, StatementError

LOGS = "logs"
KEPT_LOG = 64 * 1024  # compressed bytes; of a larger log only the digest is kept
RECORD_NAME = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{12})\.json")
LOG_NAME = re.compile(r"([0-9a-f]{64})\.log\.gz")
TEMPORARY = ".writing-"


class HasLog(Protocol):
    """A record, or what is known of one."""

    @property
    def log(self) -> LogRecord | None: ...


class Problem(NamedTuple):
    """A file in the evidence folder that is no sound record: its path and what is wrong with it."""

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Store:
    """The evidence folder of a project. `cache` is where the index is kept; None keeps none."""

    root: Path
    cache: Path | None = None

    def add(self, record: Record, log: bytes | None = None) -> Record:
        """Write the record (and its log) and return it with its digest; writing the same record again changes nothing.

        Raises StatementError for what cannot be written and FileExistsError where another record holds the name.
        """
        if log is not None:
            kept, compressed = _packed(log)
            if kept.stored:
                self.add_log_bytes(compressed, kept.sha256)
            record = replace(record, log=kept)
        content = statement.to_bytes(record)
        self.add_bytes(content)
        return replace(record, digest=statement.digest(content))

    def add_bytes(self, content: bytes) -> Path:
        """Write canonical bytes that came from another store. Returns the path; an equal file is left as it is.

        Raises StatementError where the bytes are no record, or one that contradicts its own figures.
        """
        record = statement.from_bytes(content)
        _refuse_contradictions(record)
        path = self.root / relative_name(record)
        _write_once(path, content.removesuffix(b"\n") + b"\n")
        return path

    def add_log_bytes(self, compressed: bytes, sha256: str) -> Path:
        """Write a compressed log that came from another store, after checking that it is the one named."""
        if hashlib.sha256(decompress(compressed)).hexdigest() != sha256:
            raise StatementError(f"expected a log with sha256 {sha256}, found other text")
        path = self.root / LOGS / f"{sha256}.log.gz"
        _write_once(path, compressed, may_differ=True)  # compressors differ; the name says what the text is
        return path

    def get(self, digest: str) -> Record | None:
        """The record with this digest (or a unique prefix of at least 12 hex digits), or None."""
        wanted = digest.removeprefix(PREFIX)
        matches = [s for s in self.summaries() if s.digest.removeprefix(PREFIX).startswith(wanted)]
        return self.read(matches[0]) if len(wanted) >= 12 and len(matches) == 1 else None

    def of(self, claim_id: str) -> list[Record]:
        """The records of a claim, oldest first."""
        return [self.read(s) for s in self.summaries() if s.claim_id == claim_id]

    def all(self) -> list[Record]:
        """Every sound record, oldest first. What is not sound is in `problems()`."""
        return [self.read(s) for s in self.summaries()]

    def summaries(self) -> tuple[Summary, ...]:
        """What the index holds of every sound record, oldest first. Only new and changed files are read."""
        return self.index().summaries

    def problems(self) -> tuple[Problem, ...]:
        """Files that are no sound record, or whose name is not what their bytes say."""
        return tuple(Problem(self.root / name, message) for name, message in self.index().problems)

    def closures(self) -> Mapping[str, Mapping[str, str]]:
        """Closure digest -> path -> sha256, of every summary."""
        return self.index().closures

    def index(self) -> Index:
        """Summaries, closures and problems in one look at the folder."""
        return index.current(self.root, self.cache, list(_stats(self.root)), _summarise)

    def read(self, summary: Summary) -> Record:
        """The record behind a summary."""
        return statement.from_bytes((self.root / summary.path).read_bytes())

    def log_text(self, record: HasLog) -> str | None:
        """The whole log of a record, or None when only its digest was kept. Raises StatementError if it was changed."""
        if record.log is None or not record.log.stored:
            return None
        name = record.log.stored.removeprefix(f"{LOGS}/")
        if not LOG_NAME.fullmatch(name):
            raise StatementError(f"expected a log under {LOGS}/ named by its digest, found {record.log.stored!r}")
        text = decompress((self.root / LOGS / name).read_bytes(), record.log.size)
        if hashlib.sha256(text).hexdigest() != record.log.sha256:
            raise StatementError(f"expected a log with sha256 {record.log.sha256} in {name}, found other text")
        return text.decode("utf-8", "replace")

    def record_files(self) -> Iterator[Path]:
        """Every file under a claim's folder, sorted; leftovers of a killed write are passed over."""
        for folder in _folders(self.root):
            names = sorted(name for name in os.listdir(folder) if not name.startswith(TEMPORARY))
            yield from (folder / name for name in names)

    def log_files(self) -> Iterator[Path]:
        """Every file under `logs/`, sorted."""
        folder = self.root / LOGS
        if folder.is_dir():
            yield from sorted(p for p in folder.iterdir() if not p.name.startswith(TEMPORARY))

    def leftovers(self) -> Iterator[Path]:
        """Temporary files of writes that were killed."""
        if self.root.is_dir():
            yield from sorted(self.root.rglob(f"{TEMPORARY}*"))


def with_log(record: Record, log: bytes | None) -> Record:
    """The record as a store would write it with this log: the log's digest, its size, and where it would stand."""
    return record if log is None else replace(record, log=_packed(log)[0])


def _packed(log: bytes) -> tuple[LogRecord, bytes]:
    """What a record says of its log, and the log compressed; of a large one only the digest is kept."""
    sha256 = hashlib.sha256(log).hexdigest()
    compressed = gzip.compress(log, compresslevel=9, mtime=0)
    stored = f"{LOGS}/{sha256}.log.gz" if len(compressed) <= KEPT_LOG else ""
    return LogRecord(sha256, len(log), stored), compressed


def relative_name(record: Record) -> str:
    """Where a record stands, from the evidence folder: `<claim id>/<UTC>-<12 hex of its digest>.json`."""
    compact = re.sub(r"[-:]|\.\d+", "", record.started_at)
    own = record.digest or statement.digest(statement.to_bytes(record))
    return f"{folder_name(record.claim_id)}/{compact}-{own.removeprefix(PREFIX)[:12]}.json"


def folder_name(claim_id: str) -> str:
    """A claim's folder: its id, with everything but letters, digits, `-`, `_` and inner dots percent-encoded."""
    name = quote(claim_id, safe="")
    if name == LOGS or name.startswith("."):
        return f"%{ord(name[0]):02X}{name[1:]}"
    return name


def decompress(compressed: bytes, limit: int = 64 * 1024 * 1024) -> bytes:
    """Gunzip at most `limit` bytes. Raises StatementError for damage and for more."""
    reader = zlib.decompressobj(wbits=31)
    try:
        text = reader.decompress(compressed, limit + 1)
    except zlib.error as error:
        raise StatementError(f"expected gzip data: {error}") from error
    if len(text) > limit or not reader.eof:
        raise StatementError(f"expected a log of at most {limit} bytes, found more, or a cut file")
    return text


def summarise(record: Record, path: str) -> Summary:
    """What the index keeps of a record."""
    measured = [m for m in record.measurements if m.threshold is not None]
    environment = record.environment
    libraries = (environment.device, environment.torch, environment.numpy, environment.python, environment.platform)
    return Summary(
        path=path,
        digest=record.digest,
        claim_id=record.claim_id,
        contract_id=record.contract_id,
        claim_digest=record.claim_digest,
        closure_digest=record.closure_digest,
        bound={file.path: file.sha256 for file in record.bound},
        cell=record.cell,
        level=record.level,
        verdict=record.verdict,
        reason=record.reason,
        missing=record.missing,
        controls_caught=bool(record.controls) and all(control.caught for control in record.controls),
        figures={m.name: (m.value, m.threshold.repeat) for m in measured if m.threshold},
        thresholds={m.name: in_words(m.threshold) for m in measured if m.threshold},
        host=environment.host,
        driver=environment.driver,
        setting=" | ".join(libraries),
        seed=record.seed,
        oracle=record.oracle.name if record.oracle else "",
        oracle_agreed=bool(record.oracle and record.oracle.agreed),
        exhausted=record.exhausted.bound if record.exhausted and record.exhausted.complete else None,
        started_at=record.started_at,
        previous=record.previous,
        invalidates=record.invalidates,
        entry_point=record.entry_point,
    )


def _summarise(path: Path, name: str) -> tuple[Summary, Mapping[str, str]]:
    """Reader of the index: the record's digest must be what its name says. Canonical form is `verify`'s to check."""
    content = path.read_bytes()
    record = statement.from_bytes(content, canonical=False)
    if name != (expected := relative_name(record)):
        raise StatementError(f"expected this record at {expected}: its bytes have the digest {record.digest}")
    _refuse_contradictions(record)
    return summarise(record, name), {file.path: file.sha256 for file in record.closure}


def _refuse_contradictions(record: Record) -> None:
    """A record whose verdict its own figures deny supports nothing; a retraction has no figures."""
    wrong = "" if record.invalidates else next(contradictions(record), "")
    if wrong:
        raise StatementError(f"the record of {record.claim_id} contradicts itself: {wrong}")


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and entry.name != LOGS]
    return [root / name for name in sorted(names) if not name.startswith(".")]


def _stats(root: Path) -> Iterator[Stat]:
    """(relative path, version) of every file in a claim's folder."""
    for folder in _folders(root):
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith((TEMPORARY, ".")):
                    yield f"{folder.name}/{entry.name}", version_of(entry.stat())


def _write_once(path: Path, content: bytes, *, may_differ: bool = False) -> None:
    """Put a whole file at a name that nobody holds; an equal file there is success. Synced before it is named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _name(temporary, path)
    except FileExistsError:
        if not may_differ and path.read_bytes() != content:
            raise FileExistsError(f"expected no file or an equal one at {path}, found another record") from None
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _name(temporary: Path, path: Path) -> None:
    """Give a finished file its name unless the name is taken (FileExistsError)."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except (
        OSError
    ):  # a file system without hard links; two writers of one name carry the same digest, so the same bytes
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
