"""Squared distances between rows, and Gaussian kernels on them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


__all__ = ["gaussian_kernels", "mean_distance", "squared_distances"]


def squared_distances(features: Tensor) -> Tensor:
    r"""
    $d_{ij} = \lVert x_i - x_j \rVert_2^2$ between all rows, by one matrix product.

    The product loses digits where the rows are far from the origin and near to each other, so the origin is moved
    among them first: to the first row, then to the mean. Rows that are all equal are at a distance of exactly zero.
    What remains is an error of about `1e-7` of the squared distance to the mean, in float32.

    Args:
        features (`Tensor`): `(N, D)`, float32 or float64; half precision is computed in float32.

    Shape:
        - returns: `(N, N)`, symmetric, not negative, zeros on the diagonal.

    Example:
        >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[ 0., 25.],
                [25.,  0.]])
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    # The distances do not depend on the shift, so neither do their derivatives. In two steps: the mean of equal
    # numbers is not always that number, the difference of equal numbers is zero.
    shifted = features - features[:1].detach()
    return cast(Tensor, _SquaredDistances.apply(shifted - shifted.detach().mean(0)))


class _SquaredDistances(torch.autograd.Function):
    """By hand: autograd takes two matrix products backward, the symmetry of the distances needs one."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        norms = rows.square().sum(1)
        distances = torch.addmm(norms.unsqueeze(1) + norms, rows, rows.T, alpha=-2)
        return distances.clamp_(min=0).fill_diagonal_(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        both = gradients[0] + gradients[0].T
        return 2 * (both.sum(1, keepdim=True) * rows - both @ rows)


def mean_distance(distances: Tensor, counted: Tensor, features: Tensor) -> Tensor:
    r"""
    The mean of the distances between different rows that count: the usual bandwidth of a kernel, without a gradient.

    Differences that are only rounding of `features` are not blown up: the mean is at least what rounding makes of
    rows of this length.

    Args:
        distances (`Tensor`): `(N, N)`, from [`squared_distances`].
        counted (`Tensor`): `(N,)`, 1 for rows that count and 0 for others.
        features (`Tensor`): `(N, D)`, of which the distances are.

    Shape:
        - returns: scalar, positive, in squared units of the features.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [70.0]])
        >>> mean_distance(squared_distances(x), torch.tensor([1.0, 1.0, 1.0, 0.0]), x).item()  # (1 + 1 + 4) / 3
        2.0
    """
    with torch.no_grad():
        counted = counted.to(distances.dtype)
        number = counted.sum()
        # a sum of products with 0 and 1: the rows of others are not read by a mask, so shapes are fixed
        total = counted @ distances @ counted
        length = (features.to(distances.dtype).square().sum(1) * counted).sum() / number.clamp(min=1)
        least = (4 * torch.finfo(distances.dtype).eps) ** 2 * length
        return torch.maximum(total / (number * (number - 1)).clamp(min=1), least).clamp(min=1e-30)


def gaussian_kernels(
    distances: Tensor, bandwidth: Tensor | float, num_kernels: int = 5, factor: float = 2.0
) -> Tensor:
    r"""
    The mean of several Gaussian kernels, $\frac{1}{U} \sum_u \exp(-d_{ij} / \gamma_u)$ with
    $\gamma_u = m f^{u - \lfloor U / 2 \rfloor}$ for $u = 0, \dots, U - 1$.

    Five kernels with a factor of 2 are those with $\gamma$ from $m / 4$ to $4 m$. Written with $2 \sigma^2$ in place
    of $\gamma$, their $\sigma^2$ runs from $m / 8$ to $2 m$.

    Args:
        distances (`Tensor`): `(N, N)`, squared.
        bandwidth (`Tensor` or `float`): $m$, in the unit of the distances.
        num_kernels (`int`, *optional*, defaults to 5): $U$.
        factor (`float`, *optional*, defaults to 2.0): $f$, dimensionless.

    Shape:
        - returns: `(N, N)`, in (0, 1]; 1 where the distance is 0.

    Example:
        >>> gaussian_kernels(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 1.0, num_kernels=1)
        tensor([[1.0000, 0.3679],
                [0.3679, 1.0000]])
    """
    scaled = distances / -bandwidth
    kernels = [torch.exp(scaled * factor ** (num_kernels // 2 - u)) for u in range(num_kernels)]
    return sum(kernels[1:], kernels[0]) / num_kernels
