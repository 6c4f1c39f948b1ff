"""Bytes out of git's history, or a reason why not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pv.contract.revisions import RevisionError, content_at


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.yaml").write_bytes(b"a: 1\r\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    (tmp_path / "sub" / "x.yaml").write_bytes(b"a: 2\n")
    return tmp_path


def test_the_bytes_as_they_were(repository):
    assert content_at("HEAD", repository / "sub" / "x.yaml") == b"a: 1\r\n"


def test_a_file_that_was_not_there(repository):
    (repository / "new.yaml").touch()
    assert content_at("main", repository / "new.yaml") is None


@pytest.mark.parametrize("revision", ["nosuch", "--help", "HEAD:x", ""])
def test_a_revision_that_is_none(repository, revision):
    with pytest.raises(RevisionError, match="expected a git revision"):
        content_at(revision, repository / "sub" / "x.yaml")


def test_outside_of_any_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(RevisionError, match="is in no git repository"):
        content_at("HEAD", tmp_path / "x.yaml")


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RevisionError, match="git cannot be run"):
        content_at("HEAD", tmp_path / "x.yaml")
