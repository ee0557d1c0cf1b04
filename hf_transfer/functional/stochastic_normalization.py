"""Stochastic normalisation: each channel by the statistics of the batch or by the moving ones."""

from __future__ import annotations

import torch
from torch import Tensor


__all__ = ["select_by_channel", "stochastic_normalization"]


def select_by_channel(chosen: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """
    The channels of `first` where `chosen`, else those of `second`.

    Args:
        chosen (`Tensor`): `(C,)` boolean.
        first, second (`Tensor`): `(B, C)` or `(B, C, ...)`.

    Example:
        >>> select_by_channel(torch.tensor([True, False]), torch.zeros(1, 2), torch.ones(1, 2))
        tensor([[0., 1.]])
    """
    return torch.where(chosen.view(-1, *(1,) * (first.dim() - 2)), first, second)


def stochastic_normalization(
    values: Tensor, mean: Tensor, variance: Tensor, by_moving: Tensor, *, eps: float = 1e-5
) -> Tensor:
    r"""
    Values normalised per channel, by the moving statistics where chosen and else by those of the batch.

    With moving statistics $\tilde\mu, \tilde\sigma^2$, those of the batch $\mu, \sigma^2$ (biased variance) and
    $s_c \in \{0, 1\}$ per channel

    $$ \hat x = s \frac{x - \tilde\mu}{\sqrt{\tilde\sigma^2 + \epsilon}}
       + (1 - s) \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} $$

    Args:
        values (`Tensor`): `(B, C)` or `(B, C, ...)`; receives the gradient, also through the batch's statistics.
        mean (`Tensor`): `(C,)`, $\tilde\mu$ before this batch.
        variance (`Tensor`): `(C,)`, $\tilde\sigma^2$ before this batch.
        by_moving (`Tensor`): `(C,)` boolean, $s$.
        eps (`float`, *optional*, defaults to 1e-5): $\epsilon$, added to the variance.

    Example:
        >>> values = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
        >>> moving = torch.tensor([1.0, 1.0]), torch.tensor([4.0, 4.0])
        >>> stochastic_normalization(values, *moving, torch.tensor([True, False]), eps=1e-9)
        tensor([[ 0., -1.],
                [ 1.,  1.]])

    Paper: Kou et al., "Stochastic Normalization", NeurIPS 2020, https://papers.nips.cc/paper/2020/hash/bc573864331a9e42e4511de6f678aa83-Abstract.html
    """
    by_batch = torch.nn.functional.batch_norm(values, None, None, training=True, eps=eps)
    by_running = torch.nn.functional.batch_norm(values, mean, variance, training=False, eps=eps)
    return select_by_channel(by_moving, by_running, by_batch)
