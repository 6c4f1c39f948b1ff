"""Content of a file -> what was found in it last time, if nothing it depends on has changed since.

One JSON file in `.pv_cache/`. An entry holds for the sha256 of a file's bytes, this very pv, these settings, and the
state of every other file that was looked at (a cited source file that appears, changes or goes). Rules across files and
rules about evidence always run again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pv import __version__
from pv.contract.project import Profile, Project
from pv.diagnostics.model import Diagnostic, Severity, Span, TextEdit
from pv.document.cachedir import identity_of, keep, recall, version_of
from pv.rules.outline import Outline, OutlinedClaim

FILE_NAMES = {Profile.COMPAT: "validate.json", Profile.STRICT: "validate-strict.json"}  # the gate is always strict
_ROOMS = ("contract", "diagnostics", "document", "rules")  # whose source decides what is found in a file


class Remembered(NamedTuple):
    """What one file had to say.

    `suppressed` tells whether a comment in it silences a rule across files; `places` collects the spans that findings
    across files needed, so that the next call need not read the file for them.
    """

    outline: Outline
    diagnostics: tuple[Diagnostic, ...]
    suppressed: bool
    places: dict[str, list[int]]


class Cache:
    """The entries of one project, by absolute path. Nothing is written until `save`, and then only if it differs."""

    def __init__(self, file: Path | None, identity: str, entries: dict[str, Any]) -> None:
        self._file = file
        self._identity = identity
        self._old = entries
        self._new: dict[str, tuple[str, Any, Remembered]] = {}
        self._changed = False

    @classmethod
    def open(cls, project: Project) -> Cache:
        """The project's cache; an empty one where it is absent, foreign or damaged."""
        file, identity = project.cache / FILE_NAMES[project.profile], _identity(project)
        entries = recall(file, identity)
        return cls(file, identity, entries if isinstance(entries, dict) else {})

    @classmethod
    def off(cls) -> Cache:
        """A cache that remembers nothing."""
        return cls(None, "", {})

    def key(self, content: bytes) -> str:
        """What names a content here; nothing needs a name in a cache that remembers nothing."""
        if self._file is None:
            return ""
        import hashlib

        return hashlib.sha256(content).hexdigest()

    def get(self, path: Path, display: str, sha256: str) -> Remembered | None:
        """What was found in the file when it had this content; None when that cannot be relied on."""
        key = os.path.abspath(path)
        entry = self._old.get(key)
        if entry is None or entry[0] != sha256 or any(_state(name) != state for name, state in entry[1]):
            return None
        return _remembered(entry[2], display, path.stem)

    def put(self, path: Path, sha256: str, looked_at: Sequence[Path], found: Remembered) -> None:
        """Remember what was found in the file. `found.places` may still grow until `save`."""
        if self._file is not None:
            names = [os.path.abspath(other) for other in looked_at]
            self._new[os.path.abspath(path)] = (sha256, [(name, _state(name)) for name in names], found)

    def learn(self, path: Path, found: Remembered) -> None:
        """A place was added to what is remembered of the file."""
        entry = self._old.get(os.path.abspath(path))
        if entry is not None:
            entry[2][-1] = found.places
            self._changed = True

    def save(self) -> None:
        """Write the cache, atomically. A folder that cannot be written is no reason to fail."""
        if self._file is None or not (self._new or self._changed):
            return
        # Files of other calls stay remembered, so that checking one file does not forget the others.
        new = {key: [sha256, states, _written(found)] for key, (sha256, states, found) in self._new.items()}
        keep(self._file, self._identity, {**self._old, **new})


def _identity(project: Project) -> str:
    """What else decides what is found in a file: the tool and the settings that rules read."""
    settings = (
        __version__,
        project.root,
        project.profile.value,
        project.configured,
        project.ignore,
        sorted(project.subjects),
    )
    return identity_of(Path(__file__).parent.parent, _ROOMS, *settings)


def _state(path: str) -> list[int] | None:
    """What tells one version of a file from another; None where there is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return version_of(facts)


def _written(found: Remembered) -> list[Any]:
    """The entry as JSON has it. Paths are left out: they follow from where the call is made."""
    outline = found.outline
    diagnostics = [
        [d.code, d.severity.value, d.message, d.span, d.expected, d.found, d.where, d.help, d.edits]
        for d in found.diagnostics
    ]
    return [outline[2:], diagnostics, found.suppressed, found.places]


def _remembered(written: list[Any], display: str, stem: str) -> Remembered:
    (artifact, claims, depends_on, equations, bindings, formerly), diagnostics, suppressed, places = written
    outline = Outline(
        display,
        stem,
        artifact,
        tuple(OutlinedClaim(*claim) for claim in claims),
        tuple(depends_on),
        tuple(equations),
        tuple((contract, equation) for contract, equation in bindings),
        tuple(formerly),
    )
    return Remembered(
        outline,
        tuple(_diagnostic(display, *each) for each in diagnostics),
        suppressed,
        places,
    )


def _diagnostic(
    display: str,
    code: str,
    severity: str,
    message: str,
    span: list[int] | None,
    expected: str,
    found: str,
    where: str,
    hint: str,
    edits: list[list[Any]],
) -> Diagnostic:
    return Diagnostic(
        code,
        Severity(severity),
        display,
        message,
        Span(*span) if span else None,
        expected,
        found,
        where,
        hint,
        tuple(TextEdit(*edit) for edit in edits),
    )
