"""A verdict and what it was reached on -> the receipt, as JSON, and a memory of accepted ones.

A remembered verdict is used only for the very same comparison: model, engine, adapter, driver, thresholds, number of
steps and compared tokens. Whatever differs is compared anew.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pv
from pv.backends.protocol import DeviceFacts
from pv.compare.thresholds import THRESHOLDS, Kind
from pv.model.folders import cache_root, whole_file
from pv.parity.gate import TAG, Verdict

SCHEMA = "pv-parity-receipt/1"
_ENGINE = ("model", "backends", "compare", "parity")  # rooms whose code decides what a verdict means


@dataclass(frozen=True, slots=True)
class Subject:
    """What was compared: everything that a remembered verdict depends on."""

    model: str  # digest; "" when the model has none, and then nothing is remembered
    facts: DeviceFacts
    tokens: tuple[int, ...]
    steps: int
    kind: Kind

    def as_json(self) -> dict[str, Any]:
        """The parts that a key is made of."""
        return {
            "model": self.model,
            "engine": engine_digest(),
            "adapter": f"{self.facts.backend} {self.facts.device_class} {self.facts.name}",
            "driver": self.facts.driver,
            "details": dict(sorted(self.facts.details.items())),
            "thresholds": thresholds_digest(self.kind),
            "kind": self.kind.value,
            "steps": self.steps,
            "tokens": len(self.tokens),
            "tokens_sha256": hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest(),
        }

    @property
    def key(self) -> str:
        """sha256 of all of it."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened while a backend was chosen, with the line that was printed for it."""

    what: str  # unavailable, backend, rejected, accepted, not gated, failed
    backend: str
    line: str
    verdict: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


@dataclass(slots=True)
class Receipt:
    """All events of one start, in order."""

    model: str = ""
    served: str = ""
    events: list[Event] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The receipt's document."""
        return {
            "schema": SCHEMA,
            "contract": TAG,
            "pv": pv.__version__,
            "model": self.model,
            "served": self.served,
            "events": [event.as_json() for event in self.events],
        }

    def write(self, path: Path) -> None:
        """Write it whole or not at all. Raises OSError."""
        with whole_file(path) as file:
            file.write((json.dumps(self.as_json(), indent=2) + "\n").encode())


def verdict_json(subject: Subject, verdict: Verdict, *, remembered: str = "") -> dict[str, Any]:
    """A verdict with its numbers. `remembered`: when it was reached, if not now."""
    return {
        "accepted": verdict.accepted,
        "reason": verdict.reason,
        "remembered": remembered,
        "seconds": round(verdict.seconds, 3),
        "near_ties": verdict.near_ties,
        "subject": subject.as_json(),
        "steps": [step.as_json() for step in verdict.steps],
    }


def recall(subject: Subject) -> dict[str, Any] | None:
    """The accepted verdict on the very same comparison, if one is remembered."""
    if not subject.model:
        return None
    with suppress(OSError, ValueError):
        known = json.loads(_place(subject).read_text("utf-8"))
        if isinstance(known, dict) and known.get("accepted") is True and known.get("subject") == subject.as_json():
            return known
    return None


def remember(subject: Subject, verdict: Verdict) -> None:
    """Keep an accepted verdict. A read-only home only costs time; a rejection is never kept."""
    if not (subject.model and verdict.accepted):
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with suppress(OSError), whole_file(_place(subject)) as file:
        file.write(json.dumps(verdict_json(subject, verdict, remembered=now)).encode())


def thresholds_digest(kind: Kind) -> str:
    """sha256 of the row of the table that judged."""
    return hashlib.sha256(repr(THRESHOLDS[kind]).encode()).hexdigest()


@lru_cache(maxsize=1)
def engine_digest() -> str:
    """sha256 over the engine's own code and shaders: another build is another engine."""
    root, digest = Path(pv.__file__).parent, hashlib.sha256()
    files: Sequence[Path] = sorted(
        path for room in _ENGINE for path in (root / room).rglob("*") if path.suffix in {".py", ".wgsl"}
    )
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _place(subject: Subject) -> Path:
    return cache_root() / "parity" / f"{subject.key}.json"
