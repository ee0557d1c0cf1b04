"""How far a student's predictions are from a teacher's: divergences of softened distributions, and of raw logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_transfer.functional.source_knowledge import masked_mean, wide


__all__ = ["distillation", "jensen_shannon", "kl_divergence", "log_distribution", "logit_error", "standardized"]


def log_distribution(logits: Tensor, temperature: float = 1.0, *, multi_label: bool = False) -> Tensor:
    """
    Logarithms of the softened probabilities, at least float32.

    Args:
        logits (`Tensor`): `(..., C)`.
        temperature (`float`, *optional*, defaults to 1.0): what the logits are divided by, dimensionless.
        multi_label (`bool`, *optional*, defaults to `False`): whether each class is a yes or no of its own.

    Shape:
        - returns `(..., C)`, or `(..., C, 2)` of yes and no for several labels.

    Example:
        >>> log_distribution(torch.tensor([0.0]), multi_label=True).exp()
        tensor([[0.5000, 0.5000]])
    """
    scaled = wide(logits) / temperature
    if multi_label:
        return torch.stack([F.logsigmoid(scaled), F.logsigmoid(-scaled)], -1)
    return F.log_softmax(scaled, -1)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""
    $\operatorname{KL}(p \Vert q) = \sum_c p_c (\log p_c - \log q_c)$ over the last dimension, in nats.

    Args:
        log_p (`Tensor`): `(..., C)`, finite.
        log_q (`Tensor`): the same shape, finite.

    Example:
        >>> round(kl_divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()).item(), 4)
        0.1438
    """
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def jensen_shannon(log_teacher: Tensor, log_student: Tensor, beta: float = 0.5) -> Tensor:
    r"""
    Generalised Jensen-Shannon divergence over the last dimension, in nats.

    $$ \beta \operatorname{KL}(t \Vert m) + (1 - \beta) \operatorname{KL}(s \Vert m), \qquad
    m = \beta t + (1 - \beta) s $$

    It tends to zero with $\beta$, and divided by $\beta$ to $\operatorname{KL}(t \Vert s)$; likewise at the other end.
    So 0 stands for this forward divergence itself and 1 for the reverse one, $\operatorname{KL}(s \Vert t)$.

    Args:
        log_teacher (`Tensor`): `(..., C)`, finite.
        log_student (`Tensor`): the same shape, finite.
        beta (`float`, *optional*, defaults to 0.5): $\beta$ in [0, 1], dimensionless.

    Example:
        >>> apart = torch.tensor([[0.0, -100.0], [-100.0, 0.0]])
        >>> round(jensen_shannon(apart[0], apart[1]).item(), 4)  # log 2: nothing in common
        0.6931
    """
    if beta == 0:
        return kl_divergence(log_teacher, log_student)
    if beta == 1:
        return kl_divergence(log_student, log_teacher)
    log_mixture = torch.logaddexp(log_teacher + math.log(beta), log_student + math.log1p(-beta))
    return beta * kl_divergence(log_teacher, log_mixture) + (1 - beta) * kl_divergence(log_student, log_mixture)


def distillation(
    logits: Tensor,
    reference: Tensor,
    *,
    temperature: float = 1.0,
    beta: float | None = None,
    mask: Tensor | None = None,
    multi_label: bool = False,
) -> Tensor:
    r"""
    $T^2 \operatorname{KL}(p_{ref}^{(T)} \Vert p^{(T)})$, mean over rows, with both logits divided by $T$.

    The gradient with respect to the logits of one of $B$ rows is $T (p^{(T)} - p_{ref}^{(T)}) / B$. It keeps its
    magnitude when $T$ grows, because the difference of the probabilities falls with $1 / T$.

    Args:
        logits (`Tensor`): `(..., C)`; receives the gradient.
        reference (`Tensor`): the same shape; constant.
        temperature (`float`, *optional*, defaults to 1.0): $T$, dimensionless.
        beta (`float`, *optional*): the divergence is [`jensen_shannon`] with this $\beta$ instead.
        mask (`Tensor`, *optional*): `(...)`, nonzero for the rows that count; without any the result is an exact zero
            with a graph.
        multi_label (`bool`, *optional*, defaults to `False`): whether each class is a yes or no of its own; the
            divergence of a row is then the sum over classes.

    Example:
        >>> distillation(torch.zeros(1, 2), torch.zeros(1, 2), temperature=2.0)
        tensor(0.)
    """
    log_student = log_distribution(logits, temperature, multi_label=multi_label)
    log_teacher = log_distribution(reference.detach(), temperature, multi_label=multi_label)
    if beta is None:
        rows = kl_divergence(log_teacher, log_student)
    else:
        rows = jensen_shannon(log_teacher, log_student, beta)
    return temperature**2 * masked_mean(rows.sum(-1) if multi_label else rows, mask)


def logit_error(logits: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""
    $\frac{1}{B C} \sum_i \sum_c (z_{ic} - r_{ic})^2$: mean squared difference of logits over classes and rows.

    Args:
        logits (`Tensor`): `(..., C)`; receives the gradient.
        reference (`Tensor`): the same shape; constant.
        mask (`Tensor`, *optional*): `(...)`, nonzero for the rows that count; without any the result is an exact zero
            with a graph.

    Example:
        >>> logit_error(torch.tensor([[1.0, 0.0], [9.0, 9.0]]), torch.zeros(2, 2), torch.tensor([1, 0]))
        tensor(0.5000)
    """
    return masked_mean((wide(logits) - wide(reference.detach())).square().mean(-1), mask)


def standardized(logits: Tensor, epsilon: float = 1e-7) -> Tensor:
    r"""
    Each row with mean 0 and standard deviation 1: $(z - \bar z) / (\sigma + \epsilon)$, with
    $\sigma^2 = \frac{1}{C} \sum_c (z_c - \bar z)^2$.

    A row whose spread is no more than the rounding of its largest entry is constant: it becomes zero and sends no
    gradient.

    Args:
        logits (`Tensor`): `(..., C)`.
        epsilon (`float`, *optional*, defaults to 1e-7): $\epsilon$, in the unit of the logits.

    Example:
        >>> standardized(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
        tensor([[-1.2247,  0.0000,  1.2247],
                [ 0.0000,  0.0000,  0.0000]])
    """
    logits = wide(logits)
    centred = logits - logits.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    rounding = 8 * torch.finfo(logits.dtype).eps * logits.detach().abs().amax(-1, keepdim=True)
    varies = variance.detach() > rounding.square()
    # The root is taken of 1 where it is not used: its slope at zero is infinite.
    return torch.where(varies, centred / (torch.where(varies, variance, 1.0).sqrt() + epsilon), 0.0)
