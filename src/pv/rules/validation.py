"""Files -> everything that is wrong with them: each alone, its claims against their evidence, all of them together."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pv.contract import codes
from pv.contract.load import Discovery, Loaded, concerns_us, load, load_bytes
from pv.contract.project import Profile, Project
from pv.contract.vocabulary import Status
from pv.diagnostics.model import Diagnostic, Severity, Span
from pv.rules import table
from pv.rules.across import Stems, stem_of
from pv.rules.cache import Cache, Remembered
from pv.rules.facts import NO_FACTS, FactsByClaim
from pv.rules.finding import Loc
from pv.rules.outline import Outline, outline_of

# Reading a file that is larger is the reader's business, which refuses it without loading it.
_LARGEST_REMEMBERED = 1 << 20

FactsProvider = Callable[[Project, Sequence[Loaded]], FactsByClaim]


def no_facts(project: Project, loaded: Sequence[Loaded]) -> FactsByClaim:
    """For calls without evidence."""
    return NO_FACTS


@dataclass(frozen=True)
class Validation:
    """What a call found. `left_out` counts files met in folders that are no contracts; `texts` are the sources."""

    diagnostics: tuple[Diagnostic, ...]
    outlines: tuple[Outline, ...]
    left_out: int = 0
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)

    def count(self, severity: Severity) -> int:
        """How many diagnostics weigh this much."""
        return sum(1 for each in self.diagnostics if each.severity is severity)

    @property
    def contracts(self) -> int:
        """How many contract files were looked at, sound or not."""
        return sum(1 for outline in self.outlines if outline.artifact == codes.CONTRACT)


class _Seen(NamedTuple):
    """One file of the call. `loaded` is None when the cache answered for it and nobody had read it."""

    path: Path
    found: Remembered
    content: bytes | None
    loaded: Loaded | None


def validate(
    discovery: Discovery,
    project: Project,
    facts: FactsProvider = no_facts,
    cache: Cache | None = None,
    *,
    whole: bool = False,
    loaded: Iterable[Loaded] = (),
) -> Validation:
    """Look at every file. `whole`: the files are all the contracts of the project.

    `loaded` are files that the caller has read already; they are looked at as they were read.
    """
    cache = cache or Cache.off()
    read = {one.path: one for one in loaded if one.document is not None}
    stems = Stems([*(path.stem for path in discovery.files), *table.project_stems(project)])
    seen: list[_Seen] = []
    ids: set[str] = set()
    left_out = 0
    for path in discovery.files:
        named = bool(discovery.explicit) and path in discovery.explicit
        one = _look(path, project, cache, read.get(path), keep_others=named)
        if one is None:
            left_out += 1
            continue
        _note_places(one, stems, ids)
        # In a strict project the claims will be judged; otherwise nobody needs the document again, and thousands of
        # them are a lot of memory.
        kept = one.loaded is None or project.profile is Profile.STRICT
        seen.append(one if kept else one._replace(loaded=None))
    diagnostics = [*discovery.refused]
    for one in seen:
        diagnostics += one.found.diagnostics
    diagnostics += _about_claims(seen, project, facts)
    diagnostics += _across(seen, project, cache, stems, whole)
    cache.save()
    concerned = {diagnostic.path for diagnostic in diagnostics}
    texts = {one.found.outline.display: _text(one) for one in seen if one.found.outline.display in concerned}
    return Validation(tuple(diagnostics), tuple(one.found.outline for one in seen), left_out, texts)


def _look(path: Path, project: Project, cache: Cache, read: Loaded | None, *, keep_others: bool) -> _Seen | None:
    """One file, from the cache or from itself; None for a file met in a folder that is no contract."""
    display = project.display(path)
    content = read.document.content if read is not None and read.document is not None else _content(path)
    sha256 = cache.key(content) if content is not None else ""
    if content is not None:
        remembered = cache.get(path, display, sha256)
        if remembered is not None and remembered.outline.artifact:
            return _Seen(path, remembered, content, read)
        if remembered is not None and not keep_others:
            return None
        loaded = read or load_bytes(content, path, project, display=display)
    else:
        loaded = load(path, project)
    if not keep_others and not concerns_us(loaded):
        if content is not None:  # an artifact without a name: the next call need not read it again
            cache.put(path, sha256, (), Remembered(Outline(display, path.stem, ""), (), False, {}))
        return None
    report = table.check_file(loaded, project)
    found = Remembered(outline_of(loaded), report.diagnostics, _silences_across(loaded), {})
    if content is not None:
        cache.put(path, sha256, report.looked_at, found)
    return _Seen(path, found, content, loaded)


def _content(path: Path) -> bytes | None:
    """The bytes of a regular file of ordinary size; None for anything that the reader should have an opinion on."""
    try:
        # Not to wait for a writer should it be a pipe; three calls of the system for a file, of which there are many.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError):
        return None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _LARGEST_REMEMBERED:
            return None
        content = os.read(descriptor, facts.st_size + 1)
        return content if len(content) == facts.st_size else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _silences_across(loaded: Loaded) -> bool:
    """Whether a comment of the file names a rule across files."""
    suppressions = loaded.document.suppressions if loaded.document is not None else ()
    return any(not table.OF_CORPUS.isdisjoint(each.codes) for each in suppressions)


def _text(one: _Seen) -> str:
    content = one.content if one.content is not None else b""
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")


# ------------------------------------------------------------------------------------------ claims


def _about_claims(seen: Sequence[_Seen], project: Project, provider: FactsProvider) -> Iterator[Diagnostic]:
    judged = [one.loaded or load(one.path, project) for one in _with_claims_to_judge(seen, project)]
    if judged:
        facts = provider(project, judged)
        for loaded in judged:
            yield from table.check_claims(loaded, project, facts)


def _with_claims_to_judge(seen: Sequence[_Seen], project: Project) -> list[_Seen]:
    """The files in which the rules about evidence have anything to look at."""
    contracts = [one for one in seen if one.found.outline.artifact == codes.CONTRACT]
    if project.profile is Profile.STRICT:
        return contracts
    recorded = _names_in(project.evidence)
    if not recorded and not project.configured:
        return []
    return [one for one in contracts if any(claim.status or claim.id in recorded for claim in one.found.outline.claims)]


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


# ------------------------------------------------------------------------------------------ across


def _note_places(one: _Seen, stems: Stems, ids: set[str]) -> None:
    """While the document is at hand, note the places that rules across files will point at."""
    outline = one.found.outline
    own = {claim.id for claim in outline.claims}
    if one.loaded is not None:
        for index, name in enumerate(outline.depends_on):
            if not stems.have(stem_of(name), outline.display):
                _note(one.found, one.loaded, ("metadata", "depends_on", index), False)
        for claim in outline.claims if not own.isdisjoint(ids) else ():
            if claim.id in ids:
                _note(one.found, one.loaded, (claim.section, claim.position, "id"), False)
    ids |= own


def _note(found: Remembered, loaded: Loaded, loc: Loc, key: bool) -> None:
    span = loaded.document.span(loc, key=key) if loaded.document is not None else None
    found.places[repr((loc, key))] = list(span) if span is not None else []


def _across(seen: Sequence[_Seen], project: Project, cache: Cache, stems: Stems, whole: bool) -> Iterator[Diagnostic]:
    by_display = {one.found.outline.display: one for one in seen}
    read_again: dict[str, Loaded] = {}

    def loaded_of(one: _Seen) -> Loaded:
        if one.loaded is not None:
            return one.loaded
        display = one.found.outline.display
        if display not in read_again:
            read_again[display] = load(one.path, project)
        return read_again[display]

    def span_of(outline: Outline, loc: Loc, key: bool) -> Span | None:
        one = by_display.get(outline.display)
        if one is None or not loc:
            return Span(0, 0, 1, 1, 1, 1) if one is not None else None  # about the file as a whole
        name = repr((loc, key))
        if name not in one.found.places:
            _note(one.found, loaded_of(one), loc, key)
            cache.learn(one.path, one.found)
        place = one.found.places[name]
        return Span(*place) if place else None

    found = table.check_outlines([one.found.outline for one in seen], project, span_of, stems=stems, whole=whole)
    silencing = {display: one for display, one in by_display.items() if one.found.suppressed}
    for diagnostic in found:
        if diagnostic.path not in silencing:
            yield diagnostic
    for display, one in silencing.items():
        own = [diagnostic for diagnostic in found if diagnostic.path == display]
        yield from table.settle_corpus(loaded_of(one), project, own)


# ------------------------------------------------------------------------------------------ the summary

_TALLY = (
    (Status.DISCHARGED, "discharged"),
    (Status.FUNCTIONAL, "functional"),
    (Status.PARTIAL_ALGORITHM_LEVEL, "partial"),
    (Status.BLOCKER_FIXTURE_ABSENT, "blocked"),
    (Status.UNBOUND, "unbound"),
    (Status.FALSIFIED, "FALSIFIED"),
)


def summary(validation: Validation) -> str:
    """The denominator in one line: what was looked at, where its claims stand, what is wrong."""
    claims = [claim for outline in validation.outlines for claim in outline.claims]
    falsifiers = sum(1 for claim in claims if claim.section == "falsification_tests")
    looked_at = [_counted(validation.contracts, "contract")]
    others = len(validation.outlines) - validation.contracts
    if others:
        looked_at.append(_counted(others, "other file"))
    looked_at.append(_counted(falsifiers, "falsifier"))
    if len(claims) > falsifiers:
        looked_at.append(_counted(len(claims) - falsifiers, "harness", "es"))
    standing = _standing([claim.status for claim in claims])
    verdict = ", ".join(
        _counted(validation.count(severity), severity.value) for severity in (Severity.ERROR, Severity.WARNING)
    )
    return ", ".join(looked_at) + (f": {standing}" if standing else "") + f"; {verdict}"


def _standing(statuses: Sequence[str]) -> str:
    tally = Counter(statuses)
    counts = [(tally.pop(status.value, 0), word) for status, word in _TALLY]
    without = tally.pop("", 0)
    counts += [(tally.total(), "with a status of their own"), (without, "without a status")]
    return ", ".join(f"{count} {word}" for count, word in counts if count)


def _counted(count: int, word: str, plural: str = "s") -> str:
    return f"{count} {word}{'' if count == 1 else plural}"


def as_counts(validation: Validation) -> dict[str, object]:
    """The same for programs."""
    statuses = Counter(claim.status or "none" for outline in validation.outlines for claim in outline.claims)
    return {
        "contracts": validation.contracts,
        "files": len(validation.outlines),
        "left_out": validation.left_out,
        "claims": sum(len(outline.claims) for outline in validation.outlines),
        "statuses": dict(statuses),
        "errors": validation.count(Severity.ERROR),
        "warnings": validation.count(Severity.WARNING),
    }
