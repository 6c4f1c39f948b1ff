"""What is gathered: the record to look at, the history, what stands apart."""

from __future__ import annotations

import pytest

from pv.contract.vocabulary import Status, Verdict
from pv.evidence.ledger import view
from pv.evidence.record import ThresholdRecord
from pv.ladder.entitlement import entitle
from pv.report import story as stories
from pv.report.story import relative_margin
from tests.report.samples import CPU, CUDA, STAGE_NOTES, Town


def ids(claims) -> list[str]:
    return [one.claim.id.removeprefix("FALSIFY-") for one in claims]


def claim(story, name):
    return next(one for one in story.claims if one.claim.id.endswith(name))


def test_claims_stand_apart_by_what_is_the_matter_with_them(story):
    assert ids(story.claims) == ["PARITY-001", "PARITY-002", "PARITY-003", "PARITY-004", "KH-PARITY-001", "WORDS-001"]
    assert ids(story.broken) == ["PARITY-001", "WORDS-001"]
    assert ids(story.known_failing) == ["PARITY-003"]
    assert ids(story.drifting) == ["PARITY-002"]
    assert ids(story.blocked) == ["PARITY-004"]
    assert ids(story.unchecked) == ["KH-PARITY-001"]
    assert ids(story.misstated) == ["PARITY-001", "PARITY-002", "PARITY-003", "PARITY-004"]
    assert story.stale == []


def test_a_red_cell_shows_its_broken_measurements_and_the_guilty_stage(story):
    (cell,) = claim(story, "PARITY-001").red
    assert cell.state.cell == CUDA
    assert [m.name for m in cell.broken] == ["cosine"]
    assert cell.guilty == ("ffn_up of layer 2",)


def test_where_nothing_is_wrong_nobody_is_accused(tmp_path):
    town = Town(tmp_path / "town")
    town.tell("FALSIFY-WORDS-001", {"words": 5}, notes=STAGE_NOTES)
    assert claim(town.story, "WORDS-001").cells[0].guilty == ()


def test_the_first_look_is_at_what_is_red_else_at_what_ran(tmp_path, story):
    assert [cell.state.cell for cell in claim(story, "PARITY-001").first_look] == [CUDA]
    town = Town(tmp_path / "town")
    assert [cell.state.cell for cell in claim(town.story, "PARITY-001").first_look] == [CPU]
    town.tell("FALSIFY-PARITY-001", {"cosine": 1.0, "max_abs": 0}, cell=CUDA)
    assert [cell.state.cell for cell in claim(town.story, "PARITY-001").first_look] == [CUDA]


def test_the_trouble_of_a_vacuous_check_names_the_defect(story):
    (cell,) = claim(story, "WORDS-001").red
    assert cell.state.verdict is Verdict.VACUOUS
    assert "'a planted defect' was not caught" in cell.trouble


def test_the_history_is_what_each_record_supported_when_it_came(story):
    told = [(event.status, event.retracted) for event in claim(story, "PARITY-003").events]
    assert told == [
        (Status.FUNCTIONAL, "the wrong model"),
        (Status.UNBOUND, ""),  # the retraction
        (Status.FALSIFIED, ""),
    ]


def test_evidence_that_is_stale_today_was_fresh_in_its_time(made):
    module = made.root / "falsifiers/parity_v1.py"
    module.write_text(module.read_text() + "\nmore = 1\n")
    one = claim(made.story, "PARITY-002")
    assert one.standing.entitlement.stale
    assert {event.status for event in one.events} == {Status.FUNCTIONAL}


def test_a_history_does_not_know_what_became_fresh_again_later(tmp_path):
    town = Town(tmp_path / "town")
    module = town.root / "falsifiers/words_v1.py"
    first = module.read_text()
    town.tell("FALSIFY-WORDS-001", {"words": 50})
    module.write_text(f"{first}\nmore = 1\n")
    town.tell("FALSIFY-WORDS-001", {"words": 5})
    module.write_text(first)  # the change is taken back: today the older record speaks of this very code
    one = claim(town.story, "WORDS-001")
    assert one.status is Status.FALSIFIED
    assert [event.status for event in one.events] == [Status.FALSIFIED, Status.FUNCTIONAL]


