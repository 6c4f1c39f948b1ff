"""Hidden states, head weights and a teacher's rows -> the distillation loss and its gradients, chunk by chunk.

    total = alpha T^2 KL(teacher_T || student_T) + (1 - alpha) CE(student, label)

per token in float32, summed over the valid tokens and divided by `denominator`, the count of valid tokens of the whole
optimiser step, so that the result does not depend on how the step is split into micro-batches. T^2 keeps the size of
the gradient independent of T (Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.1).

The gradient is formed inside the forward (as Liger's fused linear losses do), so only one chunk of logits is ever
alive. Legend: N tokens, C tokens of a chunk, H hidden, V vocabulary, K kept logits of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORE = -100  # label of a position that has no target; its gradient is exactly zero


@dataclass(frozen=True, slots=True)
class FullRows:
    """A teacher's logits, all of them. A constant per row does not matter: they are stored shifted by their maximum."""

    logits: Tensor  # (N, V), float16 or float32

    def __len__(self) -> int:
        return self.logits.shape[0]

    def narrow(self, start: int, length: int) -> FullRows:
        return FullRows(self.logits.narrow(0, start, length))

    def pick(self, rows: Tensor) -> FullRows:
        return FullRows(self.logits[rows])


@dataclass(frozen=True, slots=True)
class TopRows:
    """The teacher's K largest logits and what it takes to know their true probabilities at the training temperature.

    With the rest of the mass in one tail bucket the loss is a divergence over K + 1 classes: zero when equal, and a
    lower bound of the full one. Renormalising the top instead would be biased toward it.
    """

    indices: Tensor  # (N, K), int64
    logits: Tensor  # (N, K), shifted by a constant per row
    lse: Tensor  # (N,), float32: log sum exp(z / T) over the whole row, same shift

    def __len__(self) -> int:
        return self.indices.shape[0]

    def narrow(self, start: int, length: int) -> TopRows:
        return TopRows(*(part.narrow(0, start, length) for part in (self.indices, self.logits, self.lse)))

    def pick(self, rows: Tensor) -> TopRows:
        return TopRows(self.indices[rows], self.logits[rows], self.lse[rows])


TeacherRows = FullRows | TopRows


@dataclass(frozen=True, slots=True)
class Losses:
    """Means over the step's valid tokens. `total` carries the graph; `kl` has its T^2: total = a kl + (1 - a) ce."""

    total: Tensor
    kl: Tensor
    ce: Tensor


class LossSettingsError(ValueError):
    """alpha outside [0, 1], a temperature that is not positive, or sizes that do not fit."""


def check_settings(alpha: float, temperature: float) -> None:
    """Raises LossSettingsError; NaN fails both."""
    if not 0.0 <= alpha <= 1.0:
        raise LossSettingsError(f"expected alpha in [0, 1], got alpha={alpha}")
    if not 0.0 < temperature < float("inf"):
        raise LossSettingsError(f"expected a finite temperature above 0, got temperature={temperature}")


def distillation_loss(
    hidden: Tensor,  # (N, H), float32 or bfloat16
    weight: Tensor,  # (V, H), the student's head
    labels: Tensor,  # (N,), int64; IGNORE where there is no target
    teacher: TeacherRows | None,  # row i belongs to input position i; None only with alpha = 0
    *,
    alpha: float,
    temperature: float,
    denominator: int | None = None,  # valid tokens of the whole optimiser step; None: of this call
    chunk: int = 256,
) -> Losses:
    """The mean loss over valid tokens, with gradients for `hidden` and `weight`.

    alpha = 1 leaves the cross-entropy out and alpha = 0 the divergence: a branch, not a product with zero, since
    0 times infinity is not zero. Raises LossSettingsError.
    """
    check_settings(alpha, temperature)
    _check_sizes(hidden, weight, labels, teacher, alpha)
    valid = (labels != IGNORE).nonzero().squeeze(-1)
    denominator = max(1, valid.numel() if denominator is None else denominator)
    if valid.numel() != labels.numel():
        hidden, labels = hidden[valid], labels[valid]
        teacher = teacher.pick(valid) if teacher is not None else None
    total, kl, ce = _ChunkedHead.apply(  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
        hidden, weight, labels, teacher, alpha, temperature, denominator, chunk
    )
    return Losses(total, kl, ce)


def divergence(teacher: TeacherRows, student_logits: Tensor, temperature: float) -> Tensor:
    """KL(teacher_T || student_T) for each row in float32 (float64 stays), without T^2. Shape (N,)."""
    z = _upcast(student_logits) / temperature
    return _divergence_and_target(teacher, z, temperature)[0]


