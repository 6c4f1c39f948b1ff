"""A claim's or a contract's new name -> the edits of every file that names it: planned whole, proven, then written.

Records are not among them: they say what was run, under the name that it had. `formerly` in the contract carries them
along. What only mentions the old name in prose is told, not edited.
"""

from __future__ import annotations

import copy
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pv.contract.claims import Claim, Contract
from pv.contract.graph import stem_of
from pv.contract.load import Loaded, load_bytes
from pv.contract.project import Project, module_name
from pv.diagnostics.model import Severity
from pv.document import prove
from pv.document.edits import EditError, unified_diff
from pv.document.limits import Unreadable
from pv.document.prove import NotProven
from pv.evidence import registrations, source_meaning
from pv.evidence.ledger import FoundChecks
from pv.evidence.settle import committed
from pv.ladder.draft import Draft, Loc, Unsafe
from pv.ladder.writeback import OURS, edit
from pv.rules.table import check_file

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
BLOCKS = ("algorithm_evidence", "functional_evidence", "discharge_evidence")
PROSE = ("changelog", "formerly")  # keys below which a name is history
MOST_MENTIONS = 20


class RenameError(ValueError):
    """The rename cannot be made; the sentence says why and nothing was written."""


class NotEditable(RenameError):  # noqa: N818 - it says what is the case
    """A place that would have to change cannot be edited safely."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file before and after; None where it is not there. `told` says what is changed in it, in words."""

    path: Path
    display: str
    before: bytes | None
    after: bytes | None
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """A rename, planned. `mentions` are places (`docs/x.md:3`) where the old name stands in words that nobody edits."""

    old: str
    new: str
    changes: tuple[FileChange, ...]
    mentions: tuple[str, ...] = ()

    @property
    def diff(self) -> str:
        """The whole as a patch; a file that moves is told by a line, and by what changes in it."""
        return "".join(_patches(self.changes))


class _Told(NamedTuple):
    """A change of a document that collects what it did."""

    words: list[str]
    change: Callable[[Draft], None]


@dataclass(frozen=True)
class _Tree:
    """What a rename looks at."""

    project: Project
    loaded: Sequence[Loaded]
    checks: FoundChecks
    today: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d}")

    @property
    def contracts(self) -> list[tuple[Loaded, Contract]]:
        return [(one, one.contract) for one in self.loaded if one.contract is not None]


def rename_claim(
    project: Project, loaded: Sequence[Loaded], checks: FoundChecks, old: str, new: str, within: Path | None = None
) -> Move:
    """The plan that gives a claim another id. `within` is the contract's file, where several have the id.

    Raises RenameError: no such claim, a taken or unusable id, a place that cannot be edited safely.
    """
    tree = _Tree(project, loaded, checks)
    one, contract, claim = _holder(tree, old, within)
    _check_free(tree, contract, claim, new)
    changes = [_contract_change(tree, one, contract, _claim_edit(one, contract, claim, new))]
    for other, its in tree.contracts:
        if other is not one and not _owns(its, old) and _mentions_it(other, old):
            changes.append(_contract_change(tree, other, its, _references(other, its, old, new)))
    changes.append(_module_change(tree, contract, old, new))
    done = tuple(change for change in changes if change is not None and change.before != change.after)
    return Move(old, new, done, tuple(_mentions(project, old, new, done)))


def rename_contract(project: Project, loaded: Sequence[Loaded], checks: FoundChecks, old: Path, new: Path) -> Move:
    """The plan that gives a contract another file name. Raises RenameError, like `rename_claim`."""
    tree = _Tree(project, loaded, checks)
    one, contract = _file(tree, old)
    new = Path(new if new.suffix else new.with_suffix(old.suffix)).absolute()
    _check_place(tree, one, new)
    stem, place = new.stem, project.display(new)
    modules = list(_moved_module(tree, contract, stem))
    called = replace(contract, id=stem, path=new)
    told = _file_edit(tree, contract, stem, modules)
    content = _edited(tree, one, contract, told, called)
    before = one.document.content if one.document else b""
    changes = [
        FileChange(one.path.absolute(), one.display, before, None, (f"moves to {place}",)),
        FileChange(new, place, None, content, tuple(told.words)),
        *modules,
    ]
    if stem != contract.id:
        for other in tree.loaded:
            if other is not one and _mentions_it(other, contract.id):
                changes += filter(None, [_dependent(tree, other, contract.id, stem)])
        changes += _settings(project, contract.id, stem)
    return Move(one.display, place, tuple(changes), tuple(_mentions(project, contract.id, stem, changes)))


