"""Importing a check module: privately, with its helpers, and only if it registers what its source says."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest

from pv.falsify.loader import PRIVATE, LoadError, import_privately, load
from pv.falsify.protocol import stated_in
from pv.falsify.reading import read_module

CONTROLS = 'controls=[Control("c", plant=broken, breaks="m")]'


@pytest.fixture(autouse=True)
def forget_private_modules():
    yield
    for name in [name for name in sys.modules if name.startswith(PRIVATE)]:
        del sys.modules[name]


def loaded(path, function="check", claim="FALSIFY-X-001"):
    return load(path, function, stated_in(read_module(path, path.name).checks), claim)


def test_a_check_is_loaded_under_a_private_name(checks):
    path = checks.write("json", f'@falsifier("FALSIFY-X-001", level="live", {CONTROLS})\ndef check(ctx): return 7\n')
    before = list(sys.path)
    check = loaded(path)
    assert check.function(None) == 7
    assert check.registration.id == "FALSIFY-X-001"
    assert check.function.__module__.startswith(PRIVATE)
    assert sys.path == before
    assert "dumps" in vars(sys.modules.get("json") or __import__("json"))  # nothing was shadowed
    assert not list(checks.folder.rglob("__pycache__"))


def test_a_helper_beside_the_module_is_imported_as_a_sibling(checks):
    checks.write("_support", "answer = 42\n", header="")
    path = checks.write("x", "from ._support import answer\n", header="")
    assert import_privately(path).answer == 42


def test_two_folders_may_hold_modules_of_one_name(checks, tmp_path):
    first = checks.write("x", "where = 1\n", header="")
    second = tmp_path / "more" / "x.py"
    second.parent.mkdir()
    second.write_text("where = 2\n")
    assert (import_privately(first).where, import_privately(second).where) == (1, 2)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            f'def check(ctx): ...\nfalsifier("FALSIFY-X-001", level="live", {CONTROLS})(check)\n',
            "check registers FALSIFY-X-001 only when imported",
        ),
        (
            f"""
            @falsifier("FALSIFY-X-001", level="live", {CONTROLS})
            def check(ctx): ...
            del check
            """,
            "check registers FALSIFY-X-001 only in source",
        ),
        (
            f"""
            import dataclasses
            @falsifier("FALSIFY-X-001", level="algorithm", {CONTROLS})
            def check(ctx): ...
            from pv.contract.vocabulary import Level
            check.__pv__ = (dataclasses.replace(check.__pv__[0], level=Level.LIVE),)
            """,
            "check (FALSIFY-X-001): level in source 'algorithm', when imported 'live'",
        ),
        (
            f"""
            from pv.falsify import measure as attacked
            @falsifier("FALSIFY-X-001", level="live", {CONTROLS}, attacks=[attacked])
            def check(ctx): ...
            """,
            "attacks in source ('pv.falsify.measure',), when imported ('pv.falsify.api.measure',)",
        ),
    ],
)
def test_a_registration_that_source_does_not_show_is_refused(checks, body, says):
    path = checks.write("x", body)
    with pytest.raises(LoadError) as refused:
        loaded(path)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        ("json.dumpz", "attack 'json.dumpz': json has no 'dumpz'"),
        ("no_such_package.thing", "attack 'no_such_package.thing': no module of that name"),
        ("json.JSONDecoder.decode", ""),
        ("json.decoder", ""),
    ],
)
def test_an_attacked_function_must_exist(checks, attack, says):
    body = f'@falsifier("FALSIFY-X-001", level="live", attacks=["{attack}"], {CONTROLS})\ndef check(ctx): ...\n'
    path = checks.write("x", dedent(body))
    if not says:
        assert loaded(path).registration.attacks == (attack,)
        return
    with pytest.raises(LoadError, match=says):
        loaded(path)


def test_code_of_the_project_is_found_behind_what_is_installed(tmp_path, monkeypatch):
    from pv.falsify.loader import make_importable

    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "src").mkdir()
    before = list(sys.path)
    make_importable(tmp_path)
    make_importable(tmp_path)
    assert sys.path == [*before, str(tmp_path / "src"), str(tmp_path)]
