"""A cache folder says that it is one, and git does not see it."""

from __future__ import annotations

import subprocess

from pv.document.cachedir import make_cache_folder


def test_a_cache_is_marked_and_git_does_not_see_it(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    make_cache_folder(tmp_path / ".pv_cache")
    (tmp_path / ".pv_cache" / "something.json").write_text("{}")
    told = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout == ""
    assert (tmp_path / ".pv_cache/CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_what_is_there_is_left(tmp_path):
    (tmp_path / ".gitignore").write_text("mine\n")
    make_cache_folder(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "mine\n"
