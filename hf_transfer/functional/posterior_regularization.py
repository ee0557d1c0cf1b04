"""Posterior regularisation: the distribution nearest to a model's own that satisfies constraints, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


__all__ = ["expected_violation", "label_states", "log_joint", "log_projection", "projection_divergence", "row_mean"]


def log_projection(log_probabilities: Tensor, violations: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    r"""
    $\log q(y)$ with $q(y) \propto p(y) \, e^{-C v(y)}$.

    Among all distributions, this $q$ has the least $\operatorname{KL}(q \Vert p) + C \, E_q[v]$. In log space: any
    size of logits and of $C$ is fine. At $C = \infty$ only the outcomes that violate least keep mass.

    Args:
        log_probabilities (`Tensor`): `(..., S)`, $\log p$ of `S` outcomes.
        violations (`Tensor`): the same shape, $v(y) \ge 0$: by how much an outcome breaks the rules.
        strength (`float` or `Tensor`, *optional*, defaults to 1.0): $C \ge 0$, dimensionless; may be infinite.

    Shape:
        - returns `(..., S)`, log-probabilities.

    Example:
        >>> log_projection(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.0, 1.0]), float("inf")).exp()
        tensor([1., 0.])
    """
    excess = violations - violations.amin(-1, keepdim=True)
    # an infinite strength times no violation is no violation; the bound keeps sums of it finite
    cost = torch.where(excess > 0, strength * excess, 0.0).clamp(max=torch.finfo(excess.dtype).max / 8)
    return F.log_softmax(log_probabilities - cost, -1)


def projection_divergence(log_probabilities: Tensor, violations: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    r"""
    $\operatorname{KL}(q \Vert p)$ from the projection $q$ of [`log_projection`], a constant, to the model's own $p$.

    The gradient with respect to logits is $p - q$. An exact zero where all outcomes break the rules alike.

    Args:
        log_probabilities (`Tensor`): `(..., S)`, $\log p$; receives the gradient.
        violations (`Tensor`): the same shape; constant.
        strength (`float` or `Tensor`, *optional*, defaults to 1.0): $C$, dimensionless.

    Shape:
        - returns `(...)`, in nats.

    Example:
        >>> p = torch.tensor([0.5, 0.5]).log()
        >>> round(projection_divergence(p, torch.tensor([0.0, 1.0]), float("inf")).item(), 4)  # log 2
        0.6931
    """
    violations = violations.detach()
    log_q = log_projection(log_probabilities.detach(), violations, strength)
    q = log_q.exp()
    divergence = torch.where(q > 0, q * (log_q - log_probabilities), 0.0).sum(-1)
    undecided = violations.amax(-1) == violations.amin(-1)
    return divergence * (~undecided)


def expected_violation(log_probabilities: Tensor, violations: Tensor) -> Tensor:
    r"""
    $E_p[v] = \sum_y p(y) \, v(y)$.

    Args:
        log_probabilities (`Tensor`): `(..., S)`; receives the gradient.
        violations (`Tensor`): the same shape; constant.

    Shape:
        - returns `(...)`, in truth values: 0 where the rules hold for sure.

    Example:
        >>> expected_violation(torch.tensor([0.25, 0.75]).log(), torch.tensor([1.0, 0.0]))
        tensor(0.2500)
    """
    return (log_probabilities.exp() * violations.detach()).sum(-1)


def label_states(count: int, device: torch.device | None = None) -> Tensor:
    """
    Every way in which `count` labels are on or off, `(2**count, count)` int64; label `j` is bit `j` of the row number.

    Example:
        >>> label_states(2).tolist()
        [[0, 0], [1, 0], [0, 1], [1, 1]]
    """
    bits = torch.arange(count, device=device)
    return (torch.arange(2**count, device=device).unsqueeze(-1) >> bits) & 1


def log_joint(logits: Tensor) -> Tensor:
    r"""
    $\log p$ of every state of [`label_states`], for labels that are independent: $\sum_j \log \sigma(\pm z_j)$.

    Args:
        logits (`Tensor`): `(..., k)`, one for each label.

    Shape:
        - returns `(..., 2**k)`.

    Example:
        >>> log_joint(torch.zeros(2)).exp()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    on = label_states(logits.shape[-1], logits.device).to(logits.dtype)
    return F.logsigmoid(logits) @ on.T + F.logsigmoid(-logits) @ (1 - on).T


def row_mean(rows: Tensor, mask: Tensor | None = None) -> Tensor:
    """
    Mean over the rows that count; an exact zero with a graph where none does.

    Args:
        rows (`Tensor`): any shape.
        mask (`Tensor`, *optional*): the same shape, nonzero for the rows that count.

    Example:
        >>> row_mean(torch.tensor([1.0, 9.0]), torch.tensor([1, 0]))
        tensor(1.)
    """
    if mask is None:
        return rows.mean()
    counted = mask != 0
    return torch.where(counted, rows, 0.0).sum() / counted.sum().clamp(min=1)