# --- what may be renamed ---------------------------------------------------------------------------------------------


def _holder(tree: _Tree, old: str, within: Path | None) -> tuple[Loaded, Contract, Claim]:
    found = [(one, its, claim) for one, its in tree.contracts if (claim := its.claim(old))]
    if within is not None:
        found = [each for each in found if each[0].path.resolve() == within.resolve()]
    if len(found) > 1:
        names = ", ".join(one.display for one, _, _ in found)
        raise RenameError(f"{old} is a claim of {len(found)} contracts: {names}; say which with --in")
    if not found:
        ids = [claim.id for _, its in tree.contracts for claim in its.claims]
        near = get_close_matches(old, ids, n=3)
        now = next((claim.id for _, its in tree.contracts for claim in its.claims if old in claim.formerly), None)
        hint = f"did you mean {' or '.join(near)}?" if near else "`pv list` names them"
        hint = f"it is called {now} now" if now else hint
        raise RenameError(f"expected the id of a claim or a contract's file, found {old!r}; {hint}")
    return found[0]


def _check_free(tree: _Tree, contract: Contract, claim: Claim, new: str) -> None:
    if not ID.fullmatch(new):
        raise RenameError(f"expected an id of letters, digits, `-`, `_` and `.`, found {new!r}")
    if new == claim.id:
        raise RenameError(f"{new} is its name already")
    for one, its in tree.contracts:
        if _owns(its, new):
            raise RenameError(f"{one.display} has {new} already; choose another id")
        had = its.claim_known_as(new)
        if its is contract and had is not None and had.id != claim.id:
            raise RenameError(f"{had.id} was called {new}, and its records name it so; choose another id")


def _mentions_it(one: Loaded, name: str) -> bool:
    """Most files of a large tree do not, and need not be looked at."""
    return one.document is not None and name in one.document.text


def _owns(contract: Contract, name: str) -> bool:
    """Whether a claim, an obligation or an equation of the contract has this name."""
    return contract.claim(name) is not None or name in contract.targets


def _file(tree: _Tree, old: Path) -> tuple[Loaded, Contract]:
    for one in tree.loaded:
        if one.path.resolve() == old.resolve():
            if one.contract is None:
                raise RenameError(f"{one.display} is not a sound contract; `pv validate {one.display}` says why")
            return one, one.contract
    raise RenameError(f"expected a contract of this project, found {tree.project.display(old)}")


def _check_place(tree: _Tree, one: Loaded, new: Path) -> None:
    shown = tree.project.display(new)
    if new.exists():
        raise RenameError(f"{shown} is there already; choose another name")
    if new.suffix not in (".yaml", ".yml") or not tree.project.covers(new):
        globs = ", ".join(tree.project.contracts)
        raise RenameError(f"expected a name that [tool.pv] contracts finds ({globs}), found {shown}")
    for other in tree.loaded:
        stems = other.contract.stems if other.contract else (other.stem,)
        if other is not one and new.stem in stems:
            said = "is called" if other.stem == new.stem else "was called"
            raise RenameError(f"{other.display} {said} {new.stem}; evidence could not tell the two apart")


# --- a contract ------------------------------------------------------------------------------------------------------


def _contract_change(tree: _Tree, one: Loaded, contract: Contract, told: _Told) -> FileChange | None:
    if one.document is None:
        return None
    after = _edited(tree, one, contract, told)
    return FileChange(one.path.absolute(), one.display, one.document.content, after, tuple(told.words))


