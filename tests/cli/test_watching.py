"""The wait ends with a change, whoever tells of it, and never for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pv.cli import watching

if watching.watch is None:
    pytest.skip("the extra `watch` is not installed", allow_module_level=True)


@pytest.fixture
def naps(monkeypatch):
    """What was slept, which takes no time here."""
    taken: list[float] = []
    monkeypatch.setattr(watching.time, "sleep", taken.append)
    return taken


def test_the_system_tells_of_a_change(tmp_path, naps, monkeypatch):
    monkeypatch.setattr(watching, "LOOK_EVERY", 20.0)
    writer = threading.Timer(0.3, (tmp_path / "new.yaml").write_text, ["a: 1\n"])
    writer.start()
    began = time.monotonic()
    watching.wait_for_a_change([tmp_path])
    writer.join()
    assert time.monotonic() - began < 10, "told of it, not timed out"
    assert naps == []


def test_without_a_change_it_still_comes_back(tmp_path, naps, monkeypatch):
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.2)
    watching.wait_for_a_change([tmp_path, tmp_path / "never there"])
    assert naps == []


def test_without_watchfiles_it_asks(tmp_path, naps, monkeypatch):
    monkeypatch.setattr(watching, "watch", None)
    watching.wait_for_a_change([tmp_path])
    assert naps == [watching.ASK_EVERY]


@pytest.mark.parametrize("trouble", [OSError("no more watches"), FileNotFoundError("gone"), RuntimeError("internal")])
def test_where_the_system_will_not_watch_it_asks(tmp_path, naps, monkeypatch, trouble):
    def watch(*folders: Path, **options: object):
        raise trouble
        yield

    monkeypatch.setattr(watching, "watch", watch)
    watching.wait_for_a_change([tmp_path])
    assert naps == [watching.ASK_EVERY]


def test_no_folder_at_all_is_no_error(naps, monkeypatch):
    monkeypatch.setattr(watching, "LOOK_EVERY", 0.1)
    watching.wait_for_a_change([])
