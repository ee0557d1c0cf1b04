"""The two parts of a distillation with a target class: how sure of it, and how the rest is shared out (DKD)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_transfer.functional.distillation import kl_divergence
from hf_transfer.functional.source_knowledge import masked_mean, wide


__all__ = ["decoupled_distillation", "decoupled_parts"]


def decoupled_parts(
    logits: Tensor, reference: Tensor, target: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""
    Divergence on target or not (TCKD), and among the other classes (NCKD), of each row in nats:

    $$ \operatorname{KL}(p \Vert q) = \text{TCKD} + (1 - p_t) \, \text{NCKD} $$

    for the softened probabilities $p$ of the reference and $q$ of the logits, and the target class $t$. TCKD is the
    divergence of $(p_t, 1 - p_t)$ from $(q_t, 1 - q_t)$; NCKD that of the distributions over the other $C - 1$
    classes.

    Args:
        logits (`Tensor`): `(..., C)` for at least 2 classes; receives the gradient.
        reference (`Tensor`): the same shape; constant.
        target (`Tensor`): `(...)` int64 in `[0, C)`.
        temperature (`float`, *optional*, defaults to 1.0): what the logits are divided by, dimensionless.

    Shape:
        - returns two tensors `(...)`. With 2 classes the second is zero: there is one other class.

    Example:
        >>> reference = torch.tensor([[5.0, 0, 0]])
        >>> tckd, nckd = decoupled_parts(torch.zeros(1, 3), reference, torch.tensor([0]))
        >>> round(tckd.item(), 3), nckd.item()
        (1.019, 0.0)
    """
    student, teacher = wide(logits) / temperature, wide(reference.detach()) / temperature
    student_margin, student_rest = _split(student, target)
    teacher_margin, teacher_rest = _split(teacher, target)
    target_part = kl_divergence(_yes_no(teacher_margin), _yes_no(student_margin))
    return target_part, kl_divergence(F.log_softmax(teacher_rest, -1), F.log_softmax(student_rest, -1))


def decoupled_distillation(
    logits: Tensor,
    reference: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""
    $T^2 (\alpha \, \text{TCKD} + \beta \, \text{NCKD})$ of [`decoupled_parts`], mean over rows.

    Args:
        logits (`Tensor`): `(..., C)` for at least 2 classes; receives the gradient.
        reference (`Tensor`): the same shape; constant.
        target (`Tensor`): `(...)` int64 in `[0, C)`, also in rows that do not count.
        alpha (`float`, *optional*, defaults to 1.0): weight of the target part, dimensionless.
        beta (`float`, *optional*, defaults to 8.0): weight of the other classes, dimensionless.
        temperature (`float`, *optional*, defaults to 4.0): $T$, dimensionless.
        mask (`Tensor`, *optional*): `(...)`, nonzero for the rows that count; without any the result is an exact zero
            with a graph.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
        >>> decoupled_distillation(logits, logits, torch.tensor([2])).item()
        0.0
    """
    target_part, other_part = decoupled_parts(logits, reference, target, temperature)
    return temperature**2 * masked_mean(alpha * target_part + beta * other_part, mask)


def _split(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds of the target class, and the logits of the other classes in their order."""
    others = torch.arange(logits.shape[-1] - 1, device=logits.device)
    others = others + (others >= target.unsqueeze(-1))
    rest = logits.gather(-1, others)
    return logits.gather(-1, target.unsqueeze(-1)).squeeze(-1) - rest.logsumexp(-1), rest


def _yes_no(margin: Tensor) -> Tensor:
    return torch.stack([F.logsigmoid(margin), F.logsigmoid(-margin)], -1)
