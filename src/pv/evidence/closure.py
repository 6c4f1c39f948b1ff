"""A check module -> its source closure: every project file that its result can depend on, each with a digest.

In it: the module, the project modules it imports (also inside functions, relatively, through packages), the modules of
the functions it attacks, and the data files it declares. Found by reading, never by importing: a module whose name is
computed at run time is not seen and must be declared as data. Python counts by its meaning (no comments, no
docstrings), data by its bytes. Of a check that an installed package brings, the modules of that package count as the
project's do; other installed packages never count. pv's own contract side (the rooms that carry a claim, not what is
claimed) is left out, except modules whose functions are attacked. A check module counts under the names that it and the
ids in its registrations had first (`formerly`): a rename is no change of what is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pv.contract.project import Project
from pv.document.cachedir import identity_of, keep, recall, version_of
from pv.evidence import source_meaning
from pv.evidence.digests import closure_digest
from pv.evidence.record import FileDigest
from pv.evidence.registrations import renamed
from pv.evidence.source_meaning import ImportLine

FILE = "closure-cache.json"
CONTRACT_SIDE = frozenset(
    {"cli", "report", "falsify", "evidence", "ladder", "rules", "contract", "document", "diagnostics"}
)


class CheckSource(NamedTuple):
    """Where a check stands and what it says of itself: all that its closure needs."""

    path: Path
    attacks: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    module: str = ""  # the module's first name, where it had another one
    ids: tuple[tuple[str, str], ...] = ()  # (id today, first id) of the claims that were renamed


@dataclass(frozen=True, slots=True)
class Closure:
    """The files in order of their path, and one digest of all. `today`: path in it -> path now, where they differ."""

    digest: str
    files: tuple[FileDigest, ...]
    today: Mapping[str, str] = field(default_factory=dict)


class _Module(NamedTuple):
    sha256: str
    imports: tuple[ImportLine, ...]


@dataclass
class Sources:
    """The source files of one project; each is read once, and remembered between runs by size and times.

    Modules are looked for under `src/` and under the root; packages without `__init__` count. `package` is the folder
    of an installed package whose checks are asked for.
    """

    root: Path
    cache: Path | None = None
    package: Path | None = None
    _modules: dict[Path, _Module] = field(default_factory=dict, repr=False)
    _edges: dict[Path, tuple[Path, ...]] = field(default_factory=dict, repr=False)
    _digests: dict[Path, str] = field(default_factory=dict, repr=False)
    _known: dict[str, list[Any]] | None = field(default=None, repr=False)
    _changed: bool = field(default=False, repr=False)
    _of_packages: dict[Path, Sources] = field(default_factory=dict, repr=False)
    _closures: dict[CheckSource, Closure] = field(default_factory=dict, repr=False)
    _looked_up: dict[tuple[Path, tuple[str, ...]], list[Path] | None] = field(default_factory=dict, repr=False)
    _folders: dict[Path, bool] = field(default_factory=dict, repr=False)  # folder of a module -> whether it is inside

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        self._search = (self.root / "src", self.root, *((self.package.parent,) if self.package else ()))

    def closure(self, check: CheckSource) -> Closure:
        """The closure of a check. A plug-in's files stand in it as they were installed: `package/claims/x_v1.py`."""
        if check not in self._closures:  # the claims of a contract share one
            self._closures[check] = self._closure(check)
        return self._closures[check]

    def _closure(self, check: CheckSource) -> Closure:
        start = check.path.resolve()
        package = None if self._holds(start) else _package_of(start)
        if package is not None:
            return self._of_package(package).closure(check)
        files = {self._name(start): self._own_digest(start, dict(check.ids))} if start.is_file() else {}
        reached = self._walk([start, *(p for name in check.attacks for p in self._attacked(name))])
        files.update({self._name(path): self._module(path).sha256 for path in reached if path != start})
        files.update({self._name(path): self._bytes_digest(path) for path in self._data(check.data)})
        today = self._first_name(start, check.module, files)
        files.update({first: files.pop(name) for first, name in today.items()})
        listed = tuple(FileDigest(name, files[name]) for name in sorted(files))
        return Closure(closure_digest(listed), listed, today)

    def _own_digest(self, module: Path, ids: Mapping[str, str]) -> str:
        """Of a check module, under the ids that its claims had first."""
        return source_meaning.meaning(renamed(module.read_bytes(), ids)) if ids else self._module(module).sha256

    def _first_name(self, module: Path, first: str, files: Mapping[str, str]) -> dict[str, str]:
        """First path -> path now of a check module that was renamed; nothing where another file has that name now."""
        name = self._name(module)
        was = self._name(module.with_name(f"{first}.py")) if first else name
        return {was: name} if was not in files and name in files else {}

    def _of_package(self, package: Path) -> Sources:
        """The sources as the checks of one package see them. Kept apart: to all other checks it is installed code."""
        if package not in self._of_packages:
            self._of_packages[package] = Sources(self.root, package=package)
        return self._of_packages[package]

    def save(self) -> None:
        """Remember what was read. A cache that cannot be written is only slow."""
        if self.cache is None or not self._changed:
            return
        keep(self.cache / FILE, self._identity(), self._known)
        self._changed = False

    def data_digest(self, name: str) -> str:
        """Hex sha256 of a file named from the root; "" where it is not there, or not below the root."""
        path = self.root / name
        return self._bytes_digest(path.resolve()) if self._inside(path) and path.is_file() else ""

    def function(self, dotted: str) -> tuple[str, str] | None:
        """(file, qualified name) of a function under attack; None where no module of the project is in its name."""
        parts = dotted.replace(":", ".").split(".")
        for length in range(len(parts) - 1, 0, -1):
            for path in self._attacked(".".join(parts[:length])):
                if self._module_name(path) == ".".join(parts[:length]):
                    return self._name(path), ".".join(parts[length:])
        return None

    # --- which files ---

    def _walk(self, starts: Sequence[Path]) -> list[Path]:
        """Every module reached from `starts`, which are in it even where their kind is left out."""
        pending = [path for path in starts if path.is_file()]
        seen = dict.fromkeys(pending)
        while pending:
            path = pending.pop()
            for found in self._imported(path):
                if found not in seen and not _contract_side(self._module_name(found)):
                    seen[found] = None
                    pending.append(found)
        return list(seen)

    def _imported(self, path: Path) -> tuple[Path, ...]:
        if path not in self._edges:
            self._edges[path] = tuple(dict.fromkeys(self._find_imported(path)))
        return self._edges[path]

    def _find_imported(self, path: Path) -> Iterator[Path]:
        here = path.parent
        if here not in self._folders:
            self._folders[here] = self._inside(here)
        for line in self._module(path).imports:
            if line.level:
                base = here
                for _ in range(line.level - 1):
                    base = base.parent
                bases = [base] if self._inside(base) else []
            else:
                bases = [*self._search, *([here] if self._folders[here] else [])]
            yield from self._resolve(bases, line)

    def _resolve(self, bases: Iterable[Path], line: ImportLine) -> Iterator[Path]:
        """The files that importing `line` runs: the packages on the way, the module, and names that are modules."""
        parts = tuple(part for part in line.module.split(".") if part)
        for base in bases:
            target = self._module_files(base, parts)
            if target is None:
                continue
            if line.level and (base / "__init__.py").is_file():
                yield base / "__init__.py"
            yield from target
            for name in line.names:
                taken = self._module_files(base, (*parts, name)) if name != "*" else None
                yield from taken or ()
            if target or line.level:
                return

    def _attacked(self, dotted: str) -> Iterator[Path]:
        """The module of a function under attack: the longest part of its dotted name that is a module here."""
        parts = tuple(dotted.replace(":", ".").split("."))
        for length in range(len(parts), 0, -1):
            for base in self._search:
                files = self._module_files(base, parts[:length])
                if files:
                    yield files[-1]
                    return

    def _data(self, patterns: Iterable[str]) -> Iterator[Path]:
        for pattern in patterns:
            if Path(pattern).is_absolute():
                raise ValueError(f"expected data as a pattern relative to the project root, found {pattern!r}")
            for path in self.root.glob(pattern):
                if path.is_file() and self._inside(path):
                    yield path.resolve()

    def _module_files(self, base: Path, parts: tuple[str, ...]) -> list[Path] | None:
        """Like the function of this name; beside the installed package there are others, which do not count."""
        if self.package is not None and base == self.package.parent and parts[:1] != (self.package.name,):
            return None
        if (base, parts) not in self._looked_up:  # thousands of modules import the same few
            self._looked_up[base, parts] = _module_files(base, parts)
        return self._looked_up[base, parts]

    def _inside(self, path: Path) -> bool:
        return self._holds(path.resolve())

    def _holds(self, path: Path) -> bool:
        return path.is_relative_to(self.root) or (self.package is not None and path.is_relative_to(self.package))

    def _name(self, path: Path) -> str:
        if path.is_relative_to(self.root):
            return path.relative_to(self.root).as_posix()
        return path.relative_to(self.package.parent).as_posix() if self.package else path.name

    def _module_name(self, path: Path) -> str:
        for base in self._search:
            if path.is_relative_to(base):
                parts = path.relative_to(base).with_suffix("").parts
                return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        return path.stem

    # --- what they say ---

    def _module(self, path: Path) -> _Module:
        if path not in self._modules:
            known = self._remembered(path, "py")
            if known is None:
                source = path.read_bytes()
                found = _Module(source_meaning.meaning(source), source_meaning.imports(source))
                self._remember(path, "py", [found.sha256, found.imports])
            else:
                found = _Module(known[0], tuple(ImportLine(i[0], i[1], tuple(i[2])) for i in known[1]))
            self._modules[path] = found
        return self._modules[path]

    def _bytes_digest(self, path: Path) -> str:
        if path not in self._digests:
            known = self._remembered(path, "data")
            if known is None:
                with path.open("rb") as file:
                    known = [hashlib.file_digest(file, "sha256").hexdigest()]
                self._remember(path, "data", known)
            self._digests[path] = str(known[0])
        return self._digests[path]

    def _remembered(self, path: Path, kind: str) -> list[Any] | None:
        if self._known is None:
            self._known = self._load()
        facts = path.stat()
        row = self._known.get(f"{kind}:{path}")
        return row[1] if row is not None and row[0] == version_of(facts) else None

    def _remember(self, path: Path, kind: str, value: Sequence[Any]) -> None:
        facts = path.stat()
        known = self._known if self._known is not None else {}
        known[f"{kind}:{path}"] = [version_of(facts), value]
        self._known, self._changed = known, True

    def _load(self) -> dict[str, list[Any]]:
        return (None if self.cache is None else recall(self.cache / FILE, self._identity())) or {}

    def _identity(self) -> str:
        return identity_of(Path(__file__).parent.parent, ("evidence",), str(self.root))


