"""From records to contracts: promotion, demotion, idempotence, versions, and what deleted records still earn."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from pv.contract.vocabulary import Cell, DeviceClass, Level, Status, Verdict
from pv.evidence.record import OracleRecord
from pv.evidence.retract import retract
from pv.evidence.settle import committed, figures

CUDA = Cell(DeviceClass.CUDA, "tiny-teacher")
ONE, TWO = "FALSIFY-TOY-001", "FALSIFY-TOY-002"


def test_a_survival_is_written_with_its_evidence_and_nothing_else(toy):
    toy.commit()
    record = toy.run()
    assert toy.git("diff", "--numstat", "--", "contracts").split("\t")[:2] == ["12", "2"]
    claim = toy.claim(ONE)
    assert claim.status is Status.FUNCTIONAL
    assert claim.evidence == (record.digest,)
    assert claim.last_verified == "2026-11-20"
    assert claim.algorithm_evidence == {
        "file_paths": ["src/engine/ops.py", "falsifiers/toy_v1.py"],
        "function_names": ["cosine", "agrees"],
        "invariants_enforced": ["cosine >= 0.99"],
    }
    assert claim.functional_evidence == [f"cpu · code · 2026-11-20 · cosine 1 · pv falsify --id {ONE}"]
    assert "    # about the second\n  - id: FALSIFY-TOY-002" in toy.text


def test_a_blocker_that_is_named_is_written_without_any_run(toy):
    toy.settle()
    assert toy.statuses() == ["UNBOUND", "UNBOUND", "BLOCKER_FIXTURE_ABSENT"]
    assert toy.claim("FALSIFY-TOY-003").algorithm_evidence == {"notes": "blocked on model-1"}


def test_settling_again_changes_nothing(toy):
    toy.run()
    before = toy.text
    assert not toy.settle().changes
    assert toy.text == before


def test_the_rung_is_the_lowest_over_required_cells(toy):
    toy.run()
    toy.run(TWO)
    assert toy.claim(TWO).status is Status.PARTIAL_ALGORITHM_LEVEL
    record = toy.run(TWO, cell=CUDA)
    claim = toy.claim(TWO)
    assert claim.status is Status.FUNCTIONAL
    assert len(claim.evidence) == 2
    assert record.digest in claim.evidence
    assert [line.partition(" · ")[0] for line in claim.functional_evidence] == ["cpu", "cuda"]


def test_an_oracle_discharges(toy):
    toy.write(
        "contracts/toy-v1.yaml",
        toy.text.replace("    binds_to: parity\n", "    binds_to: parity\n    requires: {oracle: hf}\n", 1),
    )
    toy.run(oracle=OracleRecord("hf", "4.57", True))
    assert toy.claim(ONE).status is Status.DISCHARGED
    assert toy.claim(ONE).discharge_evidence == [f"cpu · code · 2026-11-20 · oracle hf agreed · pv falsify --id {ONE}"]


def test_a_second_host_discharges_and_a_second_run_here_does_not(toy):
    toy.run()
    environment = toy.record().environment
    assert toy.ledger.worth_keeping(toy.loaded.contract, toy.claim(ONE), toy.record()) is False
    toy.run(environment=replace(environment, host="ffff"))
    assert toy.claim(ONE).status is Status.DISCHARGED


def test_a_planted_defect_demotes_and_its_mending_brings_the_status_back(toy):
    toy.commit()
    toy.run()
    good = toy.text
    toy.write("src/engine/ops.py", "def cosine():\n    return 0.5\n")
    broken = toy.run(value=0.5)
    assert toy.claim(ONE).status is Status.FALSIFIED
    assert toy.claim(ONE).evidence == (broken.digest,)
    toy.write("src/engine/ops.py", "def cosine():\n    # mended\n    return 1.0\n")
    toy.settle()
    assert toy.claim(ONE).status is Status.FUNCTIONAL
    assert toy.text == good, "the record of the mended code is there already: same evidence, same version, same bytes"


def test_a_break_is_not_outrun_by_running_again(toy):
    toy.run(value=0.5)
    toy.run(value=1.0)
    assert toy.claim(ONE).status is Status.FALSIFIED


def test_a_vacuous_check_drops_the_claim(toy):
    toy.run()
    toy.run(caught=False)
    assert toy.claim(ONE).status is Status.UNBOUND


@pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.BLOCKED, Verdict.INCONCLUSIVE])
@pytest.mark.parametrize("value", [1.0, 0.5])
def test_what_decides_nothing_moves_nothing(toy, verdict, value):
    toy.run(value=value)
    before = toy.text
    toy.run(verdict=verdict, observed="", measurements=(), controls=(), missing=("a card",))
    assert toy.text == before
    assert len(toy.ledger.summaries) == 1


def test_a_blocked_run_says_what_is_missing(toy):
    toy.run(
        TWO, cell=CUDA, verdict=Verdict.BLOCKED, observed="", measurements=(), controls=(), missing=("a CUDA device",)
    )
    claim = toy.claim(TWO)
    assert claim.status is Status.BLOCKER_FIXTURE_ABSENT
    assert claim.algorithm_evidence["notes"] == "missing on cuda · tiny-teacher: a CUDA device"


def test_a_retraction_falls_to_what_is_left(toy):
    algorithm = toy.run(level=Level.ALGORITHM)
    live = toy.run()
    assert toy.claim(ONE).status is Status.FUNCTIONAL
    retract(toy.ledger.store, live.digest, "the fixture was wrong")
    toy.settle()
    assert toy.claim(ONE).status is Status.PARTIAL_ALGORITHM_LEVEL
    assert toy.claim(ONE).evidence == (algorithm.digest,)
    retract(toy.ledger.store, algorithm.digest, "this too")
    toy.settle()
    assert toy.claim(ONE).status is Status.UNBOUND
    assert toy.claim(ONE).evidence == ()


def test_a_retraction_that_is_retracted_brings_the_record_back(toy):
    record = toy.run()
    undone = retract(toy.ledger.store, record.digest, "wrong fixture")
    retract(toy.ledger.store, undone.digest, "it was the right one")
    toy.settle()
    assert toy.claim(ONE).status is Status.FUNCTIONAL


def test_a_hand_raised_status_falls(toy):
    toy.write("contracts/toy-v1.yaml", toy.text.replace("status: UNBOUND", "status: DISCHARGED", 1))
    toy.settle()
    assert toy.claim(ONE).status is Status.UNBOUND


def test_deleted_records_earn_nothing(toy):
    toy.run()
    shutil.rmtree(toy.project.evidence)
    toy.settle()
    assert toy.claim(ONE).status is Status.UNBOUND
    assert toy.claim(ONE).evidence == ()


def test_a_changed_claim_keeps_its_status_and_is_stale(toy):
    toy.run()
    toy.write("contracts/toy-v1.yaml", toy.text.replace("value: 0.99, repeat", "value: 0.999, repeat"))
    before = toy.text
    toy.settle()
    assert toy.text == before
    entitlement = toy.ledger.entitlements(toy.loaded.contract)[ONE]
    assert entitlement.stale == "thresholds changed since: cosine >= 0.99 1 -> >= 0.999 1"


def test_a_foreign_status_needs_adopt_and_without_a_record_is_left_alone(toy):
    toy.write("contracts/toy-v1.yaml", toy.text.replace("status: UNBOUND", "status: VERIFIED", 1))
    assert toy.settle().refused == ()
    record = toy.record()
    toy.ledger.store.add(record)
    plan = toy.settle()
    assert plan.refused[0].foreign_status
    assert "status: VERIFIED" in toy.text
    toy.settle(adopt=True)
    assert toy.claim(ONE).status is Status.FUNCTIONAL


def test_a_renamed_file_keeps_its_evidence(toy):
    record = toy.run()
    renamed = toy.root / "contracts" / "toy-v2.yaml"
    toy.contract_path.rename(renamed)
    toy.contract_path = renamed
    toy.settle()
    assert toy.claim(ONE).status is Status.FUNCTIONAL
    assert toy.claim(ONE).evidence == (record.digest,)


def test_records_of_the_same_id_in_another_contract_are_not_lent(toy):
    other = toy.text.replace("the cosine is at least 0.99", "another claim")
    toy.run()
    toy.write("contracts/other-v1.yaml", other)
    toy.contract_path = toy.root / "contracts" / "other-v1.yaml"
    toy.settle()
    assert toy.claim(ONE).status is Status.UNBOUND


# --- versions --------------------------------------------------------------------------------------------------------


def version(toy) -> str:
    return toy.loaded.contract.metadata.version


def test_any_number_of_runs_before_a_commit_make_one_bump(toy):
    toy.commit()
    versions = []
    for claim_id, cell in ((ONE, None), (TWO, None), (TWO, CUDA)):
        toy.run(claim_id, **({"cell": cell} if cell else {}))
        versions.append(version(toy))
    assert versions == ["1.1.0", "1.1.0", "1.1.0"]
    toy.commit()
    toy.write("src/engine/ops.py", "def cosine():\n    return 0.5\n")
    toy.run(value=0.5)
    assert version(toy) == "1.2.0"


def test_two_commits_of_one_branch_make_one_bump_against_its_base(toy):
    toy.commit()
    base = toy.git("rev-parse", "HEAD").strip()
    toy.run()
    toy.commit()
    toy.ledger.store.add(toy.record(TWO))
    toy.settle(against=base)
    assert version(toy) == "1.1.0"


def test_without_git_each_run_bumps_against_its_own_start(toy):
    start = toy.loaded
    toy.run()
    assert version(toy) == "1.1.0"
    toy.ledger.store.add(toy.record(TWO))
    assert toy.settle(starts={start.path: start.contract}, write=False).version_after == "1.1.0"
    toy.settle()
    assert version(toy) == "1.2.0"


def test_a_contract_that_was_never_committed_is_compared_with_itself(toy):
    toy.commit()
    toy.write("contracts/new-v1.yaml", toy.text)
    assert (
        committed(replace(toy.loaded.contract, path=toy.root / "contracts/new-v1.yaml", id="new-v1"), toy.project)
        is None
    )
    assert committed(toy.loaded.contract, toy.project).metadata.version == "1.0.0"


def test_a_dry_settling_writes_nothing(toy):
    toy.ledger.store.add(toy.record())
    before = toy.text
    plan = toy.settle(write=False)
    assert plan.changes
    assert "+    status: FUNCTIONAL" in plan.diff
    assert toy.text == before


def test_what_records_that_are_not_on_disk_would_earn(toy):
    """`--check` and `--dry-run`: the same plan as if they had been written, and nothing is."""
    record = toy.record()
    plan = toy.settle(write=False, also=[record])
    assert not toy.project.evidence.exists()
    toy.ledger.store.add(record)
    assert toy.settle(write=False).after == plan.after
    with pytest.raises(ValueError, match="every record on disk before a status"):
        toy.settle(also=[record])


def test_of_an_id_that_stands_twice_the_first_entry_is_written(toy):
    entry = toy.text[toy.text.index("  - id: FALSIFY-TOY-003") :]
    toy.write("contracts/toy-v1.yaml", toy.text + entry)
    toy.settle()
    assert toy.text.count("status: BLOCKER_FIXTURE_ABSENT") == 1


def test_figures_are_short(make_record):
    assert figures(make_record().measurements) == "bits_equal 1, cosine 0.9999998, ratio 1.2"
    assert figures(make_record().measurements * 2).endswith(" and 2 more")


def test_the_changelog_names_claims_that_are_new(toy):
    toy.write(
        "contracts/toy-v1.yaml", toy.text.replace("  references", '  changelog:\n    - "1.0.0: made"\n  references')
    )
    toy.commit()
    entry = toy.text[toy.text.index("  - id: FALSIFY-TOY-001") : toy.text.index("    # about the second")]
    toy.write("contracts/toy-v1.yaml", toy.text + entry.replace("001   # the first", "004"))
    toy.checked.add("FALSIFY-TOY-004")
    toy.run("FALSIFY-TOY-004")
    assert '    - "1.1.0: pv: new: FALSIFY-TOY-004; ' in toy.text
