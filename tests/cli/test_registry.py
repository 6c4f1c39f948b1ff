"""The command tree, the registry contract, and the check that compares them: three surfaces that agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from pv.cli.exit_codes import ExitCode
from pv.falsify.loader import import_privately

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def surfaces():
    """The helper of the check, imported as the worker imports it."""
    return import_privately(ROOT / "falsifiers" / "_cli.py")


def test_the_live_tree_is_the_registered_one(surfaces):
    found = surfaces.difference(surfaces.live_tree(), surfaces.registered_tree(ROOT))
    said = "\n".join([*found.unregistered, *found.missing, *found.changed])
    assert not said, f"contracts/pv-cli-commands-v1.yaml differs; `python falsifiers/_cli.py` prints it anew:\n{said}"


def test_the_text_for_the_registry_is_the_section_that_stands_there(surfaces):
    text = (ROOT / surfaces.REGISTRY).read_text("utf-8")
    assert text.endswith(f"{surfaces.as_yaml(surfaces.live_tree())}\n")


def test_every_exit_code_is_registered(surfaces):
    assert surfaces.registered_codes(ROOT) == {code.value: code.name for code in ExitCode}


def test_a_difference_is_seen_both_ways(surfaces):
    here = {"pv a": surfaces.Surface((), ("--x", "--y")), "pv b": surfaces.Surface(("[P]",), ())}
    there = {"pv a": surfaces.Surface((), ("--x", "--z")), "pv c": surfaces.Surface((), ())}
    assert surfaces.difference(here, there) == (
        ["pv b"],
        ["pv c"],
        ["pv a --y: not registered", "pv a --z: registered, not there"],
    )
    assert surfaces.difference(here, here) == ([], [], [])
