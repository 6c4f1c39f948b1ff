"""The code -> docs/reference/*.md: commands, exit codes, rules, schemas, settings, stages, thresholds, planted defects.

python scripts/reference.py            write the pages
python scripts/reference.py --check    exit 1 if a page is not what the code says
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
HEAD = "<!-- Written by `python scripts/reference.py` from the code; not edited by hand. -->\n"
_FIELD = re.compile(r"^    (?P<name>\w+): (?P<type>.+?)(?: = .+?)?(?:  # (?P<meaning>.+))?$", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    check = parser.parse_args(arguments).check
    written = {name: f"{HEAD}\n{page()}" for name, page in PAGES.items()}
    stale = [name for name, text in written.items() if _read(FOLDER / name) != text]
    extra = sorted({path.name for path in FOLDER.glob("*.md")} - set(PAGES))
    for name in (*stale, *extra):
        print(f"docs/reference/{name} is {'not of this program' if name in extra else 'not current'}", file=sys.stderr)
    if check:
        return 1 if stale or extra else 0
    FOLDER.mkdir(exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(written[name], "utf-8", newline="\n")
    return 0


def _read(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


# ----------------------------------------------------------------------------------------------------- Markdown


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar in a cell is escaped, a line break becomes a space."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Text as inline code; empty stays empty."""
    return f"`{text}`" if text else ""


# ----------------------------------------------------------------------------------------------------- commands


def commands() -> str:
    from pv.cli.main import COMMANDS

    parts = ["# Commands\n", "`pv --help` prints this list, `pv COMMAND --help` each part of it.\n"]
    for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
        rows = [(f"[`pv {n}`](#pv-{n})", e.help) for n, e in COMMANDS.items() if e.section == section]
        parts += [f"**{section}**\n", table(("command", "does"), rows)]
    for path, command in command_tree():
        parts.append(_command(path, command))
    return "\n".join(parts)


def command_tree() -> Iterator[tuple[str, click.Command]]:
    """Every command with its path (`pv evidence show`), in the order of `pv --help`."""
    from pv.cli.main import pv

    context = click.Context(pv, info_name="pv")
    for name in pv.list_commands(context):
        command = pv.get_command(context, name)
        assert command is not None
        yield f"pv {name}", command
        if isinstance(command, click.Group):
            inner = click.Context(command, info_name=name, parent=context)
            for part in command.list_commands(inner):
                below = command.get_command(inner, part)
                assert below is not None
                yield f"pv {name} {part}", below


def _command(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path, max_content_width=10_000)
    level = "##" if path.count(" ") == 1 else "###"
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"{level} {path}\n", code(usage) + "\n", *_help(command.help or "")]
    options = [record for option in command.params if (record := option.get_help_record(context))]
    if options:
        parts.append(table(("option", "does"), [(code(names), text) for names, text in options]))
    return "\n".join(parts)


