"""The house: which room may import which, and what a contract command may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "pv"
CONTRACT_ROOMS = ("cli", "report", "falsify", "evidence", "ladder", "rules", "contract", "document", "diagnostics")
ENGINE_ROOMS = ("distill", "parity", "trace", "compare", "backends", "model")
FLOOR = {room: height for height, room in enumerate(reversed(CONTRACT_ROOMS + ENGINE_ROOMS))}
# The command line starts engines and reports draw their results; no other contract room may know of the engine.
MAY_USE_ENGINE = {"cli", "report"}
HEAVY = {"torch", "numpy", "jsonschema", "transformers"}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "pv" else ""


def imports_of(tree: ast.AST) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append((node.module, node.lineno))
            if node.module == "pv":
                found += [(f"pv.{alias.name}", node.lineno) for alias in node.names]
    return found


def wrong_arrow(importer: str, imported: str) -> str:
    """Why `importer` (a room) may not import `imported` (a room); "" when it may."""
    if importer == imported or not imported or imported not in FLOOR:
        return ""
    if importer in ENGINE_ROOMS and imported in CONTRACT_ROOMS:
        return "the engine knows nothing of contracts"
    if importer in CONTRACT_ROOMS and imported in ENGINE_ROOMS and importer not in MAY_USE_ENGINE:
        return "only cli and report may use the engine"
    if FLOOR[importer] < FLOOR[imported]:
        return "imports point downwards only"
    return ""


def test_imports_point_downwards():
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0]
        if room not in FLOOR:
            continue
        for module, line in imports_of(ast.parse(path.read_text())):
            if reason := wrong_arrow(room, room_of(module)):
                wrong.append(f"{path.relative_to(SOURCE)}:{line} imports {module}: {reason}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("document", "contract"), ("model", "trace"), ("compare", "cli"), ("rules", "evidence"), ("ladder", "model")],
)
def test_a_wrong_arrow_is_seen(importer, imported):
    assert wrong_arrow(importer, imported)


def test_every_room_says_what_enters_and_what_leaves():
    for room in CONTRACT_ROOMS + ENGINE_ROOMS:
        said = ast.get_docstring(ast.parse((SOURCE / room / "__init__.py").read_text())) or ""
        assert len(said) > 40, f"pv/{room}/__init__.py does not say what the room is for"


def test_no_package_face_of_the_engine_imports_torch_by_itself():
    code = f"import sys; [__import__('pv.' + room) for room in {ENGINE_ROOMS!r}]; print('torch' in sys.modules)"
    assert run_python(code) == "False"


def loaded_after(*arguments: str) -> set[str]:
    """Top-level packages loaded by `pv ARGUMENTS` when it is done."""
    code = (
        "import sys\n"
        f"sys.argv = ['pv', *{list(arguments)!r}]\n"
        "from pv.cli.main import main\n"
        "import io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit:\n"
        "        pass\n"
        "print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    return set(run_python(code).split())


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCE.parent.parent, timeout=120
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "command", [["--help"], ["validate", "contracts"], ["status"], ["list"], ["verify"], ["settle", "--check"]]
)
def test_contract_commands_load_nothing_heavy(command):
    loaded = loaded_after(*command)
    assert "click" in loaded  # the probe itself works
    assert not loaded & HEAVY, f"pv {' '.join(command)} loads {sorted(loaded & HEAVY)}"


def test_the_engine_can_be_seen_as_loaded():
    """The negative control of the test above: a command that needs torch shows it."""
    assert "torch" in set(run_python("import sys, torch; print(*{m.partition('.')[0] for m in sys.modules})").split())
