"""The graph of stages: edges as the forward computes, checked against the forward itself."""

from __future__ import annotations

import pytest
import torch

from pv.backends.cpu import open_cpu
from pv.compare.graph import Node, inputs, nearest, nodes
from pv.model.spec import SHAPES
from pv.model.stages import Stage
from pv.model.synthetic import Recipe, build

NANO = SHAPES["nano"]
L = NANO.layers


def test_every_node_comes_after_its_inputs_and_the_embedding_has_none():
    order = nodes(L, (None, 1, 2))
    assert len(order) == len(set(order)) == 3 * (17 * L + 3)
    place = {node: at for at, node in enumerate(order)}
    for node in order:
        before = inputs(node, L)
        assert all(place[one] < place[node] for one in before), node
        assert bool(before) == (node.stage is not Stage.EMBEDDING)


def test_scores_depend_on_both_rotated_sides_and_later_steps_on_the_cache():
    assert inputs(Node(Stage.ATTN_SCORES, 1), L) == (Node(Stage.Q_POST_ROPE, 1), Node(Stage.K_POST_ROPE, 1))
    assert inputs(Node(Stage.ATTN_SCORES, 1, 2), L)[2:] == (Node(Stage.K_POST_ROPE, 1), Node(Stage.K_POST_ROPE, 1, 1))
    assert Node(Stage.QKV_BIAS, 1) in inputs(Node(Stage.ATTENTION, 1, 1), L)
    assert inputs(Node(Stage.ATTN_NORM, 0), L) == (Node(Stage.EMBEDDING, 0),)
    assert inputs(Node(Stage.FINAL_NORM, None), L) == (Node(Stage.POST_FFN_RESIDUAL, L - 1),)


def observed_children(session, node):
    """The stages whose computed tensor moves when this one is changed and every other one is held."""
    plain, moved = {}, set()

    def keep(stage, layer, x):
        plain[Node(stage, layer)] = x.clone()
        return x

    def hold(stage, layer, x):
        here = Node(stage, layer)
        if not torch.equal(x, plain[here]):
            moved.add(here)
        return plain[here] * 1.5 + 0.25 if here == node else plain[here]

    for graft in (keep, hold):
        session.reset()
        session.prefill([5, 17, 42, 9], graft=graft)
    return moved


@pytest.mark.parametrize("node", nodes(L), ids=str)
def test_the_edges_are_those_of_the_forward(node):
    """Changing a node with all others held moves exactly its children: no edge missing, none too many."""
    session = open_cpu(build(Recipe(NANO, seed=1)))
    assert observed_children(session, node) == {m for m in nodes(L) if node in inputs(m, L)}


def test_missing_stages_are_bridged():
    known = {Node(Stage.ATTN_NORM, 0), Node(Stage.EMBEDDING, 0), Node(Stage.ATTENTION, 0)}
    assert set(nearest(Node(Stage.ATTENTION, 0), L, known)) == {Node(Stage.ATTN_NORM, 0)}
    assert set(nearest(Node(Stage.FFN_GATE, 0), L, known)) == {Node(Stage.EMBEDDING, 0), Node(Stage.ATTENTION, 0)}
    assert nearest(Node(Stage.EMBEDDING, 0), L, known) == ()


def test_names_are_for_people():
    assert str(Node(Stage.FFN_GATE, 3)) == "ffn_gate of layer 3"
    assert str(Node(Stage.LM_HEAD, None, 2)) == "lm_head at decode step 2"
    assert str(Node(Stage.EMBEDDING, 0)) == "embedding"
