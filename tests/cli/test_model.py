"""`pv model info` and `pv model make`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pv.cli.exit_codes import ExitCode
from pv.cli.main import pv
from pv.model.open import open_model

TEACHER = Path(__file__).parents[2] / "fixtures" / "tiny-teacher"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_CACHE", str(tmp_path / "pv-cache"))


def call(*arguments: str) -> Result:
    return CliRunner().invoke(pv, ["model", *arguments], catch_exceptions=False)


def test_info_of_the_teacher() -> None:
    facts = json.loads(call("info", str(TEACHER), "--json").stdout)
    assert {name: facts[name] for name in ("hidden", "ffn", "layers", "heads", "kv_heads", "vocab", "tied")} == {
        "hidden": 256, "ffn": 768, "layers": 4, "heads": 8, "kv_heads": 2, "vocab": 512, "tied": True,
    }  # fmt: skip
    assert facts["weight_types"] == {"F16": 50}
    assert facts["weight_bytes"] == 2 * facts["parameters"] == 6_299_136
    assert facts["digest"] == open_model(TEACHER).digest
    assert facts["cache_bytes_per_token"] == 4 * 2 * 2 * 32 * 4


def test_info_as_text_shows_the_same() -> None:
    shown = dict(line.split(None, 1) for line in call("info", str(TEACHER)).stdout.splitlines())
    assert shown["parameters"] == "3,149,568"
    assert shown["weight_types"] == "50 x F16"
    assert shown["tied"] == "yes"


def test_make_writes_where_it_is_told_and_says_where(tmp_path: Path) -> None:
    place = tmp_path / "m"
    arguments = (
        "make",
        "--shape",
        "nano",
        "--seed",
        "3",
        "--massive-channel",
        "--dtype",
        "bfloat16",
        "--output",
        str(place),
    )
    first, second = call(*arguments), call(*arguments)
    assert first.stdout == second.stdout == f"{place}\n"
    assert "already there" in second.stderr
    assert "already there" not in first.stderr
    assert json.loads(call("info", str(place), "--json").stdout)["weight_types"] == {"BF16": 39}


def test_make_keeps_models_in_the_cache_by_default(tmp_path: Path) -> None:
    assert call("make", "--shape", "nano").stdout == f"{tmp_path}/pv-cache/models/nano-f32-seed0\n"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("make", "--shape", "9b"), ExitCode.FINDINGS, "expected a shape among 7b, 1.5b"),
        (("make", "--shape", "nano", "--seed", "-1"), ExitCode.USAGE, "-1 is not in the range"),
        (("make", "--shape", "nano", "--output", "/proc/pv"), ExitCode.FAILURE, "No such file or directory"),
        (("info", "/nowhere"), ExitCode.USAGE, "expected a model at /nowhere, found nothing"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: tuple[str, ...], code: ExitCode, sentence: str) -> None:
    done = call(*arguments)
    assert done.exit_code == code
    assert sentence in done.stderr


def test_a_directory_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    done = call("make", "--shape", "nano", "--output", str(tmp_path))
    assert done.exit_code == ExitCode.USAGE
    assert "is not empty" in done.stderr
