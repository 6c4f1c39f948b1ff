"""A foreign tree of YAML files -> which of them are contracts, what they hold, and settings that find them again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pv.contract.claims import Contract
from pv.contract.load import SUFFIXES, Loaded, load_all
from pv.contract.project import Profile, Project

MOST = 5  # of a kind, in a report that people read


@dataclass(frozen=True)
class Survey:
    """What a folder holds. `globs` find every contract in it and no other file, relative to it."""

    folder: Path
    contracts: tuple[Contract, ...]
    unsound: tuple[Loaded, ...]
    globs: tuple[str, ...]

    @property
    def kinds(self) -> Counter[str]:
        return Counter(contract.metadata.kind for contract in self.contracts)

    @property
    def statuses(self) -> Counter[str]:
        """Status words of ours -> how many claims carry them; "" for those without any word."""
        claims = (claim for contract in self.contracts for claim in contract.claims)
        return Counter(
            claim.status.value if claim.status else "" for claim in claims if claim.status or not claim.status_text
        )

    @property
    def foreign(self) -> Counter[str]:
        """Status words that are not ours; they are kept as they are until somebody runs pv with --adopt."""
        claims = (claim for contract in self.contracts for claim in contract.claims)
        return Counter(claim.status_text for claim in claims if claim.status_text and not claim.status)

    @property
    def shared_ids(self) -> Mapping[str, tuple[str, ...]]:
        """Claim id -> the contracts that use it, where that is more than one."""
        return _shared((claim.id, contract.id) for contract in self.contracts for claim in contract.claims)

    @property
    def shared_stems(self) -> Mapping[str, tuple[str, ...]]:
        """File name -> the files that have it, where that is more than one: dependencies and evidence name both."""
        return _shared((contract.id, _relative(contract.path, self.folder)) for contract in self.contracts)


def survey(folder: Path) -> Survey:
    """Look at every YAML file below `folder`. Reads only; what cannot be read is in the result."""
    loaded = load_all([folder], Project(root=folder, profile=Profile.COMPAT))
    contracts = tuple(one.contract for one in loaded if one.contract is not None)
    unsound = tuple(one for one in loaded if one.contract is None)
    return Survey(folder, contracts, unsound, tuple(_globs(folder, [one.path for one in loaded])))


def report(found: Survey) -> Iterator[str]:
    """What the survey found, line by line."""
    falsifiers = sum(len(contract.falsifiers) for contract in found.contracts)
    harnesses = sum(len(contract.harnesses) for contract in found.contracts)
    folders = len({contract.path.parent for contract in found.contracts})
    places = f"{_count(len(found.contracts), 'contract')} in {_count(folders, 'folder')}"
    yield f"found: {places}; {_count(falsifiers, 'falsifier')}, {harnesses} in kani_harnesses"
    yield f"kinds: {_counted(found.kinds)}"
    yield f"statuses: {_counted(Counter({word or 'none': count for word, count in found.statuses.items()}))}"
    if found.foreign:
        yield f"status words that are not pv's, kept as they are: {_counted(found.foreign, shown=repr)}"
    yield from _listed("ids in more than one contract", found.shared_ids)
    yield from _listed("file names used more than once", found.shared_stems)
    if found.unsound:
        yield f"not sound contracts: {len(found.unsound)}; `pv validate` says where"
        for one in found.unsound[:MOST]:
            errors = [wrong for wrong in one.diagnostics if wrong.severity == "error"]
            yield f"  {_relative(one.path, found.folder)}: {errors[0].message if errors else 'not a contract'}"


def _globs(folder: Path, contracts: Sequence[Path]) -> Iterator[str]:
    """`folder/*.yaml` where every such file of a folder is a contract, else the contracts one by one."""
    wanted = {path.resolve() for path in contracts}
    by_place: defaultdict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in sorted(wanted):
        by_place[path.parent, path.suffix].append(path)
    for (place, suffix), paths in by_place.items():
        there = {path.resolve() for path in place.glob(f"*{suffix}")}
        if there <= wanted and suffix in SUFFIXES:
            yield f"{_glob_safe(_relative(place, folder))}/*{suffix}".removeprefix("./")
        else:
            yield from (_glob_safe(_relative(path, folder)) for path in paths)


def _glob_safe(name: str) -> str:
    """A path as a glob that means itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _shared(pairs: Iterator[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    users: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name, user in pairs:
        users[name][user] = None
    return {name: tuple(found) for name, found in users.items() if len(found) > 1}


def _count(number: int, word: str) -> str:
    return f"{number} {word if number == 1 else word + 's'}"


def _counted(counts: Counter[str], shown: Callable[[str], str] = str) -> str:
    return ", ".join(f"{shown(word)} {count}" for word, count in counts.most_common()) or "none"


def _listed(title: str, shared: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    if not shared:
        return
    yield f"{title}: {len(shared)}"
    for name, users in list(shared.items())[:MOST]:
        yield f"  {name}: {', '.join(users[:MOST])}{f' and {len(users) - MOST} more' if len(users) > MOST else ''}"
    if len(shared) > MOST:
        yield f"  and {len(shared) - MOST} more"


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()