def _help(text: str) -> Iterator[str]:
    """Paragraphs of a help text: wrapped ones as they are, kept ones as a list; commands in them as code."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.strip("\n").splitlines()
        if lines and lines[0].strip() == "\b":
            yield from _kept(lines[1:])
        elif lines:
            yield _words(" ".join(line.strip() for line in lines)) + "\n"


def _kept(lines: Sequence[str]) -> Iterator[str]:
    for kind_of_line, group in groupby(lines, key=_kind_of_line):
        kept = list(group)
        if kind_of_line == "program":
            yield from (f"- `{line.strip()}`" for line in kept)
            yield ""
        elif kind_of_line == "text" and len(kept) == 1 and "  " not in kept[0].strip():
            yield _words(kept[0].strip().rstrip(":")) + ":\n"
        elif kind_of_line == "text":
            yield "```text\n" + textwrap.dedent("\n".join(kept)) + "\n```\n"


def _kind_of_line(line: str) -> str:
    words = line.strip()
    return "program" if words.startswith(("pv ", "torchrun ")) else "text" if words else "nothing"


def _words(text: str) -> str:
    """Text in which nothing outside of code can be taken for HTML."""
    parts = text.split("`")
    return "`".join(part if odd % 2 else re.sub(r"<(?=[A-Za-z/!])", "&lt;", part) for odd, part in enumerate(parts))


# --------------------------------------------------------------------------------------------------- exit codes


def exit_codes() -> str:
    from pv.cli.exit_codes import ExitCode

    meanings = _comments(inspect.getsource(ExitCode))
    rows = [(str(int(member)), code(member.name), meanings.get(member.name, "all is well")) for member in ExitCode]
    return "\n".join(
        [
            "# Exit codes\n",
            "Every command ends with one of these. Standard output carries data, standard error carries talk.\n",
            table(("code", "name", "means"), rows),
        ]
    )


def _comments(source: str) -> dict[str, str]:
    """`    NAME = 1  # words` -> {NAME: words}."""
    return {m[1]: m[2] for m in re.finditer(r"^    (\w+) = .*?  # (.+)$", source, re.MULTILINE)}


# -------------------------------------------------------------------------------------------------------- rules

FAMILIES = {
    "PV1": "The document",
    "PV2": "The shape",
    "PV3": "References",
    "PV4": "Status and evidence",
    "PV5": "Version and history",
    "PV6": "Falsifiability",
    "PV7": "Across files",
}


def rules() -> str:
    from pv.rules.table import RULES

    ordered = sorted(RULES, key=lambda rule: rule.code)
    parts = [
        "# Rules\n",
        "What `pv validate` looks for. `pv explain CODE` prints the same. Weights are those of the profiles "
        "`strict` and `compat` (`[tool.pv] profile`); a finding of weight `off` is not made. `# pv: ignore[CODE] "
        "reason` on the line, or `ignore` in the settings, silences what may be silenced.\n",
    ]
    for prefix, title in FAMILIES.items():
        rows = [r for r in ordered if r.code.startswith(prefix)]
        parts.append(f"**{title}**\n")
        parts.append(table(("code", "title", "strict", "compat"), [_row(rule) for rule in rows]))
    for prefix, title in FAMILIES.items():
        parts.append(f"## {title}\n")
        for rule in (r for r in ordered if r.code.startswith(prefix)):
            covers = f" Covers {', '.join(rule.reference)} of the reference." if rule.reference else ""
            never = "" if rule.suppressible else " Cannot be silenced."
            weight = f"*strict: {rule.strict.value}, compat: {rule.compat.value}.{never}{covers}*"
            parts.append(
                f"### {rule.code}: {_words(rule.title)} {{#{rule.code.lower()}}}\n\n{_words(rule.why)}\n\n"
                f"**Fix.** {_words(rule.fix)}\n\n{weight}\n"
            )
    return "\n".join(parts)


def _row(rule: Any) -> tuple[str, ...]:
    return (f"[{rule.code}](#{rule.code.lower()})", _words(rule.title), rule.strict.value, rule.compat.value)


# ------------------------------------------------------------------------------------------------------ schemas

CONTRACT_PARTS = (
    "ContractFile",
    "MetadataShape",
    "Equation",
    "ObligationShape",
    "Falsifier",
    "Requires",
    "CellShape",
    "BoundShape",
    "RangeShape",
    "KnownFailingShape",
    "EvidenceBlock",
    "Harness",
    "Lean",
    "QaGate",
    "VerificationSummary",
)
CONTRACT_TITLES = {
    "ContractFile": "A contract",
    "MetadataShape": "metadata",
    "Equation": "An entry of equations",
    "ObligationShape": "An entry of proof_obligations",
    "Falsifier": "An entry of falsification_tests",
    "Requires": "requires",
    "CellShape": "An entry of requires.cells",
    "BoundShape": "A threshold",
    "RangeShape": "A threshold with two bounds",
    "KnownFailingShape": "known_failing",
    "EvidenceBlock": "algorithm_evidence",
    "Harness": "An entry of kani_harnesses",
    "Lean": "lean",
    "QaGate": "qa_gate",
    "VerificationSummary": "verification_summary",
    "KernelStructure": "kernel_structure",
    "Phase": "A phase of kernel_structure",
    "EnforcementRule": "An entry of enforcement",
    "TypeInvariant": "An entry of type_invariants",
    "CoqSpec": "coq_spec",
    "CoqDefinition": "An entry of coq_spec.definitions",
    "CoqObligation": "An entry of coq_spec.obligations",
    "Beat": "beat",
    "Story": "An entry of stories",
    "ParityLedger": "parity",
    "ParityRow": "An entry of parity.rows",
    "Downgrade": "An entry of parity.downgrades",
    "ShapeContract": "A shape contract (assumes, guarantees)",
    "TensorShape": "A tensor of a shape contract",
}


def contract() -> str:
    from pv.contract.schema_export import schemas

    schema = schemas()["contract"]
    shapes = {**schema["$defs"], "ContractFile": schema}
    rest = sorted(set(shapes) - set(CONTRACT_PARTS))
    parts = [
        "# Contract schema\n",
        "The fields that pv reads. Unknown keys are allowed, near misses of these are not (PV203). `pv schema "
        "contract` prints the same as JSON Schema, `pv init` puts it where your editor finds it.\n",
    ]
    for name in (*CONTRACT_PARTS, *rest):
        shape = shapes[name]
        if "properties" not in shape:
            continue
        parts += [f"## {CONTRACT_TITLES.get(name, name)}\n", _first(shape.get("description", "")) + "\n"]
        parts.append(table(("field", "type", "meaning"), _fields(shape)))
    return "\n".join(parts)


def _first(text: str) -> str:
    return _words(" ".join(text.split()))


def _fields(shape: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    needed = set(shape.get("required", ()))
    written_last = sorted(shape["properties"].items(), key=lambda item: _is_written(item[1]))
    for name, field in written_last:
        must = "**required.** " if name in needed else ""
        yield code(name), kind(field), must + _words(field.get("description", ""))


def _is_written(field: Mapping[str, Any]) -> bool:
    return str(field.get("description", "")).startswith("written by pv")


def kind(field: Mapping[str, Any]) -> str:
    """The type of a field in words."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return _as_a_type(CONTRACT_TITLES.get(name, name))
    if "enum" in field:
        return ", ".join(code(str(word)) for word in field["enum"])
    if "const" in field:
        return code(str(field["const"]))
    if choices := field.get("anyOf") or field.get("oneOf"):
        kinds = dict.fromkeys(kind(choice) for choice in choices if choice.get("type") != "null")
        return " or ".join(word for word in kinds if word != "anything") or "anything"
    if len(field.get("allOf", ())) == 1:
        return kind(field["allOf"][0])
    types = field.get("type")
    if types == "array":
        each = kind(field["items"]) if field.get("items") else "anything"
        return f"list, each {each}" if each.startswith("[") else f"list of {each}"
    if types == "object":
        inner = field.get("additionalProperties")
        return f"names, each with {kind(inner)}" if isinstance(inner, dict) and inner else "mapping"
    words = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false"}
    if isinstance(types, list):  # text whose source is taken where a number stands
        return "text" if "string" in types else " or ".join(words[one] for one in types if one in words)
    return words.get(str(types), "anything")


