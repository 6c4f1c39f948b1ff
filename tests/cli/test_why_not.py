"""`pv why-not`: what is missing for a rung."""

from __future__ import annotations


def test_why_not_says_what_is_missing(earned, pv):
    ran = pv("why-not", "DISCHARGED", "FALSIFY-X-001")
    assert ran.code == 1
    assert ran.out.startswith("FALSIFY-X-001 is FUNCTIONAL; for DISCHARGED it lacks:\n  - on cpu · code: a second live")
    assert pv("why-not", "functional", "FALSIFY-X-002").out == (
        "FALSIFY-X-002 is UNBOUND; for FUNCTIONAL it lacks:\n"
        "  - any one of: a run on cpu · code (none yet) | a run on cuda · t (none yet)\n"
        "  - a run on cpu · code (none yet)\n  - a run on cuda · t (none yet)\n"
    )
    assert "blocked on model-1" in pv("why-not", "partial", "FALSIFY-X-003").out


def test_why_not_of_a_rung_that_is_held(earned, pv):
    ran = pv("why-not", "partial", "FALSIFY-X-001")
    assert (ran.code, ran.out) == (0, "FALSIFY-X-001 is FUNCTIONAL: it holds PARTIAL_ALGORITHM_LEVEL\n")


def test_why_not_of_an_unknown_claim_suggests_one(earned, pv):
    ran = pv("why-not", "FUNCTIONAL", "FALSIFY-X-01")
    assert ran.code == 2
    assert "did you mean FALSIFY-X-001" in ran.err
    assert pv("why-not", "UNBOUND", "FALSIFY-X-001").code == 2
