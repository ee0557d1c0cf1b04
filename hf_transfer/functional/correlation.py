"""Correlation of predictions, by example and by class (DIST): what a student must get right up to shift and scale."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_transfer.functional.source_knowledge import masked_mean, wide


__all__ = ["inter_class", "intra_class"]


def inter_class(predictions: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""
    $\frac{1}{B} \sum_i (1 - \rho(p_{i \cdot}, r_{i \cdot}))$: one minus Pearson's correlation over the classes, mean
    over rows.

    A row that is constant on either side has no correlation. It adds zero, and counts in the mean.

    Args:
        predictions (`Tensor`): `(N, C)`; receives the gradient.
        reference (`Tensor`): the same shape; constant.
        mask (`Tensor`, *optional*): `(N,)`, nonzero for the rows that count; without any the result is an exact zero
            with a graph.

    Example:
        >>> round(inter_class(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[6.0, 4.0, 2.0]])).item(), 4)
        2.0
    """
    everywhere = torch.ones_like(predictions, dtype=torch.bool)
    return masked_mean(_distances(predictions, reference, everywhere, 1), mask)


def intra_class(predictions: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""
    $\frac{1}{C} \sum_c (1 - \rho(p_{\cdot c}, r_{\cdot c}))$: one minus Pearson's correlation over the rows that
    count, mean over classes.

    A class that is constant on either side adds zero, and so does every class where one row counts or none.

    Args:
        predictions (`Tensor`): `(N, C)`; receives the gradient.
        reference (`Tensor`): the same shape; constant.
        mask (`Tensor`, *optional*): `(N,)`, nonzero for the rows that count.

    Example:
        >>> intra_class(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]])).item()
        0.0
    """
    if mask is None:
        mask = torch.ones_like(predictions[:, 0])
    return _distances(predictions, reference, (mask != 0).unsqueeze(1), 0).mean()


def _distances(first: Tensor, second: Tensor, counted: Tensor, dim: int) -> Tensor:
    """One minus Pearson's correlation along a dimension; zero where either side is constant."""
    (first, first_varies), (second, second_varies) = (_unit(x, counted, dim) for x in (first, second.detach()))
    # Half the squared distance of unit vectors is one minus their product, and exactly zero where they are equal.
    distances = (first - second).square().sum(dim) / 2
    return torch.where(first_varies & second_varies, distances, 0.0)


def _unit(values: Tensor, counted: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Centred vectors of length 1 along a dimension, and which of them vary by more than their rounding."""
    values = torch.where(counted, wide(values), 0.0)
    rounding = torch.finfo(values.dtype).eps
    # Probabilities far below 1 would underflow when squared; correlation does not see the scale.
    values = values / values.detach().abs().amax(dim, keepdim=True).clamp(min=rounding**2)
    count = counted.expand_as(values).sum(dim, keepdim=True).clamp(min=1)
    centred = torch.where(counted, values - values.sum(dim, keepdim=True) / count, 0.0)
    square = centred.square().sum(dim, keepdim=True)
    varies = square.detach() > count * (8 * rounding) ** 2
    # The root is taken of 1 where it is not used: its slope at zero is infinite.
    return torch.where(varies, centred / torch.where(varies, square, 1.0).sqrt(), 0.0), varies.squeeze(dim)
