"""`pv model convert` from the outside."""

from __future__ import annotations

import json
import os
import re
import resource
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pv.cli.exit_codes import ExitCode
from pv.cli.main import pv
from pv.cli.model_convert import TYPES, default_output
from pv.model.gguf_file import open_gguf
from pv.model.gguf_write import FileType
from pv.model.spec import ModelSpec
from pv.model.synthetic import Recipe, write_model

TEACHER = Path(__file__).parents[2] / "fixtures" / "tiny-teacher"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_CACHE", str(tmp_path / "pv-cache"))


@pytest.fixture
def teacher() -> Path:
    if not TEACHER.exists():
        pytest.skip(f"the trained teacher is not at {TEACHER}")
    return TEACHER


def call(*arguments: str) -> Result:
    return CliRunner().invoke(pv, ["model", "convert", *arguments], catch_exceptions=False)


def test_the_types_offered_are_those_that_can_be_written() -> None:
    assert tuple(FileType) == TYPES


@pytest.mark.parametrize("kind", ["Q4_K", "Q4_K_M", "Q8_0"])
def test_the_converted_teacher_answers_the_canonical_prompt(teacher: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.gguf"
    done = call(str(teacher), "--to", "gguf", "--type", kind, "--output", str(path))
    assert (done.exit_code, done.stdout, done.stderr) == (ExitCode.OK, f"{path}\n", "")
    run = ["run", str(path), "--prompt", "What is 2+2?", "--max-tokens", "8", "--temperature", "0", "--no-gpu"]
    assert CliRunner().invoke(pv, run, catch_exceptions=False).stdout == "2 + 2 equals 4.\n"


def test_json_tells_what_was_written(teacher: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    data = json.loads(call(str(teacher), "--to", "gguf", "--type", "Q4_K_M", "--output", str(path), "--json").stdout)
    assert data["path"] == str(path)
    assert data["bytes"] == path.stat().st_size
    assert data["types"] == {"F32": 21, "Q4_K": 24, "Q6_K": 5}
    assert data["fallbacks"] == {}
    assert data["source_digest"].startswith("sha256:")


def test_the_default_place_is_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "some.model").mkdir()
    assert default_output(tmp_path / "some.model", "Q4_K") == tmp_path / "some.model-Q4_K.gguf"
    assert default_output(tmp_path / "some.gguf", "F32") == tmp_path / "some-F32.gguf"


def test_a_file_that_is_there_is_kept_unless_forced(teacher: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"mine")
    arguments = (str(teacher), "--to", "gguf", "--type", "F16", "--output", str(path))
    refused = call(*arguments)
    assert refused.exit_code == ExitCode.USAGE
    assert "is there already; give --output, or --force to replace it" in refused.stderr
    assert path.read_bytes() == b"mine"
    assert call(*arguments, "--force").exit_code == ExitCode.OK
    assert open_gguf(path).spec.vocab == 512


def test_narrow_rows_are_named_on_stderr_a_line_for_each_part(tmp_path: Path) -> None:
    """Ffn_down's rows are 256 wide; of the four layers, Q4_K_M gives the last two values of the layers more bits."""
    spec = ModelSpec(300, 96, 4, 4, 2, 24, 256, 1e6, 1e-6, tied=True, context=64)
    write_model(Recipe(spec), tmp_path / "narrow")
    done = call(str(tmp_path / "narrow"), "--to", "gguf", "--type", "Q4_K_M", "--no-tokenizer")
    assert done.exit_code == ExitCode.OK
    assert done.stdout.strip() == str(tmp_path / "narrow-Q4_K_M.gguf")
    assert done.stderr.splitlines() == [
        "embedding: rows of 96 are no whole number of Q6_K blocks, stored as Q8_0",
        "layers.0-3.q: rows of 96 are no whole number of Q4_K blocks, stored as Q5_0",
        "layers.0-3.k: rows of 96 are no whole number of Q4_K blocks, stored as Q5_0",
        "layers.0-1.v: rows of 96 are no whole number of Q4_K blocks, stored as Q5_0",
        "layers.0-3.attn_out: rows of 96 are no whole number of Q4_K blocks, stored as Q5_0",
        "layers.0-3.ffn_gate: rows of 96 are no whole number of Q4_K blocks, stored as Q5_0",
        "layers.0-3.ffn_up: rows of 96 are no whole number of Q4_K blocks, stored as Q5_0",
        "layers.2-3.v: rows of 96 are no whole number of Q6_K blocks, stored as Q8_0",
    ]


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_folder_or_a_device_is_never_replaced(teacher: Path, tmp_path: Path, force: tuple[str, ...]) -> None:
    """As root, a rename would put a file in the place of a device node; a pipe is no file either."""
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    for name in ("folder.gguf", "pipe.gguf"):
        path = tmp_path / name
        done = call(str(teacher), "--to", "gguf", "--type", "Q8_0", "--output", str(path), *force)
        assert done.exit_code == ExitCode.USAGE
        assert f"expected a file to replace at {path}, which is none; give another --output" in done.stderr
    assert (tmp_path / "folder.gguf").is_dir()
    assert (tmp_path / "pipe.gguf").is_fifo()


def test_a_full_disk_is_a_sentence_and_leaves_no_file(teacher: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"mine")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))  # the system's refusal in the middle of a tensor
    try:
        done = call(str(teacher), "--to", "gguf", "--type", "Q8_0", "--output", str(path), "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.exit_code == ExitCode.FAILURE
    assert re.search(
        r"the disk took only a part \(\d+ requested and \d+ written\): is it full\? \(.*x.gguf\)", done.stderr
    )
    assert [(p.name, p.read_bytes()) for p in tmp_path.glob("*.gguf*")] == [("x.gguf", b"mine")]
    assert not list(tmp_path.glob(".x.gguf*"))


def test_a_model_without_merges_needs_no_tokenizer_said(tmp_path: Path) -> None:
    spec = ModelSpec(300, 64, 1, 4, 2, 16, 64, 1e6, 1e-6, tied=True, context=64)
    write_model(Recipe(spec), tmp_path / "bytes")
    done = call(str(tmp_path / "bytes"), "--to", "gguf", "--type", "F16")
    assert done.exit_code == ExitCode.FINDINGS
    assert "no merges" in done.stderr
    assert "--no-tokenizer" in done.stderr
    assert not list(tmp_path.glob("*.gguf"))


def test_quantizing_twice_is_refused(teacher: Path, tmp_path: Path) -> None:
    path = tmp_path / "q8.gguf"
    call(str(teacher), "--to", "gguf", "--type", "Q8_0", "--output", str(path))
    done = call(str(path), "--to", "gguf", "--type", "Q4_K")
    assert done.exit_code == ExitCode.USAGE
    assert "quantizing twice loses twice; convert the original model" in done.stderr


def test_an_unknown_type_lists_the_known(tmp_path: Path) -> None:
    done = call(str(tmp_path), "--to", "gguf", "--type", "Q3_K")
    assert done.exit_code == ExitCode.USAGE
    assert "Q4_K_M" in done.stderr
