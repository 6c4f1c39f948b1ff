"""Paths -> contract files -> `Loaded`: the document, its contract when the shape is sound, and what the shape lacks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pv.contract.claims import Contract, contract_of
from pv.contract.codes import CONTRACT, NO_SUCH_PATH, NearMiss
from pv.contract.project import Profile, Project
from pv.diagnostics.model import Diagnostic, Severity
from pv.document.limits import Unreadable

if TYPE_CHECKING:
    from pv.document.reader import Document

# The YAML reader and pydantic are imported where they are used: with a warm cache `pv validate` needs neither, and they
# are two thirds of its start.

SUFFIXES = (".yaml", ".yml")
UNWALKED = frozenset({"node_modules", "__pycache__", "target", "venv", "site-packages"})


@dataclass(frozen=True)
class Loaded:
    """One file after reading. `document` is None when it could not be read, `sound` says that its shape is.

    `data` is the document's data with the source text where a number stood for text; `artifact` says what kind of file
    it is ("contract", "binding", "publish-manifest"); `misspelt` lists fields that are there under a near-miss name.
    """

    path: Path
    display: str
    document: Document | None
    diagnostics: tuple[Diagnostic, ...]
    sound: bool = False
    data: Any = field(default_factory=dict, repr=False)
    artifact: str = CONTRACT
    misspelt: tuple[NearMiss, ...] = ()

    @cached_property
    def contract(self) -> Contract | None:
        """The contract, or None when the file could not be read, is none, or has a shape that is not sound."""
        if self.document is None or not self.sound or self.artifact != CONTRACT:
            return None
        version = self.document.source_text(("metadata", "version"))
        return contract_of(self.stem, self.path, self.data, version)

    @cached_property
    def stem(self) -> str:
        """The file's name without its suffix: the contract's identity."""
        return self.path.stem


@dataclass(frozen=True)
class Discovery:
    """The files that were asked for, and a diagnostic for each path that names none."""

    files: tuple[Path, ...]
    refused: tuple[Diagnostic, ...]
    explicit: frozenset[Path] = frozenset()  # named one by one: reported even when they are no contracts


def load(path: Path, project: Project) -> Loaded:
    """Read one file. A file that cannot be read is a `Loaded` with one diagnostic, never an exception."""
    from pv.document import reader

    display = project.display(path)
    try:
        document = reader.read(path, display=display)
    except Unreadable as refusal:
        return Loaded(path, display, None, (refusal.diagnostic,))
    return of_document(document, path, display, project.profile)


def load_bytes(content: bytes, path: Path, project: Project, *, display: str | None = None) -> Loaded:
    """Like `load`, for bytes from elsewhere (a git revision); `path` only names them."""
    from pv.document import reader

    display = project.display(path) if display is None else display
    try:
        document = reader.parse(content, display)
    except Unreadable as refusal:
        return Loaded(path, display, None, (refusal.diagnostic,))
    return of_document(document, path, display, project.profile)


def load_at(revision: str, contract: Contract, project: Project) -> Contract | None:
    """The contract as a git revision has it, under any name that the file has or had; None where it has none.

    Raises RevisionError where git cannot tell.
    """
    from pv.contract.revisions import content_at

    for stem in contract.stems:
        path = contract.path.with_name(stem + contract.path.suffix)
        content = content_at(revision, path)
        if content is not None:
            return load_bytes(content, path, project).contract
    return None


def of_document(document: Document, path: Path, display: str, profile: Profile) -> Loaded:
    """The contract in a document that was read."""
    from pv.contract import shape

    checked = shape.check(document, profile)
    return Loaded(
        path=path,
        display=display,
        document=document,
        diagnostics=checked.diagnostics,
        sound=checked.sound,
        data=checked.data,
        artifact=checked.artifact,
        misspelt=checked.misspelt,
    )


def discover(paths: Sequence[str | Path], project: Project) -> Discovery:
    """The files to look at: those named, those below named folders, or the project's `contracts` globs for none.

    Folders are walked for *.yaml and *.yml, leaving out hidden ones and those of build tools. A path that does not
    exist, or a folder without such a file, is refused with a diagnostic. Files come once, in the order given.
    """
    files: dict[str, Path] = {}  # by text: the hash of a Path is made of its parts, for every one of thousands
    explicit: set[Path] = set()
    refused: list[Diagnostic] = []
    for given in paths or _globbed(project):
        path = Path(given)
        if path.is_dir():
            found = list(_walked(path))
            for one in found:
                files.setdefault(os.path.normcase(one), one)
            if not found:
                refused.append(_refusal(project, path, "a folder with no *.yaml or *.yml file below it"))
        elif os.path.lexists(path):
            files.setdefault(os.path.normcase(path), path)
            explicit.add(path)
        else:
            refused.append(_refusal(project, path, "no such file or folder"))
    return Discovery(tuple(files.values()), tuple(refused), frozenset(explicit))


def load_all(paths: Sequence[str | Path], project: Project) -> list[Loaded]:
    """Every contract among the paths (all of the project's for none), each loaded; walked files that are none left out.

    What `discover` refuses is not in the result: for commands that only need the contracts there are.
    """
    discovery = discover(paths, project)
    loaded = (load(path, project) for path in discovery.files)
    return [one for one in loaded if one.path in discovery.explicit or concerns_us(one)]


def concerns_us(loaded: Loaded) -> bool:
    """Whether a file met in a folder is to be reported: unreadable ones are, other people's YAML is not."""
    from pv.contract import shape

    return loaded.document is None or shape.is_contract(loaded.document.data)


def _globbed(project: Project) -> list[Path]:
    found: dict[Path, None] = {}
    for pattern in project.contracts:
        found.update(dict.fromkeys(sorted(project.root.glob(pattern))))
    return list(found)


def _walked(folder: Path) -> Iterator[Path]:
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in UNWALKED)
        parent = Path(base)
        for name in sorted(names):
            if name.endswith(SUFFIXES):
                yield parent / name


def _refusal(project: Project, path: Path, what: str) -> Diagnostic:
    return Diagnostic(
        code=NO_SUCH_PATH,
        severity=Severity.ERROR,
        path=project.display(path),
        message=f"expected a contract file or a folder of them, found {what}",
        expected="a contract file or a folder of them",
        found=what,
        help="check the path, or name none to take the project's `contracts`",
    )