def _check_sizes(hidden: Tensor, weight: Tensor, labels: Tensor, teacher: TeacherRows | None, alpha: float) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise LossSettingsError(f"expected hidden (N, H) and weight (V, H), got {_shape(hidden)} and {_shape(weight)}")
    if labels.shape != hidden.shape[:1]:
        raise LossSettingsError(f"expected {hidden.shape[0]} labels, one for each row, got {_shape(labels)}")
    if alpha == 0.0:
        return
    if teacher is None:
        raise LossSettingsError(f"expected a teacher's rows with alpha={alpha}, got none")
    if len(teacher) != len(labels):
        raise LossSettingsError(f"expected {len(labels)} teacher rows, got {len(teacher)}")
    if isinstance(teacher, FullRows) and teacher.logits.shape[1] != weight.shape[0]:
        # Never padded: a zero logit is a real probability.
        raise LossSettingsError(
            f"expected one vocabulary, got {teacher.logits.shape[1]} teacher logits"
            f" and {weight.shape[0]} student logits"
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _upcast(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _divergence_and_target(teacher: TeacherRows, z: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """(KL per row, student's softmax q, target t) for z = student logits / T; dKL/dz = q - t for both kinds of rows."""
    log_q = torch.log_softmax(z, -1)  # (C, V)
    if isinstance(teacher, FullRows):
        log_p = torch.log_softmax(teacher.logits.to(z.dtype, copy=True).div_(temperature), -1)  # (C, V)
        p = log_p.exp()
        return torch.linalg.vecdot(p, log_p.sub_(log_q)), log_q.exp_(), p  # in place: three (C, V) alive, not six
    log_p = teacher.logits.to(z.dtype) / temperature - teacher.lse.to(z.dtype)[:, None]  # (C, K)
    p = log_p.exp()
    kept = log_q.gather(-1, teacher.indices)  # (C, K)
    # log1p of minus the kept mass would lose all digits of a small tail; the student's tail is summed instead.
    log_q_tail = log_q.scatter(-1, teacher.indices, -torch.inf).logsumexp(-1)  # (C,)
    p_tail = (1.0 - p.sum(-1)).clamp_min(0.0)  # (C,), float16 storage can push the sum past 1 by rounding
    kl_tail = torch.where(p_tail > 0, p_tail * (p_tail.clamp_min(1e-38).log() - log_q_tail), 0.0)
    kl = (p * (log_p - kept)).sum(-1) + kl_tail
    q = log_q.exp_()  # (C, V)
    target = (
        q * torch.where(p_tail > 0, p_tail * torch.exp(-log_q_tail), 0.0)[:, None]
    )  # tail classes: p_tail q / q_tail
    return kl, q, target.scatter_(-1, teacher.indices, p)


class _ChunkedHead(torch.autograd.Function):
    """logits = hidden weight^T, both losses, and both gradients, C tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        teacher: TeacherRows | None,
        alpha: float,
        temperature: float,
        denominator: int,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        head = weight.to(hidden.dtype)  # (V, H); under autocast the product runs in the hidden state's type
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if wants_weight else None
        kl_sum = torch.zeros((), dtype=wide, device=hidden.device)
        ce_sum = torch.zeros((), dtype=wide, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            length = min(chunk, hidden.shape[0] - start)
            h = hidden.narrow(0, start, length)  # (C, H)
            rows = teacher.narrow(start, length) if teacher is not None and alpha > 0 else None
            logits = (h @ head.t()).to(wide)  # (C, V)
            kl, ce, grad = _chunk_terms(logits, labels.narrow(0, start, length), rows, alpha, temperature)
            kl_sum += kl
            ce_sum += ce
            if not (wants_hidden or wants_weight):
                continue
            small = grad.div_(denominator).to(hidden.dtype)  # (C, V)
            if grad_hidden is not None:
                torch.mm(small, head, out=grad_hidden.narrow(0, start, length))
            if grad_weight is not None:
                if hidden.dtype == wide:
                    grad_weight.addmm_(small.t(), h)
                else:
                    grad_weight += small.t() @ h
        kl_mean, ce_mean = kl_sum / denominator, ce_sum / denominator
        total = _mix(kl_mean, ce_mean, alpha)
        ctx.save_for_backward(*(grad for grad in (grad_hidden, grad_weight) if grad is not None))
        ctx.wants = (wants_hidden, wants_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(kl_mean, ce_mean)
        return total, kl_mean, ce_mean

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        saved = list(ctx.saved_tensors)
        grad_hidden = saved.pop(0) * grad_total if ctx.wants[0] else None
        grad_weight = (saved.pop(0) * grad_total).to(ctx.weight_dtype) if ctx.wants[1] else None
        return grad_hidden, grad_weight, None, None, None, None, None, None


def _mix(kl: Tensor, ce: Tensor, alpha: float) -> Tensor:
    """alpha kl + (1 - alpha) ce; at the ends exactly one of them, bit for bit."""
    if alpha == 0.0:
        return ce.clone()
    if alpha == 1.0:
        return kl.clone()
    return alpha * kl + (1.0 - alpha) * ce


def _chunk_terms(
    logits: Tensor,  # (C, V), float32; overwritten
    labels: Tensor,  # (C,)
    rows: TeacherRows | None,
    alpha: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the chunk of T^2 KL and of CE, and the gradient of the mixed loss by the logits, (C, V)."""
    log_q = torch.log_softmax(logits, -1)
    ce = -log_q.gather(-1, labels[:, None]).sum()
    kl = torch.zeros_like(ce)
    if rows is None:
        grad = log_q.exp_()
        grad.scatter_add_(-1, labels[:, None], torch.full_like(labels, -1, dtype=grad.dtype)[:, None])
        return kl, ce, grad
    soft = log_q.exp_() if alpha < 1.0 else None
    del log_q
    per_row, q, target = _divergence_and_target(rows, logits.div_(temperature), temperature)
    kl = per_row.sum() * temperature**2
    grad = q.sub_(target).mul_(alpha * temperature)  # d(T^2 KL)/dlogits = T (q - t)
    if soft is not None:
        soft.scatter_add_(-1, labels[:, None], torch.full_like(labels, -1, dtype=soft.dtype)[:, None])
        grad.add_(soft, alpha=1.0 - alpha)
    return kl, ce, grad
