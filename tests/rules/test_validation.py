"""Files in, findings out: everything is counted, nothing is silent, the cache never lies."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pv.contract.load import discover
from pv.contract.project import Profile, Project
from pv.contract.vocabulary import Status
from pv.diagnostics.model import Severity
from pv.rules import validation
from pv.rules.cache import FILE_NAMES, Cache
from pv.rules.facts import Facts
from pv.rules.validation import as_counts, summary, validate
from tests.contract.samples import SOUND


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "contracts").mkdir()
    (tmp_path / ".git").mkdir()
    return Project(root=tmp_path, falsifiers=tmp_path / "falsifiers", evidence=tmp_path / "evidence")


def write(project: Project, stem: str, text: str = SOUND, **changes: str) -> Path:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = project.root / "contracts" / f"{stem}.yaml"
    path.write_text(text, "utf-8")
    return path


def look(project: Project, cache: Cache | None = None, **more):
    return validate(discover([project.root / "contracts"], project), project, cache=cache, **more)


def codes(found) -> list[str]:
    return [each.code for each in found.diagnostics]


BROKEN = SOUND.replace("predicton", "x").replace("prediction:", "predicton:")


def test_one_bad_file_does_not_hide_the_others(project):
    write(project, "a-v1", "a: [1\n")
    write(project, "b-v1", BROKEN)
    write(project, "c-v1")
    found = look(project)
    assert set(codes(found)) == {"PV105", "PV203", "PV701"}
    assert found.contracts == 3


def test_files_that_are_none_of_ours_are_counted(project):
    write(project, "compose", "services: {}\n")
    write(project, "a-v1")
    found = look(project)
    assert (found.contracts, found.left_out, codes(found)) == (1, 1, [])


def test_refused_paths_are_findings(project):
    found = validate(discover([project.root / "nowhere"], project), project)
    assert codes(found) == ["PV190"]
    assert found.outlines == ()


def test_the_summary_states_its_denominator(project):
    write(project, "a-v1")
    rung = "    status: FUNCTIONAL\n    algorithm_evidence: [w]\n    functional_evidence: [w]\n"
    text = SOUND.replace("-SOUND-", "-OTHER-").replace("    status: UNBOUND\n", rung, 1)
    write(project, "b-v1", text.replace("    status: UNBOUND\n", "    status: SHINING\n"))
    write(project, "reg", "version: 1.0.0\ntarget_crate: c\nbindings: []\n")
    found = look(project)
    assert summary(found) == (
        "2 contracts, 1 other file, 2 falsifiers, 2 harnesses: 1 functional, 2 unbound, 1 with a status of their own; "
        "0 errors, 1 warning"
    )
    assert as_counts(found) == {
        "contracts": 2, "files": 3, "left_out": 0, "claims": 4, "errors": 0, "warnings": 1,
        "statuses": {"UNBOUND": 2, "FUNCTIONAL": 1, "SHINING": 1},
    }  # fmt: skip


def test_a_falsified_status_is_counted_in_capitals(project):
    write(project, "a-v1", **{"status: UNBOUND\nkani": "status: FALSIFIED\nkani"})
    assert "1 unbound, 1 FALSIFIED" in summary(look(project))


# ------------------------------------------------------------------------------------------ facts


def strict(project: Project) -> Project:
    return replace(project, profile=Profile.STRICT, configured=True)


def facts_of(status: Status, **more):
    def provider(project, loaded):
        return {(one.stem, claim.id): Facts(status, **more) for one in loaded for claim in one.contract.claims}

    return provider


@pytest.mark.parametrize("cached", [False, True])
def test_a_status_raised_by_hand_is_found_however_the_file_was_read(project, cached):
    path = write(project, "a-v1")
    provider = facts_of(Status.UNBOUND, has_check=True)
    cache = (lambda: Cache.open(project)) if cached else Cache.off
    assert codes(look(strict(project), cache(), facts=provider)) == []
    raised = "    status: PARTIAL_ALGORITHM_LEVEL\n    algorithm_evidence: [words]\n"
    path.write_text(SOUND.replace("    status: UNBOUND\n", raised, 1))
    for _ in range(2):
        found = look(strict(project), cache(), facts=provider)
        assert codes(found) == ["PV401"]
        assert found.diagnostics[0].span.line == SOUND[: SOUND.index("status: UNBOUND")].count("\n") + 1


def test_evidence_is_looked_at_again_though_the_file_is_remembered(project):
    write(project, "a-v1", **{"status: UNBOUND\nkani": "status: FUNCTIONAL\n    algorithm_evidence: [w]\n"
                              "    functional_evidence: [w]\nkani"})  # fmt: skip
    configured = replace(project, configured=True)
    good, bad = facts_of(Status.FUNCTIONAL), facts_of(Status.UNBOUND)
    assert codes(look(configured, Cache.open(configured), facts=good)) == ["PV402"], "the harness earned more"
    assert "PV401" in codes(look(configured, Cache.open(configured), facts=bad))


def test_without_settings_or_records_nobody_asks_for_evidence(project):
    write(
        project,
        "a-v1",
        **{"status: UNBOUND\nkani": "status: PARTIAL_ALGORITHM_LEVEL\n    algorithm_evidence: [w]\nkani"},
    )

    def refuse(project, loaded):
        raise AssertionError("a foreign contract was judged by records that are not there")

    assert codes(look(project, facts=refuse)) == []
    (project.evidence / "FALSIFY-SOUND-001").mkdir(parents=True)
    with pytest.raises(AssertionError):
        look(project, facts=refuse)


# ------------------------------------------------------------------------------------------ cache


def remembered(project: Project):
    return look(project, Cache.open(project))


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """Names of the files that were really read."""
    names: list[str] = []
    real = validation.load_bytes

    def load_bytes(content, path, project, **more):
        names.append(path.name)
        return real(content, path, project, **more)

    monkeypatch.setattr(validation, "load_bytes", load_bytes)
    return names


def test_a_remembered_file_is_not_read_and_says_the_same(project, counted):
    write(project, "a-v1", BROKEN)
    write(project, "b-v1", **{"references: [": "depends_on: [nowhere-v1]\n  references: ["})
    write(project, "compose", "services: {}\n")
    first = remembered(project)
    assert sorted(counted) == ["a-v1.yaml", "b-v1.yaml", "compose.yaml"]
    counted.clear()
    second = remembered(project)
    assert counted == []
    assert second.diagnostics == first.diagnostics
    assert (second.outlines, second.left_out, second.texts) == (first.outlines, first.left_out, first.texts)
    assert {"PV203", "PV701", "PV702"} <= set(codes(second)), "rules across files run again, with places"


def test_only_what_changed_is_read_again(project, counted):
    paths = [write(project, f"{name}-v1", SOUND.replace("-SOUND-", f"-{name}-")) for name in "ABC"]
    remembered(project)
    counted.clear()
    paths[1].write_text(paths[1].read_text() + "# a comment\n")
    os.utime(paths[0], (1, 1))  # the content decides, not the time
    remembered(project)
    assert counted == ["B-v1.yaml"]


def test_a_cited_file_that_goes_or_changes_is_noticed(project, counted):
    source = project.root / "ops.py"
    source.write_text("def rope(): ...\n")
    evidence = "    algorithm_evidence: {file_paths: [ops.py], function_names: [rope]}\n    status: UNBOUND\n"
    write(project, "a-v1", SOUND.replace("    status: UNBOUND\n", evidence, 1))
    assert codes(remembered(project)) == []
    source.write_text("def other(): ...\n")
    assert codes(remembered(project)) == ["PV312"]
    source.unlink()
    assert codes(remembered(project)) == ["PV311"]
    source.write_text("def rope(): ...\n")
    assert codes(remembered(project)) == []


def test_other_settings_and_another_tool_remember_nothing(project, counted, monkeypatch):
    write(project, "a-v1", SOUND.replace("    status: UNBOUND\n", "", 1))
    assert codes(remembered(project)) == []
    counted.clear()
    assert "PV409" in codes(remembered(replace(project, profile=Profile.STRICT)))
    assert counted == ["a-v1.yaml"]
    counted.clear()
    monkeypatch.setattr("pv.rules.cache.__version__", "99.0.0")
    remembered(replace(project, profile=Profile.STRICT))
    assert counted == ["a-v1.yaml"]


def test_checking_one_file_does_not_forget_the_others(project, counted):
    write(project, "a-v1")
    only = write(project, "b-v1", SOUND.replace("-SOUND-", "-B-"))
    remembered(project)
    only.write_text(only.read_text() + "#\n")
    validate(discover([only], project), project, cache=Cache.open(project))
    counted.clear()
    remembered(project)
    assert counted == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"identity": 1}', b'{"entries": []}', b"\xff"])
def test_a_damaged_cache_is_no_cache(project, content):
    write(project, "a-v1", BROKEN)
    expected = codes(remembered(project))
    (project.cache / FILE_NAMES[project.profile]).write_bytes(content)
    assert codes(remembered(project)) == expected


def test_the_cache_is_marked_and_kept_out_of_version_control(project):
    write(project, "a-v1")
    remembered(project)
    assert (project.cache / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert (project.cache / ".gitignore").read_text() == "*\n"
    assert {path.name for path in project.root.iterdir()} == {"contracts", ".git", ".pv_cache"}
    kept = (project.cache / FILE_NAMES[project.profile]).read_text().partition("\n")[2]
    assert json.loads(kept).keys() == {str(project.root / "contracts" / "a-v1.yaml")}


def test_without_a_cache_nothing_is_written(project):
    write(project, "a-v1")
    look(project)
    assert sorted(path.name for path in project.root.iterdir()) == [".git", "contracts"]


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(project):
    write(project, "a-v1", BROKEN)
    project.cache.write_text("a file stands where the folder should be")
    assert "PV203" in codes(remembered(project))


# ------------------------------------------------------------------------------------------ suppressions

SILENT = "depends_on: [nowhere-v1]  # pv: ignore[PV702] it lives in another repository\n  references: ["


@pytest.mark.parametrize("cached", [False, True])
def test_a_comment_silences_a_finding_across_files(project, cached):
    write(project, "a-v1", **{"references: [": SILENT})
    write(project, "b-v1", SOUND.replace("-SOUND-", "-B-"))
    for _ in range(2):
        found = look(project, Cache.open(project) if cached else None)
        assert codes(found) == []
    write(project, "nowhere-v1", SOUND.replace("-SOUND-", "-N-"))
    found = look(project, Cache.open(project) if cached else None)
    assert codes(found) == ["PV191"], "now it silences nothing"


def test_counts_follow_severities(project):
    write(project, "a-v1", BROKEN)
    found = look(project)
    assert found.count(Severity.ERROR) == codes(found).count("PV203") == 1