def closure_of(project: Project, check: CheckSource) -> Closure:
    """The closure of one check of a project. For many checks make one `Sources` and ask it."""
    sources = Sources(project.root, project.cache)
    closure = sources.closure(check)
    sources.save()
    return closure


def file_digest(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def by_path(files: Iterable[FileDigest]) -> Mapping[str, str]:
    """Path -> digest."""
    return {file.path: file.sha256 for file in files}


def _module_files(base: Path, parts: Sequence[str]) -> list[Path] | None:
    """The files that importing the dotted `parts` below `base` runs, in order; None where there is no such module.

    A package without `__init__` has none of its own, so the list may be empty.
    """
    files: list[Path] = []
    folder = base
    for index, part in enumerate(parts):
        package, module = folder / part / "__init__.py", folder / f"{part}.py"
        if package.is_file():
            files.append(package)
        elif module.is_file():
            return [*files, module] if index == len(parts) - 1 else None
        elif not (folder / part).is_dir():
            return None
        folder = folder / part
    return files


def _package_of(module: Path) -> Path | None:
    """The folder of the outermost package that a module lies in; None for a module that lies in none."""
    package = None
    for folder in module.parents:
        if not (folder / "__init__.py").is_file():
            return package
        package = folder
    return package


def _contract_side(module: str) -> bool:
    """Whether this is pv itself keeping claims, rather than what claims are about."""
    parts = module.split(".")
    return parts[0] == "pv" and (len(parts) == 1 or parts[1] in CONTRACT_SIDE or parts[1] == "__main__")
