"""A cache folder says that it is one, and git does not see it; what is kept in it comes back whole, or not at all."""

from __future__ import annotations

import os
import subprocess

from pv.document.cachedir import identity_of, keep, make_cache_folder, recall


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


def test_what_is_kept_comes_back_to_the_same_reader_alone(tmp_path):
    file, content = tmp_path / "cache" / "a.json", {"a": [1, None, "é"], "b": {}}
    assert recall(file, "me") is None
    keep(file, "me", content)
    assert recall(file, "me") == content
    assert recall(file, "you") is None
    assert {path.name for path in file.parent.iterdir()} == {"a.json", "CACHEDIR.TAG", ".gitignore"}


def test_one_changed_byte_anywhere_and_nothing_is_recalled(tmp_path):
    file = tmp_path / "a.json"
    keep(file, "me", {"verdict": "FALSIFIED", "n": 17})
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert recall(file, "me") is None, at
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        assert recall(file, "me") is None, cut
    file.write_bytes(whole)
    assert recall(file, "me") == {"verdict": "FALSIFIED", "n": 17}


def test_a_cache_that_cannot_be_written_is_only_slow(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    keep(tmp_path / "cache" / "a.json", "me", [])
    assert recall(tmp_path / "cache" / "a.json", "me") is None


def test_the_identity_is_that_of_the_installed_source_and_the_settings(tmp_path):
    for name in ("one/a.py", "one/b.txt", "two/a.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")

    def now(*settings):
        return identity_of(tmp_path, ("one",), *settings)

    before = now("strict")
    assert now("strict") == before != now("compat")
    (tmp_path / "one/b.txt").write_text("more")
    (tmp_path / "two/a.py").write_text("y = 2\n")
    assert now("strict") == before
    os.utime(tmp_path / "one/a.py", ns=(1, 1))
    assert now("strict") != before