def _as_a_type(title: str) -> str:
    """A title inside a sentence, as a link to its part: "An entry of X" -> [an entry of X](#an-entry-of-x)."""
    if title not in CONTRACT_TITLES.values():
        return title
    anchor = re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
    return f"[{code(title) if title.islower() else title[0].lower() + title[1:]}](#{anchor})"


def settings() -> str:
    from pv.contract.project import SETTINGS, SUBJECT_PREFIX

    rows = [(code(name), kind(setting.schema), setting.help) for name, setting in SETTINGS.items()]
    return "\n".join(
        [
            "# Settings\n",
            "The table `[tool.pv]` of the nearest `pyproject.toml`. The command line wins over a variable `PV_…`, that "
            "over the table; `pv env` says where each value came from.\n",
            table(("setting", "type", "meaning"), rows),
            f"`{SUBJECT_PREFIX}NAME` in the environment is the path of a subject: `{SUBJECT_PREFIX}MODEL_1` for "
            "`model-1`.\n",
        ]
    )


EXTRAS = {
    "engine": "the engine on a CPU: `pv run`, `trace`, `diff`, `bisect`, `distill`",
    "gpu": "Vulkan through wgpu, and what tells of NVIDIA cards; CUDA itself comes with torch",
    "gguf": "quantized files: `pv model convert`, `pv kld`",
    "oracle": "Transformers, the independent code that captures are compared with",
    "peers": "llama.cpp, to hold our forward to: `pv kld --peer llama.cpp`",
    "report": "plots and the HTML of `pv report`",
    "ray": "checks on several machines",
    "sign": "signatures on evidence, by a key or an identity",
    "watch": "`pv validate --watch`",
    "docs": "`make docs`",
    "dev": "tests, types, lint",
}


