"""Slips are found, words that are merely alike are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pv.contract.models import ContractFile, Equation, Falsifier, MetadataShape
from pv.contract.near import _slips, _tolerated, near_miss, nearest

TOP = frozenset(ContractFile.model_fields)
HEAD = frozenset(MetadataShape.model_fields)
ENTRY = frozenset(Falsifier.model_fields)
EQUATION = frozenset(Equation.model_fields)


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("predicton", ENTRY, "prediction"),
        ("statsu", ENTRY, "status"),
        ("statuz", ENTRY, "status"),
        ("Status", ENTRY, "status"),
        ("binds-to", ENTRY, "binds_to"),
        ("bindsTo", ENTRY, "binds_to"),
        ("preconditons", EQUATION, "preconditions"),
        ("invariant", EQUATION, "invariants"),
        ("falsification_test", TOP, "falsification_tests"),
        ("FalsificationTests", TOP, "falsification_tests"),
        ("proof-obligations", TOP, "proof_obligations"),
        ("kani_harness", TOP, "kani_harnesses"),
        ("refrences", HEAD, "references"),
        ("depend_on", HEAD, "depends_on"),
        ("descripton", HEAD, "description"),
    ],
)
def test_slips(word, known, meant):
    assert near_miss(word, known) == meant


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("invariants", TOP), ("gates", TOP), ("spec", TOP), ("falsification", TOP),  # pinned by the reference
        ("obligations", TOP), ("preconditions", TOP), ("pipeline", TOP), ("baseline", TOP), ("version", TOP),
        ("severity", ENTRY), ("result", ENTRY), ("input", ENTRY), ("reference", ENTRY), ("action_if_falsified", ENTRY),
        ("model", HEAD), ("updated", HEAD), ("crate", HEAD), ("contract_id", HEAD), ("spec", HEAD),
        ("where", EQUATION), ("note", EQUATION), ("constants", EQUATION), ("statement", EQUATION),
    ],
)  # fmt: skip
def test_words_that_are_their_own(word, known):
    assert near_miss(word, known) is None


def test_a_known_word_is_no_miss_even_beside_a_similar_one():
    assert near_miss("rules", frozenset({"rule", "rules"})) is None


def test_short_words_meet_only_by_case_separators_and_plural():
    assert near_miss("i-d", frozenset({"id"})) == "id"
    assert near_miss("if", frozenset({"id"})) is None
    assert near_miss("host", frozenset({"cost"})) is None


@given(st.sampled_from(sorted(ENTRY | TOP | HEAD)), st.data())
def test_one_slip_in_a_longer_word_is_found(word, data):
    if len(word) < 5:
        return
    place = data.draw(st.integers(0, len(word) - 2))
    kind = data.draw(st.sampled_from(["drop", "double", "swap"]))
    slipped = {
        "drop": word[:place] + word[place + 1 :],
        "double": word[:place] + word[place] + word[place:],
        "swap": word[:place] + word[place + 1] + word[place] + word[place + 2 :],
    }[kind]
    assert slipped == word or near_miss(slipped, frozenset({word})) == word


def test_a_suggestion_may_be_further_away():
    assert nearest("cosine_party", ["cosine_parity", "argmax"]) == "cosine_parity"
    assert nearest("zebra", ["cosine_parity", "argmax"]) is None


@given(st.sampled_from(sorted(TOP | HEAD | ENTRY | EQUATION)), st.data())
def test_the_sieve_of_letters_lets_every_slip_through(word, data):
    """A comparison of letters spares counting most slips; it must not spare one that would have counted."""
    slipped = list(word)
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(slipped) - 1))
        what = data.draw(st.sampled_from(["lost", "added", "replaced", "swapped"]))
        letter = data.draw(st.sampled_from("abcxyz_é"))
        if what == "lost" and len(slipped) > 1:
            del slipped[at]
        elif what == "added":
            slipped.insert(at, letter)
        elif what == "replaced":
            slipped[at] = letter
        else:
            slipped[at : at + 2] = reversed(slipped[at : at + 2])
    wrong = "".join(slipped)
    within = wrong != word and _slips(wrong, word, _tolerated(word))
    assert not within or near_miss(wrong, frozenset({word})) == word