def _edited(tree: _Tree, one: Loaded, contract: Contract, told: _Told, now: Contract | None = None) -> bytes:
    """The file's bytes after the edit, proven and no less valid than before."""
    base = committed(contract, tree.project)
    try:
        after, notes = edit(one, told.change, tree.today, base, now=now)
    except Unsafe as why:
        raise NotEditable(f"{one.display}:{why.line}: cannot be edited safely: {why.reason}") from why
    except (EditError, NotProven, Unreadable) as why:
        raise NotEditable(f"{one.display}: cannot be edited safely: {why}") from why
    path = now.path if now else one.path
    again = load_bytes(after, path, tree.project, display=one.display)
    before, now_wrong = _errors(one, tree.project), _errors(again, tree.project)
    worse = [told for code, told in now_wrong.items() if len(told) > len(before.get(code, ()))]
    if worse:  # by number, since messages name the claim
        raise NotEditable(f"{one.display} would be invalid: {worse[0][-1]}")
    if again.contract is not None and again.contract.metadata.version != contract.metadata.version:
        told.words.append(f"version {contract.metadata.version} -> {again.contract.metadata.version}")
    told.words.extend(notes)
    return after


def _errors(one: Loaded, project: Project) -> dict[str, list[str]]:
    """What is wrong with the file itself, by code; paths that it cites may be moving with it."""
    errors: dict[str, list[str]] = {}
    for found in check_file(one, project).diagnostics:
        if found.severity is Severity.ERROR and found.code not in ("PV311", "PV312"):
            errors.setdefault(found.code, []).append(f"{found.code} {found.message}")
    return errors


def _claim_edit(one: Loaded, contract: Contract, claim: Claim, new: str) -> _Told:
    words: list[str] = []

    def change(draft: Draft) -> None:
        draft.replace((*claim.loc, "id"), new)
        words.append(f"id {claim.id} -> {new} (line {draft.line_of((*claim.loc, 'id'))}), `formerly`")
        _add_former(draft, (*claim.loc, "formerly"), (*claim.loc, "id"), claim.formerly, claim.id)
        _point(draft, one.data, claim.id, new, _is_reference(contract, claim.id), words)
        for loc, text in _texts(claim.data, claim.loc):
            if loc[2] in BLOCKS and OURS.fullmatch(text) and text.endswith(f"--id {claim.id}"):
                draft.replace(loc, text.removesuffix(claim.id) + new)

    return _Told(words, change)


def _references(one: Loaded, contract: Contract, old: str, new: str) -> _Told:
    words: list[str] = []
    return _Told(words, lambda draft: _point(draft, one.data, old, new, _is_reference(contract, old), words))


def _point(draft: Draft, data: Any, old: str, new: str, is_reference: Callable[[Loc], bool], words: list[str]) -> None:
    """Every value that is the old id and nothing else names the claim."""
    for loc, text in _texts(data, ()):
        if text == old and is_reference(loc):
            draft.replace(loc, new)
            words.append(f"{_dotted(loc)} (line {draft.line_of(loc)})")


def _is_reference(contract: Contract, old: str) -> Callable[[Loc], bool]:
    def holds(loc: Loc) -> bool:
        return loc[-1] != "id" and not set(PROSE) & set(loc) and not ("binds_to" in loc and old in contract.targets)

    return holds


def _add_former(draft: Draft, loc: Loc, after: Loc, known: Sequence[str], name: str) -> None:
    names = list(dict.fromkeys([*known, name]))
    if draft.document.get(loc) is None:
        draft.insert_after(after, [("formerly", names)])
    elif names != list(known):
        draft.set_list(loc, names)


