"""A request of the runner -> the `Context` that a check is called with, and what the check left in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pv
from pv.contract.vocabulary import Cell
from pv.evidence.record import ExhaustedRecord, FileDigest, OracleRecord
from pv.falsify.api import Blocked, Completed

PROGRESS_INTERVAL = 0.1  # seconds between two progress lines


@dataclass
class Subjects:
    """What a worker has built so far. Built under a planted defect, a subject lives only as long as the defect."""

    kept: dict[str, Any] = field(default_factory=dict)
    planted: dict[str, Any] = field(default_factory=dict)

    def get(self, kind: str, build: Callable[[], Any], *, control: bool) -> Any:
        if kind in self.kept:
            return self.kept[kind]
        shelf = self.planted if control else self.kept
        if kind not in shelf:
            shelf[kind] = build()
        return shelf[kind]


@dataclass
class RunContext:
    """The `pv.falsify.api.Context` of one run: one healthy run or one control, in one cell."""

    cell: Cell
    project: Path
    scratch: Path
    control: str = ""
    given_seed: int = 0
    paths: Mapping[str, Path] = field(default_factory=dict)  # of the configured subjects
    subjects: Subjects = field(default_factory=Subjects)
    report: Callable[[int, int, str], None] = lambda done, total, what: None

    seeded: bool = field(default=False, init=False)
    notes: list[str] = field(default_factory=list, init=False)
    bound: dict[str, str] = field(default_factory=dict, init=False)  # name -> sha256
    oracle: OracleRecord | None = field(default=None, init=False)
    exhausted: ExhaustedRecord | None = field(default=None, init=False)
    _reported: float = field(default=0.0, init=False)

    @property
    def seed(self) -> int:
        """The run's seed. Reading it marks the record as seeded."""
        self.seeded = True
        return self.given_seed

    def subject(self, kind: str, build: Callable[[], Any]) -> Any:
        """The subject built once per worker and kept; under a control, never kept for a healthy run."""
        return self.subjects.get(kind, build, control=bool(self.control))

    def subject_path(self, name: str | None = None) -> Path:
        """Path of the cell's (or a named) subject; its files are bound to the record. Raises Blocked when absent.

        Raises ValueError for `code` and `synthetic:…`, which have no path.
        """
        name = name or self.cell.subject
        if name == "code" or name.startswith("synthetic:"):
            raise ValueError(f"expected a subject with files, found {name!r}: the check makes it itself")
        path = self.paths.get(name)
        if path is None:
            variable = "PV_SUBJECT_" + name.upper().replace("-", "_")
            raise Blocked(f"subject {name!r}: set {variable}, or {name} in [tool.pv.subjects]")
        if not path.exists():
            raise Blocked(f"subject {name!r}: {self._display(path)} does not exist")
        self.bind(path)
        return path

    def run_pv(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        cwd: Path | None = None,
    ) -> Completed:
        """Run the public `pv` command of this very installation, in the project's root or `cwd`, as a user would.

        Output goes into the log as well. Raises subprocess.TimeoutExpired after `timeout` seconds; the run's own time
        budget holds in any case.
        """
        # -P: the folder we stand in must not shadow an installed module
        command = [sys.executable, "-P", "-m", "pv", *args]
        source = str(Path(pv.__file__).parent.parent)
        inherited = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))}
        print(f"$ pv {' '.join(args)}", flush=True)
        done = subprocess.run(
            command,
            env={**inherited, **(env or {})},
            cwd=cwd or self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        stdout, stderr = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
        print(stdout, stderr, f"[exit {done.returncode}]", sep="\n", flush=True)
        return Completed(args, done.returncode, stdout, stderr)

    def bind(self, path: Path) -> None:
        """The result depends on this file, or on every file of this folder. Raises FileNotFoundError."""
        if not path.exists():
            raise FileNotFoundError(f"expected a file to bind, found nothing at {path}")
        for file in _files(path):
            name = self._display(file)
            if name not in self.bound:
                self.bound[name] = file_sha256(file)

    def note(self, text: str) -> None:
        """A line for the record and the report."""
        self.notes.append(text)

    def agree(self, oracle: str, version: str, agreed: bool) -> None:
        """What an independent oracle said of the same input in this run; one disagreement stays."""
        earlier = self.oracle is None or self.oracle.agreed
        self.oracle = OracleRecord(oracle, version, bool(agreed) and earlier)

    def exhaust(self, bound: int, cases: int, complete: bool) -> None:
        """For a bounded proof: how many cases were run and whether that was all of the bound."""
        self.exhausted = ExhaustedRecord(int(bound), int(cases), bool(complete))

    def progress(self, done: int, total: int, what: str = "") -> None:
        """For the progress line; throttled."""
        now = time.monotonic()
        if done >= total or now - self._reported >= PROGRESS_INTERVAL:
            self._reported = now
            self.report(done, total, what)

    def digests(self) -> tuple[FileDigest, ...]:
        """The bound files, by name."""
        return tuple(FileDigest(name, digest) for name, digest in sorted(self.bound.items()))

    def _display(self, path: Path) -> str:
        """From the project's root; below a configured subject elsewhere, `NAME:rest`; else the absolute path."""
        path = path.resolve()
        if path.is_relative_to(self.project.resolve()):
            return path.relative_to(self.project.resolve()).as_posix()
        for name, base in self.paths.items():
            if path.is_relative_to(base.resolve()):
                rest = path.relative_to(base.resolve()).as_posix()
                return f"{name}:{path.name if rest == '.' else rest}"
        return path.as_posix()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes; computed once for each (path, size, time) in this process."""
    facts = path.stat()
    key = (str(path.resolve()), facts.st_size, facts.st_mtime_ns)
    if key not in _DIGESTS:
        with path.open("rb") as stream:
            _DIGESTS[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _DIGESTS[key]


_DIGESTS: dict[tuple[str, int, int], str] = {}


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    else:
        yield path
