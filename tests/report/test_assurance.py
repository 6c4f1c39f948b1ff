"""The argument: what supports what, each claim argued once, what nothing supports."""

from __future__ import annotations

import pytest

from pv.report.assurance import Kind, Node, argument, undeveloped


@pytest.fixture(scope="module")
def tree(story) -> Node:
    return argument(story.contracts[0])


def goals(node: Node) -> list[Node]:
    return [below for below in node.below if below.kind is Kind.GOAL]


def strategy(node: Node) -> Node:
    return next(below for below in node.below if below.kind is Kind.STRATEGY)


def test_the_contract_is_argued_over_its_obligations_then_over_what_they_leave(tree):
    assert tree.kind is Kind.GOAL
    assert tree.name == "parity-v1"
    assert [goal.name for goal in goals(strategy(tree))] == [
        "PO-COSINE",
        "PO-NOBODY",
        "speed",  # an equation: its claim is bound to no obligation
        "FALSIFY-PARITY-003",
        "FALSIFY-PARITY-004",
    ]


def test_a_claim_rests_on_the_records_that_decide_its_cells(tree):
    claim = goals(goals(strategy(tree))[0])[0]
    assert claim.name == "FALSIFY-PARITY-001"
    attack = strategy(claim)
    assert "falsifiers/parity_v1.py:12 tries to break it" in attack.text
    assert [(s.kind, s.text.split(",")[0], s.undeveloped) for s in attack.below] == [
        (Kind.SOLUTION, "SURVIVED on cpu · code at level live", False),
        (Kind.SOLUTION, "FALSIFIED on cuda · tiny-teacher at level live", True),
    ]
    assert "1 of 1 planted defects caught" in attack.below[0].text


def test_a_formal_statement_justifies_and_a_precondition_is_assumed(tree):
    assert goals(strategy(tree))[0].below[0] == Node(Kind.JUSTIFICATION, "J", "cos(g, c) >= 0.99")
    third = next(goal for goal in goals(strategy(tree)) if goal.name == "FALSIFY-PARITY-003")
    assert [(n.kind, n.text) for n in third.below[:1]] == [(Kind.ASSUMPTION, "FALSIFY-PARITY-001 survives")]


def test_what_nothing_supports_is_undeveloped(tree):
    assert [node.name for node in undeveloped(tree)] == [
        "FALSIFY-PARITY-001",  # refuted
        "KH-PARITY-001",
        "PO-NOBODY",
        "FALSIFY-PARITY-003",
        "FALSIFY-PARITY-004",
    ]


def test_a_claim_of_two_obligations_is_argued_once(made):
    path = made.root / "contracts/parity-v1.yaml"
    path.write_text(path.read_text().replace("[cosine_parity, PO-COSINE]", "[PO-COSINE, PO-NOBODY]"))
    first, second = goals(strategy(argument(made.story.contracts[0])))[:2]
    assert strategy(goals(first)[0]).below
    assert goals(second)[0].text == "argued above"
    assert goals(second)[0].below == ()


def test_equations_and_references_are_context(tree):
    texts = [node.text for node in tree.below if node.kind is Kind.CONTEXT]
    assert texts[0] == "cosine_parity: cos(g, c) >= 0.99"
    assert "reference: a book" in texts


def test_a_contract_without_claims_is_undeveloped(made):
    made.write(
        "contracts/empty-v1.yaml", "metadata: {version: '1.0.0', description: d, kind: registry, references: [n]}\n"
    )
    empty = next(one for one in made.story.contracts if one.contract.id == "empty-v1")
    assert undeveloped(argument(empty))[0].name == "empty-v1"
