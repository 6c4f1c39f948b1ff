"""`pv falsify` as a user calls it: what is run, written, said, and every exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pv.contract.vocabulary import DeviceClass
from pv.document.files import NotWritten
from pv.falsify import records
from pv.falsify.devices import DeviceReport

GOOD, BAD = "return measure('m', not defect)", "return measure('m', 0)"
VACUOUS = "return measure('m', 1)"
CRASH = "print('last words')\nos.kill(os.getpid(), signal.SIGSEGV)"
BLOCKED = "raise Blocked('the fixture')"
CUDA = "requires: {cells: [{device: cuda, subject: code}]}"
SOFTWARE = "requires: {cells: [{device: vulkan, subject: code}]}"


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with a processor and nothing else, so that these tests say the same everywhere."""

    def present(wanted=tuple(DeviceClass)):
        return {
            device: DeviceReport(device, "a processor")
            if device is DeviceClass.CPU
            else DeviceReport(device, why_not="none")
            for device in wanted
        }

    monkeypatch.setattr("pv.falsify.request.present", present)


def snapshot(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".git" not in path.parts
    }


def written(house, stem: str = "x-v1") -> str:
    return (house.root / "contracts" / f"{stem}.yaml").read_text()


def verdicts(ran) -> dict[str, str]:
    return {one["id"][-3:]: one["verdict"] for one in json.loads(ran.out)["results"]}


# ------------------------------------------------------------------------------------------------- earning and writing


