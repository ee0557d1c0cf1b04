"""Telling the teacher's view of a row from its views of other rows, and the reverse (CRD)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


__all__ = ["contrastive_distillation"]


def contrastive_distillation(
    student: Tensor,
    teacher: Tensor,
    student_keys: Tensor,
    teacher_keys: Tensor,
    candidates: Tensor,
    temperature: float = 0.07,
) -> Tensor:
    r"""
    What both sides pay for telling their counterpart from negatives, mean over rows:

    $$ -\frac{1}{B} \sum_i \left[
    \log \frac{e^{s_i \cdot t_i / \tau}}{e^{s_i \cdot t_i / \tau} + \sum_{j \in N(i)} e^{s_i \cdot \bar t_j / \tau}}
    + \log \frac{e^{s_i \cdot t_i / \tau}}{e^{s_i \cdot t_i / \tau} + \sum_{j \in N(i)} e^{t_i \cdot \bar s_j / \tau}}
    \right] $$

    Args:
        student (`Tensor`): $s$, `(B, E)`, of length 1; receives the gradient.
        teacher (`Tensor`): $t$, `(B, E)`, of length 1; receives the gradient.
        student_keys (`Tensor`): $\bar s$, `(M, E)`, constant.
        teacher_keys (`Tensor`): $\bar t$, `(M, E)`, constant.
        candidates (`Tensor`): `(B, M)` bool, $N$: which keys are negatives of which row.
        temperature (`float`, *optional*, defaults to 0.07): $\tau$, dimensionless.

    Shape:
        - returns: scalar, in nats per row; an exact zero with a graph where no row has a negative.

    Example:
        >>> rows = torch.eye(2)
        >>> others = ~torch.eye(2, dtype=torch.bool)
        >>> loss = contrastive_distillation(rows, rows, rows, rows, others, temperature=1.0)
        >>> round(loss.item(), 4)  # 2 log(1 + 1 / e)
        0.6265
    """
    positive = (student * teacher).sum(-1) / temperature
    losses = 0 * positive
    for rows, keys in ((student, teacher_keys), (teacher, student_keys)):
        similarities = rows @ keys.detach().mT / temperature
        # The lowest finite number, not minus infinity: a row without any negative must not become NaN.
        masked = torch.where(candidates, similarities, torch.finfo(similarities.dtype).min)
        losses = losses + F.softplus(masked.logsumexp(-1) - positive)
    return losses.mean()
