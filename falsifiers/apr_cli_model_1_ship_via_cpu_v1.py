"""MODEL-1 ships through the CPU, and says so: apr-cli-model-1-ship-via-cpu-v1, each claim attacked."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

from pv.falsify import Control, Measurement, falsifier, harness, measure

from ._gpu import PROMPT
from ._ground import holds
from ._plant import child_patch, holding

CONTRACT = "contracts/apr-cli-model-1-ship-via-cpu-v1.yaml"
ID = "apr-cli-model-1-ship-via-cpu-v1"
PAGE = "docs/gpu.md"
HEADING = "MODEL-1 known issue"
ANSWER = re.compile(r"equals|4")
CLOSURES = ("none", "a", "b", "c")

_CHANGED: ContextVar[Callable[[str, str], str]] = ContextVar(
    "how a control changes the text of a file, by its path from the root", default=lambda _path, text: text
)


def text_of(context: Any, path: str) -> str:
    """A file of the project, as a control may have changed it."""
    place = context.project / path
    return _CHANGED.get()(path, place.read_text("utf-8") if place.exists() else "")


@contextlib.contextmanager
def changed(change: Callable[[str, str], str]) -> Iterator[None]:
    """Inside, the checks read files through `change(path, text)`."""
    with holding(_CHANGED, change):
        yield


def section_of(text: str) -> str:
    """The known-issue section of the user's page: from its heading to the next of the same level; "" when absent."""
    found = re.search(rf"^(#+) {re.escape(HEADING)}$(.*?)(?=^\1 |\Z)", text, re.M | re.S)
    return found.group(2).strip() if found else ""


def contract_of(context: Any) -> dict[str, Any]:
    """The contract's data."""
    data: dict[str, Any] = yaml.safe_load(text_of(context, CONTRACT))
    return data


# --- 001 and its bounded proof: the CPU answers ----------------------------------------------------------------------


@contextlib.contextmanager
def upside_down(context: Any) -> Iterator[None]:
    """The CPU's logits have the wrong sign: it answers something, fluently wrong."""
    code = (
        "advance = m.TorchSession._advance\nm.TorchSession._advance = lambda self, *a, **k: -advance(self, *a, **k)\n"
    )
    with child_patch(context, "pv.backends.torch_session", code):
        yield


@contextlib.contextmanager
def talks_on(context: Any) -> Iterator[None]:
    """The limit of five tokens is ignored."""
    code = (
        "limited = m.generate\n"
        "def unlimited(*a, max_tokens, **k):\n"
        "    return limited(*a, max_tokens=max_tokens + 4, **{**k, 'stops': frozenset()})\n"
        "m.generate = unlimited\n"
    )
    with child_patch(context, "pv.model.generate", code):
        yield


@falsifier(
    "FALSIFY-MODEL-1-SHIP-CPU-001",
    level="live",
    controls=[
        Control("logits of the wrong sign", plant=upside_down, breaks="answered"),
        Control("the limit of tokens ignored", plant=talks_on, breaks="tokens"),
    ],
    attacks=["pv.cli.run.run", "pv.backends.cpu.open_cpu", "pv.model.generate.generate"],
    timeout=1800.0,
)
def the_cpu_answers(context: Any) -> list[Measurement]:
    """`pv run --no-gpu` on the cell's model, five tokens, greedy."""
    code, answer = asked(context)
    context.note(f"{PROMPT} -> {answer.get('text', '')!r}")
    return [
        holds("answered", bool(ANSWER.search(answer.get("text", "")))),
        measure("tokens", len(answer.get("tokens", [])), unit="tokens"),
        measure("exit_code", code, unit="code"),
    ]


@harness(
    "KH-MODEL-1-SHIP-CPU-001",
    bound=1,
    level="live",
    controls=[Control("logits of the wrong sign", plant=upside_down, breaks="wrong_answers")],
    attacks=["pv.cli.run.run", "pv.backends.cpu.open_cpu"],
    timeout=1800.0,
)
def the_one_prompt_is_answered(context: Any) -> list[Measurement]:
    """All prompts of the bound: one."""
    _, answer = asked(context)
    wrong = not ANSWER.search(answer.get("text", ""))
    context.exhaust(1, 1, True)
    return [measure("wrong_answers", int(wrong), unit="answers"), measure("cases", 1, unit="cases")]


