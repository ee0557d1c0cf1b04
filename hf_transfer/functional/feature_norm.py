"""Mathematics of the norms of features."""

from __future__ import annotations

import torch
from torch import Tensor


__all__ = ["hard_feature_norm", "mean_feature_norm", "stepwise_feature_norm"]


def mean_feature_norm(features: Tensor, counted: Tensor) -> Tensor:
    r"""
    $\frac{1}{n} \sum_i \lVert f_i \rVert_2$ over the rows that count; zero where none does.

    Args:
        features (`Tensor`): `(N, D)`.
        counted (`Tensor`): `(N,)` bool.

    Shape:
        - returns: scalar, in units of the features.

    Example:
        >>> mean_feature_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([True, False])).item()
        5.0
    """
    return _norms(features, counted).sum() / counted.sum().clamp(min=1)


def stepwise_feature_norm(features: Tensor, counted: Tensor, *, radius: float = 1.0) -> Tensor:
    r"""
    $\frac{1}{n} \sum_i (\lVert f_i \rVert_2 - \operatorname{sg}(\lVert f_i \rVert_2) - r)^2$ over the rows that count,
    where $\operatorname{sg}$ lets no gradient through: the target of every norm is $r$ above where it is.

    The value is $r^2$ whatever the features; the gradient $-2 r f_i / (n \lVert f_i \rVert)$ is the method. It is zero
    for features of zero, which have no direction.

    Args:
        features (`Tensor`): `(N, D)`.
        counted (`Tensor`): `(N,)` bool.
        radius (`float`, *optional*, defaults to 1.0): $r$, in units of the features.

    Shape:
        - returns: scalar, in squared units of the features; an exact zero with a graph where no row counts.

    Example:
        >>> features = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> stepwise_feature_norm(features, torch.tensor([True])).backward()
        >>> features.grad
        tensor([[-1.2000, -1.6000]])
    """
    norms = _norms(features, counted)
    return ((norms - norms.detach() - radius).square() * counted).sum() / counted.sum().clamp(min=1)


def hard_feature_norm(features: Tensor, sides: Tensor, *, radius: float = 25.0) -> Tensor:
    r"""
    $\sum_s \big( \frac{1}{n_s} \sum_{i \in s} \lVert f_i \rVert_2 - R \big)^2$: the mean norm of every side that has a
    row, against one and the same radius.

    Args:
        features (`Tensor`): `(N, D)`.
        sides (`Tensor`): `(S, N)` bool, which rows are of which side.
        radius (`float`, *optional*, defaults to 25.0): $R$, in units of the features.

    Shape:
        - returns: scalar, in squared units of the features; an exact zero with a graph where no side has a row.

    Example:
        >>> features = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> hard_feature_norm(features, torch.tensor([[True, False], [False, True]]), radius=3.0).item()  # 4 + 4
        8.0
    """
    means = torch.stack([mean_feature_norm(features, side) for side in sides])
    return ((means - radius).square() * sides.any(1)).sum()


def _norms(features: Tensor, counted: Tensor) -> Tensor:
    # Chosen before the norm, so that nothing in the other rows, not even an infinity, reaches the gradient.
    return torch.linalg.vector_norm(torch.where(counted.unsqueeze(-1), features, 0.0), dim=-1)
