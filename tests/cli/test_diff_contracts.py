"""Two contracts, or one and its past: what changed, and what version that takes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import click
import pytest

from pv.cli.diff_contracts import run
from tests.contract.samples import SOUND

LOOSER = SOUND.replace("value: 0.5", "value: 0.75").replace("status: UNBOUND", "status: FUNCTIONAL", 1)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "old-v1.yaml").write_text(SOUND)
    (tmp_path / "new-v1.yaml").write_text(LOOSER)
    return str(tmp_path / "old-v1.yaml"), str(tmp_path / "new-v1.yaml")


def test_the_heaviest_change_comes_first_and_the_version_last(pair, capsys):
    assert run(*pair, "text") == 1
    assert capsys.readouterr().out.splitlines() == [
        "major  FALSIFY-SOUND-001: thresholds.gap loosened: <= 0.5 -> <= 0.75",
        "minor  FALSIFY-SOUND-001: status status: UNBOUND -> FUNCTIONAL",
        "",
        "1.2.0 -> 1.2.0: the changes demand a major bump; too small, write 2.0.0 or later",
    ]


def test_nothing_changed(pair, capsys):
    assert run(pair[0], pair[0], "text") == 0
    assert capsys.readouterr().out == "nothing changed in meaning\n"


def test_as_data(pair, capsys):
    run(*pair, "json")
    data = json.loads(capsys.readouterr().out)
    assert (data["bump"], data["least_version"]) == ("major", "2.0.0")
    assert data["changes"][0] == {
        "kind": "loosened", "subject": "FALSIFY-SOUND-001", "what": "thresholds.gap", "before": "<= 0.5",
        "after": "<= 0.75", "bump": "major",
    }  # fmt: skip


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_a_contract_and_its_past(pair, tmp_path, capsys):
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "old-v1.yaml")
    git(tmp_path, "commit", "-qm", "one")
    Path(pair[0]).write_text(LOOSER.replace("version: 1.2.0", "version: 2.0.0"))
    assert run(pair[0], "HEAD", "text") == 1
    assert "1.2.0 -> 2.0.0: the changes demand a major bump; enough" in capsys.readouterr().out
    with pytest.raises(click.UsageError, match="no such file there"):
        run(pair[1], "HEAD", "text")
    with pytest.raises(click.UsageError, match="expected a git revision"):
        run(pair[0], "nosuch", "text")


def test_a_side_that_is_no_contract(pair, tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(click.UsageError, match=r"bad\.yaml.* is not one: PV105"):
        run(pair[0], str(tmp_path / "bad.yaml"), "text")


def test_through_the_command(pair):
    from click.testing import CliRunner

    from pv.cli.main import pv

    done = CliRunner().invoke(pv, ["diff", *pair])
    assert done.exit_code == 1
    assert "major" in done.output
