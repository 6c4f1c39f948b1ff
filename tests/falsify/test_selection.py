"""Selections: every term, unions and intersections, the words of -k, and what is said of a text that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pv.contract.claims import contract_of
from pv.contract.vocabulary import Cost, Verdict
from pv.falsify.selection import TERMS, Row, SelectionError, by_ids, by_terms, by_words


def rows() -> list[Row]:
    def cell(device: str, subject: str = "code") -> dict:
        return {"device": device, "subject": subject}

    parity = contract_of(
        "gpu-parity-v1",
        Path("contracts/gpu-parity-v1.yaml"),
        {
            "metadata": {"version": "1.0.0"},
            "falsification_tests": [
                {"id": "FALSIFY-GPU-001", "status": "FUNCTIONAL", "requires": {"cells": [cell("cuda", "model-1")]}},
                {"id": "FALSIFY-GPU-002", "claim": "guard", "requires": {"cells": [cell("vulkan"), cell("cpu")]}},
                {"id": "FALSIFY-GPU-003", "status": "FALSIFIED", "binds_to": "cosine"},
            ],
        },
    )
    trace = contract_of(
        "trace-v1",
        Path("contracts/trace-v1.yaml"),
        {
            "metadata": {"version": "1.0.0"},
            "falsification_tests": [{"id": "FALSIFY-TRACE-001", "status": "DISCHARGED"}],
            "kani_harnesses": [{"id": "KH-TRACE-001", "status": "PARTIAL_ALGORITHM_LEVEL", "obligation": "o"}],
        },
    )
    gpu, guard, broken = parity.claims
    trace_1, proof = trace.claims
    return [
        Row(parity, gpu, has_check=True, last=Verdict.SURVIVED, cost=Cost.DEVICE),
        Row(parity, guard, last=Verdict.BLOCKED),
        Row(parity, broken, has_check=True, last=Verdict.FALSIFIED),
        Row(trace, trace_1, has_check=True, stale="src changed since", last=Verdict.ERROR),
        Row(trace, proof, has_check=True),
    ]


def ids(chosen) -> str:
    return " ".join(row.claim.id.removeprefix("FALSIFY-") for row in chosen)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["FALSIFY-GPU-001"], "GPU-001"),
        (["falsify-gpu-001"], "GPU-001"),
        (["*TRACE*"], "TRACE-001 KH-TRACE-001"),
        (["KH-*", "FALSIFY-GPU-00[13]"], "GPU-001 GPU-003 KH-TRACE-001"),
    ],
)
def test_ids_and_globs_come_in_file_order(patterns, expected):
    assert ids(by_ids(rows(), patterns)) == expected


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("FALSIFY-GPU-01", "no claim has the id 'FALSIFY-GPU-01' (did you mean FALSIFY-GPU-001, FALSIFY-GPU-003"),
        ("zzz", "no claim has the id 'zzz' (`pv list` shows all 5)"),
    ],
)
def test_an_unknown_id_is_told_the_near_ones(pattern, says):
    with pytest.raises(SelectionError) as unknown:
        by_ids(rows(), ["FALSIFY-GPU-001", pattern])
    assert str(unknown.value).startswith(says)


def test_an_unknown_id_where_there_are_none():
    with pytest.raises(SelectionError, match="there are no claims here"):
        by_ids([], ["FALSIFY-X-001"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status:FUNCTIONAL", "GPU-001"),
        ("status:<FUNCTIONAL", "GPU-002 GPU-003 KH-TRACE-001"),
        ("status:<=functional", "GPU-001 GPU-002 GPU-003 KH-TRACE-001"),
        ("status:>=FUNCTIONAL", "GPU-001 TRACE-001"),
        ("status:>FUNCTIONAL", "TRACE-001"),
        ("status:UNBOUND", "GPU-002"),
        ("status:=FALSIFIED", "GPU-003"),
        ("device:cuda", "GPU-001"),
        ("device:cpu", "GPU-002 GPU-003 TRACE-001 KH-TRACE-001"),
        ("subject:model-*", "GPU-001"),
        ("cost:device", "GPU-001"),
        ("claim:guard", "GPU-002"),
        ("stale:", "TRACE-001"),
        ("stale:no", "GPU-001 GPU-002 GPU-003 KH-TRACE-001"),
        ("result:failed", "GPU-003 TRACE-001"),
        ("result:none", "KH-TRACE-001"),
        ("result:blocked", "GPU-002"),
        ("check:no", "GPU-002"),
        ("contract:trace-*", "TRACE-001 KH-TRACE-001"),
        ("id:*-001", "GPU-001 TRACE-001 KH-TRACE-001"),
        ("binds:cos*", "GPU-003"),
        ("status:<FUNCTIONAL,device:cpu", "GPU-002 GPU-003 KH-TRACE-001"),
        ("device:cuda stale:", "GPU-001 TRACE-001"),
        ("device:cuda,stale: binds:cosine", "GPU-003"),
    ],
)
def test_terms_unite_over_spaces_and_intersect_over_commas(text, expected):
    assert ids(by_terms(rows(), [text])) == expected


def test_several_options_unite():
    assert ids(by_terms(rows(), ["device:cuda", "stale:"])) == "GPU-001 TRACE-001"


def test_every_term_is_tried_above():
    tried = {"status", "device", "subject", "cost", "claim", "stale", "result", "check", "contract", "id", "binds"}
    assert set(TERMS) == tried


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stats:FUNCTIONAL", "expected KEY:VALUE in --select, found 'stats:FUNCTIONAL' (status:"),
        ("FUNCTIONAL", "expected KEY:VALUE in --select, found 'FUNCTIONAL'"),
        ("status:HIGH", "expected status: to be one of UNBOUND, BLOCKER"),
        ("status:=<FUNCTIONAL", "expected one of =, <, <=, >, >=, found '=<'"),
        ("device:tpu", "expected device: to be one of cpu, cuda"),
        ("result:maybe", "expected result: to be one of SURVIVED"),
        ("stale:perhaps", "expected stale: or stale:no"),
        ("  ", "expected a selection"),
    ],
)
def test_a_term_that_is_none_says_what_would_be(text, says):
    with pytest.raises(SelectionError) as wrong:
        by_terms(rows(), [text])
    assert str(wrong.value).startswith(says)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("gpu", "GPU-001 GPU-002 GPU-003"),
        ("trace or 002", "GPU-002 TRACE-001 KH-TRACE-001"),
        ("trace and not KH", "TRACE-001"),
        ("not (gpu or kh)", "TRACE-001"),
        ("001 AND parity", "GPU-001"),
        ("not not kh", "KH-TRACE-001"),
    ],
)
def test_words_select_by_name(expression, expected):
    assert ids(by_words(rows(), expression)) == expected


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "expected a name, found the end"),
        ("a and", "expected a name, found the end"),
        ("a b", "expected and, or, or the end, found 'b'"),
        ("(a or b", "expected a closing parenthesis, found the end"),
        ("or a", "expected a name, found 'or'"),
        ("a)", "expected and, or, or the end, found ')'"),
    ],
)
def test_words_that_make_no_sense_say_where(expression, says):
    with pytest.raises(SelectionError) as wrong:
        by_words(rows(), expression)
    assert str(wrong.value).endswith(says)
