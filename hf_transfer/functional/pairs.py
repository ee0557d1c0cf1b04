"""Mathematics of pairs of rows: how alike two rows are, and how alike they should be."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_transfer.functional.contrastive import unit
from hf_transfer.functional.task_loss import UNLABELLED


__all__ = ["pair_similarity"]


def pair_similarity(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""
    Mean squared difference of the cosine similarity of rows $2i$ and $2i + 1$ from 1 where they are of one class, from
    0 where they are not; and the mean cosine of the pairs of either kind.

    Args:
        features (`Tensor`): `(B, D)`.
        labels (`Tensor`): `(B,)` integer; pairs with a row of -100 do not count, nor does a last row without partner.

    Shape:
        - returns three scalars: the loss, the mean cosine of pairs of one class, and of different classes; 0 where
          there is no such pair.

    Example:
        >>> loss, same, different = pair_similarity(torch.eye(2).repeat(2, 1), torch.tensor([0, 0, 0, 1]))
        >>> loss.item(), same.item(), different.item()  # at right angles: right for one of the two pairs
        (0.5, 0.0, 0.0)
    """
    pairs = len(features) // 2
    first, second = features[: 2 * pairs : 2], features[1 : 2 * pairs : 2]
    one, other = labels[: 2 * pairs : 2], labels[1 : 2 * pairs : 2]
    cosines = (unit(first) * unit(second)).sum(-1)
    counted = (one != UNLABELLED) & (other != UNLABELLED)
    alike = one == other
    errors = (cosines - alike.to(cosines.dtype)).square()
    loss = torch.where(counted, errors, 0 * errors).sum() / counted.sum().clamp(min=1)
    means = [
        torch.where(kind, cosines, 0 * cosines).sum() / kind.sum().clamp(min=1)
        for kind in (counted & alike, counted & ~alike)
    ]
    return loss, means[0], means[1]
