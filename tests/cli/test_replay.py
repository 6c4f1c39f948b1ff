"""`pv replay`: the same run again is the same to the bit; what is not is named; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DRAWN = """
import math, random, os
draw = random.Random(ctx.seed)
value = sum(math.sin(draw.random()) for _ in range(1000))
ctx.note(str(ctx.seed))
if defect:
    value += 1e6
return measure('m', value{more}, n=1000)
"""


def tree(root: Path) -> dict[Path, bytes]:
    kept = (path for path in root.rglob("*") if not {".pv_cache", "__pycache__"} & set(path.parts))
    return {path: path.read_bytes() for path in kept if path.is_file()}


def record(house, claim: str = "FALSIFY-X-001") -> str:
    """Digest of the claim's latest record."""
    newest = max((house.root / "evidence" / claim).glob("*.json"))
    return newest.stem.rpartition("-")[2]


@pytest.fixture
def drawn(house, pv):
    """A claim about a sum of random sines, on record with seed 7."""
    house.contract("x-v1", house.claim("FALSIFY-X-001", threshold='{op: "<=", value: 1000}'))
    house.checks("x-v1", FALSIFY_X_001=DRAWN.format(more=""))
    assert pv("falsify", "--id", "FALSIFY-X-001", "--seed", "7").code == 0
    return house


def change(house, old: str, new: str, *, place: str = "falsifiers/x_v1.py") -> None:
    path = house.root / place
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_same_run_is_the_same_to_the_bit_and_nothing_is_written(drawn, pv):
    before = tree(drawn.root)
    ran = pv("replay", record(drawn))
    assert ran.code == 0, ran.out
    assert "seed 7" in ran.out
    assert ran.out.splitlines()[-1] == "SURVIVED as recorded; 2 figures: bit-identical"
    assert tree(drawn.root) == before


def test_a_claims_id_means_the_latest_of_its_runs(drawn, pv):
    change(drawn, "if defect:", "if defect:  # another state of the code\n        value += 1\n    if defect:")
    assert pv("falsify", "--id", "FALSIFY-X-001", "--seed", "8").code == 0
    latest = record(drawn)
    assert pv("retract", latest, "--reason", "a test", "--no-settle").code == 0
    ran = pv("replay", "FALSIFY-X-001")
    assert (ran.code, "seed 8" in ran.out) == (0, True)


def test_another_seed_would_have_shown(drawn, pv):
    change(drawn, "random.Random(ctx.seed)", "random.Random(ctx.seed + 1)")
    ran = pv("replay", record(drawn))
    assert ran.code == 1
    assert "differs (relative 1e-09)" in ran.out
    assert "not the same code or claim: falsifiers/x_v1.py changed since" in ran.out
    assert ran.out.splitlines()[-1] == "SURVIVED as recorded; 2 figures: differs"


@pytest.mark.parametrize(
    ("by", "repeat", "code", "said"),
    [
        (" * (1 + 1e-12)", "", 0, "within tolerance (relative 1e-09)"),
        (" * (1 + 1e-7)", "", 1, "differs (relative 1e-09)"),
        (" + 0.4", ", repeat: 0.5", 0, "within tolerance (repeat 0.5)"),
        (" + 0.6", ", repeat: 0.5", 1, "differs (repeat 0.5)"),
    ],
)
def test_tolerance_is_the_thresholds_repeat_or_a_billionth(house, pv, by, repeat, code, said):
    house.contract("x-v1", house.claim("FALSIFY-X-001", threshold=f'{{op: "<=", value: 1000{repeat}}}'))
    house.checks("x-v1", FALSIFY_X_001=DRAWN.format(more=""))
    assert pv("falsify", "--id", "FALSIFY-X-001").code == 0
    change(house, "measure('m', value", f"measure('m', value{by}")
    ran = pv("replay", record(house))
    assert ran.code == code
    assert said in ran.out


