"""A name -> the files of a new claim that works at once: its contract, its check with a control, a passing test.

What is written is a small true claim about a function that stands in the check module itself. It earns
PARTIAL_ALGORITHM_LEVEL, and no more: the author puts real code in its place and raises the level.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pv.contract.claims import FALSIFIERS, Contract
from pv.contract.load import Loaded, load_all
from pv.contract.project import Project
from pv.diagnostics.model import TextEdit
from pv.document.edits import apply
from pv.document.prove import NotProven, proves
from pv.document.reader import Document, parse
from pv.falsify.discovery import module_name

STEM = re.compile(r"[a-z0-9]+(?:[-.][a-z0-9]+)*")
VERSIONED = re.compile(r".*-v\d+")
CLAIM_ID = re.compile(r"FALSIFY(?:-[A-Z0-9]+)+")
TESTS = "tests"


class ScaffoldError(ValueError):
    """Nothing was made: the sentence says what was expected, what was found and what to do."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """One file to write. `before` is what it holds now, None for one that must not exist."""

    path: Path
    content: bytes
    before: bytes | None = None


def new_contract(project: Project, name: str) -> tuple[NewFile, ...]:
    """The files of contract `name` (`-v1` is added where it has no version). Raises ScaffoldError."""
    if not STEM.fullmatch(name):
        raise ScaffoldError(f"expected a name in lower case with dashes, such as `rope-norm`, found {name!r}")
    stem = name if VERSIONED.fullmatch(name) else f"{name}-v1"
    claim_id = f"FALSIFY-{re.sub(r'-v[0-9]+$', '', stem).replace('.', '-').upper()}-001"
    _refuse_known(project, claim_id)
    head = HEAD.format(stem=stem, today=f"{datetime.now(UTC):%Y-%m-%d}")
    entry = "".join(f"  {line}\n" for line in _entry(claim_id, "[stays_inside, PO-1]"))
    files = (
        NewFile(_contract_path(project, stem), f"{head}{entry}".encode()),
        NewFile(_module_path(project, stem), _check(claim_id, MODULE.format(stem=stem)).encode()),
        *_test(project, _contract_path(project, stem)),
    )
    for file in files:
        if file.path.exists():
            raise ScaffoldError(f"{project.display(file.path)} exists and is not overwritten; choose another name")
    return files


def new_falsifier(project: Project, claim_id: str, stem: str) -> tuple[NewFile, ...]:
    """The contract with one more entry, its check module with one more check, and a test where there is none.

    Raises ScaffoldError; where the contract cannot be edited safely, with the entry to paste by hand.
    """
    if not CLAIM_ID.fullmatch(claim_id):
        raise ScaffoldError(f"expected an id like FALSIFY-ROPE-002, found {claim_id!r}")
    _refuse_known(project, claim_id)
    loaded, contract = _contract(project, stem)
    path = _module_path(project, stem)
    source = path.read_bytes() if path.exists() else None
    text = MODULE.format(stem=stem) if source is None else _decoded(path, source)
    return (
        NewFile(loaded.path, _with_entry(loaded, contract, claim_id), _bytes(loaded)),
        NewFile(path, _check(claim_id, text, path).encode(), source),
        *_test(project, loaded.path),
    )


# --- where things stand -----------------------------------------------------------------------------------------------


def _contract_path(project: Project, stem: str) -> Path:
    """Beside the contracts that the first glob of the project finds."""
    pattern = project.contracts[0] if project.contracts else "contracts/*.yaml"
    folder = Path(pattern).parent
    path = project.root / folder / f"{stem}.yaml"
    if any(mark in str(folder) for mark in "*?["):
        raise ScaffoldError(f"expected the first of `contracts` in [tool.pv] to name one folder, found {pattern!r}")
    return path


def _module_path(project: Project, stem: str) -> Path:
    return project.falsifiers / f"{module_name(stem)}.py"


def _test(project: Project, contract: Path) -> Iterator[NewFile]:
    """The test of a contract tries whatever the contract claims: one that is there needs no change."""
    path = project.root / TESTS / f"test_{module_name(contract.stem)}.py"
    if not path.exists():
        relative = contract.resolve().relative_to(project.root.resolve()).as_posix()
        yield NewFile(path, TEST.format(stem=contract.stem, contract=relative).encode())


def _contract(project: Project, stem: str) -> tuple[Loaded, Contract]:
    loaded = {one.stem: one for one in load_all((), project)}
    if stem not in loaded:
        near = get_close_matches(stem, loaded, n=1)
        hint = f"did you mean {near[0]}?" if near else f"`pv new contract {stem}` makes one"
        raise ScaffoldError(f"expected the stem of one of {len(loaded)} contracts, found {stem!r}; {hint}")
    contract = loaded[stem].contract
    if contract is None:
        raise ScaffoldError(f"{loaded[stem].display} is not a sound contract; `pv validate` says why")
    return loaded[stem], contract


def _refuse_known(project: Project, claim_id: str) -> None:
    for one in load_all((), project):
        if one.contract is not None and one.contract.claim(claim_id):
            raise ScaffoldError(f"{one.display} has {claim_id} already; choose another id")


# --- the entry --------------------------------------------------------------------------------------------------------


def _with_entry(loaded: Loaded, contract: Contract, claim_id: str) -> bytes:
    """The contract with the entry after its last one, proven to be that and nothing else."""
    document = loaded.document
    assert document is not None, "a contract has a document"
    targets = [*contract.equations, *(o.id for o in contract.obligations if o.id)]
    lines = _entry(claim_id, targets[0] if targets else "")
    entry: Any = parse("\n".join(lines).encode(), "the new entry").data
    intended = {**document.data, FALSIFIERS: [*(document.data.get(FALSIFIERS) or ()), *entry]}
    try:
        edit, line = _insertion(document, contract, lines)
        content = document.encode(apply(document.text, [edit]))
        proves(document.content, content, intended, {line})
    except NotProven as why:
        told = "\n".join(f"  {line}" for line in lines)
        raise ScaffoldError(f"{loaded.display} cannot be edited safely: {why.reason}; add by hand:\n{told}") from why
    return content


def _insertion(document: Document, contract: Contract, lines: list[str]) -> tuple[TextEdit, int]:
    """The edit, and the line after which it adds. Raises NotProven where there is no plain place for it."""
    text, newline = document.text, document.newline
    if contract.falsifiers:
        span = document.span((FALSIFIERS, len(contract.falsifiers) - 1))
        collection = document.collection((FALSIFIERS,))
        if span is None or collection is None or collection.flow or collection.alias:
            raise NotProven("its falsifiers are not a list with a dash for each")
        lead = text[span.start - (span.column - 1) : span.start]
        if lead.strip() != "-":
            raise NotProven("its last falsifier does not begin on the line of its dash")
        indent, end = lead[: lead.index("-")], len(text[: span.end].rstrip())
    elif FALSIFIERS in document.data:
        raise NotProven("its list of falsifiers is there and empty")
    else:
        lines, indent, end = [f"{FALSIFIERS}:", *(f"  {line}" for line in lines)], "", len(text.rstrip())
    stop = text.find("\n", end)
    added = newline.join(indent + line for line in lines)
    if stop < 0:
        return TextEdit(len(text), len(text), newline + added + newline), text.count("\n", 0, end) + 1
    return TextEdit(stop + 1, stop + 1, added + newline), text.count("\n", 0, end) + 1


def _entry(claim_id: str, binds_to: str) -> list[str]:
    lines = ENTRY.format(id=claim_id, suffix=_suffix(claim_id)).splitlines()
    return [line.format(binds_to=binds_to) for line in lines if binds_to or "{binds_to}" not in line]


def _bytes(loaded: Loaded) -> bytes:
    assert loaded.document is not None, "a contract has a document"
    return loaded.document.content


# --- the check --------------------------------------------------------------------------------------------------------


def _check(claim_id: str, module: str, path: Path = Path("the module")) -> str:
    """The source of a check module with one more check. Imports that it needs and has not are added to its others."""
    source = _with_imports(module.replace("\r\n", "\n"), path).rstrip("\n")
    source += CHECK.format(id=claim_id, suffix=_suffix(claim_id))
    return source.replace("\n", "\r\n") if "\r\n" in module else source


def _suffix(claim_id: str) -> str:
    return claim_id.removeprefix("FALSIFY-").lower().replace("-", "_")


def _with_imports(module: str, path: Path) -> str:
    try:
        tree = ast.parse(module)
    except SyntaxError as error:
        raise ScaffoldError(f"expected Python in {path}, found {error.msg} at line {error.lineno}") from None
    bound = dict(_bound(tree))
    clash = next((name for name, wanted in NEEDED.items() if bound.get(name, wanted) != wanted), None)
    if clash:
        raise ScaffoldError(
            f"expected {clash!r} of {path} to be {NEEDED[clash]}, found {bound[clash]}; rename it there"
        )
    lines = module.splitlines(keepends=True)
    last = max((node.end_lineno or 0 for node in tree.body if _is_head(node)), default=0)
    missing = [line for line, names in IMPORTS.items() if any(name not in bound for name in names)]
    gap = [] if any(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body) else ["\n"]
    if last and not lines[last - 1].endswith("\n"):
        lines[last - 1] += "\n"
    return "".join([*lines[:last], *(gap if last else []), *missing, *lines[last:]])


def _is_head(node: ast.stmt) -> bool:
    """Whether imports may stand after this statement: it is one, or the docstring."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.lineno == 1
    return docstring or isinstance(node, ast.Import | ast.ImportFrom)


