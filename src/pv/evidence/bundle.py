"""Records and their logs <-> one zip file that carries them to another clone. Same records, same bytes.

A bundle is taken whole or not at all: every member is checked (name, size, digest, schema) before anything is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pv.evidence import statement
from pv.evidence.record import Record
from pv.evidence.rejudge import contradictions
from pv.evidence.statement import StatementError
from pv.evidence.store import LOGS, Store, decompress

BUNDLE_TYPE = "tag:provable-contracts,2026:bundle/v1"
MANIFEST = "bundle.json"
MAX_MEMBERS = 200_000
MAX_TOTAL = 512 * 1024 * 1024  # bytes, unpacked
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest moment a zip can name: no time in it, so equal bundles are equal bytes
_RECORD = re.compile(r"records/(?P<digest>[0-9a-f]{64})\.json")
_LOG = re.compile(r"logs/(?P<digest>[0-9a-f]{64})\.log\.gz")


class BundleError(ValueError):
    """The file is no bundle, or not one to be trusted; nothing was taken from it."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: records that are new here, and how many were here already."""

    new: tuple[Record, ...]
    known: int


def export(store: Store, digests: Iterable[str], path: Path) -> list[Record]:
    """Write the named records, everything they follow or retract, and their logs. Returns the records.

    Raises BundleError for a digest that no record has, or a gap in what a record follows.
    """
    chosen = _with_ancestors(store, digests)
    members = {f"records/{digest.removeprefix(statement.PREFIX)}.json": chosen[digest] for digest in chosen}
    records = [statement.from_bytes(content) for content in chosen.values()]
    for record in records:
        if record.log and record.log.stored:
            members[f"{LOGS}/{record.log.sha256}.log.gz"] = (store.root / record.log.stored).read_bytes()
    manifest = {"type": BUNDLE_TYPE, "records": sorted(record.digest for record in records)}
    members[MANIFEST] = json.dumps(manifest, indent=1).encode() + b"\n"
    path.write_bytes(_zip(members))
    return records


def import_(store: Store, path: Path) -> Imported:
    """Take every record of a bundle into the store. Raises BundleError, before anything is written."""
    members = _read(path)
    contents: list[bytes] = []
    logs: list[tuple[str, bytes]] = []
    records: list[Record] = []
    for name, content in members.items():
        if match := _RECORD.fullmatch(name):
            records.append(_checked_record(name, content, match["digest"]))
            contents.append(content)
        elif match := _LOG.fullmatch(name):
            _check_log(name, content, match["digest"])
            logs.append((match["digest"], content))
    _check_manifest(members.get(MANIFEST), records)
    known = {summary.digest for summary in store.summaries()}
    _check_ancestors(records, known)
    for digest, content in logs:
        store.add_log_bytes(content, digest)
    for content in contents:
        store.add_bytes(content)
    new = tuple(record for record in records if record.digest not in known)
    return Imported(new, len(records) - len(new))


def _with_ancestors(store: Store, digests: Iterable[str]) -> dict[str, bytes]:
    """Digest -> the file's own bytes (never written anew: a later pv may have put more into them)."""
    by_digest = {summary.digest: summary for summary in store.summaries()}
    chosen: dict[str, bytes] = {}
    pending = list(digests)
    while pending:
        digest = pending.pop()
        if digest in chosen:
            continue
        if digest not in by_digest:
            raise BundleError(f"expected a sound record with the digest {digest} in {store.root}, found none")
        summary = by_digest[digest]
        chosen[digest] = (store.root / summary.path).read_bytes()
        pending += [named for named in (summary.previous, summary.invalidates) if named]
    return {digest: chosen[digest] for digest in sorted(chosen)}


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _LONG_AGO)
            info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(info, members[name])
    return buffer.getvalue()


def _read(path: Path) -> dict[str, bytes]:
    """Every member, after its name and size were found harmless. Names are never used as paths."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _check_listing(infos)
            members = {info.filename: _member(archive, info) for info in infos}
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise BundleError(f"expected a bundle of records in {path}: {error}") from error
    return members


def _check_listing(infos: Sequence[zipfile.ZipInfo]) -> None:
    if len(infos) > MAX_MEMBERS:
        raise BundleError(f"expected at most {MAX_MEMBERS} members, found {len(infos)}")
    if (total := sum(info.file_size for info in infos)) > MAX_TOTAL:
        raise BundleError(f"expected at most {MAX_TOTAL} bytes unpacked, found {total}")
    names = [info.filename for info in infos]
    for name in names:
        if name != MANIFEST and not _RECORD.fullmatch(name) and not _LOG.fullmatch(name):
            raise BundleError(f"expected records, logs and {MANIFEST} in a bundle, found {name!r}")
    if len(set(names)) != len(names):
        raise BundleError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in the bundle")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        content = file.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise BundleError(f"{info.filename}: expected {info.file_size} bytes, found other ones")
    return content


def _checked_record(name: str, content: bytes, digest: str) -> Record:
    try:
        record = statement.from_bytes(content)
    except StatementError as error:
        raise BundleError(f"{name}: {error}") from error
    if record.digest != statement.PREFIX + digest:
        raise BundleError(f"{name}: its bytes have the digest {record.digest}; it was edited")
    if (wrong := next(contradictions(record), "")) and not record.invalidates:
        raise BundleError(f"{name}: the record contradicts itself: {wrong}")
    return record


def _check_log(name: str, content: bytes, digest: str) -> None:
    try:
        text = decompress(content)
    except StatementError as error:
        raise BundleError(f"{name}: {error}") from error
    if hashlib.sha256(text).hexdigest() != digest:
        raise BundleError(f"{name}: it holds another log; it was edited")


def _check_manifest(content: bytes | None, records: Sequence[Record]) -> None:
    try:
        manifest = json.loads(content or b"null")
    except ValueError as error:
        raise BundleError(f"{MANIFEST}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("type") != BUNDLE_TYPE:
        raise BundleError(f"expected {MANIFEST} of type {BUNDLE_TYPE}")
    if manifest.get("records") != sorted(record.digest for record in records):
        raise BundleError(f"{MANIFEST} lists other records than the bundle holds; some were removed or added")


def _check_ancestors(records: Sequence[Record], known: set[str]) -> None:
    present = known | {record.digest for record in records}
    for record in records:
        for word, digest in (("follows", record.previous), ("retracts", record.invalidates)):
            if digest and digest not in present:
                raise BundleError(f"{record.digest} {word} {digest}, which is neither in the bundle nor here")
