"""`pv status`: every claim, the tally, the scopes, in words and as data."""

from __future__ import annotations

import json


def text(house) -> str:
    return (house.root / "contracts" / "x-v1.yaml").read_text()


def test_status_shows_every_claim_and_the_tally(earned, pv):
    (earned.root / "pyproject.toml").write_text('[tool.pv]\n[tool.pv.scopes]\nMODEL = ["x-v1", "y-v1"]\n')
    ran = pv("status")
    assert ran.code == 0
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert lines[0] == "x-v1 1.1.0 ACTIVE 0+1 of 3; 1 blocked, 1 unbound"
    assert lines[1].startswith("FALSIFY-X-001 FUNCTIONAL cpu · code 20")
    assert lines[2] == "FALSIFY-X-002 UNBOUND cpu · code, cuda · t"
    assert "ship MODEL: 33.3 % (1 of 3 claims); not there: y-v1" in lines
    assert lines[-1] == (
        "tally 0+1 (0 discharged, 1 functional or partial) of 3 claims in 1 contract; 1 blocked, 1 unbound"
    )
    assert pv("status", "--short").out.splitlines() == ran.out.splitlines()[-2:]


def test_status_tells_stale_and_known_failing_apart(earned, pv):
    path = earned.root / "contracts" / "x-v1.yaml"
    told = "    known_failing: {owner: me, reason: hard, since: 2026}\n"
    path.write_text(text(earned).replace("  - id: FALSIFY-X-003\n", f"  - id: FALSIFY-X-003\n{told}"))
    module = earned.root / "falsifiers" / "x_v1.py"
    module.write_text(module.read_text() + "\nmore = 1\n")
    out = pv("status").out
    assert "stale:\n  x-v1  FALSIFY-X-001  falsifiers/x_v1.py changed since\n" in out
    assert "known failing:\n  x-v1  FALSIFY-X-003  hard (me)\n" in out
    assert "1 stale, 1 known failing" in out


def test_status_as_data(earned, pv):
    ran = pv("status", "--output-format", "json")
    data = json.loads(ran.out)
    assert data["tally"]["text"] == "0+1"
    assert [claim["status"] for claim in data["contracts"][0]["claims"]] == [
        "FUNCTIONAL", "UNBOUND", "BLOCKER_FIXTURE_ABSENT"
    ]  # fmt: skip


def test_status_of_nothing_is_not_success(house, pv):
    (house.root / "contracts" / "bad.yaml").write_text("metadata: 3\n")
    ran = pv("status")
    assert ran.code == 5
    assert "its claims are not counted" in ran.err
