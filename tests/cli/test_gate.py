"""`pv gate`: each thing that must keep the gate closed is planted once; what is owed is told and passes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from pv.contract.vocabulary import DeviceClass
from pv.falsify.devices import DeviceReport

GOOD = "return measure('m', not defect)"


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


def git(house, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=house.root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(house, message="state"):
    git(house, "add", "-A")
    git(house, "commit", "-qm", message)


@pytest.fixture
def earned(house, pv):
    """A project whose one claim has earned FUNCTIONAL, committed as `base`."""
    house.contract("x-v1", house.claim("FALSIFY-X-001", "status: UNBOUND"))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    (house.root / ".gitignore").write_text(".pv_cache/\n.pv/\n__pycache__/\n")
    git(house, "init", "-q")
    assert pv("falsify", "--all").code == 0
    commit(house)
    git(house, "branch", "base")
    return house


def edit(house, old, new, file="contracts/x-v1.yaml"):
    path = house.root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def sections(ran):
    return {section["name"]: section["standing"] for section in json.loads(ran.out)["sections"]}


def codes(ran):
    return {finding["code"] for section in json.loads(ran.out)["sections"] for finding in section["findings"]}


def test_an_honest_tree_passes_and_nothing_is_written(earned, pv):
    ran = pv("gate", "--against", "base")
    assert ran.code == 0, ran.out + ran.err
    assert ran.out.splitlines()[-1] == "gate: open"
    assert git(earned, "status", "--porcelain") == ""


def test_a_status_raised_by_hand_is_refused_at_its_line(earned, pv):
    edit(earned, "status: FUNCTIONAL", "status: DISCHARGED")
    ran = pv("gate", "--no-run")
    line = (earned.root / "contracts/x-v1.yaml").read_text().splitlines().index("    status: DISCHARGED") + 1
    assert ran.code == 1
    assert f"contracts/x-v1.yaml:{line}:" in ran.out
    assert "PV401" in ran.out


def test_a_claim_that_breaks_now_closes_the_gate(earned, pv):
    earned.checks("x-v1", FALSIFY_X_001="return measure('m', 0)")
    ran = pv("gate", "--output-format", "json")
    assert ran.code == 1
    assert sections(ran)["checks"] == "failed"
    assert {"PV470", "PV473"} & codes(ran)


def test_a_check_that_crashes_closes_the_gate(earned, pv):
    earned.checks("x-v1", FALSIFY_X_001="raise KeyError('here')")
    ran = pv("gate", "--output-format", "json")
    assert ran.code == 1
    assert "PV471" in codes(ran)


def test_a_check_that_lost_its_teeth_closes_the_gate(earned, pv):
    earned.checks("x-v1", FALSIFY_X_001="return measure('m', 1)")
    ran = pv("gate", "--output-format", "json")
    assert ran.code == 1
    assert "PV470" in codes(ran)


def test_an_edited_record_closes_the_gate(earned, pv):
    record = next((earned.root / "evidence").rglob("*FALSIFY-X-001/*.json"))
    record.write_text(record.read_text().replace('"n":1', '"n":9'))
    ran = pv("gate", "--no-run", "--output-format", "json")
    assert ran.code == 1
    assert sections(ran)["records"] == "failed"


def test_a_loosened_threshold_needs_a_major_version(earned, pv):
    edit(earned, 'op: "==", value: 1', 'op: ">=", value: 0')
    ran = pv("gate", "--against", "base", "--no-run")
    assert ran.code == 1
    assert "PV501" in ran.out
    edit(earned, "version: 1.1.0", "version: 2.0.0")
    ran = pv("gate", "--against", "base", "--no-run", "--output-format", "json")
    assert sections(ran)["versions"] == "passed"


def test_a_removed_contract_is_a_removed_promise_unless_its_claims_moved(earned, pv):
    path = earned.root / "contracts/x-v1.yaml"
    text = path.read_text()
    path.unlink()
    earned.contract("y-v1", earned.claim("FALSIFY-Y-001", "status: UNBOUND"))
    ran = pv("gate", "--against", "base", "--no-run", "--output-format", "json")
    assert "PV476" in codes(ran)
    (earned.root / "contracts/z-v1.yaml").write_text(text)
    assert "PV476" not in codes(pv("gate", "--against", "base", "--no-run", "--output-format", "json"))


def test_stale_evidence_is_debt_and_a_release_refuses_it(earned, pv):
    earned.checks("x-v1", FALSIFY_X_001="value = not defect\nreturn measure('m', value)")
    ran = pv("gate", "--against", "base")
    assert ran.code == 0, ran.out
    assert "PV475" in ran.out
    assert "rerun here and survived" in ran.out
    assert ran.out.splitlines()[-1] == "gate: open (owed or unknown: evidence)"
    assert pv("gate", "--against", "base", "--release").code == 1


def test_a_known_failure_is_listed_and_its_pass_is_red(house, pv):
    owner = "known_failing: {owner: me, reason: the driver, since: 2026-11-01}"
    house.contract("x-v1", house.claim("FALSIFY-X-001", "status: UNBOUND", owner))
    house.checks("x-v1", FALSIFY_X_001="return measure('m', 0)")
    assert pv("falsify", "--all").code == 0
    ran = pv("gate")
    assert "known failing: FALSIFY-X-001, me since 2026-11-01: the driver" in ran.out
    assert ran.code == 0, ran.out
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    ran = pv("gate", "--output-format", "json")
    assert ran.code == 1
    assert "PV474" in codes(ran)


def test_what_cannot_run_here_is_4_unless_it_is_allowed(house, pv):
    cuda = "requires: {cells: [{device: cuda, subject: code}]}"
    house.contract("x-v1", house.claim("FALSIFY-X-001", "status: UNBOUND", cuda))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    pv("falsify", "--all", "--allow-blocked")
    assert pv("gate").code == 4
    ran = pv("gate", "--allow-blocked")
    assert ran.code == 0, ran.out
    assert "blocked  FALSIFY-X-001 [cuda · code]" in ran.out


def test_no_contract_and_no_check_are_no_success(house, pv):
    assert pv("gate").code == 1
    house.contract("x-v1", house.claim("FALSIFY-X-001", "status: UNBOUND", "blocked_on: [a fixture]"))
    ran = pv("gate", "--output-format", "json")
    assert sections(ran)["checks"] == "failed"


def test_contracts_of_a_project_inside_are_not_this_ones(earned, pv):
    inner = earned.root / "examples/one/contracts"
    inner.mkdir(parents=True)
    text = (earned.root / "contracts/x-v1.yaml").read_text()
    (inner / "y-v1.yaml").write_text(text.replace("FALSIFY-X-001", "FALSIFY-Y-001"))
    commit(earned)
    ran = pv("gate", "--against", "HEAD", "--no-run", "--output-format", "json")
    assert "PV476" not in codes(ran)
    assert "1 contract at HEAD compared" in ran.out


def test_a_reference_that_is_not_there_is_a_wrong_call(earned, pv):
    ran = pv("gate", "--against", "nonsense", "--no-run")
    assert ran.code == 2
    assert "nonsense" in ran.err


def test_a_shallow_clone_says_what_it_could_not_know(earned, pv, tmp_path, monkeypatch):
    edit(earned, "a rule", "another rule")
    edit(earned, "version: 1.1.0", "version: 1.1.1")
    commit(earned)
    clone = tmp_path / "clone"
    subprocess.run(
        ["git", "clone", "-q", "--depth", "1", f"file://{earned.root}", str(clone)], check=True, capture_output=True
    )
    monkeypatch.chdir(clone)
    ran = pv("gate", "--against", "base")
    assert ran.code == 0, ran.out
    assert "this shallow clone has no base" in ran.out
    assert pv("gate", "--against", "base", "--release").code == 1


def test_a_complete_contract_that_grows_is_advised_a_sibling(earned, pv):
    """Completeness is taken from the reference's own words, so it is written there by hand."""
    edit(earned, "status: FUNCTIONAL", "status: DISCHARGED")
    commit(earned)
    git(earned, "branch", "complete")
    text = (earned.root / "contracts/x-v1.yaml").read_text()
    more = earned.claim("FALSIFY-X-002", "status: UNBOUND").replace("\n", "\n    ")
    (earned.root / "contracts/x-v1.yaml").write_text(f"{text}  - {more}\n".replace("1.1.0", "1.2.0"))
    assert "PV478" in codes(pv("gate", "--against", "complete", "--no-run", "--output-format", "json"))


