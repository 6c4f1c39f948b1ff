"""What a run said names no place of the machine it ran on, and nothing else changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pv.contract.vocabulary import Cell, DeviceClass
from pv.falsify import placeless
from pv.falsify.protocol import Answer, Outcome, Request

PROJECT, HOME, TMP = "/srv/team/model", "/home/ada", "/tmp"


@pytest.fixture
def request_of(monkeypatch):
    monkeypatch.setenv("HOME", HOME)
    monkeypatch.setattr("tempfile.gettempdir", lambda: TMP)
    placeless._places.cache_clear()

    def request_of(project=PROJECT, scratch="/tmp/pv-run-x/0"):
        return Request(
            module=Path(project, "falsifiers/x_v1.py"),
            function="check",
            claim="FALSIFY-X-001",
            stated=(),
            cell=Cell(DeviceClass.CPU, "code"),
            project=Path(project),
            scratch=Path(scratch),
            log=Path(scratch + ".log"),
        )

    yield request_of
    placeless._places.cache_clear()


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("$ pv run /srv/team/model/fixtures/teacher", "$ pv run <project>/fixtures/teacher"),
        ("in /srv/team/model.", "in <project>."),
        ("file:///srv/team/model/report.html", "file://<project>/report.html"),
        ("/srv/team/model2/x and /srv/team/model-old and /srv/team/model.bak", None),
        ("/tmp/pv-run-x/0/receipt.json, /tmp/pv-run-x/0.log", "<scratch>/receipt.json, <tmp>/pv-run-x/0.log"),
        ('File "/home/ada/lib/a.py", line 3', 'File "<home>/lib/a.py", line 3'),
        ("/home/adam/x, /tmpfs, /usr/lib/libvulkan.so.1, /dev/dri", None),
        (f"{sys.prefix}/lib/python", "<python>/lib/python"),
        ("PATH=/srv/team/model:/home/ada", "PATH=<project>:<home>"),
        ("'/srv/team/model'", "'<project>'"),
        ("", None),
    ],
)
def test_places_give_way_to_their_names(request_of, said, kept):
    assert placeless.text_without_places(said, request_of()) == (said if kept is None else kept)


def test_the_innermost_folder_counts(request_of):
    inside = request_of(project="/home/ada/code/pv", scratch="/home/ada/code/pv/.scratch/0")
    said = "/home/ada/code/pv/.scratch/0/a /home/ada/code/pv/b /home/ada/c"
    assert placeless.text_without_places(said, inside) == "<scratch>/a <project>/b <home>/c"


def test_a_root_folder_for_a_home_is_no_place(request_of, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert placeless.text_without_places("/etc/passwd and /", request_of()) == "/etc/passwd and /"


def test_a_folder_behind_a_link_is_named_too(request_of, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    linked = request_of(project=str(tmp_path / "link"))
    said = f"{tmp_path}/link/a {tmp_path}/real/b"
    assert placeless.text_without_places(said, linked) == "<project>/a <project>/b"


def test_bytes_that_are_no_text_stay(request_of):
    log = b"\xff\xfe /srv/team/model/x \x00"
    assert placeless.log_without_places(log, request_of()) == b"\xff\xfe <project>/x \x00"


def test_an_answer_says_it_in_reason_and_notes(request_of):
    answer = Answer(Outcome.ERROR, reason="no /srv/team/model/x", notes=("at /tmp/pv-run-x/0/y", "fine"))
    told = placeless.answer_without_places(answer, request_of())
    assert (told.reason, told.notes) == ("no <project>/x", ("at <scratch>/y", "fine"))
