"""Settings: found, layered, refused with the near word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pv.contract.project import SETTINGS, VARIABLES, ConfigError, Profile, Project, find


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in [*VARIABLES, *(key for key in os.environ if key.startswith("PV_SUBJECT_"))]:
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_without_settings_the_profile_is_compat(tmp_path):
    project = find(tmp_path)
    assert (project.root, project.profile, project.configured) == (tmp_path.resolve(), Profile.COMPAT, False)
    assert project.contracts == ("contracts/*.yaml",)
    assert project.evidence == tmp_path.resolve() / "evidence"


def test_the_nearest_table_wins_over_nearer_files_without_one(tmp_path):
    write(tmp_path, '[tool.pv]\nprofile = "strict"\nfalsifiers = "checks"\n[tool.pv.scopes]\nM = ["a-v1"]\n')
    inner = write(tmp_path / "a" / "b", "[project]\nname = 'x'\n")
    project = find(inner / "contracts")
    assert project.root == tmp_path.resolve()
    assert project.profile is Profile.STRICT
    assert project.falsifiers == tmp_path.resolve() / "checks"
    assert project.scopes == {"M": ("a-v1",)}
    assert project.origin["profile"] == "pyproject.toml"
    assert project.origin["evidence"] == "default"


def test_without_a_table_the_nearest_mark_is_the_root(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert find(tmp_path / "deep" / "er").root == tmp_path.resolve()


def test_a_file_is_as_good_a_start_as_its_folder(tmp_path):
    write(tmp_path, '[tool.pv]\nprofile = "strict"\n')
    (tmp_path / "x.yaml").touch()
    assert Project.find(tmp_path / "x.yaml").profile is Profile.STRICT


def test_variables_win_over_the_table_and_the_command_line_over_both(tmp_path, monkeypatch):
    write(tmp_path, '[tool.pv]\nprofile = "strict"\nevidence = "ev"\n[tool.pv.subjects]\ntiny = "fixtures/t"\n')
    monkeypatch.setenv("PV_PROFILE", "compat")
    monkeypatch.setenv("PV_CONTRACTS", os.pathsep.join(["a/*.yaml", "b/*.yaml"]))
    monkeypatch.setenv("PV_SUBJECT_MODEL_1", "/models/seven")
    project = find(tmp_path, {"profile": None})
    assert project.profile is Profile.COMPAT
    assert project.origin["profile"] == "PV_PROFILE"
    assert project.contracts == ("a/*.yaml", "b/*.yaml")
    assert project.subject("model-1") == Path("/models/seven")
    assert project.subject("tiny") == tmp_path.resolve() / "fixtures" / "t"
    assert project.subject("other") is None
    assert find(tmp_path, {"profile": "strict"}).origin["profile"] == "command line"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('profil = "strict"', ["`profil`", "did you mean `profile`?"]),
        ("zebra = 1", ["`zebra`", "known: profile"]),
        ('profile = "lax"', ["`strict` or `compat`", "'lax'"]),
        ('contracts = "contracts/*.yaml"', ["contracts to be a list of texts"]),
        ("contracts = [1]", ["contracts to be a text, found 1"]),
        ("scopes = [1]", ["scopes to be a table"]),
        ('subjects = "x"', ["subjects to be a table of paths"]),
        ("evidence = 3", ["evidence to be a text, found 3"]),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_in_words(tmp_path, table, words):
    write(tmp_path, f"[tool.pv]\n{table}\n")
    with pytest.raises(ConfigError) as caught:
        find(tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_file_that_is_no_toml_is_named(tmp_path):
    write(tmp_path, "[tool.pv\n")
    with pytest.raises(ConfigError, match=r"pyproject\.toml: expected TOML"):
        find(tmp_path)


def test_other_peoples_broken_files_are_passed_by(tmp_path):
    write(tmp_path, '[tool.pv]\nprofile = "strict"\n')
    inner = write(tmp_path / "vendored", "this is = = not toml")
    assert find(inner).profile is Profile.STRICT


def test_a_table_that_is_no_table(tmp_path):
    write(tmp_path, "[tool]\npv = 3\n")
    with pytest.raises(ConfigError, match="to be a table, found 3"):
        find(tmp_path)


def test_paths_are_shown_from_where_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project = find(tmp_path)
    assert project.display(tmp_path / "contracts" / "x.yaml") == "contracts/x.yaml"
    assert project.display(Path("contracts/x.yaml")) == "contracts/x.yaml"
    assert project.display(Path("/elsewhere/x.yaml")) == "/elsewhere/x.yaml"


def test_every_setting_says_what_it_is():
    assert all(setting.help and setting.schema for setting in SETTINGS.values())
    assert {name for name, _ in VARIABLES.values()} <= set(SETTINGS)


def test_disposable_state_lies_in_a_project_or_among_the_users_own(tmp_path, monkeypatch):
    monkeypatch.delenv("PV_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = tmp_path / "folder"
    folder.mkdir()
    assert find(folder).cache.is_relative_to(tmp_path / "xdg" / "pv")
    assert find(folder).cache != find(tmp_path).cache
    monkeypatch.setenv("PV_CACHE", str(tmp_path / "own"))
    assert find(folder).cache.is_relative_to(tmp_path / "own")
    (folder / ".git").mkdir()
    assert find(folder).cache == folder.resolve() / ".pv_cache"