@pytest.mark.parametrize("form", ["sarif", "github", "junit"])
def test_every_format_carries_the_finding_and_the_sections_go_to_stderr(earned, pv, form):
    edit(earned, "status: FUNCTIONAL", "status: DISCHARGED")
    ran = pv("gate", "--no-run", "--output-format", form)
    assert ran.code == 1
    assert "PV401" in ran.out
    assert "gate: closed: contracts" in ran.err


def test_the_step_summary_is_a_page_for_reviewers(earned, pv, tmp_path, monkeypatch):
    page = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    edit(earned, "status: FUNCTIONAL", "status: DISCHARGED")
    pv("gate", "--no-run")
    assert "### pv gate: closed: contracts" in page.read_text()
    assert "- `PV401` error `contracts/x-v1.yaml:" in page.read_text()


def test_a_check_that_does_not_fit_its_contract_closes_the_gate(house, pv):
    house.contract("x-v1", house.claim("FALSIFY-X-001", "status: UNBOUND"))
    house.checks("x-v1", FALSIFY_X_001=GOOD, FALSIFY_X_009=GOOD)
    ran = pv("gate", "--no-run")
    assert ran.code == 1
    assert "PV353" in ran.out
    assert "FALSIFY-X-009" in ran.out


def checks_section(ran):
    return next(section for section in json.loads(ran.out)["sections"] if section["name"] == "checks")


CHANGED = ("gate", "--against", "base", "--changed", "--output-format", "json")


def test_with_changed_a_branch_that_touches_nothing_runs_nothing_and_passes(earned, pv):
    ran = pv(*CHANGED)
    assert ran.code == 0
    assert checks_section(ran)["summary"] == "nothing to run again: no contract changed, all evidence is fresh"


