"""How far two predictions for the same input are apart, whichever is asked."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


__all__ = ["squared_difference", "symmetric_bernoulli_kl", "symmetric_kl"]


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    r"""
    $\tfrac{1}{2} (KL(p \Vert q) + KL(q \Vert p)) = \tfrac{1}{2} \sum_c (p_c - q_c)(\log p_c - \log q_c)$ of the
    softmax distributions of two sets of logits, in nats per row.

    Args:
        first (`Tensor`): `(..., C)`.
        second (`Tensor`): `(..., C)`.

    Shape:
        - returns: `(...)`.

    Example:
        >>> symmetric_kl(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0])).item()
        0.0
    """
    first, second = F.log_softmax(first, -1), F.log_softmax(second, -1)
    return ((first.exp() - second.exp()) * (first - second)).sum(-1) / 2


def symmetric_bernoulli_kl(first: Tensor, second: Tensor) -> Tensor:
    r"""
    [`symmetric_kl`] for labels that are each either there or not, averaged over the labels: with probabilities
    $p_c = \operatorname{sigmoid}(a_c)$ and $q_c = \operatorname{sigmoid}(b_c)$ it is
    $\tfrac{1}{2C} \sum_c (p_c - q_c)(a_c - b_c)$, in nats per label.

    Args:
        first (`Tensor`): logits $a$, `(..., C)`.
        second (`Tensor`): logits $b$, `(..., C)`.

    Shape:
        - returns: `(...)`.

    Example:
        >>> round(symmetric_bernoulli_kl(torch.tensor([1.0]), torch.tensor([-1.0])).item(), 4)  # tanh(1/2)
        0.4621
    """
    return ((first.sigmoid() - second.sigmoid()) * (first - second)).mean(-1) / 2


def squared_difference(first: Tensor, second: Tensor) -> Tensor:
    """
    The squared difference of two regressions, averaged over the outputs.

    Args:
        first (`Tensor`): `(..., C)`.
        second (`Tensor`): `(..., C)`.

    Shape:
        - returns: `(...)`.

    Example:
        >>> squared_difference(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])).tolist()
        [4.0, 0.0]
    """
    return torch.square(first - second).mean(-1)
