"""PV701 to PV709: what only shows when all files are looked at together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pv.contract.near import nearest
from pv.contract.project import Project
from pv.rules.finding import Finding
from pv.rules.outline import Outline, OutlinedClaim
from pv.rules.rings import rings

_SHOWN = 3
# Suggestions compare names that begin alike, and not too many; who misses dozens of files has made no slip.
_HEAD, _ENOUGH = 4, 30


class Corpus(NamedTuple):
    """All the files of one call. `stems` also names the contracts of the project that were not asked for."""

    outlines: Sequence[Outline]
    project: Project
    stems: Stems
    whole: bool  # whether the call covers the project's contracts


class Stems:
    """The names that `depends_on` may use: those of the call, of the project, and of the files beside the asker."""

    def __init__(self, known: Iterable[str]) -> None:
        self.known = frozenset(known)
        self._by_head: dict[str, list[str]] = {}
        self._by_folder: dict[str, frozenset[str]] = {}

    def have(self, stem: str, asker: str) -> bool:
        """Whether a contract of that name can be meant in the file `asker`."""
        return stem in self.known or f"{stem}.yaml" in self._beside(os.path.dirname(asker))

    def alike(self, stem: str) -> list[str]:
        """The first known names that begin like `stem`, in order."""
        if not self._by_head:
            for known in sorted(self.known):
                self._by_head.setdefault(known[:_HEAD], []).append(known)
        return self._by_head.get(stem[:_HEAD], [])[:_ENOUGH]

    def _beside(self, folder: str) -> frozenset[str]:
        if folder not in self._by_folder:
            try:
                self._by_folder[folder] = frozenset(os.listdir(folder or "."))
            except OSError:
                self._by_folder[folder] = frozenset()
        return self._by_folder[folder]


class Placed(NamedTuple):
    """A finding in one of the files."""

    outline: Outline
    finding: Finding


def shared_ids(corpus: Corpus) -> Iterator[Placed]:
    """One id in several files. Ids are unique in a file; across files they are only hard to tell apart."""
    first: dict[str, Outline] = {}
    shared: dict[str, list[tuple[Outline, OutlinedClaim]]] = {}
    for outline in corpus.outlines:
        for claim in outline.claims:
            if first.setdefault(claim.id, outline) is not outline and claim.id:
                shared.setdefault(claim.id, []).append((outline, claim))
    for claim_id, found in shared.items():
        outline, claim = found[0]
        files = list(dict.fromkeys(other.display for other, _ in found))
        more = len(files) - 1 - _SHOWN
        others = ", ".join([first[claim_id].display, *files[1 : _SHOWN + 1]])
        yield Placed(
            outline,
            Finding(
                (claim.section, claim.position, "id"),
                f"id {claim_id!r} is used in {len(files) + 1} files, first in {first[claim_id].display}",
                expected="an id that no other file uses",
                found=f"the same id in {others}" + (f" and {more} more" if more > 0 else ""),
                help="`pv falsify --id` would mean all of them; name the file beside the id",
            ),
        )


def unknown_dependencies(corpus: Corpus) -> Iterator[Placed]:
    """`depends_on` names a contract that is nowhere to be seen: not asked for, not the project's, not beside it."""
    if len(corpus.outlines) < 2 and not corpus.whole:
        return  # of one file alone nobody knows what surrounds it
    near_by_stem: dict[str, str | None] = {}
    for outline in corpus.outlines:
        for index, name in enumerate(outline.depends_on):
            stem = stem_of(name)
            if not corpus.stems.have(stem, outline.display):
                if stem not in near_by_stem and len(near_by_stem) < _ENOUGH:
                    near_by_stem[stem] = nearest(stem, corpus.stems.alike(stem))
                near = near_by_stem.get(stem)
                yield Placed(
                    outline,
                    Finding(
                        ("metadata", "depends_on", index),
                        f"depends_on names `{name}`, and no contract of that name was found",
                        expected="the stem of a contract file",
                        found=f"`{name}`",
                        help=f"did you mean `{near}`?" if near else "correct the name, or validate both files together",
                    ),
                )