def _bound(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, what it is) of the names that the module's imports and definitions bind."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, f"defined at line {node.lineno}"


def _decoded(path: Path, source: bytes) -> str:
    try:
        return source.decode()
    except UnicodeDecodeError:
        raise ScaffoldError(f"expected UTF-8 in {path}") from None


# --- the texts --------------------------------------------------------------------------------------------------------

IMPORTS: Mapping[str, tuple[str, ...]] = {
    "import random\n": ("random",),
    "from unittest.mock import patch\n": ("patch",),
    "\nfrom pv.falsify import Control, falsifier, measure\n": ("Control", "falsifier", "measure"),
}
NEEDED: Mapping[str, str] = {
    "random": "random",
    "patch": "unittest.mock.patch",
    "Control": "pv.falsify.Control",
    "falsifier": "pv.falsify.falsifier",
    "measure": "pv.falsify.measure",
}

MODULE = '"""{stem}: what it claims, attacked."""\n'

HEAD = """\
metadata:
  version: 0.1.0
  status: DRAFT
  kind: schema
  created: "{today}"
  author: the authors of {stem}
  description: Every result lies inside the range that was asked for.
  references: ["the documentation of the function under attack"]

equations:
  stays_inside:
    formula: "low <= clamp(x, low, high) <= high"
    domain: "finite numbers, low <= high"
    invariants:
      - "no result lies outside [low, high]"

proof_obligations:
  - id: PO-1
    type: bound
    property: "the result lies between the bounds, both included"

falsification_tests:
"""