def test_a_claim_earns_its_status_with_a_record_and_a_second_run_changes_nothing(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001", "status: UNBOUND"))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    ran = pv("falsify", "--all")
    assert ran.code == 0
    assert "UNBOUND -> FUNCTIONAL" in ran.out
    assert "x-v1 1.0.0 -> 1.1.0" in ran.out
    assert ran.out.splitlines()[-1] == (
        "1 claim of 1 in 1 contract checked, 1 cell run (1 survived); earned: 1 status moved; "
        "written: 1 record, 1 contract"
    )
    assert "[1/1] SURVIVED" in ran.err
    assert "status: FUNCTIONAL" in written(house)
    (record,) = (house.root / "evidence" / "FALSIFY-X-001").iterdir()
    predicate = json.loads(record.read_text())["predicate"]
    assert (predicate["verdict"], predicate["observed"]) == ("SURVIVED", "prediction")
    assert predicate["command"] == "pv falsify --id FALSIFY-X-001"
    assert predicate["check"]["entryPoint"] == "falsifiers/x_v1.py:falsify_x_001"
    assert [control["caught"] for control in predicate["negativeControls"]] == [True]
    assert predicate["seed"] is None if "seed" in predicate else True
    before = snapshot(house.root / "evidence"), written(house)
    again = pv("falsify", "--all")
    assert again.code == 0
    assert "0 statuses moved; written: 0 records, 0 contracts" in again.out
    assert (snapshot(house.root / "evidence"), written(house)) == before


def test_a_defect_falsifies_demotes_and_mending_brings_the_status_back(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    assert pv("falsify", "--all").code == 0
    house.checks("x-v1", FALSIFY_X_001=BAD)
    broken = pv("falsify", "--all")
    assert broken.code == 1
    assert "FUNCTIONAL -> FALSIFIED" in broken.out
    assert "then: the world is otherwise" in broken.out
    assert "again: pv falsify --id FALSIFY-X-001" in broken.out
    assert "status: FALSIFIED" in written(house)
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    assert "FALSIFIED -> FUNCTIONAL" in pv("falsify", "--all").out
    assert "status: FUNCTIONAL" in written(house)


def test_nothing_is_written_by_check_and_by_dry_run(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"), house.claim("FALSIFY-X-002"))
    house.checks("x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_002=GOOD)
    before = snapshot(house.root)
    dry = pv("falsify", "--all", "--dry-run")
    assert dry.code == 0
    assert "+    status: FUNCTIONAL" in dry.out
    assert "+  version: 1.1.0" in dry.out
    assert "would be written: 2 records, 1 contract" in dry.out
    check = pv("falsify", "--all", "--check")
    assert check.code == 1
    assert "+    status: FUNCTIONAL" in check.out
    after = {name: content for name, content in snapshot(house.root).items() if not name.startswith(".pv_cache/")}
    assert after == before


def test_check_of_an_unchanged_tree_is_silent_success(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"), house.claim("FALSIFY-X-002", CUDA))
    house.checks("x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_002=GOOD)
    pv("falsify", "--all")
    ran = pv("falsify", "--all", "--check", "--allow-blocked")
    assert ran.code == 0
    assert "would be written: 0 records, 0 contracts" in ran.out


def test_check_of_code_that_changed_since_is_not(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    pv("falsify", "--all")
    house.checks("x-v1", FALSIFY_X_001=f"print('other code')\n{GOOD}")
    ran = pv("falsify", "--all", "--check")
    assert ran.code == 1
    assert "would be written: a record of FALSIFY-X-001 [cpu · code], SURVIVED" in ran.out


def test_check_on_another_machine_is_no_change(house, pv, monkeypatch):
    """A second host would discharge the claim; that is a gain to be written, not a fault of the tree."""
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    pv("falsify", "--all")
    monkeypatch.setattr(records, "_environment", elsewhere(records._environment))
    assert pv("falsify", "--all", "--check").code == 0
    dry = pv("falsify", "--all", "--dry-run")
    assert "FUNCTIONAL -> DISCHARGED" in dry.out
    house.checks("x-v1", FALSIFY_X_001=BAD)
    assert pv("falsify", "--all", "--check").code == 1


def test_check_with_a_stand_in_that_the_first_machine_lacked_is_no_change(house, pv, monkeypatch):
    house.contract("x-v1", house.claim("FALSIFY-X-001", SOFTWARE))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    assert pv("falsify", "--all").code == 4
    monkeypatch.setattr("pv.falsify.request.present", with_software_vulkan)
    ran = pv("falsify", "--all", "--check", "--allow-blocked")
    assert ran.code == 0
    assert "(stand-in)" in ran.out
    assert "BLOCKER_FIXTURE_ABSENT -> PARTIAL_ALGORITHM_LEVEL" in pv("falsify", "--all", "--allow-blocked").out
    house.checks("x-v1", FALSIFY_X_001=f"x = 1\n{GOOD}")
    assert pv("falsify", "--all", "--check", "--allow-blocked").code == 1


def with_software_vulkan(wanted):
    return {
        device: DeviceReport(device, "here") if device in ("cpu", "vulkan-sw") else DeviceReport(device, why_not="no")
        for device in wanted
    }


def elsewhere(environment):
    from dataclasses import replace

    return lambda attempt, device: replace(environment(attempt, device), host="another")


def test_a_status_word_that_is_not_ours_is_kept_unless_adopted(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001", 'status: "VERIFIED by hand"'))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    ran = pv("falsify", "--all")
    assert ran.code == 3
    assert "not written: contracts/x-v1.yaml:" in ran.out
    assert "--adopt" in ran.out
    assert "+    status: FUNCTIONAL" in ran.out
    assert "VERIFIED by hand" in written(house)
    assert len(list((house.root / "evidence" / "FALSIFY-X-001").iterdir())) == 1
    assert pv("falsify", "--all", "--adopt").code == 0
    assert "FUNCTIONAL" in written(house)


def test_a_contract_that_cannot_be_replaced_keeps_its_records(house, pv, monkeypatch):
    path = house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001=GOOD)

    def full(*_, **__):
        raise NotWritten(path, "the disk is full")

    monkeypatch.setattr("pv.falsify.session.settle", full)
    ran = pv("falsify", "--all")
    assert ran.code == 3
    assert "the disk is full; the records are kept, `pv settle` writes what they earned" in ran.out
    assert len(list((house.root / "evidence" / "FALSIFY-X-001").iterdir())) == 1
    monkeypatch.undo()
    monkeypatch.chdir(house.root)
    assert pv("falsify", "--all").code == 0
    assert "status: FUNCTIONAL" in written(house)


def test_a_contract_edited_during_the_run_keeps_the_edit(house, pv):
    path = house.contract("x-v1", house.claim("FALSIFY-X-001"))
    edit = f"p = {str(path)!r}\nt = open(p).read()\nopen(p, 'w').write(t.replace('a rule', 'another rule'))\n"
    house.checks("x-v1", FALSIFY_X_001=edit + GOOD)
    assert pv("falsify", "--all").code == 0
    assert "rule: another rule" in written(house)
    assert "status: FUNCTIONAL" in written(house)


# ----------------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("body", "code", "verdict"),
    [
        (GOOD, 0, "SURVIVED"),
        (BAD, 1, "FALSIFIED"),
        ("return measure('m', float('nan'))", 1, "FALSIFIED"),
        (VACUOUS, 1, "VACUOUS"),
        ("raise Inconclusive('hm')", 1, "INCONCLUSIVE"),
        (CRASH, 3, "ERROR"),
        (", timeout=1@@time.sleep(60)", 3, "ERROR"),
        ("return measure('n', 1)", 3, "ERROR"),
        (BLOCKED, 4, "BLOCKED"),
    ],
)
def test_each_verdict_has_its_exit_code(house, pv, body, code, verdict):
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001=body)
    ran = pv("falsify", "--all", "--output-format", "json")
    assert (ran.code, verdicts(ran)) == (code, {"001": verdict})
    assert json.loads(ran.out)["exit_code"] == code


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return measure('m', 1, n=10**20)", "expected values that JSON can carry"),
        ("ctx.note('\\ud800')\nreturn measure('m', not defect)", "what it measured cannot go on record"),
    ],
)
def test_what_cannot_go_on_record_is_an_error_of_that_check_alone(house, pv, body, says):
    house.contract("x-v1", house.claim("FALSIFY-X-001"), house.claim("FALSIFY-X-002"))
    house.checks("x-v1", FALSIFY_X_001=body, FALSIFY_X_002=GOOD)
    ran = pv("falsify", "--all", "--output-format", "json")
    assert (ran.code, verdicts(ran)) == (3, {"001": "ERROR", "002": "SURVIVED"})
    assert says in json.loads(ran.out)["results"][0]["reason"]
    assert "status: FUNCTIONAL" in written(house)
    assert pv("verify").code == 0


def test_a_blocked_cell_is_allowed_only_where_it_is_said(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001", CUDA))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    ran = pv("falsify", "--all")
    assert ran.code == 4
    assert "BLOCKED FALSIFY-X-001 [cuda · code]: cuda: none" in ran.out
    assert "UNBOUND -> BLOCKER_FIXTURE_ABSENT" in ran.out
    assert "0 claims of 1 in 1 contract checked, 0 cells run; 1 cell blocked before it ran" in ran.out
    assert pv("falsify", "--all", "--allow-blocked").code == 0


def test_the_gravest_verdict_decides(house, pv):
    house.contract("x-v1", *(house.claim(f"FALSIFY-X-00{i}") for i in range(1, 5)))
    house.checks("x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_002=CRASH, FALSIFY_X_003=BLOCKED, FALSIFY_X_004=BAD)
    ran = pv("falsify", "--all", "--output-format", "json")
    assert verdicts(ran) == {"001": "SURVIVED", "002": "ERROR", "003": "BLOCKED", "004": "FALSIFIED"}
    assert ran.code == 1
    assert pv("falsify", "--id", "FALSIFY-X-00[123]").code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "say what to run"),
        (["--id", "FALSIFY-X-01"], 2, "did you mean FALSIFY-X-001?"),
        (["--select", "status:HIGH"], 2, "expected status: to be one of"),
        (["--all", "--cost", "slow,dear"], 2, "expected some of quick, slow, device, operator, found 'dear'"),
        (["--all", "--device", "tpu"], 2, "found 'tpu'"),
        (["--resume"], 2, "no run was left unfinished"),
        (["--all", "--retry", "3"], 2, "'3' is not 'none'"),
        (["--failed"], 5, "0 claims of 0"),
        (["--all", "-k", "nothing"], 5, "0 claims of 0"),
        (["--all", "--device", "metal"], 5, "0 claims of 0"),
        (["contracts/x-v1.yaml"], 0, "1 claim of 1"),
    ],
)
def test_what_is_asked_for_must_be_there(house, pv, arguments, code, says):
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    ran = pv("falsify", *arguments)
    assert ran.code == code
    assert says in ran.out + ran.err


def test_paths_elsewhere_bring_their_own_project(house, pv, monkeypatch, tmp_path):
    path = house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    monkeypatch.chdir(tmp_path)
    assert pv("falsify", path, "--all").code == 0
    assert "status: FUNCTIONAL" in written(house)
    assert "FALSIFY-X-001" in pv("list", path).out


def test_an_empty_project_is_not_success(house, pv):
    assert pv("falsify", "--all").code == 5


def test_a_claim_without_a_check_is_said_and_stays_unbound(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"), house.claim("FALSIFY-X-002", "blocked_on: [a permit]"))
    ran = pv("falsify", "--all")
    assert ran.code == 5
    assert "no check: FALSIFY-X-001 in x-v1.yaml\n" in ran.out
    assert "no check: FALSIFY-X-002 in x-v1.yaml; blocked on a permit\n" in ran.out
    assert "0 claims of 2 in 1 contract checked, 0 cells run; 2 claims without a check" in ran.out


def test_a_contract_that_is_not_sound_is_a_finding_and_the_others_are_checked(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    (house.root / "contracts" / "y-v1.yaml").write_text("metadata: [\n")
    ran = pv("falsify", "--all")
    assert ran.code == 1
    assert "contracts/y-v1.yaml: not a sound contract" in ran.err
    assert "status: FUNCTIONAL" in written(house)


def test_misfits_are_shown_with_their_place_before_anything_runs(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.contract("y-v1", house.claim("FALSIFY-Y-001"))
    house.checks("x-v1", FALSIFY_X_001=f"(ctx.project / 'ran').touch()\n{GOOD}", FALSIFY_X_009=GOOD)
    house.checks("y-v1", FALSIFY_Y_001=GOOD)
    ran = pv("falsify", "--all")
    assert ran.code == 1
    assert "PV353" in ran.err
    assert "FALSIFY-X-009" in ran.err
    assert "^" in ran.err
    assert "nothing was run" in ran.err
    assert not (house.root / "ran").exists()
    validated = pv("validate")
    assert validated.code == 1
    assert "PV353" in validated.out
    assert "^" in validated.out
    assert "PV353" not in pv("validate", "contracts/y-v1.yaml").out
    other = pv("falsify", "--id", "FALSIFY-Y-001")
    assert other.code == 0
    assert "PV353" in other.err


# ------------------------------------------------------------------------------------------------------ known failures


def test_a_known_failure_is_red_but_expected_and_a_known_failure_that_survives_is_not(house, pv):
    known = "known_failing: {owner: somebody, reason: a driver bug, since: '2026-11-01'}"
    house.contract("x-v1", house.claim("FALSIFY-X-001", known))
    house.checks("x-v1", FALSIFY_X_001=BAD)
    ran = pv("falsify", "--all")
    assert ran.code == 0
    assert "known failing since 2026-11-01: a driver bug (owner: somebody)" in ran.out
    assert "status: FALSIFIED" in written(house)
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    ran = pv("falsify", "--all")
    assert ran.code == 1
    assert "UNEXPECTED FALSIFY-X-001 is known_failing" in ran.out


def test_a_claim_waits_for_a_precondition_and_says_so(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001", "precondition: [FALSIFY-X-002]"), house.claim("FALSIFY-X-002"))
    house.checks("x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_002=BLOCKED)
    ran = pv("falsify", "--all")
    assert ran.code == 4
    assert "precondition FALSIFY-X-002 does not survive: BLOCKED on cpu · code" in ran.out
    alone = pv("falsify", "--id", "FALSIFY-X-001")
    assert "does not survive: on record it is BLOCKED" in alone.out
    house.checks("x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_002=GOOD)
    assert pv("falsify", "--id", "FALSIFY-X-002").code == 0
    assert pv("falsify", "--id", "FALSIFY-X-001").code == 0


# ----------------------------------------------------------------------------------------------- which claims and cells


def test_costs_are_left_out_until_they_are_asked_for(house, pv):
    house.contract(
        "x-v1",
        house.claim("FALSIFY-X-001"),
        house.claim("FALSIFY-X-002", "cost: slow"),
        house.claim("FALSIFY-X-003", "cost: operator"),
    )
    house.checks("x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_002=GOOD, FALSIFY_X_003=GOOD)
    quick = pv("falsify", "--all", "--dry-run")
    assert "left out, with --cost slow: FALSIFY-X-002 [cpu · code]" in quick.out
    assert "left out, by --id only: FALSIFY-X-003 [cpu · code]" in quick.out
    assert "1 claim of 3 in 1 contract checked, 1 cell run (1 survived); 2 cells left out by cost" in quick.out

    def ran(*arguments: str) -> set[str]:
        return set(verdicts(pv("falsify", *arguments, "--dry-run", "--output-format", "json")))

    assert ran("--all", "--cost", "slow") == {"001", "002"}
    assert ran("--all", "--cost", "slow,operator") == {"001", "002", "003"}
    assert ran("--id", "FALSIFY-X-003") == {"003"}
    assert ran("--id", "*-00[13]", "--id", "*-002") == {"001", "002", "003"}


def test_failed_and_stale_runs_can_be_chosen(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"), house.claim("FALSIFY-X-002"))
    house.checks("x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_002=CRASH)
    pv("falsify", "--all")
    assert set(verdicts(pv("falsify", "--failed", "--output-format", "json"))) == {"002"}
    assert pv("falsify", "--stale").code == 5
    house.checks("x-v1", FALSIFY_X_001=f"x = 1\n{GOOD}", FALSIFY_X_002=GOOD)
    assert "(stale)" in pv("list").out
    stale = pv("falsify", "--stale", "--output-format", "json")
    assert "001" in verdicts(stale)
    assert pv("falsify", "--stale").code == 5


def test_a_device_narrows_the_cells_and_stands_in_the_reproducing_command(house, pv, monkeypatch):
    house.contract(
        "x-v1",
        house.claim(
            "FALSIFY-X-001", "requires: {cells: [{device: cpu, subject: code}, {device: vulkan, subject: code}]}"
        ),
    )
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    monkeypatch.setattr("pv.falsify.request.present", with_software_vulkan)
    everything = json.loads(pv("falsify", "--all", "--dry-run", "--output-format", "json").out)["results"]
    assert {one["device"]: (one["verdict"], one["required"], one["command"]) for one in everything} == {
        "cpu": ("SURVIVED", True, "pv falsify --id FALSIFY-X-001 --device cpu"),
        "vulkan": ("BLOCKED", True, "pv falsify --id FALSIFY-X-001 --device vulkan"),
        "vulkan-sw": ("SURVIVED", False, "pv falsify --id FALSIFY-X-001 --device vulkan-sw --subject code"),
    }
    again = pv(
        "falsify", "--id", "FALSIFY-X-001", "--device", "vulkan-sw", "--subject", "code", "--output-format", "json"
    )
    assert [one["device"] for one in json.loads(again.out)["results"]] == ["vulkan-sw"]
    assert "status: PARTIAL_ALGORITHM_LEVEL" in written(house)


def test_a_seed_reaches_the_check_the_record_and_its_command(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"), house.claim("FALSIFY-X-002"))
    house.checks("x-v1", FALSIFY_X_001="return measure('m', not defect and ctx.seed == 7)", FALSIFY_X_002=GOOD)
    assert pv("falsify", "--all", "--seed", "7").code == 0
    seeds = {}
    for claim in ("FALSIFY-X-001", "FALSIFY-X-002"):
        (record,) = (house.root / "evidence" / claim).iterdir()
        predicate = json.loads(record.read_text())["predicate"]
        seeds[claim] = predicate.get("seed")
        assert predicate["command"] == f"pv falsify --id {claim} --seed 7"
    assert seeds == {"FALSIFY-X-001": 7, "FALSIFY-X-002": None}


def test_several_jobs_come_to_the_same(house, pv):
    house.contract("x-v1", *(house.claim(f"FALSIFY-X-00{i}") for i in range(6)))
    house.checks("x-v1", **{f"FALSIFY_X_00{i}": [GOOD, BAD, CRASH][i % 3] for i in range(6)})
    ran = pv("falsify", "--all", "-j", "3", "--output-format", "json")
    assert verdicts(ran) == {f"00{i}": ["SURVIVED", "FALSIFIED", "ERROR"][i % 3] for i in range(6)}


# ------------------------------------------------------------------------------------------------------------- formats


def test_json_tells_everything_and_stdout_is_data_alone(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"), house.claim("FALSIFY-X-002"))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    ran = pv("falsify", "--all", "--output-format", "json")
    data = json.loads(ran.out)
    (result,) = data["results"]
    assert result["measurements"] == [
        {"name": "m", "value": 1.0, "unit": "1", "n": 1, "threshold": "== 1", "margin": 0.0, "passed": True}
    ]
    assert result["controls"] == [{"name": "broken", "breaks": "m", "caught": True, "observed": "FALSIFIED"}]
    assert result["record"].startswith("sha256:")
    assert result["kept"]
    assert data["unchecked"] == [{"contract": "x-v1", "id": "FALSIFY-X-002"}]
    assert data["statuses"] == [{"contract": "x-v1", "id": "FALSIFY-X-001", "before": "UNBOUND", "after": "FUNCTIONAL"}]
    assert data["contracts"][0]["path"] == "contracts/x-v1.yaml"
    assert data["summary"] in ran.err


def test_junit_counts_each_kind(house, pv):
    house.contract("x-v1", *(house.claim(f"FALSIFY-X-00{i}") for i in range(1, 6)))
    house.checks(
        "x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_002=BAD, FALSIFY_X_003=CRASH, FALSIFY_X_004=BLOCKED, FALSIFY_X_005=VACUOUS
    )
    ran = pv("falsify", "--all", "--output-format", "junit")
    (suite,) = ElementTree.fromstring(ran.out)
    assert {key: suite.attrib[key] for key in ("name", "tests", "failures", "errors", "skipped")} == {
        "name": "x-v1",
        "tests": "5",
        "failures": "2",
        "errors": "1",
        "skipped": "1",
    }
    kinds = {case.attrib["name"][:13]: [child.tag for child in case] for case in suite}
    assert kinds["FALSIFY-X-001"] == []
    assert kinds["FALSIFY-X-003"] == ["error", "system-out"]
    assert "last words" in suite.find(".//system-out").text


def test_a_narrow_survival_is_told(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001", threshold='{op: "<=", value: 1.0}'))
    house.checks("x-v1", FALSIFY_X_001="return measure('m', 2 if defect else 0.97)")
    ran = pv("falsify", "--all")
    assert ran.code == 0
    assert "narrow: FALSIFY-X-001 [cpu · code]: m = 0.97 (<= 1), a margin of 3.0 %" in ran.out


def test_the_end_of_a_crashed_checks_log_is_shown(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001="print('\\x1b[31mred')\nraise ValueError('boom')")
    ran = pv("falsify", "--all")
    assert "ERROR FALSIFY-X-001 [cpu · code]: ValueError: boom (x_v1.py:" in ran.out
    assert "  | ValueError: boom" in ran.out
    assert "\x1b[31m" not in ran.out


# -------------------------------------------------------------------------------------------- interruption and resuming


def interrupted(house, number: int) -> subprocess.CompletedProcess[str]:
    """Run `pv falsify --all`, send the signal when the first check is in the journal and the second one has begun."""
    begun = house.root / "begun"
    process = subprocess.Popen(
        [sys.executable, "-m", "pv", "falsify", "--all"],
        cwd=house.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (begun.exists() and journalled(house) >= 2) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def journalled(house) -> int:
    """Lines of the run's journal: one that says what is wanted, then one for each finished check."""
    return sum(path.read_text().count("\n") for path in (house.root / ".pv_cache" / "runs").glob("*.jsonl"))


@pytest.fixture
def long(house):
    """Two claims; the check of the second one waits while `wait` exists."""
    house.contract("x-v1", house.claim("FALSIFY-X-001"), house.claim("FALSIFY-X-002"))
    wait = "(ctx.project / 'begun').touch()\nwhile (ctx.project / 'wait').exists(): time.sleep(0.02)\n"
    house.checks("x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_002=wait + GOOD)
    (house.root / "wait").touch()
    return house


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_and_settles_what_it_finished(long, pv, number):
    done = interrupted(long, number)
    assert done.returncode == 130
    assert "interrupted: what was finished counts; go on with `pv falsify --resume" in done.stderr
    assert "1 claim of 2" in done.stdout
    assert [path.name for path in (long.root / "evidence").iterdir() if path.name != "logs"] == ["FALSIFY-X-001"]
    assert written(long).count("status: FUNCTIONAL") == 1
    (long.root / "wait").unlink()
    resumed = pv("falsify", "--resume", "--output-format", "json")
    assert (resumed.code, verdicts(resumed)) == (0, {"002": "SURVIVED"})
    assert written(long).count("status: FUNCTIONAL") == 2
    assert pv("falsify", "--resume").code == 2


def test_a_killed_run_loses_nothing_that_it_earned(long, pv):
    done = interrupted(long, signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in (long.root / "evidence").iterdir() if path.name != "logs"] == ["FALSIFY-X-001"]
    assert "FUNCTIONAL" not in written(long)
    (long.root / "wait").unlink()
    resumed = pv("falsify", "--resume", "--output-format", "json")
    assert verdicts(resumed) == {"002": "SURVIVED"}
    assert written(long).count("status: FUNCTIONAL") == 2


def test_a_resumed_run_does_again_what_was_made_from_other_code(long, pv):
    interrupted(long, signal.SIGINT)
    (long.root / "wait").unlink()
    long.checks("x-v1", FALSIFY_X_001=f"x = 1\n{GOOD}", FALSIFY_X_002=GOOD)
    assert set(verdicts(pv("falsify", "--resume", "--output-format", "json"))) == {"001", "002"}


# --------------------------------------------------------------------------------------------------------------- weight


def test_help_says_the_exit_codes_and_loads_nothing(house, pv):
    ran = pv("falsify", "--help")
    assert ran.code == 0
    for word in ("Exit codes", "--select", "status:[<|<=|>|>=]RUNG", "pv falsify --all --allow-blocked --check"):
        assert word in ran.out
    code = (
        "import sys; sys.argv = ['pv', 'falsify', '--help']\n"
        "from pv.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'yaml', 'ruamel'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_runner_itself_loads_no_engine(house, pv):
    """Checks may; the process that reads contracts and judges never does."""
    house.contract("x-v1", house.claim("FALSIFY-X-001"))
    house.checks("x-v1", FALSIFY_X_001=f"import numpy\n{GOOD}")
    code = (
        "import sys; sys.argv = ['pv', 'falsify', '--all']\n"
        "from pv.cli.main import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end\n"
        "print(sorted({'torch', 'numpy', 'wgpu', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=house.root)
    assert done.stdout.splitlines()[-1] == "[]"
