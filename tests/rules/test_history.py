"""A version says as much as its change."""

from __future__ import annotations

import pytest

from pv.contract.load import load_bytes
from pv.document.edits import apply
from pv.rules import table
from tests.contract.samples import SOUND


@pytest.fixture
def since(project):
    """`since(*changes)`: findings of the changed text against SOUND."""

    def checked(*changes: tuple[str, str], before: str = SOUND):
        text = before
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        old, new = (load_bytes(t.encode(), project.root / "x.yaml", project) for t in (before, text))
        assert old.contract is not None
        return text, table.check_history(old.contract, new, project)

    return checked


LOOSER = ("value: 0.5", "value: 0.75")


def to(version: str) -> tuple[str, str]:
    return ("version: 1.2.0", f"version: {version}")


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ((), []),
        ((to("1.2.1"),), []),
        ((to("9.0.0"), LOOSER), []),
        ((to("2.0.0"), LOOSER), []),
        ((to("1.9.0"), LOOSER), ["PV501"]),
        ((LOOSER,), ["PV501"]),
        ((("status: UNBOUND", "status: FUNCTIONAL"),), ["PV501"]),
        ((to("1.3.0"), ("status: UNBOUND", "status: FUNCTIONAL")), []),
        ((to("1.2.1"), ("status: UNBOUND", "status: FUNCTIONAL")), ["PV501"]),
        ((("a sound contract", "another text"),), ["PV501"]),
        ((to("1.1.9"),), ["PV502"]),
        ((to("1.1.9"), LOOSER), ["PV502"]),
        ((to("soon"), LOOSER), []),  # PV215 says that this is no version
    ],
)
def test_bumps(since, changes, codes):
    assert [each.code for each in since(*changes)[1]] == codes


def test_the_finding_names_the_change_and_the_least_version(since):
    text, (found,) = since(LOOSER)
    assert found.message == "the version moved not at all, the changes since 1.2.0 demand a major bump"
    assert "thresholds.gap loosened: <= 0.5 -> <= 0.75" in found.help
    assert found.span.line == 2
    assert "version: 2.0.0" in apply(text, found.edits)


def test_prose_without_a_bump_only_warns(since):
    _, (found,) = since(("a sound contract", "another text"))
    assert found.severity.value == "warning"
    assert found.expected == "1.2.1 or later"


def test_before_active_a_loosening_is_minor(since):
    proposed = SOUND.replace("status: ACTIVE", "status: PROPOSED")
    _, (found,) = since(LOOSER, before=proposed)
    assert found.expected == "1.3.0 or later"


def test_the_older_document_decides_what_was_promised(since):
    _, (found,) = since(LOOSER, ("status: ACTIVE", "status: DRAFT"))
    assert found.expected == "2.0.0 or later"
