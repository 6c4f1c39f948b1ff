"""The tally, and the history of one in contracts.md replayed."""

from __future__ import annotations

import pytest

from pv.contract.vocabulary import Status
from pv.ladder.tally import Tally

D, F, P = Status.DISCHARGED, Status.FUNCTIONAL, Status.PARTIAL_ALGORITHM_LEVEL
B, U, X = Status.BLOCKER_FIXTURE_ABSENT, Status.UNBOUND, Status.FALSIFIED


def test_functional_and_partial_are_counted_together_and_the_rest_apart():
    tally = Tally.of([D, F, F, P, B, U, U, X])
    assert str(tally) == "1+3"
    assert tally.apart == "1 falsified, 1 blocked, 2 unbound"
    assert (tally.total, tally.shippable, tally.complete) == (8, 3, False)


def test_complete_is_all_discharged_and_never_nothing():
    assert Tally.of([D, D]).complete
    assert not Tally.of([D, F]).complete
    assert not Tally.of([]).complete


def test_the_history_of_a_tally():
    """15+35 -> 15+37 -> 16+36 -> 20+36; the blocked ones are never counted."""
    statuses = [D] * 15 + [P] * 20 + [F] * 15 + [B] * 3
    told = [str(Tally.of(statuses))]
    statuses += [P, F]  # two falsifiers are added
    told.append(str(Tally.of(statuses)))
    statuses[statuses.index(P)] = D  # one partial is discharged
    told.append(str(Tally.of(statuses)))
    for before in (P, P, P, F):  # the parity contract completes: three partial, one functional
        statuses[statuses.index(before)] = D
    new_contract = [P] * 4  # counted once it is wired in
    total = Tally.of(statuses) + Tally.of(new_contract)
    told.append(str(total))
    assert told == ["15+35", "15+37", "16+36", "20+36"]
    assert total.blocked == 3


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_counted_somewhere(status):
    assert Tally.of([status]).total == 1
    assert Tally.of([status, status]) == Tally.of([status]) + Tally.of([status])