def _texts(data: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """(place, text) of every text in plain data."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _texts(value, (*loc, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _texts(value, (*loc, index))
    elif isinstance(data, str):
        yield loc, data


def _dotted(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


# --- a contract's file name ------------------------------------------------------------------------------------------


def _file_edit(tree: _Tree, contract: Contract, stem: str, modules: Sequence[FileChange]) -> _Told:
    words: list[str] = []
    moved = {modules[0].display: modules[1].display} if modules else {}

    def change(draft: Draft) -> None:
        if stem != contract.id:
            former = contract.metadata.formerly
            _add_former(draft, ("metadata", "formerly"), ("metadata", "version"), former, contract.id)
            words.append(f"`metadata.formerly` names {contract.id}")
        for loc, text in _texts(draft.document.data, ()):
            path, colons, name = text.partition("::")
            if path in moved and not set(BLOCKS).isdisjoint(loc):
                draft.replace(loc, moved[path] + colons + name)
                words.append(f"{_dotted(loc)} (line {draft.line_of(loc)})")

    return _Told(words, change)


def _dependent(tree: _Tree, other: Loaded, old: str, new: str) -> FileChange | None:
    """A contract or a binding registry that names the renamed one."""
    document = other.document
    if document is None or document.data is None:
        return None
    words: list[str] = []

    def change(draft: Draft) -> None:
        for loc, text in _texts(document.data, ()):
            if _names_a_contract(loc, document.data) and stem_of(text) == old:
                draft.replace(loc, _with_stem(text, old, new))
                words.append(f"{_dotted(loc)} (line {draft.line_of(loc)})")

    if other.contract is not None:
        return _contract_change(tree, other, other.contract, _Told(words, change))
    draft = Draft(document)
    try:
        change(draft)
        after = document.encode(draft.text())
        prove.proves(document.content, after, draft.data, frozenset(draft.lines))
    except (Unsafe, EditError, NotProven) as why:
        raise NotEditable(f"{other.display}: cannot be edited safely: {why}") from why
    changed = after != document.content
    return FileChange(other.path.absolute(), other.display, document.content, after, tuple(words)) if changed else None


def _names_a_contract(loc: Loc, data: Any) -> bool:
    if loc[:2] == ("metadata", "depends_on") or loc[-1] in ("parent_contract", "from_contract"):
        return True
    return len(loc) == 3 and loc[0] == "bindings" and loc[2] == "contract" and "target_crate" in data


def _with_stem(name: str, old: str, new: str) -> str:
    """`contracts/a-v1.yaml` -> `contracts/b-v1.yaml`: only the stem changes."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{new}{last.removeprefix(old)}"


def _settings(project: Project, old: str, new: str) -> Iterator[FileChange]:
    """The scopes of `[tool.pv]`, which list contracts by their stems."""
    path = project.root / "pyproject.toml"
    if project.origin.get("scopes") != "pyproject.toml" or not any(old in stems for stems in project.scopes.values()):
        return
    before = path.read_bytes()
    intended: Any = tomllib.loads(before.decode())
    scopes = copy.deepcopy(intended["tool"]["pv"]["scopes"])
    intended["tool"]["pv"]["scopes"] = {
        name: [new if stem == old else stem for stem in stems] for name, stems in scopes.items()
    }
    for after in _toml_candidates(before.decode(), old, new):
        if tomllib.loads(after) == intended:
            told = tuple(f"[tool.pv.scopes] {name}" for name, stems in scopes.items() if old in stems)
            yield FileChange(path, project.display(path), before, after.encode(), told)
            return
    raise NotEditable(f"{project.display(path)}: [tool.pv.scopes] names {old} in a way that cannot be edited safely")


def _toml_candidates(text: str, old: str, new: str) -> Iterator[str]:
    """The file with every quoted name replaced; then only those in the table of scopes."""
    quoted = re.compile(rf"(?P<quote>[\"']){re.escape(old)}(?P=quote)")
    swap = rf"\g<quote>{new}\g<quote>"
    yield quoted.sub(swap, text)
    table = re.compile(r"^\[tool\.pv\.scopes\]$.*?(?=^\[|\Z)", re.MULTILINE | re.DOTALL)
    yield table.sub(lambda match: quoted.sub(swap, match.group()), text)


# --- a check module --------------------------------------------------------------------------------------------------


def _module_change(tree: _Tree, contract: Contract, old: str, new: str) -> FileChange | None:
    """The literal in the registration of the claim's check, and nothing else of the module."""
    found = tree.checks.of(contract.id, old)
    if found is None:
        return None
    shown = tree.project.display(found.path)
    if not found.path.resolve().is_relative_to(tree.project.root):
        raise RenameError(f"its check stands in an installed package ({found.path}); rename it there first")
    source = found.path.read_bytes()
    after = registrations.renamed(source, {old: new})
    ids = [each.id for each in registrations.registered(registrations.text_of(after) or "")]
    if new not in ids or old in ids:
        raise NotEditable(f"{shown}: expected {old!r} as one literal in the registration; write it so first")
    if ids.count(new) > 1:
        raise RenameError(f"{shown} registers {new} already; choose another id")
    text = registrations.text_of(source) or ""
    lines = [text.count("\n", 0, each.start) + 1 for each in registrations.registered(text) if each.id == old]
    told = tuple(f"registration (line {line})" for line in lines)
    return FileChange(found.path.absolute(), shown, source, after, told)


def _moved_module(tree: _Tree, contract: Contract, stem: str) -> Iterator[FileChange]:
    """The check module carries the contract's name: two changes, the old file and the new one; none without one."""
    folder = tree.project.falsifiers
    old, new = folder / f"{module_name(contract.id)}.py", folder / f"{module_name(stem)}.py"
    if old == new or not old.is_file():
        if any(tree.checks.of(contract.id, claim.id) for claim in contract.claims) and old != new:
            raise RenameError(f"the checks of {contract.id} stand in an installed package; rename them there first")
        return
    if new.exists():
        raise RenameError(f"{tree.project.display(new)} is there already; choose another name")
    for other in sorted(folder.glob("*.py")):
        modules = {line.module.rpartition(".")[2] for line in source_meaning.imports(other.read_bytes())}
        if other != old and old.stem in modules | _names_imported(other):
            shown = tree.project.display(other)
            raise RenameError(f"{shown} imports {old.stem}; move what it needs to a module of its own (`_name.py`)")
    source = old.read_bytes()
    yield FileChange(old, tree.project.display(old), source, None, (f"moves to {tree.project.display(new)}",))
    yield FileChange(new, tree.project.display(new), None, source)


def _names_imported(module: Path) -> set[str]:
    """Names taken from the folder's own package: `from . import a_v1`."""
    lines = source_meaning.imports(module.read_bytes())
    return {name for line in lines if line.level and not line.module for name in line.names}


# --- words -----------------------------------------------------------------------------------------------------------


def _mentions(project: Project, word: str, new: str, changes: Iterable[FileChange]) -> Iterator[str]:
    """Where git's files still say the old name, as the tree will be; records and changelogs say it for ever."""
    ours = ("formerly", f"{word} is {new} now")
    found: dict[str, None] = {}
    changed = {change.path: change for change in changes}
    for path in _tracked(project, word):
        content = changed[path].after if path in changed else path.read_bytes()
        if content is None or path.is_relative_to(project.evidence):
            continue
        found.update(dict.fromkeys(_lines_with(project.display(path), content, word, ours)))
    for change in changes:
        if change.before is None and change.after is not None:
            found.update(dict.fromkeys(_lines_with(change.display, change.after, word, ours)))
    places = list(found)
    yield from places[:MOST_MENTIONS]
    if len(places) > MOST_MENTIONS:
        yield f"and {len(places) - MOST_MENTIONS} more"


def _lines_with(display: str, content: bytes, word: str, ours: Sequence[str]) -> Iterator[str]:
    whole = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        if whole.search(line) and not any(text in line for text in ours):
            yield f"{display}:{number}"


def _tracked(project: Project, word: str) -> list[Path]:
    """Files of the repository that hold the word; none where there is no git."""
    command = ["git", "-C", str(project.root), "grep", "-lzF", "--untracked", "-I", "-e", word]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        return []
    names = done.stdout.split(b"\0") if done.returncode == 0 else []
    return [project.root / PurePosixPath(name.decode("utf-8", "surrogateescape")) for name in names if name]


def _patches(changes: Sequence[FileChange]) -> Iterator[str]:
    gone = {change.told[0].removeprefix("moves to "): change for change in changes if change.after is None}
    for change in changes:
        if change.after is None:
            continue
        source = gone.get(change.display)
        before = change.before if source is None else source.before
        if source is not None:
            yield f"{source.display} -> {change.display}\n"
        old, new = (before or b"").decode("utf-8-sig", "replace"), change.after.decode("utf-8-sig", "replace")
        yield unified_diff(change.display, old, new)