ENTRY = """\
- id: {id}
  rule: no result leaves its range
  prediction: of 1000 random calls of clamp_{suffix} none returns a value outside its range
  if_fails: values out of range reach the caller; clamp at both ends
  binds_to: {{binds_to}}
  thresholds:
    outside: {{{{op: "==", value: 0, unit: calls}}}}
  cost: quick
  status: UNBOUND
"""

CHECK = '''


def clamp_{suffix}(value, low, high):
    """The code under attack. Import your own in its place, name it in `attacks`, and raise the level to "live"."""
    return max(low, min(high, value))


def forgets_the_upper_bound_{suffix}(context):
    """The planted defect. The check must see it, or its survival proves nothing."""
    return patch.dict(globals(), {{"clamp_{suffix}": lambda value, low, high: max(low, value)}})


@falsifier(
    "{id}",
    level="algorithm",
    controls=[Control("forgets the upper bound", plant=forgets_the_upper_bound_{suffix}, breaks="outside")],
)
def no_result_leaves_its_range_{suffix}(context):
    """Draws numbers and ranges, and counts the results that lie outside."""
    draw = random.Random(context.seed)
    outside = 0
    for _ in range(1000):
        low, high = sorted(draw.uniform(-10, 10) for _ in range(2))
        outside += not low <= clamp_{suffix}(draw.uniform(-20, 20), low, high) <= high
    return measure("outside", outside, unit="calls", n=1000)
'''

TEST = '''\
"""{stem}: every claim that it makes is tried, and every planted defect must be caught."""

from pathlib import Path

from pv.falsify.trial import attempts, explain

CONTRACT = Path(__file__).parent.parent / "{contract}"


def test_every_claim_survives_and_every_planted_defect_is_caught():
    for attempt in attempts(CONTRACT):
        assert attempt.verdict == "SURVIVED", explain(attempt)
'''
