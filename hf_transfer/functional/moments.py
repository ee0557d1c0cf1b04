"""Distances of two sets of rows by their moments: covariances (CORAL) and central moments (CMD)."""

from __future__ import annotations

import torch
from torch import Tensor


__all__ = ["central_moment_discrepancy", "coral"]


def coral(features: Tensor, source: Tensor, target: Tensor) -> Tensor:
    r"""
    Correlation alignment: $\frac{1}{4 D^2} \lVert C_s - C_t \rVert_F^2$ of the covariances over $n - 1$.

    The means are not compared. Where there are fewer rows than features the matrices are never formed: with centred
    rows $z_i$ and $s_i = 1 / (n - 1)$ in the source, $-1 / (m - 1)$ in the target, the norm is
    $\sum_{ij} s_i s_j (z_i^\top z_j)^2$.

    Args:
        features (`Tensor`): `(N, D)`, float32 or float64; half precision is computed in float32.
        source (`Tensor`): `(N,)`, 1 for the rows of one set and 0 for others.
        target (`Tensor`): `(N,)`, the same for the other.

    Shape:
        - returns: scalar, in the fourth power of the unit of the features. Finite, but of no meaning, where a set has
          fewer than two rows.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [0.0], [4.0]])  # variances 2 and 8
        >>> coral(x, torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])).item()
        9.0
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    source, target = source.to(features.dtype), target.to(features.dtype)
    rows = _centred(features, source) + _centred(features, target)
    signs = source / (source.sum() - 1).clamp(min=1) - target / (target.sum() - 1).clamp(min=1)
    width = features.shape[1]
    # divided before it is squared: the fourth power of large features leaves the range of float32
    if len(rows) < width:
        products = rows @ rows.T / (2 * width)
        # what cancels may leave a negative rest of a squared norm
        return (signs @ products.square() @ signs).clamp(min=0)
    return ((rows * signs.unsqueeze(1)).T @ rows / (2 * width)).square().sum()


def central_moment_discrepancy(
    features: Tensor, source: Tensor, target: Tensor, *, moments: int = 5, span: float = 1.0
) -> Tensor:
    r"""
    Central moment discrepancy of features in an interval $[a, b]$:

    $$ \frac{1}{b - a} \lVert \bar s - \bar t \rVert_2
       + \sum_{k=2}^{K} \frac{1}{(b - a)^k} \lVert c_k(s) - c_k(t) \rVert_2,
       \qquad c_k(x) = \frac{1}{n} \sum_i (x_i - \bar x)^k $$

    Args:
        features (`Tensor`): `(N, D)`, bounded; half precision is computed in float32.
        source (`Tensor`): `(N,)`, 1 for the rows of one set and 0 for others.
        target (`Tensor`): `(N,)`, the same for the other.
        moments (`int`, *optional*, defaults to 5): $K$, the order of the highest.
        span (`float`, *optional*, defaults to 1.0): $b - a$, in the unit of the features.

    Shape:
        - returns: scalar, dimensionless. A set of one row has no spread to compare: the means alone count. Finite, but
          of no meaning, where a set has no row. Norms of zero have a gradient of zero.

    Example:
        >>> x = torch.tensor([[0.0], [0.5], [1.0]])  # means 0.5, second moments 0 and 0.25
        >>> masks = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])
        >>> central_moment_discrepancy(x, *masks, moments=2).item()  # one row has no second moment
        0.0
    """
    features = _from_first_row(features.to(torch.promote_types(features.dtype, torch.float32))) / span
    masks = torch.stack([source, target]).to(features.dtype)
    shares = masks / masks.sum(1, keepdim=True).clamp(min=1)
    first, second = shares @ features
    total = _norm(first - second)
    spread = (masks.sum(1) > 1).all()
    deviations = _centred(features, masks[0]) + _centred(features, masks[1])
    power = deviations
    for _ in range(2, moments + 1):
        power = power * deviations
        first, second = shares @ power
        total = total + _norm(first - second) * spread
    return total


def _centred(features: Tensor, mask: Tensor) -> Tensor:
    """The rows of the mask without their mean; zeros in the others."""
    shifted = _from_first_row(features)
    mean = mask @ shifted / mask.sum().clamp(min=1)
    return (shifted - mean) * mask.unsqueeze(1)


def _from_first_row(features: Tensor) -> Tensor:
    """Moved so that equal rows are zeros: the mean of equal numbers is not always that number."""
    return features - features[:1].detach()


def _norm(vector: Tensor) -> Tensor:
    """The length of a vector, with a gradient of zero where it is zero."""
    squared = vector.square().sum()
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)
