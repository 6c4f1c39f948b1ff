"""Reading registrations: what is literal is read in full, what is not is one diagnostic at its place."""

from __future__ import annotations

import ast
from textwrap import dedent

import pytest

from pv.contract.vocabulary import Cost, DeviceClass, Level
from pv.falsify.discovery import find_in
from pv.falsify.reading import FoundControl, read_module


def display(path):
    return f"falsifiers/{path.name}"


FULL = '''
    import numpy.linalg as la
    from json import dumps

    @falsifier(
        "FALSIFY-X-001",
        level="live",
        controls=[
            Control("flips the sign", plant=broken, breaks="sign"),
            Control("drops a row", broken, "rows", ("cuda", "vulkan")),
        ],
        attacks=[dumps, la.norm, "pkg.module.Class.method"],
        data=["fixtures/*.bin"],
        cost="slow",
        timeout=12,
    )
    def signs(ctx):
        """Any docstring."""
        return [measure("sign", True), measure("rows", 3)]

    @harness("KH-X-001", bound=280, controls=[Control("c", plant=broken, breaks="sign")])
    def proof(ctx):
        return measure("sign", 1)
'''


def test_a_registration_is_read_in_full_and_nothing_is_imported(checks):
    path = checks.write("x", FULL + "\n    raise SystemExit('a check module was imported')\n")
    first, second = read_module(path, display(path)).checks
    assert (first.id, first.function, first.module) == ("FALSIFY-X-001", "signs", "x")
    assert (first.family, first.level, first.cost, first.timeout) == ("falsifier", Level.LIVE, Cost.SLOW, 12.0)
    assert first.controls == (
        FoundControl("flips the sign", "sign", ()),
        FoundControl("drops a row", "rows", ("cuda", "vulkan")),
    )
    assert first.attacks == ("json.dumps", "numpy.linalg.norm", "pkg.module.Class.method")
    assert first.data == ("fixtures/*.bin",)
    assert first.entry_point == "falsifiers/x.py:signs"
    assert (second.family, second.level, second.cost, second.bound) == ("harness", Level.ALGORITHM, None, 280)
    assert second.timeout == 300.0


def test_the_span_of_a_registration_covers_its_decorator_in_characters(checks):
    path = checks.write("x", "# é ✓\n" + dedent(FULL))
    text = path.read_text("utf-8")
    span = read_module(path, display(path)).checks[0].span
    assert text[span.start : span.end].startswith("falsifier(")
    assert text[span.start : span.end].endswith(")")
    assert text.splitlines()[span.line - 1][span.column - 1 :].startswith("falsifier(")


@pytest.mark.parametrize(
    "spelling",
    [
        "import pv.falsify\n@pv.falsify.falsifier",
        "import pv.falsify.api as api\n@api.falsifier",
        "from pv import falsify as f\n@f.falsifier",
        "from pv.falsify.api import falsifier as attack\n@attack",
    ],
)
def test_every_way_to_import_the_decorator_is_seen(checks, spelling):
    arguments = '("FALSIFY-X-001", level="live", controls=[Control("c", plant=print, breaks="m")])\n'
    path = checks.write("x", spelling + arguments + "def check(ctx): ...\n")
    assert [check.id for check in read_module(path, display(path)).checks] == ["FALSIFY-X-001"]


def test_a_decorator_of_the_same_name_from_elsewhere_is_none_of_ours(checks):
    path = checks.write("x", "from other import falsifier\n@falsifier('FALSIFY-X-001')\ndef f(ctx): ...\n", header="")
    assert read_module(path, display(path))[2:] == ((), ())


GOOD = {
    "id": '"FALSIFY-X-001"',
    "level": 'level="live"',
    "controls": 'controls=[Control("c", plant=broken, breaks="m")]',
}


