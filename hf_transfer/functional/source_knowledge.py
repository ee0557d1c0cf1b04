"""Keeping what a source model knows: distances of feature maps, of predictions, and to translated labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


__all__ = ["attention_of_increases", "channel_distances", "masked_mean", "soft_cross_entropy", "wide"]


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def channel_distances(maps: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""
    Squared distance of feature maps by channel: $\frac{1}{B} \sum_i \frac{1}{P_i} \sum_p (m_{ipc} - r_{ipc})^2$.

    Args:
        maps (`Tensor`): `(B, D, H, W)`, `(B, T, D)` or `(B, D)`; receives the gradient.
        reference (`Tensor`): the same shape.
        mask (`Tensor`, *optional*): `(B, T)`, 1 where a token counts; ignored where the maps have no such positions.

    Shape:
        - returns `(D,)`, at least float32.

    Example:
        >>> channel_distances(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), torch.tensor([[1, 0]]))
        tensor([1., 1., 1.])
    """
    differences = wide(maps) - wide(reference)
    if differences.dim() == 4:
        return differences.square().mean((0, 2, 3))
    if mask is not None and differences.dim() == 3 and mask.shape == differences.shape[:2]:
        counted = mask != 0
        rows = torch.where(counted.unsqueeze(-1), differences, 0.0).square().sum(1)
        return (rows / counted.sum(1, keepdim=True).clamp(min=1)).mean(0)
    return differences.square().flatten(0, -2).mean(0)


def attention_of_increases(increases: Tensor, temperature: float = 5.0) -> Tensor:
    r"""
    Attention to channels from what the loss rises by when each is zero: $C \operatorname{softmax}(z / \tau)$.

    The rises are standardised to $z$, for they differ by orders of magnitude between models, and the weights average
    to 1. Equal rises give equal weights.

    Args:
        increases (`Tensor`): `(C,)`, in nats.
        temperature (`float`, *optional*, defaults to 5.0): $\tau$, dimensionless.

    Example:
        >>> attention_of_increases(torch.tensor([0.0, 0.0]))
        tensor([1., 1.])
    """
    centred = increases - increases.mean()
    deviation = increases.std(correction=0)
    scores = torch.where(deviation > 0, centred / deviation.clamp(min=torch.finfo(centred.dtype).tiny), 0.0)
    return len(increases) * torch.softmax(scores / temperature, 0)


def soft_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""
    $-\sum_c q_c \log \operatorname{softmax}(l)_c$, mean over rows.

    Args:
        logits (`Tensor`): `(..., C)`.
        targets (`Tensor`): `(..., C)`, distributions over the classes.
        mask (`Tensor`, *optional*): `(...)`, nonzero for the rows that count; without any the result is an exact zero
            with a graph.

    Example:
        >>> round(soft_cross_entropy(torch.zeros(1, 4), torch.full((1, 4), 0.25)).item(), 4)  # log 4
        1.3863
    """
    return masked_mean(-(targets * F.log_softmax(wide(logits), -1)).sum(-1), mask)


def masked_mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    """
    Mean of one value a row over the rows that count; without any an exact zero with a graph.

    Args:
        rows (`Tensor`): `(...)`.
        mask (`Tensor`, *optional*): `(...)`, nonzero for the rows that count; all if left out.

    Example:
        >>> masked_mean(torch.tensor([1.0, 5.0]), torch.tensor([True, False]))
        tensor(1.)
    """
    if mask is None:
        return rows.mean()
    counted = mask != 0
    return torch.where(counted, rows, 0.0).sum() / counted.sum().clamp(min=1)
