"""The context of a check: subjects, files bound to the record, the public command, oracles and bounds."""

from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from pv import __version__
from pv.contract.vocabulary import Cell, DeviceClass
from pv.evidence.record import ExhaustedRecord, FileDigest
from pv.falsify import Blocked
from pv.falsify.context import RunContext, Subjects


@pytest.fixture
def context(tmp_path):
    def make(subject: str = "code", **more) -> RunContext:
        return RunContext(Cell(DeviceClass.CPU, subject), tmp_path / "project", tmp_path / "scratch", **more)

    (tmp_path / "project").mkdir()
    (tmp_path / "scratch").mkdir()
    return make


def sha(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def test_reading_the_seed_marks_the_record(context):
    ctx = context(given_seed=11)
    assert not ctx.seeded
    assert (ctx.seed, ctx.seeded) == (11, True)


def test_a_subject_is_built_once(context):
    subjects, built = Subjects(), []
    for _ in range(2):
        assert context(subjects=subjects).subject("s", lambda: built.append(1) or "made") == "made"
    assert built == [1]


def test_a_subject_built_under_a_control_is_not_kept_but_a_sound_one_is_shared(context):
    subjects = Subjects()
    assert context(subjects=subjects, control="c").subject("s", lambda: "broken") == "broken"
    assert context(subjects=subjects).subject("s", lambda: "sound") == "sound"
    assert context(subjects=subjects, control="c").subject("s", lambda: "broken") == "sound"


def test_the_path_of_a_subject_binds_its_files(context, tmp_path):
    model = tmp_path / "elsewhere"
    (model / "part").mkdir(parents=True)
    (model / "config.json").write_bytes(b"{}")
    (model / "part" / "weights").write_bytes(b"w")
    ctx = context("model-1", paths={"model-1": model})
    assert ctx.subject_path() == model
    assert ctx.digests() == (
        FileDigest("model-1:config.json", sha(b"{}")),
        FileDigest("model-1:part/weights", sha(b"w")),
    )


def test_a_file_of_the_project_is_bound_by_its_path_from_the_root(context, tmp_path):
    fixture = tmp_path / "project" / "fixtures" / "a.bin"
    fixture.parent.mkdir()
    fixture.write_bytes(b"a")
    ctx = context()
    ctx.bind(fixture)
    ctx.bind(fixture)
    assert ctx.digests() == (FileDigest("fixtures/a.bin", sha(b"a")),)
    with pytest.raises(FileNotFoundError, match="nothing at"):
        ctx.bind(fixture.with_name("b.bin"))


def test_a_subject_that_is_one_file_is_bound_by_its_name(context, tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"g")
    ctx = context("model-1", paths={"model-1": model})
    ctx.subject_path()
    assert ctx.digests() == (FileDigest("model-1:model.gguf", sha(b"g")),)


def test_an_absent_subject_blocks_and_says_how_to_give_it(context, tmp_path):
    with pytest.raises(Blocked) as absent:
        context("model-1").subject_path()
    assert absent.value.missing == ("subject 'model-1': set PV_SUBJECT_MODEL_1, or model-1 in [tool.pv.subjects]",)
    with pytest.raises(Blocked, match="does not exist"):
        context("code", paths={"tiny-teacher": tmp_path / "no"}).subject_path("tiny-teacher")


@pytest.mark.parametrize("subject", ["code", "synthetic:7b"])
def test_a_subject_without_files_has_no_path(context, subject):
    with pytest.raises(ValueError, match="the check makes it itself"):
        context(subject).subject_path()


def test_run_pv_runs_this_installation_from_the_projects_root(context, capfd, tmp_path):
    (tmp_path / "project" / "pv.py").write_text("raise SystemExit('the wrong pv')")
    ctx = context()
    done = ctx.run_pv("--version")
    assert (done.args, done.returncode, done.stdout, done.stderr) == (
        ("--version",),
        0,
        f"pv, version {__version__}\n",
        "",
    )
    wrong = ctx.run_pv("no-such-command", env={"NO_COLOR": "1"})
    assert wrong.returncode == 2
    assert "No such command" in wrong.stderr
    log = capfd.readouterr().out
    assert "$ pv --version" in log
    assert "[exit 2]" in log


def test_run_pv_gives_up_after_its_own_timeout(context):
    with pytest.raises(subprocess.TimeoutExpired):
        context().run_pv("--version", timeout=0.001)


def test_run_pv_passes_variables_on(context, monkeypatch):
    monkeypatch.setenv("PV_PROFILE", "strict")
    done = context().run_pv("--help", env={"PYTHONHASHSEED": "nonsense"})
    assert done.returncode != 0
    assert "PYTHONHASHSEED" in done.stderr
    assert os.environ.get("PYTHONHASHSEED") != "nonsense"


def test_an_oracle_that_disagreed_once_has_disagreed(context):
    ctx = context()
    ctx.agree("hf", "5.0", True)
    assert ctx.oracle.agreed
    ctx.agree("hf", "5.0", False)
    ctx.agree("hf", "5.0", True)
    assert not ctx.oracle.agreed


def test_an_exhausted_bound_is_kept(context):
    ctx = context()
    ctx.exhaust(8, 255, True)
    assert ctx.exhausted == ExhaustedRecord(8, 255, True)


def test_progress_is_throttled_but_the_end_is_always_told(context):
    heard = []
    ctx = context(report=lambda *said: heard.append(said))
    for done in range(1, 1001):
        ctx.progress(done, 1000, "rows")
    assert heard[0] == (1, 1000, "rows")
    assert heard[-1] == (1000, 1000, "rows")
    assert len(heard) < 100
