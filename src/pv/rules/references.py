"""PV301 to PV319: names that must lead somewhere: in the file, in the evidence, in the code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pv.contract.claims import texts_of
from pv.contract.near import nearest
from pv.rules.cited import Citation, NamedWithoutFile, cited_by
from pv.rules.finding import WARNING, Finding, Loc, text
from pv.rules.python_names import defined_in
from pv.rules.rings import rings
from pv.rules.view import View

_LONGEST_WAY = 6
# Suggestions out of more names than this would cost more than they help.
_ENOUGH = 300
BLOCKS = ("algorithm_evidence", "functional_evidence", "discharge_evidence", "evidence_discharged_by")
_SOURCE = re.compile(r"(?:equations|proof_obligations)\.(?P<name>[\w-]+)")
_BUILT_IN_SUBJECTS = frozenset({"code", "tiny-teacher"})


def unbound(view: View) -> Iterator[Finding]:
    """`binds_to` names an equation or an obligation of this file."""
    for loc, entry in view.own:
        for place, name in _each(entry.get("binds_to"), (*loc, "binds_to")):
            if name not in view.targets:
                yield _names_nothing(place, name, "binds_to", view.targets, "an equation or obligation id")


def harness_obligations(view: View) -> Iterator[Finding]:
    """A harness proves an obligation or an equation of this file, by name."""
    for loc, entry in view.harnesses:
        name = text(entry, "obligation")
        properties = (text(obligation, "property", "statement") for _, obligation in view.obligations)
        if name and name not in view.targets and name not in properties:
            yield _names_nothing((*loc, "obligation"), name, "obligation", view.targets, "an obligation id")


def preconditions(view: View) -> Iterator[Finding]:
    """A precondition names another claim of this file."""
    ids = {entry["id"]: None for _, entry in view.claims if isinstance(entry.get("id"), str)}
    for loc, entry in view.own:
        for place, name in _each(entry.get("precondition"), (*loc, "precondition")):
            if name not in ids:
                yield _names_nothing(place, name, "precondition", ids, "the id of a claim")


def circular_preconditions(view: View) -> Iterator[Finding]:
    """Claims that wait for each other are INCONCLUSIVE for ever."""
    waits = {
        entry["id"]: (loc, texts_of(entry.get("precondition")))
        for loc, entry in view.own
        if isinstance(entry.get("id"), str) and entry.get("precondition")
    }
    for ring in rings({name: following for name, (_, following) in waits.items()}):
        yield Finding(
            (*waits[ring[0]][0], "precondition"),
            f"the precondition leads back to itself: {_way([*ring, ring[0]])}",
            expected="claims that can be settled one after another",
            found="a ring",
            help="take one of them out",
        )


def _way(names: list[str]) -> str:
    return " -> ".join(names if len(names) <= _LONGEST_WAY else [*names[:_LONGEST_WAY], "…", names[-1]])


def unlisted_parents(view: View) -> Iterator[Finding]:
    """The parent of a subcontract is a dependency."""
    listed = texts_of(view.metadata.get("depends_on"))
    for loc, entry in view.obligations:
        parent = text(entry, "parent_contract")
        if parent and entry.get("type") == "subcontract" and parent not in listed:
            yield Finding(
                (*loc, "parent_contract"),
                f"proof_obligations[{loc[1]}].parent_contract '{parent}' must be listed in metadata.depends_on",
                expected=f"one of: {', '.join(listed)}" if listed else f"`depends_on: [{parent}]`",
                found=f"`{parent}`",
                help="add it to metadata.depends_on",
            )


def threshold_sources(view: View) -> Iterator[Finding]:
    """A threshold that says where its bound comes from says it rightly."""
    for loc, entry in view.own:
        thresholds = entry.get("thresholds")
        for name, threshold in thresholds.items() if isinstance(thresholds, dict) else ():
            source = _SOURCE.match(text(threshold, "source")) if isinstance(threshold, dict) else None
            if source is not None and source["name"] not in view.targets:
                place = (*loc, "thresholds", name, "source")
                what = "an equation or obligation id"
                yield _names_nothing(place, source["name"], "source", view.targets, what)


def unknown_subjects(view: View) -> Iterator[Finding]:
    """A subject that nobody configured, and that looks like one that is: the claim would be blocked for ever."""
    known = _BUILT_IN_SUBJECTS | view.project.subjects.keys()
    for loc, entry in view.own:
        requires = entry.get("requires")
        cells = requires.get("cells") if isinstance(requires, dict) else None
        for index, cell in enumerate(cells if isinstance(cells, list) else ()):
            subject = text(cell, "subject") if isinstance(cell, dict) else ""
            if not subject or subject in known or subject.startswith("synthetic:"):
                continue
            near = nearest(subject, known)
            if near and _digits(near) == _digits(subject):  # model-2 is no slip for model-1
                yield Finding(
                    (*loc, "requires", "cells", index, "subject"),
                    f"no subject `{subject}` is configured, did you mean `{near}`?",
                    expected=f"`{near}`",
                    found=f"`{subject}`",
                    help="name it in [tool.pv.subjects], or correct it",
                )


def former_names(view: View) -> Iterator[Finding]:
    """A former id belongs to one claim: nobody has it now, and nobody else had it; likewise a former file name."""
    if "formerly" not in view.fields and "formerly" not in view.metadata:
        return
    ids = {entry["id"] for _, entry in view.claims if isinstance(entry.get("id"), str)}
    had: dict[str, str] = {}
    for loc, entry in view.own:
        own = text(entry, "id")
        seen: set[str] = set()
        for place, name in _each(entry.get("formerly"), (*loc, "formerly")):
            if name in seen:
                yield _twice(place, name)
            elif name in ids and name != own:
                yield _not_former(place, name, "which another claim of this file has now")
            elif had.setdefault(name, own) != own:
                yield _not_former(place, name, f"which {had[name]} says it had")
            seen.add(name)
    stems = list(_each(view.metadata.get("formerly"), ("metadata", "formerly")))
    for index, (place, name) in enumerate(stems):
        if name in [earlier for _, earlier in stems[:index]]:
            yield _twice(place, name)


def _twice(place: Loc, name: str) -> Finding:
    return Finding(
        place, f"`{name}` stands twice in `formerly`", expected="each once", found=f"`{name}`", help="remove one"
    )


def _not_former(place: Loc, name: str, whose: str) -> Finding:
    return Finding(
        place,
        f"`formerly` names `{name}`, {whose}: its records would count for both",
        expected="an id that no claim of this file has",
        found=f"`{name}`",
        help="remove it here, or rename the other with `pv mv`",
    )


def _digits(word: str) -> str:
    return "".join(letter for letter in word if letter.isdigit())


# ---------------------------------------------------------------------------------------------------- evidence


def missing_files(view: View) -> Iterator[Finding]:
    """A file that the evidence cites exists."""
    for each in _citations(view):
        path = _resolved(view, each.path)
        if path is not None:
            continue
        parts = PurePosixPath(each.path).parts
        here = len(parts) < 2 or (view.project.root / parts[0]).is_dir()
        yield Finding(
            each.loc,
            f"the evidence cites `{each.path}`, which does not exist",
            expected=f"a file below {view.project.root.name}/",
            found="nothing",
            help="correct the path, or drop the evidence"
            if here
            else f"there is no folder `{parts[0]}` here: is this the tree that the contract speaks of?",
            severity=None if here else WARNING,
        )


def undefined_names(view: View) -> Iterator[Finding]:
    """A name that the evidence cites is defined in the Python file it is said to be in."""
    for each in _citations(view):
        path = _resolved(view, each.path)
        if each.name and path is not None and path.suffix == ".py":
            names = defined_in(path)
            if not _defines(names.qualified, path, each.name):
                yield _undefined(view, each.loc, each.name, [path], names.qualified, names.why_not)
    for files, listed in _listed_names(view):
        python = [path for path in files if path.suffix == ".py"]
        if not python or len(python) < len(files):
            continue  # a file in another language may define it
        known = [defined_in(path) for path in python]
        if not any(_defines(names.qualified, path, listed.name) for names, path in zip(known, python, strict=True)):
            everything = frozenset().union(*(names.qualified for names in known))
            why_not = next((names.why_not for names in known if names.why_not), "")
            yield _undefined(view, listed.loc, listed.name, python, everything, why_not)


def names_without_a_file(view: View) -> Iterator[Finding]:
    """`function_names` beside no `file_paths` can be checked by nobody."""
    for loc, entry in view.own:
        block = entry.get("algorithm_evidence")
        if isinstance(block, dict) and block.get("function_names") and not block.get("file_paths"):
            yield Finding(
                (*loc, "algorithm_evidence", "function_names"),
                "the evidence names functions and no file that defines them",
                expected="`file_paths:` beside `function_names:`",
                found="nothing",
                help="add the files, so that a name that goes is noticed",
                key=True,
            )


def _defines(qualified: frozenset[str], path: Path, name: str) -> bool:
    """Whether `name` is defined, also when it begins with (the end of) the file's own dotted module name."""
    if name in qualified:
        return True
    parts = name.split(".")
    module = [*path.parts[:-1], path.stem] if path.stem != "__init__" else list(path.parts[:-1])
    for count in range(1, len(parts)):
        if module[-count:] == parts[:count] and ".".join(parts[count:]) in qualified:
            return True
    return False


