"""Which records are worth keeping, what the rules are told, where everything stands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pv.contract.project import Project
from pv.contract.vocabulary import Cell, DeviceClass, Level, Status, Verdict
from pv.evidence.facts import facts_for
from pv.evidence.ledger import Ledger
from pv.evidence.prune import prunable
from pv.evidence.record import FileDigest
from pv.evidence.retract import RetractError, retract
from pv.evidence.standing import as_data, standing

ONE, TWO, THREE = "FALSIFY-TOY-001", "FALSIFY-TOY-002", "FALSIFY-TOY-003"
CUDA = Cell(DeviceClass.CUDA, "tiny-teacher")
UNDECIDED = {"observed": "", "measurements": (), "controls": ()}


def worth(toy, record, also=()) -> bool:
    contract = toy.loaded.contract
    return toy.ledger.worth_keeping(contract, contract.claim(record.claim_id), record, also)


# --- worth keeping ---------------------------------------------------------------------------------------------------


def test_the_first_of_a_cell_is_kept_and_its_confirmation_is_not(toy):
    toy.run()
    assert not worth(toy, toy.record())
    assert not worth(toy, toy.record(seed=7)), "of a check that asked for no seed before, one more seed proves nothing"


def test_a_record_of_another_host_that_discharges_is_kept(toy):
    toy.run()
    elsewhere = replace(toy.record().environment, host="ffff")
    assert worth(toy, toy.record(environment=elsewhere))
    assert not worth(toy, toy.record(environment=elsewhere, value=0.995)), "it does not agree, so it settles nothing"


def test_a_live_record_after_an_algorithm_level_one_is_kept_and_the_reverse_is_not(toy):
    toy.run(level=Level.ALGORITHM)
    assert worth(toy, toy.record())
    toy.run()
    assert not worth(toy, toy.record(level=Level.ALGORITHM))


def test_what_replaces_a_stale_record_is_kept(toy):
    toy.run()
    toy.write("src/engine/ops.py", "def cosine():\n    return 1.5\n")
    assert worth(toy, toy.record())
    assert not worth(toy, toy.record(verdict=Verdict.ERROR, reason="died", **UNDECIDED))


@pytest.mark.parametrize("told", [{"value": 0.5}, {"caught": False}])
def test_a_break_is_kept_once_for_the_same_code_on_the_same_host(toy, told):
    toy.run()
    assert worth(toy, toy.record(**told))
    toy.run(**told)
    assert not worth(toy, toy.record(**told))
    assert worth(toy, toy.record(environment=replace(toy.record().environment, host="ffff"), **told))


@pytest.mark.parametrize("verdict", [Verdict.BLOCKED, Verdict.ERROR, Verdict.INCONCLUSIVE])
def test_what_decides_nothing_is_kept_only_as_the_first_of_its_cell(toy, verdict):
    undecided = {"cell": CUDA, "verdict": verdict, "reason": "why", **UNDECIDED}
    assert worth(toy, toy.record(TWO, **undecided))
    toy.run(TWO, **undecided)
    assert not worth(toy, toy.record(TWO, **undecided))
    assert worth(toy, toy.record(TWO, cell=CUDA))


def test_records_of_the_same_run_count_among_themselves(toy):
    first = toy.record()
    assert worth(toy, first)
    assert not worth(toy, toy.record(), also=[first])
    assert worth(toy, toy.record(TWO), also=[first])


def test_after_a_retraction_a_new_record_is_kept(toy):
    retract(toy.ledger.store, toy.run().digest, "wrong fixture")
    assert worth(toy, toy.record())


def test_the_chain_goes_from_record_to_record_of_a_cell(toy):
    first = toy.run()
    other = toy.record(TWO)
    assert other.previous == ""
    assert toy.record().previous == first.digest
    undone = retract(toy.ledger.store, first.digest, "wrong")
    assert undone.previous == first.digest
    assert toy.record().previous == undone.digest


# --- retraction ------------------------------------------------------------------------------------------------------


def test_a_retraction_names_its_target_and_its_reason(toy):
    record = toy.run()
    undone = retract(toy.ledger.store, record.digest[7:19], "  the fixture was wrong ")
    assert (undone.invalidates, undone.reason) == (record.digest, "the fixture was wrong")
    assert (undone.claim_id, undone.cell, undone.measurements) == (record.claim_id, record.cell, ())
    assert undone.command == f"pv retract {record.digest} --reason 'the fixture was wrong'"
    assert toy.ledger.retractions[record.digest].reason == "the fixture was wrong"


@pytest.mark.parametrize(
    ("name", "reason", "sentence"),
    [(None, " ", "expected a reason"), ("0" * 64, "x", "which names none"), ("ab", "x", "12 digits or more")],
)
def test_a_retraction_of_nothing_or_for_nothing_is_refused(toy, name, reason, sentence):
    record = toy.run()
    with pytest.raises(RetractError, match=sentence):
        retract(toy.ledger.store, name or record.digest, reason)


def test_a_record_is_retracted_once(toy):
    record = toy.run()
    retract(toy.ledger.store, record.digest, "why")
    with pytest.raises(RetractError, match="was retracted already by"):
        retract(toy.ledger.store, record.digest, "again")


def test_what_names_a_retracted_claim_as_precondition_is_inconclusive(toy):
    record = toy.run()
    toy.run(TWO)
    assert toy.ledger.entitlements(toy.loaded.contract)[TWO].verdict is Verdict.SURVIVED
    retract(toy.ledger.store, record.digest, "why")
    entitlement = toy.ledger.entitlements(toy.loaded.contract)[TWO]
    assert (entitlement.verdict, entitlement.status) == (Verdict.INCONCLUSIVE, Status.PARTIAL_ALGORITHM_LEVEL)


# --- staleness -------------------------------------------------------------------------------------------------------


def stale(toy, claim_id=ONE) -> str:
    return toy.ledger.entitlements(toy.loaded.contract)[claim_id].stale


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("src/engine/ops.py", "def cosine():\n    return 2\n"), "src/engine/ops.py changed since"),
        (("falsifiers/toy_v1.py", "from engine import ops\nx = 1\n"), "falsifiers/toy_v1.py changed since"),
        (("fixtures/new.bin", "x"), "fixtures/new.bin changed since"),
    ],
)
def test_a_change_of_the_closure_is_named(toy, change, reason):
    toy.run()
    assert stale(toy) == ""
    toy.write(*change)
    assert stale(toy) == reason


def test_comments_and_docstrings_make_nothing_stale(toy):
    toy.run()
    toy.write(
        "src/engine/ops.py", '"""What it is."""\n\n\ndef cosine():  # the figure\n    """Doc."""\n    return 1.0\n'
    )
    assert stale(toy) == ""


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("value: 0.99, repeat", "value: 0.98, repeat", "thresholds changed since: cosine >= 0.99 1 -> >= 0.98 1"),
        ("the cosine is at least 0.99", "the cosine is large", "the claim changed since"),
        ("formula: a = b", "formula: a < b", "the claim changed since"),
        ("rule: figures agree\n", "rule: other words\n", ""),
        ('version: "1.0.0"', 'version: "7.0.0"', ""),
    ],
)
def test_a_change_of_the_claim_is_told_from_a_change_of_words(toy, old, new, reason):
    toy.run()
    before = toy.text
    assert old in before or "version" in old
    toy.write("contracts/toy-v1.yaml", before.replace(old, new, 1))
    assert stale(toy) == reason


def test_a_bound_file_that_changed_is_named_and_one_that_is_not_here_is_not(toy):
    toy.write("fixtures_elsewhere/tiny.bin", "one")
    digest = toy.ledger.sources.data_digest("fixtures_elsewhere/tiny.bin")
    toy.run(bound=(FileDigest("fixtures_elsewhere/tiny.bin", digest), FileDigest("not/here.gguf", "0" * 64)))
    assert stale(toy) == ""
    toy.write("fixtures_elsewhere/tiny.bin", "two!")
    assert stale(toy) == "fixtures_elsewhere/tiny.bin changed since"


def test_a_check_that_went_is_told(toy):
    toy.run()
    toy.checked.clear()
    assert stale(toy) == "its check is not registered any more"
    assert Ledger.open(toy.project, None).entitlements(toy.loaded.contract)[ONE].stale == "", "nobody looked"


# --- facts -----------------------------------------------------------------------------------------------------------


def test_facts_say_what_is_entitled_stale_missing_and_checked(toy):
    record = toy.run()
    toy.run(TWO)
    facts = facts_for(toy.project, [toy.loaded], toy)
    assert facts["toy-v1", ONE].entitled is Status.FUNCTIONAL
    assert (facts["toy-v1", ONE].stale, facts["toy-v1", ONE].records_missing) == ("", ())
    assert facts["toy-v1", TWO].entitled is Status.PARTIAL_ALGORITHM_LEVEL
    assert facts["toy-v1", TWO].reason == "a run on cuda · tiny-teacher (none yet)"
    assert [facts["toy-v1", i].has_check for i in (ONE, TWO, THREE)] == [True, True, False]
    assert facts_for(toy.project, [toy.loaded])["toy-v1", ONE].has_check is None
    (toy.project.evidence / toy.ledger.by_digest[record.digest].path).unlink()
    assert facts_for(toy.project, [toy.loaded], toy)["toy-v1", ONE].records_missing == (record.digest,)


def test_the_reason_is_what_the_written_status_lacks(toy):
    toy.run()
    toy.write("contracts/toy-v1.yaml", toy.text.replace("status: FUNCTIONAL", "status: DISCHARGED", 1))
    assert "a second live record" in facts_for(toy.project, [toy.loaded], toy)["toy-v1", ONE].reason


def test_facts_load_nothing_heavy():
    import subprocess
    import sys

    code = "import sys, pv.evidence.facts, pv.evidence.settle, pv.evidence.verify; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "jsonschema", "transformers"} & {name.partition(".")[0] for name in loaded}


# --- standing --------------------------------------------------------------------------------------------------------


def test_where_everything_stands(toy):
    toy.run()
    toy.run(TWO)
    project = replace(toy.project, scopes={"MODEL": ("toy-v1", "absent-v1")})
    found = standing(project, [toy.loaded], toy.ledger)
    assert str(found.tally) == "0+2"
    assert found.tally.apart == "1 blocked"
    assert found.contracts[0].words == ("BOUND",)
    (scope,) = found.scopes
    assert (scope.shippable, scope.total, scope.absent) == (1, 3, ("absent-v1",))
    assert scope.percent == pytest.approx(100 / 3)
    data = as_data(found)
    assert data["tally"]["text"] == "0+2"
    assert data["contracts"][0]["claims"][1]["cells"][1] == {
        "device": "cuda", "subject": "tiny-teacher", "required": True, "rung": "UNBOUND", "verdict": None,
        "record": "", "verified_at": "", "stale": "", "settled_by": "",
    }  # fmt: skip


def test_a_status_that_was_not_earned_is_told(toy):
    toy.write("contracts/toy-v1.yaml", toy.text.replace("status: UNBOUND", "status: DISCHARGED", 1))
    found = standing(toy.project, [toy.loaded], toy.ledger)
    assert [claim.written for _, claim in found.claims] == ["DISCHARGED", "", "nothing"]
    assert str(found.tally) == "0+0"


def test_a_file_that_cannot_be_read_is_named(toy):
    toy.write("contracts/toy-v1.yaml", "metadata: 3\n")
    found = standing(toy.project, [toy.loaded], toy.ledger)
    assert found.unsound == (toy.loaded.display,)
    assert found.contracts == ()


# --- pruning ---------------------------------------------------------------------------------------------------------


def test_only_what_nothing_rests_on_is_prunable(toy):
    kept = toy.ledger.store.add(toy.record(), log=b"kept")
    gone = toy.ledger.store.add(replace(toy.record(), claim_id="FALSIFY-GONE-001"), log=b"gone")
    leftover = toy.project.evidence / kept.claim_id / ".writing-1-x"
    leftover.write_bytes(b"half")
    found = prunable(Project(toy.root, evidence=toy.project.evidence), toy.ledger.store)
    named = {path.relative_to(toy.project.evidence).as_posix() for path in found}
    assert named == {toy.ledger.by_digest[gone.digest].path, gone.log.stored, f"{kept.claim_id}/.writing-1-x"}


def test_while_a_contract_is_unsound_no_record_is_prunable(toy):
    toy.ledger.store.add(replace(toy.record(), claim_id="FALSIFY-GONE-001"))
    toy.write("contracts/toy-v1.yaml", "metadata: 3\n")
    assert prunable(toy.project, toy.ledger.store) == []