def circular_dependencies(corpus: Corpus) -> Iterator[Placed]:
    """Contracts that depend on each other."""
    by_stem = {outline.stem: outline for outline in corpus.outlines if outline.depends_on}
    graph = {stem: [stem_of(name) for name in outline.depends_on] for stem, outline in by_stem.items()}
    for ring in rings(graph):
        index = graph[ring[0]].index([*ring, ring[0]][1])
        yield Placed(
            by_stem[ring[0]],
            Finding(
                ("metadata", "depends_on", index),
                f"`{ring[0]}` depends on itself: {' -> '.join([*ring[:6], ring[0]])}",
                expected="dependencies without a ring",
                found="a ring",
                help="take one of them out",
            ),
        )


def shared_stems(corpus: Corpus) -> Iterator[Placed]:
    """Two contracts with one file name: whatever names a contract means both."""
    first: dict[str, Outline] = {}
    for outline in corpus.outlines:
        if outline.artifact == "contract" and first.setdefault(outline.stem, outline) is not outline:
            yield Placed(
                outline,
                Finding(
                    (),
                    f"a second contract called `{outline.stem}`; the first is {first[outline.stem].display}",
                    expected="a file name of its own",
                    found=f"`{Path(outline.display).name}`",
                    help="rename one: dependencies, scopes and evidence name contracts by it",
                ),
            )


def unknown_bindings(corpus: Corpus) -> Iterator[Placed]:
    """A binding registry binds an equation that its contract does not have."""
    if not any(outline.bindings for outline in corpus.outlines):
        return
    equations = {outline.stem: outline.equations for outline in corpus.outlines if outline.artifact == "contract"}
    for outline in corpus.outlines:
        for index, (contract, equation) in enumerate(outline.bindings):
            known = equations.get(stem_of(contract))
            if known is not None and equation not in known:
                near = nearest(equation, known)
                yield Placed(
                    outline,
                    Finding(
                        ("bindings", index, "equation"),
                        f"{contract} has no equation `{equation}`",
                        expected=f"one of: {', '.join(known[:6])}" if known else "an equation",
                        found=f"`{equation}`",
                        help=f"did you mean `{near}`?" if near else "correct the name, or drop the binding",
                    ),
                )


def unknown_scopes(corpus: Corpus) -> Iterator[Placed]:
    """A scope of [tool.pv] counts a contract that does not exist: its ship percentage would be of something else."""
    if not corpus.whole:
        return
    settings = Outline("pyproject.toml", "pyproject", "settings")
    for scope, stems in corpus.project.scopes.items():
        for stem in stems:
            if stem not in corpus.stems.known:
                near = nearest(stem, corpus.stems.known)
                yield Placed(
                    settings,
                    Finding(
                        (),
                        f"[tool.pv.scopes] {scope} lists `{stem}`, and there is no such contract",
                        expected="the stem of a contract file",
                        found=f"`{stem}`",
                        help=f"did you mean `{near}`?" if near else "correct the name, or take it out of the scope",
                    ),
                )


def former_stems(corpus: Corpus) -> Iterator[Placed]:
    """A contract says that it had a name which another one has now, or says that it had."""
    had: dict[str, Outline] = {}
    for outline in corpus.outlines:
        for index, name in enumerate(outline.formerly):
            other = had.setdefault(name, outline)
            taken = name != outline.stem and corpus.stems.have(name, outline.display)
            if taken or other is not outline:
                whose = "which another contract has now" if taken else f"which {other.display} says it had"
                yield Placed(
                    outline,
                    Finding(
                        ("metadata", "formerly", index),
                        f"`formerly` names `{name}`, {whose}: its records would count for both",
                        expected="a name that no contract has",
                        found=f"`{name}`",
                        help="remove it here, or rename the other with `pv mv`",
                    ),
                )


def stem_of(name: str) -> str:
    """`contracts/x-v1.yaml`, `x-v1.yaml` and `x-v1` name one contract."""
    last = name.rsplit("/", 1)[-1]
    return last.removesuffix(".yaml").removesuffix(".yml")
