"""Mathematics of the singular values of a batch of features or predictions."""

from __future__ import annotations

import torch
from torch import Tensor


__all__ = [
    "batch_nuclear_norm",
    "largest_squared_singular_values",
    "nuclear_norm",
    "smallest_squared_singular_values",
]


def smallest_squared_singular_values(features: Tensor, k: int = 1) -> Tensor:
    r"""
    $\sum_{i=1}^{k} \sigma_{-i}^2$, the sum of the `k` smallest squared singular values of `features`. The largest of
    the $\min(B, D)$ is never among them: with one row, or one column, there is nothing smaller and the sum is zero.

    From the singular values themselves, not from the eigenvalues of the Gram matrix: those lose half of the digits
    and turn negative for features without full rank. The gradient $2 \sigma_i u_i v_i^\top$ has no differences of
    singular values in it, so it is finite where several are equal or zero.

    Args:
        features (`Tensor`): `(B, D)`, float32 or float64.
        k (`int`, *optional*, defaults to 1): how many are added up.

    Shape:
        - returns: scalar, in squared units of the features.

    Example:
        >>> smallest_squared_singular_values(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])).item()
        0.25
        >>> smallest_squared_singular_values(torch.ones(1, 3)).item()
        0.0
    """
    count = min(k, min(features.shape) - 1)
    if count < 1:
        return (0 * features).sum()
    return _singular_values(features)[-count:].square().sum() + _no_number(features)


def largest_squared_singular_values(features: Tensor, k: int = 1) -> Tensor:
    r"""
    $\sum_{i=1}^{k} \sigma_i^2$, the sum of the `k` largest squared singular values of `features`, or of all there are.

    A row of zeros changes none of them: rows are left out by setting them to zero. The gradient
    $2 \sigma_i u_i v_i^\top$ is finite where singular values are equal or zero.

    Args:
        features (`Tensor`): `(..., B, D)`, float32 or float64.
        k (`int`, *optional*, defaults to 1): how many are added up.

    Shape:
        - returns: `(...)`, in squared units of the features.

    Example:
        >>> largest_squared_singular_values(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])).item()
        9.0
    """
    return _singular_values(features)[..., :k].square().sum(-1) + _no_number(features)


def nuclear_norm(matrix: Tensor) -> Tensor:
    r"""
    $\lVert A \rVert_* = \sum_i \sigma_i$, the sum of the singular values.

    Its gradient is $U V^\top$ over the singular values above rounding error. Where one is zero the norm has a kink,
    and a decomposition returns a direction made of rounding errors with the full length of 1; it is left out here,
    which is the shortest of the subgradients.

    Args:
        matrix (`Tensor`): `(..., B, C)`, float32 or float64.

    Shape:
        - returns: `(...)`.

    Example:
        >>> nuclear_norm(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).item()
        7.0
    """
    values = _singular_values(matrix)
    noise = max(matrix.shape[-2:]) * torch.finfo(values.dtype).eps * values[..., :1].detach()
    return torch.where(values > noise, values, 0.0).sum(-1) + _no_number(matrix)


def batch_nuclear_norm(logits: Tensor, counted: Tensor | None = None) -> Tensor:
    r"""
    $-\frac{1}{n} \lVert P \rVert_*$ of the predictions $P = \operatorname{softmax}(Z)$ of the $n$ rows that count, of
    which the others are zero. Between $-\sqrt{\min(n, C) / n}$, where rows are certain and classes equally frequent,
    and $-1 / \sqrt{n C}$, where no row prefers a class.

    Args:
        logits (`Tensor`): `(N, C)`.
        counted (`Tensor`, *optional*): `(N,)` bool; every row by default.

    Shape:
        - returns: scalar, dimensionless; an exact zero with a graph where no row counts.

    Example:
        >>> batch_nuclear_norm(1e4 * torch.eye(3)).item()
        -1.0
        >>> round(batch_nuclear_norm(torch.zeros(2, 2)).item(), 4)
        -0.5
    """
    if counted is None:
        counted = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    rows = counted.unsqueeze(-1)
    probabilities = torch.where(rows, logits, 0.0).softmax(-1) * rows
    return -nuclear_norm(probabilities) / counted.sum().clamp(min=1)


def _singular_values(features: Tensor) -> Tensor:
    # The decomposition of what is not finite is an error on some devices; after an overflow in half precision the loss
    # is to be no number instead, so that the step is left out.
    return torch.linalg.svdvals(torch.where(features.isfinite(), features, 0.0))


def _no_number(features: Tensor) -> Tensor:
    """Zero with a graph, or no number where some feature is not finite."""
    return (0 * features).sum((-2, -1))