@pytest.mark.parametrize(
    ("part", "written", "points_at", "says"),
    [
        ("id", "NAME", "NAME", "the claim's id as literal text"),
        ("id", 'f"FALSIFY-{1}"', "f'FALSIFY-{1}'", "the claim's id as literal text"),
        ("id", '""', "''", "the claim's id as literal text"),
        ("level", 'level="lively"', "'lively'", "level to be one of algorithm, live"),
        ("level", "level=Level.LIVE", "Level.LIVE", "level as literal text"),
        ("controls", "controls=CONTROLS", "CONTROLS", "a list of Control(…), written out"),
        ("controls", "controls=[*CONTROLS]", "[*CONTROLS]", "a list of Control(…), written out"),
        ("controls", "controls=[make()]", "make()", "Control("),
        ("controls", 'controls=[Control("c", breaks="m")]', "Control('c', breaks='m')", "plant=…"),
        ("controls", 'controls=[Control("c", plant=broken)]', "Control('c', plant=broken)", "breaks=, the measurement"),
        ("controls", 'controls=[Control("c", broken, "m", ("gpu",))]', "('gpu',)", "device classes among cpu"),
        ("controls", 'controls=[Control("c", broken, "m"), Control("c", broken, "m")]', "[Control", "used twice"),
        ("controls", f"{GOOD['controls']}, attacks=[broken]", "broken", "an imported function, or its dotted name"),
        ("controls", f'{GOOD["controls"]}, cost="cheap"', "'cheap'", "cost to be one of quick, slow"),
        ("controls", f"{GOOD['controls']}, timeout=-1", "-1", "timeout=SECONDS"),
        ("controls", f"{GOOD['controls']}, timeout=True", "True", "timeout=SECONDS"),
        ("controls", f"{GOOD['controls']}, **more", "more", "one of the keywords id, level"),
        ("controls", f"{GOOD['controls']}, level_=1", "1", "one of the keywords id, level"),
    ],
)
def test_what_is_not_literal_is_one_error_with_its_place(checks, part, written, points_at, says):
    parts = {**GOOD, part: written}
    body = f"@falsifier({', '.join(parts.values())})\ndef check(ctx): ...\n"
    path = checks.write("x", body)
    reading = read_module(path, display(path))
    assert reading.checks == ()
    (problem,) = reading.problems
    assert (problem.code, problem.path) == ("PV351", "falsifiers/x.py")
    assert says in problem.message
    assert problem.found.startswith(points_at)
    at_span = path.read_text("utf-8")[problem.span.start : problem.span.end]
    assert ast.unparse(ast.parse(at_span, mode="eval")).startswith(points_at)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("@falsifier\ndef check(ctx): ...\n", "with the claim's id and controls"),
        (f"class A:\n  @falsifier({', '.join(GOOD.values())})\n  def check(self): ...\n", "at the top of the module"),
        (f"@falsifier({', '.join(GOOD.values())})\nasync def check(ctx): ...\n", "a plain function"),
        (f"@falsifier({', '.join(GOOD.values())})\nclass Check: ...\n", "a plain function"),
        (f"@harness({', '.join(GOOD.values())})\ndef check(ctx): ...\n", "bound=N"),
        (f"@harness({', '.join(GOOD.values())}, bound=0)\ndef check(ctx): ...\n", "bound=N"),
        (f"@falsifier({GOOD['id']}, 'live', {GOOD['controls']})\ndef check(ctx): ...\n", "by name"),
    ],
)
def test_a_registration_in_a_wrong_place_or_form_is_an_error(checks, body, says):
    (problem,) = read_module(checks.write("x", body), "falsifiers/x.py").problems
    assert problem.code == "PV351"
    assert says in problem.message


def test_a_check_without_a_control_is_an_error(checks):
    body = '@falsifier("FALSIFY-X-001", level="live", controls=[])\ndef check(ctx): ...\n'
    (problem,) = find_in(checks.write("x", body).parent, checks.root).problems
    assert problem.code == "PV355"
    assert "FALSIFY-X-001 has no negative control" in problem.message
    assert problem.span.line == len((checks.folder / "x.py").read_text().splitlines()) - 1


@pytest.mark.parametrize("content", [b"def broken(:\n", b"\xff\xfe", b"x = '\x00'\n", b"(" * 5000])
def test_a_module_that_is_no_python_is_an_error_not_a_crash(checks, content):
    path = checks.folder / "x.py"
    path.write_bytes(content)
    (problem,) = read_module(path, display(path)).problems
    assert problem.code == "PV350"
    assert problem.path == "falsifiers/x.py"


@pytest.mark.parametrize(
    ("cells", "device", "applies"),
    [
        ((), DeviceClass.CPU, True),
        (("cuda",), DeviceClass.CPU, False),
        (("cuda", "cpu"), DeviceClass.CPU, True),
        (("vulkan",), DeviceClass.VULKAN_SW, True),
        (("vulkan-sw",), DeviceClass.VULKAN, False),
    ],
)
def test_a_control_applies_where_its_defect_makes_sense(cells, device, applies):
    assert FoundControl("c", "m", cells).applies_to(device) is applies