@pytest.mark.parametrize("committed", [False, True])
def test_with_changed_a_contract_that_differs_is_run(earned, pv, committed):
    edit(earned, "prediction: ", "prediction: more than ")
    if committed:
        commit(earned)
    assert "1 claim of 1 in 1 contract checked" in checks_section(pv(*CHANGED))["summary"]


def test_with_changed_stale_evidence_is_run_and_what_broke_closes_the_gate(earned, pv):
    edit(earned, GOOD, "return measure('m', 0)", file="falsifiers/x_v1.py")
    ran = pv(*CHANGED)
    assert ran.code == 1
    assert "PV470" in codes(ran)


def test_with_changed_a_new_contract_that_git_does_not_know_is_run(earned, pv):
    earned.contract("y-v1", earned.claim("FALSIFY-Y-001", "status: UNBOUND"))
    earned.checks("y-v1", FALSIFY_Y_001=GOOD)
    assert pv("falsify", "--all").code == 0  # it has its evidence; that git knows nothing of it is the reason
    assert "1 claim of 1 in 1 contract checked" in checks_section(pv(*CHANGED))["summary"]


def test_with_changed_a_known_failure_that_passes_is_still_seen(house, pv):
    known = "known_failing: {reason: r, owner: o, since: '2026-01-01'}"
    house.contract("x-v1", house.claim("FALSIFY-X-001", "status: UNBOUND", known))
    house.checks("x-v1", FALSIFY_X_001=GOOD)
    (house.root / ".gitignore").write_text(".pv_cache/\n.pv/\n__pycache__/\n")
    git(house, "init", "-q")
    pv("falsify", "--all")
    commit(house)
    git(house, "branch", "base")
    assert "PV474" in codes(pv(*CHANGED))


def test_changed_without_a_reference_is_a_wrong_call(earned, pv):
    ran = pv("gate", "--changed")
    assert ran.code == 2
    assert "--changed needs a reference" in ran.err


def test_a_finding_of_a_run_names_the_file_from_the_root(earned, pv):
    edit(earned, GOOD, "return measure('m', 0)", file="falsifiers/x_v1.py")
    found = [finding for finding in checks_section(pv(*CHANGED))["findings"] if finding["code"] == "PV470"]
    assert [finding["path"] for finding in found] == ["contracts/x-v1.yaml"]


# --- what is remembered between two looks -----------------------------------------------------------------------------


def same_size_and_time(path, old, new):
    """An edit that a look at size and time alone would miss."""
    facts, content = path.stat(), path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize(
    ("pattern", "old", "new", "code"),
    [
        ("contracts/x-v1.yaml", b"status: FUNCTIONAL", b"status: DISCHARGED", "PV401"),
        ("contracts/x-v1.yaml", b"evidence: ", b"evidense: ", "PV203"),
        ("evidence/FALSIFY-X-001/*.json", b'"n":1', b'"n":9', "PV451"),
        ("falsifiers/x_v1.py", b"FALSIFY-X-001", b"FALSIFY-X-009", "PV353"),
    ],
)
def test_an_edit_between_two_looks_is_seen_whatever_its_size_and_time(earned, pv, pattern, old, new, code):
    assert pv("gate", "--no-run").code == 0
    assert pv("gate", "--no-run").code == 0, "and from memory"
    (path,) = earned.root.glob(pattern)
    same_size_and_time(path, old, new)
    again = pv("gate", "--no-run", "--output-format", "json")
    shutil.rmtree(earned.root / ".pv_cache")
    assert again.out == pv("gate", "--no-run", "--output-format", "json").out
    assert again.code == 1
    assert code in codes(again)


def test_a_cited_file_that_goes_between_two_looks_is_missed(earned, pv):
    assert pv("gate", "--no-run").code == 0
    (earned.root / "falsifiers/x_v1.py").rename(earned.root / "falsifiers/y_v1.py")
    assert "PV311" in codes(pv("gate", "--no-run", "--output-format", "json"))


def test_a_release_takes_every_record_apart_whatever_is_remembered(earned, pv, monkeypatch):
    from pv.evidence import judged

    assert sections(pv("gate", "--no-run", "--output-format", "json"))["records"] == "passed"
    taken = []
    whole = judged.judged
    monkeypatch.setattr(judged, "judged", lambda content: taken.append(content) or whole(content))
    pv("gate", "--no-run")
    assert taken == []
    pv("gate", "--no-run", "--release")
    assert len(taken) == len(list(earned.root.glob("evidence/*/*.json"))) > 0


def test_what_would_be_kept_is_told_without_a_copy_of_the_evidence(earned, pv, monkeypatch):
    monkeypatch.setattr(shutil, "copytree", None)
    earned.checks("x-v1", FALSIFY_X_001="return measure('m', 0)")
    before = {path: path.read_bytes() for path in earned.root.rglob("*") if path.is_file() and ".pv" not in str(path)}
    ran = pv("gate", "--output-format", "json")
    assert "PV470" in codes(ran)
    assert {path: path.read_bytes() for path in before} == before