def test_a_long_history_is_cut_at_its_old_end(made, monkeypatch):
    monkeypatch.setattr(stories, "MOST_EVENTS", 4)
    one = claim(made.story, "PARITY-002")
    assert (len(one.events), one.older) == (4, 2)
    assert one.events[-1].summary.digest == one.cells[0].record.digest


def test_retracted_records_are_in_no_series(story):
    (series,) = claim(story, "PARITY-002").series
    assert len(series.points) == 6
    assert claim(story, "PARITY-003").series == ()  # one of its two runs was taken back


def test_a_cell_that_no_record_decides_shows_the_latest(tmp_path):
    town = Town(tmp_path / "town")
    town.tell("FALSIFY-WORDS-001", verdict=Verdict.ERROR, reason="it crashed")
    (cell,) = claim(town.story, "WORDS-001").cells
    assert (cell.state.head, cell.record.reason, cell.red) == ("", "it crashed", True)
    assert town.story.broken


def test_what_is_absent_is_told_with_the_cells_that_wait_for_it(tmp_path):
    town = Town(tmp_path / "town")
    town.tell("FALSIFY-PARITY-001", cell=CUDA)
    assert claim(town.story, "PARITY-001").blockers == {"cuda": [str(CUDA)]}
    assert claim(town.story, "PARITY-004").blockers == {"model-1": []}


def test_a_record_that_vanished_since_the_index_was_made_counts_as_absent(made):
    ledger = made.ledger
    for summary in ledger.summaries:
        (ledger.store.root / summary.path).unlink()
    told = stories.gather(made.project, made.loaded, ledger, ledger.checks, "1")
    assert claim(told, "PARITY-001").cells[0].record is None


def test_a_damaged_record_is_named(made):
    path = next((made.root / "evidence").rglob("*.json"))
    path.write_text("{")
    ((name, message),) = made.story.damaged
    assert name == path.relative_to(made.root / "evidence").as_posix()
    assert "JSON" in message


@pytest.mark.parametrize(
    ("op", "bound", "value", "margin", "share"),
    [
        (">=", 0.99, 1.0, 0.01, 0.01 / 0.99),
        ("<=", 0, -3.0, 3.0, 1.0),
        ("within", (1.0, 9.0), 5.0, 4.0, 1.0),
        ("==", 0, 0, 0, 0.0),
        (">=", 0.99, "NaN", None, None),
    ],
)
def test_a_margin_is_a_share_of_its_bound(story, op, bound, value, margin, share):
    from dataclasses import replace

    measured = claim(story, "PARITY-001").cells[0].record.measurements[-1]
    changed = replace(measured, value=value, margin=margin, threshold=ThresholdRecord(op, bound))
    assert relative_margin(changed) == (None if share is None else pytest.approx(share))


def test_the_path_of_a_contract_is_told_from_the_root(story, monkeypatch, tmp_path):
    assert [one.path for one in story.contracts] == ["contracts/parity-v1.yaml", "contracts/words-v1.yaml"]


def test_cells_are_in_the_order_of_the_claim(story):
    assert [cell.state.cell for cell in claim(story, "PARITY-001").cells] == [CPU, CUDA]


@pytest.mark.parametrize("verdict", [Verdict.SURVIVED, Verdict.FALSIFIED, Verdict.VACUOUS, Verdict.BLOCKED])
@pytest.mark.parametrize("stale", [False, True])
def test_the_history_of_one_record_is_the_one_that_several_would_be_told_by(tmp_path, verdict, stale):
    town = Town(tmp_path / "town")
    figures = {} if verdict is Verdict.BLOCKED else {"words": 0 if verdict is Verdict.FALSIFIED else 5}
    record = town.tell("FALSIFY-WORDS-001", figures, caught=verdict is not Verdict.VACUOUS)
    assert record.verdict is verdict
    if stale:
        module = town.project.falsifiers / "words_v1.py"
        module.write_text(module.read_text() + "x = 1\n")
    one = claim(town.story, "WORDS-001")
    assert bool(one.standing.entitlement.stale) is (stale and verdict is not Verdict.BLOCKED)
    (event,) = one.events
    assert (event.status, event.retracted) == (entitle(one.claim, [view(event.summary, {}, None)]).status, "")
