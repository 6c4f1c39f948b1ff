"""`pv init`: adds what is missing, replaces nothing, says both."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from pv.cli.main import pv as program
from pv.contract.project import Profile, find
from pv.document.reader import read
from tests.contract.samples import SOUND


def init(*arguments: object):
    return CliRunner().invoke(program, ["init", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "x-v1.yaml").write_bytes(b"\xef\xbb\xbf" + SOUND.replace("\n", "\r\n").encode())
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_project_from_nothing(folder):
    before = read(folder / "contracts" / "x-v1.yaml")
    done = init(folder, "--profile", "strict")
    assert done.exit_code == 0
    assert find(folder).profile is Profile.STRICT
    assert (folder / "schemas" / "contract.schema.json").exists()
    after = read(folder / "contracts" / "x-v1.yaml")
    assert after.data == before.data
    assert after.text.splitlines()[:2] == [
        "# yaml-language-server: $schema=../schemas/contract.schema.json",
        "# $schema: ../schemas/contract.schema.json",
    ]
    assert after.text == "".join(f"{line}\r\n" for line in after.text.splitlines()[:2]) + before.text
    assert after.bom


def test_a_second_call_changes_nothing(folder):
    init(folder)
    before = tree(folder)
    done = init(folder)
    assert tree(folder) == before
    assert "kept, it has [tool.pv]" in done.output
    assert "kept, it is current" in done.output
    assert "kept, it names a schema" in done.output


def test_settings_of_others_stay_to_the_byte(folder):
    text = b'[project]\r\nname = "x"  # ours\r\n[tool.ruff]\r\nline-length = 99'
    (folder / "pyproject.toml").write_bytes(text)
    init(folder)
    content = (folder / "pyproject.toml").read_bytes()
    assert content.startswith(text)
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert tomllib.loads(content.decode())["tool"]["pv"]["profile"] == "compat"


def test_a_schema_that_differs_is_left_unless_forced(folder):
    (folder / "schemas").mkdir()
    (folder / "schemas" / "contract.schema.json").write_text("{}")
    done = init(folder)
    assert "left, it differs" in done.output
    assert "--force" in done.stderr
    assert (folder / "schemas" / "contract.schema.json").read_text() == "{}"
    assert "replaced" in init(folder, "--force").output
    assert (folder / "schemas" / "contract.schema.json").read_text() != "{}"


def test_dry_run_writes_nothing(folder):
    before = tree(folder)
    done = init(folder, "--dry-run")
    assert "modelines added" in done.output
    assert tree(folder) == before


def test_a_contract_that_cannot_be_read_is_left(folder):
    (folder / "contracts" / "y-v1.yaml").write_text("a: [1\n")
    assert "left, it cannot be read" in init(folder).output
    assert (folder / "contracts" / "y-v1.yaml").read_text() == "a: [1\n"


def test_settings_that_are_no_toml_are_refused(folder):
    (folder / "pyproject.toml").write_text("[tool\n")
    done = init(folder)
    assert done.exit_code == 2
    assert (folder / "pyproject.toml").read_text() == "[tool\n"


def test_after_init_the_project_validates(folder, monkeypatch):
    init(folder)
    monkeypatch.chdir(folder)
    assert CliRunner().invoke(program, ["validate"]).exit_code == 0


def test_adopting_changes_no_contract_and_finds_every_one(tmp_path):
    for place in ("kernels/fast", "models"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x-v1.yaml").write_bytes(SOUND.replace("\n", "\r\n").encode())
    (tmp_path / "models" / "other.yaml").write_text("on: push\n")
    before = tree(tmp_path)
    done = init(tmp_path, "--adopt")
    assert done.exit_code == 0, done.output
    assert "found: 2 contracts in 2 folders" in done.output
    assert "  x-v1: kernels/fast/x-v1.yaml, models/x-v1.yaml" in done.output
    project = find(tmp_path)
    assert project.profile is Profile.COMPAT
    assert project.contracts == ("kernels/fast/*.yaml", "models/x-v1.yaml")
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == ["pyproject.toml", "schemas/contract.schema.json"]


def test_adopting_keeps_the_settings_that_are_there(tmp_path):
    (tmp_path / "x-v1.yaml").write_text(SOUND)
    (tmp_path / "pyproject.toml").write_text('[tool.pv]\nprofile = "strict"\n')
    before = tree(tmp_path)
    assert "kept, it has [tool.pv]" in init(tmp_path, "--adopt", "--dry-run").output
    assert tree(tmp_path) == before


def test_there_must_be_something_to_adopt(tmp_path):
    done = init(tmp_path, "--adopt")
    assert done.exit_code == 2
    assert "expected contracts below" in done.output
    assert tree(tmp_path) == {}


def test_a_folder_with_a_quote_in_its_name_is_written_as_toml(tmp_path):
    folder = tmp_path / 'a "b" \\ ü'
    folder.mkdir()
    (folder / "x-v1.yaml").write_text(SOUND)
    assert init(tmp_path, "--adopt").exit_code == 0
    [pattern] = find(tmp_path).contracts
    assert list(tmp_path.glob(pattern)) == [folder / "x-v1.yaml"]