def asked(context: Any) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of one run."""
    model = str(context.subject_path())
    done = context.run_pv("run", model, "--prompt", PROMPT, "--no-gpu", "--max-tokens", "5", "--json", timeout=1500)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}


# --- 002, 004, 006: what users are told ------------------------------------------------------------------------------


@contextlib.contextmanager
def section_removed(context: Any) -> Iterator[None]:
    """The heading is renamed, and the section is gone."""
    with changed(lambda path, text: text.replace(HEADING, "History") if path == PAGE else text):
        yield


@contextlib.contextmanager
def section_emptied(context: Any) -> Iterator[None]:
    """The heading stays, its text goes."""
    with changed(lambda path, text: text.replace(section_of(text), "See elsewhere.") if path == PAGE else text):
        yield


@falsifier(
    "FALSIFY-MODEL-1-SHIP-CPU-002",
    level="live",
    controls=[
        Control("the section removed", plant=section_removed, breaks="section_kept"),
        Control("the section emptied", plant=section_emptied, breaks="words_in_section"),
    ],
    data=["docs/gpu.md"],
)
def the_section_stays(context: Any) -> list[Measurement]:
    """While the closure is none, the page has the section, and the section says that the issue is open."""
    section = section_of(text_of(context, PAGE))
    is_open = contract_of(context)["closure"]["kind"] == "none"
    return [
        holds("section_kept", not is_open or (bool(section) and "open" in section.lower())),
        measure("words_in_section", len(section.split()) if is_open else 60, unit="words"),
    ]


@contextlib.contextmanager
def warning_taken_out(context: Any) -> Iterator[None]:
    """The section no longer warns."""
    with changed(lambda path, text: re.sub(r"(?i)warning|do not", "", text) if path == PAGE else text):
        yield


@contextlib.contextmanager
def flag_taken_out(context: Any) -> Iterator[None]:
    """The section no longer names the flag."""
    with changed(lambda path, text: text.replace("--no-gpu", "an option") if path == PAGE else text):
        yield


@contextlib.contextmanager
def flag_renamed(context: Any) -> Iterator[None]:
    """The command has another name for the flag."""
    code = (
        "for option in m.run.params:\n"
        "    option.opts = [name.replace('--no-gpu', '--cpu-only') for name in option.opts]\n"
    )
    with child_patch(context, "pv.cli.run", code):
        yield


@falsifier(
    "FALSIFY-MODEL-1-SHIP-CPU-004",
    level="live",
    controls=[
        Control("the warning taken out", plant=warning_taken_out, breaks="warned"),
        Control("the flag taken out of the page", plant=flag_taken_out, breaks="way_around_explained"),
        Control("the flag renamed in the command", plant=flag_renamed, breaks="flag_exists"),
    ],
    attacks=["pv.cli.run.run"],
    data=["docs/gpu.md"],
)
def users_are_warned(context: Any) -> list[Measurement]:
    """The section itself warns and explains; the flag that it explains exists."""
    section = section_of(text_of(context, PAGE))
    sentences = re.split(r"(?<=\.)\s+", section)
    explained = [s for s in sentences if "--no-gpu" in s and re.search(r"CPU", s)]
    helped = context.run_pv("run", "--help", timeout=120)
    return [
        holds("warned", bool(re.search(r"(?i)warning", section)) and "GPU" in section),
        holds("way_around_explained", bool(explained)),
        holds("flag_exists", "--no-gpu" in helped.stdout),
    ]


@contextlib.contextmanager
def contract_forgotten(context: Any) -> Iterator[None]:
    """The section names no contract."""
    with changed(lambda path, text: text.replace(ID, "our contract") if path == PAGE else text):
        yield


@contextlib.contextmanager
def section_forgotten(context: Any) -> Iterator[None]:
    """The contract names no section."""
    anchor = "docs/gpu.md#model-1-known-issue"
    with changed(lambda path, text: text.replace(anchor, "") if path == CONTRACT else text):
        yield


@falsifier(
    "FALSIFY-MODEL-1-SHIP-CPU-006",
    level="live",
    controls=[
        Control("the section forgets the contract", plant=contract_forgotten, breaks="section_names_contract"),
        Control("the contract forgets the section", plant=section_forgotten, breaks="contract_names_section"),
    ],
    data=["docs/gpu.md"],
)
def they_name_each_other(context: Any) -> list[Measurement]:
    """The id in the section; the section's anchor, which must exist, among the contract's references."""
    section = section_of(text_of(context, PAGE))
    anchor = f"{PAGE}#{HEADING.lower().replace(' ', '-')}"
    references = contract_of(context)["metadata"]["references"]
    return [
        holds("section_names_contract", ID in section),
        holds("contract_names_section", bool(section) and any(str(r).startswith(anchor) for r in references)),
    ]


# --- 003: the contract itself ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def misspelt(context: Any) -> Iterator[None]:
    """A copy whose first `prediction` is misspelt."""
    wrong = "    predicton:"
    with changed(lambda path, text: text.replace("    prediction:", wrong, 1) if path == CONTRACT else text):
        yield


@falsifier(
    "FALSIFY-MODEL-1-SHIP-CPU-003",
    level="live",
    controls=[Control("a misspelt key", plant=misspelt, breaks="errors")],
    attacks=["pv.cli.validate.validate"],
)
def the_contract_is_valid(context: Any) -> list[Measurement]:
    """`pv validate` as a user runs it; findings about statuses (PV4xx) are left aside, as they would be circular."""
    path: Path = context.project / CONTRACT
    if text_of(context, CONTRACT) != path.read_text("utf-8"):
        path = context.scratch / path.name
        path.write_text(text_of(context, CONTRACT), "utf-8")
    ran = context.run_pv("validate", "--output-format", "json", "--no-cache", str(path), timeout=120)
    told = json.loads(ran.stdout)
    errors = [d for d in told["diagnostics"] if d["severity"] == "error" and not d["code"].startswith("PV4")]
    return [
        measure("errors", len(errors), unit="findings"),
        measure("files_checked", told["summary"]["contracts"], unit="files"),
    ]


# --- 005 and its bounded proof: the version --------------------------------------------------------------------------


def version_fits(major: int, closure: str) -> bool:
    """The rule: 1.x while nothing is closed (or the cause was only renamed), 2 and above only with a or b."""
    if closure not in CLOSURES:
        return False
    return closure in ("none", "c") if major == 1 else major >= 2 and closure in ("a", "b")


_RULE: ContextVar[Callable[[int, str], bool]] = ContextVar("the rule under attack", default=version_fits)


@contextlib.contextmanager
def promoted_without_closure(context: Any) -> Iterator[None]:
    """Somebody has written version 2.0.0, and nothing is closed."""
    with changed(lambda path, text: re.sub(r"version: 1\.\S+", "version: 2.0.0", text) if path == CONTRACT else text):
        yield


@contextlib.contextmanager
def invented_closure(context: Any) -> Iterator[None]:
    """A closure that the contract does not know."""
    with changed(lambda path, text: text.replace("kind: none", "kind: d", 1) if path == CONTRACT else text):
        yield


@contextlib.contextmanager
def lenient_rule(context: Any) -> Iterator[None]:
    """A rule that takes any closure, and none, for a second version."""
    with holding(_RULE, lambda major, closure: major >= 2 or closure in ("none", "c")):
        yield


@falsifier(
    "FALSIFY-MODEL-1-SHIP-CPU-005",
    level="live",
    controls=[
        Control("version 2 without a closure", plant=promoted_without_closure, breaks="version_fits_closure"),
        Control("an invented closure", plant=invented_closure, breaks="closure_known"),
    ],
)
def the_version_signals_the_scope(context: Any) -> list[Measurement]:
    """The contract's own version and closure."""
    contract = contract_of(context)
    major, closure = int(str(contract["metadata"]["version"]).split(".")[0]), str(contract["closure"]["kind"])
    context.note(f"major {major}, closure {closure}")
    return [
        holds("version_fits_closure", version_fits(major, closure)),
        holds("closure_known", closure in CLOSURES),
    ]


@harness(
    "KH-MODEL-1-SHIP-CPU-002",
    bound=3,
    controls=[Control("a rule that takes any closure", plant=lenient_rule, breaks="wrong_verdicts")],
)
def the_rule_is_the_equation(context: Any) -> list[Measurement]:
    """Every major version from 1 to 3 with every closure, against a table written out by hand."""
    allowed = {(1, "none"), (1, "c"), (2, "a"), (2, "b"), (3, "a"), (3, "b")}
    cases = list(itertools.product((1, 2, 3), CLOSURES))
    wrong = [case for case in cases if _RULE.get()(*case) != (case in allowed)]
    context.exhaust(3, len(cases), True)
    return [measure("wrong_verdicts", len(wrong), unit="cases"), measure("cases", len(cases), unit="cases")]
