"""Tables and findings as text: aligned, complete, and without a colour that carries a meaning."""

from __future__ import annotations

import pytest

from pv.contract.claims import Claim
from pv.contract.vocabulary import Cell, DeviceClass, Level, Status, Verdict
from pv.evidence.record import ControlRecord, Environment, FileDigest, MeasurementRecord, Record, ThresholdRecord
from pv.ladder.entitlement import RecordView, entitle
from pv.report import terminal

CPU = Cell(DeviceClass.CPU, "code")


def test_columns_are_aligned_and_no_line_ends_in_blanks():
    lines = terminal.table([("a", "long cell", ""), ("longer", "b", "c")], ("x", "y", "z"))
    assert lines == ["  x       y          z", "  a       long cell", "  longer  b          c"]
    assert terminal.table([]) == []


def view(**told) -> RecordView:
    return RecordView(
        **{
            "digest": "sha256:" + "a" * 64,
            "started_at": "2026-11-20T10:00:00Z",
            "cell": CPU,
            "level": Level.LIVE,
            "verdict": Verdict.SURVIVED,
            **told,
        }
    )


@pytest.mark.parametrize(
    ("views", "rung", "said"),
    [
        ([], Status.PARTIAL_ALGORITHM_LEVEL, "  - a run on cpu · code (none yet)"),
        ([view(level=Level.ALGORITHM)], Status.FUNCTIONAL, "  - a live run on cpu · code (so far at algorithm level)"),
        ([view()], Status.FUNCTIONAL, "F-1 is FUNCTIONAL: it holds FUNCTIONAL"),
        ([view()], Status.DISCHARGED, "a second live record from another host or driver that agrees"),
        ([view(seed=1)], Status.DISCHARGED, "a second live record from another host, driver or seed that agrees"),
        ([view(stale="x.py changed since")], Status.FUNCTIONAL, "its evidence is stale: x.py changed since"),
        ([view(verdict=Verdict.FALSIFIED)], Status.FUNCTIONAL, "the claim broke (aaaaaaaaaaaa); mend it and run again"),
        ([view(verdict=Verdict.VACUOUS)], Status.PARTIAL_ALGORITHM_LEVEL, "a negative control was not caught"),
        (
            [view(verdict=Verdict.BLOCKED, missing=("a card",))],
            Status.FUNCTIONAL,
            "on cpu · code: missing a card (last run BLOCKED)",
        ),
    ],
)
def test_what_a_claim_lacks_is_said(views, rung, said):
    claim = Claim(id="F-1", loc=(), family="falsifier")
    assert said in terminal.missing(entitle(claim, views), rung)


def test_a_finding_is_rendered_whole():
    bound = ThresholdRecord("within", (0.5, 2.0), "ms")
    broken = MeasurementRecord("latency", 3.25, "ms", 9, bound, -1.25, False)
    record = Record(
        claim_id="F-1", contract_id="x-v1", contract_path="contracts/x-v1.yaml", contract_version="1.2.0", cell=CPU,
        level=Level.LIVE, verdict=Verdict.FALSIFIED, reason="latency = 3.25", predicted="it is fast",
        observed="if_fails", measurements=(broken,),
        controls=(ControlRecord("sleeps", "latency", False, "ERROR: died", ()),),
        attacks=("engine.run",), claim_digest="", closure_digest="", closure=(),
        bound=(FileDigest("fixtures/tiny.bin", "0" * 64),), tool_version="0", tool_digest="",
        environment=Environment(python="3.11", device="a card", driver="560"), seed=7,
        started_at="2026-11-20T10:00:00Z", duration_seconds=1.5, command="pv falsify --id F-1", run_id="r",
        notes=("a note",), git_commit="1" * 40, git_dirty=True, digest="sha256:" + "a" * 64,
    )  # fmt: skip
    text = terminal.record(record, retracted="wrong card", log="line one\nline two")
    for words in (
        "FALSIFIED  F-1  on cpu · code, live level",
        "RETRACTED: wrong card",
        "predicted   it is fast",
        "the prediction did not come true",
        "latency  3.25 ms  within 0.5, 2  BROKEN  margin -1.25  n = 9",
        "sleeps  NOT CAUGHT  breaks latency  ERROR: died",
        "device      a card 560",
        "seed        7",
        "commit      111111111111 with changes",
        "bound to    fixtures/tiny.bin",
        "note        a note",
        "again       pv falsify --id F-1",
        "    line two",
    ):
        assert words in text, words
