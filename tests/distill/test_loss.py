"""The distillation loss against formulas in float64, its gradient against autograd, and its limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pv.distill import loss as module
from pv.distill.loss import (
    IGNORE,
    FullRows,
    LossSettingsError,
    TopRows,
    distillation_loss,
    divergence,
)

N, H, V = 7, 5, 11


def problem(seed=0, n=N, v=V, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, H, generator=g, dtype=dtype)
    weight = torch.randn(v, H, generator=g, dtype=dtype)
    labels = torch.randint(0, v, (n,), generator=g)
    teacher = torch.randn(n, v, generator=g, dtype=dtype) * 2
    return hidden, weight, labels, teacher


def plain(hidden, weight, labels, teacher, alpha, temperature):
    """The formula as it is written on paper, whole, by autograd."""
    z = hidden @ weight.t()
    valid = labels != IGNORE
    log_p = torch.log_softmax(teacher / temperature, -1)
    log_q = torch.log_softmax(z / temperature, -1)
    kl = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)
    ce = F.cross_entropy(z[valid], labels[valid], reduction="sum") / valid.sum()
    return alpha * kl[valid].sum() / valid.sum() + (1 - alpha) * ce


def top(teacher, k, temperature):
    values, indices = teacher.topk(k, -1)
    return TopRows(indices, values, torch.logsumexp(teacher / temperature, -1))


def gradients(value, *leaves):
    return torch.autograd.grad(value, leaves)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_value_and_gradient_are_the_formulas(alpha, temperature, chunk):
    hidden, weight, labels, teacher = problem()
    labels[2] = IGNORE
    for leaf in (hidden, weight):
        leaf.requires_grad_(True)
    want = plain(hidden, weight, labels, teacher, alpha, temperature)
    got = distillation_loss(
        hidden, weight, labels, FullRows(teacher), alpha=alpha, temperature=temperature, chunk=chunk
    )
    torch.testing.assert_close(got.total, want, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(got.total, hidden, weight), gradients(want, hidden, weight), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_masked_rows_have_a_gradient_of_exactly_zero():
    hidden, weight, labels, teacher = problem()
    labels[[0, 4]] = IGNORE
    hidden.requires_grad_(True)
    value = distillation_loss(hidden, weight, labels, FullRows(teacher), alpha=0.7, temperature=3.0).total
    (grad,) = gradients(value, hidden)
    assert (grad[[0, 4]] == 0).all()
    assert (grad[[1, 2, 3, 5, 6]] != 0).any(-1).all()


def test_nothing_valid_is_zero_not_nan():
    hidden, weight, labels, teacher = problem()
    hidden.requires_grad_(True)
    got = distillation_loss(
        hidden, weight, torch.full_like(labels, IGNORE), FullRows(teacher), alpha=0.5, temperature=2.0
    )
    assert got.total.item() == 0.0
    assert (gradients(got.total, hidden)[0] == 0).all()


@pytest.mark.parametrize(("alpha", "part"), [(1.0, "kl"), (0.0, "ce")])
def test_the_ends_of_alpha_are_one_term_bit_for_bit(alpha, part):
    hidden, weight, labels, teacher = problem(dtype=torch.float32)
    got = distillation_loss(hidden, weight, labels, FullRows(teacher), alpha=alpha, temperature=3.0)
    assert torch.equal(got.total, getattr(got, part))


def test_alpha_zero_survives_an_infinite_divergence():
    hidden, weight, labels, _ = problem()
    got = distillation_loss(hidden, weight, labels, None, alpha=0.0, temperature=1.0)
    torch.testing.assert_close(got.total, F.cross_entropy(hidden @ weight.t(), labels))


@given(st.integers(1, 6), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_the_split_into_micro_batches_does_not_matter(cut, seed):
    hidden, weight, labels, teacher = problem(seed)
    labels[1] = IGNORE
    valid = int((labels != IGNORE).sum())
    whole = weight.clone().requires_grad_(True)
    distillation_loss(hidden, whole, labels, FullRows(teacher), alpha=0.6, temperature=2.0).total.backward()
    split = weight.clone().requires_grad_(True)
    for part in (slice(0, cut), slice(cut, None)):
        distillation_loss(
            hidden[part], split, labels[part], FullRows(teacher[part]), alpha=0.6, temperature=2.0, denominator=valid
        ).total.backward()
    torch.testing.assert_close(whole.grad, split.grad, rtol=1e-10, atol=1e-13)


@given(st.integers(1, V - 1), st.sampled_from([1.0, 2.0, 3.0]), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_the_top_rows_are_a_lower_bound_with_the_gradient_of_autograd(k, temperature, seed):
    hidden, weight, labels, teacher = problem(seed)
    hidden.requires_grad_(True)
    rows = top(teacher, k, temperature)
    got = distillation_loss(hidden, weight, labels, rows, alpha=1.0, temperature=temperature)
    z = hidden @ weight.t() / temperature
    q = torch.softmax(z, -1)
    p = torch.softmax(teacher / temperature, -1).gather(-1, rows.indices)
    q_top, p_tail = q.gather(-1, rows.indices), 1 - p.sum(-1)
    want = temperature**2 * ((p * (p / q_top).log()).sum(-1) + p_tail * (p_tail / (1 - q_top.sum(-1))).log()).mean()
    torch.testing.assert_close(got.total, want, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(gradients(got.total, hidden)[0], gradients(want, hidden)[0], rtol=1e-6, atol=1e-9)
    full = distillation_loss(hidden, weight, labels, FullRows(teacher), alpha=1.0, temperature=temperature).total
    assert -1e-12 <= got.total.item() <= full.item() + 1e-12


def test_a_student_equal_to_its_teacher_has_no_divergence():
    hidden, weight, labels, _ = problem(dtype=torch.float32)
    z = hidden @ weight.t()
    for rows in (FullRows(z), top(z, 4, 2.0)):
        assert abs(distillation_loss(hidden, weight, labels, rows, alpha=1.0, temperature=2.0).total.item()) < 1e-6


def test_at_temperature_one_the_divergence_is_cross_entropy_less_the_teachers_entropy():
    hidden, weight, _, teacher = problem()
    z, p = hidden @ weight.t(), torch.softmax(teacher, -1)
    want = -(p * torch.log_softmax(z, -1)).sum(-1) + (p * p.log()).sum(-1)
    torch.testing.assert_close(divergence(FullRows(teacher), z, 1.0), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_finite_differences_agree(temperature):
    hidden, weight, labels, teacher = problem(n=3, v=7)

    def value(z):
        return distillation_loss(z, weight, labels, FullRows(teacher), alpha=0.7, temperature=temperature).total

    assert torch.autograd.gradcheck(value, (hidden.requires_grad_(True),), eps=1e-6, atol=1e-7)


DEFECTS = {
    "arguments of the divergence swapped": lambda kl, q, t: (kl, t, q),
    "gradient without the target": lambda kl, q, t: (kl, q, torch.zeros_like(t)),
    "divergence doubled": lambda kl, q, t: (2 * kl, q, t),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_comparison_with_the_formula_sees_planted_defects(defect, monkeypatch):
    healthy = module._divergence_and_target
    monkeypatch.setattr(module, "_divergence_and_target", lambda *a: DEFECTS[defect](*healthy(*a)))
    with pytest.raises(AssertionError):
        test_value_and_gradient_are_the_formulas(0.7, 3.0, 256)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(LossSettingsError, match="expected alpha in"):
        distillation_loss(*problem()[:3], None, alpha=alpha, temperature=1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(LossSettingsError, match="temperature"):
        distillation_loss(*problem()[:3], None, alpha=0.0, temperature=temperature)


def test_two_vocabularies_are_named_not_padded():
    hidden, weight, labels, teacher = problem()
    with pytest.raises(LossSettingsError, match="9 teacher logits and 11 student"):
        distillation_loss(hidden, weight, labels, FullRows(teacher[:, :9]), alpha=0.5, temperature=1.0)


def test_bfloat16_hidden_states_keep_the_loss_in_float32():
    hidden, weight, labels, teacher = problem(n=64, v=97, dtype=torch.float32)
    low = hidden.bfloat16().requires_grad_(True)
    got = distillation_loss(low, weight, labels, FullRows(teacher), alpha=0.5, temperature=2.0, chunk=16)
    assert got.total.dtype == torch.float32
    want = distillation_loss(
        low.detach().float(), weight.bfloat16().float(), labels, FullRows(teacher), alpha=0.5, temperature=2.0
    )
    torch.testing.assert_close(got.total, want.total, rtol=2e-2, atol=2e-2)
