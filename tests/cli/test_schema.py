"""`pv schema`: printed, written, checked."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pv.cli.main import pv as program
from pv.cli.schema import SCHEMAS


def schema(*arguments: str):
    return CliRunner().invoke(program, ["schema", *map(str, arguments)])


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_printed(name):
    done = schema(name)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["$schema"].startswith("http")


def test_without_a_name_it_asks_for_one():
    done = schema()
    assert done.exit_code == 2
    assert "contract, evidence, config" in done.output


def test_written_then_current_then_stale(tmp_path):
    assert schema("--write", tmp_path / "s").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "config.schema.json", "contract.schema.json", "evidence.schema.json",
    ]  # fmt: skip
    assert schema("--write", tmp_path / "s", "--check").exit_code == 0
    assert "0 of 3 schemas written" in schema("--write", tmp_path / "s").stderr
    (tmp_path / "s" / "contract.schema.json").write_text("{}")
    done = schema("--write", tmp_path / "s", "--check")
    assert done.exit_code == 1
    assert "contract.schema.json is not current" in done.stdout
    assert (tmp_path / "s" / "contract.schema.json").read_text() == "{}", "a check writes nothing"


def test_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert schema("--write").exit_code == 0
    assert (tmp_path / "schemas" / "contract.schema.json").exists()