def test_a_verdict_that_moved_is_a_difference_even_if_no_figure_did(drawn, pv):
    change(drawn, "value: 1000}", "value: 1e9}", place="contracts/x-v1.yaml")
    ran = pv("replay", record(drawn))
    assert "2 figures" not in ran.out
    assert ran.out.count("bit-identical") == 2
    assert "the verdict was SURVIVED and is VACUOUS: 'broken' was not caught" in ran.out
    assert ran.code == 1


def test_a_claim_that_changed_is_said_and_its_figures_still_compared(drawn, pv):
    change(drawn, "value: 1000}", "value: 1}", place="contracts/x-v1.yaml")
    ran = pv("replay", record(drawn))
    assert ran.code == 1
    assert "thresholds changed since: m <= 1000 1 -> <= 1 1" in ran.out
    assert "bit-identical" in ran.out
    assert "the verdict was SURVIVED and is FALSIFIED" in ran.out


def test_what_differs_around_it_is_named(drawn, pv, monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    ran = pv("replay", record(drawn), "--output-format", "json")
    data = json.loads(ran.out)
    assert ran.code == 0
    assert data["agreement"] == "bit-identical"
    assert data["verdict"] == {"then": "SURVIVED", "now": "SURVIVED", "reason": ""}
    assert data["environment"] == {"flag NVIDIA_TF32_OVERRIDE": {"then": "", "now": "1"}}


def test_an_input_that_changed_is_named(house, pv):
    (house.root / "weights.bin").write_bytes(b"1")
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001="ctx.bind(ctx.project / 'weights.bin')\nreturn measure('m', not defect)")
    assert pv("falsify", "--all").code == 0
    (house.root / "weights.bin").write_bytes(b"2")
    ran = pv("replay", record(house))
    assert ran.code == 0
    assert "not the same input: weights.bin" in ran.out
    assert "weights.bin changed since" in ran.out


def test_what_cannot_run_here_is_blocked(drawn, pv):
    change(drawn, "import math, random, os", "import math, random, os\n    raise Blocked('a licence')")
    ran = pv("replay", record(drawn))
    assert ran.code == 4
    assert "BLOCKED here: a licence; recorded was SURVIVED" in ran.out


def test_a_crash_is_a_difference(drawn, pv):
    change(drawn, "return measure", "raise OSError('gone')\n    return measure")
    ran = pv("replay", record(drawn))
    assert ran.code == 1
    assert "the verdict was SURVIVED and is ERROR" in ran.out
    assert "not measured in both" in ran.out


@pytest.mark.parametrize(
    ("remove", "said"),
    [
        ("falsifiers/x_v1.py", "no check of FALSIFY-X-001 is registered any more"),
        ("contracts/x-v1.yaml", "no contract of this project claims FALSIFY-X-001 any more"),
    ],
)
def test_what_is_gone_is_said(drawn, pv, remove, said):
    digest = record(drawn)
    (drawn.root / remove).unlink()
    if remove.startswith("contracts"):
        (drawn.root / "falsifiers" / "x_v1.py").unlink()
    ran = pv("replay", digest)
    assert ran.code == 1
    assert said in ran.err


def test_a_record_of_a_renamed_contract_is_found_by_its_claim(drawn, pv):
    for place in ("contracts/x-v1.yaml", "falsifiers/x_v1.py"):
        path = drawn.root / place
        path.rename(path.with_name(path.name.replace("x", "y", 1)))
    assert pv("replay", record(drawn)).code == 0


def test_a_retraction_holds_no_run_and_a_typo_is_a_wrong_call(drawn, pv):
    digest = record(drawn)
    assert pv("retract", digest, "--reason", "a test").code == 0
    retraction = next(
        path.stem.rpartition("-")[2]
        for path in (drawn.root / "evidence" / "FALSIFY-X-001").glob("*.json")
        if digest not in path.name
    )
    ran = pv("replay", retraction)
    assert (ran.code, "holds no run" in ran.err) == (1, True)
    assert pv("replay", "abcdefabcdef").code == 2
