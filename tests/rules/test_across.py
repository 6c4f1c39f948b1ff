"""What only shows in all files together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pv.contract.load import load_bytes
from pv.contract.project import Profile
from pv.rules import table
from tests.contract.samples import SOUND


@pytest.fixture
def together(project):
    """`together({"a-v1": text, ...}, **settings)`: the findings across the files, as (code, path, line, message)."""

    def checked(texts: dict[str, str], *, whole: bool = False, **settings):
        chosen = replace(project, **settings)
        loaded = [
            load_bytes(text.encode(), chosen.root / f"{stem}.yaml", chosen, display=f"{stem}.yaml")
            for stem, text in texts.items()
        ]
        return [
            (each.code, each.path, each.span.line if each.span else 0, each.message)
            for each in table.check_corpus(loaded, chosen, whole=whole)
        ]

    return checked


def named(stem: str, depends_on: str = "") -> str:
    text = SOUND.replace("-SOUND-", f"-{stem.upper()}-")
    return text.replace("  references:", f"  depends_on: {depends_on}\n  references:") if depends_on else text


def test_contracts_with_ids_of_their_own(together):
    assert together({"a": named("a"), "b": named("b"), "c": named("c", "[a, b.yaml, contracts/a.yaml]")}) == []


def test_a_shared_id_is_one_finding_with_all_its_places(together):
    found = together(dict.fromkeys("abcdefg", SOUND))
    assert [each[:3] for each in found if "FALSIFY" in each[3]] == [
        ("PV701", "b.yaml", SOUND[: SOUND.index("- id: FALSIFY")].count("\n") + 1)
    ]
    assert "is used in 7 files, first in a.yaml" in found[0][3]


def test_a_dependency_that_is_nowhere(together):
    found = together({"alpha-v1": named("a"), "b": named("b", "[alpha-v2, zebra]")})
    assert [each[:3] for each in found] == [("PV702", "b.yaml", 7), ("PV702", "b.yaml", 7)]


def test_of_one_file_alone_nobody_knows_what_surrounds_it(together):
    assert together({"b": named("b", "[zebra]")}) == []
    assert [each[0] for each in together({"b": named("b", "[zebra]")}, whole=True)] == ["PV702"]


def test_a_file_beside_the_asker_counts(together, project, monkeypatch):
    monkeypatch.chdir(project.root)
    (project.root / "zebra.yaml").write_text(SOUND)
    assert together({"a": named("a"), "b": named("b", "[zebra]")}) == []


def test_rings_are_told_once_and_chains_are_none(together):
    assert together({"a": named("a"), "b": named("b", "[a]"), "c": named("c", "[b, a]")}) == []
    found = together({"a": named("a", "[c]"), "b": named("b", "[a]"), "c": named("c", "[b]"), "d": named("d", "[a]")})
    assert [each[:2] for each in found] == [("PV703", "a.yaml")]
    assert [each[:2] for each in together({"a": named("a", "[a]"), "b": named("b")})] == [("PV703", "a.yaml")]


def test_two_files_of_one_name(together, project):
    loaded = [load_bytes(named(n).encode(), project.root / n / "x.yaml", project, display=f"{n}/x.yaml") for n in "ab"]
    (found,) = table.check_corpus(loaded, project)
    assert (found.code, found.path) == ("PV704", "b/x.yaml")


def test_a_binding_to_an_equation_that_is_not_there(together):
    registry = "version: 1.0.0\ntarget_crate: c\nbindings:\n" + "".join(
        f"  - {{contract: {contract}, equation: {equation}, status: implemented}}\n"
        for contract, equation in (("a.yaml", "parity"), ("a", "partiy"), ("unknown", "x"))
    )
    found = together({"a": named("a"), "binding": registry})
    assert [each[:3] for each in found] == [("PV705", "binding.yaml", 5)]


def test_a_scope_that_counts_what_does_not_exist(together):
    scopes = {"M": ("a", "gone-v1")}
    assert [each[:2] for each in together({"a": named("a")}, scopes=scopes, whole=True)] == [
        ("PV706", "pyproject.toml")
    ]
    assert together({"a": named("a")}, scopes=scopes) == [], "only when all contracts were looked at"


def test_a_former_name_that_another_contract_has_or_had(together):
    def formerly(stem: str, names: str) -> str:
        return named(stem).replace("  references:", f"  formerly: {names}\n  references:")

    assert together({"a": named("a"), "b": formerly("b", "[old-v1, b]")}) == []
    assert [each[:3] for each in together({"a": named("a"), "b": formerly("b", "[old-v1, a]")})] == [
        ("PV707", "b.yaml", 7)
    ]
    found = together({"b": formerly("b", "[old-v1]"), "c": formerly("c", "[old-v1]")})
    assert [each[:2] for each in found] == [("PV707", "c.yaml")]
    assert "which b.yaml says it had" in found[0][3]


def test_weights_by_profile_and_ignored_codes(together, project):
    texts = {"a": named("a"), "b": named("b", "[zebra]")}
    assert [each[0] for each in together(texts, profile=Profile.STRICT)] == ["PV702"]
    assert together(texts, ignore=("PV702",)) == []