def _undefined(view: View, loc: Loc, name: str, files: list[Path], qualified: frozenset[str], why_not: str) -> Finding:
    shown = ", ".join(_shown(view, path) for path in files)
    if why_not:
        return Finding(loc, f"`{name}` cannot be looked up: {shown} {why_not}", help="mend the file")
    near = nearest(name, qualified)
    return Finding(
        loc,
        f"the evidence cites `{name}`, which {shown} does not define",
        expected=f"a function, class, method, constant or test of {shown}",
        found=f"`{name}`",
        help=f"did you mean `{near}`?" if near else "correct the name, or drop the evidence",
    )


def _citations(view: View) -> Iterator[Citation]:
    for loc, entry in view.own:
        for name in BLOCKS:
            if name in entry:
                yield from cited_by(entry[name], (*loc, name)).files
    for loc, gate in view.entries("gates"):
        if "evidence_discharged_by" in gate:
            yield from cited_by(gate["evidence_discharged_by"], (*loc, "evidence_discharged_by")).files


def _listed_names(view: View) -> Iterator[tuple[list[Path], NamedWithoutFile]]:
    """(the files of the block, a name of its `function_names`)."""
    for loc, entry in view.own:
        block = entry.get("algorithm_evidence")
        if isinstance(block, dict) and block.get("function_names"):
            cited = cited_by(block, (*loc, "algorithm_evidence"))
            files = [path for each in cited.files if (path := _resolved(view, each.path)) is not None]
            for name in cited.names:
                yield files, name


def _resolved(view: View, cited: str) -> Path | None:
    """The file that is meant: relative to the project, else to the contract; remembered as looked at."""
    for base in (view.project.root, view.loaded.path.parent):
        path = base / cited
        view.looked_at[path] = None
        if path.exists():
            return path
    return None


def _shown(view: View, path: Path) -> str:
    try:
        return path.relative_to(view.project.root).as_posix()
    except ValueError:
        return path.as_posix()


def _names_nothing(loc: Loc, name: str, field: str, known: Iterable[str], what: str) -> Finding:
    known = list(known)
    near = nearest(name, known) if len(known) <= _ENOUGH else None
    listing = f"one of: {', '.join(known[:6])}{', …' if len(known) > 6 else ''}" if known else f"{what} (there is none)"
    return Finding(
        loc,
        f"`{field}` names `{name[:60]}`, which is nothing in this file",
        expected=f"{what} of this file",
        found=f"`{name[:60]}`",
        help=f"did you mean `{near}`?" if near else listing,
    )


def _each(value: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """(place, text) of a text or of the texts of a list."""
    if isinstance(value, str):
        yield loc, value
    elif isinstance(value, list):
        yield from (((*loc, index), item) for index, item in enumerate(value) if isinstance(item, str))