def extras() -> str:
    project = tomllib.loads((FOLDER.parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    names = project["optional-dependencies"]
    rows = [(code(name), EXTRAS[name], ", ".join(map(code, packages))) for name, packages in names.items()]
    return "\n".join(
        [
            "# Installation\n",
            f"`pip install {project['name']}` brings the contract side: validating, running checks, evidence, the "
            f"gate. It needs Python {project['requires-python'].removeprefix('>=')} or later and no torch. Everything "
            f"else is an extra: `pip install '{project['name']}[engine,gguf]'`. In a checkout `make run` or "
            "`make test` builds `.venv` with all that the tests need, and `pv` is `.venv/bin/pv`.\n",
            table(("extra", "for", "packages"), rows),
            "Where an extra is missing, a command that needs it says which.\n",
        ]
    )


def record() -> str:
    from pv.evidence import record as room

    parts = [
        "# Evidence records\n",
        "A record is one run of one check in one cell: an in-toto Statement v1 in canonical JSON, named by its sha256. "
        "`pv evidence show RECORD` renders one, `pv schema evidence` prints the JSON Schema of the file. In the file "
        "names are in camelCase; here they are as the code has them.\n",
    ]
    for name in ("Record", "MeasurementRecord", "ThresholdRecord", "ControlRecord", "OracleRecord", "ExhaustedRecord"):
        parts += _record_part(getattr(room, name))
    for name in ("Environment", "FileDigest", "LogRecord"):
        parts += _record_part(getattr(room, name))
    return "\n".join(parts)


def _record_part(part: type) -> Iterator[str]:
    source = inspect.getsource(part)
    rows = [(code(m["name"]), code(m["type"]), _words(m["meaning"] or "")) for m in _FIELD.finditer(source)]
    yield f"## {part.__name__}\n"
    yield _words(" ".join((part.__doc__ or "").split())) + "\n"
    yield table(("field", "type", "meaning"), rows)


# ------------------------------------------------------------------------------------------------------- engine


def stages() -> str:
    from pv.model import stages as room

    comments = {
        m[1]: m[2] for m in re.finditer(r'^    \w+ = "(\w+)"  # (.+)$', inspect.getsource(room.Stage), re.MULTILINE)
    }
    rows = []
    for number, stage in enumerate(room.Stage, 1):
        shape, rest = _shape(comments[stage.value])
        where = (
            "whole model"
            if stage in room.WHOLE_MODEL
            else "layer 0"
            if stage in room.FIRST_LAYER_ONLY
            else "each layer"
        )
        rows.append((str(number), code(stage.value), shape, where, rest))
    aliases = ", ".join(f"`{name}` is `{stage.value}`" for name, stage in room.ALIASES.items())
    files = f"{len(room.PER_LAYER)} L + {len(room.WHOLE_MODEL) + len(room.FIRST_LAYER_ONLY)}"
    return "\n".join(
        [
            "# Stages\n",
            f"The {len(room.Stage)} places of the forward where a tensor can be tapped, in computation order. T "
            "tokens, H hidden, F FFN width, Hq query heads, Hkv key-value heads, D head dimension, V vocabulary.\n",
            table(("", "stage", "shape", "once for", ""), rows),
            f"{aliases}; `all` is all of them. A complete capture of a model with L layers is {files} files. "
            '[From "wrong on the GPU" to the guilty stage](../tracing.md) uses them.\n',
        ]
    )


def _shape(comment: str) -> tuple[str, str]:
    """`(T, (Hq + 2 Hkv) D), before the bias` -> the shape as code, and the words behind it."""
    depth = 0
    for place, letter in enumerate(comment):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and not depth:
            return code(comment[: place + 1]), comment[place + 1 :].strip(",; ")
    return comment, ""


def thresholds() -> str:
    from pv.compare import thresholds as room

    rows = []
    for kind_, row in room.THRESHOLDS.items():
        rows.append((kind_.value, row.title, _stage_bounds(row.local), _stage_bounds(row.cumulative), _logits(row)))
    own = [
        (row.kind.value, code(stage.value), _stage_bounds(bounds))
        for row in room.THRESHOLDS.values()
        for stage, bounds in row.local_at.items()
    ]
    loss = [(name, f"{kl:g}", f"{room.QUANT_LOSS_TOP1.get(name, '')}") for name, kl in room.QUANT_LOSS_KL.items()]
    return "\n".join(
        [
            "# Thresholds\n",
            "What two forwards may differ by, a row for each kind of comparison: the one table of the engine "
            "(`pv.compare.thresholds`). Contracts state the figures they rely on, and a check holds the two equal. "
            "Figures are those of the worst position.\n",
            table(
                ("row", "comparison", "one stage, from equal inputs", "a stage of a whole forward", "last logits"), rows
            ),
            "Stages with a bound of their own, from equal inputs (WGSL lets some functions err more):\n",
            table(("row", "stage", "bound"), own),
            "What a quantization may cost over a text (`pv kld`):\n",
            table(("type", "mean KL, nats, at most", "share of equal first tokens, at least"), loss),
        ]
    )


def _stage_bounds(bounds: Any) -> str:
    parts = [f"{name} ≤ {value:g}" for name in ("rel_l2", "linf_rel") if (value := getattr(bounds, name)) is not None]
    return _words(", ".join(parts)) or "reported"


def _logits(row: Any) -> str:
    if row.bitwise:
        return "bit for bit"
    bounds = row.logits
    parts = [f"max_abs ≤ {bounds.max_abs:g}"] if bounds.max_abs is not None else []
    parts += [f"warned above {bounds.warn_abs:g}"] if bounds.warn_abs is not None else []
    parts += [f"KL ≤ {bounds.kl:g}"] if bounds.kl is not None else []
    parts += [f"cosine ≥ {bounds.cosine:g}"] if bounds.cosine is not None else []
    parts += [f"near tie ≤ {row.margin:g}"] if row.margin else []
    parts += [f"envelope ≤ {row.envelope:g}"] if row.envelope is not None else []
    return _words(", ".join(parts)) or "reported"


def defects() -> str:
    from pv.parity.defects import DEFECTS

    rows = [
        (code(d.name), d.title, ", ".join(d.backends), "a real card alone" if d.card_only else "")
        for d in DEFECTS.values()
    ]
    return "\n".join(
        [
            "# Planted defects\n",
            f"The {len(DEFECTS)} bugs that `pv parity power` plants in the real backends, one at a time: what the "
            "start gate and the deep check must catch. None can be reached from the environment or from a model. [How "
            "strong the gate is](../gpu.md#how-strong-the-gate-is) has what catches which.\n",
            table(("name", "what is wrong", "backends", "shows on"), rows),
        ]
    )


def index() -> str:
    rows = [
        ("[Installation](installation.md)", "extras, and what each is for"),
        ("[Commands](commands.md)", "every command and option"),
        ("[Exit codes](exit-codes.md)", "what a finished `pv` tells the shell"),
        ("[Rules](rules.md)", "what `pv validate` looks for, why, and how to mend it"),
        ("[Contract schema](contract.md)", "every field of a contract"),
        ("[Settings](settings.md)", "the table `[tool.pv]`"),
        ("[Evidence records](record.md)", "what a record holds"),
        ("[Stages](stages.md)", "where tensors can be tapped"),
        ("[Thresholds](thresholds.md)", "what two forwards may differ by"),
        ("[Planted defects](defects.md)", "the bugs that the gate must catch"),
    ]
    text = "These pages are written from the code, and a test holds them to it.\n"
    return "\n".join(["# Reference\n", text, table(("page", "holds"), rows)])


PAGES: Mapping[str, Callable[[], str]] = {
    "index.md": index,
    "installation.md": extras,
    "commands.md": commands,
    "exit-codes.md": exit_codes,
    "rules.md": rules,
    "contract.md": contract,
    "settings.md": settings,
    "record.md": record,
    "stages.md": stages,
    "thresholds.md": thresholds,
    "defects.md": defects,
}

if __name__ == "__main__":
    sys.exit(main())
